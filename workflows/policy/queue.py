"""The merge queue's rules.

* Strictly one at a time, first come first served among those that may go.
* A candidate whose landing would touch files that the user has changed in a checkout of the target is *held*: it is
  tried again after 2 s, 4 s ... at most 60 s, and those behind it go first. Nothing of the user's is touched.
* Red gates eject after one confirming run of the same commit.
* A lost race (somebody pushed to the target) goes back to the front and costs nothing.
* Every candidate gets exactly one answer; asked again, it gets the same answer again.
"""

from __future__ import annotations

from collections.abc import Sequence

from workflows.contracts import MergeAnswer, QueueEntry

CONFIRMING_RUNS = 1
HOLD_SECONDS = 2.0
MAX_HOLD_SECONDS = 60.0
REMEMBERED = 200


def next_entry(entries: Sequence[QueueEntry], now: float) -> QueueEntry | None:
    """The first candidate that may go at `now` (seconds since the epoch)."""
    return next((entry for entry in entries if entry.not_before <= now), None)


def wake_at(entries: Sequence[QueueEntry]) -> float | None:
    """When the next held candidate may be tried again; None: nothing is held."""
    return min((entry.not_before for entry in entries), default=None)


def held(entry: QueueEntry, reason: str, now: float) -> QueueEntry:
    pause = min(HOLD_SECONDS * 2.0 ** min(entry.holds, 10), MAX_HOLD_SECONDS)
    return entry.model_copy(
        update={"state": "held", "reason": reason, "holds": entry.holds + 1, "not_before": now + pause}
    )


def submitted(entries: Sequence[QueueEntry], entry: QueueEntry) -> list[QueueEntry]:
    """With one more candidate; the same one twice is one."""
    known = any(other.candidate.op == entry.candidate.op for other in entries)
    return [*entries] if known else [*entries, entry]


def replaced(entries: Sequence[QueueEntry], entry: QueueEntry) -> list[QueueEntry]:
    return [entry if other.candidate.op == entry.candidate.op else other for other in entries]


def without(entries: Sequence[QueueEntry], op: str) -> list[QueueEntry]:
    return [entry for entry in entries if entry.candidate.op != op]


def remember(recent: Sequence[MergeAnswer], answer: MergeAnswer) -> list[MergeAnswer]:
    return [*(old for old in recent if old.op != answer.op), answer][-REMEMBERED:]
