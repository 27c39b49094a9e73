"""An agent may fill its clone, or whatever lies in it, with things for git to run: none of our commands runs one."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from activities.git import slot
from activities.git.merging import abort_merge, start_merge, unresolved
from activities.git.repository import Repository, open_repository
from activities.git.salvage import save
from activities.git.salvaged import listing, restore
from activities.git.worktree import Worktree, create, rebuild
from tests.git.repos import Canary, commit, git, make_repo, run_git, write
from tests.git.worktrees import MAIN


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return open_repository(str(make_repo(tmp_path / "repo", {"a.txt": "1\n", "b.txt": "1\n"})))


@pytest.fixture
def worktree(repository: Repository, tmp_path: Path) -> Worktree:
    return create(repository, tmp_path / "w" / "t.1", "t.1", "mergewright/t", repository.tip(MAIN), MAIN)


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary(tmp_path / "canary")


def everything(worktree: Worktree, slots: Path) -> None:
    """Each of our operations at least once, in a state in which it has something to do."""
    repository = worktree.repository
    write(worktree.path, {"a.txt": "edited\n", "new.txt": "new\n"})
    worktree.head()
    assert not worktree.is_clean()
    assert save(worktree, task_id="t", outcome="cancelled") is not None
    ours = worktree.commit_all("ours")
    worktree.publish("refs/mergewright/elsewhere/x", ours)
    theirs = repository.tip("refs/heads/theirs")
    worktree.refresh()
    assert start_merge(worktree, theirs, "Merge") == ["a.txt"]
    assert unresolved(worktree) == ["a.txt"]
    abort_merge(worktree)
    start_merge(worktree, theirs, "Merge")
    write(worktree.path, {"a.txt": "both\n"})
    head = worktree.commit_all("merged")
    repository.diff(worktree.base(), head)
    repository.changed_files(worktree.base(), head)
    write(worktree.path, {"a.txt": "by a reviewer\n", "more": "x"})
    worktree.put_back(head)
    with slot.take(slots, 1) as taken:
        for sha in (worktree.base(), head):
            slot.checkout(taken, repository, sha)
    rebuild(repository, worktree.path, worktree.key, worktree.branch, MAIN)
    write(worktree.path, {"left": "x"})
    saved = save(worktree, task_id="t", outcome="cancelled")
    assert saved is not None and len(listing(repository)) == 2
    restore(repository, saved.ref)
    worktree.remove()


@pytest.fixture
def theirs(repository: Repository) -> str:
    git(repository.path, "checkout", "-q", "-b", "theirs")
    sha = commit(repository.path, {"a.txt": "theirs\n", "theirs.txt": "x\n"})
    git(repository.path, "checkout", "-q", "main")
    return sha


@pytest.mark.usefixtures("theirs")
def test_nothing_of_the_clone_runs(worktree: Worktree, canary: Canary, tmp_path: Path) -> None:
    canary.poison(worktree.path / ".git", worktree.path)
    everything(worktree, tmp_path / "slots")
    assert canary.fired() == set()


@pytest.mark.usefixtures("theirs")
def test_nothing_of_the_user_s_repository_runs(
    repository: Repository, worktree: Worktree, canary: Canary, tmp_path: Path
) -> None:
    """Its hooks and drivers are the user's own; but an agent may have been there, and gates decide, not hooks."""
    canary.poison(repository.common_dir)
    write(worktree.path, {".gitattributes": "* filter=evil merge=evil diff=evil\n"})
    everything(worktree, tmp_path / "slots")
    assert canary.fired() == set()


def test_the_canary_sings(worktree: Worktree, canary: Canary) -> None:
    """Plain git in the same state does run them: what the tests above look for can happen."""
    canary.poison(worktree.path / ".git", worktree.path)
    write(worktree.path, {"a.txt": "edited\n"})
    for command in (
        ["status"],
        ["add", "-A"],
        ["commit", "-m", "x"],
        ["diff", "HEAD~1"],
        ["checkout", "-q", "-b", "y"],
    ):
        run_git(worktree.path, *command, check=False)
    assert {"filter-clean", "hook-pre-commit", "worktree-fsmonitor"} <= canary.fired()


@pytest.mark.parametrize("kind", ["nested", "submodule", "linked worktree", "in a tracked folder"])
def test_nothing_of_a_repository_inside_runs(worktree: Worktree, canary: Canary, tmp_path: Path, kind: str) -> None:
    inside = worktree.path / "inside"
    if kind == "submodule":
        make_repo(tmp_path / "sub", {"s": "1"})
        allow = ("-c", "protocol.file.allow=always", "submodule")
        git(worktree.path, *allow, "add", "-q", str(tmp_path / "sub"), "inside")
        git_dir = worktree.path / ".git" / "modules" / "inside"
    elif kind == "linked worktree":
        git(worktree.path, "worktree", "add", "-q", "--detach", "inside")
        git_dir = worktree.path / ".git"
    else:
        make_repo(inside, {"s": "1"})
        git_dir = inside / ".git"
    if kind == "in a tracked folder":
        (inside / ".git").rename(worktree.path / "aside")
        worktree.commit_all("tracked")
        (worktree.path / "aside").rename(inside / ".git")
    canary.poison(git_dir, inside)
    write(inside, {"s": "2", "t": "3"})
    worktree.is_clean()
    save(worktree, task_id="t", outcome="cancelled")
    head = worktree.commit_all("all")
    write(inside, {"s": "4"})
    worktree.put_back(head)
    assert canary.fired() == set()


def test_the_canary_sings_in_a_submodule(worktree: Worktree, canary: Canary, tmp_path: Path) -> None:
    make_repo(tmp_path / "sub", {"s": "1"})
    git(worktree.path, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "sub"), "inside")
    canary.poison(worktree.path / ".git" / "modules" / "inside", worktree.path / "inside")
    write(worktree.path, {"inside/s": "2"})
    git(worktree.path, "add", "-A")
    assert canary.fired()


def test_a_slot_s_former_gate_leaves_nothing_that_runs(repository: Repository, canary: Canary, tmp_path: Path) -> None:
    sha = repository.tip(MAIN)
    with slot.take(tmp_path / "slots", 1) as taken:
        tree = slot.checkout(taken, repository, sha)
        canary.poison(tree / ".git", tree)
        slot.checkout(taken, repository, sha)
        git(tree, "status")
        write(tree, {"a.txt": "x"})
        git(tree, "add", "-A")
    assert canary.fired() == set()


def test_links_lead_nowhere(worktree: Worktree, repository: Repository, tmp_path: Path) -> None:
    """A folder of the work becomes a link to one of the user's: nothing is written or deleted through it."""
    write(worktree.path, {"folder/x": "x", "folder/y": "y"})
    head = worktree.commit_all("folder")
    precious = tmp_path / "precious"
    write(precious, {"x": "the user's", "z": "the user's"})
    for _ in range(2):
        shutil.rmtree(worktree.path / "folder", ignore_errors=True)
        (worktree.path / "folder").unlink(missing_ok=True)
        (worktree.path / "folder").symlink_to(precious)
        save(worktree, task_id="t", outcome="cancelled")
        worktree.put_back(head)
        assert (worktree.path / "folder" / "x").read_text() == "x"
    shutil.rmtree(worktree.path / "folder")
    (worktree.path / "folder").symlink_to(precious)
    linked = worktree.commit_all("a link")
    assert repository.changed_files(head, linked) == ["folder", "folder/x", "folder/y"]
    with slot.take(tmp_path / "slots", 1) as taken:
        tree = slot.checkout(taken, repository, head)
        shutil.rmtree(tree / "folder")
        (tree / "folder").symlink_to(precious)
        (tree / "more").symlink_to(precious)
        slot.checkout(taken, repository, head)
    worktree.remove()
    assert {file.name: file.read_text() for file in precious.iterdir()} == {"x": "the user's", "z": "the user's"}


def as_somebody(function: Callable[[Path], None]) -> None:
    """Runs it as a user whom permissions stop; root is not stopped by any."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o777)

        def run() -> None:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            os.environ["HOME"] = made
            function(Path(made).resolve())

        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        process.join()
        assert process.exitcode == 0


def _permissions(place: Path) -> None:
    repository = open_repository(str(make_repo(place / "repo", {"a/x": "1\n", "b": "1\n"})))
    worktree = create(repository, place / "w" / "t.1", "t.1", "mergewright/t", repository.tip(MAIN), MAIN)
    write(worktree.path, {"shut/in/x": "x"})
    (worktree.path / "shut" / "in").chmod(0)
    (worktree.path / "shut").chmod(0o555)
    saved = save(worktree, task_id="t", outcome="cancelled")
    assert saved is not None
    assert repository.changed_files(MAIN, saved.commit) == ["shut/in/x"]
    write(worktree.path, {"file": "y"})
    (worktree.path / "file").chmod(0)
    saved = save(worktree, task_id="t", outcome="cancelled")
    assert saved is not None
    assert repository.changed_files(MAIN, saved.commit) == ["file", "shut/in/x"]
    (worktree.path / "file").chmod(0)
    (worktree.path / "shut" / "in").chmod(0)
    head = worktree.commit_all("all")
    assert repository.changed_files(MAIN, head) == ["file", "shut/in/x"]
    write(worktree.path, {"locked/x": "x"})
    (worktree.path / "a").chmod(0o555)
    (worktree.path / "locked").chmod(0o555)
    worktree.put_back(worktree.base())
    assert sorted(path.name for path in worktree.path.iterdir()) == [".git", "a", "b"]
    with slot.take(place / "slots", 1) as taken:
        tree = slot.checkout(taken, repository, head)
        write(tree, {"locked/deep/x": "x"})
        for shut in ("locked/deep", "locked", "shut/in"):
            (tree / shut).chmod(0)
        slot.checkout(taken, repository, worktree.base())
        assert sorted(path.name for path in tree.iterdir()) == [".git", "a", "b"]
        (tree / "a").chmod(0o500)
        before = (tree / "b").stat().st_ino
        slot.checkout(taken, repository, worktree.base())
        write(tree, {"a/y": "a gate may write there"})
        assert (tree / "b").stat().st_ino == before  # nor was it all made anew for that
    write(worktree.path, {"locked/deep/x": "x"})
    (worktree.path / "locked" / "deep").chmod(0)
    (worktree.path / "locked").chmod(0)
    worktree.path.chmod(0o555)
    worktree.remove()
    assert list((place / "w").iterdir()) == []


def test_permissions_that_were_taken_away() -> None:
    as_somebody(_permissions)
