"""Files of the user's checkout that are in no commit: what is put into a worktree, and that it stays out of commits."""

from __future__ import annotations

from pathlib import Path

import pytest

from activities.git import extras
from activities.git.salvage import save
from activities.git.worktree import Worktree, rebuild
from tests.git.repos import write
from tests.git.worktrees import content, status, tree


def put(worktree: Worktree, copy: list[str], link: list[str]) -> None:
    found = extras.find(worktree.repository, copy, link)
    worktree.keep_out({extra.path: extra.mark() for extra in found})
    for extra in found:
        extras.put(extra, worktree.path)


@pytest.fixture
def checkout(worktree: Worktree, tmp_path: Path) -> Path:
    top = worktree.repository.path
    write(top, {".env": "KEY=1\n", "conf [1]/local*.txt": "x", "run.local": "#!/bin/sh\n", "data/big.bin": "b"})
    (top / "run.local").chmod(0o750)
    (tmp_path / "secret").write_text("s")
    (top / "out.local").symlink_to(tmp_path / "secret")
    (top / "in.local").symlink_to("run.local")
    write(top, {"README.md": "changed by the user\n", "other": "not named"})
    return top


def test_what_the_patterns_name_is_put_there_and_is_no_work(worktree: Worktree, checkout: Path) -> None:
    write(checkout, {"src/data/x": "a link to a file of its own"})
    put(worktree, [".env*", "*.local", "conf*/", "README.md"], ["/data"])
    top = worktree.path
    assert (top / ".env").read_text() == "KEY=1\n"
    assert (top / "run.local").stat().st_mode & 0o777 == 0o750
    assert (top / "in.local").readlink() == Path("run.local")
    assert not (top / "out.local").is_symlink()
    assert (top / "README.md").read_text() == "hello\n"
    assert not (top / "other").exists()
    assert not (top / "src" / "data").exists()
    assert (top / "data").readlink() == checkout / "data"
    assert status(worktree) == ""
    head = worktree.commit_all("nothing")
    assert head == worktree.base()
    write(top, {"new": "work", ".env": "KEY=2\n"})
    head = worktree.commit_all("work")
    assert "new" in tree(worktree, head)
    assert ".env" not in tree(worktree, head)
    worktree.put_back(head)
    assert (top / ".env").read_text() == "KEY=2\n"
    assert (top / "conf [1]" / "local*.txt").exists()
    saved = save(worktree, task_id="t", outcome="cancelled", kept=head)
    assert saved is not None  # what was changed is worth saving
    assert set(tree(worktree, saved.commit)) == {*tree(worktree, head), ".env"}
    assert content(worktree, saved.commit, ".env") == b"KEY=2\n"


@pytest.mark.usefixtures("checkout")
def test_what_was_put_there_and_not_changed_is_not_saved(worktree: Worktree) -> None:
    put(worktree, [".env", "in.local"], ["data"])
    assert save(worktree, task_id="t", outcome="cancelled") is None


def test_nothing_is_put_through_a_link(worktree: Worktree, tmp_path: Path) -> None:
    write(worktree.repository.path, {"conf/.env": "x"})
    (tmp_path / "elsewhere").mkdir()
    (worktree.path / "conf").symlink_to(tmp_path / "elsewhere")
    put(worktree, [".env"], [])
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.usefixtures("checkout")
def test_it_is_still_no_work_after_the_git_directory_was_made_again(worktree: Worktree) -> None:
    put(worktree, [".env"], [])
    (worktree.path / ".git" / "HEAD").unlink()
    again = rebuild(worktree.repository, worktree.path, worktree.key, worktree.branch, worktree.target)
    assert status(again) == ""
