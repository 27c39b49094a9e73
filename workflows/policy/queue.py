"""The merge queue's rules.

* Strictly one at a time, first come first served among those that may go.
* A candidate whose landing would touch files that the user has changed in a checkout of the target is *held*: it is
  tried again after 2 s, 4 s ... at most 60 s. All that is not held goes first, for each try costs a run of the gates;
  after five minutes without a try it has its turn all the same. Nothing of the user's is touched.
* Red gates eject after one confirming run of the same commit.
* A lost race (somebody pushed to the target) goes back to the front and costs nothing.
* Every candidate gets exactly one answer. Sent again after it landed, it gets that answer again; sent again after
  anything else, it is a new try.
"""

from __future__ import annotations

from collections.abc import Sequence

from workflows.contracts import MergeAnswer, QueueEntry

CONFIRMING_RUNS = 1
HOLD_SECONDS = 2.0
MAX_HOLD_SECONDS = 60.0
OVERDUE_SECONDS = 300.0
REMEMBERED = 200


def next_entry(entries: Sequence[QueueEntry], now: float) -> QueueEntry | None:
    """The first candidate that may go at `now` (seconds since the epoch)."""
    ready = [entry for entry in entries if entry.not_before <= now]
    fresh = [entry for entry in ready if entry.holds == 0 or entry.not_before + OVERDUE_SECONDS <= now]
    return next(iter(fresh or ready), None)


def wake_at(entries: Sequence[QueueEntry]) -> float | None:
    """When the next candidate may go, in seconds since the epoch; None: the queue is empty."""
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
