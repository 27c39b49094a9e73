"""The rules of a quota: by example, and for every order of events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from activities.contracts import QuotaConfig, Usage
from workflows.contracts import LeaseRequest, LeaseReturn, QuotaState, Refusal
from workflows.policy.quota import (
    CREDIT_SECONDS,
    DAY,
    PROBE_SECONDS,
    SMALLEST_SHARE,
    STAGGER_SECONDS,
    crowded,
    granted,
    requested,
    returned,
    trouble,
    wake_at,
    why,
    withdrawn,
    woken,
)

NOON = 20_000.5 * DAY


def a_quota(*waiting: str, slots: int | None = 2, cap: float | None = None) -> QuotaState:
    config = QuotaConfig(slots=slots, max_cost_usd_per_day=cap)
    state = QuotaState(name="anthropic/default", config=config)
    for lease in waiting:
        state = requested(state, ask(lease), NOON)
    return state


def ask(lease: str) -> LeaseRequest:
    return LeaseRequest(lease=lease, holder=f"task-{lease}", what="executor turn 1")


def names(grants: list[Any]) -> list[str]:
    return [grant.lease for grant in grants]


def back(lease: str, cost: float = 0.0, **more: Any) -> LeaseReturn:
    return LeaseReturn(lease=lease, usage=Usage(cost_usd=cost), **more)


def refused(lease: str, seconds: float | None = None, kind: Any = "limited") -> LeaseReturn:
    return back(lease, worked=False, refused=Refusal(kind=kind, reason="429", retry_after_seconds=seconds))


def test_trouble_has_one_name_until_the_model_answers() -> None:
    state, _ = granted(a_quota("a", "b", "c"), NOON)
    assert trouble(state, NOON) == ""  # crowded
    state = returned(state, refused("a"), NOON, 0)
    name = trouble(state, NOON + 1)
    assert name
    state, _ = granted(state, NOON + 60)
    assert trouble(state, NOON + 60) == ""
    state = returned(state, refused("c"), NOON + 61, 0)
    assert trouble(state, NOON + 62) == name  # the probe was refused: the same incident
    state, _ = granted(requested(state, ask("d"), NOON + 62), NOON + 3_600)
    state = returned(state, back("d"), NOON + 3_601, 0)
    state, _ = granted(requested(state, ask("e"), NOON + 3_601), NOON + 3_700)
    assert trouble(returned(state, refused("e"), NOON + 3_701, 0), NOON + 3_702) not in ("", name)
    spent, _ = granted(a_quota("a", cap=1), NOON)
    spent = requested(returned(spent, back("a", cost=1), NOON, 0), ask("b"), NOON)
    assert trouble(spent, NOON).startswith("spent-")
    assert trouble(spent.model_copy(update={"held": True}), NOON) == ""


def test_first_come_first_served_and_never_more_than_the_slots() -> None:
    state, grants = granted(a_quota("a", "b", "c"), NOON)
    assert names(grants) == ["a", "b"]
    assert granted(state, NOON)[1] == []
    assert wake_at(state, NOON) is None
    assert "free slot" in why(state, NOON)[0]
    state, grants = granted(returned(state, back("b"), NOON, 0), NOON)
    assert names(grants) == ["c"]


def test_asking_twice_and_giving_back_twice_count_once() -> None:
    state = requested(a_quota("a"), ask("a"), NOON)
    state, grants = granted(state, NOON)
    assert names(grants) == ["a"]
    state = requested(state, ask("a"), NOON)
    assert state.waiting == []
    state = returned(state, back("a", 1.5), NOON, 0)
    assert returned(state, back("a", 1.5), NOON, 0) == state
    assert state.spent_today == 1.5


@pytest.mark.parametrize(
    ("seconds", "kind", "strikes", "wait"),
    [
        (3_600.0, "limited", 0, 3_601.0),
        (None, "limited", 0, 30.0),
        (None, "limited", 2, 120.0),
        (None, "limited", 50, 900.0),
        (None, "credit", 0, CREDIT_SECONDS),
        (1e12, "limited", 0, 8 * DAY + 1),
    ],
)
def test_a_refusal_parks_everybody(seconds: float | None, kind: str, strikes: int, wait: float) -> None:
    state, _ = granted(a_quota("a", "b").model_copy(update={"strikes": strikes}), NOON)
    state = requested(returned(state, refused("a", seconds, kind), NOON + 1, 0), ask("c"), NOON + 1)
    assert state.parked_until == NOON + 1 + wait
    assert granted(state, NOON + wait - 1)[1] == []
    assert wake_at(state, NOON + 2) == state.parked_until
    assert why(state, NOON + 2) == ("anthropic/default is limited: 429", state.parked_until)


def test_refusals_of_turns_that_were_under_way_are_one_incident() -> None:
    state, _ = granted(a_quota("a", "b", "c", slots=3), NOON)
    state = returned(state, refused("a"), NOON + 1, 0)
    state = returned(state, refused("b"), NOON + 2, 0)
    assert (state.parked_until, state.strikes, state.refusals) == (NOON + 31, 1, 2)
    state = returned(state, refused("c", 600), NOON + 3, 0)  # it states a time: that is better
    assert state.parked_until == NOON + 604


def test_a_park_is_not_moved_for_a_few_seconds() -> None:
    """Each move would be told to all that wait."""
    state, _ = granted(a_quota("a", "b", slots=3), NOON)
    state = returned(state, refused("a", 3_600), NOON + 1, 0)
    assert returned(state, refused("b", 3_600), NOON + 9, 0.5).parked_until == state.parked_until


def test_who_holds_money_that_others_wait_for_is_looked_after() -> None:
    state, _ = granted(a_quota("a", "b", slots=None, cap=1.0), NOON)
    for lease in "cdefghij":
        state = requested(state, ask(lease), NOON)
        state, _ = granted(state, NOON)
    assert state.waiting
    assert crowded(state)
    assert why(state, NOON) == ("anthropic/default: what is left of today's $1.00 is in use by others", None)
    assert not crowded(state.model_copy(update={"leases": []}))


def test_after_a_park_one_goes_first_and_the_others_follow_one_by_one() -> None:
    state, _ = granted(a_quota("x", slots=4), NOON)
    state = returned(state, refused("x", 9), NOON, 0)
    for lease in "abcd":
        state = requested(state, ask(lease), NOON)
    state, grants = granted(state, NOON + 10)
    assert names(grants) == ["a"]
    assert granted(state, NOON + 10 + PROBE_SECONDS - 1)[1] == []
    state = returned(state, back("a"), NOON + 15, 0)
    assert granted(state, NOON + 15)[1] == []
    for number, lease in enumerate("bcd", 1):
        state, grants = granted(state, NOON + 15 + number * STAGGER_SECONDS)
        assert names(grants) == [lease]
    assert not state.staggering


def test_a_probe_that_goes_on_is_as_good_as_one_that_has_worked() -> None:
    state, _ = granted(a_quota("x"), NOON)
    state = requested(requested(returned(state, refused("x", 9), NOON, 0), ask("a"), NOON), ask("b"), NOON)
    state, grants = granted(state, NOON + 10)
    assert names(grants) == ["a"]
    assert wake_at(state, NOON + 10) == NOON + 10 + PROBE_SECONDS
    assert names(granted(state, NOON + 10 + PROBE_SECONDS)[1]) == ["b"]


def test_a_probe_that_is_refused_parks_for_longer() -> None:
    state, _ = granted(a_quota("a"), NOON)
    state = requested(returned(state, refused("a"), NOON, 0), ask("a2"), NOON)
    state, _ = granted(state, NOON + 30)
    state = returned(state, refused("a2"), NOON + 31, 0)
    assert state.parked_until == NOON + 31 + 60
    state, _ = granted(requested(state, ask("a3"), NOON + 31), NOON + 91)
    state = returned(state, back("a3"), NOON + 92, 0)
    assert state.strikes == 0


def test_an_old_turn_that_worked_is_no_proof_that_the_limit_is_over() -> None:
    state, _ = granted(a_quota("a", "b"), NOON)
    state = returned(state, refused("a", 100), NOON + 1, 0)
    state = returned(state, back("b"), NOON + 2, 0)
    assert state.recovering
    assert state.parked_until is not None


def test_hold_stops_all_and_wake_ends_a_park() -> None:
    state, _ = granted(a_quota("a"), NOON)
    state = requested(returned(state, refused("a", 9_000), NOON, 0), ask("b"), NOON)
    held = state.model_copy(update={"held": True})
    assert granted(woken(held, NOON + 5), NOON + 5)[1] == []
    assert wake_at(held, NOON) is None
    assert "held" in why(held, NOON)[0]
    assert names(granted(woken(state, NOON + 5), NOON + 5)[1]) == ["b"]


def test_daily_money_is_given_out_once() -> None:
    state, grants = granted(a_quota("a", "b", "c", slots=3, cap=3.0), NOON)
    caps = [grant.cap_usd or 0 for grant in grants]
    assert sum(caps) == pytest.approx(3.0)
    state = requested(returned(state, back("a", 0.25), NOON, 0), ask("d"), NOON)
    state, grants = granted(state, NOON)
    assert [grant.cap_usd for grant in grants] == [pytest.approx(caps[0] - 0.25)]


def test_without_money_all_wait_for_midnight_or_for_an_operator() -> None:
    state, _ = granted(a_quota("a", cap=3.0), NOON)
    state = requested(returned(state, back("a", 3.2), NOON, 0), ask("b"), NOON)
    assert granted(state, NOON)[1] == []
    assert "$3.20 of today's $3.00" in why(state, NOON)[0]
    midnight = (NOON // DAY + 1) * DAY
    assert wake_at(state, NOON) == midnight
    assert names(granted(state, midnight)[1]) == ["b"]
    assert names(granted(woken(state, NOON), NOON)[1]) == ["b"]


class Account(RuleBasedStateMachine):
    """Tasks that ask, work, are refused and die, in any order, while an operator presses buttons."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.state = a_quota(slots=3, cap=10.0)
        self.count = 0
        self.spent: dict[int, float] = {}
        self.grants: list[Any] = []

    def grant(self) -> None:
        self.state, self.grants = granted(self.state, self.now)
        for each in self.grants:
            assert not self.state.held
            assert each.cap_usd is None or each.cap_usd >= SMALLEST_SHARE * 10.0

    def a_lease(self, data: st.DataObject) -> Any:
        return data.draw(st.sampled_from(self.state.leases))

    @rule()
    def somebody_asks(self) -> None:
        self.count += 1
        self.state = requested(self.state, ask(str(self.count)), self.now)
        self.grant()

    @rule(seconds=st.sampled_from([0.5, 2.0, 50.0, 1_000.0, 50_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.grant()

    @precondition(lambda self: self.state.leases)
    @rule(data=st.data(), part=st.floats(0, 1), worked=st.booleans())
    def a_turn_ends(self, data: st.DataObject, part: float, worked: bool) -> None:
        lease = self.a_lease(data)
        cost = part * (lease.cap_usd or 0)
        self.state = returned(self.state, back(lease.request.lease, cost, worked=worked), self.now, 0.5)
        self.grant()

    @precondition(lambda self: self.state.leases)
    @rule(data=st.data(), seconds=st.none() | st.floats(0, 1e9))
    def a_turn_is_refused(self, data: st.DataObject, seconds: float | None) -> None:
        lease = self.a_lease(data).request.lease
        self.state = returned(self.state, refused(lease, seconds), self.now, 0.5)
        assert self.state.parked_until is not None
        assert granted(self.state, self.now)[1] == []
        self.grant()

    @precondition(lambda self: self.state.leases or self.state.waiting)
    @rule(data=st.data())
    def a_task_is_gone(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from([*self.state.leases, *self.state.waiting]))
        self.state = withdrawn(self.state, lease.request.lease)
        self.grant()

    @rule(held=st.booleans())
    def an_operator_holds(self, held: bool) -> None:
        self.state = self.state.model_copy(update={"held": held})
        self.grant()

    @rule()
    def an_operator_wakes(self) -> None:
        self.state = woken(self.state, self.now)
        self.grant()

    @invariant()
    def never_more_than_the_slots(self) -> None:
        assert len(self.state.leases) <= 3

    @invariant()
    def held_or_waiting_and_never_twice(self) -> None:
        leases = [lease.request.lease for lease in (*self.state.leases, *self.state.waiting)]
        assert len(leases) == len(set(leases))

    @invariant()
    def promises_are_covered(self) -> None:
        promised = sum(lease.cap_usd or 0 for lease in self.state.leases)
        granted_today = 10.0 * self.state.days_granted
        yesterday = any(lease.since // DAY < self.state.day for lease in self.state.leases)
        assert yesterday or self.state.spent_today + promised <= granted_today + 1e-6

    @invariant()
    def the_queue_can_be_stored(self) -> None:
        assert QuotaState.model_validate_json(self.state.model_dump_json()) == self.state

    def teardown(self) -> None:
        """Whoever waits is granted in the end, if turns end and nobody holds it."""
        self.state = self.state.model_copy(update={"held": False})
        for _ in range(20 * (len(self.state.waiting) + len(self.state.leases)) + 20):
            self.grant()
            if not self.state.waiting:
                return
            for lease in self.state.leases:
                self.state = returned(self.state, back(lease.request.lease), self.now, 0)
            wake = wake_at(self.state, self.now)
            assert wake is not None
            assert wake >= self.now
            self.now = max(wake, self.now + 0.01)
        raise AssertionError(f"somebody waits for ever: {self.state}")


TestAccount = Account.TestCase
TestAccount.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
