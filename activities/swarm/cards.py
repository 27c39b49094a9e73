"""The cards of one run of a swarm: a file that only grows, a line for each card, numbered from 1 as they came.

What was added is on the disk before anybody is told so. Whoever is killed while it adds leaves at most a last line
without its end: it is no card, and the next one who adds takes it away. Who adds holds a lock; who reads needs none.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path

from activities.git.locks import exclusive
from activities.home import Home
from activities.swarm.contracts import Card, Row

MOST_ROWS = 100
"""In one answer."""
MOST_BYTES = 48_000
"""Of their JSON, but for one that is larger by itself."""
TITLE = 100
FILES = 20
MOST_CARDS = 5_000
"""Of one swarm: its board is carried in one payload, which holds 2 MB."""
FILES_CHARACTERS = 1_500
"""Of their names together: agents are shown dozens of tasks at once."""


class Cards:
    """`folder`: of the swarm's run (`Home.swarm`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "cards.jsonl"

    def add(self, cards: Sequence[Card]) -> list[tuple[Card, str]]:
        """Those whose ids are new. The same card again is silently the same; another one under a known id is refused,
        and returned with the reason.

        Raises locks.Busy; OSError when the disk is full: then none of them was added.
        """
        refused, new = list[tuple[Card, str]](), dict[str, Card]()
        with exclusive(self.folder / "cards.lock"):
            known = {card.id: card for card in self.all()} if cards else {}
            for card in cards:
                earlier = known.get(card.id) or new.get(card.id)
                if earlier is None and len(known) + len(new) < MOST_CARDS:
                    new[card.id] = card
                elif earlier is None:
                    refused.append(
                        (card, f"the board is full: it has {MOST_CARDS} tasks; begin another swarm with this one")
                    )
                elif digest(earlier) != digest(card):
                    where = f", from {earlier.path}" if earlier.path else ""
                    why = f"id: {card.id} is another task on the board{where}: give this one an id of its own"
                    refused.append((card, why))
            if new:
                self._append([card.model_dump_json(exclude_defaults=True) for card in new.values()])
        return refused

    def _append(self, lines: Sequence[str]) -> None:
        made = not self.file.exists()
        fd = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            whole = sum(len(line) for line in _lines(self.file))
            os.ftruncate(fd, whole)  # what a killed one had begun to write
            try:
                _write(fd, "".join(f"{line}\n" for line in lines).encode())
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, whole)
                raise
        finally:
            os.close(fd)
        if made:
            _sync_folder(self.folder)

    def all(self) -> list[Card]:
        """In the order in which they came: the first one is number 1."""
        return [Card.model_validate_json(line) for line in _lines(self.file)]

    def rows(self, upto: int, done: Container[str] = ()) -> tuple[list[Row], int, bool]:
        """Rows of the cards after number `upto`, the number of the last of them, and whether there are more.

        `done`: ids that are complete already; nobody waits for them. A card of the board is waited for all the same.
        """
        cards = self.all()
        own = {card.id for card in cards}
        rows, size = list[Row](), 0
        for card in cards[upto : upto + MOST_ROWS]:
            row = _row(card, [one for one in card.after if one in own or one not in done])
            size += len(row.model_dump_json())
            if rows and size > MOST_BYTES:
                break
            rows.append(row)
        return rows, upto + len(rows), upto + len(rows) < len(cards)


def card(home: Home, key: str, card_id: str) -> Card | None:
    """A card of a swarm's run, with all that was written in it. None: there is none of this id."""
    for one in Cards(home.swarm(key)).all():
        if one.id == card_id:
            return one
    return None


def digest(card: Card) -> str:
    """Of what is to be done: where a card comes from makes it no other one."""
    return hashlib.sha256(card.model_dump_json(exclude={"source", "path"}).encode()).hexdigest()[:16]


def _row(card: Card, after: list[str]) -> Row:
    title = card.title if len(card.title) <= TITLE else f"{card.title[: TITLE - 1]}…"
    return Row(
        id=card.id,
        title=title,
        priority=card.priority,
        after=after,
        files=_files(card),
        source=card.source,
    )


def _files(card: Card) -> list[str]:
    sizes = accumulate(map(len, card.files))
    return [name for name, size in islice(zip(card.files, sizes, strict=True), FILES) if size <= FILES_CHARACTERS]


def _lines(file: Path) -> Iterator[bytes]:
    """Whole ones, with their ends."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return
    for line in content.splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield line


def _write(fd: int, content: bytes) -> None:
    while content:
        content = content[os.write(fd, content) :]


def _sync_folder(folder: Path) -> None:
    held = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(held)
    finally:
        os.close(held)
