"""`starter.py schedule …`: tasks that come again, as Temporal Schedules; the web UI shows them too."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleHandle,
    ScheduleListDescription,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)
from temporalio.service import RPCError, RPCStatusCode

from console import inputs
from console.door import Address, Namespace, TaskQueue, connected, console, run
from console.queue_commands import PIPE_WIDTH
from service.connect import TASK_QUEUE
from service.devserver import CannotServe

PREFIX = "repeat/"
"""Of the Schedules' ids: those of the housekeeping are not among ours."""
CATCH_UP = timedelta(hours=1)
"""What was due while the server was away is started later only if it is no older."""

Overlap = Literal["skip", "buffer-one", "buffer-all", "cancel-other", "terminate-other", "allow-all"]
Name = Annotated[str, typer.Argument(help="Of the schedule.")]

app = typer.Typer(no_args_is_help=True, help="Tasks that come again, as Temporal Schedules.")


@app.command()
def add(
    name: Name,
    cron: Annotated[str, typer.Option(help="Minute, hour, day, month, weekday; or @daily, @weekly.")],
    template: Annotated[str | None, typer.Option(help="Of mergewright.toml on the target, as it is then.")] = None,
    title: Annotated[str | None, typer.Option(help="One line.")] = None,
    repo: Annotated[Path | None, typer.Option(help="The repository (default: the one you are in).")] = None,
    target: Annotated[str | None, typer.Option(help="Branch to land on.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="TOML or JSON with the task's fields.")] = None,
    overlap: Annotated[Overlap, typer.Option(help="While an earlier one still runs.")] = "skip",
    timezone: Annotated[str, typer.Option(help="Of --cron: Europe/Berlin, say.")] = "UTC",
    task_queue: TaskQueue = TASK_QUEUE,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Start a task again and again. Example: starter.py schedule add deps --cron "0 3 * * 1" --template deps"""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,40}", name):
        raise typer.BadParameter("use up to 40 letters, digits, '.', '_' and '-'", param_hint="NAME")
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError):
        text = f"{timezone!r} is no time zone such as Europe/Berlin"
        raise typer.BadParameter(text, param_hint="--timezone") from None
    flags = {"template": template, "title": title, "repo": str(repo) if repo else None, "target": target}
    task = inputs.task_input(file, flags)
    schedule = Schedule(
        # Temporal adds the time to the id, so each run is a task of its own.
        action=ScheduleActionStartWorkflow(
            "TaskWorkflow",
            inputs.payload(task),
            id=name,
            task_queue=task_queue,
            static_summary=task.title or f"template {task.template}",
        ),
        spec=ScheduleSpec(cron_expressions=[cron], time_zone_name=timezone),
        policy=SchedulePolicy(overlap=_overlap(overlap), catchup_window=CATCH_UP),
    )

    async def go() -> str:
        client = await connected(address, namespace)
        try:
            made = await client.create_schedule(f"{PREFIX}{name}", schedule)
        except ScheduleAlreadyRunningError:
            raise CannotServe(f"there is a schedule {name}: choose another name, or: schedule remove {name}") from None
        following = (await made.describe()).info.next_action_times
        return f"{name}: next at {following[0]:%Y-%m-%d %H:%M} UTC" if following else f"{name}: never due"

    console.print(run(go()), markup=False)


def _overlap(name: str) -> ScheduleOverlapPolicy:
    return ScheduleOverlapPolicy[name.upper().replace("-", "_")]


@app.command("list")
def show_list(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """What comes again, when, and how the last ones went. Example: starter.py schedule list"""

    async def go() -> list[dict[str, Any]]:
        client = await connected(address, namespace)
        found = [each async for each in await client.list_schedules() if each.id.startswith(PREFIX)]
        return [await _row(client, each) for each in sorted(found, key=lambda each: each.id)]

    rows = run(go())
    if as_json:
        console.print_json(json.dumps(rows))
        return
    table = Table(box=None, header_style="dim")
    for column in ("name", "state", "next", "last", "skipped", "task"):
        table.add_column(column, no_wrap=column not in ("name", "task"), overflow="fold")
    for row in rows:
        last = row["last"].removeprefix(f"{row['name']}-")  # the time
        cells = row["name"], row["state"], row["next"], last, row["skipped"], row["task"]
        table.add_row(*(escape(str(cell)) for cell in cells))
    shown = console if console.is_terminal else Console(width=PIPE_WIDTH, highlight=False)
    shown.print(table if rows else "nothing comes again")


async def _row(client: Client, found: ScheduleListDescription) -> dict[str, Any]:
    whole = await client.get_schedule_handle(found.id).describe()
    action, info = whole.schedule.action, whole.info
    given = await client.data_converter.decode(action.args) if isinstance(action, ScheduleActionStartWorkflow) else [{}]
    last = info.recent_actions[-1].action if info.recent_actions else None
    return {
        "name": found.id.removeprefix(PREFIX),
        "task": f"{given[0].get('title') or given[0].get('template', '')} in {given[0].get('repo', '')}",
        "state": "paused" if whole.schedule.state.paused else "on",
        "next": f"{info.next_action_times[0]:%Y-%m-%d %H:%M}" if info.next_action_times else "",
        "last": getattr(last, "workflow_id", ""),
        "overlap": whole.schedule.policy.overlap.name.lower().replace("_", "-"),
        "skipped": info.num_actions_skipped_overlap,
    }


def _command(name: str, help_text: str, said: str, does: Callable[[ScheduleHandle], Awaitable[None]]) -> None:
    @app.command(name, help=f"{help_text} Example: starter.py schedule {name} deps")
    def plain(schedule: Name, address: Address = None, namespace: Namespace = None) -> None:
        async def go() -> None:
            handle = (await connected(address, namespace)).get_schedule_handle(f"{PREFIX}{schedule}")
            try:
                await does(handle)
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                raise CannotServe(f"there is no schedule {schedule}; there are: starter.py schedule list") from None

        run(go())
        console.print(f"{schedule}: {said}", markup=False)


_command("pause", "Start nothing until resumed.", "starts nothing until it is resumed", lambda handle: handle.pause())
_command("resume", "Go on after a pause.", "goes on", lambda handle: handle.unpause())
_command("trigger", "Start one now, if the overlap allows it.", "is due now", lambda handle: handle.trigger())
_command(
    "remove", "No more of it; tasks that run go on.", "removed; tasks that run go on", lambda handle: handle.delete()
)
