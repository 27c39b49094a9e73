"""What set-up commands have made, kept by what it depends on, so that it is made once and copied from then on.

setups/<hash>/<n>     the n-th of the paths; the hash is of the command, its paths, and the files of its key
setups/<hash>.lock    held by whoever makes it, shared by those who copy it
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from activities.git.clone import delete
from activities.place import Place, failed
from activities.settings import SetupCache
from activities.site import blocking

MOST_KEPT = 10
"""Of one repository; the one that was used longest ago goes first."""
COPY_SECONDS = 900.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Cache:
    folder: Path

    async def make_or_restore(
        self, place: Place, entry: SetupCache, command: str, make: Callable[[], Awaitable[None]]
    ) -> bool:
        """Afterwards the paths are there; True: `make` has made them. Of several who need the same one makes it, the
        others wait."""
        kept = self.folder / await blocking(_digest, place, entry, command)
        lock = kept.with_suffix(".lock")
        while place.trusted or kept.is_dir():
            there = kept.is_dir()
            async with _holding(lock, fcntl.LOCK_SH if there else fcntl.LOCK_EX):
                if kept.is_dir() and there:
                    os.utime(kept)
                    await _copy_all(place, [(kept / str(n), place.tree / path) for n, path in enumerate(entry.paths)])
                    return False
                if not kept.is_dir() and not there:
                    await _make(place, entry, command, make)
                    await self._keep(place, entry, kept)
                    return True
        await _make(place, entry, command, make)
        return True

    async def _keep(self, place: Place, entry: SetupCache, kept: Path) -> None:
        made = making(kept)
        await blocking(delete, made)
        made.mkdir()
        await _copy_all(place, [(place.tree / path, made / str(n)) for n, path in enumerate(entry.paths)])
        made.rename(kept)
        await blocking(self._tidy)

    def _tidy(self) -> None:
        for old in [*kept_in(self.folder)][:-MOST_KEPT]:
            drop(old)


def kept_in(folder: Path) -> dict[Path, float]:
    """What is there, whole or as a kill has left it, with when it was used last; the oldest first."""
    found = {_made(path): path.stat().st_mtime for path in folder.glob(".*.made")}
    found |= {path: path.stat().st_mtime for path in folder.glob("[!.]*") if path.is_dir()}
    return dict(sorted(found.items(), key=lambda one: one[1]))


def drop(kept: Path) -> bool:
    """Not while somebody makes or copies it: False. The lock's file stays, as another may just have opened it."""
    fd = os.open(kept.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        delete(making(kept))
        if kept.exists():
            kept.rename(making(kept))  # in one step: half of it must not look like all
            delete(making(kept))
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def making(kept: Path) -> Path:
    """Where it is until it is whole."""
    return kept.with_name(f".{kept.name}.made")


def _made(half: Path) -> Path:
    return half.with_name(half.name[1:].removesuffix(".made"))


async def _make(place: Place, entry: SetupCache, command: str, make: Callable[[], Awaitable[None]]) -> None:
    await make()
    missing = [path for path in entry.paths if not os.path.lexists(place.tree / path)]
    if missing:
        failed(f"cache.paths: {missing[0]} is not there after {command!r}")


async def _copy_all(place: Place, pairs: list[tuple[Path, Path]]) -> None:
    """Each whole or not at all; blocks are shared where the file system can do that.

    Not in a sandbox, so what a command has left in the tree must not lead it elsewhere.
    """
    top = Path(os.path.realpath(place.tree))
    for source, destination in pairs:
        inside = destination if destination.is_relative_to(place.tree) else source
        if not Path(os.path.realpath(inside.parent)).is_relative_to(top):
            failed(f"cache.paths: {inside.relative_to(place.tree)} leads out of the tree")
        aside = place.tree.with_name(f".{place.tree.name}.copy")
        if destination.parent.is_relative_to(place.tree):
            destination.parent.mkdir(parents=True, exist_ok=True)
        else:  # into the cache: all of it moves into place at the end
            aside = destination
        log = place.logs / "copy.log"
        await blocking(delete, aside)
        try:
            copied = await place.run_ours(
                ["cp", "-a", "--reflink=auto", "--", str(source), str(aside)], log, COPY_SECONDS
            )
            if copied.exit_code != 0:
                raise OSError(f"{source} cannot be copied: {log.read_text('utf-8', 'replace')[-500:]}")
            if aside != destination:
                await blocking(delete, destination)
                aside.rename(destination)
        finally:
            if aside != destination:
                await blocking(delete, aside)


def _digest(place: Place, entry: SetupCache, command: str) -> str:
    """By the files of the commit, not those of the tree: nobody can have changed them."""
    spec = GitIgnoreSpec.from_lines(entry.key)
    with place.repository.git() as git:
        listed = git("ls-tree", "-r", "-z", "--full-tree", place.commit).split("\0")
    files = [line for line in listed if line and spec.match_file(line.partition("\t")[2])]
    if not files:
        failed(f"cache.key: nothing in the commit matches {', '.join(entry.key)}")
    paths = [line.partition("\t")[2] for line in listed if line]
    for path in entry.paths:
        if any(tracked == path or tracked.startswith(f"{path}/") for tracked in paths):
            failed(f"cache.paths: {path} is tracked")
    parts = [command, *entry.paths, *files]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


@asynccontextmanager
async def _holding(lock: Path, kind: int) -> AsyncIterator[None]:
    """Waits as long as it takes: whoever holds it makes what is waited for, and a killed one lets go."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(fd, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(fd)
