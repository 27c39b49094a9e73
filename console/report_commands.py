"""`starter.py report` and `starter.py forecast`: what tasks came to, and what that says of the next one."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from temporalio.client import Client

from activities.home import default_home
from activities.settings import TaskInput
from console.door import Address, Namespace, connected, console, run
from console.forecasts import Forecast, told
from console.forecasts import forecast as forecast_of
from console.reports import Report, made, page, shown
from service.digest import waiting_tasks
from service.past import ended_tasks

YEAR = timedelta(days=365)
PATIENCE_SECONDS = 2.0
"""So long a start may look back; what it has read by then it need not read the next time."""

DataFolder = Annotated[Path | None, typer.Option(help="Data folder (default: MERGEWRIGHT_HOME, or the user's).")]


def report(
    since: Annotated[str, typer.Option(help="7d, 24h, 2w, or a day: YYYY-MM-DD (UTC).")] = "7d",
    repo: Annotated[Path | None, typer.Option(help="Of this repository only.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with charts; it needs no network.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    home: DataFolder = None,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """What landed, what it cost, where the time went. Example: starter.py report --since 30d --html report.html"""
    first, folder = _since(since), (home or default_home()).resolve()
    only = str(repo.resolve()) if repo else ""

    async def go() -> Report:
        client = await connected(address, namespace)
        past, waiting = await asyncio.gather(ended_tasks(client, folder, first), waiting_tasks(client))
        reasons = Counter(
            str(each.status.blocked.reason if each.status.blocked else each.status.stage)
            for each in waiting
            if not only or each.repo == only
        )
        return made(past, first, only, reasons)

    found = run(go())
    if html is not None:
        html.write_text(page(found))
        console.print(f"written to {html}", markup=False, soft_wrap=True)
    elif as_json:
        console.print_json(found.model_dump_json())
    else:
        console.print(shown(found))


def forecast(
    repo: Annotated[Path, typer.Option(help="The repository.")] = Path(),
    agent: Annotated[str, typer.Option(help="As of `start`; tasks of its runtime count (default: all).")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    home: DataFolder = None,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """A task's chance to land, and how long that takes. Example: starter.py forecast --repo /src/app --agent codex

    It rests on the tasks of this repository with the same runtime in the last year; with too few of them, on all.
    """
    folder, runtime = (home or default_home()).resolve(), agent.partition(":")[0]

    async def go() -> Forecast:
        return await _forecast(await connected(address, namespace), folder, str(repo.resolve()), runtime)

    found = run(go())
    if as_json:
        console.print_json(json.dumps(asdict(found)))
    else:
        console.print(told(found), markup=False, soft_wrap=True)


async def chances(client: Client, task: TaskInput) -> str:
    """For whoever has just started a task: whatever is the matter with this, the task runs. Empty when it would take
    long, or nothing is known yet."""
    with suppress(Exception):
        async with asyncio.timeout(PATIENCE_SECONDS):
            runtime = task.agent.runtime if "agent" in task.model_fields_set else ""
            found = await _forecast(client, default_home().resolve(), str(Path(task.repo).resolve()), runtime)
            return told(found) if found.cases else ""
    return ""


async def _forecast(client: Client, folder: Path, repo: str, runtime: str) -> Forecast:
    past = await ended_tasks(client, folder, datetime.now(UTC) - YEAR)
    return forecast_of([each for each in past if each.repo == repo], runtime)


_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def _since(text: str) -> datetime:
    now = datetime.now(UTC)
    if ago := re.fullmatch(r"(\d{1,4})([hdw])", text):
        return now - int(ago[1]) * _UNITS[ago[2]]
    with suppress(ValueError):
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    raise typer.BadParameter(f"{text!r} is neither 7d, 24h, 2w nor a day: YYYY-MM-DD", param_hint="--since")
