#!/bin/sh
# Makes the namespace if it is not there and returns when the server serves it. May be run again.
# The temporal CLI takes TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE from the environment.
set -eu
: "${TEMPORAL_ADDRESS:?}" "${TEMPORAL_NAMESPACE:?}"

ATTEMPTS=60 # of each step, one a second
RETENTION=7d # how long an ended task can be looked up; the server's default is 3 days

wait_for() {
    attempts=0
    until said=$("$@" --command-timeout 5s 2>&1); do
        attempts=$((attempts + 1))
        if [ "$attempts" -ge "$ATTEMPTS" ]; then
            echo "gave up on: $*: $said" >&2
            exit 1
        fi
        sleep 1
    done
}

describe_or_create() {
    temporal operator namespace describe "$@" || temporal operator namespace create --retention "$RETENTION" "$@"
}

wait_for temporal operator cluster health
wait_for describe_or_create --namespace "$TEMPORAL_NAMESPACE"
# The front end learns of a new namespace a few seconds later; a worker that came sooner would end with "not found".
wait_for temporal workflow count --namespace "$TEMPORAL_NAMESPACE"
echo "namespace $TEMPORAL_NAMESPACE is ready"
