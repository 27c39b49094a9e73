"""The merge queue's rules for those who wait. Which of them are tested together is in `speculation`, in what order
they stand in `order`.

* A candidate whose landing would touch files that the user has changed in a checkout of the target is *held*: it is
  tried again after 2 s, 4 s ... at most 60 s, behind all that is not held; after five minutes it has its place all the
  same. Nothing of the user's is touched.
* What changes protected paths waits for an operator's `allow`; once more, when what would land changes others as well.
* What depends on another task waits until that one has landed, or is ahead of it in the queue.
* Every candidate gets exactly one answer. Sent again after it landed, it gets that answer again; sent again after
  anything else, it is a new try.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from activities.queue_contracts import QueueEntry
from activities.settings import tail
from workflows.contracts import MergeAnswer, QueueState
from workflows.policy.order import Waiting, ordered

CONFIRMING_RUNS = 1
HOLD_SECONDS = 2.0
MAX_HOLD_SECONDS = 60.0
OVERDUE_SECONDS = 300.0
REMEMBERED = 200
REMEMBERED_TAIL = 500
"""Characters of a red gate's output,"""
REMEMBERED_LINE = 150
"""and of what is told in lines: a path, say."""
MAX_FOLLOW_SECONDS = 600.0
MAX_TROUBLE_SECONDS = 60.0
MAX_LOOK_SECONDS = 120.0
MOST_CHARACTERS = 300
MOST_PATHS = 10


def why_not(entry: QueueEntry, state: QueueState, now: float) -> str:
    """Why it must not go yet; empty: it may. Dependencies are looked at in `going`."""
    if state.mode == "draining" and entry.number > state.mode_since:
        return "the queue is being drained: it goes when the queue is resumed"
    tried = entry.failed_on and state.frozen_on in ("", entry.failed_on)
    if state.mode == "frozen" and (entry.number <= state.mode_since or tried):
        return f"the queue is frozen: {state.mode_reason}"
    if entry.protected and not entry.allowed:
        return f"leave to change {', '.join(entry.protected[:10])}: `allow` it, or `cancel` it"
    if entry.not_before > now:
        return entry.why
    return ""


def going(
    entries: Collection[QueueEntry], state: QueueState, now: float, settled: Sequence[str]
) -> tuple[list[QueueEntry], dict[str, str]]:
    """Those that may go, in order, and why the others wait. `settled`: see `order.ordered`."""
    waits = {entry.op: why for entry in entries if (why := why_not(entry, state, now))}
    by_task = {entry.task_id: entry for entry in entries}
    while True:
        new = {
            entry.op: f"task {task} to land first"
            for entry in entries
            if entry.op not in waits
            for task in entry.after
            if task not in by_task or by_task[task].op in waits
        }
        if not new:
            break
        waits |= new
    free = [entry for entry in entries if entry.op not in waits]
    known = {entry.op: entry for entry in free}
    order = [known[op] for op in ordered([_waiting(entry, by_task) for entry in free], now, settled)]
    soon: list[QueueEntry] = []
    late: dict[str, QueueEntry] = {}
    for entry in order:  # those that follow a held one come after it, wherever it goes
        tried = entry.holds and entry.not_before + OVERDUE_SECONDS > now
        if tried or not late.keys().isdisjoint(entry.after):
            late[entry.task_id] = entry
        else:
            soon.append(entry)
    return [*soon, *late.values()], waits


def _waiting(entry: QueueEntry, by_task: dict[str, QueueEntry]) -> Waiting:
    after = frozenset(by_task[task].op for task in entry.after if task in by_task and task != entry.task_id)
    return Waiting(entry.op, entry.number, entry.priority, entry.since, entry.overlaps, after)


def wake_at(entries: Iterable[QueueEntry], now: float) -> float | None:
    """When a held one may go, in seconds since the epoch."""
    return min((entry.not_before for entry in entries if entry.not_before > now), default=None)


def held(entry: QueueEntry, reason: str, now: float) -> QueueEntry:
    pause = min(HOLD_SECONDS * 2.0 ** min(entry.holds, 10), MAX_HOLD_SECONDS)
    return entry.model_copy(
        update={"why": reason[:MOST_CHARACTERS], "holds": entry.holds + 1, "not_before": now + pause}
    )


def short(entry: QueueEntry) -> QueueEntry:
    """A thousand of them travel with the queue."""
    protected = few(entry.protected, MOST_PATHS)
    return entry.model_copy(update={"title": entry.title[:MOST_CHARACTERS], "protected": protected})


def few(lines: Sequence[str], most: int) -> list[str]:
    return [line[:REMEMBERED_LINE] for line in lines[:most]]


def remember(recent: Sequence[MergeAnswer], answer: MergeAnswer) -> list[MergeAnswer]:
    """All that are remembered travel with the queue, so each is short."""
    evidence = answer.evidence
    cut = evidence.model_copy(
        update={
            "files": few(evidence.files, 10),
            "stages": few(evidence.stages, 5),
            "messages": few(evidence.messages, 5),
            "landed_by": few(evidence.landed_by, 10),
            "gates": [
                gate.model_copy(update={"tail": tail(gate.tail, REMEMBERED_TAIL)}) for gate in evidence.gates[:3]
            ],
        }
    )
    kept = answer.model_copy(
        update={"conflict": None, "gates": [], "evidence": cut, "reason": tail(answer.reason, 500)}
    )
    return [*(old for old in recent if old.op != answer.op), kept][-REMEMBERED:]
