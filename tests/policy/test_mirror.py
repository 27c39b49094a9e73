"""Which folder of the target each task of a board lies in."""

from __future__ import annotations

from activities.swarm.contracts import Row
from workflows.policy.board import Board, Item, Place
from workflows.policy.mirror import folders


def item(name: str, place: Place, holder: str = "") -> Item:
    return Item(row=Row(id=name, title=name), place=place, holder=holder)


def test_each_task_lies_where_its_place_is_and_a_blocked_one_with_whoever_has_it() -> None:
    items = [
        item("todo", "pending"),
        item("at-it", "current", "cycle-1"),
        item("waits", "blocked", "cycle-2"),
        item("tried", "blocked"),
        item("done", "complete"),
    ]
    board = Board(items={each.row.id: each for each in items})
    running = {"todo": "pending", "at-it": "current", "waits": "current", "tried": "pending", "done": "complete"}
    assert folders(board, over=False) == running
    assert folders(board, over=True) == {**running, "at-it": "pending", "waits": "pending"}
