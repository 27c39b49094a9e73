"""What a task used is added up once, by who used it."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.contracts import TurnEnd, TurnResult, Usage
from activities.settings import AgentSpec, Role
from workflows.contracts import CostLine, Seconds, TurnRecord
from workflows.ledger import Ledger

AGENT = AgentSpec(runtime="codex", model="gpt-5.5")
OTHER = AgentSpec(runtime="claude-code", account="anthropic/work")
BUCKETS = {
    **{"planner": "agent", "executor": "agent", "compactor": "agent"},
    **{"reviewer": "review", "fixer": "fix", "resolver": "resolve"},
}

roles = st.sampled_from(get_args(Role))
seconds = st.floats(0, 10_000)
usages = st.builds(
    Usage,
    cost_usd=st.floats(0, 100),
    input_tokens=st.integers(0, 10**9),
    cached_tokens=st.integers(0, 10**9),
    output_tokens=st.integers(0, 10**9),
    unpriced_tokens=st.integers(0, 10**9),
)
results = st.builds(
    TurnResult,
    end=st.sampled_from(get_args(TurnEnd)),
    usage=usages,
    seconds=seconds,
    waited_seconds=seconds,
    model=st.sampled_from(["", "gpt-5.5", "opus"]),
)
agents = st.sampled_from([AGENT, OTHER])


def took(ledger: Ledger, role: Role, result: TurnResult, agent: AgentSpec = AGENT, attempts: int = 1) -> None:
    ledger.record(len(ledger.turns) + 1, role, agent, result, attempts, 1.7e9)


def parts(found: Seconds) -> float:
    total: float = sum(value for name, value in found if name != "total")
    return total


def test_a_turn_is_recorded_as_it_ended() -> None:
    ledger = Ledger()
    usage = Usage(cost_usd=0.5, input_tokens=10, cached_tokens=4, output_tokens=3)
    result = TurnResult(end="timeout", usage=usage, seconds=12.5, waited_seconds=3.0)
    agent = AgentSpec(runtime="codex", model="gpt-5.5", account="openai/work")
    ledger.record(7, "fixer", agent, result, attempts=2, ended=1.7e9)
    assert ledger.turns == [
        TurnRecord(
            turn=7,
            role="fixer",
            agent="codex (gpt-5.5)",
            runtime="codex",
            model="gpt-5.5",
            account="openai/work",
            end="timeout",
            usage=usage,
            seconds=12.5,
            attempts=2,
            ended=1.7e9,
        )
    ]


@pytest.mark.parametrize(
    ("asked", "said", "model"),
    [
        (None, "", ""),
        ("opus", "", "opus"),
        ("opus", "claude-opus-4-5", "claude-opus-4-5"),
        (None, "gpt-5.5", "gpt-5.5"),
    ],
)
def test_the_model_is_the_one_that_worked_else_the_one_that_was_asked_for(
    asked: str | None, said: str, model: str
) -> None:
    ledger = Ledger()
    took(ledger, "executor", TurnResult(end="done", model=said), AgentSpec(model=asked))
    assert ledger.turns[0].model == model


@pytest.mark.parametrize("role", get_args(Role))
def test_every_role_has_its_own_time_and_waiting_is_nobodys(role: Role) -> None:
    ledger = Ledger(started=100.0)
    took(ledger, role, TurnResult(end="done", seconds=5.0, waited_seconds=2.0))
    expected: dict[str, Any] = {BUCKETS[role]: 5.0}
    assert ledger.seconds(110.0) == Seconds(**expected, waiting=2.0, own=3.0, total=10.0)


def test_planning_working_and_summarising_are_one_agents_time() -> None:
    ledger = Ledger(started=100.0)
    for role in get_args(Role):
        took(ledger, role, TurnResult(end="done", seconds=1.0))
    assert ledger.seconds(106.0) == Seconds(agent=3.0, review=1.0, fix=1.0, resolve=1.0, total=6.0)


@given(st.lists(st.tuples(roles, results), max_size=20))
def test_usage_and_agents_time_are_the_sums_over_all_turns(given_turns: list[tuple[Role, TurnResult]]) -> None:
    """Whoever took them and however they ended: a failed turn costs money too. Waiting is no agent's time."""
    ledger = Ledger()
    for role, result in given_turns:
        took(ledger, role, result)
    used = [result.usage for _, result in given_turns]
    # Each sum is rounded to a billionth.
    assert ledger.usage.cost_usd == pytest.approx(sum(usage.cost_usd for usage in used), abs=1e-9 * (len(used) + 1))
    assert ledger.usage.input_tokens == sum(usage.input_tokens for usage in used)
    assert ledger.usage.cached_tokens == sum(usage.cached_tokens for usage in used)
    assert ledger.usage.output_tokens == sum(usage.output_tokens for usage in used)
    assert ledger.usage.unpriced_tokens == sum(usage.unpriced_tokens for usage in used)
    assert ledger.agent_seconds == pytest.approx(sum(result.seconds for _, result in given_turns))
    assert [record.turn for record in ledger.turns] == list(range(1, len(given_turns) + 1))


@pytest.mark.parametrize("end", get_args(TurnEnd))
def test_a_refused_turn_is_none(end: TurnEnd) -> None:
    ledger = Ledger()
    took(ledger, "executor", TurnResult(end=end))
    assert ledger.turn_count == (end not in ("limited", "credit", "login", "lost_session"))


# --- costs -------------------------------------------------------------------------------------------


def test_costs_are_told_by_runtime_and_model_in_the_order_of_their_first_turns() -> None:
    ledger = Ledger()
    usage = Usage(cost_usd=0.25, input_tokens=10, cached_tokens=4, output_tokens=3, unpriced_tokens=1)
    result = TurnResult(end="done", usage=usage, seconds=1.5)
    took(ledger, "executor", result)
    took(ledger, "reviewer", result, OTHER)
    took(ledger, "fixer", result.model_copy(update={"end": "limited"}), attempts=3)
    took(ledger, "executor", result.model_copy(update={"model": "gpt-5.5-mini"}))
    assert ledger.costs() == [
        CostLine(runtime="codex", model="gpt-5.5", turns=2, attempts=4, usage=usage + usage, seconds=3.0),
        CostLine(runtime="claude-code", model="", turns=1, attempts=1, usage=usage, seconds=1.5),
        CostLine(runtime="codex", model="gpt-5.5-mini", turns=1, attempts=1, usage=usage, seconds=1.5),
    ]


def test_a_task_without_a_turn_has_cost_nothing() -> None:
    assert Ledger().costs() == []


@given(st.lists(st.tuples(roles, results, agents, st.integers(1, 3)), max_size=20))
def test_the_costs_are_all_that_was_used(given_turns: list[tuple[Role, TurnResult, AgentSpec, int]]) -> None:
    ledger = Ledger()
    for role, result, agent, attempts in given_turns:
        took(ledger, role, result, agent, attempts)
    lines = ledger.costs()
    total = sum((line.usage for line in lines), Usage())
    assert total.cost_usd == pytest.approx(ledger.usage.cost_usd)
    assert total.model_copy(update={"cost_usd": ledger.usage.cost_usd}) == ledger.usage
    assert sum(line.turns for line in lines) == len(given_turns)
    assert sum(line.attempts for line in lines) == sum(attempts for *_, attempts in given_turns)
    assert sum(line.seconds for line in lines) == pytest.approx(ledger.agent_seconds, abs=0.02)
    assert len({(line.runtime, line.model) for line in lines}) == len(lines)


# --- seconds -----------------------------------------------------------------------------------------


def test_seconds_of_one_kind_add_up() -> None:
    ledger = Ledger(started=100.0)
    ledger.add("gates", 1.5)
    ledger.add("gates", 2.0)
    ledger.add("queue", 0.25)
    assert ledger.seconds(110.0) == Seconds(gates=3.5, queue=0.25, own=6.25, total=10.0)


def test_before_it_started_a_task_took_no_time() -> None:
    assert Ledger().seconds(1.7e9) == Seconds()


@given(st.lists(st.tuples(roles, results), max_size=5), seconds)
def test_our_own_time_is_what_is_left_over_and_never_negative(
    given_turns: list[tuple[Role, TurnResult]], elapsed: float
) -> None:
    ledger = Ledger(started=1.7e9)
    for role, result in given_turns:
        took(ledger, role, result)
    found = ledger.seconds(1.7e9 + elapsed)
    measured = parts(found) - found.own
    assert found.total == pytest.approx(elapsed, abs=0.002)
    assert found.own == pytest.approx(max(elapsed - measured, 0.0), abs=0.02)


def test_seconds_are_told_in_milliseconds() -> None:
    ledger = Ledger(started=100.0)
    ledger.add("gates", 1 / 3)
    assert ledger.seconds(101.23456) == Seconds(gates=0.333, own=0.901, total=1.235)


def test_two_tasks_share_nothing() -> None:
    one, other = Ledger(), Ledger()
    took(one, "executor", TurnResult(end="done", usage=Usage(cost_usd=1), seconds=1.0))
    assert (other.turns, other.usage, other.spent) == ([], Usage(), {})
