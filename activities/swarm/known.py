"""Which runs of swarms a data folder knows, and whose they are."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from activities.contracts import TaskRef
from activities.git.repository import RepositoryProblem, open_repository
from activities.git.run import UnsupportedRepository
from activities.home import Home
from activities.runs import Ask, Run, known_runs
from activities.server import Server
from activities.settings import Model
from activities.site import blocking, read_json, write_model
from activities.swarm.contracts import SwarmRef


class Note(Model):
    """`swarm.json`: the first thing in a swarm's folder."""

    ref: SwarmRef
    started: float
    """Seconds since the epoch."""
    base: str
    """Where the target was then: what cycles of this run have landed is not in it."""


def note(home: Home, new: Note, server: Server) -> Note:
    """A second run finds that of the first."""
    folder = home.swarm(new.ref.key)
    if (found := noted(home, new.ref.key)) is not None:
        return found
    write_model(folder / "server.json", server)
    write_model(folder / "swarm.json", new)
    return new


def noted(home: Home, key: str) -> Note | None:
    """None: nobody has noted it, or it cannot be read."""
    try:
        return Note.model_validate_json((home.swarm(key) / "swarm.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def known_swarms(home: Home) -> dict[str, Note]:
    """By key. A folder that does not say whose it is is not among them."""
    found = ((folder.name, noted(home, folder.name)) for folder in sorted((home.root / "swarms").glob("*")))
    return {key: one for key, one in found if one is not None}


async def at_work(home: Home, note: Note, ask: Ask) -> str:
    """Workflow id of the swarm's run, or of a cycle of it that goes on after it; empty: all of it is over.

    What belongs to another server is at work as far as this one can tell.
    """
    runs = [as_run(home, note), *await blocking(_cycles, home, note)]
    for run in runs:
        if await ask(run.ref.task_id, run) in ("running", "elsewhere"):
            return run.ref.task_id
    return ""


def _cycles(home: Home, note: Note) -> list[Run]:
    """As their run folders say."""
    found = []
    for key, run in known_runs(home).items():
        if run.ref.task_id.startswith(f"{note.ref.swarm_id}-"):
            swarm = read_json(home.run(key) / "task.json").get("swarm")
            if swarm and swarm.get("key") == note.ref.key:
                found.append(run)
    return found


def as_run(home: Home, note: Note) -> Run:
    """As `runs.asking` wants it: whether it still runs is asked as of a task."""
    ref = note.ref
    try:
        server = Server.model_validate_json((home.swarm(ref.key) / "server.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        server = None
    task = TaskRef(task_id=ref.swarm_id, key=ref.key, repo=ref.repo, target=ref.target)
    return Run(ref.key, task, _common_dir(ref.repo), landing=False, server=server)


def _common_dir(repo: str) -> Path | None:
    try:
        return open_repository(repo).common_dir
    except (RepositoryProblem, UnsupportedRepository):
        return None
