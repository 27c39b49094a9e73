"""The search attributes that tasks are found by: registered by the worker, once for a namespace.

Where it may not (Temporal Cloud, a server with its own rules) a person does, and the worker sees it within a minute;
until then tasks show themselves in their memo alone, which needs no leave.
"""

from __future__ import annotations

import asyncio

import structlog
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.attributes import ATTRIBUTES

log = structlog.get_logger()

WANTED = {key.name: IndexedValueType.ValueType(key.indexed_value_type) for key in ATTRIBUTES}


async def ensure_attributes(client: Client, registered: asyncio.Event, warn: bool = True) -> None:
    """Safe to run again, and by several at once. Sets `registered` once all of them are there; raises nothing of the
    server's."""
    if registered.is_set():
        return
    try:
        found = await _registered(client)
        if missing := {name: kind for name, kind in WANTED.items() if name not in found}:
            await _register(client, missing)
            found = await _registered(client)
        wrong = {name: "has another type" if name in found else "is missing" for name, kind in WANTED.items()
                 if found.get(name) != kind}  # fmt: skip
        problem = ", ".join(f"{name} {what}" for name, what in wrong.items())
    except RPCError as error:
        problem = "" if await _can_be_asked_for(client) else error.message
    if not problem:
        registered.set()
    elif warn:
        log.warning("tasks cannot be found by their stage yet", why=problem, remedy=command(client.namespace),
                    cloud=cloud_command(client.namespace))  # fmt: skip


async def _registered(client: Client) -> dict[str, int]:
    request = ListSearchAttributesRequest(namespace=client.namespace)
    return dict((await client.operator_service.list_search_attributes(request)).custom_attributes)


async def _register(client: Client, missing: dict[str, IndexedValueType.ValueType]) -> None:
    request = AddSearchAttributesRequest(search_attributes=missing, namespace=client.namespace)
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        if error.status is not RPCStatusCode.ALREADY_EXISTS:  # by another worker, just now
            raise


async def _can_be_asked_for(client: Client) -> bool:
    """Who may not use the operator service may list workflows; a name that the server does not know is refused."""
    try:
        await client.count_workflows(" AND ".join(f"{name} IS NULL" for name in WANTED))
    except RPCError:
        return False
    return True


def _kind(name: str) -> str:
    """As the command lines spell it: `KeywordList`."""
    words = IndexedValueType.Name(WANTED[name]).removeprefix("INDEXED_VALUE_TYPE_").split("_")
    return "".join(word.capitalize() for word in words)


def command(namespace: str) -> str:
    pairs = " ".join(f"--name {name} --type {_kind(name)}" for name in WANTED)
    return f"temporal operator search-attribute create --namespace {namespace} {pairs}"


def cloud_command(namespace: str) -> str:
    pairs = " ".join(f'--sa "{name}={_kind(name)}"' for name in WANTED)
    return f"tcld namespace search-attributes add --namespace {namespace} {pairs}"
