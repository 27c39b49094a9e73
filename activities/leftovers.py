"""What a run has outside of its run folder: its worktree, the files beside it, its refs in the repository."""

from __future__ import annotations

import fcntl
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from activities.git.clone import delete
from activities.git.repository import PINS
from activities.git.run import GitError, UnsupportedRepository
from activities.home import Home
from activities.runs import as_repository

_BESIDE = re.compile(r"\.(.+)\.(made|removed|index|lock|extras|sparse|new|copy)")
_OURS = ("made", "removed", "index", "lock", "extras", "sparse", "new", "copy")
STALE_LOCK_SECONDS = 3600
"""No git of ours holds a ref's lock for longer than a second."""


@dataclass(frozen=True)
class Leftover:
    name: str
    """A path, or a ref and its repository."""
    path: Path | None
    """None: it is a ref."""
    kind: str
    """`worktree`; what lies beside one (`_OURS`); or `ref`."""

    @property
    def holds_no_work(self) -> bool:
        """A worktree in the making, one that was saved and is being deleted, a copy of an index, a lock, what
        set-up notes and copies."""
        return self.kind in _OURS


def leftovers(home: Home, repositories: Mapping[str, Path]) -> dict[str, list[Leftover]]:
    """By the key of the run."""
    found: dict[str, list[Leftover]] = defaultdict(list)
    for path in sorted((home.root / "worktrees").glob("*")):
        beside = _BESIDE.fullmatch(path.name)
        if beside:
            found[beside[1]].append(Leftover(str(path), path, beside[2]))
        elif path.suffix == ".lock" and not path.is_dir():
            found[path.stem].append(Leftover(str(path), path, "lock"))
        else:
            found[path.name].append(Leftover(str(path), path, "worktree"))
    folders = [f"refs/mergewright/{kind}" for kind in (*PINS, "turn")]
    for common_dir in repositories.values():
        with suppress(GitError, UnsupportedRepository, OSError), as_repository(common_dir).git() as git:
            for ref in git("for-each-ref", "--format=%(refname)", *folders).split():
                found["/".join(ref.split("/")[3:4])].append(Leftover(f"{ref} of {common_dir}", None, "ref"))
    return found


def delete_unused(path: Path, lock: Path) -> bool:
    """Deletes what holds no work, unless somebody is at work in that place."""
    held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        delete(path)
        delete(lock)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(held)


def stale_locks(common_dir: Path, now: float) -> list[Path]:
    """Lock files of refs of ours that a killed git has left."""
    found = []
    for lock in (common_dir / "refs" / "mergewright").rglob("*.lock"):
        with suppress(OSError):
            if now - lock.lstat().st_mtime > STALE_LOCK_SECONDS:
                found.append(lock)
    return found
