"""`starter.py clean`: the janitor's work at once, and what it came to."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from rich.console import Console
from temporalio.client import Client

from activities.contracts import CleanedUp
from activities.home import Home
from activities.janitor import clean_up
from activities.runs import Run, State, asking
from service.devserver import CannotServe


async def clean(client: Client, home: Path, dry_run: bool, over: Collection[str]) -> CleanedUp:
    """As the worker's user, on the worker's host; it needs no worker. Safe beside one.

    `over`: tasks that the server does not know, or that another one has, and that have ended, as a person says.
    """
    if not home.is_dir():
        raise CannotServe(f"there is no data folder {home}: name it with --home or MERGEWRIGHT_HOME")

    ask = await asking(client)

    async def ask_both(task_id: str, run: Run | None) -> State:
        said = await ask(task_id, run)
        return "ended" if said in ("unknown", "elsewhere") and task_id in over else said

    return await clean_up(ask_both, Home(home), dry_run=dry_run)


def tell(done: CleanedUp, console: Console) -> None:
    verb = "would remove" if done.dry_run else "removed"
    lines = [
        f"{verb} {one.what} {one.name}: {one.why}{f' ({size(one.freed)})' if one.freed else ''}" for one in done.removed
    ]
    lines += [f"left alone {one.name}: {one.why}" for one in done.left]
    lines.append(
        f"{verb} {done.removed_count}, {size(done.freed)}; left alone {done.left_count}; {size(done.used)} are used"
    )
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
