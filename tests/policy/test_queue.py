"""The merge queue's rules for those who wait: holds, leave, dependencies, one answer for each candidate."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from activities.contracts import GateResult
from activities.queue_contracts import Evidence, QueueEntry
from workflows.contracts import MergeAnswer, QueueState
from workflows.policy import queue as policy


def entry(op: str, number: int = 0, **more: Any) -> QueueEntry:
    fixed: dict[str, Any] = {"task_id": f"task-{op}", "title": "Fix login", "answer_to": f"task-{op}", "host": "h"}
    return QueueEntry(op=op, number=number, **(fixed | more))


def state(*entries: QueueEntry, **more: Any) -> QueueState:
    placed = [one.model_copy(update={"number": one.number or place}) for place, one in enumerate(entries, 1)]
    return QueueState(repo="/src/app", target="refs/heads/main", entries=placed, **more)


def going(now: QueueState, time: float = 0.0) -> list[str]:
    return [one.op for one in policy.going(now.entries, now, time, [])[0]]


def test_first_come_first_served() -> None:
    assert going(state(entry("a"), entry("b"))) == ["a", "b"]


def test_a_held_one_waits_then_goes_last_and_after_five_minutes_in_its_place() -> None:
    held = policy.held(entry("a"), "app.py is in the way", 100.0)
    now = state(held, entry("b"))
    assert policy.wake_at(now.entries, 100.0) == 102.0
    assert going(now, 101.9) == ["b"]
    assert policy.going(now.entries, now, 101.9, [])[1] == {"a": "app.py is in the way"}
    assert going(now, 102.0) == ["b", "a"]
    assert going(now, 102.0 + policy.OVERDUE_SECONDS) == ["a", "b"]


@given(st.integers(0, 2_000))
def test_holds_grow_to_a_minute_and_no_further(holds: int) -> None:
    pause = policy.held(entry("a", holds=holds), "", 0.0).not_before
    assert policy.HOLD_SECONDS <= pause <= policy.MAX_HOLD_SECONDS
    assert pause == policy.MAX_HOLD_SECONDS or holds < 6


def test_protected_paths_wait_for_leave() -> None:
    asks = entry("a", protected=["ci/run"])
    now = state(asks, entry("b"))
    assert going(now) == ["b"]
    assert "ci/run" in policy.going(now.entries, now, 0.0, [])[1]["a"]
    assert going(state(asks.model_copy(update={"allowed": True}), entry("b"))) == ["a", "b"]


def test_who_depends_on_another_waits_for_it_or_goes_behind_it() -> None:
    assert going(state(entry("a", after=["task-b"]), entry("b"))) == ["b", "a"]
    assert going(state(entry("a", after=["task-z"]), entry("b"))) == ["b"]
    waits = state(entry("a", after=["task-b"]), entry("b", after=["task-c"]), entry("c", protected=["x"]), entry("d"))
    assert going(waits) == ["d"]
    assert policy.going(waits.entries, waits, 0.0, [])[1]["a"] == "task task-b to land first"


def test_who_depends_on_a_held_one_does_not_go_before_it() -> None:
    held = policy.held(entry("a"), "app.py is in the way", 0.0)
    now = state(held, entry("b", after=["task-a"]), entry("c", after=["task-b"]), entry("d"))
    assert going(now, 10.0) == ["d", "a", "b", "c"]


def test_drained_and_frozen_queues_are_each_others_opposite() -> None:
    both = (entry("a", 1), entry("b", 2))
    assert going(state(*both, mode="draining", mode_since=1)) == ["a"]
    assert going(state(*both, mode="frozen", mode_since=1, mode_reason="red")) == ["b"]


@given(st.lists(st.builds(entry, st.text("abc", min_size=1), not_before=st.floats(0, 100)), unique_by=lambda e: e.op))
def test_everybody_goes_or_is_told_why_not(entries: list[QueueEntry]) -> None:
    now = state(*entries)
    order, waits = policy.going(now.entries, now, 50.0, [])
    assert sorted([*(one.op for one in order), *waits]) == sorted(one.op for one in entries)


@given(st.lists(st.text("abc", min_size=1)))
def test_the_last_answer_of_each_candidate_is_remembered(ops: list[str]) -> None:
    recent: list[MergeAnswer] = []
    for number, op in enumerate(ops):
        recent = policy.remember(recent, MergeAnswer(op=op, kind="landed", sha=str(number)))
    assert {answer.op: answer.sha for answer in recent} == {op: str(number) for number, op in enumerate(ops)}
    assert len(recent) == len(set(ops))


def test_so_many_answers_are_remembered_and_fit_the_state() -> None:
    recent: list[MergeAnswer] = []
    for number in range(policy.REMEMBERED + 5):
        recent = policy.remember(recent, MergeAnswer(op=str(number), kind="landed"))
    assert [recent[0].op, recent[-1].op] == ["5", str(policy.REMEMBERED + 4)]
    kept = state(recent=recent)
    assert QueueState.model_validate_json(kept.model_dump_json()) == kept


def test_what_is_remembered_of_answers_stays_below_what_a_workflow_can_be_given() -> None:
    lines = ["x" * 4_000] * 50
    gate = GateResult(
        name="test", passed=False, exit_code=1, seconds=1, tail="x" * 3_000, hint="x" * 300, log="/x" * 100
    )
    evidence = Evidence(files=lines, stages=lines, messages=lines, landed_by=lines, gates=[gate] * 10)
    answer = MergeAnswer(op="", kind="conflict", reason="x" * 4_000, evidence=evidence)
    recent: list[MergeAnswer] = []
    for number in range(2 * policy.REMEMBERED):
        recent = policy.remember(recent, answer.model_copy(update={"op": str(number)}))
    assert len(state(recent=recent).model_dump_json()) < 2_000_000
