"""Merge queue policies: ours, and three known ones to measure it against, all on the same view of the queue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from workflows.policy import speculation
from workflows.policy.speculation import Chain, View


class Policy(Protocol):
    """As the functions of `workflows.policy.speculation`, and `heard`: what came of it."""

    def wanted(self, view: View) -> list[Chain]: ...

    def landable(self, view: View) -> Chain | None: ...

    def suspect(self, view: View) -> str | None: ...

    def heard(self, landed: int, ejected: int) -> None: ...


class Ours:
    """The ladder while few are bad, else the tree."""

    def wanted(self, view: View) -> list[Chain]:
        return speculation.wanted(view)

    def landable(self, view: View) -> Chain | None:
        return speculation.landable(view)

    def suspect(self, view: View) -> str | None:
        return speculation.suspect(view)

    def heard(self, landed: int, ejected: int) -> None: ...


class Serial(Ours):
    """Strictly one after the other."""

    def wanted(self, view: View) -> list[Chain]:
        head = line(view)[:1]
        return [head] if head and head not in view.known else []

    def landable(self, view: View) -> Chain | None:
        head = line(view)[:1]
        return head if view.known.get(head) == "green" else None


@dataclass
class BatchAndBisect(Ours):
    """As bors: a batch of those that wait, halved while it is red; one run at a time."""

    most: int = 8
    parts: list[Chain] = field(default_factory=list)
    """Of the batch: what is left of it, in order."""

    def part(self, view: View) -> Chain:
        waiting = set(view.queue)
        left = (tuple(op for op in part if op in waiting) for part in self.parts)
        self.parts = [part for part in left if part] or [line(view)[: self.most]]
        while len(self.parts[0]) > 1 and view.known.get(fitting(view, self.parts[0])) == "red":
            part = self.parts.pop(0)
            self.parts[:0] = [part[: len(part) // 2], part[len(part) // 2 :]]
        return fitting(view, self.parts[0])

    def wanted(self, view: View) -> list[Chain]:
        part = self.part(view)
        return [part] if part and part not in view.known else []

    def landable(self, view: View) -> Chain | None:
        part = self.part(view)
        return part if view.known.get(part) == "green" else None


@dataclass
class Linear(Serial):
    """As Zuul: each candidate is tested on top of all before it that may be good, and lands by itself. The window
    grows by one with each that lands, and is halved by each that does not."""

    window: float = 20.0

    def wanted(self, view: View) -> list[Chain]:
        found: list[Chain] = []
        good: Chain = ()
        for op in view.queue[: int(self.window)]:
            chain = (*good, op)
            verdict = view.known.get(chain)
            if verdict is None:
                found.append(chain)
            if verdict in (None, "green"):
                good = chain
        return found[: view.slots]

    def heard(self, landed: int, ejected: int) -> None:
        self.window = max(3.0, min(64.0, self.window + landed) / 2.0**ejected)


def line(view: View) -> Chain:
    return fitting(view, view.queue[: speculation.LOOK])


def fitting(view: View, ops: Chain) -> Chain:
    """`ops` without those that cannot be on top of the ones before them."""
    found: Chain = ()
    for op in ops:
        if view.known.get((*found, op)) != "apart":
            found = (*found, op)
    return found
