"""The rules of one worker of a swarm."""

from __future__ import annotations

import pytest

from activities.swarm.settings import PlannerSpec, SwarmSettings, WorkerSpec
from workflows.contracts import Seconds, TaskResult
from workflows.policy import members as policy
from workflows.swarm_contracts import Member, Tally

NOW = 1_700_000_000.0
SETTINGS = SwarmSettings(max_errors=3, error_backoff_seconds=60)
KIND = WorkerSpec(name="w")


def a_member(**fields: object) -> Member:
    one = Member(name="w.1", kind="w", agent="claude", state="working", cycle="swarm-w.1-1", holds=["a", "b"])
    return one.model_copy(update=fields)


def test_errors_in_a_row_back_off_twice_as_long_each_and_then_stop_it() -> None:
    member = a_member()
    for number, wait in enumerate((60, 120), start=1):
        member = policy.after_error(member, "gates\n  failed", SETTINGS, NOW)
        assert (member.state, member.errors, member.until, member.why) == (
            "backing off", number, NOW + wait, "gates failed"
        )  # fmt: skip
    stopped = policy.after_error(member, "terminated", SETTINGS, NOW)
    assert (stopped.state, stopped.until, stopped.tally.errors) == ("stopped", None, 3)
    assert stopped.why == "3 errors in a row, the last: terminated"


def test_no_pause_after_errors_is_longer_than_the_longest() -> None:
    settings = SwarmSettings(max_errors=100, error_backoff_seconds=60)
    assert policy.after_error(a_member(errors=50), "failed", settings, NOW).until == NOW + policy.MAX_BACKOFF


@pytest.mark.parametrize(
    ("outcome", "error"),
    [("merged", False), ("no-changes", False), ("cancelled", False), ("abandoned", False), ("rejected", False),
     ("failed", True), ("terminated", True)],
)  # fmt: skip
def test_what_an_operator_ends_is_no_error(outcome: str, error: bool) -> None:
    assert policy.is_error(outcome) is error


def test_it_waits_between_cycles_and_stops_after_its_last() -> None:
    kind = WorkerSpec(name="w", wait_between=5, max_cycle=2)
    member = policy.freed(a_member(plans=True, idle_since=NOW), kind, NOW)
    assert (member.state, member.until, member.cycle, member.holds) == ("idle", NOW + 5, "", [])
    assert (member.plans, member.idle_since, member.tally.cycles) == (False, None, 1)
    member = policy.freed(member, kind, NOW)
    assert (member.state, member.why, member.until) == ("stopped", "has done its 2 cycles", None)
    assert policy.freed(a_member(), KIND, NOW).until is None


def test_who_backs_off_or_has_stopped_stays_so_when_its_cycle_is_over() -> None:
    backing = policy.freed(a_member(state="backing off", until=NOW + 60, why="failed"), KIND, NOW)
    assert (backing.state, backing.until, backing.why, backing.tally.cycles) == ("backing off", NOW + 60, "failed", 1)
    stopped = policy.freed(a_member(state="stopped", why="3 errors"), KIND, NOW)
    assert (stopped.state, stopped.why, stopped.cycle) == ("stopped", "3 errors", "")


def test_an_operator_s_resume_revives_all_but_who_has_done_its_share() -> None:
    for state in ("stopped", "backing off"):
        again = policy.revived(a_member(state=state, why="3 errors", errors=3, until=NOW), KIND)
        assert (again.state, again.why, again.errors, again.until) == ("idle", "", 0, None)
    working = a_member(errors=1)
    assert policy.revived(working, KIND) == working
    done = a_member(state="stopped", tally=Tally(cycles=2))
    assert policy.revived(done, WorkerSpec(name="w", max_cycle=2)) == done
    assert policy.revived(done, None) == done


def test_what_it_did_is_added_up() -> None:
    seconds = Seconds(agent=2, total=3)
    result = TaskResult(outcome="merged", turns=4, review_rounds=1, cost_usd=0.1, tokens=9, seconds=seconds)
    before = Tally(runs=1, claims=2, merges=1, cost_usd=0.2, seconds=Seconds(agent=1, total=1))
    after = policy.tallied(a_member(tally=before), "merged", result, claims=2, recycled=0, approvals=2).tally
    assert after == Tally(
        runs=5,
        claims=4,
        merges=2,
        rejects=1,
        review_rounds=3,
        cost_usd=0.3,
        tokens=9,
        seconds=Seconds(agent=3, total=4),
    )
    assert policy.tallied(a_member(), "terminated", None, claims=2, recycled=2, approvals=0).tally == Tally(
        claims=2, recycled=2
    )
    assert policy.tallied(a_member(), "planned", result, claims=0, recycled=0, approvals=0).tally.merges == 1


def test_it_waits_for_tasks_only_for_so_long_and_not_while_others_may_make_some() -> None:
    kind = WorkerSpec(name="w", max_wait_for_tasks=10)
    member = policy.waits(a_member(cycle=""), kind, "waits for tasks", NOW, others_may_help=False)
    assert (member.state, member.idle_since) == ("waiting", NOW)
    assert policy.waits(member, kind, "waits for tasks", NOW + 9, others_may_help=False).state == "waiting"
    helped = policy.waits(member, kind, "waits for tasks", NOW + 20, others_may_help=True)
    assert (helped.state, helped.idle_since) == ("waiting", NOW + 20)
    stopped = policy.waits(member, kind, "waits for tasks", NOW + 10, others_may_help=False)
    assert (stopped.state, stopped.why) == ("stopped", "there was nothing for it to do for 10 s")
    assert policy.waits(member, PlannerSpec(), "plans", NOW + 1e9, others_may_help=False).state == "waiting"


def test_the_last_line_of_the_table_is_the_sum_of_all() -> None:
    one = a_member(tally=Tally(runs=1, cost_usd=0.1, seconds=Seconds(agent=1.5)))
    other = a_member(tally=Tally(runs=2, errors=1, cost_usd=0.2, seconds=Seconds(agent=2)))
    assert policy.total([one, other]) == Tally(runs=3, errors=1, cost_usd=0.3, seconds=Seconds(agent=3.5))
    assert policy.total([]) == Tally()
