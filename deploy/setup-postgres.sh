#!/bin/sh
# Makes Temporal's two databases and brings their schemas up to date. Runs in temporalio/admin-tools.
# May be run again: a database that exists is left, and only versions of the schema that it lacks are applied.
# temporal-sql-tool takes the connection from SQL_PLUGIN, SQL_HOST, SQL_PORT, SQL_USER and SQL_PASSWORD.
set -eu

setup() {
    temporal-sql-tool --database "$1" create-database
    temporal-sql-tool --database "$1" setup-schema -v 0.0
    temporal-sql-tool --database "$1" update-schema -d "/etc/temporal/schema/postgresql/v12/$2/versioned"
}

setup temporal temporal
setup temporal_visibility visibility
