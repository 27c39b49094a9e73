"""What an operator is told to do about a swarm: the most urgent first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from activities.swarm.contracts import OpenedSwarm, Row, SwarmRef
from activities.swarm.settings import SwarmSettings
from workflows.policy.board import Board, Item, Place
from workflows.swarm_contracts import Member, SwarmState
from workflows.swarm_waits import what_to_do

WORKERS = [{"name": "quick", "agent": "codex", "count": 2}]


def state(workers: Sequence[object] = WORKERS, **told: Any) -> SwarmState:
    ref = SwarmRef(swarm_id="s", key="k", repo="/src/app", target="refs/heads/main")
    opened = OpenedSwarm(
        ref=ref, host="h", folder="/f", settings=SwarmSettings.model_validate({"workers": workers, "max_errors": 2})
    )
    return SwarmState(opened=opened, took_in_at=1.0, **told)


def board(**places: tuple[Place, str, str]) -> Board:
    """Of each task its place, its holder, and why."""
    return Board(
        items={
            name: Item(row=Row(id=name, title=name), place=place, holder=holder, why=why)
            for name, (place, holder, why) in places.items()
        }
    )


def failed(errors: int) -> Member:
    return Member(name="quick.1", kind="quick", agent="codex", state="stopped", errors=errors)


HELD = board(docs=("blocked", "s-quick.1-1", "the agent asks: which\ncolour?"), more=("blocked", "", "tried twice"))


def test_the_most_urgent_is_told_with_its_command() -> None:
    parked = {"s-quick.1-1": "quick.1"}
    assert what_to_do("s", state(blocked_cycles=parked, paused=True), [failed(2)], HELD, False) == (
        "you: 1 blocked, s-quick.1-1 (the agent asks: which colour?)",
        "starter.py status s-quick.1-1",
    )
    assert what_to_do("s", state(paused=True), [failed(2)], HELD, False)[1] == "starter.py resume s"
    assert what_to_do("s", state(stopping=True), [failed(2)], HELD, False) == ("", "")
    assert what_to_do("s", state(workers=[]), [], HELD, False)[1] == "starter.py workers s --count worker-1=1"
    assert what_to_do("s", state(), [failed(2)], HELD, False) == (
        "you: errors have stopped quick.1; mend that, then",
        "starter.py resume s",
    )
    assert what_to_do("s", state(), [failed(1)], HELD, False) == ("you: 1 given up, more", "starter.py requeue s")


def test_an_empty_board_asks_for_tasks_unless_somebody_plans() -> None:
    assert what_to_do("s", state(), [], Board(), False) == ("tasks: there are none", 'starter.py add s --title "…"')
    assert what_to_do("s", state(), [], Board(), True) == ("", "")
    assert what_to_do("s", state(), [], board(docs=("pending", "", "")), False) == ("", "")


def test_many_are_counted() -> None:
    parked = {f"s-quick.1-{number}": "quick.1" for number in range(8)}
    assert what_to_do("s", state(blocked_cycles=parked), [], Board(), False)[0].endswith("s-quick.1-4 and 3 more")


def test_a_plan_that_waits_for_a_person_is_told() -> None:
    told = {"name": "planner", "kind": "planner", "agent": "codex", "state": "working", "cycle": "s-planner-1"}
    stuck = Member(**told, plans=True, why="gates red: " + "x" * 100)
    waiting, command = what_to_do("s", state(), [stuck], Board(), True)
    assert waiting.startswith("you: 1 blocked, s-planner-1 (gates red: xxx")
    assert waiting.endswith("x…)")
    assert command == "starter.py status s-planner-1"
    assert what_to_do("s", state(), [Member(**told, plans=True)], Board(), True) == ("", "")
