"""Who may begin a cycle now: room on the disk, agents' slots of the host, turns of the accounts. Pure.

What was seen is of a moment ago, and only keeps most from waiting with a task in hand: whoever begins all the same
waits at the worker, or at the quota. One of a swarm always does: there its turn comes, while another swarm would take
every slot that is free.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from activities.swarm.contracts import AccountSeen, Looked

AGAIN = 120.0
"""Seconds: who had to wait is looked at again, unless it is known for how long. And whenever a cycle ends."""
STARTING = 600.0
"""Seconds: a cycle that has had no turn for so long waits for something else than an agent's slot."""


class Limit(NamedTuple):
    why: str
    until: float


class Outside:
    """How things stood when they were looked at, less what those take who were admitted since."""

    def __init__(self, host: str, looked: Looked | None = None, mine: Collection[str] = ()) -> None:
        """`looked`: None: nobody knows, and nobody has to wait. `mine`: accounts of the cycles that the swarm has."""
        seen = looked or Looked()
        self.host, self.room = host, seen.room
        self.slots = None if seen.slots is None else seen.slots - len(seen.waiting)
        self.accounts: Mapping[str, AccountSeen] = seen.accounts
        self.taken: dict[str, int] = {}
        self.mine = mine

    def admit(self, accounts: Sequence[str], now: float) -> Limit | None:
        """None: it may begin, by the first of its accounts that can be used, and its share is taken."""
        if self.room:
            return Limit(self.room, now + AGAIN)
        if self.slots is not None and self.slots <= 0 and (self.mine or self.taken):
            return Limit(f"no agent slot is free on {self.host}", now + AGAIN)
        limits = []
        for account in accounts or [""]:
            if (limit := self._limit(account, now)) is None:
                self.taken[account] = self.taken.get(account, 0) + 1
                self.slots = None if self.slots is None else self.slots - 1
                return None
            limits.append(limit)
        return Limit(limits[0].why, min(limit.until for limit in limits))

    def _limit(self, account: str, now: float) -> Limit | None:
        seen = self.accounts.get(account, AccountSeen())
        if seen.parked_until is not None and seen.parked_until > now:
            return Limit(f"{account}: {seen.why or 'limited'}", max(seen.parked_until, now + AGAIN))
        taken = self.taken.get(account, 0)
        waits_there = not taken and not seen.why and account not in self.mine
        if seen.free is not None and seen.free <= taken and not waits_there:
            return Limit(f"{account}: {seen.why or 'no slot is free'}", now + AGAIN)
        return None
