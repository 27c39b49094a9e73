"""One command to one task, or the same to many at once: each an update, which is taken or refused with a reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

from rich.table import Table
from temporalio.client import Client, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.exceptions import ActivityError
from temporalio.service import RPCError, RPCStatusCode

from service.devserver import CannotServe

AT_ONCE = 20
"""Of one task queue, so that a worker with many tasks answers each in time."""
PATIENCE = timedelta(seconds=30)
"""For the answer of one of many, and of a task queue: where nobody has answered for so long, nothing more is sent.
What was sent is taken all the same, once a worker runs."""


@dataclass(frozen=True)
class Chosen:
    """Which of the running tasks."""

    query: str | None = None
    repo: Path | None = None
    everything: bool = False
    labels: tuple[str, ...] = ()
    """All of them."""

    def __bool__(self) -> bool:
        return bool(self.query or self.repo or self.everything or self.labels)

    def visibility(self) -> str:
        parts = ["WorkflowType = 'TaskWorkflow'", "ExecutionStatus = 'Running'"]
        named = [("TaskLabels", label) for label in self.labels]
        named += [("TaskRepository", str(self.repo.resolve()))] if self.repo is not None else []
        for attribute, value in named:
            if "'" in value:
                raise CannotServe(f"{value}: a query cannot name what has a quotation mark; use --query")
            parts.append(f"{attribute} = '{value}'")
        return " AND ".join([*parts, *([f"({self.query})"] if self.query else [])])


@dataclass(frozen=True)
class Addressee:
    """A running task, and the task queue whose worker answers for it."""

    task: str
    task_queue: str


@dataclass(frozen=True)
class Answer:
    task: str
    taken: bool
    said: str


async def chosen(client: Client, which: Chosen) -> list[Addressee]:
    """Raises CannotServe for a query that the server does not understand."""
    try:
        return [Addressee(found.id, found.task_queue) async for found in client.list_workflows(which.visibility())]
    except RPCError as error:
        if error.status is RPCStatusCode.INVALID_ARGUMENT:
            told = error.message.partition("\n")[0]
            raise CannotServe(f'--query: {told}. Try it with: temporal workflow list --query "{which.query}"') from None
        raise


def refusal(error: WorkflowUpdateFailedError) -> str:
    """Why an update was refused: of a check that ran as an activity what that says, not that it has failed."""
    cause = error.cause
    while isinstance(cause, ActivityError) and cause.cause is not None:
        cause = cause.cause
    return str(getattr(cause, "message", cause))


async def send(client: Client, task: str, verb: str, arguments: Sequence[Any]) -> str:
    """The answer. Raises Gone for a task that is not there or has ended, WorkflowUpdateFailedError for a refusal."""
    try:
        return str(await client.get_workflow_handle(task).execute_update(verb, args=arguments))
    except WorkflowUpdateFailedError as error:
        if "expected but not found" in str(error.cause):
            text = f"{task} takes no {verb}: it is no task"
            raise CannotServe(f"{text}; of a swarm's tasks all are named by --label swarm:{task}") from None
        raise
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        if ended := "completed" in error.message:
            await _not_a_swarm(client, task)
        raise Gone(task, ended) from None


async def _not_a_swarm(client: Client, name: str) -> None:
    """Raises CannotServe for one, which is gone on with otherwise."""
    if (await client.get_workflow_handle(name).describe()).workflow_type == "SwarmWorkflow":
        raise CannotServe(f"{name} has ended: go on with `starter.py swarm --continue {name}`")


class Gone(CannotServe):
    def __init__(self, task: str, ended: bool) -> None:
        self.ended = ended
        there = f"{task} has ended: `starter.py status {task}` shows how, `starter.py continue {task}` begins it again"
        super().__init__(there if ended else f"there is no task {task}: `starter.py list` shows all")


async def send_all(client: Client, to: Sequence[Addressee], verb: str, arguments: Sequence[Any]) -> list[Answer]:
    """To each of them, some at a time; nobody's trouble, and no missing worker, keeps it from the others."""

    async def of_queue(tasks: Sequence[str]) -> list[Answer]:
        free = asyncio.Semaphore(AT_ONCE)
        heard = time.monotonic()

        async def one(task: str) -> Answer:
            nonlocal heard
            async with free:
                if time.monotonic() - heard > PATIENCE.total_seconds():
                    return _unheard(task, "not sent, as the tasks before it did not answer")
                if (answer := await _one(client, task, verb, arguments)) is None:
                    return _unheard(task, f"no answer in {PATIENCE.seconds} s")
                heard = time.monotonic()
                return answer

        return list(await asyncio.gather(*map(one, tasks)))

    queues: dict[str, list[str]] = {}
    for each in to:
        queues.setdefault(each.task_queue, []).append(each.task)
    return list(chain.from_iterable(await asyncio.gather(*map(of_queue, queues.values()))))


def _unheard(task: str, what: str) -> Answer:
    return Answer(task, False, f"{what}: does a worker run?")


async def _one(client: Client, task: str, verb: str, arguments: Sequence[Any]) -> Answer | None:
    """None: nobody has answered."""
    try:
        handle = client.get_workflow_handle(task)
        return Answer(task, True, str(await handle.execute_update(verb, args=arguments, rpc_timeout=PATIENCE)))
    except WorkflowUpdateFailedError as error:
        return Answer(task, False, refusal(error))
    except WorkflowUpdateRPCTimeoutOrCancelledError:
        return None
    except RPCError as error:
        ended = error.status is RPCStatusCode.NOT_FOUND
        return Answer(task, False, "it has ended" if ended else error.message.partition("\n")[0])


def answer_table(answers: Sequence[Answer]) -> Table:
    table = Table(box=None, header_style="dim")
    table.add_column("task", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("answer")
    for answer in sorted(answers, key=lambda one: (one.taken, one.task)):
        said = answer.said.replace("[", "\\[")
        table.add_row(answer.task, "taken" if answer.taken else "[red]refused[/red]", said)
    return table
