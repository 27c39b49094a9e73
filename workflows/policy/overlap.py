"""Which tasks will probably change the same files: what their cards declare, compared.

A declared file is a path or a pattern as in .gitignore. Plain ones, without wildcards, are most of them, and are found
by their words alone: a pattern `src/` or `src/app.py` covers a path if it is one of the names that lead to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import accumulate, islice, takewhile
from typing import NamedTuple

from pathspec import GitIgnoreSpec

MOST_STARS = 6
"""A pattern with more could take very long to match: of it only the folder counts in which it begins."""
DEEPEST = 30
"""Folders of a path that are looked at."""

_WILD = re.compile(r"[*?\[\\]")
_NOTHING: frozenset[str] = frozenset()


class _File(NamedTuple):
    """One declared file, understood."""

    text: str
    pattern: str
    """With wildcards as it is. Else `/a/b` where it begins at the top, and `b` where it may lie in any folder."""
    covering: tuple[str, ...]
    """The plain patterns that cover it; with wildcards: that cover the folder in which it begins."""
    folder: str
    """In which a pattern with wildcards begins, as a plain pattern; empty: anywhere."""
    glob: re.Pattern[str] | None = None
    wild: bool = False

    def matches(self, path: str) -> bool:
        return self.glob is not None and self.glob.match(path.removeprefix("/")) is not None


class Flight:
    """What is declared by those that are in flight."""

    def __init__(self, tasks: Mapping[str, Sequence[str]]) -> None:
        """`tasks`: the files of each."""
        self._tasks: dict[str, set[str]] = {}
        """By file."""
        self._same: dict[str, list[str]] = {}
        """Files by their pattern."""
        self._below: dict[str, list[str]] = {}
        """Files by each plain pattern that covers them."""
        self._globs: dict[str, list[_File]] = {}
        """Those with wildcards by the folder in which they begin."""
        for task, names in tasks.items():
            for name in names:
                self._tasks.setdefault(_understood(name).text, set()).add(task)
        for file in map(_understood, self._tasks):
            self._same.setdefault(file.pattern, []).append(file.text)
            if file.wild:
                self._globs.setdefault(file.folder, []).append(file)
            for pattern in file.covering:
                self._below.setdefault(pattern, []).append(file.text)
        self._sharing = cache(self._of_one)

    def sharing(self, names: Sequence[str]) -> int:
        """With how many of its tasks these files overlap."""
        return len(_NOTHING.union(*map(self._sharing, names))) if self._tasks else 0

    def _of_one(self, name: str) -> frozenset[str]:
        return _NOTHING.union(*(self._tasks[other] for other in self._like(_understood(name))))

    def _like(self, file: _File) -> Iterator[str]:
        """Those that are the same, lie in it, or cover it."""
        yield from self._same.get(file.pattern, ())
        yield from self._below.get(file.pattern, ())
        for pattern in file.covering:
            yield from self._same.get(pattern, ())
        if file.wild:
            below = self._below.get(file.folder, ()) if file.folder else self._tasks
            yield from filter(file.matches, below)
        else:
            for folder in ("", *file.covering):
                yield from (glob.text for glob in self._globs.get(folder, ()) if glob.matches(file.text))


@lru_cache(maxsize=16_384)
def _understood(name: str) -> _File:
    text = name.strip().removeprefix("./")
    fixed = list(islice(takewhile(lambda part: not _WILD.search(part), filter(None, text.split("/"))), DEEPEST))
    paths = list(accumulate(fixed, lambda path, part: f"{path}/{part}", initial=""))
    covering = (*paths[1:], *fixed)
    if _WILD.search(text):
        return _File(text, text, covering, paths[-1], _regex(text), wild=True)
    plain = text.rstrip("/")
    return _File(text, f"/{plain.removeprefix('/')}" if "/" in plain else plain, covering, "")


def _regex(glob: str) -> re.Pattern[str] | None:
    """None: it is none, or too many-sided."""
    if glob.count("*") > MOST_STARS:
        return None
    try:
        return next((pattern.regex for pattern in GitIgnoreSpec.from_lines([glob]).patterns if pattern.include), None)
    except ValueError:
        return None
