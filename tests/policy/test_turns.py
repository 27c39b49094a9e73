"""The turn loop: rules by example, invariants for every sequence of turns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import FrozenInstanceError
from itertools import cycle
from typing import Any, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from activities.contracts import TurnEnd, TurnResult
from activities.settings import Limits
from workflows.contracts import BlockedReason
from workflows.policy.turns import (
    MAX_STATED_SECONDS,
    Again,
    Block,
    Counters,
    Decision,
    Verify,
    Wait,
    after_failure,
    after_turn,
    backoff,
    wait_for_limit,
)

GOOD_ENDS = ["done", "max_turns", "timeout"]
"""An agent worked, and its CLI did not fail."""
DEFAULT = Limits()


def turn(end: TurnEnd = "done", *, session: str | None = "s-1", **more: Any) -> TurnResult:
    return TurnResult(end=end, session=session, **more)


def run(
    results: Iterable[TurnResult], limits: Limits = DEFAULT, counters: Counters | None = None
) -> tuple[Counters, list[Decision]]:
    """The turns in a row, as the workflow takes them: up to the first decision that ends the loop."""
    counters = counters or Counters()
    decisions: list[Decision] = []
    for result in results:
        counters, decision = after_turn(counters, result, limits, 0.0)
        decisions.append(decision)
        if isinstance(decision, Verify | Block):
            break
    return counters, decisions


jitters = st.floats(0, 1)
limits = st.builds(Limits, max_working_resumes=st.integers(0, 4), max_needs_followups=st.integers(0, 3))
counters = st.builds(
    Counters,
    resumes=st.integers(0, 6),
    nudged=st.booleans(),
    followups=st.integers(0, 4),
    cold_starts=st.integers(0, 6),
    failures=st.integers(0, 3),
    limits=st.integers(0, 2_000),
)
results = st.builds(
    TurnResult,
    end=st.sampled_from(get_args(TurnEnd)),
    signal=st.sampled_from([None, "complete", "needs_followup"]),
    verdict=st.sampled_from([None, "approved", "needs_changes"]),
    reason=st.sampled_from(["", "a reason"]),
    session=st.sampled_from([None, "s-1"]),
    said=st.sampled_from(["", " \n", "first\nlast words\n"]),
    retry_after_seconds=st.none() | st.floats(allow_nan=False),
)
without_complete = results.filter(lambda result: result.signal != "complete")


# --- signals -----------------------------------------------------------------------------------------


@given(counters, limits, results, jitters)
def test_only_a_turn_that_ended_with_complete_is_verified(
    before: Counters, limits: Limits, result: TurnResult, jitter: float
) -> None:
    _, decision = after_turn(before, result, limits, jitter)
    assert isinstance(decision, Verify) == (result.end == "done" and result.signal == "complete")


@pytest.mark.parametrize("end", ["max_turns", "timeout"])
@pytest.mark.parametrize("signal", ["complete", "needs_followup"])
def test_a_signal_of_a_turn_that_did_not_end_by_itself_is_none(end: TurnEnd, signal: Any) -> None:
    now, decision = after_turn(Counters(), turn(end, signal=signal), DEFAULT, 0.0)
    assert decision == Again("resume")
    assert now == Counters(resumes=1)


def test_a_verdict_is_no_signal() -> None:
    assert after_turn(Counters(), turn(verdict="approved"), DEFAULT, 0.0)[1] == Again("resume")


def test_needs_followup_leads_to_one_targeted_prompt_and_then_to_a_person() -> None:
    result = turn(signal="needs_followup", reason="the API is missing")
    now, decisions = run([result] * 3)
    assert decisions == [
        Again("followup", "the API is missing"),
        Block(BlockedReason.NEEDS_FOLLOWUP, "the API is missing"),
    ]
    assert now.resumes == 0


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_needs_followup_is_followed_up_as_often_as_allowed(allowed: int) -> None:
    limits = Limits(max_needs_followups=allowed)
    _, decisions = run([turn(signal="needs_followup")] * 9, limits)
    assert [type(decision) for decision in decisions] == [Again] * allowed + [Block]


def test_followups_are_counted_over_good_turns_between_them() -> None:
    _, decisions = run([turn(signal="needs_followup"), turn(), turn(signal="needs_followup", reason="still")])
    assert decisions[-1] == Block(BlockedReason.NEEDS_FOLLOWUP, "still")


# --- no signal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", GOOD_ENDS)
@pytest.mark.parametrize("allowed", [0, 1, 5])
def test_without_a_signal_it_is_resumed_then_nudged_once_then_stuck(end: TurnEnd, allowed: int) -> None:
    result = turn(end, reason="said nothing of use")
    _, decisions = run([result] * 20, Limits(max_working_resumes=allowed))
    assert decisions == [
        *[Again("resume", "said nothing of use")] * allowed,
        Again("nudge"),
        Block(
            BlockedReason.STUCK,
            f"no signal after {allowed} resumes and a nudge; last: said nothing of use",
        ),
    ]


@pytest.mark.parametrize(
    ("said", "last"), [("first\nlast words\n\n", "last words"), (" \n", "nothing"), ("", "nothing")]
)
def test_stuck_shows_what_the_agent_said_last(said: str, last: str) -> None:
    _, decision = after_turn(Counters(nudged=True), turn(said=said), Limits(max_working_resumes=0), 0.0)
    assert decision == Block(BlockedReason.STUCK, f"no signal after 0 resumes and a nudge; last: {last}")


def test_the_nudge_may_still_bring_a_signal() -> None:
    limits = Limits(max_working_resumes=0)
    assert run([turn(), turn(signal="complete")], limits)[1] == [Again("nudge"), Verify()]
    followup = turn(signal="needs_followup", reason="no time")
    assert run([turn(), followup], limits)[1] == [Again("nudge"), Again("followup", "no time")]


def test_a_follow_up_does_not_bring_a_second_nudge() -> None:
    _, decisions = run([turn(), turn(signal="needs_followup"), turn()], Limits(max_working_resumes=0))
    assert [type(decision) for decision in decisions] == [Again, Again, Block]


# --- limits ------------------------------------------------------------------------------------------


def test_without_a_stated_time_the_back_off_doubles_up_to_fifteen_minutes() -> None:
    _, decisions = run([turn("limited")] * 8)
    assert decisions == [
        Wait(seconds, stated=False) for seconds in (30.0, 60.0, 120.0, 240.0, 480.0, 900.0, 900.0, 900.0)
    ]


@pytest.mark.parametrize(("count", "seconds"), [(0, 30.0), (1, 60.0), (2, 120.0), (4, 480.0), (5, 900.0)])
def test_jitter_adds_up_to_a_quarter(count: int, seconds: float) -> None:
    assert backoff(count, 0.0) == seconds
    assert backoff(count, 0.5) == pytest.approx(seconds * 1.125)
    assert backoff(count, 1.0) == pytest.approx(seconds * 1.25)


@given(st.integers(0, 10**6), jitters)
def test_the_back_off_never_falls_and_never_passes_its_cap(count: int, jitter: float) -> None:
    assert 30.0 <= backoff(count, jitter) <= backoff(count + 1, jitter) <= 900.0 * 1.25


@given(counters, limits, st.floats(0, 7 * 86_400), jitters)
def test_a_stated_time_is_obeyed_whatever_went_before(
    before: Counters, limits: Limits, seconds: float, jitter: float
) -> None:
    _, wait = after_turn(before, turn("limited", retry_after_seconds=seconds), limits, jitter)
    assert isinstance(wait, Wait)
    assert wait.stated
    assert seconds <= wait.seconds <= seconds + 1


def test_tasks_of_one_account_do_not_all_come_back_at_the_same_stated_time() -> None:
    limited = turn("limited", retry_after_seconds=60.0)
    waits = {wait_for_limit(Counters(), limited, jitter)[1].seconds for jitter in (0.0, 0.5, 1.0)}
    assert waits == {60.0, 60.5, 61.0}


@pytest.mark.parametrize("seconds", [1.8e12, 1e300, float("inf")])
def test_a_stated_time_beyond_every_limit_is_cut_to_what_a_timer_can_hold(seconds: float) -> None:
    _, wait = wait_for_limit(Counters(), turn("limited", retry_after_seconds=seconds), 0.0)
    assert wait == Wait(MAX_STATED_SECONDS, stated=True)
    assert 7 * 86_400 < MAX_STATED_SECONDS < 31 * 86_400


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_a_stated_time_that_has_passed_is_now(seconds: float) -> None:
    assert wait_for_limit(Counters(), turn("limited", retry_after_seconds=seconds), 0.0)[1] == Wait(0.0, stated=True)


@given(counters, limits, results.filter(lambda result: result.end == "limited"), jitters)
def test_a_limit_uses_up_nothing(before: Counters, limits: Limits, result: TurnResult, jitter: float) -> None:
    now, decision = after_turn(before, result, limits, jitter)
    assert isinstance(decision, Wait)
    assert now == Counters(**{**vars(before), "limits": before.limits + 1})


def test_limits_may_go_on_for_ever() -> None:
    _, decisions = run([turn("limited")] * 500)
    assert all(isinstance(decision, Wait) for decision in decisions)


@pytest.mark.parametrize("end", GOOD_ENDS)
def test_after_a_good_turn_the_back_off_starts_again(end: TurnEnd) -> None:
    _, decisions = run([turn("limited"), turn("limited"), turn(end), turn("limited")])
    assert [decision.seconds for decision in decisions if isinstance(decision, Wait)] == [30.0, 60.0, 30.0]


# --- failures ----------------------------------------------------------------------------------------

COLD = [turn("lost_session"), turn("lost_session", session=None), turn("failed", session=None)]


@pytest.mark.parametrize("result", COLD)
def test_without_a_session_it_starts_cold_at_most_five_times_in_a_row(result: TurnResult) -> None:
    died = result.model_copy(update={"reason": "exit 1"})
    _, decisions = run([died] * 9)
    assert decisions == [Again("resume", cold=True)] * 5 + [Block(BlockedReason.AGENT_FAILED, "exit 1")]


def test_both_kinds_of_cold_starts_count_together() -> None:
    assert len(run(cycle(COLD))[1]) == 6


def test_another_failure_is_tried_again_in_the_same_session_and_the_third_in_a_row_blocks() -> None:
    now, decisions = run([turn("failed", reason="exit 1")] * 9)
    assert decisions == [Again("resume"), Again("resume"), Block(BlockedReason.AGENT_FAILED, "exit 1")]
    assert now.cold_starts == 0


@pytest.mark.parametrize("result", COLD)
def test_a_cold_start_uses_up_no_try_of_another_failure(result: TurnResult) -> None:
    now, _ = after_turn(Counters(failures=2, resumes=4), result, DEFAULT, 0.0)
    assert now == Counters(failures=2, resumes=4, cold_starts=1)


@pytest.mark.parametrize("end", GOOD_ENDS)
@pytest.mark.parametrize("signal", [None, "complete", "needs_followup"])
def test_one_good_turn_sets_the_failure_counters_back(end: TurnEnd, signal: Any) -> None:
    now, _ = after_turn(Counters(cold_starts=5, failures=2, limits=7), turn(end, signal=signal), DEFAULT, 0.0)
    assert (now.cold_starts, now.failures, now.limits) == (0, 0, 0)


def test_the_good_turn_may_be_the_one_that_blocks() -> None:
    """A person continues with fresh tries, whatever failed before."""
    spent = Counters(cold_starts=5, failures=2, limits=7, nudged=True, followups=1, resumes=5)
    for result in (turn(), turn(signal="needs_followup")):
        now, decision = after_turn(spent, result, DEFAULT, 0.0)
        assert isinstance(decision, Block)
        assert (now.cold_starts, now.failures, now.limits) == (0, 0, 0)


def test_a_limit_between_failures_does_not_break_the_row() -> None:
    _, decisions = run([turn("failed"), turn("limited")] * 3)
    assert [type(decision) for decision in decisions] == [Again, Wait, Again, Wait, Block]


@given(counters, limits, jitters)
def test_a_missing_login_blocks_at_once_and_counts_nothing(before: Counters, limits: Limits, jitter: float) -> None:
    result = turn("login", session=None, reason="run `codex login`")
    assert after_turn(before, result, limits, jitter) == (before, Block(BlockedReason.LOGIN, "run `codex login`"))


@given(counters, limits, results, jitters)
def test_failures_are_judged_alike_for_every_role(
    before: Counters, limits: Limits, result: TurnResult, jitter: float
) -> None:
    """A reviewer's turn does not go through `after_turn`."""
    if result.end in ("login", "lost_session", "failed"):
        assert after_turn(before, result, limits, jitter) == after_failure(before, result)
    elif result.end == "limited":
        assert after_turn(before, result, limits, jitter) == wait_for_limit(before, result, jitter)


@pytest.mark.parametrize(
    "value", [Counters(), Verify(), Again("resume"), Wait(1.0, stated=True), Block(BlockedReason.LOGIN, "x")]
)
def test_counters_and_decisions_are_values(value: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        value.text = "changed"


# --- invariants --------------------------------------------------------------------------------------


@given(counters, limits, results, jitters)
def test_working_turns_are_not_counted_on_a_limit_or_a_failure(
    before: Counters, limits: Limits, result: TurnResult, jitter: float
) -> None:
    now, _ = after_turn(before, result, limits, jitter)
    if result.end not in GOOD_ENDS:
        assert (now.resumes, now.nudged, now.followups) == (before.resumes, before.nudged, before.followups)


@given(counters, limits, results, jitters)
def test_only_an_agent_without_its_session_starts_cold(
    before: Counters, limits: Limits, result: TurnResult, jitter: float
) -> None:
    _, decision = after_turn(before, result, limits, jitter)
    if isinstance(decision, Again) and decision.cold:
        assert result.end == "lost_session" or (result.end == "failed" and result.session is None)


@given(counters, limits, results, jitters)
def test_every_stop_has_its_evidence_in_one_line(
    before: Counters, limits: Limits, result: TurnResult, jitter: float
) -> None:
    _, decision = after_turn(before, result, limits, jitter)
    if isinstance(decision, Block):
        assert decision.text.strip()
        assert len(decision.text.splitlines()) == 1


@given(limits, st.lists(without_complete, min_size=1, max_size=30))
def test_the_loop_ends_unless_it_is_limits_alone(limits: Limits, pattern: list[TurnResult]) -> None:
    """The most turns: rows of at most 2 failures and 5 cold starts, and between them good turns, which are counted."""
    assume(any(result.end != "limited" for result in pattern))
    good = limits.max_working_resumes + 1 + limits.max_needs_followups
    most = (good + 1) * (2 + 5 + 1)
    _, decisions = run(pattern * most, limits)
    assert isinstance(decisions[-1], Block)
    assert sum(not isinstance(decision, Wait) for decision in decisions) <= most
