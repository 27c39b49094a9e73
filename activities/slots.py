"""How many turns of agents run in this worker process, and whose: for those who would begin more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

REMEMBERED = 2_000
"""Tasks."""


class Slots:
    """The Temporal worker itself lets no more turns begin than `most`; this only counts."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self._seen: dict[str, None] = {}

    @property
    def free(self) -> int:
        return max(self.most - self.taken, 0)

    @contextmanager
    def turn(self, task_id: str) -> Iterator[None]:
        self._seen.pop(task_id, None)
        self._seen[task_id] = None
        while len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    def had_one(self, task_id: str) -> bool:
        """In this process, and not long ago."""
        return task_id in self._seen
