"""Whose a run is: the Temporal server and namespace that its task lives on. Several may share a data folder."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, ValidationError
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities.home import Home
from activities.site import write_model

_NO_ANSWER = (RPCStatusCode.UNIMPLEMENTED, RPCStatusCode.PERMISSION_DENIED)


class Server(BaseModel, frozen=True):
    id: Annotated[str, Field(min_length=1)]
    """Of the namespace: no two databases have the same, whatever their addresses."""
    name: str
    """For people."""


async def server_of(client: Client) -> Server:
    """The one that the client talks to; by its name where it tells no id. Raises RPCError."""
    name = f"{client.service_client.config.target_host}, namespace {client.namespace}"
    try:
        said = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    except RPCError as error:
        if error.status not in _NO_ANSWER:
            raise
        return Server(id=name, name=name)
    return Server(id=said.namespace_info.id or name, name=name)


def note_server(home: Home, key: str, server: Server) -> None:
    write_model(home.run(key) / "server.json", server)


def noted_server(home: Home, key: str) -> Server | None:
    """None: nobody has noted it, or it cannot be read."""
    try:
        return Server.model_validate_json((home.run(key) / "server.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
