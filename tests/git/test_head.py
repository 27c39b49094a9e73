"""What the task's work is when its agent leaves HEAD, or the whole `.git`, in a strange state."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from activities.git.clone import WorktreeBroken
from activities.git.worktree import Worktree, rebuild
from tests.git.repos import commit, git, write
from tests.git.worktrees import MAIN, status, tree


def test_head_is_followed_wherever_it_goes(worktree: Worktree) -> None:
    git(worktree.path, "checkout", "-q", "-b", "own/idea")
    sha = commit(worktree.path, {"a": "a"})
    assert worktree.head() == sha
    git(worktree.path, "checkout", "-q", "--detach")
    sha = commit(worktree.path, {"b": "b"})
    assert worktree.head() == sha
    write(worktree.path, {"c": "c"})
    head = worktree.commit_all("the rest")
    assert worktree.head() == head == git(worktree.path, "rev-parse", "HEAD")
    assert git(worktree.path, "branch", "--show-current") == ""
    git(worktree.path, "checkout", "-q", "own/idea")
    git(worktree.path, "pack-refs", "--all")
    write(worktree.path, {"d": "d"})
    head = worktree.commit_all("on a packed branch")
    assert git(worktree.path, "rev-parse", "own/idea") == head


@pytest.mark.parametrize(
    "head",
    ["", "garbage\n", "ref: refs/heads/../../config\n", "ref: refs/heads/unborn\n", "0" * 40 + "\n", None, "pipe"],
)
def test_a_broken_head_is_the_task_s_branch(worktree: Worktree, head: str | None) -> None:
    first = commit(worktree.path, {"a": "a"})
    config = (worktree.path / ".git" / "config").read_bytes()
    (worktree.path / ".git" / "HEAD").unlink()
    if head == "pipe":
        os.mkfifo(worktree.path / ".git" / "HEAD")
    elif head is not None:
        (worktree.path / ".git" / "HEAD").write_text(head)
    write(worktree.path, {"b": "b"})
    assert worktree.head() == first
    second = worktree.commit_all("b")
    assert git(worktree.path, "rev-parse", "HEAD", "HEAD^") == f"{second}\n{first}"
    assert status(worktree) == ""
    assert (worktree.path / ".git" / "config").read_bytes() == config


def test_a_branch_below_the_task_s_own(worktree: Worktree) -> None:
    git(worktree.path, "checkout", "-q", "--detach")
    git(worktree.path, "branch", "-D", worktree.branch)
    git(worktree.path, "branch", f"{worktree.branch}/sub")
    (worktree.path / ".git" / "HEAD").write_text("garbage")
    write(worktree.path, {"b": "b"})
    assert worktree.commit_all("b") == worktree.head() == git(worktree.path, "rev-parse", "HEAD")
    assert status(worktree) == ""


def test_an_unrelated_history_is_put_onto_the_work(worktree: Worktree) -> None:
    write(worktree.path, {"a": "a"})
    before = worktree.commit_all("a")
    git(worktree.path, "checkout", "-q", "--orphan", "fresh")
    commit(worktree.path, {"b": "b"})
    head = worktree.commit_all("all of it")
    assert git(worktree.repository.path, "rev-parse", f"{head}^@") == before
    assert "b" in tree(worktree, head)
    assert status(worktree) == ""


def test_a_new_git_init_costs_only_the_history(worktree: Worktree) -> None:
    write(worktree.path, {"a": "a"})
    before = worktree.commit_all("a")
    shutil.rmtree(worktree.path / ".git")
    git(worktree.path, "init", "-q")
    git(worktree.path, "config", "user.name", "x")
    git(worktree.path, "config", "user.email", "x@example.org")
    write(worktree.path, {"b": "b"})
    commit(worktree.path)
    head = worktree.commit_all("all of it")
    assert git(worktree.repository.path, "rev-parse", f"{head}^@") == before
    assert worktree.repository.changed_files(before, head) == ["b"]
    assert git(worktree.path, "fsck", "--connectivity-only") == ""


def break_by_removal(worktree: Worktree) -> None:
    shutil.rmtree(worktree.path / ".git")


def break_by_file(worktree: Worktree) -> None:
    shutil.rmtree(worktree.path / ".git")
    (worktree.path / ".git").write_text(f"gitdir: {worktree.repository.common_dir}\n")


def break_by_link(worktree: Worktree) -> None:
    shutil.rmtree(worktree.path / ".git")
    (worktree.path / ".git").symlink_to(worktree.repository.common_dir)


def break_by_linked_refs(worktree: Worktree) -> None:
    shutil.rmtree(worktree.path / ".git" / "refs" / "heads")
    (worktree.path / ".git" / "refs" / "heads").symlink_to(worktree.repository.common_dir / "refs" / "heads")


def break_by_linked_objects(worktree: Worktree) -> None:
    shutil.rmtree(worktree.path / ".git" / "objects")
    (worktree.path / ".git" / "objects").symlink_to(worktree.repository.common_dir / "objects")


def break_by_a_pipe(worktree: Worktree) -> None:
    os.mkfifo(worktree.path / ".git" / "refs" / "heads" / "waits")


def break_by_missing_objects(worktree: Worktree) -> None:
    shutil.rmtree(worktree.path / ".git" / "objects")


@pytest.mark.parametrize(
    "break_it",
    [
        break_by_removal,
        break_by_file,
        break_by_link,
        break_by_linked_refs,
        break_by_linked_objects,
        break_by_missing_objects,
        break_by_a_pipe,
    ],
)
def test_a_broken_git_directory_is_told_and_made_good(worktree: Worktree, break_it: Callable[[Worktree], None]) -> None:
    write(worktree.path, {"a": "a"})
    published = worktree.commit_all("a")
    write(worktree.path, {"b": "b", "src/app.py": None})
    break_it(worktree)
    before = _everything(worktree.repository.path)
    for act in (
        worktree.head,
        lambda: worktree.commit_all("x"),
        worktree.is_clean,
        worktree.refresh,
        lambda: worktree.put_back(published),
        lambda: worktree.publish("refs/mergewright/task/t.1", published),
    ):
        with pytest.raises(WorktreeBroken):
            act()
    assert _everything(worktree.repository.path) | before == before  # nothing of the user's was changed
    rebuild(worktree.repository, worktree.path, worktree.key, worktree.branch, MAIN)
    assert worktree.head() == published
    assert (worktree.path / "b").read_text() == "b"
    head = worktree.commit_all("b")
    assert worktree.repository.changed_files(published, head) == ["b", "src/app.py"]
    assert status(worktree) == ""
    assert git(worktree.repository.path, "status", "--porcelain") == ""


def _everything(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file() and "mergewright" not in str(file.relative_to(path)))
    return {str(file): file.read_bytes() for file in files}
