"""How old things are, by the time that the janitor has seen pass: a clock that is set ahead does not make them old.

Time passes from one clean-up to the next, and never more than a day: not when the clock jumps, nor when there was no
worker for a month. Then things are kept for longer. A thing is as old as the time that has passed since the first
clean-up that found it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from activities.site import write_model

DAY = 86_400.0
LONGEST = DAY
"""Seconds that can pass from one clean-up to the next. They come every hour."""


class _Kept(BaseModel):
    at: float
    """What the clock said at the last clean-up, in seconds since the epoch."""
    passed: float = Field(default=0.0, ge=0.0)
    """Seconds that all clean-ups have seen pass."""
    since: dict[str, float] = {}
    """By the name of a thing: what `passed` was when it was found first."""


class Ages:
    """`now` is the clock's time. A record that cannot be read is begun anew: then everything is young again."""

    def __init__(self, record: Path, now: float) -> None:
        self._record = record
        try:
            kept = _Kept.model_validate_json(record.read_bytes())
        except (FileNotFoundError, ValueError):
            kept = _Kept(at=now)
        self._now = now
        self._since = kept.since
        self._passed = kept.passed + min(max(now - kept.at, 0.0), LONGEST)
        self._found: set[str] = set()

    def knows(self, thing: str) -> bool:
        return thing in self._since

    def days(self, thing: str) -> float:
        """Of a thing that is there; none when it is found for the first time."""
        self._found.add(thing)
        return (self._passed - self._since.setdefault(thing, self._passed)) / DAY

    def forget(self, thing: str) -> None:
        """It is something else by now."""
        self._found.discard(thing)

    def save(self) -> None:
        """Of what was found this time: what comes again later is as new."""
        since = {thing: self._since[thing] for thing in sorted(self._found)}
        write_model(self._record, _Kept(at=self._now, passed=self._passed, since=since))
