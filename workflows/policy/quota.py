"""Who may call a model now: the rules of one account, or of one repository's daily money.

* At most `slots` turns at once, first come first served.
* A refusal parks the whole account: until the stated time, else 30 s, 60 s, 120 s ... at most 15 minutes, and without
  credit always 15 minutes. Refusals of turns that were under way when it was parked are the same incident: they may
  move the end to a later stated time, and nothing else.
* After a park one turn goes first. When it has worked, or was not refused for `PROBE_SECONDS`, the others follow one by
  one, `STAGGER_SECONDS` apart.
* Daily money is given out in shares, and no share is given twice: what all turns may spend together is never more than
  what is left of the day. A turn that has used up its share asks again. At midnight UTC there is new money.
* `wake` ends a park and grants the day's money once more; `hold` stops all until it is lifted.

Invariants: never more leases than slots; a lease is held or waits, not both; nothing is granted while held, parked or
without money; whoever waits is granted in the end unless it is held for ever.

Times are seconds since the epoch.
"""

from __future__ import annotations

import math

from workflows.contracts import Lease, LeaseGrant, LeaseRequest, LeaseReturn, QuotaState, Refusal
from workflows.policy.turns import MAX_STATED_SECONDS, backoff

DAY = 86_400
PROBE_SECONDS = 100.0
"""A refused call tells in that time: a CLI that only tries again by itself is ended after 90 s."""
STAGGER_SECONDS = 2.0
CREDIT_SECONDS = 900.0
SHARES = 4
"""Into how many shares the day's remaining money is cut at most: less is more turns, each a session resumed."""
SMALLEST_SHARE = 0.05
"""Of the day's money: less than a few requests cost would only stop and resume sessions."""
SAME_INCIDENT_SECONDS = 60.0
"""By how much a later stated time must be later to move the end of a park: each move is told to all that wait."""


def slots(state: QuotaState) -> int | None:
    return state.slots_override or state.config.slots


def requested(state: QuotaState, request: LeaseRequest, now: float) -> QuotaState:
    known = any(lease.request.lease == request.lease for lease in (*state.waiting, *state.leases))
    if known:
        return state
    return state.model_copy(update={"waiting": [*state.waiting, Lease(request=request, since=now)]})


def withdrawn(state: QuotaState, lease: str) -> QuotaState:
    """Whoever asked is gone: what it held is given to others."""
    return state.model_copy(
        update={
            "waiting": [waiting for waiting in state.waiting if waiting.request.lease != lease],
            "leases": [held for held in state.leases if held.request.lease != lease],
        }
    )


def returned(state: QuotaState, back: LeaseReturn, now: float, jitter: float) -> QuotaState:
    """A turn is over. Returned twice counts once. `jitter`: 0 to 1."""
    lease = next((held for held in state.leases if held.request.lease == back.lease), None)
    state = withdrawn(state, back.lease)
    if lease is None:
        return state
    state = _today(state, now)
    state = state.model_copy(update={"spent_today": state.spent_today + back.usage.cost_usd})
    if back.refused is not None:
        return _refused(state, lease, back.refused, now, jitter)
    if back.worked and lease.since >= state.parked_since and state.parked_until is None:
        soon = min(state.next_grant_at, now + STAGGER_SECONDS)
        update = {"strikes": 0, "recovering": False, "next_grant_at": soon, "limited_since": 0.0}
        return state.model_copy(update=update)
    return state


def _refused(state: QuotaState, lease: Lease, refusal: Refusal, now: float, jitter: float) -> QuotaState:
    stated = refusal.retry_after_seconds
    if stated is not None:
        wait = min(max(stated, 0.0), MAX_STATED_SECONDS) + 1 + jitter
    elif refusal.kind == "credit":
        wait = CREDIT_SECONDS * (1 + jitter / 4)
    else:
        wait = backoff(state.strikes, jitter)
    counted = state.model_copy(update={"refusals": state.refusals + 1})
    if state.parked_until is not None and lease.since <= state.parked_since:
        later = stated is not None and now + wait > state.parked_until + SAME_INCIDENT_SECONDS
        return counted.model_copy(update={"parked_until": now + wait}) if later else counted
    return counted.model_copy(
        update={
            "parked_until": now + wait,
            "parked_since": now,
            "parked_for": refusal.reason,
            "limited_since": state.limited_since or now,
            "strikes": state.strikes + (stated is None),
            "recovering": True,
            "staggering": True,
            "next_grant_at": 0.0,
        }
    )


def woken(state: QuotaState, now: float) -> QuotaState:
    """By an operator."""
    state = _today(state, now)
    more = state.days_granted + (money_left(state) is not None and not _share(state))
    return state.model_copy(update={"parked_until": None, "days_granted": more, "next_grant_at": 0.0})


def money_left(state: QuotaState) -> float | None:
    """Of today, that is neither spent nor promised; None: no cap."""
    if state.config.max_cost_usd_per_day is None:
        return None
    promised = sum(lease.cap_usd or 0.0 for lease in state.leases)
    cap: float = state.config.max_cost_usd_per_day
    return cap * state.days_granted - state.spent_today - promised


def _share(state: QuotaState) -> float:
    """Of the day's money for one more turn; 0: there is none."""
    left = money_left(state)
    if left is None:
        return math.inf
    most = slots(state)
    free = SHARES if most is None else min(SHARES, max(most - len(state.leases), 1))
    least = SMALLEST_SHARE * (state.config.max_cost_usd_per_day or 0.0)
    return max(left / free, least) if left >= least else 0.0


def granted(state: QuotaState, now: float) -> tuple[QuotaState, list[LeaseGrant]]:
    """Whoever may go now. Called again at once it grants nothing more."""
    state = _today(state, now)
    if state.parked_until is not None and now >= state.parked_until:
        state = state.model_copy(update={"parked_until": None})
    grants: list[LeaseGrant] = []
    while state.waiting and _may_go(state, now):
        state, grant = _grant(state, now)
        grants.append(grant)
    if not state.waiting and not state.recovering:
        state = state.model_copy(update={"staggering": False})
    return state, grants


def _may_go(state: QuotaState, now: float) -> bool:
    most = slots(state)
    full = most is not None and len(state.leases) >= most
    if full or state.held or state.parked_until is not None or not _share(state):
        return False
    return not (state.recovering or state.staggering) or now >= state.next_grant_at


def _grant(state: QuotaState, now: float) -> tuple[QuotaState, LeaseGrant]:
    first, *rest = state.waiting
    share = _share(state)
    cap = None if math.isinf(share) else share
    lease = first.model_copy(update={"since": now, "cap_usd": cap})
    pause = PROBE_SECONDS if state.recovering else STAGGER_SECONDS if state.staggering else 0.0
    state = state.model_copy(
        update={
            "waiting": rest,
            "leases": [*state.leases, lease],
            "next_grant_at": now + pause,
            # A probe that is not refused in time is as good as one that has worked.
            "recovering": False,
        }
    )
    return state, LeaseGrant(quota=state.name, lease=first.request.lease, cap_usd=cap)


def crowded(state: QuotaState) -> bool:
    """Whether somebody waits for what others hold, slots or money: then it matters that those are alive."""
    most = slots(state)
    full = most is not None and len(state.leases) >= most
    return bool(state.waiting and state.leases and not state.held and (full or not _share(state)))


def wake_at(state: QuotaState, now: float) -> float | None:
    """When `granted` may grant something by the time alone; None: only by a message."""
    if not state.waiting or state.held:
        return None
    most = slots(state)
    if state.parked_until is not None and state.parked_until > now:
        return state.parked_until
    if most is not None and len(state.leases) >= most:
        return None
    if not _share(state):
        return float((_day(now) + 1) * DAY)
    return max(state.next_grant_at, now) if state.recovering or state.staggering else now


def why(state: QuotaState, now: float) -> tuple[str, float | None]:
    """Why whoever waits does, in words, and until when if that is known."""
    if state.held:
        return f"{state.name} is held by an operator", None
    if state.parked_until is not None and state.parked_until > now:
        return f"{state.name} is limited: {state.parked_for}", state.parked_until
    if not _share(state):
        cap = (state.config.max_cost_usd_per_day or 0) * state.days_granted
        if state.leases:
            return f"{state.name}: what is left of today's ${cap:.2f} is in use by others", None
        text = f"{state.name}: ${state.spent_today:.2f} of today's ${cap:.2f} are spent"
        return text, float((_day(now) + 1) * DAY)
    return f"a free slot of {state.name}", None  # the same words as long as they are true: each change is told to all


def trouble(state: QuotaState, now: float) -> str:
    """Names the incident that those who wait have met; empty: they wait for each other, or for an operator."""
    if state.held:
        return ""
    if state.parked_until is not None and state.parked_until > now:
        return f"limited-{state.limited_since:.0f}"
    return "" if _share(state) or state.leases else f"spent-{_day(now)}"


def _day(now: float) -> int:
    return int(now // DAY)


def _today(state: QuotaState, now: float) -> QuotaState:
    if _day(now) == state.day:
        return state
    return state.model_copy(update={"day": _day(now), "spent_today": 0.0, "days_granted": 1})
