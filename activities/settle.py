"""The end of a worktree: what did not land is saved under a ref, then it is torn down, then the folder goes. In this
order, always."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from activities.contracts import Settled, TaskRef
from activities.git import turns
from activities.git.candidate import unpin
from activities.git.clone import WorktreeBroken, delete
from activities.git.repository import RepositoryProblem, open_repository
from activities.git.salvage import Saved, save
from activities.git.worktree import Worktree, create
from activities.home import Home
from activities.setup import tear_down, undo_half_done
from activities.site import task_branch, write_model


class InUse(Exception):
    """Something still works in the worktree."""


def settle(home: Home, ref: TaskRef, outcome: str, landed_head: str | None = None, ops: Sequence[str] = ()) -> Settled:
    """Safe to run again: a worktree that is gone was settled, and what it saved is remembered in the run folder.

    `landed_head`: the head whose work is on the target. Raises InUse while a process holds the worktree.
    """
    record = home.run(ref.key) / "settled.json"
    path = home.worktree(ref.key)
    settled = Settled.model_validate_json(record.read_text()) if record.exists() else None
    with _fenced(home.worktree_lock(ref.key)):
        worktree = Worktree(open_repository(ref.repo), path, ref.key, task_branch(ref.task_id), ref.target)
        saved = None
        if settled is None or path.exists():
            with suppress(WorktreeBroken, RepositoryProblem):
                if path.exists():
                    undo_half_done(home, worktree)
            also = () if landed_head else tuple(turns.kept(worktree).values())
            saved = _saved(worktree, partial(save, task_id=ref.task_id, outcome=outcome, kept=landed_head, also=also))
        if settled is None or saved is not None:
            settled = Settled(salvage_ref=saved.ref if saved else None, salvaged_files=saved.files if saved else 0)
            write_model(record, settled)
        with worktree.repository.git() as git:
            for op in ops:
                unpin(git, op)
        tear_down(home, worktree)
        worktree.remove()
        with suppress(PermissionError):  # of another user, as whom an agent ran a container
            delete(home.run(ref.key) / "box")
    home.worktree_lock(ref.key).unlink(missing_ok=True)
    return settled


def _saved(worktree: Worktree, saving: Callable[[Worktree], Saved | None]) -> Saved | None:
    """Also when the folder is gone: then it is what was published. None as well where nothing of it is left at all."""
    try:
        return saving(worktree)
    except WorktreeBroken:
        if not worktree.path.is_dir():
            return None
    # Its refs were removed, or the repository was made anew in its place; the files are there, so they count from the
    # target as it is now.
    base = worktree.repository.tip(worktree.target)
    return saving(create(worktree.repository, worktree.path, worktree.key, worktree.branch, base, worktree.target))


@contextmanager
def _fenced(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InUse(f"{lock} is held: an agent or a gate has not ended yet") from None
    finally:
        os.close(held)
