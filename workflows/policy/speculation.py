"""Which chains of candidates the merge queue tests at the same time, what may land, and who is to blame.

A chain is a row of candidates, one on top of the other, on the target as it is now: one run of the gates on its tip
tests all of them, and if that is green all of them land. Two ways to choose chains:

* The ladder, while few candidates are bad (slots * p < 1): beginnings of the queue, so long that the first bad one is
  equally likely to be in each of the gaps between their ends. Once a beginning is red only shorter ones are tested;
  slots that are left over test the queue without one of those in the red beginning. What is green then lands past
  that one, which stays where it is.
* The tree, when many are bad, or when each candidate has to be tested by itself: the most probable of all ways in
  which the candidates may turn out, one candidate more in each chain. Nothing lands past one that is not settled.

Rules of both: blame needs a red chain of one, at the head of the queue, on the target; a gate that runs on a beginning
of the queue is not stopped before that beginning is known to hold a bad one; nobody is tested or lands before one that
it has to follow.

Pure: all that is known comes in a `View`. Only the first `LOOK` of the queue are looked at.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain as joined
from typing import Literal, TypeVar

from pydantic import Field

from activities.settings import Model

Chain = tuple[str, ...]
"""Candidates, by op, in the order in which they land on the target as it is now."""

Verdict = Literal["green", "red", "apart"]
"""`apart`: the last one cannot be put on top of the others (a conflict, nothing left to land, not a fast-forward). It
is known from building the chain, costs no gate, and the last one is left out of chains that begin so."""

LOOK = 64
LONGEST_RUNG = 32
"""So that one red run does not cost more than five more to find who it was."""
LEAST_P, MOST_P = 0.002, 0.9
MEMORY = 200.0
"""So many outcomes count; older ones fade."""

V = TypeVar("V")


@dataclass(frozen=True)
class View:
    queue: Chain
    """All that may go, in the order in which they should land."""
    known: Mapping[Chain, Verdict]
    """On the present target."""
    running: Collection[Chain]
    """Whose gates run now."""
    slots: int
    p: float
    """The estimated share of bad candidates."""
    each: bool = False
    """Every commit that lands is tested by itself."""
    after: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Of a candidate: those that have to land first. Only those before it in the queue count."""
    doubted: Collection[str] = ()
    """Were red alone once, or passed over by a landing: at the head they are tested alone at once, while the others are
    tested as if they were gone, and nothing lands past them again."""


class Odds(Model):
    """How many candidates are bad, learnt from those that landed and those that were ejected; begins at 1 in 20."""

    landed: float = Field(19.0, ge=0)
    ejected: float = Field(1.0, ge=0)

    @property
    def p(self) -> float:
        return _clamped(self.ejected / max(self.landed + self.ejected, 1.0))

    def with_landed(self, count: int = 1) -> Odds:
        return _faded(self.landed + count, self.ejected)

    def with_ejected(self) -> Odds:
        """For red gates only: a conflict or a withdrawal says nothing of the next candidate's gates."""
        return _faded(self.landed, self.ejected + 1)


def _faded(landed: float, ejected: float) -> Odds:
    share = min(1.0, MEMORY / (landed + ejected))
    return Odds(landed=landed * share, ejected=ejected * share)


def _clamped(p: float) -> float:
    return min(max(p, LEAST_P), MOST_P)


# --- what to test ------------------------------------------------------------------------------------


def wanted(view: View) -> list[Chain]:
    """At most `slots` chains to test now, the best first. Those that run and are not among them are of no more use.

    To be asked when nothing is landable and nobody suspect; it is not empty then while the queue is not, unless each
    candidate is known to be apart from the target itself. Where a chain turns out to be apart when it is built, that
    is recorded for its beginning up to the one that does not fit, and this asked again.
    """
    line = _line(view)
    gone = line[:1] if _in_doubt(view, line) else ()
    if gone:
        line = _line(view, *gone)
    red = _shortest_red(view, line)
    kept = (run for run in view.running if run == line[: len(run)] and not (red and len(run) >= red))
    free = view.slots - (bool(gone) and gone not in view.known)
    best = _tree(view, gone) if _item_by_item(view) else _ladder(view, line, gone, red, free)
    found: list[Chain] = []
    for one in joined([gone], sorted(kept, key=len), best):
        if len(found) >= view.slots:
            break
        if one and one not in view.known and one not in found:
            found.append(one)
    return found


def _item_by_item(view: View) -> bool:
    return view.each or view.slots * _clamped(view.p) >= 1.0


def _line(view: View, *left_out: str) -> Chain:
    """The queue without those that cannot be on top of the ones before them."""
    line: Chain = ()
    skipped: set[str] = set()
    for op in view.queue[:LOOK]:
        longer = (*line, op)
        if op in left_out or view.known.get(longer) == "apart" or not skipped.isdisjoint(view.after.get(op, ())):
            skipped.add(op)
        else:
            line = longer
    return line


def _in_doubt(view: View, line: Chain) -> bool:
    return bool(line) and (line[0] in view.doubted or view.known.get(line[:1]) == "red")


def _shortest_red(view: View, line: Chain) -> int | None:
    """The length of the shortest beginning that is red: the first bad one is in it."""
    return next((length for length in range(1, len(line) + 1) if view.known.get(line[:length]) == "red"), None)


def _ladder(view: View, line: Chain, gone: Chain, red: int | None, slots: int) -> Iterator[Chain]:
    good = math.log1p(-_clamped(view.p))  # logarithm of the share of good ones
    longest = min(len(line), LONGEST_RUNG) if red is None else red - 1
    for length in _rungs(longest, slots, good, red):
        yield line[:length]
    if red is None:
        return
    suspects = frozenset(line[:red])
    place = {op: number for number, op in enumerate(view.queue[:LOOK])}
    for run in view.running:
        places = [place.get(op, -1) for op in run]
        if len(suspects.difference(run)) == 1 and -1 not in places and places == sorted(places):
            yield run
    more = max(1, round(math.log(0.5) / good))  # so many that half of the time all of them are good
    for extra in (more, 2 * more):
        for suspect in reversed(line[:red]):
            yield _line(view, *gone, suspect)[: red - 1 + extra]


def _rungs(longest: int, slots: int, good: float, red: int | None) -> Iterator[int]:
    """Lengths, so that the first bad one is equally likely in each gap; what is free after that, the shortest."""
    below = 1.0 if red is None else -math.expm1(good * red)  # how likely one of the first `red` is bad
    exact = (math.log1p(-below * step / (slots + 1)) / good for step in range(1, slots + 1))
    yield from (max(1, min(longest, round(length))) for length in exact if longest)
    yield from range(1, longest + 1)


def _tree(view: View, gone: Chain) -> Iterator[Chain]:
    """Chains not known yet, by how likely it is that their result will count."""
    queue = [op for op in view.queue[:LOOK] if op not in gone]
    p = _clamped(view.p)
    number = 0  # of equally likely ones the first found goes first
    heap: list[tuple[float, int, int, Chain]] = [(-1.0, number, 0, ())]
    while heap:
        likely, _, place, good = heapq.heappop(heap)
        if place == len(queue):
            continue
        op = queue[place]
        longer = (*good, op)
        verdict = view.known.get(longer)
        if _follows_missing(view, op, {*gone, *queue[:place]}, good):
            verdict = "apart"
        if verdict is None:
            yield longer
        for share, way in ((1 - p, longer), (p, good)):
            if verdict is None or (verdict == "green") == (way is longer):
                number += 1
                heapq.heappush(heap, (likely * (1 if verdict else share), number, place + 1, way))


def _follows_missing(view: View, op: str, before: Collection[str], chain: Chain) -> bool:
    return any(other in before and other not in chain for other in view.after.get(op, ()))


# --- what comes of it --------------------------------------------------------------------------------


def landable(view: View) -> Chain | None:
    """The longest green chain that may land now; to be asked before `suspect`, for it may clear the head."""
    line = _line(view)
    lengths = range(1 if view.each else len(line), 0, -1)
    first = next((line[:length] for length in lengths if view.known.get(line[:length]) == "green"), None)
    if _item_by_item(view) or _in_doubt(view, line):  # past one in doubt: its second run would be for nothing
        return first
    place = {op: number for number, op in enumerate(view.queue[:LOOK])}
    green = (chain for chain, verdict in view.known.items() if verdict == "green" and _complete(view, chain, place))
    return max(green, key=lambda chain: (len(chain), [-place[op] for op in chain]), default=None)


def _complete(view: View, chain: Chain, place: Mapping[str, int]) -> bool:
    """Whether all of it still waits, and nobody in it has to follow one that is missing."""
    return all(op in place for op in chain) and not any(
        _follows_missing(view, op, view.queue[: place[op]], chain[:number]) for number, op in enumerate(chain)
    )


def suspect(view: View) -> str | None:
    """The head, when it is red alone on the target: the only one that can be blamed."""
    line = _line(view)
    return line[0] if line and view.known.get(line[:1]) == "red" else None


def passed_over(view: View, landed: Chain) -> Chain:
    """Those that `landed` leaves behind, because a chain is green without them that was red with them."""
    last = max(map(view.queue.index, landed))
    return tuple(op for op in _line(view) if op not in landed and view.queue.index(op) < last)


def rest(chain: Chain, landed: Chain) -> Chain | None:
    """What is left of a chain, whose commits are still the same ones; None: nothing, or it began otherwise."""
    return chain[len(landed) :] or None if chain[: len(landed)] == landed else None


def after_landing(known: Mapping[Chain, V], landed: Chain) -> dict[Chain, V]:
    """What is still known. Who is apart from the target itself now is not: it has to be built, to be answered why."""
    return {
        left: verdict
        for chain, verdict in known.items()
        if (left := rest(chain, landed)) is not None and not (verdict == "apart" and len(left) == 1)
    }


def without(known: Mapping[Chain, V], op: str) -> dict[Chain, V]:
    """After `op` was ejected or withdrawn."""
    return {chain: verdict for chain, verdict in known.items() if op not in chain}


def expected_runs(place: int, slots: int, p: float, each: bool = False) -> float:
    """About how many times the gates' duration until the candidate at `place` (0: the head) has landed, if it does.

    An estimate, within a fifth of what a simulated full queue of 2 to 20 % bad candidates does with 1 to 8 slots: a
    run says one bit, a candidate holds as many as its odds have, and of more slots the square root is of use.
    """
    p = _clamped(p)
    bits = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    rate = min((1 - p) / bits * math.sqrt(max(slots, 1)), float(LONGEST_RUNG))
    return 1 + place / (min(rate, max(slots, 1) * (1 - p)) if each else rate)
