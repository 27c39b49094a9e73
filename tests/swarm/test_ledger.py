"""The ledger of a repository's tasks: one swarm has a task, and what is done stays done."""

from __future__ import annotations

from pathlib import Path

import pytest

from activities.git.repository import Repository, open_repository
from activities.home import Home
from activities.swarm.cards import Cards
from activities.swarm.contracts import Card
from activities.swarm.ledger import Done, Ledger, done
from tests.git.repos import git, make_repo

A, B = Card(id="a", title="do a"), Card(id="b.1", title="do b")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return open_repository(str(make_repo(tmp_path / "repo")))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def ledger(home: Home, repository: Repository) -> Ledger:
    return Ledger(home, repository.common_dir)


def known(ledger: Ledger, repository: Repository) -> dict[str, Done]:
    with repository.git() as git:
        return ledger.done(ledger.lost(git, repository.tip("refs/heads/main")))


def test_what_one_swarm_has_no_other_takes_until_it_is_over_or_lets_go(ledger: Ledger) -> None:
    assert ledger.take("one", "one.1", [A, B], (), ()) == {}
    assert ledger.take("one", "one.1", [A, B], (), ()) == {}
    assert ledger.take("two", "two.1", [A, B], (), ()) == {"a": "one", "b.1": "one"}
    ledger.release("one.1", ["a"])
    assert ledger.take("two", "two.1", [A, B], (), ()) == {"b.1": "one"}
    assert ledger.take("two", "two.1", [B], {"one.1"}, ()) == {}
    ledger.release("one.1")  # late: it has nothing any more
    assert [entry.claim and entry.claim.key for entry in ledger.entries()] == ["two.1", "two.1"]
    ledger.release("two.1")
    assert list(ledger.entries()) == []


def test_what_is_done_stays_so_until_history_is_thrown_away(ledger: Ledger, home: Home, repository: Repository) -> None:
    path = repository.path
    Cards(home.swarm("one.1")).add([A, B])
    ledger.take("one", "one.1", [A], (), ())
    git(path, "commit", "-q", "--allow-empty", "-m", "work for a")
    sha = git(path, "rev-parse", "HEAD")
    done(home, repository.common_dir, "one", "one.1", ["a", "unknown"], sha)
    done(home, repository.common_dir, "one", "one.1", ["a", "unknown"], sha)
    done(home, repository.common_dir, "one", "one.1", ["b.1"], "0" * 40)  # no such commit
    found = known(ledger, repository)
    assert found.keys() == {"a", "unknown"}
    assert found["a"].of(A)
    assert not found["a"].of(A.model_copy(update={"description": "more of it"}))
    ledger.release("one.1")
    assert known(ledger, repository).keys() == {"a", "unknown"}
    assert ledger.take("two", "two.1", [A, B], (), ["0" * 40]) == {"a": ""}
    git(path, "reset", "-q", "--hard", "HEAD~1")
    assert known(ledger, repository) == {}
    assert ledger.take("two", "two.1", [A], (), [sha]) == {}


def test_another_swarm_keeps_what_it_has_taken_when_an_older_one_says_that_it_is_done(
    ledger: Ledger, home: Home, repository: Repository
) -> None:
    ledger.take("two", "two.1", [A], (), ())
    done(home, repository.common_dir, "one", "one.1", ["a"], repository.tip("refs/heads/main"))
    entry = ledger.entry("a")
    assert entry.claim
    assert (entry.claim.key, entry.done and entry.done.swarm) == ("two.1", "one")


def test_what_a_killed_write_has_left_is_in_nobodys_way(ledger: Ledger) -> None:
    ledger.take("one", "one.1", [A], (), ())
    [file] = ledger.folder.iterdir()
    (ledger.folder / f"{file.name}.123.new").write_text('{"id": "a')
    assert [entry.id for entry in ledger.entries()] == ["a"]
    assert ledger.take("two", "two.1", [A], (), ()) == {"a": "one"}
