"""The order in which candidates land: priority, age, overlaps, arrival, and what is not to be disturbed."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from workflows.policy.order import LEVEL_SECONDS, Waiting, ordered

NOW = 1_000_000.0


def waiting(op: str, number: int = 0, **more: Any) -> Waiting:
    return Waiting(op, number, **({"priority": 0, "since": NOW} | more))


@st.composite
def queues(draw: st.DrawFn) -> list[Waiting]:
    ops = draw(st.lists(st.sampled_from("abcdefgh"), unique=True))
    return [
        Waiting(
            op,
            number,
            draw(st.integers(-2, 2)),
            NOW - draw(st.integers(0, 6)) * LEVEL_SECONDS / 2,
            draw(st.integers(0, 2)),
            draw(st.frozensets(st.sampled_from("abcdefgh"), max_size=2)),
        )
        for number, op in enumerate(ops)
    ]


settled_ops = st.lists(st.sampled_from("abcdefgh"), unique=True)


def must_follow(queue: list[Waiting], op: str) -> set[str]:
    """Directly or by way of others that wait."""
    after = {one.op: one.after for one in queue}
    found: set[str] = set()
    left = [op]
    while left:
        new = {other for other in after[left.pop()] if other in after} - found
        found |= new
        left += new
    return found


# --- the rules, one by one -----------------------------------------------------------------------------


def test_first_come_first_served() -> None:
    assert ordered([waiting("b", 2), waiting("a", 1), waiting("c", 3)], NOW, []) == ["a", "b", "c"]


def test_a_higher_priority_goes_first_then_fewer_overlaps() -> None:
    queue = [waiting("a", 1, overlaps=1), waiting("b", 2), waiting("c", 3, priority=1, overlaps=9)]
    assert ordered(queue, NOW, []) == ["c", "b", "a"]


def test_half_an_hour_of_waiting_is_worth_one_priority() -> None:
    old, urgent = waiting("old", 1), waiting("urgent", 2, priority=1, since=NOW + LEVEL_SECONDS)
    assert ordered([urgent, old], NOW + LEVEL_SECONDS - 1, []) == ["urgent", "old"]
    assert ordered([urgent, old], NOW + LEVEL_SECONDS, []) == ["old", "urgent"]


def test_what_is_being_tested_is_disturbed_by_a_higher_priority_only() -> None:
    tested = [waiting("a", 1, overlaps=5), waiting("b", 2, overlaps=5)]
    older = waiting("older", 0, since=NOW - 5 * LEVEL_SECONDS)
    urgent = waiting("urgent", 3, priority=1, overlaps=9)
    assert ordered([*tested, older, urgent], NOW, ["b", "a"]) == ["urgent", "b", "a", "older"]


def test_a_higher_priority_does_not_go_before_one_whose_age_makes_up_for_it() -> None:
    tested = waiting("tested", 1, since=NOW - LEVEL_SECONDS)
    assert ordered([tested, waiting("urgent", 2, priority=1)], NOW, ["tested"]) == ["tested", "urgent"]


def test_what_an_urgent_one_has_to_follow_is_brought_forward_with_it() -> None:
    queue = [waiting("a", 1), waiting("b", 2), waiting("c", 3), waiting("urgent", 4, priority=1, after={"c", "gone"})]
    assert ordered(queue, NOW, []) == ["c", "urgent", "a", "b"]


def test_a_very_long_row_of_dependencies() -> None:
    names = [f"{number}" for number in range(2_000)]
    queue = [waiting(op, -number, after={names[number - 1]} if number else ()) for number, op in enumerate(names)]
    assert ordered(queue, NOW, []) == names


# --- for every queue -----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(queues(), settled_ops)
def test_all_of_them_once_and_the_same_for_every_order_of_the_list(queue: list[Waiting], settled: list[str]) -> None:
    found = ordered(queue, NOW, settled)
    assert sorted(found) == sorted(one.op for one in queue)
    assert ordered(queue[::-1], NOW, settled) == found


@settings(max_examples=50, deadline=None)
@given(queues(), settled_ops)
def test_nobody_comes_before_one_that_it_has_to_follow_except_in_a_circle(
    queue: list[Waiting], settled: list[str]
) -> None:
    found = ordered(queue, NOW, settled)
    follows = {one.op: must_follow(queue, one.op) for one in queue}
    for one in queue:
        for other in follows.keys() & one.after:
            assert found.index(other) < found.index(one.op) or one.op in follows[other]


@settings(max_examples=50, deadline=None)
@given(queues(), settled_ops)
def test_those_that_are_tested_keep_their_order_and_nobody_of_no_higher_priority_goes_before_them(
    queue: list[Waiting], settled: list[str]
) -> None:
    free = [Waiting(one.op, one.number, one.priority, one.since, one.overlaps) for one in queue]
    found = ordered(free, NOW, settled)
    kept = [op for op in settled if op in found]
    assert [op for op in found if op in kept] == kept
    for one in free:
        for other in free:
            if other.op in kept and one.op not in kept and one.priority <= other.priority:
                assert found.index(other.op) < found.index(one.op)


@settings(max_examples=50, deadline=None)
@given(queues(), st.floats(0, 10 * LEVEL_SECONDS))
def test_once_all_of_them_are_tested_time_changes_nothing(queue: list[Waiting], later: float) -> None:
    found = ordered(queue, NOW, [])
    assert ordered(queue, NOW + later, found) == found


@settings(max_examples=50, deadline=None)
@given(queues(), settled_ops)
def test_whoever_has_waited_long_goes_before_all_that_come_now_but_for_what_is_tested(
    queue: list[Waiting], settled: list[str]
) -> None:
    """So the number of those that ever go before it is bounded, whatever comes."""
    free = [Waiting(one.op, one.number, one.priority, one.since, one.overlaps) for one in queue]
    patient = waiting("patient", 100, priority=-2, since=NOW - 8 * LEVEL_SECONDS, overlaps=9)
    found = ordered([*free, patient], NOW, settled)
    before = found[: found.index("patient")]
    assert not before or before[-1] in settled


def test_nobody_starves_behind_a_stream_of_urgent_ones() -> None:
    patient = waiting("patient")
    for minute in range(1_000):
        now = NOW + 60.0 * minute
        urgent = waiting(f"urgent {minute}", minute + 1, priority=3, since=now)
        if ordered([patient, urgent], now, [])[0] == "patient":
            break
    assert minute == 3 * LEVEL_SECONDS / 60
