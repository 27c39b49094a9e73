"""In which order candidates should land.

* The higher level first: the priority, and one more for each `LEVEL_SECONDS` of waiting. So nobody starves: whoever
  has waited longer than another one by that time for each priority between them goes first.
* Within a level, whoever conflicts with fewer of the tasks in flight; then first come, first served.
* Those whose gates run, or have run, keep their order and their place before all that come later: each change before
  them makes what is known of them worthless. Only a strictly higher priority, as it was given, goes before them, and
  only while their age does not make up for it.
* Nobody comes before one that it has to follow: that one is brought forward. Circles count as not there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

LEVEL_SECONDS = 1800.0
"""Of waiting are worth one level of priority."""


@dataclass(frozen=True)
class Waiting:
    op: str
    number: int
    """Of arrival."""
    priority: int
    """The higher the sooner."""
    since: float
    """When it came, in seconds since the epoch."""
    overlaps: int = 0
    """Of the other tasks in flight: with how many it conflicts."""
    after: Collection[str] = ()
    """Ops that have to land first; those that do not wait count as landed."""


def ordered(waiting: Sequence[Waiting], now: float, settled: Sequence[str]) -> list[str]:
    """All ops, the first to land first.

    `settled`: those in chains that are tested or known, in the order in which they stood until now.
    """
    levels = {one.op: _level(one, now) for one in waiting}
    by_op = {one.op: one for one in waiting}
    firm = [by_op[op] for op in dict.fromkeys(settled) if op in by_op]

    def place(one: Waiting) -> int:
        """So many of the settled ones go before it."""
        ahead = (
            number
            for number, other in enumerate(firm, 1)
            if one.priority <= other.priority or levels[one.op] <= levels[other.op]
        )
        return max(ahead, default=0)

    kept = {one.op: number for number, one in enumerate(firm, 1)}
    ranks = {
        one.op: (kept[one.op], 0, 0, 0, 0)
        if one.op in kept
        else (place(one), 1, -levels[one.op], one.overlaps, one.number)
        for one in waiting
    }
    return _with_dependencies(sorted(by_op, key=ranks.__getitem__), by_op)


def _level(one: Waiting, now: float) -> int:
    return one.priority + int(max(now - one.since, 0.0) // LEVEL_SECONDS)


def _with_dependencies(order: Sequence[str], waiting: Mapping[str, Waiting]) -> list[str]:
    """The same order, but each after all that it has to follow; these are brought forward."""
    if not any(one.after for one in waiting.values()):
        return list(order)
    rank = {op: number for number, op in enumerate(order)}
    left = {op: sorted(after, key=rank.__getitem__, reverse=True) for op, after in _acyclic(waiting).items()}
    seen: set[str] = set()
    found: list[str] = []
    for first in order:
        path = [] if first in seen else [first]
        while path:
            op = path[-1]
            seen.add(op)
            if left[op]:
                other = left[op].pop()
                path += [] if other in seen else [other]
            else:
                found.append(path.pop())
    return found


def _acyclic(waiting: Mapping[str, Waiting]) -> dict[str, list[str]]:
    """What each one has to follow; circles count as not there. The same ones, whatever the present order is."""
    names = sorted(waiting, key=lambda op: (waiting[op].number, op))
    after = {op: sorted(waiting.keys() & waiting[op].after) for op in names}
    while True:
        try:
            TopologicalSorter(after).prepare()
            return after
        except CycleError as error:
            for other, op in pairwise(error.args[1]):
                after[op].remove(other)
