"""The board of a swarm: by example, and for every order of events."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pydantic import ValidationError
from pydantic_core import to_json

from activities.settings import Listed
from activities.swarm.contracts import Row
from workflows.policy.board import (
    COMPARED,
    LARGE_BYTES,
    Board,
    Item,
    added,
    claimable,
    claimed,
    completed,
    counts,
    held,
    listed,
    parked,
    released,
    requeued,
    stopped,
    unreachable,
    waits_for,
)
from workflows.policy.overlap import DEEPEST, MOST_STARS, Flight

NOW = 1_700_000_000.0


def row(task: str, **more: Any) -> Row:
    return Row(id=task, title=f"Do {task}", **more)


def a_board(*rows: Row | str) -> Board:
    return added(Board(), [row(each) if isinstance(each, str) else each for each in rows], NOW)


def claim(board: Board, *ids: str, holder: str = "one", most: int = 9) -> Board:
    board, got, refused = claimed(board, ids, holder, f"worker-{holder}", NOW + 1, most)
    assert (got, refused) == (list(ids), [])
    return board


def refusals(board: Board, *ids: str, holder: str = "two", most: int = 9) -> dict[str, str]:
    after, got, refused = claimed(board, ids, holder, f"worker-{holder}", NOW + 2, most)
    assert got == []
    assert after == board
    return {each.id: each.why for each in refused}


def place(board: Board, task: str) -> tuple[str, str]:
    return board.items[task].place, board.items[task].holder


def done(board: Board, *ids: str) -> Board:
    return completed(claim(board, *ids, holder="done"), "done", NOW + 3, "abc")


# --- claims --------------------------------------------------------------------------------------------


def test_what_comes_twice_stays_as_it_was() -> None:
    board = claim(a_board("a"), "a")
    again = added(board, [row("a", priority=9), row("b"), row("b", priority=9)], NOW + 5)
    assert again.items["a"] == board.items["a"]
    assert again.items["b"].row.priority == 0
    assert again.items["b"].since == NOW + 5


def test_a_task_is_claimed_once_and_a_claim_asked_again_is_the_same_one() -> None:
    board = claim(a_board("a", "b"), "a")
    assert place(board, "a") == ("current", "one")
    assert board.items["a"].since == NOW + 1
    assert claimed(board, ["a"], "one", "worker-one", NOW + 9, 1) == (board, ["a"], [])
    board, got, refused = claimed(board, ["a", "b", "b"], "two", "worker-two", NOW + 9, 9)
    assert got == ["b"]
    assert [(each.id, each.why) for each in refused] == [("a", "taken by worker-one")]
    assert held(board, "two") == ["b"]


def test_why_a_claim_is_refused() -> None:
    board = claim(a_board("a", "b", row("c", after=["a", "d", "gone"]), "d", "e"), "a", "b")
    board = stopped(done(board, "d"), "one", NOW, "it deletes too much")
    board = parked(claim(board, "e"), "one", NOW, "which colour?")
    assert refusals(board, "a", "c", "d", "e", "gone") == {
        "a": "blocked: it deletes too much",
        "c": "waits for a, gone",
        "d": "complete, by worker-done",
        "e": "taken by worker-one, and blocked: which colour?",
        "gone": "not on the board",
    }


def test_dependencies_are_not_overtaken_within_one_claim() -> None:
    assert refusals(claim(a_board("a", row("b", after=["a"])), "a"), "b", holder="one") == {"b": "waits for a"}


def test_nobody_has_more_than_the_most_at_once() -> None:
    board = claim(a_board("a", "b", "c"), "a")
    board, got, refused = claimed(board, ["a", "b", "c"], "one", "worker", NOW, 2)
    assert got == ["a", "b"]
    assert [each.id for each in refused] == ["c"]
    assert "2" in refused[0].why


def test_nobody_holds_nothing() -> None:
    board = a_board("a")
    assert held(board, "") == []
    assert completed(board, "", NOW, "abc") == board
    with pytest.raises(ValueError, match="holder"):
        claimed(board, ["a"], "", "", NOW, 1)


# --- what becomes of claims ----------------------------------------------------------------------------


def test_given_back_it_can_be_claimed_again_until_its_tries_are_used_up() -> None:
    board = a_board("a", "b")
    for tries in (1, 2):
        board = released(claim(board, "a", "b"), "one", NOW + 7, "gates failed", tried=True, max_tries=3)
        assert place(board, "a") == ("pending", "")
        assert (board.items["a"].tries, board.items["a"].why, board.items["a"].since) == (
            tries,
            "gates failed",
            NOW + 7,
        )
    board = released(claim(board, "a"), "one", NOW, "no slot", tried=False, max_tries=3)
    assert board.items["a"].tries == 2
    board = released(claim(board, "a"), "one", NOW, "gates failed", tried=True, max_tries=3)
    assert place(board, "a") == ("blocked", "")
    assert board.items["a"].why == "tried 3 of 3 times: gates failed"
    assert place(board, "b") == ("pending", "")
    assert released(board, "one", NOW, "told twice", tried=True, max_tries=3) == board


def test_whoever_waits_for_an_operator_keeps_its_tasks() -> None:
    board = claim(a_board("a", "b"), "a")
    waits = parked(board, "one", NOW + 5, "which colour?")
    assert place(waits, "a") == ("blocked", "one")
    assert waits.items["a"].since == NOW + 5
    assert parked(waits, "one", NOW + 6, "which colour?") == waits
    assert parked(waits, "one", NOW + 6, "how large?").items["a"].why == "how large?"
    on = parked(waits, "one", NOW + 8, "")
    assert (place(on, "a"), on.items["a"].why, on.items["a"].since) == (("current", "one"), "", NOW + 8)
    assert parked(on, "one", NOW + 9, "") == on
    assert place(completed(waits, "one", NOW, "abc"), "a") == ("complete", "")
    assert place(released(waits, "one", NOW, "gone", tried=False, max_tries=1), "a") == ("pending", "")


def test_complete_it_says_who_did_it_and_what_waited_for_it_can_begin() -> None:
    board = claim(a_board(row("a", files=["a.py"]), row("b", after=["a"])), "a")
    assert waits_for(board, "b") == ["a"]
    assert claimable(board) == []
    board = completed(board, "one", NOW + 4, "abc")
    item = board.items["a"]
    assert (item.place, item.holder, item.worker, item.sha, item.since) == (
        "complete",
        "",
        "worker-one",
        "abc",
        NOW + 4,
    )
    assert waits_for(board, "b") == waits_for(board, "gone") == []
    assert claimable(board) == ["b"]
    assert completed(board, "one", NOW + 9, "def") == board


def test_an_operator_lets_go_on_what_is_blocked_and_held_by_nobody() -> None:
    board = claim(a_board("a", "b", "c", "d", "e"), "a")
    board = released(board, "one", NOW, "no", tried=True, max_tries=1)
    board = parked(claim(board, "b"), "one", NOW, "which colour?")
    board = stopped(claim(board, "c", holder="two"), "two", NOW, "cancelled")
    board = done(claim(board, "d", holder="two"), "e")
    after, back, refused = requeued(board, ["a", "b", "d", "e", "gone"], NOW + 9)
    assert back == ["a"]
    assert {each.id: each.why for each in refused} == {
        "b": "taken by worker-one, and blocked: which colour?",
        "d": "taken by worker-two",
        "e": "complete, by worker-done",
        "gone": "not on the board",
    }
    assert (after.items["a"].tries, after.items["a"].why) == (0, "")
    assert requeued(board, [], NOW)[1:] == (["a", "c"], [])
    assert counts(requeued(board, [], NOW)[0]) == {"pending": 2, "current": 1, "blocked": 1, "complete": 1}


# --- which one next ------------------------------------------------------------------------------------


def test_priority_then_the_least_overlap_with_what_is_in_flight_then_age() -> None:
    board = a_board(
        row("busy", files=["src/app.py"]),
        row("asks", files=["docs/"]),
        row("both", files=["docs/a.md", "src/app.py"]),
        row("some", files=["src/app.py"]),
        row("free", files=["lib/app.c"]),
        row("young"),
        row("waits", priority=99, after=["free"]),
        row("urgent", priority=1, files=["src/", "docs"]),
    )
    board = parked(claim(claim(board, "busy"), "asks", holder="two"), "two", NOW, "which?")
    assert claimable(board) == ["urgent", "free", "young", "some", "both"]
    assert listed(board, ["free", "gone"]) == [Listed(id="free", title="Do free", files=["lib/app.c"])]


def test_of_a_long_board_those_that_come_first_are_compared() -> None:
    names = [f"t{number}" for number in range(COMPARED - 1)]
    rows = [row("busy", files=["a.py"]), *(row(task, files=["a.py"]) for task in names), row("free"), row("beyond")]
    board = claim(a_board(*rows), "busy")
    assert claimable(board) == ["free", *names, "beyond"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("src/app.py", "src/app.py", True),
        ("./src/app.py", "src/app.py", True),
        ("/src/app.py", "src/app.py", True),
        ("src/app.py", "src/app.pyc", False),
        ("src/app.py", "lib/src/app.py", False),
        ("src/", "src/a/b.py", True),
        ("src/", "lib/src/b.py", True),
        ("/src/", "lib/src/b.py", False),
        ("src/a", "src/ab", False),
        ("README.md", "docs/README.md", True),
        ("*.py", "src/app.py", True),
        ("/*.py", "src/app.py", False),
        ("*.py", "src/app.c", False),
        ("src/*.py", "/src/app.py", True),
        ("src/*.py", "src/a/app.py", False),
        ("src/**/*.py", "src/a/b/app.py", True),
        ("**/test_*.py", "a/test_b.py", True),
        ("src/*.py", "src/", True),
        ("src/*.py", "src/*.py", True),
        ("src/*.py", "lib/*.py", False),
        ("!src/*.py", "src/app.py", False),
        ("a\\", "b", False),
        ("", "a", False),
        ("/".join("*" * (MOST_STARS + 1)), "a/b/c/d/e/f/g", False),
        ("/".join("a" * DEEPEST) + "/b", "/".join("a" * DEEPEST) + "/c", False),
    ],
)
def test_what_overlaps(one: str, other: str, same: bool) -> None:
    assert Flight({"task": [one]}).sharing([other]) == same
    assert Flight({"task": [other]}).sharing([one]) == same


def test_tasks_are_counted_not_files() -> None:
    flight = Flight({"a": ["x.py", "src/y.py"], "b": ["*.py"], "c": ["z.c"]})
    assert flight.sharing(["x.py", "src/y.py", "src/"]) == 2
    assert flight.sharing([]) == Flight({}).sharing(["x.py"]) == 0


def test_what_can_never_be_claimed_says_why() -> None:
    board = a_board(
        row("self", after=["self"]),
        row("x", after=["y"]),
        row("y", after=["z"]),
        row("z", after=["x", "fine"]),
        row("tail", after=["z"]),
        row("lost", after=["gone"]),
        row("later", after=["lost", "fine"]),
        "bad",
        row("next", after=["bad"]),
        "fine",
        row("well", after=["fine", "work"]),
        "work",
        row("best", after=["well"]),
    )
    board = claim(stopped(claim(board, "bad"), "one", NOW, "too hard"), "work")
    assert unreachable(board) == {
        "self": "waits for itself",
        "x": "waits for itself, by way of x, y, z",
        "y": "waits for itself, by way of x, y, z",
        "z": "waits for itself, by way of x, y, z",
        "tail": "waits for z, which waits for itself",
        "lost": "waits for gone, which is not on the board",
        "later": "waits for lost, and so for gone, which is not on the board",
        "next": "waits for bad, which is blocked: too hard",
    }
    assert unreachable(done(a_board("a", row("b", after=["a"])), "a")) == {}


def test_a_very_large_circle() -> None:
    board = a_board(*(row(f"t{number}", after=[f"t{(number + 1) % 2000}"]) for number in range(2000)))
    found = unreachable(board)
    assert len(found) == 2000
    assert found["t7"] == "waits for itself, by way of t0, t1, t2, t3, t4 and 1995 more"


# --- carried over --------------------------------------------------------------------------------------


def large(tasks: int) -> Board:
    """Titles as people write them, most tasks complete."""
    chance = random.Random(7)
    words = "add fix cache parser login user index view model retry flaky docs remove rename split queue".split()
    items: list[Item] = []
    for number in range(tasks):
        task = f"{chance.choice(words)}-{number}"
        title = " ".join(chance.choices(words, k=12))
        since = NOW + chance.random()
        if number % 4:
            sha = f"{chance.getrandbits(160):040x}"
            known = Row(id=task, title=title, priority=chance.choice([0, 90]))
            items.append(Item(row=known, place="complete", worker=f"worker-{number % 8}", since=since, sha=sha))
        else:
            files = [f"src/{chance.choice(words)}/{chance.choice(words)}.py" for _ in range(5)]
            items.append(Item(row=Row(id=task, title=title, after=[items[-1].row.id] if items else [], files=files)))
    board = Board(items={item.row.id: item for item in items})
    return claim(board, items[0].row.id)


def test_2000_tasks_are_carried_over_in_less_than_128_kb() -> None:
    board = large(2000)
    stored = to_json(board)
    assert list(json.loads(stored)) == ["packed"]
    assert len(stored) < 128_000
    assert Board.model_validate_json(stored) == board
    assert Board.model_validate(board.model_dump()) == board


def test_a_small_board_is_plain_and_without_defaults() -> None:
    board = claim(a_board("a"), "a")
    item = {
        "row": {"id": "a", "title": "Do a"},
        "place": "current",
        "holder": "one",
        "worker": "worker-one",
        "since": NOW + 1,
    }
    assert json.loads(to_json(board)) == {"items": {"a": item}}
    assert Board.model_validate_json(to_json(board)) == board
    assert Board.model_validate_json("{}") == Board()


def test_a_large_board_is_read_plainly_too() -> None:
    board = large(200)
    plain = json.dumps({"items": {task: item.model_dump() for task, item in board.items.items()}})
    assert len(plain) > LARGE_BYTES
    assert Board.model_validate_json(plain) == board


@pytest.mark.parametrize("packed", ["no", "Zm9v", 7, None])
def test_what_is_no_board_is_refused_by_name(packed: Any) -> None:
    with pytest.raises(ValidationError, match="packed: is not a board"):
        Board.model_validate({"packed": packed})


# --- for every order of events -------------------------------------------------------------------------

HOLDERS = ["h1", "h2", "h3"]
TASKS = [f"t{number}" for number in range(7)]
MOST = 2
MAX_TRIES = 2


class Swarm(RuleBasedStateMachine):
    """Cycles that claim, wait, end and die, in any order, against lists of who is where."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.board = Board()
        self.after: dict[str, list[str]] = {}
        self.pending: set[str] = set()
        self.complete: set[str] = set()
        self.given_up: set[str] = set()
        self.has: dict[str, set[str]] = {holder: set() for holder in HOLDERS}
        self.waiting: dict[str, set[str]] = {holder: set() for holder in HOLDERS}
        """Of `has`: what is blocked."""
        self.tries: dict[str, int] = {}

    def time(self) -> float:
        self.now += 1
        return self.now

    @rule(task=st.sampled_from(TASKS), after=st.lists(st.sampled_from(TASKS), max_size=2), priority=st.integers(-1, 1))
    def a_task_comes(self, task: str, after: list[str], priority: int) -> None:
        self.board = added(self.board, [row(task, after=after, priority=priority)], self.time())
        if task not in self.after:
            self.after[task] = after
            self.pending.add(task)
            self.tries[task] = 0

    @rule(holder=st.sampled_from(HOLDERS), ids=st.lists(st.sampled_from([*TASKS, "gone"]), max_size=4))
    def somebody_claims(self, holder: str, ids: list[str]) -> None:
        want: list[str] = []
        mine = set(self.has[holder])
        for task in dict.fromkeys(ids):
            free = task in self.pending and set(self.after[task]) <= self.complete and len(mine) < MOST
            if task in mine or free:
                want.append(task)
                mine.add(task)
        self.board, got, refused = claimed(self.board, ids, holder, f"worker-{holder}", self.time(), MOST)
        assert got == want
        assert [each.id for each in refused] == [task for task in dict.fromkeys(ids) if task not in want]
        assert all(each.why for each in refused)
        self.has[holder] = mine
        self.pending -= mine

    @precondition(lambda self: claimable(self.board))
    @rule(holder=st.sampled_from(HOLDERS))
    def somebody_is_given_the_best(self, holder: str) -> None:
        self.somebody_claims(holder, claimable(self.board)[:1])

    @rule(holder=st.sampled_from(HOLDERS), tried=st.booleans())
    def somebody_gives_back(self, holder: str, tried: bool) -> None:
        self.board = released(self.board, holder, self.time(), "failed", tried=tried, max_tries=MAX_TRIES)
        for task in self.lets_go(holder):
            self.tries[task] += tried
            (self.given_up if tried and self.tries[task] >= MAX_TRIES else self.pending).add(task)

    @rule(holder=st.sampled_from(HOLDERS))
    def somebody_is_stopped(self, holder: str) -> None:
        self.board = stopped(self.board, holder, self.time(), "cancelled")
        self.given_up |= self.lets_go(holder)

    @rule(holder=st.sampled_from(HOLDERS), why=st.sampled_from(["which colour?", ""]))
    def somebody_asks_an_operator_or_goes_on(self, holder: str, why: str) -> None:
        self.board = parked(self.board, holder, self.time(), why)
        self.waiting[holder] = set(self.has[holder]) if why else set()

    @rule(holder=st.sampled_from(HOLDERS))
    def somebody_is_done(self, holder: str) -> None:
        self.board = completed(self.board, holder, self.time(), "abc")
        self.complete |= self.lets_go(holder)

    @rule(ids=st.lists(st.sampled_from([*TASKS, "gone"]), max_size=3))
    def an_operator_lets_go_on(self, ids: list[str]) -> None:
        want = {task for task in ids if task in self.given_up} if ids else set(self.given_up)
        self.board, back, refused = requeued(self.board, ids, self.time())
        assert sorted(back) == sorted(want)
        assert {each.id for each in refused} == set(ids) - want
        self.given_up -= want
        self.pending |= want
        self.tries |= dict.fromkeys(want, 0)

    @rule()
    def it_is_carried_over(self) -> None:
        board = Board.model_validate_json(to_json(self.board))
        assert board == self.board
        assert list(board.items) == list(self.board.items)
        self.board = board

    def lets_go(self, holder: str) -> set[str]:
        has, self.has[holder], self.waiting[holder] = self.has[holder], set(), set()
        return has

    @invariant()
    def each_task_is_where_it_should_be_and_has_one_holder_at_most(self) -> None:
        waiting = set().union(*self.waiting.values())
        places = {
            **dict.fromkeys(self.pending, "pending"),
            **dict.fromkeys(self.complete, "complete"),
            **dict.fromkeys(self.given_up, "blocked"),
            **{task: "blocked" if task in waiting else "current" for tasks in self.has.values() for task in tasks},
        }
        assert {task: item.place for task, item in self.board.items.items()} == places
        holders = {task: holder for holder, tasks in self.has.items() for task in tasks}
        assert {task: item.holder for task, item in self.board.items.items() if item.holder} == holders
        assert {task: held(self.board, task) for task in HOLDERS} == {
            holder: [task for task in self.board.items if task in tasks] for holder, tasks in self.has.items()
        }

    @invariant()
    def no_dependency_is_overtaken(self) -> None:
        for task in self.complete.union(*self.has.values()):
            assert set(self.after[task]) <= self.complete

    @invariant()
    def what_can_be_claimed_is_what_waits_for_nothing(self) -> None:
        can = claimable(self.board)
        assert sorted(can) == sorted(task for task in self.pending if set(self.after[task]) <= self.complete)
        priorities = [self.board.items[task].row.priority for task in can]
        assert priorities == sorted(priorities, reverse=True)

    @invariant()
    def counts_add_up(self) -> None:
        found = counts(self.board)
        assert sum(found.values()) == len(self.after) == len(self.board.items)
        assert (found["pending"], found["complete"]) == (len(self.pending), len(self.complete))
        assert {task: item.tries for task, item in self.board.items.items()} == self.tries

    @invariant()
    def the_others_can_be_done_in_the_end(self) -> None:
        """Exactly those that `unreachable` does not name, if all that is current becomes complete."""
        blocked = {task for task, item in self.board.items.items() if item.place == "blocked"}
        finished = set(self.board.items) - self.pending - blocked
        while more := {task for task in self.pending - finished if set(self.after[task]) <= finished}:
            finished |= more
        assert set(unreachable(self.board)) == self.pending - finished


TestSwarm = Swarm.TestCase
TestSwarm.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
