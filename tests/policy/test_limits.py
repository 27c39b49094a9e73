"""Budgets: only money, tokens and agents' time count, and what is used up is granted once more from where it is."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from activities.contracts import TurnCaps, Usage
from activities.settings import Limits, Role, explain
from workflows.contracts import Blocked, BlockedReason
from workflows.policy.limits import (
    LEAST_SECONDS,
    LEAST_TOKENS,
    LEAST_USD,
    Raise,
    caps_left,
    fixup_money,
    granted_again,
    over_budget,
    raise_refusal,
    raised,
    wanted,
    warnings,
)

amounts = st.floats(0.01, 1_000)
limits = st.builds(
    Limits,
    max_cost_usd=st.none() | amounts,
    max_tokens=st.none() | st.integers(1, 10**7),
    max_agent_minutes=st.none() | amounts,
)
usages = st.builds(
    Usage,
    cost_usd=st.floats(0, 10_000),
    input_tokens=st.integers(0, 10**8),
    output_tokens=st.integers(0, 10**8),
    unpriced_tokens=st.integers(0, 10),
)
seconds = st.floats(0, 10**6)
money = st.lists(st.none() | st.floats(-10, 100), max_size=3)
EVERYTHING = Limits(max_cost_usd=2, max_tokens=1_000, max_agent_minutes=10)


def used(dollars: float = 0.0, tokens: int = 0, **more: Any) -> Usage:
    """Half of the tokens went in."""
    return Usage(cost_usd=dollars, input_tokens=tokens // 2, output_tokens=tokens - tokens // 2, **more)


def over(text: str | None) -> Blocked | None:
    return Blocked(reason=BlockedReason.BUDGET, text=text) if text else None


# --- whether another turn may start ------------------------------------------------------------------


@given(usages, seconds)
def test_without_a_cap_nothing_is_ever_too_much(usage: Usage, seconds: float) -> None:
    assert over_budget(Limits(), usage, seconds) is None
    assert caps_left(Limits(), usage, seconds) == TurnCaps()
    assert warnings(Limits(), usage, seconds) == []


@pytest.mark.parametrize(
    ("dollars", "text"), [(0.0, None), (1.99, None), (2.0, "spent $2.00 of $2.00"), (2.345, "spent $2.35 of $2.00")]
)
def test_money(dollars: float, text: str | None) -> None:
    assert over_budget(Limits(max_cost_usd=2), used(dollars, 10**9), 10**6) == over(text)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [(0, None), (9_999, None), (10_000, "used 10,000 of 10,000 tokens"), (12_345, "used 12,345 of 10,000 tokens")],
)
def test_tokens_are_those_that_went_in_and_those_that_came_out(tokens: int, text: str | None) -> None:
    assert over_budget(Limits(max_tokens=10_000), used(9.0, tokens, cached_tokens=10**9), 10**6) == over(text)


@pytest.mark.parametrize(
    ("minutes", "text"),
    [
        (0.0, None),
        (30.2, None),
        (30.25, "agents worked 30.2 of 30.2 minutes"),
        (45.27, "agents worked 45.3 of 30.2 minutes"),
    ],
)
def test_agents_time(minutes: float, text: str | None) -> None:
    assert over_budget(Limits(max_agent_minutes=30.25), used(9.0, 10**9), minutes * 60) == over(text)


@pytest.mark.parametrize(("usage", "seconds"), [(used(2), 0), (used(tokens=1_000), 0), (used(), 600)])
def test_each_cap_alone_stops_the_task(usage: Usage, seconds: float) -> None:
    assert over_budget(EVERYTHING, used(1.9, 999), 599) is None
    assert over_budget(EVERYTHING, usage, seconds) is not None


# --- warnings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "seconds", "found"),
    [
        (used(1.59, 799), 479, []),
        (used(1.6), 0, ["spent $1.60 of $2.00"]),
        (used(tokens=800), 0, ["used 800 of 1,000 tokens"]),
        (used(), 480, ["agents worked 8.0 of 10.0 minutes"]),
        (used(9, 800), 0, ["spent $9.00 of $2.00", "used 800 of 1,000 tokens"]),
    ],
)
def test_a_budget_of_which_four_fifths_are_used_is_warned_of(usage: Usage, seconds: float, found: list[str]) -> None:
    assert warnings(EVERYTHING, usage, seconds) == found


def test_money_that_nobody_counts_is_warned_of_where_money_is_watched() -> None:
    unpriced = used(0.1, 50_000, unpriced_tokens=12_345)
    text = "12,345 tokens have no known price and are not in max_cost_usd: set max_tokens as well"
    assert warnings(Limits(max_cost_usd=2), unpriced, 0) == [text]
    assert warnings(Limits(max_agent_minutes=10), unpriced, 0) == []


@given(limits, usages, seconds)
def test_what_stops_a_task_was_warned_of(limits: Limits, usage: Usage, seconds: float) -> None:
    stop = over_budget(limits, usage, seconds)
    assert stop is None or stop.text in warnings(limits, usage, seconds)


# --- what a turn may use -----------------------------------------------------------------------------


def test_a_turn_may_use_what_is_left() -> None:
    assert caps_left(EVERYTHING, used(1.5, 300), 540) == TurnCaps(cost_usd=0.5, tokens=700, seconds=60)


@pytest.mark.parametrize(
    ("given_money", "left"), [([], 0.5), ([None], 0.5), ([0.25, None], 0.25), ([3.0], 0.5), ([3.0, 0.1], 0.1)]
)
def test_of_several_caps_in_dollars_the_smallest_counts(given_money: list[float | None], left: float) -> None:
    assert caps_left(EVERYTHING, used(1.5), 0, *given_money).cost_usd == left


def test_a_cap_in_dollars_needs_no_budget_of_the_task() -> None:
    assert caps_left(Limits(), used(9), 0, None, 0.25) == TurnCaps(cost_usd=0.25)


def test_what_is_used_up_leaves_the_least() -> None:
    least = TurnCaps(cost_usd=LEAST_USD, tokens=LEAST_TOKENS, seconds=LEAST_SECONDS)
    assert caps_left(EVERYTHING, used(5, 5_000), 5_000) == least
    assert caps_left(Limits(), used(), 0, -1.0).cost_usd == LEAST_USD


@given(limits, usages, seconds, money)
def test_a_turn_that_may_start_gets_no_more_than_is_left_and_at_least_the_least(
    limits: Limits, usage: Usage, seconds: float, money: list[float | None]
) -> None:
    caps = caps_left(limits, usage, seconds, *money)
    dollars = [cap for cap in money if cap is not None]
    if limits.max_cost_usd is not None:
        dollars.append(limits.max_cost_usd - usage.cost_usd)
    minutes, tokens = limits.max_agent_minutes, limits.max_tokens
    assert (caps.cost_usd is None) == (not dollars)
    assert caps.cost_usd is None or LEAST_USD <= caps.cost_usd <= max(min(dollars), LEAST_USD)
    assert (caps.tokens is None) == (tokens is None)
    assert caps.tokens is None or LEAST_TOKENS <= caps.tokens <= max((tokens or 0) - usage.tokens, LEAST_TOKENS)
    assert (caps.seconds is None) == (minutes is None)
    assert caps.seconds is None or LEAST_SECONDS <= caps.seconds <= max((minutes or 0) * 60 - seconds, LEAST_SECONDS)


# --- granted once more -------------------------------------------------------------------------------


def test_what_is_used_up_is_granted_once_more_from_here_and_the_rest_stays() -> None:
    assert granted_again(EVERYTHING, EVERYTHING, used(7.5, 999), 0) == EVERYTHING.model_copy(
        update={"max_cost_usd": 9.5}
    )
    again = granted_again(EVERYTHING, EVERYTHING, used(1, 1_500), 1_200)
    assert (again.max_cost_usd, again.max_tokens, again.max_agent_minutes) == (2, 2_500, 30)
    assert isinstance(again.max_tokens, int)


def test_a_raised_budget_is_granted_in_the_first_size() -> None:
    now = EVERYTHING.model_copy(update={"max_cost_usd": 20.0})
    assert granted_again(now, EVERYTHING, used(21), 0).max_cost_usd == 23


def test_what_is_not_used_up_is_not_granted() -> None:
    assert granted_again(EVERYTHING, EVERYTHING, used(1.99, 999), 599) == EVERYTHING


@given(limits, usages, seconds)
def test_after_it_was_granted_again_a_task_is_not_over_its_budget(limits: Limits, usage: Usage, seconds: float) -> None:
    again = granted_again(limits, limits, usage, seconds)
    assert over_budget(again, usage, seconds) is None
    assert Limits.model_validate_json(again.model_dump_json()) == again
    for field in ("max_cost_usd", "max_tokens", "max_agent_minutes"):
        before, after = getattr(limits, field), getattr(again, field)
        assert (before is None) == (after is None)
        assert before is None or after >= before


# --- an operator raises a budget ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (20, Raise(max_cost_usd=20)),
        (2.5, Raise(max_cost_usd=2.5)),
        ("20", Raise(max_cost_usd=20)),
        ({"max_tokens": 5_000_000}, Raise(max_tokens=5_000_000)),
        ({"max_cost_usd": 3, "max_agent_minutes": 90}, Raise(max_cost_usd=3, max_agent_minutes=90)),
        (None, Raise()),
        ({}, Raise()),
    ],
)
def test_what_an_operator_sent_is_caps_or_a_number_of_dollars(sent: Any, read: Raise) -> None:
    assert wanted(sent) == read


@pytest.mark.parametrize(
    ("sent", "place"),
    [
        ("more", "max_cost_usd"),
        ([20], "max_cost_usd"),
        ({"max_cost": 20}, "max_cost"),
        ({"max_tokens": 1.5}, "max_tokens"),
        (math.nan, "max_cost_usd"),
        ("inf", "max_cost_usd"),
        ({"max_agent_minutes": "nan"}, "max_agent_minutes"),
    ],
)
def test_what_is_no_cap_is_refused_and_its_field_named(sent: Any, place: str) -> None:
    """Nothing is over a budget that is no number."""
    with pytest.raises(ValidationError) as caught:
        wanted(sent)
    assert explain(caught.value).startswith(f"{place}: ")


def test_raised_caps_are_the_new_ones() -> None:
    assert raised(EVERYTHING, wanted(20)) == EVERYTHING.model_copy(update={"max_cost_usd": 20})
    assert raised(EVERYTHING, Raise(max_tokens=2_000, max_agent_minutes=90)) == EVERYTHING.model_copy(
        update={"max_tokens": 2_000, "max_agent_minutes": 90}
    )


@pytest.mark.parametrize(
    ("given_limits", "sent", "why"),
    [
        (EVERYTHING, 2.01, None),
        (EVERYTHING, {"max_cost_usd": 3, "max_tokens": 1_001, "max_agent_minutes": 10.5}, None),
        (EVERYTHING, 2, "max_cost_usd is 2 already: name a higher cap"),
        (EVERYTHING, -5, "max_cost_usd is 2 already: name a higher cap"),
        (EVERYTHING, {"max_cost_usd": 3, "max_tokens": 9}, "max_tokens is 1000 already: name a higher cap"),
        (Limits(max_tokens=12_345_678), {"max_tokens": 1}, "max_tokens is 12345678 already: name a higher cap"),
        (Limits(max_tokens=5), 20, "max_cost_usd has no cap that could be raised"),
        (
            EVERYTHING,
            None,
            "raise_budget needs a new cap: --input '{\"max_cost_usd\": 20}' (or max_tokens, max_agent_minutes)",
        ),
    ],
)
def test_a_cap_is_only_raised(given_limits: Limits, sent: Any, why: str | None) -> None:
    assert raise_refusal(given_limits, wanted(sent)) == why


raises = st.builds(
    Raise,
    max_cost_usd=st.none() | st.floats(-1, 2_000),
    max_tokens=st.none() | st.integers(-1, 10**8),
    max_agent_minutes=st.none() | st.floats(-1, 2_000),
)


@given(limits, raises, usages, seconds)
def test_a_raise_that_is_taken_never_stops_a_task_that_may_go_on(
    limits: Limits, wanted: Raise, usage: Usage, seconds: float
) -> None:
    if raise_refusal(limits, wanted) is None:
        more = raised(limits, wanted)
        assert more != limits
        assert over_budget(limits, usage, seconds) is not None or over_budget(more, usage, seconds) is None


# --- fix-ups -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", get_args(Role))
def test_only_a_fix_up_has_money_of_its_own(role: Role) -> None:
    assert fixup_money(Limits(), role, 0.25) == (0.75 if role == "fixer" else None)


def test_a_fix_up_that_has_used_its_money_up_gets_the_least() -> None:
    left = fixup_money(Limits(max_fixup_cost_usd=0.5), "fixer", 2.0)
    assert caps_left(Limits(), used(), 0, left).cost_usd == LEAST_USD
