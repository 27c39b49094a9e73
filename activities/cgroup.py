"""Limits that the kernel keeps, where it lets us: each command in a cgroup (v2) of its own.

The cgroup of this process must be ours to divide: that of a systemd unit with `Delegate=yes`, of a container, or the
root's. Then no burst exceeds the memory, a fork bomb stops also for root, and what a command leaves is ended by one
write. Elsewhere the supervisor's looks at /proc are all there is; they go on here as well, and usually come first.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from activities.disk_watch import over_limit
from activities.sandbox import UNLIMITED, Limits

log = structlog.get_logger()

NEEDED = frozenset({"memory", "pids"})
_USED = ("memory", "pids", "cpu")
_KILLED_SECONDS = 5.0
_numbers = itertools.count(1)
_place: Path | None = None
"""Where commands get theirs, once it is adopted."""


def problem() -> str:
    """Why commands get no cgroups of their own here; empty when they can. Nothing is changed."""
    base = _own()
    if base is None:
        return "no cgroup v2"
    if lacking := NEEDED - set(_read(base / "cgroup.controllers").split()):
        return f"no {' and '.join(sorted(lacking))} in {base}/cgroup.controllers"
    if not os.access(base / "cgroup.procs", os.W_OK):
        return f"{base} may not be written"
    return "" if _is_given(base) else f"{base} is not ours to divide: run the worker in a unit with Delegate=yes"


def adopt() -> str:
    """Divides the cgroup of this process, for all commands from now on; says why not, else nothing. Once is enough."""
    if _place is not None:
        return ""
    base, why = _own(), problem()
    if why or base is None:
        return why
    try:
        divide(base)
    except OSError as refused:
        return f"{base}: {refused.strerror}"
    return ""


def divide(base: Path) -> None:
    """A group that is divided may hold no process itself, so we go into one of its own, with all that is there."""
    global _place
    if (base / "cgroup.type").exists():  # the root has none, and may
        ours = base / "worker"
        ours.mkdir(exist_ok=True)
        for pid in _read(base / "cgroup.procs").split():
            with suppress(ProcessLookupError):
                (ours / "cgroup.procs").write_text(pid)
    given = _read(base / "cgroup.controllers").split()
    if wanted := [f"+{name}" for name in _USED if name in given]:
        (base / "cgroup.subtree_control").write_text(" ".join(wanted))
    for left in base.glob("command-*"):  # of a worker that was killed
        if not Path(f"/proc/{left.name.split('-')[1]}").exists():
            remove(left)
    _place = base


class Group:
    """Of one command; `fd` is to be given to what shall be in it."""

    def __init__(self, place: Path, limits: Limits) -> None:
        self._folder = place / f"command-{os.getpid()}-{next(_numbers)}"
        self._limits = limits
        self._folder.mkdir()
        write(self._folder, limits)
        self.fd = os.open(self._folder / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def over(self) -> str:
        """Which limit it was ended for by the kernel, as `over_limit` says it; else empty."""
        events, peak = (_read(self._folder / name) for name in ("memory.events", "memory.peak"))
        return "" if self._limits.memory is None else killed(events, peak, self._limits.memory)

    def close(self) -> None:
        """Nothing is left in it, and nothing of it."""
        os.close(self.fd)
        remove(self._folder)


@contextmanager
def of(limits: Limits) -> Iterator[Group | None]:
    """A new one, where there can be; without it the command runs all the same."""
    group = None
    try:
        group = Group(_place, limits) if _place and limits != UNLIMITED else None
    except OSError as problem:
        log.warning("a command has no cgroup", why=str(problem))
    try:
        yield group
    finally:
        if group:
            group.close()


def killed(events: str, peak: str, limit: int) -> str:
    """`peak` is empty where the kernel does not tell it."""
    found = re.search(r"^oom_kill (\d+)$", events, re.MULTILINE)
    return over_limit("memory", int(peak or limit), limit) if found and int(found[1]) else ""


def write(folder: Path, limits: Limits) -> None:
    """Twice the processes: the supervisor is to see that they are too many, and end it all."""
    wanted = {
        "memory.max": limits.memory,
        "memory.swap.max": None if limits.memory is None else 0,
        "memory.oom.group": None if limits.memory is None else 1,
        "pids.max": None if limits.processes is None else 2 * limits.processes,
        "cpu.weight.nice": limits.nice or None,
    }
    for name, value in wanted.items():
        if value is not None and (folder / name).exists():
            (folder / name).write_text(str(value))


def remove(folder: Path) -> None:
    with suppress(OSError):
        (folder / "cgroup.kill").write_text("1")
    with suppress(OSError):
        until = time.monotonic() + _KILLED_SECONDS
        while "populated 1" in _read(folder / "cgroup.events") and time.monotonic() < until:
            time.sleep(0.005)
        folder.rmdir()


def _own() -> Path | None:
    """The cgroup of this process, if there is a hierarchy of version 2."""
    mounts = [line.split() for line in _read(Path("/proc/self/mountinfo")).splitlines()]
    roots = [fields[4] for fields in mounts if "-" in fields and fields[fields.index("-") + 1] == "cgroup2"]
    named = [line[3:] for line in _read(Path("/proc/self/cgroup")).splitlines() if line.startswith("0::")]
    return Path(roots[0] + named[0].rstrip("/")) if roots and named else None


def _is_given(base: Path) -> bool:
    if _read(Path("/proc/self/cgroup")).splitlines()[-1] == "0::/":  # a container's, or no systemd has others in it
        return True
    for name in ("user.delegate", "trusted.delegate"):  # systemd's word
        with suppress(OSError):
            if os.getxattr(base, name) == b"1":
                return True
    return False


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
