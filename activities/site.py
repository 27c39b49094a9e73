"""What every activity has at hand: the data folder, the host's name, Temporal; and how blocking work is run."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

from pydantic import BaseModel
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from activities.contracts import TaskRef
from activities.git.clone import WorktreeBroken
from activities.git.owner import Owner, claim
from activities.git.repository import Repository, open_repository
from activities.git.worktree import Worktree, rebuild
from activities.home import Home, safe_name
from activities.settings import INVALID_TASK
from activities.slots import Slots

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Site:
    home: Home
    host: str
    task_queue: str
    """The shared one; those of the host are named after it."""
    client: Client
    gate_slots: int = 2
    """Gate runs at once on this host."""
    slots: Slots = field(default_factory=lambda: Slots(4))
    """Turns of agents in this process."""
    attributes: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the search attributes are known to be registered."""

    def claim(self, repository: Repository) -> None:
        """Before each use: it is this orchestrator's, or OwnedByAnother is raised. See `git.owner`."""
        address, namespace = self.client.service_client.config.target_host, self.client.namespace
        owner = Owner(address, namespace, self.task_queue, str(self.home.root), self.host)
        claim(repository.common_dir, owner)
        note_repository(self.home, repository.common_dir)


def note_repository(home: Home, common_dir: Path) -> None:
    """Of which repository its folder is; so its salvages are known when none of its runs is any more."""
    note = home.repository(common_dir) / "repository.json"
    if not note.exists():
        write_atomically(note, json.dumps({"git_dir": str(common_dir)}))


def invalid(field: str, text: str) -> NoReturn:
    """One line that names the field and the remedy; the workflow fails with it."""
    raise ApplicationError(f"{field}: {text}", type=INVALID_TASK, non_retryable=True)


async def blocking(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run it in a thread, to its end even when the activity is cancelled: nobody removes a worktree under it."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def task_branch(task_id: str) -> str:
    return f"mergewright/{safe_name(task_id)}"


def worktree_of(home: Home, ref: TaskRef) -> Worktree:
    """The task's worktree; made good from what was brought over last, should it be gone or broken.

    It is to be set up again then: `setup.ready` does that for whoever works in it.
    """
    worktree = Worktree(
        open_repository(ref.repo), home.worktree(ref.key), ref.key, task_branch(ref.task_id), ref.target
    )
    try:
        worktree.clone.check()
    except WorktreeBroken:
        write_atomically(home.rebuilt(ref.key), "")  # before: a kill may come between
        return rebuild(worktree.repository, worktree.path, ref.key, worktree.branch, ref.target)
    return worktree


def short_ref(ref: str) -> str:
    return ref.removeprefix("refs/heads/")


def write_atomically(path: Path, content: str | bytes) -> None:
    """All of it or nothing, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{path.name}.{threading.get_ident()}.new")  # two may write it at once
    with made.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)


def write_model(path: Path, model: BaseModel) -> None:
    write_atomically(path, model.model_dump_json(indent=1))


def read_json(path: Path) -> dict[str, Any]:
    """{} when there is none: these files are written whole, so one that is there is good."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return found if isinstance(found, dict) else {}


# --- what an activity tells while it runs ----------------------------------------------------------

_progress: ContextVar[dict[str, Any] | None] = ContextVar("progress", default=None)


def progress() -> dict[str, Any]:
    """Shown with the activity's heartbeats in the web UI. Whoever runs activities sets it (see `tracking`)."""
    current = _progress.get()
    return {} if current is None else current


def tracking() -> dict[str, Any]:
    current: dict[str, Any] = {}
    _progress.set(current)
    return current
