"""What tasks have cost: by task, runtime, model, day or turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from rich.table import Table
from temporalio.client import Client, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from activities.contracts import Usage
from workflows.contracts import TurnRecord

By = Literal["task", "runtime", "model", "account", "role", "day", "turn"]
AT_ONCE = 8
"""Queries: each has a worker replay the task."""


class NoTask(Exception):
    """What was asked for by its id is no task; one line."""


@dataclass(frozen=True)
class Spent:
    """One turn of one task."""

    task_id: str
    turn: TurnRecord

    @property
    def day(self) -> str:
        return f"{datetime.fromtimestamp(self.turn.ended, UTC):%Y-%m-%d}"


_KEYS: dict[By, Callable[[Spent], tuple[str, ...]]] = {
    "task": lambda spent: (spent.task_id,),
    "runtime": lambda spent: (spent.turn.runtime,),
    "model": lambda spent: (spent.turn.runtime, spent.turn.model or "its default"),
    "account": lambda spent: (spent.turn.account or "none",),
    "role": lambda spent: (spent.turn.role,),
    "day": lambda spent: (spent.day,),
    "turn": lambda spent: (spent.task_id, f"{spent.turn.turn:>3}", spent.turn.role, spent.turn.agent, spent.turn.end),
}
_TITLES: dict[By, tuple[str, ...]] = {
    "model": ("runtime", "model"),
    "turn": ("task", "turn", "role", "agent", "end"),
}


async def spendings(client: Client, task_ids: Iterable[str] | None, most: int) -> tuple[list[Spent], list[str]]:
    """All turns of these tasks, or of the newest `most` that the server knows; and the tasks that did not answer.

    Raises NoTask for an id that was given.
    """
    named = task_ids is not None
    if task_ids is None:
        found = client.list_workflows("WorkflowType = 'TaskWorkflow'", limit=most)
        task_ids = [execution.id async for execution in found]
    silent: list[str] = []
    gate = asyncio.Semaphore(AT_ONCE)

    async def of(task_id: str) -> list[Spent]:
        async with gate:
            try:
                handle = client.get_workflow_handle(task_id)
                turns: list[TurnRecord] = await handle.query("timeline", result_type=list[TurnRecord])
            except (RPCError, WorkflowQueryFailedError) as error:
                if named and (why := _no_task(error)):
                    raise NoTask(f"{task_id}: {why}") from None
                silent.append(task_id)
                return []
        return [Spent(task_id, turn) for turn in turns]

    each = await asyncio.gather(*(of(task_id) for task_id in dict.fromkeys(task_ids)))
    return [spent for turns in each for spent in turns], silent


def _no_task(error: RPCError | WorkflowQueryFailedError) -> str:
    """Why there is nothing that could answer; empty: it did not, this time."""
    if isinstance(error, WorkflowQueryFailedError):
        return error.message.partition("\n")[0]
    return "there is no such task" if error.status is RPCStatusCode.NOT_FOUND else ""


def grouped(spent: Iterable[Spent], by: By) -> dict[tuple[str, ...], list[Spent]]:
    groups: dict[tuple[str, ...], list[Spent]] = {}
    for each in spent:
        groups.setdefault(_KEYS[by](each), []).append(each)
    return groups


def cost_table(spent: list[Spent], by: By) -> Table:
    table = Table(box=None, header_style="dim", show_footer=True, pad_edge=False)
    groups = grouped(spent, by)
    titles = _TITLES.get(by, (by,))
    first = 2 if by == "turn" else 0  # of one turn it is no news that it is one
    rows = {key: _cells(group)[first:] for key, group in groups.items()}
    for place, title in enumerate(titles):
        table.add_column(title, footer="" if place else "all", no_wrap=True)
    for place, (title, footer) in enumerate(zip(_FIGURES[first:], _cells(spent)[first:], strict=True)):
        widest = max(len(text) for text in (title, footer, *(row[place] for row in rows.values())))
        # Where it is narrow the names are cut, never a figure.
        table.add_column(title, footer=footer, justify="right", no_wrap=True, min_width=widest)
    order = sorted(rows) if by in ("day", "turn") else sorted(rows, key=lambda key: -_usage(groups[key]).cost_usd)
    for key in order:
        table.add_row(*key, *rows[key])
    return table


def as_json(spent: list[Spent], by: By) -> list[dict[str, object]]:
    return [
        {
            **dict(zip(_TITLES.get(by, (by,)), (part.strip() for part in key), strict=True)),
            "turns": len(group),
            "attempts": sum(each.turn.attempts for each in group),
            "seconds": round(sum(each.turn.seconds for each in group), 3),
            **_usage(group).model_dump(),
        }
        for key, group in grouped(spent, by).items()
    ]


_FIGURES = ("turns", "tries", "time", "input", "cached", "output", "cost")


def _usage(group: Iterable[Spent]) -> Usage:
    return sum((each.turn.usage for each in group), Usage())


def _cells(group: list[Spent]) -> list[str]:
    usage = _usage(group)
    minutes, seconds = divmod(round(sum(each.turn.seconds for each in group)), 60)
    unknown = f" + {usage.unpriced_tokens:,} tokens" if usage.unpriced_tokens else ""
    return [
        str(len(group)),
        str(sum(each.turn.attempts for each in group)),
        f"{minutes}:{seconds:02d}",
        f"{usage.input_tokens:,}",
        f"{usage.cached_tokens:,}",
        f"{usage.output_tokens:,}",
        f"${usage.cost_usd:.4f}{unknown}",
    ]
