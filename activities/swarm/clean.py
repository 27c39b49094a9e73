"""Folders of swarms that are over: the janitor removes them when they are as old as run folders may be."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from activities.disk import used
from activities.git.clone import delete
from activities.home import Home
from activities.runs import Run, as_repository
from activities.site import blocking
from activities.swarm import mirror
from activities.swarm.known import as_run, at_work, known_swarms
from activities.swarm.ledger import Ledger

if TYPE_CHECKING:
    from activities.janitor import Janitor

HOUR = 1 / 24
"""Days in which whoever makes a folder has said whose it is."""


async def clean_swarms(janitor: Janitor) -> None:
    """What a swarm did for a task is in the ledger of its repository, and stays there."""
    home, days = janitor.home, janitor.keep.runs_days
    known = await blocking(known_swarms, home)
    for key, note in known.items():
        folder = home.swarm(key)
        with janitor.apart(str(folder)):
            run = await blocking(as_run, home, note)
            state = await janitor.ask(note.ref.swarm_id, run)
            if state == "elsewhere":
                whose = run.server.name if run.server else "unknown"
                remedy = f"if that is gone: starter.py clean --over {note.ref.swarm_id}"
                janitor.leave(str(folder), f"it belongs to another Temporal server: {whose}; {remedy}")
            elif state == "running":
                janitor.ages.forget(f"swarm {key}")
            # A cycle may wait for an operator for longer: it needs its cards, and nobody else may begin them.
            elif janitor.ages.days(f"swarm {key}") > days and not await at_work(home, note, janitor.ask):
                why = f"over for more than {days:g} days"
                action = partial(_remove, home, key, run)
                await blocking(janitor.remove, "swarm", str(folder), why, action, await blocking(used, folder))
    for folder in sorted((home.root / "swarms").glob("*")):
        if folder.name not in known and janitor.old_file(folder, HOUR):
            janitor.leave(str(folder), "it does not say whose it is: look into it, and remove it by hand")


def _remove(home: Home, key: str, run: Run) -> None:
    """The folder last: it says whose the rest is."""
    if run.common_dir is not None:
        Ledger(home, run.common_dir).release(key)
        mirror.forget(as_repository(run.common_dir), key)
    delete(home.swarm(key))
