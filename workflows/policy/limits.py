"""Budgets and rounds: when a task has had enough of something.

Only agents' time and money count, never waiting, gates or our own time (FEATURES B10).
"""

from __future__ import annotations

from activities.contracts import Usage
from activities.settings import Limits
from workflows.contracts import Blocked, BlockedReason


def over_budget(limits: Limits, usage: Usage, agent_seconds: float, granted: int) -> Blocked | None:
    """Whether another turn may start. Each `continue_task` out of this block grants the whole budget once more."""
    if limits.max_cost_usd is not None and usage.cost_usd >= limits.max_cost_usd * granted:
        cap = limits.max_cost_usd * granted
        return Blocked(reason=BlockedReason.BUDGET, text=f"spent ${usage.cost_usd:.2f} of ${cap:.2f}")
    if limits.max_agent_minutes is not None and agent_seconds / 60 >= limits.max_agent_minutes * granted:
        cap = limits.max_agent_minutes * granted
        return Blocked(reason=BlockedReason.BUDGET, text=f"agents worked {agent_seconds / 60:.1f} of {cap:.1f} minutes")
    return None


def money_left(limits: Limits, usage: Usage, granted: int) -> float | None:
    """Dollars that the next turn may spend; None: no cap."""
    return None if limits.max_cost_usd is None else max(limits.max_cost_usd * granted - usage.cost_usd, 0.01)
