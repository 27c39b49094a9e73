"""One orchestrator for each repository: a second one, started by mistake, is refused and told who the first is.

Two of them would land on one branch with two merge queues, each with a lock of its own. Every worker process that
uses a repository holds `mergewright.lock` in its git directory, shared, until it ends: the kernel frees it, however the
process ends. Whoever gets it alone knows that no worker is alive, and writes its own orchestrator's name into it.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from activities.git.locks import exclusive
from activities.git.repository import RepositoryProblem

LOCK = "mergewright.lock"
_CLAIMING = "mergewright.claim"
"""Held while a claim is made: so what is found locked is held by a worker, and not by another that only looks."""

_held: dict[tuple[Path, Owner], int] = {}
"""The file descriptors by which this process holds what it has claimed. No child of it gets them."""
_one_thread = threading.Lock()


@dataclass(frozen=True)
class Owner:
    """An orchestrator, as one of its worker processes knows it: they all have the same name, whatever the host."""

    address: str
    """Of the Temporal server."""
    namespace: str
    task_queue: str
    home: str
    """Data folder."""
    host: str = field(compare=False)


@dataclass(frozen=True)
class _Claim:
    """What the file says: whose the repository is, and the process that said so."""

    owner: Owner
    pid: int
    since: str


class OwnedByAnother(RepositoryProblem):
    """Another orchestrator has a living worker that uses the repository; the message names it, in one line."""


def claim(common_dir: Path, owner: Owner) -> None:
    """The repository is the owner's, as long as this process lives.

    To be called before each use: once claimed it costs one look at the file, which shows whether somebody has removed
    it meanwhile. Raises OwnedByAnother; RepositoryProblem where no lock can be made; locks.Busy.
    """
    path = common_dir / LOCK
    with _one_thread:
        while not _stands(path, owner):
            if (old := _held.pop((path, owner), None)) is not None:
                os.close(old)
            try:
                with exclusive(common_dir / _CLAIMING):
                    _held[path, owner] = _take(path, owner)
            except OSError as error:
                text = f"{error.filename or path} cannot be locked: {error.strerror}"
                raise RepositoryProblem(f"{text}; the workers must be able to write there") from None


def last_home(common_dir: Path) -> Path | None:
    """The data folder of whoever has claimed the repository last, alive or not; None: nobody, or it cannot be read."""
    with suppress(OSError):
        fd = os.open(common_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = _read(fd)
        finally:
            os.close(fd)
        return Path(found.owner.home) if found else None
    return None


def _stands(path: Path, owner: Owner) -> bool:
    """What we hold is the file that others find."""
    with suppress(KeyError, FileNotFoundError):
        return os.path.samestat(os.fstat(_held[path, owner]), path.stat())
    return False


def _take(path: Path, owner: Owner) -> int:
    """The file, locked shared; it names the owner. What a kill leaves half written is written anew by the next."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            first = _read(fd)
            if first is None or first.owner != owner:
                raise OwnedByAnother(_told(path, first)) from None
        else:
            _write(fd, _Claim(owner, os.getpid(), f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"))
        fcntl.flock(fd, fcntl.LOCK_SH)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write(fd: int, claimed: _Claim) -> None:
    line = json.dumps({**asdict(claimed.owner), "pid": claimed.pid, "since": claimed.since})
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{line}\n".encode(), 0)


def _read(fd: int) -> _Claim | None:
    """None for what is no claim: nothing, half a line, or something of a person's."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        found = json.loads(os.pread(fd, 65536, 0))
        pid, since = found.pop("pid"), found.pop("since")
        return _Claim(Owner(**found), pid, since)
    return None


def _told(path: Path, first: _Claim | None) -> str:
    if first is None:
        return f"{path.parent} belongs to another orchestrator, whose name in {path} cannot be read: stop its workers"
    name = first.owner
    return (
        f"{path.parent} belongs to another orchestrator: Temporal at {name.address}, namespace {name.namespace}, "
        f"task queue {name.task_queue}, data folder {name.home}, worker process {first.pid} on {name.host} since "
        f"{first.since}: stop its workers, or give the task to its task queue"
    )
