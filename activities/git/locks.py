"""Two kinds of lock: ours, which dies with its holders, and git's lock files, which a killed git leaves behind."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BUSY_SECONDS = 60.0
"""How long to wait for a lock of ours. A holder that was killed frees it at once, or when its last git ends."""

STALE_SECONDS = 1.0
"""Git holds the lock file of a ref for a millisecond or two."""

PACKED_STALE_SECONDS = 10.0
"""packed-refs.lock is also held by a `git gc` of the user's: about 0.3 s with 10 000 refs."""

_POLL_SECONDS = 0.02


class Busy(Exception):
    """Another process held the lock for all of `BUSY_SECONDS`."""


@contextmanager
def exclusive(path: Path) -> Iterator[int]:
    """A file descriptor that holds the lock, and so does every process that is given it, until the last has ended.

    Raises Busy.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + BUSY_SECONDS
        while not _taken(fd):
            if time.monotonic() > deadline:
                raise Busy(f"{path} is held by another process")
            time.sleep(_POLL_SECONDS)
        yield fd
    finally:
        os.close(fd)


def _taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def outwait(lock: Path, *, content: str | None = None, since: float = 0.0, stale: float = STALE_SECONDS) -> None:
    """Until git's lock file `lock` is gone: removed, if a killed git has left it.

    One that says `content`, which only we would write, is of a git of ours that is dead. Else it is stale when
    nothing was done with it for `stale` seconds. One from before `since` (seconds since the epoch) is not ours: it
    is left as it is.
    """
    while (found := _look(lock)) is not None:
        made, changed, text = found
        if made < since:
            return
        if (content is not None and text.strip() == content) or time.time() - changed >= stale:
            for file in (_written(lock), lock):
                file.unlink(missing_ok=True)
            return
        time.sleep(_POLL_SECONDS)


def _look(lock: Path) -> tuple[float, float, str] | None:
    """When it was made, when something was last done with it, and what is in it."""
    try:
        made = changed = lock.lstat().st_mtime
        text = lock.read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    with suppress(FileNotFoundError):
        changed = max(changed, _written(lock).lstat().st_mtime)
    return made, changed, text


def _written(lock: Path) -> Path:
    """What git writes while it holds the lock: packed-refs.new; else the lock itself."""
    return lock.with_suffix(".new") if lock.name == "packed-refs.lock" else lock
