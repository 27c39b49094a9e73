"""The board as files of the target: which folder each task's file lies in. Pure."""

from __future__ import annotations

from typing import Literal

from workflows.policy.board import Board, Item

Folder = Literal["pending", "current", "complete"]


def folders(board: Board, over: bool) -> dict[str, Folder]:
    """By task. `over`: the swarm is; later ones read nothing but what is pending."""
    return {name: _folder(item, over) for name, item in board.items.items()}


def _folder(item: Item, over: bool) -> Folder:
    """A blocked one is with whoever has it; when nobody has, it is to be done."""
    if item.place == "complete":
        return "complete"
    return "current" if item.holder and not over else "pending"
