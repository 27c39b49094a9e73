"""Follows the output files of a command while they grow, and masks the secrets in them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

from activities.masking import MASKS

LINE_LIMIT = 16 * 2**20
"""Bytes of a line that are handed over; the rest of a longer line is left out (it is in the file)."""


class Transcript:
    """Both files, which it creates or truncates. Takes time linear in their size, also when that is all one line.

    A secret stands in the file until the next `follow`, or until this is left; should we be killed before, whoever
    keeps the file masks it (`MASKS.file`).
    """

    def __init__(self, stdout: Path, stderr: Path, on_line: Callable[[str], None] | None) -> None:
        self._fds = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666) for path in (stdout, stderr)]
        self._sizes = [0, 0]
        self._done = [0, 0]
        """Bytes of each that are masked, and of the first one handed over."""
        self._on_line = on_line
        self._line: list[bytes] = []
        self._room = LINE_LIMIT

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for number, fd in enumerate(self._fds):
            while MASKS and self._next(number, whole=True):
                pass
            os.close(fd)

    async def follow(self) -> bool:
        """Hands over the lines that are new. True if either file has changed its size since the last time."""
        sizes = [os.fstat(fd).st_size for fd in self._fds]
        changed, self._sizes = sizes != self._sizes, sizes
        for number, size in enumerate(sizes):
            on_line = None if number else self._on_line
            while (MASKS or on_line) and self._done[number] < size and (piece := self._next(number)):
                if on_line:
                    self._feed(piece, on_line)
                await asyncio.sleep(0)
        return changed

    def finish(self) -> None:
        """Hands over what stands after the last line feed."""
        if self._on_line is not None:
            while piece := self._next(0, whole=True):
                self._feed(piece, self._on_line)
            if self._line:
                self._hand_over(self._on_line)

    def _next(self, number: int, *, whole: bool = False) -> bytes:
        if self._done[number] >= os.fstat(self._fds[number]).st_size:  # of a device nothing, however much it says
            return b""
        piece = MASKS.follow(self._fds[number], self._done[number], whole=whole)
        self._done[number] += len(piece)
        return piece

    def _feed(self, piece: bytes, on_line: Callable[[str], None]) -> None:
        *ended, rest = piece.split(b"\n")
        for line in ended:
            self._add(line)
            self._hand_over(on_line)
        self._add(rest)

    def _add(self, piece: bytes) -> None:
        if piece and self._room:
            self._line.append(piece[: self._room])
            self._room -= len(self._line[-1])

    def _hand_over(self, on_line: Callable[[str], None]) -> None:
        line = b"".join(self._line).decode("utf-8", "replace")
        self._line, self._room = [], LINE_LIMIT
        on_line(line)
