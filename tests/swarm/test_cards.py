"""The store of cards: what was told to be there is there, whoever is killed and whoever else adds."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from activities.home import Home
from activities.swarm.cards import MOST_CARDS, Cards, card, digest
from activities.swarm.contracts import Card

ADD = """
import sys
from pathlib import Path
from activities.swarm.cards import Cards
from activities.swarm.contracts import Card
cards = Cards(Path(sys.argv[1]))
for number in range(10):
    assert not cards.add([Card(id=f"{sys.argv[2]}-{number}", title="t"), Card(id=f"common-{number}", title="t")])
"""
DIE = """
import os, signal, sys
from pathlib import Path
from activities.swarm.cards import Cards
from activities.swarm.contracts import Card

def child(folder, at):
    calls = 0
    write = os.write
    def dying(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == at:
                if function is write:
                    write(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call
    for name in ("open", "ftruncate", "write", "fsync", "close"):
        setattr(os, name, dying(getattr(os, name)))
    Cards(folder).add([Card(id="new", title="t"), Card(id="newer", title="t")])
    os._exit(0)

status, at = 1, 0
while status:
    at += 1
    folder = Path(sys.argv[1]) / str(at)
    Cards(folder).add([Card(id="old", title="t")])
    pid = os.fork()
    if pid == 0:
        child(folder, at)
    _, status = os.waitpid(pid, 0)
    assert os.WIFEXITED(status) or os.WTERMSIG(status) == signal.SIGKILL
"""
"""Adds two cards in one folder after another, and is killed at the first, second … call of the system, until it is not
any more."""


def made(*ids: str) -> list[Card]:
    return [Card(id=one, title=f"do {one}") for one in ids]


def names(cards: Cards) -> list[str]:
    return [one.id for one in cards.all()]


def test_cards_are_numbered_as_they_come_and_the_first_of_an_id_counts(tmp_path: Path) -> None:
    cards = Cards(tmp_path)
    assert (cards.all(), cards.rows(0)) == ([], ([], 0, False))
    assert cards.add(made("a", "b", "a")) == []
    assert cards.add([*made("b", "c"), Card(id="a", title="something else", path="tasks/pending/a.json")]) == [
        (
            Card(id="a", title="something else", path="tasks/pending/a.json"),
            "id: a is another task on the board: give this one an id of its own",
        )
    ]
    assert names(cards) == ["a", "b", "c"]
    rows, upto, more = cards.rows(1)
    assert ([row.id for row in rows], upto, more) == (["b", "c"], 3, False)
    assert cards.rows(3) == ([], 3, False)


def test_rows_come_a_hundred_at_a_time_and_short(tmp_path: Path) -> None:
    cards = Cards(tmp_path)
    cards.add(
        [
            Card(id=f"t{number}", title="x" * 300, files=[f"f{n}" for n in range(30)], after=["t1", "gone"])
            for number in range(150)
        ]
    )
    rows, upto, more = cards.rows(0, {"gone", "t1"})
    assert (len(rows), upto, more) == (100, 100, True)
    assert (len(rows[0].title), len(rows[0].files), rows[0].after) == (100, 20, ["t1"])
    assert cards.rows(upto)[1:] == (150, False)


def test_rows_of_large_cards_fit_in_one_answer(tmp_path: Path) -> None:
    cards = Cards(tmp_path)
    files = [f"{number}{'x' * 490}" for number in range(20)]
    after = [f"{number:03d}{'y' * 97}" for number in range(100)]
    cards.add([Card(id=f"t{number}", title="T", files=files, after=after) for number in range(30)])
    seen, upto, more = list[str](), 0, True
    while more:
        rows, upto, more = cards.rows(upto)
        assert len("".join(row.model_dump_json() for row in rows)) < 64_000
        assert {len(row.files) for row in rows} == {3}
        seen += [row.id for row in rows]
    assert seen == [f"t{number}" for number in range(30)]


def test_a_title_is_one_line() -> None:
    assert Card(id="a", title=" two\n lines\u2028of it").title == "two lines of it"


def test_where_a_card_comes_from_makes_it_no_other_one(tmp_path: Path) -> None:
    by_hand = Card(id="a", title="t", description="d")
    of_file = by_hand.model_copy(update={"source": "file", "path": "tasks/pending/a.json"})
    assert digest(by_hand) == digest(of_file)
    home = Home(tmp_path)
    Cards(home.swarm("k")).add([by_hand])
    assert Cards(home.swarm("k")).add([of_file]) == []
    assert card(home, "k", "a") == by_hand
    assert card(home, "k", "b") is None


@pytest.mark.parametrize("torn", [b"{", b'{"id":"b","title":"t"}', b"\0\0\0"])
def test_a_line_without_its_end_is_no_card_and_is_taken_away(tmp_path: Path, torn: bytes) -> None:
    cards = Cards(tmp_path)
    cards.add(made("a"))
    with cards.file.open("ab") as file:
        file.write(torn)
    assert names(cards) == ["a"]
    cards.add(made("b"))
    assert names(cards) == ["a", "b"]
    assert torn not in cards.file.read_bytes() or torn.startswith(b"{")
    assert cards.file.read_bytes().count(b"\n") == 2


def test_whoever_is_killed_at_any_call_leaves_whole_cards(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIE, str(tmp_path)], check=True, timeout=60)
    found = []
    for at in range(1, len(list(tmp_path.iterdir())) + 1):
        cards = Cards(tmp_path / str(at))
        found.append(names(cards))
        assert cards.add([Card(id="new", title="t"), Card(id="newer", title="t")]) == []
        assert names(cards) == ["old", "new", "newer"]
    assert found[0] == ["old"]
    assert found[-1] == ["old", "new", "newer"]
    assert all(one in (["old"], ["old", "new"], ["old", "new", "newer"]) for one in found)
    assert len(found) > 5


def test_two_processes_add_at_once(tmp_path: Path) -> None:
    def add(name: str) -> None:
        subprocess.run([sys.executable, "-c", ADD, str(tmp_path), name], check=True, timeout=60)

    with ThreadPoolExecutor() as pool:
        list(pool.map(add, ["x", "y"]))
    found = names(Cards(tmp_path))
    assert len(found) == len(set(found)) == 30


def test_a_full_disk_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = Cards(tmp_path)
    cards.add(made("a"))
    whole = os.write

    def full(fd: int, content: bytes) -> int:
        whole(fd, content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        cards.add(made("b"))
    monkeypatch.undo()
    assert cards.file.read_bytes().count(b"\n") == 1
    cards.add(made("b"))
    assert names(cards) == ["a", "b"]


def test_a_board_has_an_end(tmp_path: Path) -> None:
    """It is carried in one payload."""
    store = Cards(tmp_path)
    assert store.add([Card(id=f"t{number}", title="t") for number in range(MOST_CARDS)]) == []
    [(refused, why)] = store.add([Card(id="t1", title="t"), Card(id="more", title="t")])
    assert (refused.id, "the board is full" in why) == ("more", True)
