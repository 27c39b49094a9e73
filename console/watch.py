"""`starter.py watch`: all tasks, swarms, queues and quotas, live. On a terminal with keys to move them on; else a line
for each change."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from temporalio.service import RPCError

from activities.home import Home, default_home
from console.door import Address, Namespace, connected, console, run
from console.glance import Query
from console.overview import Changes, Lookout

EVERY = 1.0
"""Seconds."""


def watch(
    words: Annotated[
        str, typer.Option("--filter", "-f", help="Words that a task's id, title, repository, stage or label has.")
    ] = "",
    query: Query = "",
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = EVERY,
    plain: Annotated[bool, typer.Option("--plain", help="A line for each change, as without a terminal.")] = False,
    home: Annotated[Path | None, typer.Option(help="Data folder (default: MERGEWRIGHT_HOME, or the user's).")] = None,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """All tasks, swarms, queues and quotas, with keys to move them on. Example: starter.py watch --filter blocked"""

    async def go() -> None:
        lookout = Lookout(await connected(address, namespace), query)
        await lookout.look()  # a query that cannot be is told here
        if plain or not console.is_terminal:
            await follow_plainly(lookout, console, every, words)
        else:
            from console.watch_app import WatchApp  # it takes a while to import, and no other command needs it

            await WatchApp(lookout, Home((home or default_home()).resolve()), every, words).run_async()

    with contextlib.suppress(KeyboardInterrupt):
        run(go())


async def follow_plainly(lookout: Lookout, out: Console, every: float, words: str = "") -> None:
    """Until it is cancelled. A server that is away is said once, and waited for."""
    changes, away = Changes(), ""
    while True:
        try:
            overview = await lookout.look()
        except RPCError as error:
            if error.message != away:
                away = error.message
                out.print(f"no answer, looks again: {away}", markup=False, soft_wrap=True)
        else:
            away = ""
            for line in changes.lines(overview, words):
                out.print(line, markup=False, soft_wrap=True)
        await asyncio.sleep(every)
