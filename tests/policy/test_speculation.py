"""Which chains are tested together, what lands, and who is blamed; alone, and in a world without git and clock."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bench.policies import BatchAndBisect, Linear, Ours, Policy, Serial
from bench.world import Setting, World, run
from workflows.policy.speculation import (
    LOOK,
    Chain,
    Odds,
    View,
    after_landing,
    expected_runs,
    landable,
    passed_over,
    rest,
    suspect,
    wanted,
    without,
)

ALPHABET = tuple("abcdefghijklmnopqrstuvwxyz")


def view(queue: str | Chain, known: dict[str, Any] | None = None, running: str = "", **more: Any) -> View:
    """Chains are written as words: one letter is one candidate."""
    verdicts = {tuple(chain): verdict for chain, verdict in (known or {}).items()}
    runs = [tuple(chain) for chain in running.split()]
    return View(tuple(queue), verdicts, runs, **({"slots": 4, "p": 0.05} | more))


def words(chains: list[Chain]) -> list[str]:
    return ["".join(chain) for chain in chains]


# --- the ladder ----------------------------------------------------------------------------------------


def test_the_first_bad_one_is_equally_likely_in_each_gap_between_the_rungs() -> None:
    rungs = [len(chain) for chain in wanted(view(ALPHABET * 3, p=0.05))]
    assert rungs == [4, 10, 18, 31]
    assert [round(1 - 0.95**length, 1) for length in rungs] == [0.2, 0.4, 0.6, 0.8]


def test_a_short_queue_is_tested_as_a_whole_and_in_parts() -> None:
    assert words(wanted(view("abc", p=0.01))) == ["abc", "a", "ab"]
    assert wanted(view("")) == []


def test_after_a_red_rung_only_shorter_ones_are_tested() -> None:
    assert all(len(chain) < 10 for chain in wanted(view(ALPHABET, {"abcdefghij": "red"})))


def test_slots_that_are_left_over_test_the_queue_without_one_of_those_that_may_be_bad() -> None:
    assert words(wanted(view("abcdef", {"abc": "red"}))) == ["a", "ab", "abdef", "acdef"]


def test_what_is_green_without_the_suspect_lands_past_it() -> None:
    now = view("abcdef", {"abc": "red", "abdef": "green", "ab": "green"})
    assert landable(now) == tuple("abdef")
    assert passed_over(now, tuple("abdef")) == ("c",)
    assert passed_over(now, tuple("ab")) == ()


def test_rungs_that_run_go_on_and_doomed_ones_do_not() -> None:
    assert words(wanted(view(ALPHABET, running="abcdefg abc abx")))[:2] == ["abc", "abcdefg"]
    found = words(wanted(view(ALPHABET, {"abcde": "red"}, running="abcdefg abc abdefg")))
    assert found[0] == "abc"
    assert "abcdefg" not in found


def test_a_run_without_a_suspect_goes_on_while_it_leaves_out_one_that_may_be_bad() -> None:
    assert "abde" in words(wanted(view(ALPHABET, {"abc": "red"}, running="abde")))
    assert "abde" not in words(wanted(view(ALPHABET, {"ab": "red"}, running="abde")))


# --- the tree ------------------------------------------------------------------------------------------


def test_when_many_are_bad_the_most_probable_ways_are_tested() -> None:
    assert words(wanted(view("abc", p=0.4))) == ["a", "ab", "b", "abc"]
    assert words(wanted(view("abc", {"a": "green", "ab": "red"}, p=0.4))) == ["ac"]
    assert words(wanted(view("abcd", {"ab": "red"}, p=0.3))) == ["a", "ac", "acd", "b"]


def test_the_tree_lands_a_green_beginning_and_nothing_past_anybody() -> None:
    assert landable(view("abc", {"ab": "green", "c": "green"}, p=0.4)) == ("a", "b")
    assert landable(view("abc", {"b": "green", "bc": "green"}, p=0.4)) is None


def test_each_by_itself_lands_one_by_one() -> None:
    now = view("abc", {"abc": "green", "ab": "green"}, each=True, p=0.01)
    assert landable(now) is None
    assert words(wanted(now))[0] == "a"
    assert landable(view("abc", {"a": "green", "ab": "green"}, each=True)) == ("a",)


# --- those that do not fit, have to follow, or are in doubt ---------------------------------------------


@pytest.mark.parametrize("p", [0.01, 0.4])
def test_one_that_does_not_fit_on_those_before_it_is_left_out(p: float) -> None:
    now = view("abcd", {"ab": "apart", "acd": "green"}, p=p)
    assert not any({"a", "b"} <= set(chain) for chain in wanted(now))
    assert landable(now) == ("a", "c", "d")


@pytest.mark.parametrize("p", [0.01, 0.4])
def test_one_that_has_to_follow_is_never_ahead(p: float) -> None:
    now = view("abc", {"ab": "red", "c": "green", "bc": "green"}, p=p, after={"c": ["b"], "b": ["c"]}, slots=20)
    assert not any("c" in chain and "b" not in chain for chain in wanted(now))
    assert landable(view("abc", {"c": "green"}, p=p, after={"c": ["b"]})) is None
    assert landable(view("c", {"c": "green"}, p=p, after={"c": ["b"]})) == ("c",)


@pytest.mark.parametrize("p", [0.01, 0.4])
def test_one_in_doubt_is_tested_alone_while_the_others_go_on_without_it_but_do_not_land(p: float) -> None:
    found = wanted(view("abcd", p=p, doubted=["a"], slots=2))
    assert found[0] == ("a",)
    assert "a" not in found[1]
    assert landable(view("abcd", {"bcd": "green"}, p=p, doubted=["a"])) is None
    assert landable(view("bcd", {"bcd": "green"}, p=p)) == ("b", "c", "d")


def test_only_a_head_that_is_red_alone_is_suspect() -> None:
    assert suspect(view("abc", {"a": "red"})) == "a"
    assert suspect(view("abc", {"b": "red", "ab": "red", "abc": "red"})) is None
    assert suspect(view("")) is None


def test_only_the_first_ones_are_looked_at() -> None:
    queue = tuple(f"{number}" for number in range(1_000))
    red = {queue[:3]: "red"}
    for p in (0.01, 0.4):
        assert wanted(view(queue, p=p)) == wanted(view(queue[:LOOK], p=p))
        assert wanted(View(queue, red, (), 8, p)) == wanted(View(queue[:LOOK], red, (), 8, p))  # type: ignore[arg-type]


# --- what is known ---------------------------------------------------------------------------------------


def test_results_of_chains_that_begin_with_what_landed_stay_valid() -> None:
    known = {("a",): 1, ("a", "b"): 2, ("a", "b", "c"): 3, ("b",): 4, ("a", "c"): 5}
    assert after_landing(known, ("a", "b")) == {("c",): 3}
    assert after_landing({("a", "b"): "apart", ("a", "c", "d"): "apart"}, ("a",)) == {("c", "d"): "apart"}
    assert without(known, "b") == {("a",): 1, ("a", "c"): 5}
    assert rest(("a", "b"), ("a", "b")) is None


def test_the_odds_are_learnt_and_fade() -> None:
    assert Odds().p == 0.05
    assert Odds().with_landed(20).p == pytest.approx(1 / 40)
    assert Odds().with_ejected().p == pytest.approx(2 / 21)
    assert Odds().with_landed(100_000).p == 0.002
    grim = Odds()
    for _ in range(5_000):
        grim = grim.with_ejected()
    assert grim.p == 0.9
    assert Odds.model_validate_json(grim.model_dump_json()) == grim
    assert grim.landed + grim.ejected <= 200.001


@given(st.integers(0, 500), st.integers(1, 64), st.floats(0, 1), st.booleans())
def test_the_estimate_grows_with_the_place_and_shrinks_with_the_slots(
    place: int, slots: int, p: float, each: bool
) -> None:
    here = expected_runs(place, slots, p, each)
    assert 1 <= here <= expected_runs(place + 1, slots, p, each)
    assert expected_runs(place, slots + 1, p, each) <= here


# --- a queue at work -------------------------------------------------------------------------------------


class Watched(Ours):
    """Checks each decision against what the world knows."""

    world: World

    def wanted(self, view: View) -> list[Chain]:
        found = super().wanted(view)
        assert len(found) <= view.slots
        assert len(set(found)) == len(found)
        assert found or not view.queue, "nothing to land, nobody suspect, and nothing to test"
        for chain in found:
            assert chain not in view.known
            assert all(view.known.get(chain[:length]) != "apart" for length in range(1, len(chain)))
            places = [view.queue.index(op) for op in chain]
            assert places == sorted(set(places))
            self.check_followers(chain)
        if view.queue and view.queue[0] not in view.doubted:
            reds = (n for n in range(1, len(view.queue) + 1) if view.known.get(view.queue[:n]) == "red")
            red = next(reds, len(view.queue) + 1)
            for chain in view.running:
                if chain == view.queue[: len(chain)] and len(chain) < red:
                    assert chain in found, "its gates need not have been stopped"
        return found

    def landable(self, view: View) -> Chain | None:
        chain = super().landable(view)
        if chain is not None:
            assert view.known[chain] == "green"
            assert self.world.green(chain)
            assert self.world.misfit(chain) is None
            assert set(chain) <= set(view.queue)
            assert len(chain) == 1 or not view.each
            self.check_followers(chain)
            if view.each or view.slots * view.p >= 1:
                line = tuple(op for op in view.queue[: view.queue.index(chain[-1])] if op not in chain)
                assert all(self.world.conflicts[op] or self.world.after.get(op) for op in line), "passed over"
        return chain

    def check_followers(self, chain: Chain) -> None:
        waiting = self.world.queue
        for number, op in enumerate(chain):
            assert all(other not in waiting or other in chain[:number] for other in self.world.after.get(op, ()))

    def suspect(self, view: View) -> str | None:
        op = super().suspect(view)
        assert op is None or (view.queue[0] == op and view.known[(op,)] == "red")
        return op


class QueueAtWork(RuleBasedStateMachine):
    """Candidates come, good and bad ones, clash, conflict and depend on others; runs end in any order, also wrongly;
    others push, tasks withdraw, operators change the order."""

    @initialize(slots=st.integers(1, 6), each=st.booleans(), odds=st.sampled_from([(19, 1), (199, 1), (1, 1)]))
    def begin(self, slots: int, each: bool, odds: tuple[float, float]) -> None:
        policy = Watched()
        self.world = World(policy, slots, each=each, odds=Odds(landed=odds[0], ejected=odds[1]))
        policy.world = self.world
        self.submitted: list[str] = []
        self.withdrawn: list[str] = []
        self.wrong: Counter[Chain] = Counter()

    @rule(data=st.data(), count=st.integers(1, 6), mostly_bad=st.booleans())
    def submit(self, data: st.DataObject, count: int, mostly_bad: bool) -> None:
        waiting = self.world.queue
        for _ in range(count):
            some = st.lists(st.sampled_from(waiting), max_size=1) if waiting else st.just([])
            op = f"{len(self.submitted)}"
            self.submitted.append(op)
            if after := data.draw(some):
                self.world.after[op] = set(after)
            bad = data.draw(st.integers(0, 9)) < (5 if mostly_bad else 1)
            self.world.submit(op, bad=bad, clashes=data.draw(some), conflicts=data.draw(some))
        self.world.settle()

    @precondition(lambda self: self.world.running)
    @rule(data=st.data(), flake=st.integers(0, 9), count=st.integers(1, 4))
    def finish(self, data: st.DataObject, flake: int, count: int) -> None:
        for _ in range(min(count, len(self.world.running))):
            number = data.draw(st.sampled_from(sorted(self.world.running)))
            chain = self.world.running[number]
            if flake == 9 and self.world.green(chain):
                self.wrong[chain] += 1
            self.world.finish(number, flake=flake == 9)
        self.world.settle()

    @rule()
    def push(self) -> None:
        self.world.push()
        self.world.settle()

    @precondition(lambda self: self.world.queue)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        op = data.draw(st.sampled_from(self.world.queue))
        self.world.withdraw(op)
        self.withdrawn.append(op)
        self.world.settle()

    @precondition(lambda self: self.world.queue)
    @rule(data=st.data())
    def put_first(self, data: st.DataObject) -> None:
        op = data.draw(st.sampled_from(self.world.queue))
        if self.world.after.get(op, set()).isdisjoint(self.world.queue):
            self.world.queue.remove(op)
            self.world.queue.insert(0, op)
            self.world.settle()

    @invariant()
    def everybody_is_somewhere_and_once(self) -> None:
        world = self.world
        found = [*world.queue, *world.landed, *world.ejected, *world.refused, *self.withdrawn]
        assert sorted(found) == sorted(self.submitted)

    @invariant()
    def nobody_is_ejected_for_what_others_did(self) -> None:
        world = self.world
        for op in world.ejected:
            clashed = not world.clashes[op].isdisjoint(world.landed)
            assert op in world.bad or clashed or self.wrong[(op,)] >= 2

    @invariant()
    def slots_are_enough_and_used(self) -> None:
        running = list(self.world.running.values())
        assert len(set(running)) == len(running) <= self.world.slots
        assert running or not self.world.queue

    def teardown(self) -> None:
        """Runs end and nobody disturbs: then the queue drains."""
        if not hasattr(self, "world"):
            return
        limit = 10 + 20 * len(self.world.queue)
        for _ in range(limit):
            if not self.world.queue:
                break
            self.world.finish(min(self.world.running))
            self.world.settle()
        assert not self.world.queue
        self.everybody_is_somewhere_and_once()
        self.nobody_is_ejected_for_what_others_did()


TestQueueAtWork = QueueAtWork.TestCase
TestQueueAtWork.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_many_that_do_not_fit_are_found_out_in_as_many_steps_at_most() -> None:
    world = World(Ours(), 4)
    for op in ALPHABET:
        world.submit(op, conflicts=world.queue if op in "hijklm" else ())
    world.settle()
    assert world.builds <= 4 * 7
    assert not any(set(chain) & set("hijklm") for chain in world.running.values())
    while world.queue:
        world.finish(min(world.running))
        world.settle()
    assert (len(world.landed), world.refused) == (20, list("hijklm"))


@pytest.mark.parametrize(
    ("bad", "slots", "landed"),
    [(0.02, 4, 13.1), (0.05, 1, 3.0), (0.05, 4, 6.9), (0.10, 2, 3.0), (0.20, 4, 2.4)],
)
def test_so_many_land_while_the_gates_run_once(bad: float, slots: int, landed: float) -> None:
    """The numbers are those of an independent simulation of the same two ways to choose chains."""
    world = run(World(Ours(), slots, confirm=False), Setting(bad=bad), 300)
    assert len(world.landed) / 300 > 0.9 * landed


@pytest.mark.parametrize("policy", [Serial(), BatchAndBisect(), Linear()], ids=lambda policy: type(policy).__name__)
def test_the_others_are_simulated_fairly(policy: Policy) -> None:
    """5 % bad, 4 slots: 0.94, 2.8 and 3.5 in the same independent simulation."""
    world = run(World(policy, 4, confirm=False), Setting(bad=0.05), 300)
    expected = {Serial: 0.94, BatchAndBisect: 2.8, Linear: 3.5}[type(policy)]
    assert len(world.landed) / 300 == pytest.approx(expected, rel=0.1)
