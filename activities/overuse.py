"""What a turn used more of than it may: kept for the next one of the same box, which is told, and can put it right.

Nothing is deleted by us. What filled the disk may be work; so the next turn is told what is largest, and gets as much
room as is taken already, and a little more: else it would be ended before it has removed anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from heapq import nlargest
from pathlib import Path

from activities.disk_watch import amount
from activities.git.repository import printable
from activities.sandbox import Limits
from activities.settings import Model, tail
from activities.site import write_model

MOST = 15
SMALL = 10**6
"""Bytes; smaller files count for their folder."""
ROOM = 0.05
"""Of the limit, beyond what is there already."""


class Overuse(Model):
    what: str
    """`disk: 20.3 GB, and 20.0 GB are allowed`; the limit's name comes first."""
    largest: list[str] = []
    """Where the disk was the limit, or that of the turn before."""
    used: int = 0
    """Bytes on the disk then."""

    @property
    def limit(self) -> str:
        return self.what.partition(":")[0]


def note(file: Path, what: str, folders: Mapping[Path, Path]) -> None:
    """For the next turn. `folders`: the command's, by where it sees them. `what` is empty: it was over no limit."""
    if not what:
        file.unlink(missing_ok=True)
        return
    before = noted(file)
    over = Overuse(what=what, **(before.model_dump(include={"largest", "used"}) if before else {}))
    if over.limit == "disk":
        once = {folder: shown for shown, folder in folders.items()}
        sizes = [entry for folder, shown in once.items() for entry in _sizes(folder, shown)]
        largest = [f"{amount(size)} {path}" for size, path in nlargest(MOST, sizes) if size >= SMALL]
        over = Overuse(what=what, largest=largest, used=sum(size for size, _ in sizes))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_model(file, over)


def noted(file: Path) -> Overuse | None:
    return Overuse.model_validate_json(file.read_bytes()) if file.exists() else None


def with_room(limits: Limits, over: Overuse | None) -> Limits:
    """At most twice the limit: what an agent says by its files is not to be trusted."""
    if over is None or limits.disk is None or over.used == 0:
        return limits
    return replace(limits, disk=round(max(limits.disk, min(over.used, 2 * limits.disk) + ROOM * limits.disk)))


def _sizes(top: Path, shown: Path) -> Iterator[tuple[int, str]]:
    """Bytes on the disk of each large file, and of each folder's small ones. No link is followed."""
    seen: set[int] = set()
    waiting = [top]
    device = top.lstat().st_dev if top.exists() else 0
    while waiting:
        folder, small, count = waiting.pop(), 0, 0
        for entry in _entries(folder):
            with suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                size = found.st_blocks * 512
                if found.st_dev != device or (found.st_nlink > 1 and found.st_ino in seen):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                    continue
                seen.add(found.st_ino)
                if size >= SMALL:
                    yield size, _name(shown / Path(entry.path).relative_to(top))
                else:
                    small, count = small + size, count + 1
        if small:
            yield small, f"{_name(shown / folder.relative_to(top))}/ ({count} small files)"


def _entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        yield from entries


def _name(path: Path) -> str:
    """One line that is no markup, whatever it is called."""
    text = printable(os.fsencode(path)).replace("`", "'")
    return "`" + tail("".join(letter if letter.isprintable() else "?" for letter in text), 200) + "`"
