"""The merge queue's rules: order, holds, one answer for each candidate."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from activities.contracts import Candidate, TaskRef
from workflows.contracts import MergeAnswer, QueueEntry, QueueState
from workflows.policy import queue as policy


def candidate(op: str, **more: Any) -> Candidate:
    ref = TaskRef(task_id=f"task-{op}", key=f"task-{op}.1", repo="/src/app", target="refs/heads/main")
    fixed: dict[str, Any] = {"head": "a" * 40, "strategy": "merge", "title": "Fix login", "agent": "codex"}
    return Candidate(
        op=op, ref=ref, reviewers=[], author="A <a@b>", date=0, host="h", answer_to=ref.task_id, **(fixed | more)
    )


def entry(op: str, **more: Any) -> QueueEntry:
    return QueueEntry(candidate=candidate(op), **more)


def answer(op: str, **more: Any) -> MergeAnswer:
    return MergeAnswer(op=op, kind="landed", **more)


def ops(entries: list[QueueEntry]) -> list[str]:
    return [entry.candidate.op for entry in entries]


times = st.floats(0, 100)
entries = st.lists(st.builds(entry, st.text("abc", min_size=1), not_before=times), unique_by=lambda e: e.candidate.op)
some_ops = st.text("abc", min_size=1)


# --- who goes next -----------------------------------------------------------------------------------


def test_first_come_first_served() -> None:
    assert policy.next_entry([entry("a"), entry("b")], 0.0) == entry("a")


def test_those_behind_a_held_one_go_first_and_it_goes_when_its_time_has_come() -> None:
    queue = [entry("a", not_before=10.0), entry("b"), entry("c")]
    assert policy.next_entry(queue, 9.9) == queue[1]
    assert policy.next_entry(queue, 10.0) == queue[0]


@given(entries, times)
def test_the_next_one_is_the_first_that_may_go(queue: list[QueueEntry], now: float) -> None:
    found = policy.next_entry(queue, now)
    passed_over = queue if found is None else queue[: queue.index(found)]
    assert all(entry.not_before > now for entry in passed_over)
    assert found is None or found.not_before <= now


@given(entries, times)
def test_when_nobody_may_go_somebody_may_at_the_waking_time_and_not_before(queue: list[QueueEntry], now: float) -> None:
    if policy.next_entry(queue, now) is not None:
        return
    wake = policy.wake_at(queue)
    assert (wake is None) == (queue == [])
    if wake is not None:
        assert wake > now
        assert policy.next_entry(queue, wake) is not None
        assert all(entry.not_before >= wake for entry in queue)


# --- holds -------------------------------------------------------------------------------------------


def test_a_held_candidate_is_tried_again_after_2_4_8_seconds_at_most_60() -> None:
    now, waiting, pauses = 1_000.0, entry("a"), []
    for _ in range(8):
        waiting = policy.held(waiting, "app.py is in the way", now)
        pauses.append(waiting.not_before - now)
        now = waiting.not_before
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert waiting == entry("a", state="held", reason="app.py is in the way", holds=8, not_before=now)


@given(st.integers(0, 10**6), times)
def test_a_hold_is_never_over_at_once_and_never_longer_than_a_minute(holds: int, now: float) -> None:
    waiting = policy.held(entry("a", holds=holds), "in the way", now)
    assert now + 2.0 <= waiting.not_before <= now + 60.0
    assert waiting.holds == holds + 1


# --- the list ----------------------------------------------------------------------------------------


@given(entries, some_ops)
def test_a_new_candidate_comes_last_and_the_same_one_twice_is_one(queue: list[QueueEntry], op: str) -> None:
    once = policy.submitted(queue, entry(op))
    assert once == (queue if op in ops(queue) else [*queue, entry(op)])
    assert policy.submitted(once, entry(op)) == once


def test_the_same_candidate_twice_keeps_its_place_and_what_is_known_of_it() -> None:
    queue = [entry("a", state="held", holds=3, not_before=8.0), entry("b")]
    assert policy.submitted(queue, entry("a")) == queue


@given(entries, some_ops)
def test_replacing_keeps_every_place_and_touches_no_other(queue: list[QueueEntry], op: str) -> None:
    """So a candidate that lost a race is where it was: at the front."""
    now = entry(op, state="landing")
    after = policy.replaced(queue, now)
    assert ops(after) == ops(queue)
    assert all(new == (now if old.candidate.op == op else old) for old, new in zip(queue, after, strict=True))


@given(entries, some_ops)
def test_taking_one_out_leaves_the_others_as_they_were(queue: list[QueueEntry], op: str) -> None:
    assert policy.without(queue, op) == [entry for entry in queue if entry.candidate.op != op]


# --- answers -----------------------------------------------------------------------------------------


@given(st.lists(st.builds(answer, some_ops, reason=st.text(max_size=3))))
def test_the_last_answer_of_each_candidate_is_remembered(given_answers: list[MergeAnswer]) -> None:
    recent: list[MergeAnswer] = []
    for one in given_answers:
        recent = policy.remember(recent, one)
        assert recent[-1] == one
    assert {one.op: one for one in given_answers} == {one.op: one for one in recent}
    assert len({one.op for one in recent}) == len(recent)


def test_two_hundred_answers_are_remembered_and_a_queue_can_carry_them_on() -> None:
    recent: list[MergeAnswer] = []
    for number in range(250):
        recent = policy.remember(recent, answer(str(number)))
    assert [one.op for one in recent] == [str(number) for number in range(50, 250)]
    state = QueueState(repo="/src/app", target="refs/heads/main", recent=recent)
    assert QueueState.model_validate_json(state.model_dump_json()) == state


def test_red_is_confirmed_by_one_more_run() -> None:
    assert policy.CONFIRMING_RUNS == 1


# --- a queue at work ---------------------------------------------------------------------------------


class QueueAtWork(RuleBasedStateMachine):
    """Candidates come, are held, lose races and are answered, in any order, as the merge queue does it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.queue: list[QueueEntry] = []
        self.arrived: list[str] = []
        """In the order in which they came; without those that were answered."""
        self.held_until: dict[str, float] = {}

    def next(self) -> QueueEntry | None:
        """Also checks that nobody was passed over who might go."""
        found = policy.next_entry(self.queue, self.now)
        may_go = [op for op in self.arrived if self.held_until.get(op, 0.0) <= self.now]
        late = self.now - policy.OVERDUE_SECONDS
        first = [op for op in may_go if op not in self.held_until or self.held_until[op] <= late]
        may_go = first or may_go
        assert (found and found.candidate.op) == (may_go[0] if may_go else None)
        return found

    @rule(op=st.sampled_from("abcdef"))
    def submit(self, op: str) -> None:
        self.queue = policy.submitted(self.queue, entry(op))
        if op not in self.arrived:
            self.arrived.append(op)

    @rule(seconds=st.floats(0.5, 70))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def land(self) -> None:
        if found := self.next():
            op = found.candidate.op
            self.queue = policy.without(self.queue, op)
            self.arrived.remove(op)
            self.held_until.pop(op, None)

    @rule()
    def lose_a_race(self) -> None:
        if found := self.next():
            self.queue = policy.replaced(self.queue, found.model_copy(update={"reason": "once more"}))
            assert self.next() == found.model_copy(update={"reason": "once more"})

    @rule()
    def hold(self) -> None:
        if found := self.next():
            waiting = policy.held(found, "in the way", self.now)
            self.queue = policy.replaced(self.queue, waiting)
            self.held_until[found.candidate.op] = waiting.not_before

    @precondition(lambda self: self.arrived)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        op = data.draw(st.sampled_from(self.arrived))
        self.queue = policy.without(self.queue, op)
        self.arrived.remove(op)
        self.held_until.pop(op, None)

    @invariant()
    def nobody_is_lost_doubled_or_overtakes(self) -> None:
        assert ops(self.queue) == self.arrived


TestQueueAtWork = QueueAtWork.TestCase
TestQueueAtWork.settings = settings(max_examples=50, stateful_step_count=30)
