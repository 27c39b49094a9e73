"""The lock that keeps two runs out of one worktree. The newest wins: an older one can only be a zombie.

The lock belongs to the supervisor of a command alone (`supervise.py`), so it is free when nothing is left of the
command and not before. The file holds that supervisor's pid; SIGTERM to it ends the command. It works on one host.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

BUSY_SECONDS = 60.0
"""How long a new run waits for the old one to end. More than any grace that is given."""
_POLL_SECONDS = 0.05


class Busy(Exception):
    """The holder of the lock did not end within `BUSY_SECONDS`."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is still held by an earlier run that does not end")
        self.path = path


async def take(lock: Path) -> BinaryIO:
    """The lock, held as long as a copy of this file is open; whoever had it before has been ended. Raises Busy."""
    deadline = time.monotonic() + BUSY_SECONDS
    while (file := _try(lock)) is None:
        if time.monotonic() >= deadline:
            raise Busy(lock)
        await asyncio.sleep(_POLL_SECONDS)
    return file


def _try(lock: Path) -> BinaryIO | None:
    """None if it is held; its holder has then been asked to end."""
    file = lock.open("a+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), lock.stat()):  # else it was deleted since it was opened
            file.truncate(0)
            return file
    except BlockingIOError:
        _evict(file.fileno())
    except FileNotFoundError:
        pass
    file.close()
    return None


def _evict(held: int) -> None:
    """SIGTERM to the supervisor named in the lock. As it holds the lock its pid is not yet anyone else's."""
    if (found := re.search(rb'"child-pid": *(\d+)', os.pread(held, 4096, 0))) is None:
        return  # it is just being started; it will be asked the next time
    with suppress(OSError):
        if b"supervise.py" in Path(f"/proc/{found[1].decode()}/cmdline").read_bytes():
            os.kill(int(found[1]), signal.SIGTERM)
