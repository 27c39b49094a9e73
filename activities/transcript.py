"""Follows the output files of a command while they grow."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Self

LINE_LIMIT = 16 * 2**20
"""Bytes of a line that are handed over; the rest of a longer line is left out (it is in the file)."""
_CHUNK = 2**20


class Transcript:
    """Both files, which it creates or truncates. Takes time linear in their size, also when that is all one line."""

    def __init__(self, stdout: Path, stderr: Path, on_line: Callable[[str], None] | None) -> None:
        self._fds = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666) for path in (stdout, stderr)]
        self._sizes = [0, 0]
        self._read = 0
        self._on_line = on_line
        self._line: list[bytes] = []
        self._room = LINE_LIMIT

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)

    async def follow(self) -> bool:
        """Hands over the lines that are new. True if either file has changed its size since the last time."""
        sizes = [os.fstat(fd).st_size for fd in self._fds]
        changed, self._sizes = sizes != self._sizes, sizes
        while self._on_line is not None and self._read < sizes[0]:
            chunk = os.pread(self._fds[0], min(_CHUNK, sizes[0] - self._read), self._read)
            if not chunk:
                break
            self._read += len(chunk)
            *ended, rest = chunk.split(b"\n")
            for piece in ended:
                self._add(piece)
                self._hand_over(self._on_line)
            self._add(rest)
            await asyncio.sleep(0)
        return changed

    def finish(self) -> None:
        """Hands over what stands after the last line feed."""
        if self._line and self._on_line is not None:
            self._hand_over(self._on_line)

    def _add(self, piece: bytes) -> None:
        if piece and self._room:
            self._line.append(piece[: self._room])
            self._room -= len(self._line[-1])

    def _hand_over(self, on_line: Callable[[str], None]) -> None:
        line = b"".join(self._line).decode("utf-8", "replace")
        self._line, self._room = [], LINE_LIMIT
        on_line(line)
