"""Budgets: only money and agents' time count, and each grant gives the whole budget once more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.contracts import Usage
from activities.settings import Limits
from workflows.contracts import Blocked, BlockedReason
from workflows.policy.limits import money_left, over_budget

amounts = st.floats(0.01, 1_000)
spendings = st.floats(0, 10_000)
grants = st.integers(1, 20)
limits = st.builds(Limits, max_cost_usd=st.none() | amounts, max_agent_minutes=st.none() | amounts)


def spent(dollars: float) -> Usage:
    return Usage(cost_usd=dollars, input_tokens=10**9, output_tokens=10**9)


@given(spendings, spendings, grants)
def test_without_a_cap_nothing_is_ever_too_much(dollars: float, seconds: float, granted: int) -> None:
    assert over_budget(Limits(), spent(dollars), seconds, granted) is None
    assert money_left(Limits(), spent(dollars), granted) is None


@pytest.mark.parametrize(
    ("dollars", "granted", "text"),
    [
        (0.0, 1, None),
        (1.99, 1, None),
        (2.0, 1, "spent $2.00 of $2.00"),
        (2.345, 1, "spent $2.35 of $2.00"),
        (3.99, 2, None),
        (4.0, 2, "spent $4.00 of $4.00"),
    ],
)
def test_money(dollars: float, granted: int, text: str | None) -> None:
    expected = text and Blocked(reason=BlockedReason.BUDGET, text=text)
    assert over_budget(Limits(max_cost_usd=2), spent(dollars), 0.0, granted) == expected


@pytest.mark.parametrize(
    ("minutes", "granted", "text"),
    [
        (0.0, 1, None),
        (30.2, 1, None),
        (30.25, 1, "agents worked 30.2 of 30.2 minutes"),
        (45.27, 1, "agents worked 45.3 of 30.2 minutes"),
        (60.4, 2, None),
        (60.5, 2, "agents worked 60.5 of 60.5 minutes"),
    ],
)
def test_agents_time(minutes: float, granted: int, text: str | None) -> None:
    expected = text and Blocked(reason=BlockedReason.BUDGET, text=text)
    assert over_budget(Limits(max_agent_minutes=30.25), spent(0), minutes * 60, granted) == expected


def test_either_cap_alone_stops_the_task() -> None:
    both = Limits(max_cost_usd=1, max_agent_minutes=10)
    assert over_budget(both, spent(0.5), 300, 1) is None
    assert over_budget(both, spent(1), 300, 1) is not None
    assert over_budget(both, spent(0.5), 600, 1) is not None


@given(limits, spendings, spendings, grants)
def test_enough_grants_always_let_it_go_on_and_one_more_never_stops_it(
    limits: Limits, dollars: float, seconds: float, granted: int
) -> None:
    assert over_budget(limits, spent(dollars), seconds, 10**7) is None
    if over_budget(limits, spent(dollars), seconds, granted) is None:
        assert over_budget(limits, spent(dollars), seconds, granted + 1) is None


@pytest.mark.parametrize(
    ("dollars", "granted", "left"),
    [(0.0, 1, 2.0), (1.5, 1, 0.5), (1.5, 3, 4.5), (1.995, 1, 0.01), (2.0, 1, 0.01), (9.0, 1, 0.01)],
)
def test_money_left(dollars: float, granted: int, left: float) -> None:
    assert money_left(Limits(max_cost_usd=2), spent(dollars), granted) == pytest.approx(left)


@given(limits, spendings, grants)
def test_a_turn_that_may_start_gets_money_and_no_more_than_is_left(
    limits: Limits, dollars: float, granted: int
) -> None:
    left = money_left(limits, spent(dollars), granted)
    if limits.max_cost_usd is None:
        assert left is None
    elif over_budget(limits, spent(dollars), 0.0, granted) is None:
        assert left is not None
        assert 0 < left <= max(limits.max_cost_usd * granted - dollars, 0.01)
