"""`starter.py drain-worker`: the worker of this host takes no new work, and ends when what runs has ended."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated

import typer

from activities.home import Home, default_home
from console.door import console, run
from service.devserver import CannotServe
from service.lifeline import DRAIN, live_workers

POLL_SECONDS = 0.5


def drain_worker(
    home: Annotated[
        Path | None, typer.Option(help="Its data folder (default: MERGEWRIGHT_HOME, or the user's).")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it has ended.")] = True,
) -> None:
    """Let the worker of this host end when its running turns and gates have ended; it takes no new ones.

    Example: starter.py drain-worker, then update, and start python worker.py again
    """

    async def go() -> None:
        folder = Home((home or default_home()).resolve())
        workers = live_workers(folder)
        if not workers:
            raise CannotServe(f"no worker runs with the data folder {folder.root}: --home names another")
        for worker in workers:
            with contextlib.suppress(FileNotFoundError):  # it has ended just now
                (worker / DRAIN).touch()
                console.print(f"worker {worker.name.partition('-')[0]} drains", soft_wrap=True)
        while wait:
            if not set(live_workers(folder)) & set(workers):
                console.print("it has ended; what is left to do waits for the next worker")
                return
            await asyncio.sleep(POLL_SECONDS)

    run(go())
