from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from activities.git.checkout import InTheWay, Move, Way, moving
from activities.git.repository import open_repository
from tests.git.landings import (
    MAIN,
    candidate,
    contents,
    every_kind_of_change,
    everything,
    land_it,
    left_in,
    link,
    unnoticed,
    work,
)
from tests.git.repos import commit, git, run_git, write


@contextmanager
def move(repo: Path, head: str, folder: Path) -> Iterator[Move]:
    repository = open_repository(str(repo))
    (checkout,) = repository.checkouts(MAIN)
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock, repository.git() as hardened:
        way = Way(git(repo, "rev-parse", "main"), head, hardened.objects)
        with moving(repository.common_dir, checkout, way, journal=folder / "journal", holding=lock.fileno()) as made:
            yield made


def prepared(repo: Path) -> str:
    """The user has changes, and the task changes files in every way."""
    commit(repo, {"f": "f\n", "d/a": "a\n", "to-link": "x\n", "append": "1\n", ".gitattributes": "*.t eol=crlf\n"})
    (repo / "link").symlink_to("other")
    commit(repo, {"text.t": b"text\r\n"})
    side = repo.with_name("repo-side")
    work(repo, {"f": None, "to-link": None, "append": "1\n2\n", "mod": "MOD\n" * 9, "deep/er/new": "n\n"})
    shutil.rmtree(side / "d")
    write(side, {"f/inside": "inside\n", "d": "d\n", "text.t": b"TEXT\r\n", ".gitattributes": "*.t eol=lf\n"})
    (side / "to-link").symlink_to("d")
    link(side / "link", "mod")
    (side / "exec").chmod(0o755)
    head = commit(side)
    write(repo, {"staged": "staged\n", "other": "mine\n", "mine": "mine\n", "x.log": "ignored\n"})
    git(repo, "add", "staged")
    return head


def test_undo_puts_everything_back(repo: Path, folder: Path) -> None:
    head = prepared(repo)
    before, (_, index, *rest) = contents(repo), everything(repo)
    with move(repo, head, folder) as moved:
        moved.bring()
        assert contents(repo) != before
        assert (repo / ".git/index").read_bytes() != index
        assert run_git(repo, "add", "mine", check=False).returncode == 128  # the user's git has to wait
        moved.undo()
        moved.undo()
    assert contents(repo) == before
    _, index_now, *rest_now = everything(repo)
    assert (index_now, rest_now) == (index, rest)
    assert git(repo, "status", "--porcelain", "-uall") == "M other\nA  staged\n?? mine".replace("M other", " M other")


def test_undo_leaves_what_somebody_changed_since(repo: Path, folder: Path) -> None:
    head = prepared(repo)
    before = contents(repo)
    with move(repo, head, folder) as moved:
        moved.bring()
        mine = {"mod": "an editor was quick\n", "f/inside": "so was this one\n", "d": "and another\n"}
        write(repo, mine)
        moved.undo()
    after = contents(repo)
    assert {name: after.pop(name)[1].decode() for name in mine} == mine
    del before["mod"], before["f"], before["d/a"]  # no file where now is a folder, no folder where now is a file
    assert after == before


def test_undo_when_the_user_removed_our_lock_and_committed(repo: Path, folder: Path) -> None:
    head = prepared(repo)
    with move(repo, head, folder) as moved:
        moved.bring()
        (repo / ".git/index.lock").unlink()
        committed = commit(repo)
        before = contents(repo)
        moved.undo()
    assert contents(repo) == before
    assert git(repo, "rev-parse", "HEAD") == committed
    assert git(repo, "status", "--porcelain") == ""
    assert left_in(repo) == []


def test_undo_waits_for_a_git_that_took_the_lock(repo: Path, folder: Path) -> None:
    head = prepared(repo)
    with move(repo, head, folder) as moved:
        moved.bring()
        (repo / ".git/index.lock").unlink()
        write(repo, {".git/index.lock": "another's"})
        with pytest.raises(InTheWay, match=r"index\.lock"):
            moved.undo()
        assert (repo / ".git/index.lock").read_text() == "another's"
        (repo / ".git/index.lock").unlink()
        moved.undo()
    assert left_in(repo) == []


@pytest.mark.parametrize("landed", [True, False])
def test_a_change_that_git_tells_by_the_content_alone(repo: Path, folder: Path, landed: bool) -> None:
    """Nothing that we do with the index makes git overlook it."""
    head = every_kind_of_change(repo)
    unnoticed(repo / "other", b"mine!\n")
    if landed:
        assert land_it(repo, folder, candidate(repo, head)).kind == "landed"
    else:
        with move(repo, head, folder) as moved:
            moved.bring()
            moved.undo()
    assert git(repo, "status", "--porcelain") == " M other"
