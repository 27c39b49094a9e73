"""`starter.py status` and `list`: what there is, at a glance, from one visibility query; no task is asked."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowExecution

from activities.attributes import LABELS
from console.door import Address, Namespace, connected, console, run
from console.queue_view import span
from service.codec import Undecodable
from workflows.contracts import Stage
from workflows.glance import MEMO, Glance

TASKS = "WorkflowType IN ('TaskWorkflow', 'LandWorkflow')"
RUNNING = "ExecutionStatus = 'Running'"
MOST = 1_000
"""Rows; more than anybody reads."""
PIPE_WIDTH = 240
"""Of a table that nobody looks at in a terminal: nothing is cut."""
COLOURS = {
    "blocked": "red",
    "awaiting approval": "magenta",
    "paused": "yellow",
    "rate limited": "yellow",
    "merged": "green",
    "failed": "red",
}

Query = Annotated[
    str, typer.Option("--query", "-q", help="Of these only, as for `temporal workflow list`: 'TaskStage=\"Blocked\"'")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


@dataclass(frozen=True)
class Seen:
    """One task or landing, as visibility has it."""

    task_id: str
    running: bool
    state: str
    """`running`, `completed`, `failed` …: the workflow's."""
    started: float
    ended: float | None
    glance: Glance
    labels: tuple[str, ...] = ()
    task_queue: str = ""

    @property
    def stage(self) -> str:
        """What it came to, where it has ended."""
        return self.glance.stage if self.running else self.glance.outcome or self.state

    @property
    def needs_a_person(self) -> bool:
        return self.running and (self.stage in (Stage.BLOCKED, Stage.APPROVAL) or bool(self.glance.next_command))

    @property
    def about(self) -> str:
        """What it waits for; else what came of it, or what its agent said last."""
        seen = self.glance
        if not self.running:
            return " ".join(filter(None, [seen.sha[:12], seen.why]))
        if seen.blocked:
            return f"{seen.blocked}: {seen.why}"
        return seen.waiting_for or seen.said


def narrowed(base: str, query: str) -> str:
    return f"{base} AND ({query})" if query else base


async def seen(client: Client, query: str, most: int = MOST) -> list[Seen]:
    """The newest first."""
    found = client.list_workflows(query, page_size=MOST, limit=most)
    return [await seen_as(execution) async for execution in found]


async def seen_as(execution: WorkflowExecution) -> Seen:
    state = execution.status.name.lower() if execution.status else ""
    return Seen(
        task_id=execution.id,
        running=state == "running",
        state=state,
        started=execution.start_time.timestamp(),
        ended=execution.close_time.timestamp() if execution.close_time else None,
        glance=await _glance(execution),
        labels=tuple(execution.typed_search_attributes.get(LABELS, ())),
        task_queue=execution.task_queue,
    )


async def _glance(execution: WorkflowExecution) -> Glance:
    """Nothing is known of what has not been prepared yet, was begun by an older worker, or is a landing."""
    land = execution.workflow_type == "LandWorkflow"
    nothing = Glance(stage=Stage.QUEUE.value, title="lands a branch") if land else Glance()
    try:
        return Glance.model_validate(await execution.memo_value(MEMO, None) or nothing)
    except Undecodable as problem:
        return nothing.model_copy(update={"waiting_for": str(problem)})


# --- the table -------------------------------------------------------------------------------------

COLUMNS = ("task", "stage", "for", "turns", "cost", "repository", "agent", "title", "waits for, or said")


class Cell(NamedTuple):
    text: str
    """One line, printable."""
    style: str = ""


def cells(task: Seen, now: float) -> tuple[Cell, ...]:
    """A row of `COLUMNS`."""
    glance = task.glance
    began = (glance.since or task.started) if task.running else task.started
    pauses = glance.paused and task.running and task.stage != Stage.PAUSED
    return (
        Cell(task.task_id),
        Cell(f"{task.stage}, pauses" if pauses else task.stage, COLOURS.get(task.stage, "")),
        Cell(span(max((task.ended or now) - began, 0.0))),
        Cell(str(glance.turns)),
        Cell(f"${glance.cost_usd:.2f}"),
        Cell(glance.repo.rpartition("/")[2]),
        Cell(printable(glance.agent)),
        Cell(printable(glance.title)),
        Cell(printable(task.about)),
    )


def printable(text: str) -> str:
    """What agents and others wrote, in one line and without anything that a terminal would obey."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text)


def table(tasks: Sequence[Seen], now: float, dates: bool = False) -> Table:
    made = Table(box=None, pad_edge=False, header_style="dim")
    for column in (["started (UTC)"] if dates else []) + list(COLUMNS):
        made.add_column(column, no_wrap=True, max_width=48 if column == "title" else None)
    for task in tasks:
        when = [Cell(f"{datetime.fromtimestamp(task.started, UTC):%Y-%m-%d %H:%M}")] if dates else []
        made.add_row(*(Text(cell.text, cell.style) for cell in [*when, *cells(task, now)]))
    return made


def _told(tasks: Sequence[Seen], as_json: bool, none: str, dates: bool = False) -> None:
    if as_json:
        console.print_json(json.dumps([as_dict(task) for task in tasks]))
        return
    shown = console if console.is_terminal else Console(width=PIPE_WIDTH, highlight=False)
    shown.print(table(tasks, time.time(), dates) if tasks else none)
    for line in commands(tasks):
        shown.print(line, markup=False, soft_wrap=True)


def commands(tasks: Sequence[Seen], most: int = 5) -> Iterator[str]:
    """What moves on those that need a person, after an empty line."""
    waiting = [task for task in tasks if task.running and task.glance.next_command]
    for number, task in enumerate(waiting[:most]):
        yield ("\n" if number == 0 else "") + printable(task.glance.next_command)
    if len(waiting) > most:
        yield f"and {len(waiting) - most} more that wait for a person: starter.py watch"


def as_dict(task: Seen) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "state": task.state,
        "started": task.started,
        "ended": task.ended,
        "labels": list(task.labels),
        **task.glance.model_dump(),
    }


# --- the commands ----------------------------------------------------------------------------------


def status(
    task_id: Annotated[str | None, typer.Argument(help="Workflow id of the task (default: all that run).")] = None,
    query: Query = "",
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """What a task does, what it waits for, and what moves it on; or all that run, at a glance. Example: starter.py
    status task-42"""
    if task_id is not None and query:
        raise typer.BadParameter("is for all tasks: give either it or a task", param_hint="--query")

    async def one() -> tuple[Any, str]:
        """All of it; and its story, as the web UI has it."""
        handle = (await connected(address, namespace)).get_workflow_handle(task_id or "")
        swarm = (await handle.describe()).workflow_type == "SwarmWorkflow"
        told = await handle.query("swarm" if swarm else "status")
        metadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
        return told, metadata.current_details

    async def all_of_them() -> list[Seen]:
        return await seen(await connected(address, namespace), narrowed(f"{TASKS} AND {RUNNING}", query))

    if task_id is not None:
        told, story = run(one())
        if as_json:
            console.print_json(json.dumps(told))
        else:
            console.print(Markdown(story))
    else:
        _told(run(all_of_them()), as_json, "no task runs; start one: starter.py start --help")


def list_tasks(
    query: Query = "",
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 200,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """All tasks and landings that the server knows, the newest first. Example: starter.py list --query 'TaskCost>5'"""

    async def go() -> list[Seen]:
        return await seen(await connected(address, namespace), narrowed(TASKS, query), limit)

    _told(run(go()), as_json, "there is none", dates=True)
