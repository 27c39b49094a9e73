"""The turn loop: rules by example, invariants for every sequence of turns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import FrozenInstanceError, replace
from itertools import cycle
from typing import Any, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from activities.contracts import TurnEnd, TurnResult
from activities.settings import Limits
from workflows.contracts import BlockedReason
from workflows.policy.turns import (
    MAX_CLAIMS,
    MAX_COLD_STARTS,
    MAX_FAILURES,
    MAX_STATED_SECONDS,
    Again,
    Block,
    Claim,
    Compact,
    Counters,
    Decision,
    HandOver,
    Nothing,
    Question,
    Verify,
    Wait,
    after_failure,
    after_turn,
    backoff,
    too_long,
    wait_for_limit,
)

GOOD_ENDS = ["done", "max_turns", "timeout"]
"""An agent worked, and its CLI did not fail."""
LIMITS = ["limited", "credit"]
FREE = [*LIMITS, "budget"]
"""They use up nothing: a task may see them for ever."""
TRIED_AGAIN = ["failed", "stalled", "unreadable"]
"""Failures without a rule of their own."""
DEFAULT = Limits()


def turn(end: TurnEnd = "done", *, session: str | None = "s-1", **more: Any) -> TurnResult:
    return TurnResult(end=end, session=session, **more)


def run(
    results: Iterable[TurnResult],
    limits: Limits = DEFAULT,
    counters: Counters | None = None,
    *,
    fallback: bool = False,
) -> tuple[Counters, list[Decision]]:
    """The turns in a row, as the workflow takes them: up to the first decision that ends one agent's loop."""
    counters = counters or Counters()
    decisions: list[Decision] = []
    for result in results:
        counters, decision = after_turn(counters, result, limits, 0.0, fallback)
        decisions.append(decision)
        if isinstance(decision, Verify | Nothing | Block | HandOver):
            break
    return counters, decisions


def kinds(decisions: Iterable[Decision]) -> list[type[Decision]]:
    return [type(decision) for decision in decisions]


jitters = st.floats(0, 1)
limits = st.builds(
    Limits,
    max_working_resumes=st.integers(0, 4),
    max_needs_followups=st.integers(0, 3),
    max_questions=st.integers(0, 3),
    max_limit_wait_minutes=st.floats(0, 10_000),
)
ends = st.sampled_from(get_args(TurnEnd))
counters = st.builds(
    Counters,
    resumes=st.integers(0, 6),
    nudged=st.booleans(),
    followups=st.integers(0, 4),
    questions=st.integers(0, 4),
    cold_starts=st.integers(0, MAX_COLD_STARTS),
    failures=st.integers(0, MAX_FAILURES - 1),
    limits=st.integers(0, 2_000),
    last=st.just("done") | ends.filter(lambda end: end not in [*GOOD_ENDS, *FREE]),
    compacted=st.booleans(),
)
results = st.builds(
    TurnResult,
    end=ends,
    signal=st.sampled_from([None, "complete", "needs_followup", "needs_input", "claim", "nothing"]),
    verdict=st.sampled_from([None, "approved", "needs_changes"]),
    reason=st.sampled_from(["", "a reason"]),
    session=st.sampled_from([None, "s-1"]),
    said=st.sampled_from(["", " \n", "first\nlast words\n"]),
    retry_after_seconds=st.none() | st.floats(allow_nan=False),
)
free_results = st.builds(lambda result, end: result.model_copy(update={"end": end}), results, st.sampled_from(FREE))
limited_results = st.builds(
    lambda result, end: result.model_copy(update={"end": end}), results, st.sampled_from(LIMITS)
)
without_complete = results.filter(lambda result: result.signal not in ("complete", "nothing"))


# --- signals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_so_many_questions_wait_for_an_answer_and_the_next_blocks(allowed: int) -> None:
    asks = [TurnResult(end="done", signal="needs_input", reason="Old or new?", session="s")] * 9
    _, decisions = run(asks, Limits(max_questions=allowed))
    assert decisions[:-1] == [Question()] * allowed
    assert decisions[-1] == Block(BlockedReason.QUESTIONS, "Old or new?")


@given(counters, limits, results, jitters, st.booleans())
def test_only_a_turn_that_ended_with_complete_is_verified(
    before: Counters, limits: Limits, result: TurnResult, jitter: float, fallback: bool
) -> None:
    _, decision = after_turn(before, result, limits, jitter, fallback)
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
    assert kinds(decisions) == [Again] * allowed + [Block]


def test_followups_are_counted_over_good_turns_between_them() -> None:
    _, decisions = run([turn(signal="needs_followup"), turn(), turn(signal="needs_followup", reason="still")])
    assert decisions[-1] == Block(BlockedReason.NEEDS_FOLLOWUP, "still")


def test_claims_cost_no_resume_and_end() -> None:
    claim = turn(signal="claim", claims=["a", "b"])
    now, decisions = run([claim] * 99)
    assert decisions[:-1] == [Claim()] * MAX_CLAIMS
    assert isinstance(decisions[-1], Block)
    assert decisions[-1].reason is BlockedReason.STUCK
    assert decisions[-1].text.endswith("the last: a, b")
    assert (now.resumes, now.nudged) == (0, False)
    got = replace(now, claims=0)
    assert after_turn(got, claim, DEFAULT, 0.0)[1] == Claim()


def test_nothing_to_claim_ends_it() -> None:
    assert run([turn(signal="nothing")])[1] == [Nothing()]


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
    assert kinds(decisions) == [Again, Again, Block]


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


@given(counters, limits, limited_results, jitters)
def test_a_limit_uses_up_nothing(before: Counters, limits: Limits, result: TurnResult, jitter: float) -> None:
    now, decision = after_turn(before, result, limits, jitter)
    assert isinstance(decision, Wait)
    assert now == Counters(**{**vars(before), "limits": before.limits + 1})


@pytest.mark.parametrize("end", LIMITS)
def test_without_a_fallback_limits_may_go_on_for_ever(end: TurnEnd) -> None:
    _, decisions = run([turn(end)] * 500, Limits(max_limit_wait_minutes=0))
    assert set(kinds(decisions)) == {Wait}


@pytest.mark.parametrize(
    ("seconds", "end", "longer"),
    [(600.0, "limited", False), (600.1, "limited", True), (-5.0, "limited", False), (0.0, "credit", True)],
)
def test_a_stated_wait_is_too_long_when_it_passes_the_configured_one(
    seconds: float, end: TurnEnd, longer: bool
) -> None:
    result = turn(end, retry_after_seconds=seconds, reason="429")
    assert too_long(Counters(), result, DEFAULT) is longer
    decision = after_turn(Counters(), result, DEFAULT, 0.0, fallback=True)[1]
    assert decision == (HandOver("429") if longer else Wait(max(seconds, 0.0), stated=True))


def test_without_a_stated_time_the_waits_so_far_count_together() -> None:
    """30 + 60 + 120 + 240 s are within ten minutes, 480 s more are not."""
    _, decisions = run([turn("limited", reason="529")] * 9, fallback=True)
    assert decisions == [*(Wait(seconds, stated=False) for seconds in (30.0, 60.0, 120.0, 240.0)), HandOver("529")]


def test_who_wants_to_wait_for_no_limit_hands_over_at_once() -> None:
    impatient = Limits(max_limit_wait_minutes=0)
    assert kinds(run([turn("limited")], impatient, fallback=True)[1]) == [HandOver]
    assert kinds(run([turn("limited", retry_after_seconds=1.0)], impatient, fallback=True)[1]) == [HandOver]


def test_after_a_good_turn_the_patience_starts_again() -> None:
    _, decisions = run([*[turn("limited")] * 4, turn(), *[turn("limited")] * 5], fallback=True)
    assert kinds(decisions) == [Wait] * 4 + [Again] + [Wait] * 4 + [HandOver]


def test_without_credit_a_fallback_takes_over_at_once_and_else_it_is_waited_for() -> None:
    result = turn("credit", reason="balance too low")
    assert run([result], fallback=True)[1] == [HandOver("balance too low")]
    assert run([result])[1] == [Wait(30.0, stated=False)]


@given(counters, limits, limited_results, jitters)
def test_a_limit_is_waited_for_or_handed_over_by_the_one_rule(
    before: Counters, limits: Limits, result: TurnResult, jitter: float
) -> None:
    now, decision = after_turn(before, result, limits, jitter, fallback=True)
    if too_long(before, result, limits):
        assert isinstance(decision, HandOver)
        assert now == before
    else:
        assert (now, decision) == wait_for_limit(before, result, jitter)


# --- budgets -----------------------------------------------------------------------------------------


@given(
    counters, limits, results.map(lambda result: result.model_copy(update={"end": "budget"})), jitters, st.booleans()
)
def test_a_share_that_is_used_up_was_a_good_turn_and_uses_up_no_try(
    before: Counters, limits: Limits, result: TurnResult, jitter: float, fallback: bool
) -> None:
    now, decision = after_turn(before, result, limits, jitter, fallback)
    assert decision == Again("resume", result.reason)
    kept = {"resumes": before.resumes, "nudged": before.nudged, "followups": before.followups}
    assert now == Counters(**kept, questions=before.questions)


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


@pytest.mark.parametrize("end", TRIED_AGAIN)
def test_three_failures_in_a_row_are_summarised_once_and_three_more_block(end: TurnEnd) -> None:
    now, decisions = run([turn(end, reason="exit 1")] * 9)
    twice = [Again("resume"), Again("resume")]
    assert decisions == [*twice, Compact("exit 1"), *twice, Block(BlockedReason.AGENT_FAILED, "exit 1")]
    assert now.cold_starts == 0


def test_different_failures_count_together() -> None:
    _, decisions = run(turn(end) for end in cycle(TRIED_AGAIN))
    assert kinds(decisions) == [Again, Again, Compact, Again, Again, Block]


@pytest.mark.parametrize("end", TRIED_AGAIN)
@pytest.mark.parametrize("session", [None, "s-1"])
def test_the_same_failure_twice_in_a_row_hands_over(end: TurnEnd, session: str | None) -> None:
    _, decisions = run([turn(end, reason="exit 1", session=session)] * 9, fallback=True)
    assert decisions == [Again("resume", cold=session is None), HandOver("exit 1")]


def test_failures_that_differ_are_summarised_before_they_hand_over() -> None:
    _, decisions = run((turn(end, reason=end) for end in cycle(TRIED_AGAIN)), fallback=True)
    assert kinds(decisions) == [Again, Again, Compact, Again, Again, HandOver]


def test_with_a_good_turn_between_them_the_same_failure_is_not_the_second_in_a_row() -> None:
    _, decisions = run([turn("failed"), turn(), turn("failed")], fallback=True)
    assert kinds(decisions) == [Again, Again, Again]


def test_a_session_that_is_lost_again_and_again_hands_over_only_after_five_cold_starts() -> None:
    _, decisions = run([turn("lost_session", reason="no such session")] * 9, fallback=True)
    assert decisions == [Again("resume", cold=True)] * 5 + [HandOver("no such session")]


def test_a_session_that_is_too_long_is_summarised_once() -> None:
    full = turn("context_full", reason="prompt is too long")
    assert run([full] * 9)[1] == [Compact(full.reason), Block(BlockedReason.AGENT_FAILED, full.reason)]
    assert run([full] * 9, fallback=True)[1] == [Compact(full.reason), HandOver(full.reason)]


def test_after_a_good_turn_a_session_that_is_too_long_is_summarised_again() -> None:
    _, decisions = run([turn("context_full"), turn("max_turns")] * 3)
    assert kinds(decisions) == [Compact, Again] * 3


def test_one_summary_is_for_both_reasons() -> None:
    _, decisions = run([turn("context_full"), *[turn("failed")] * 9])
    assert kinds(decisions) == [Compact, Again, Again, Block]
    _, decisions = run([*[turn("failed")] * 3, turn("context_full")])
    assert kinds(decisions) == [Again, Again, Compact, Block]


def test_a_refusal_is_tried_once_in_a_new_session_and_the_second_in_a_row_blocks() -> None:
    refused = turn("refused", reason="against the policy")
    once = Again("takeover", "the model would not go on: against the policy", cold=True)
    assert run([refused] * 9)[1] == [once, Block(BlockedReason.REFUSED, "against the policy")]
    assert run([refused] * 9, fallback=True)[1] == [once, HandOver("against the policy")]


def test_a_refusal_after_a_good_turn_is_the_first_again() -> None:
    _, decisions = run([turn("refused"), turn("max_turns"), turn("refused")])
    assert kinds(decisions) == [Again, Again, Again]


def test_a_missing_login_hands_over_where_somebody_else_is_logged_in() -> None:
    result = turn("login", session=None, reason="run `codex login`")
    assert run([result], fallback=True)[1] == [HandOver("run `codex login`")]


@pytest.mark.parametrize("result", COLD)
def test_a_cold_start_uses_up_no_try_of_another_failure(result: TurnResult) -> None:
    now, _ = after_turn(Counters(failures=2, resumes=4), result, DEFAULT, 0.0)
    assert now == Counters(failures=2, resumes=4, cold_starts=1, last=result.end)


@pytest.mark.parametrize("end", GOOD_ENDS)
@pytest.mark.parametrize("signal", [None, "complete", "needs_followup"])
def test_one_good_turn_sets_the_failure_counters_back(end: TurnEnd, signal: Any) -> None:
    failed = Counters(cold_starts=5, failures=2, limits=7, last="failed", compacted=True)
    now, _ = after_turn(failed, turn(end, signal=signal), DEFAULT, 0.0)
    assert now == Counters(resumes=now.resumes, followups=now.followups)


def test_the_good_turn_may_be_the_one_that_blocks() -> None:
    """A person continues with fresh tries, whatever failed before."""
    spent = Counters(cold_starts=5, failures=2, limits=7, nudged=True, followups=1, resumes=5)
    for result in (turn(), turn(signal="needs_followup")):
        now, decision = after_turn(spent, result, DEFAULT, 0.0)
        assert isinstance(decision, Block)
        assert (now.cold_starts, now.failures, now.limits) == (0, 0, 0)


def test_a_limit_between_failures_does_not_break_the_row() -> None:
    _, decisions = run([turn("failed"), turn("limited")] * 3)
    assert kinds(decisions) == [Again, Wait, Again, Wait, Compact, Wait]
    _, decisions = run([turn("failed"), turn("limited"), turn("failed")], fallback=True)
    assert kinds(decisions) == [Again, Wait, HandOver]


@given(counters, limits, jitters)
def test_a_missing_login_blocks_at_once_and_counts_nothing(before: Counters, limits: Limits, jitter: float) -> None:
    result = turn("login", session=None, reason="run `codex login`")
    now, decision = after_turn(before, result, limits, jitter)
    assert decision == Block(BlockedReason.LOGIN, "run `codex login`")
    assert now == replace(before, last="login")


@given(counters, limits, results, jitters, st.booleans())
def test_failures_are_judged_alike_for_every_role(
    before: Counters, limits: Limits, result: TurnResult, jitter: float, fallback: bool
) -> None:
    """A reviewer's turn does not go through `after_turn`."""
    if result.end not in [*GOOD_ENDS, *FREE]:
        assert after_turn(before, result, limits, jitter, fallback) == after_failure(before, result, fallback)


@pytest.mark.parametrize(
    "value",
    [
        *(Counters(), Verify(), Again("resume"), Wait(1.0, stated=True), Compact("x"), HandOver("x")),
        Block(BlockedReason.LOGIN, "x"),
    ],
)
def test_counters_and_decisions_are_values(value: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        value.text = "changed"


# --- invariants --------------------------------------------------------------------------------------


@given(counters, limits, results, jitters, st.booleans())
def test_working_turns_are_not_counted_on_a_limit_or_a_failure(
    before: Counters, limits: Limits, result: TurnResult, jitter: float, fallback: bool
) -> None:
    now, _ = after_turn(before, result, limits, jitter, fallback)
    if result.end not in GOOD_ENDS:
        assert (now.resumes, now.nudged, now.followups) == (before.resumes, before.nudged, before.followups)


@given(counters, limits, results, jitters)
def test_without_a_fallback_nobody_takes_over(
    before: Counters, limits: Limits, result: TurnResult, jitter: float
) -> None:
    assert not isinstance(after_turn(before, result, limits, jitter)[1], HandOver)


@given(counters, limits, results, jitters)
def test_a_fallback_takes_over_where_an_agent_is_at_fault_and_only_there(
    before: Counters, limits: Limits, result: TurnResult, jitter: float
) -> None:
    """Where it alone would block, another one goes on; what an agent that works comes to is a person's to judge."""
    alone = after_turn(before, result, limits, jitter)[1]
    decision = after_turn(before, result, limits, jitter, fallback=True)[1]
    if result.end in GOOD_ENDS:
        assert decision == alone
    elif isinstance(alone, Block):
        assert decision == HandOver(alone.text)
    assert not isinstance(decision, Block) or result.end in GOOD_ENDS
    assert isinstance(decision, HandOver) or decision == alone


@given(counters, limits, results, jitters, st.booleans())
def test_only_an_agent_without_its_session_or_one_that_refused_starts_cold(
    before: Counters, limits: Limits, result: TurnResult, jitter: float, fallback: bool
) -> None:
    _, decision = after_turn(before, result, limits, jitter, fallback)
    if isinstance(decision, Again) and decision.cold:
        assert result.end not in [*GOOD_ENDS, *FREE, "login", "context_full"]
        assert result.end in ("lost_session", "refused") or result.session is None


@given(counters, limits, results, jitters, st.booleans())
def test_a_session_is_summarised_at_most_once_between_two_good_turns(
    before: Counters, limits: Limits, result: TurnResult, jitter: float, fallback: bool
) -> None:
    now, decision = after_turn(before, result, limits, jitter, fallback)
    if isinstance(decision, Compact):
        assert not before.compacted
    kept = before.compacted or isinstance(decision, Compact)
    assert now.compacted == (kept and result.end not in [*GOOD_ENDS, "budget"])


@given(counters, limits, results, jitters, st.booleans())
def test_every_stop_and_every_change_has_its_evidence_in_one_line(
    before: Counters, limits: Limits, result: TurnResult, jitter: float, fallback: bool
) -> None:
    _, decision = after_turn(before, result, limits, jitter, fallback)
    text = decision.text if isinstance(decision, Block) else getattr(decision, "why", "said")
    assert text.strip()
    assert len(text.splitlines()) == 1


def most_turns(limits: Limits) -> int:
    """Between good turns, which are counted: 5 failures, 5 cold starts, a summary, and before and after each of them
    a refusal; then the one that ends it."""
    good = limits.max_working_resumes + 1 + limits.max_needs_followups + limits.max_questions
    bad = 2 * MAX_FAILURES - 1 + MAX_COLD_STARTS + 1
    return (good + 1) * (2 * bad + 1 + 1)


@given(limits, st.lists(without_complete, min_size=1, max_size=8), st.booleans())
def test_the_loop_ends_unless_it_is_limits_and_budgets_alone(
    limits: Limits, pattern: list[TurnResult], fallback: bool
) -> None:
    pattern = [
        result for result in pattern if result.end != "budget"
    ]  # each has used up money, of which there is an end
    assume(any(result.end not in FREE for result in pattern))
    most = most_turns(limits)
    _, decisions = run(pattern * most, limits, fallback=fallback)
    assert isinstance(decisions[-1], Block | HandOver if fallback else Block)
    assert sum(not isinstance(decision, Wait) for decision in decisions) <= most


@given(limits, st.lists(free_results, max_size=30))
def test_limits_and_budgets_alone_never_end_it_without_a_fallback(
    limits: Limits, given_turns: list[TurnResult]
) -> None:
    now, decisions = run(given_turns, limits)
    assert set(kinds(decisions)) <= {Wait, Again}
    assert now.failures == now.resumes == now.cold_starts == 0
