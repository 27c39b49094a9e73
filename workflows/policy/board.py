"""The board of a swarm: which task is where, and who has it. Pure: state in, state out.

Invariants: a task is in exactly one place; only what is current or blocked has a holder, and one at most; nothing is
claimed whose dependencies are not complete; what is complete stays so.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import TypeAdapter, model_serializer, model_validator

from activities.settings import Listed, Model
from activities.swarm.contracts import Refused, Row
from workflows.policy.overlap import Flight

LARGE_BYTES = 16_000
"""Of JSON: a larger board is packed where it is stored. 2,000 tasks are well below 128 kB then."""

Place = Literal["pending", "current", "blocked", "complete"]
COMPARED = 300
"""Tasks whose files are compared with those of the ones in flight."""


class Item(Model):
    """One task of the board."""

    row: Row
    place: Place = "pending"
    holder: str = ""
    """Workflow id of the task that has it."""
    worker: str = ""
    """Of the holder; of whoever completed it."""
    since: float = 0.0
    tries: int = 0
    """That did not complete it."""
    why: str = ""
    """It is blocked, or was given back last."""
    sha: str = ""


class Board(Model):
    items: dict[str, Item] = {}
    """By id, in the order in which they came."""

    @model_serializer
    def _stored(self) -> dict[str, Any]:
        text = _ITEMS.dump_json(self.items, exclude_defaults=True)
        if len(text) > LARGE_BYTES:
            return {"packed": _packed(json.loads(text))}
        return {"items": json.loads(text)}

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.keys() != {"packed"}:
            return given
        try:
            return {"items": _unpacked(given["packed"])}
        except (ValueError, TypeError, LookupError, AttributeError, zlib.error):
            raise ValueError("packed: is not a board; give its tasks as `items`") from None


_ITEMS = TypeAdapter(dict[str, Item])


def _packed(items: dict[str, dict[str, Any]]) -> str:
    """By columns: what is alike stands together, and is packed a fifth smaller."""
    flat = [item.pop("row") | item for item in items.values()]
    names = dict.fromkeys(name for one in flat for name in one)
    columns = {name: [one.get(name) for one in flat] for name in names}
    return b64encode(zlib.compress(json.dumps(columns, separators=(",", ":")).encode())).decode()


def _unpacked(packed: str) -> dict[str, dict[str, Any]]:
    columns = json.loads(zlib.decompress(b64decode(packed, validate=True)))
    items: dict[str, dict[str, Any]] = {}
    for values in zip(*columns.values(), strict=True):
        one = {name: value for name, value in zip(columns, values, strict=True) if value is not None}
        row = {name: one.pop(name) for name in Row.model_fields if name in one}
        items[row["id"]] = {"row": row, **one}
    return items


def added(board: Board, rows: Iterable[Row], now: float) -> Board:
    """What is there already stays as it is."""
    new: dict[str, Item] = {}
    for row in rows:
        if row.id not in board.items:
            new.setdefault(row.id, Item(row=row, since=now))
    return _changed(board, new)


def claimed(
    board: Board, ids: Sequence[str], holder: str, worker: str, now: float, most: int
) -> tuple[Board, list[str], list[Refused]]:
    """What was got (also what the holder has already), and what not and why: taken by whom, waits for what, unknown,
    more than `most` at once. First come, first served."""
    if not holder:
        raise ValueError("holder: empty; nothing is claimed by nobody")
    has = held(board, holder)
    new: dict[str, Item] = {}
    got: list[str] = []
    refused: list[Refused] = []
    for task in dict.fromkeys(ids):
        if task in has:
            got.append(task)
        elif why := _not_claimable(board, task):
            refused.append(Refused(id=task, why=why))
        elif len(has) + len(new) >= most:
            refused.append(Refused(id=task, why=f"you have {most} already, and no more at once: finish those first"))
        else:
            update = {"place": "current", "holder": holder, "worker": worker, "since": now}
            new[task] = board.items[task].model_copy(update=update)
            got.append(task)
    return _changed(board, new), got, refused


def _not_claimable(board: Board, task: str) -> str:
    """Why; empty: it is."""
    item = board.items.get(task)
    if item is None:
        return "not on the board"
    if item.place != "pending":
        return _standing(item)
    waits = waits_for(board, task)
    return f"waits for {_some(waits)}" if waits else ""


def _standing(item: Item) -> str:
    """Where it is, in words."""
    who = item.worker or item.holder
    if item.place == "blocked":
        whose = f"taken by {who}, and " if item.holder else ""
        return f"{whose}blocked: {item.why}"
    words = {"pending": "pending", "current": f"taken by {who}", "complete": f"complete, by {who}"}
    return words[item.place]


def released(board: Board, holder: str, now: float, why: str, *, tried: bool, max_tries: int) -> Board:
    """Everything that it holds goes back to pending; `tried`: it counts, and after `max_tries` the task is blocked."""
    new: dict[str, Item] = {}
    for task in held(board, holder):
        item = board.items[task]
        tries = item.tries + tried
        update: dict[str, Any] = {"tries": tries, "holder": "", "worker": "", "since": now}
        if tried and tries >= max_tries:
            update |= {"place": "blocked", "why": f"tried {tries} of {max_tries} times: {why}"}
        else:
            update |= {"place": "pending", "why": why}
        new[task] = item.model_copy(update=update)
    return _changed(board, new)


def stopped(board: Board, holder: str, now: float, why: str) -> Board:
    """What it holds is blocked, without a holder: a person must look at it, and `requeued` lets it go on."""
    update = {"place": "blocked", "holder": "", "worker": "", "since": now, "why": why}
    return _updated(board, held(board, holder), update)


def parked(board: Board, holder: str, now: float, why: str) -> Board:
    """It waits for an operator, and keeps what it holds; with an empty `why` it goes on. Told twice is told once."""
    place: Place = "blocked" if why else "current"
    has = held(board, holder)
    moved = [task for task in has if board.items[task].place != place]
    board = _updated(board, moved, {"place": place, "since": now})
    return _updated(board, has if why else moved, {"why": why})


def completed(board: Board, holder: str, now: float, sha: str) -> Board:
    """What it holds is complete. What nobody needs of it any more is forgotten: what it waited for, and its files."""
    new: dict[str, Item] = {}
    for task in held(board, holder):
        item = board.items[task]
        row = item.row.model_copy(update={"after": [], "files": []})
        update = {"row": row, "place": "complete", "holder": "", "since": now, "why": "", "sha": sha}
        new[task] = item.model_copy(update=update)
    return _changed(board, new)


def requeued(board: Board, ids: Sequence[str], now: float) -> tuple[Board, list[str], list[Refused]]:
    """Blocked ones that nobody holds are pending again, with all their tries; others are refused, and why. Without
    `ids`: all of them."""
    free = [task for task, item in board.items.items() if item.place == "blocked" and not item.holder]
    can = set(free)
    done = [task for task in dict.fromkeys(ids) if task in can] if ids else free
    refused = []
    for task in dict.fromkeys(ids):
        if task not in can:
            item = board.items.get(task)
            refused.append(Refused(id=task, why=_standing(item) if item else "not on the board"))
    return _updated(board, done, {"place": "pending", "since": now, "tries": 0, "why": ""}), done, refused


def held(board: Board, holder: str) -> list[str]:
    return [task for task, item in board.items.items() if item.holder == holder != ""]


def counts(board: Board) -> dict[Place, int]:
    """Of all four places."""
    found: dict[Place, int] = dict.fromkeys(get_args(Place), 0)
    for item in board.items.values():
        found[item.place] += 1
    return found


def waits_for(board: Board, task: str) -> list[str]:
    """Its dependencies that are not complete, also those that nobody knows."""
    items = board.items
    if task not in items:
        return []
    after = dict.fromkeys(items[task].row.after)
    return [other for other in after if other not in items or items[other].place != "complete"]


def claimable(board: Board) -> list[str]:
    """What could be claimed now, the best first: priority, least overlap in files with what is in flight, then age.

    The overlap of the first `COMPARED` is looked at, so that it is quick for any board."""
    items = board.items
    can = [task for task, item in items.items() if item.place == "pending" and not waits_for(board, task)]
    can.sort(key=lambda task: -items[task].row.priority)  # stable: then the order in which they came
    flight = Flight({task: item.row.files for task, item in items.items() if item.holder})
    ranks = {task: (-items[task].row.priority, flight.sharing(items[task].row.files)) for task in can[:COMPARED]}
    return sorted(ranks, key=ranks.__getitem__) + can[COMPARED:]


def listed(board: Board, ids: Iterable[str]) -> list[Listed]:
    """Those that the board knows."""
    known = [board.items[task] for task in ids if task in board.items]
    return [
        Listed(
            id=item.row.id,
            title=item.row.title,
            priority=item.row.priority,
            files=item.row.files,
            place="" if item.place == "pending" else item.place,
        )
        for item in known
    ]


def unreachable(board: Board) -> dict[str, str]:
    """Pending tasks that can never be claimed as things stand, and why: they wait for themselves, for a task that is
    blocked, or for one that is not on the board."""
    waiting = {task: waits_for(board, task) for task, item in board.items.items() if item.place == "pending"}
    followers: dict[str, list[str]] = {}
    for task, others in waiting.items():
        for other in others:
            followers.setdefault(other, []).append(task)
    found: dict[str, str] = {}

    def follow(first: str, trouble: str) -> None:
        """All that wait for `first` cannot begin either."""
        left = [first]
        while left:
            other = left.pop()
            so = f"{other}, which {trouble}" if other == first else f"{other}, and so for {first}, which {trouble}"
            for task in followers.get(other, ()):
                if task not in found:
                    found[task] = f"waits for {so}"
                    left.append(task)

    for other in followers:
        item = board.items.get(other)
        if item is None:
            follow(other, "is not on the board")
        elif item.place == "blocked":
            follow(other, f"is blocked: {item.why}")
    for circle in _circles(waiting, followers, found):
        way = f", by way of {_some(circle)}" if len(circle) > 1 else ""
        found |= dict.fromkeys(circle, f"waits for itself{way}")
        for task in circle:
            follow(task, "waits for itself")
    return {task: found[task] for task in waiting if task in found}


def _circles(
    waiting: Mapping[str, Sequence[str]], followers: Mapping[str, Sequence[str]], found: Container[str]
) -> Iterator[list[str]]:
    """Of those that are not `found`. Whoever waits for a circle must be found before the next one is asked for."""
    needs = {task: sum(other in waiting for other in others) for task, others in waiting.items() if task not in found}
    free = [task for task, count in needs.items() if not count]
    while free:
        for task in needs.keys() & followers.get(free.pop(), ()):
            needs[task] -= 1
            free += [task] if not needs[task] else []
    # Each one that is left waits for another one that is left, so whoever goes on from one to the next meets a circle.
    for first in (task for task, count in needs.items() if count):
        path: dict[str, None] = {}
        task = first
        while task not in found and task not in path:
            path[task] = None
            task = next(other for other in waiting[task] if needs.get(other))
        if task in path:
            way = list(path)
            yield way[way.index(task) :]


def _some(ids: Sequence[str]) -> str:
    more = len(ids) - 5
    return ", ".join(ids[:5]) + (f" and {more} more" if more > 0 else "")


def _changed(board: Board, new: dict[str, Item]) -> Board:
    return board.model_copy(update={"items": board.items | new}) if new else board


def _updated(board: Board, ids: Iterable[str], update: dict[str, Any]) -> Board:
    return _changed(board, {task: board.items[task].model_copy(update=update) for task in ids})
