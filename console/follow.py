"""A live table of tasks: stage, turn, time, cost. On a terminal it is redrawn; elsewhere each change is a line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from temporalio.client import Client, WorkflowFailureError, WorkflowQueryFailedError
from temporalio.exceptions import TerminatedError
from temporalio.service import RPCError

from workflows.contracts import TaskResult, TaskStatus

POLL_SECONDS = 0.5


async def follow(
    client: Client,
    task_ids: Sequence[str],
    console: Console,
    on_status: Callable[[TaskStatus], Awaitable[None]] | None = None,
) -> dict[str, TaskResult | str]:
    """Shows the tasks until all have ended. Their results by id; for one that failed, why."""
    ends = {task_id: asyncio.create_task(_end(client, task_id)) for task_id in task_ids}
    shown: dict[str, TaskStatus] = {}
    lines: dict[str, str] = {}
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        while True:
            over = all(end.done() for end in ends.values())
            for task_id in task_ids:
                if (status := await _status(client, task_id)) is not None:
                    shown[task_id] = status
                    if on_status is not None:
                        await on_status(status)
            if console.is_terminal:
                live.update(_table(task_ids, shown))
            else:
                _print_changes(console, shown, lines)
            if over:
                return {task_id: end.result() for task_id, end in ends.items()}
            await asyncio.wait(ends.values(), timeout=POLL_SECONDS, return_when=asyncio.ALL_COMPLETED)


async def _end(client: Client, task_id: str) -> TaskResult | str:
    try:
        result: TaskResult = await client.get_workflow_handle(task_id, result_type=TaskResult).result()
        return result
    except WorkflowFailureError as error:
        if isinstance(error.cause, TerminatedError):  # it could not say so itself: the worker saves what is there
            return f"terminated; what did not land is saved within a minute: starter.py salvage show {task_id}"
        return str(getattr(error.cause, "message", error.cause))


async def _status(client: Client, task_id: str) -> TaskStatus | None:
    try:
        found: TaskStatus = await client.get_workflow_handle(task_id).query("status", result_type=TaskStatus)
        return found
    except (RPCError, WorkflowQueryFailedError):
        return None  # not started yet, or its worker is away for a moment


def _table(task_ids: Sequence[str], shown: dict[str, TaskStatus]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("task", "stage", "turns", "time", "cost", "waits for, or said"):
        table.add_column(column, justify="right" if column in ("turns", "time", "cost") else "left", no_wrap=True)
    for task_id in task_ids:
        table.add_row(task_id, *(_cells(shown[task_id]) if task_id in shown else ["starting", "", "", "", ""]))
    return table


def _cells(status: TaskStatus) -> list[str]:
    stage = str(status.outcome or status.stage)
    colour = {"merged": "green", "blocked": "red", "failed": "red", "no-changes": "yellow"}.get(stage, "default")
    text = status.waiting_for or (status.blocked.text if status.blocked else "") or status.said
    if status.outcome:
        text = f"{(status.sha or '')[:12]} {status.reason}".strip()
    minutes, seconds = divmod(int(status.seconds.total), 60)
    return [
        f"[{colour}]{stage}[/]",
        str(status.turns),
        f"{minutes}:{seconds:02d}",
        f"${status.cost_usd:.2f}",
        " ".join(text.split())[:70].replace("[", "\\["),
    ]


def _print_changes(console: Console, shown: dict[str, TaskStatus], lines: dict[str, str]) -> None:
    for task_id, status in shown.items():
        line = f"{status.outcome or status.stage}: turn {status.turns}, ${status.cost_usd:.2f}"
        line += f", waits for {status.waiting_for}" if status.waiting_for else ""
        if lines.get(task_id) != line:
            lines[task_id] = line
            console.print(f"{task_id}: {line} ({status.seconds.total:.0f} s)", markup=False, soft_wrap=True)
