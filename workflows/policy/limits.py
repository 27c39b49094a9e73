"""Budgets: what a task may use, what is left for its next turn, and when to warn.

Only agents' time and money count, never waiting, gates or our own time (FEATURES B10).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from activities.contracts import TurnCaps, Usage
from activities.settings import Limits, Model, Role
from workflows.contracts import Blocked, BlockedReason

WARN_AT = 0.8
LEAST_USD = 0.001
LEAST_TOKENS = 1
LEAST_SECONDS = 1.0
"""A turn that may start may use a little: a cap of nothing would end it before its first request."""


class Raise(Model):
    """Input of `raise_budget`: new caps, not what is added to them."""

    max_cost_usd: float | None = Field(None, allow_inf_nan=False)
    max_tokens: int | None = None
    max_agent_minutes: float | None = Field(None, allow_inf_nan=False)


def _watched(limits: Limits, usage: Usage, agent_seconds: float) -> Iterator[tuple[str, float, float, str]]:
    """(field, used, cap, in words) of each budget that is set."""
    if limits.max_cost_usd is not None:
        used, cap = usage.cost_usd, limits.max_cost_usd
        yield "max_cost_usd", used, cap, f"spent ${used:.2f} of ${cap:.2f}"
    if limits.max_tokens is not None:
        yield "max_tokens", usage.tokens, limits.max_tokens, f"used {usage.tokens:,} of {limits.max_tokens:,} tokens"
    if limits.max_agent_minutes is not None:
        used, cap = agent_seconds / 60, limits.max_agent_minutes
        yield "max_agent_minutes", used, cap, f"agents worked {used:.1f} of {cap:.1f} minutes"


def over_budget(limits: Limits, usage: Usage, agent_seconds: float) -> Blocked | None:
    """Whether another turn may start."""
    for _, used, cap, text in _watched(limits, usage, agent_seconds):
        if used >= cap:
            return Blocked(reason=BlockedReason.BUDGET, text=text)
    return None


def nearly_used(limits: Limits, usage: Usage, agent_seconds: float) -> dict[tuple[str, float], str]:
    """In words, by field and cap, the budgets that are used up to 80 %."""
    watched = _watched(limits, usage, agent_seconds)
    return {(field, cap): text for field, used, cap, text in watched if used >= WARN_AT * cap}


def warnings(limits: Limits, usage: Usage, agent_seconds: float) -> list[str]:
    """Of budgets that are used up to 80 %, and of money that nobody counts."""
    found = [*nearly_used(limits, usage, agent_seconds).values()]
    if limits.max_cost_usd is not None and usage.unpriced_tokens:
        found.append(
            f"{usage.unpriced_tokens:,} tokens have no known price and are not in max_cost_usd: set max_tokens as well"
        )
    return found


def caps_left(limits: Limits, usage: Usage, agent_seconds: float, *money: float | None) -> TurnCaps:
    """What the next turn may use; `money`: further caps in dollars, none where there is none."""
    left = [cap for cap in money if cap is not None]
    if limits.max_cost_usd is not None:
        left.append(limits.max_cost_usd - usage.cost_usd)
    tokens, minutes = limits.max_tokens, limits.max_agent_minutes
    return TurnCaps(
        cost_usd=max(min(left), LEAST_USD) if left else None,
        tokens=None if tokens is None else max(tokens - usage.tokens, LEAST_TOKENS),
        seconds=None if minutes is None else max(minutes * 60 - agent_seconds, LEAST_SECONDS),
    )


def granted_again(limits: Limits, first: Limits, usage: Usage, agent_seconds: float) -> Limits:
    """With what is used up granted once more, from here: a turn that went far over its cap does not use up the next."""
    more = {
        field: type(getattr(first, field) or cap)(used + (getattr(first, field) or cap))
        for field, used, cap, _ in _watched(limits, usage, agent_seconds)
        if used >= cap
    }
    return limits.model_copy(update=more)


def wanted(caps: Any) -> Raise:
    """What an operator sent: an object, or a bare number of dollars. Raises pydantic.ValidationError."""
    return Raise.model_validate({} if caps is None else caps if isinstance(caps, dict) else {"max_cost_usd": caps})


def raised(limits: Limits, wanted: Raise) -> Limits:
    return limits.model_copy(update=wanted.model_dump(exclude_none=True))


def raise_refusal(limits: Limits, wanted: Raise) -> str | None:
    """Why these caps cannot be; None: they can."""
    new = wanted.model_dump(exclude_none=True)
    if not new:
        return "raise_budget needs a new cap: --input '{\"max_cost_usd\": 20}' (or max_tokens, max_agent_minutes)"
    for field, cap in new.items():
        now = getattr(limits, field)
        if now is None:
            return f"{field} has no cap that could be raised"
        if cap <= now:
            return f"{field} is {now:.15g} already: name a higher cap"
    return None


def fixup_money(limits: Limits, role: Role, spent: float) -> float | None:
    """What is left in dollars for one fix-up (FEATURES B11); none for what is no fix-up."""
    return limits.max_fixup_cost_usd - spent if role == "fixer" else None
