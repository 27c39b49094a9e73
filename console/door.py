"""What all of the operator's commands share: how they connect, and how trouble is told."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from temporalio.client import Client, WorkflowQueryFailedError, WorkflowUpdateFailedError
from temporalio.service import RPCError

from activities.config import BadConfig
from activities.git.locks import Busy
from activities.git.repository import RepositoryProblem
from activities.plain import plain
from console.costs import NoTask
from console.steering import refusal
from console.terminal import Terminal
from console.turn_log import NoLog
from service.codec import Undecodable
from service.connect import CannotConnect, connect
from service.devserver import CannotServe

console = Terminal()
T = TypeVar("T")

TaskId = Annotated[str, typer.Argument(help="Workflow id of the task.")]
Address = Annotated[str | None, typer.Option(help="Temporal server, host:port (default: as the temporal CLI).")]
Namespace = Annotated[str | None, typer.Option(help="Temporal namespace.")]
Repo = Annotated[Path, typer.Option(help="The repository.")]
TaskQueue = Annotated[str, typer.Option(help="Task queue of the workers.")]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Any trouble that an operator can do something about is one line and exit 1."""
    try:
        return asyncio.run(work)
    except (BadConfig, Busy, CannotServe, NoLog, NoTask, RepositoryProblem, Undecodable) as problem:
        text = str(problem)
    except WorkflowUpdateFailedError as error:
        text = refusal(error)
    except (RPCError, WorkflowQueryFailedError) as error:
        text = error.message.partition("\n")[0]
    typer.echo(f"starter: {plain(text)}", err=True)
    raise typer.Exit(1)


async def connected(address: str | None, namespace: str | None) -> Client:
    try:
        return await connect(address, namespace)
    except CannotConnect as problem:
        raise CannotServe(str(problem)) from None
