"""The worktree as it was after a turn: kept, gone back to, and part of the salvage when the work does not land."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from activities.git import turns
from activities.git.repository import Repository
from activities.git.salvage import save
from activities.git.worktree import Worktree
from activities.turn import _rewind
from tests.git.repos import commit, git, run_git, write
from tests.git.worktrees import status


def files(worktree: Worktree) -> Mapping[str, bytes]:
    paths = [path for path in worktree.path.rglob("*") if path.is_file() and ".git" not in path.parts]
    return {str(path.relative_to(worktree.path)): path.read_bytes() for path in sorted(paths)}


def test_a_worktree_goes_back_to_an_earlier_turn_and_nothing_is_lost(worktree: Worktree) -> None:
    first = commit(worktree.path, {"a": "1"})
    write(worktree.path, {"src/app.py": "not committed\n", "new/file": "1", "x.log": "ignored"})
    turns.keep(worktree, "1")
    then = files(worktree)
    worktree.commit_all("turn 1")
    write(worktree.path, {"a": "2", "b": "2", "src/lib.py": None})
    commit(worktree.path)
    turns.keep(worktree, "2")
    worktree.commit_all("turn 2")
    write(worktree.path, {"by-hand": "3"})

    turns.rewind(worktree, 1, "3-before")
    assert files(worktree) == then
    assert (worktree.head(), worktree.published()) == (first, first)
    assert git(worktree.path, "symbolic-ref", "--short", "HEAD") == worktree.branch
    assert status(worktree) == "A  new/file\nM  src/app.py"
    turns.rewind(worktree, 1, "3-before-again")
    assert files(worktree) == then
    assert list(turns.kept(worktree)) == ["1", "2", "3-before", "3-before-again"]
    again = git(worktree.repository.path, "ls-tree", "-r", "--name-only", turns.kept(worktree)["3-before"])
    assert {"by-hand", "b"} <= set(again.split())

    head = worktree.commit_all("goes on")
    assert git(worktree.repository.path, "rev-parse", f"{head}^") == first
    assert git(worktree.path, "status", "--porcelain") == ""
    turns.rewind(worktree, 2, "4-before")
    assert (worktree.path / "b").read_text() == "2"


def test_what_was_put_there_is_no_work_after_a_rewind_either(worktree: Worktree) -> None:
    worktree.keep_out({".env": "as it was put there"})
    write(worktree.path, {".env": "KEY=changed\n", "new": "1"})
    turns.keep(worktree, "1")
    turns.rewind(worktree, 1, "2-before")
    assert (worktree.path / ".env").read_text() == "KEY=changed\n"
    head = worktree.commit_all("goes on")
    assert git(worktree.repository.path, "diff", "--name-only", f"{head}^", head) == "new"


def test_what_a_killed_rewind_has_kept_is_not_overwritten_by_the_next(worktree: Worktree) -> None:
    turns.keep(worktree, "1")
    write(worktree.path, {"by-hand": "1"})
    turns.rewind(worktree, 1, "2-before")
    turns.rewind(worktree, 1, "2-before")
    kept = turns.kept(worktree)["2-before"]
    assert "by-hand" in git(worktree.repository.path, "ls-tree", "--name-only", kept).split()


def test_a_turn_that_was_interrupted_goes_back_again_only_when_another_turn_is_wanted(
    worktree: Worktree, tmp_path: Path
) -> None:
    for number in (1, 2):
        write(worktree.path, {"number": str(number)})
        turns.keep(worktree, str(number))
    _rewind(worktree, 2, 3, tmp_path / "rewound")
    write(worktree.path, {"since": "1"})
    _rewind(worktree, 2, 3, tmp_path / "rewound")
    assert (worktree.path / "since").exists()
    _rewind(worktree, 1, 3, tmp_path / "rewound")
    assert files(worktree)["number"] == b"1"
    assert "since" in git(worktree.repository.path, "ls-tree", "--name-only", turns.kept(worktree)["3-before-1"])


def test_a_merge_in_progress_is_over_then(worktree: Worktree) -> None:
    git(worktree.path, "checkout", "-q", "--detach")
    other = commit(worktree.path, {"src/app.py": "other\n"})
    git(worktree.path, "checkout", "-q", worktree.branch)
    commit(worktree.path, {"src/app.py": "mine\n"})
    turns.keep(worktree, "1")
    assert run_git(worktree.path, "merge", other, check=False).returncode == 1
    turns.rewind(worktree, 1, "2-before")
    assert (worktree.path / "src/app.py").read_text() == "mine\n"
    assert worktree.clone.merge_heads() == []
    assert worktree.is_clean()


def test_a_turn_that_was_not_kept_is_told_with_those_that_are(worktree: Worktree) -> None:
    with pytest.raises(turns.NothingKept, match="nothing is kept of turn 7; there is of: none"):
        turns.rewind(worktree, 7, "8-before")
    for number in (2, 10):
        turns.keep(worktree, str(number))
    with pytest.raises(turns.NothingKept, match="nothing is kept of turn 7; there is of: 2, 10"):
        turns.rewind(worktree, 7, "8-before")


def test_what_only_a_turn_had_is_in_the_salvage_and_its_refs_go(worktree: Worktree, repository: Repository) -> None:
    for number, text in enumerate(["same", "same", "gone later", "last"], 1):
        write(worktree.path, {"a": text})
        turns.keep(worktree, str(number))
    also = list(turns.kept(worktree).values())
    saved = save(worktree, task_id="t", outcome="failed", also=also)
    assert saved is not None
    assert save(worktree, task_id="t", outcome="failed", also=also) == saved
    worktree.remove()
    assert git(repository.path, "for-each-ref", "--format=%(refname)", "refs/mergewright") == saved.ref
    parents = git(repository.path, "rev-parse", f"{saved.ref}^@").split()[1:]
    texts = [git(repository.path, "show", f"{sha}:a") for sha in (saved.ref, *parents)]
    assert texts == ["last", "same", "gone later"]
