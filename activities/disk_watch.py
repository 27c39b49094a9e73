"""Whether a command has filled its folders beyond what it may."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

OFTEN_SECONDS = 15.0
"""Between two measurements; longer where one takes long."""
SOON_SECONDS = 1.0
"""When the file system has lost as much as a quarter of what the command may have."""
_UNITS = {"processes": (1, "")}


def over_limit(name: str, used: int, limit: int) -> str:
    """For a person: `memory: 3.1 GB, and 2.0 GB are allowed`."""
    size, unit = _UNITS.get(name, _unit(limit))
    digits = 0 if size == 1 else 1
    return f"{name}: {used / size:.{digits}f}{unit}, and {limit / size:.{digits}f}{unit} are allowed"


def amount(count: int) -> str:
    size, unit = _unit(count)
    return f"{count / size:.1f}{unit}"


def _unit(count: int) -> tuple[int, str]:
    return (10**9, " GB") if count >= 10**8 else (10**6, " MB")


class DiskWatch:
    """By `du`, which goes through trees of any depth, and is another process: it keeps nobody here from working."""

    def __init__(self, folders: Sequence[Path], limit: int | None) -> None:
        self.over = ""
        """Set once it is too much."""
        self._folders, self._limit = folders, limit
        self._du: subprocess.Popen[bytes] | None = None
        self._began = self._ended = time.monotonic()
        self._free: int | None = None

    def look(self) -> None:
        """To be called often."""
        if self._limit is None:
            return
        if self._du is not None:
            self._read(self._limit)
            return
        with suppress(OSError):  # an agent may have deleted its own worktree
            self._measure(self._limit)

    def _measure(self, limit: int) -> None:
        now, free = time.monotonic(), self._now_free()
        self._free = free if self._free is None else self._free
        soon = now - self._ended >= SOON_SECONDS and self._free - free > limit / 4
        if soon or now - self._ended >= max(OFTEN_SECONDS, 20 * (self._ended - self._began)):
            self._began, self._free = now, free
            self._du = subprocess.Popen(
                ["du", "-scx", "--block-size=1", "--", *dict.fromkeys(map(str, self._folders))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            )

    def close(self) -> None:
        if self._du is not None:
            self._du.kill()
            self._du.communicate()

    def _read(self, limit: int) -> None:
        if self._du is None or self._du.poll() is None:
            return
        said, _ = self._du.communicate()
        self._du, self._ended = None, time.monotonic()
        with suppress(IndexError, ValueError):
            used = int(said.split(b"\n")[-2].split()[0])  # the last line is the sum
            if used > limit:
                self.over = over_limit("disk", used, limit)

    def _now_free(self) -> int:
        there = os.statvfs(self._folders[0])
        return there.f_bavail * there.f_frsize
