"""A merge queue without git, gates and clock: what a policy has to deal with. `run` adds a virtual clock.

A candidate may be bad, may clash with another one (each is green alone, both together are red) or conflict with it
(one cannot be put on top of the other). Gates may be red for no reason.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.policies import Policy
from workflows.policy.speculation import Chain, Odds, Verdict, View, after_landing, passed_over, rest, without

JITTER = 0.2


@dataclass
class World:
    policy: Policy
    slots: int
    confirm: bool = True
    each: bool = False
    queue: list[str] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)
    clashes: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    conflicts: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    after: dict[str, set[str]] = field(default_factory=dict)
    known: dict[Chain, Verdict] = field(default_factory=dict)
    running: dict[int, Chain] = field(default_factory=dict)
    """By the number of the run."""
    odds: Odds = field(default_factory=Odds)
    landed: list[str] = field(default_factory=list)
    ejected: list[str] = field(default_factory=list)
    """Because their gates were red."""
    refused: list[str] = field(default_factory=list)
    """Because they conflict with the target."""
    reds: Counter[str] = field(default_factory=Counter)
    doubted: set[str] = field(default_factory=set)
    runs: int = 0
    builds: int = 0

    def view(self) -> View:
        running = tuple(self.running.values())
        queue = tuple(self.queue)
        return View(queue, self.known, running, self.slots, self.odds.p, self.each, self.after, self.doubted)

    def submit(self, op: str, *, bad: bool = False, clashes: Iterable[str] = (), conflicts: Iterable[str] = ()) -> None:
        self.queue.append(op)
        if bad:
            self.bad.add(op)
        for pairs, others in ((self.clashes, clashes), (self.conflicts, conflicts)):
            for other in others:
                pairs[op].add(other)
                pairs[other].add(op)

    def green(self, chain: Chain) -> bool:
        there = set(self.landed)
        for op in chain:
            if op in self.bad or not self.clashes[op].isdisjoint(there):
                return False
            there.add(op)
        return True

    def misfit(self, chain: Chain) -> int | None:
        """The place of the first one that cannot be put on top of those before it."""
        there = set(self.landed)
        for place, op in enumerate(chain):
            if not self.conflicts[op].isdisjoint(there):
                return place
            there.add(op)
        return None

    def settle(self) -> None:
        """Lands, ejects, stops and starts until there is nothing to do but to wait for a run."""
        while self.step():
            pass

    def step(self) -> bool:
        """True: there may be more to do at once."""
        return self._decide() or not self._schedule()

    def _decide(self) -> bool:
        view = self.view()
        if (chain := self.policy.landable(view)) is not None:
            self.doubted.update(passed_over(view, chain))
            self._land(chain)
        elif (op := self.policy.suspect(view)) is not None:
            self.doubted.add(op)
            self.reds[op] += 1
            del self.known[(op,)]
            if self.reds[op] > self.confirm:
                self.eject(op)
        else:
            return False
        return True

    def _land(self, chain: Chain) -> None:
        self.landed.extend(chain)
        self.queue = [op for op in self.queue if op not in chain]
        self.known = after_landing(self.known, chain)
        left = {number: rest(run, chain) for number, run in self.running.items()}
        self.running = {number: run for number, run in left.items() if run is not None}
        self.doubted.difference_update(chain)
        self.odds = self.odds.with_landed(len(chain))
        self.policy.heard(len(chain), 0)

    def eject(self, op: str) -> None:
        self.ejected.append(op)
        self.odds = self.odds.with_ejected()
        self.policy.heard(0, 1)
        self.withdraw(op)

    def withdraw(self, op: str) -> None:
        self.queue.remove(op)
        self.known = without(self.known, op)
        self.running = {number: run for number, run in self.running.items() if op not in run}
        self.doubted.discard(op)

    def push(self) -> None:
        """Somebody else moves the target."""
        self.known = {}
        self.running = {}

    def _schedule(self) -> bool:
        """False: something was found out by building, so that the policy is to be asked again."""
        wanted = self.policy.wanted(self.view())
        going = set(self.running.values())
        for chain in wanted:
            if chain in going:
                continue
            self.builds += 1
            place = self.misfit(chain)
            if place == 0:
                self.refused.append(chain[0])
                self.withdraw(chain[0])
                return False
            if place is not None:
                self.known[chain[: place + 1]] = "apart"
                return False
        self.running = {number: run for number, run in self.running.items() if run in wanted}
        for chain in wanted:
            if chain not in going:
                self.runs += 1
                self.running[self.runs] = chain
        return True

    def finish(self, number: int, *, flake: bool = False) -> None:
        chain = self.running.pop(number)
        self.known[chain] = "green" if self.green(chain) and not flake else "red"


@dataclass(frozen=True)
class Setting:
    """Shares of candidates, pairs and runs."""

    bad: float = 0.0
    clash: float = 0.0
    flake: float = 0.0
    conflict: float = 0.0
    backlog: int = 32
    """So many always wait."""
    seed: int = 1


def run(world: World, setting: Setting, gates: float) -> World:
    """`world` after this many times the gates' duration, each run taking that long give or take a fifth."""
    chance = random.Random(setting.seed)
    clock: list[tuple[float, int]] = []
    started, submitted, now = 0, 0, 0.0
    while now <= gates:
        while True:
            while len(world.queue) < setting.backlog:
                op = f"{submitted}"
                submitted += 1
                pairs = [(other, chance.random(), chance.random()) for other in world.queue]
                world.submit(
                    op,
                    bad=chance.random() < setting.bad,
                    clashes=[other for other, share, _ in pairs if share < setting.clash],
                    conflicts=[other for other, _, share in pairs if share < setting.conflict],
                )
            if not world.step():
                break
        for number in range(started + 1, world.runs + 1):
            heapq.heappush(clock, (now + chance.uniform(1 - JITTER, 1 + JITTER), number))
        started = world.runs
        now, number = heapq.heappop(clock)
        if number in world.running:
            world.finish(number, flake=chance.random() < setting.flake)
    return world
