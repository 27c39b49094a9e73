"""Who may begin a cycle, by what was seen of the disk, the host's slots and the accounts."""

from __future__ import annotations

from activities.slots import Slots
from activities.swarm.contracts import AccountSeen, Looked
from workflows.policy.admission import AGAIN, Limit, Outside

NOW = 1_000.0


def test_nobody_waits_where_nobody_knows() -> None:
    for outside in (Outside("here"), Outside("here", Looked())):
        assert [outside.admit(["a"], NOW) for _ in range(3)] == [None] * 3


def test_nothing_begins_while_the_disk_is_full() -> None:
    outside = Outside("here", Looked(room="only 1 GB is free", slots=4))
    assert outside.admit(["a"], NOW) == Limit("only 1 GB is free", NOW + AGAIN)


def test_no_more_begin_than_slots_are_free_and_not_taken_by_those_who_are_about_to() -> None:
    outside = Outside("here", Looked(slots=3, waiting=["cycle-1"]))
    full = Limit("no agent slot is free on here", NOW + AGAIN)
    assert [outside.admit([], NOW) for _ in range(3)] == [None, None, full]
    assert Outside("here", Looked(slots=1, waiting=["cycle-1", "cycle-2"]), [""]).admit([], NOW) == full


def test_an_account_that_is_limited_keeps_its_own_from_beginning_and_takes_no_slot() -> None:
    parked = AccountSeen(free=0, parked_until=NOW + 500, why="You've hit your limit")
    soon = AccountSeen(free=0, parked_until=NOW + 1)
    held = AccountSeen(free=0, why="held by an operator")
    accounts = {"parked": parked, "soon": soon, "held": held, "past": AccountSeen(free=1, parked_until=NOW)}
    outside = Outside("here", Looked(accounts=accounts, slots=1))
    assert outside.admit(["parked"], NOW) == Limit("parked: You've hit your limit", NOW + 500)
    assert outside.admit(["soon"], NOW) == Limit("soon: limited", NOW + AGAIN)
    assert outside.admit(["held"], NOW) == Limit("held: held by an operator", NOW + AGAIN)
    assert outside.admit(["past"], NOW) is None


def test_an_account_has_so_many_turns_and_a_fallback_takes_the_next() -> None:
    accounts = {"main": AccountSeen(free=1), "backup": AccountSeen(free=1)}
    outside = Outside("here", Looked(accounts=accounts, slots=9))
    assert [outside.admit(["main", "backup"], NOW) for _ in range(2)] == [None, None]
    assert outside.admit(["main", "backup"], NOW) == Limit("main: no slot is free", NOW + AGAIN)


def test_slots_are_counted_while_turns_run() -> None:
    slots = Slots(2)
    with slots.turn("t1"):
        assert (slots.free, slots.had_one("t1"), slots.had_one("t2")) == (1, True, False)
        with slots.turn("t1"), slots.turn("t2"):
            assert slots.free == 0
    assert (slots.free, slots.had_one("t1")) == (2, True)
