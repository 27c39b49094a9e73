"""`starter.py notify`: who is told what, and whether it arrives."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from activities.config import CONFIG_FILE, Destination, load
from activities.home import default_home
from activities.notify import send
from console.door import console, run

TEST = ("mergewright: a test", "Notifications arrive here.")


def notify(
    test: Annotated[bool, typer.Option("--test", help="Send a message to each, and say what came of it.")] = False,
    home: Annotated[Path | None, typer.Option(help="Data folder (default: MERGEWRIGHT_HOME, or the user's).")] = None,
) -> None:
    """Who is told what, with the variables of this terminal. Example: starter.py notify --test"""
    folder = (home or default_home()).resolve()

    async def go() -> list[Destination]:
        return load(folder).notify

    destinations = run(go())
    if not destinations:
        text = f"nobody: name destinations under [[notify]] in {folder / CONFIG_FILE}"
        console.print(text, markup=False, soft_wrap=True)
        return
    said = {each.name: _test(each) if test else _looked_at(each) for each in destinations}
    table = Table(box=None, header_style="dim")
    for column in ("destination", "events", "repositories", "state"):
        table.add_column(column, overflow="fold")
    for each in destinations:
        cells = each.url, ", ".join(each.events), ", ".join(each.repositories) or "all", said[each.name]
        table.add_row(*map(escape, cells))
    console.print(table)
    if test and any(state != "sent" for state in said.values()):
        raise typer.Exit(1)


def _test(destination: Destination) -> str:
    problem = send(destination, *TEST)
    return f"not sent: {problem}" if problem else "sent"


def _looked_at(destination: Destination) -> str:
    return "" if os.environ.get(destination.name) else f"the variable {destination.name} is not set"
