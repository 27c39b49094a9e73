"""Every operation, killed before each of its steps in turn; each attempt finds what the last one left.

Of the steps between the first and the last ones every sixth is tried; MERGEWRIGHT_EVERY_STEP=1 tries all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from activities.git import slot
from activities.git.merging import start_merge
from activities.git.repository import Repository
from activities.git.salvage import save
from activities.git.worktree import Worktree, rebuild
from tests.git.repos import commit, git, write
from tests.git.worktrees import FILES, MAIN, new, status

_EFFECTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "subprocess.Popen"}


EVERY = 1 if os.environ.get("MERGEWRIGHT_EVERY_STEP") else 6
FIRST = 4
"""Steps at the beginning that are never left out."""


def killed_at_each_step(folder: Path, act: Callable[[], object]) -> None:
    """`folder` has all that `act` changes: where it comes to its end, it is put back for the last steps left out."""
    before = folder.with_name(f"{folder.name}-before")
    step, stride, every = 0, 1, EVERY
    while True:
        shutil.rmtree(before, ignore_errors=True)
        shutil.copytree(folder, before, symlinks=True)
        if killed(act, step):
            stride = every if step >= FIRST else 1
            step += stride
        elif stride == 1:
            break
        else:
            shutil.rmtree(folder)
            before.rename(folder)
            step, stride, every = step - stride + 1, 1, 1
    assert step > 3  # else the hook saw nothing, and nothing was tried


def killed(act: Callable[[], object], last: int | str) -> bool:
    """Whether a process of its own died before its step `last`, a number or a word in it; False: it came to its end."""
    if (child := os.fork()) == 0:
        count = 0

        def step(event: str, args: tuple[object, ...]) -> None:
            nonlocal count
            if event not in _EFFECTS or "mergewright-git-" in str(args[0]):
                return
            if event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
                return
            if count == last or (isinstance(last, str) and last in str(args[1])):
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        with contextlib.suppress(Exception):
            sys.addaudithook(step)
            act()
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, f"failed after {last} steps"
    return os.WIFSIGNALED(status)


def leftovers(worktree: Worktree) -> list[str]:
    known = {worktree.path.name, *(f".{worktree.path.name}.{what}" for what in ("index", "lock"))}
    return sorted({path.name for path in worktree.path.parent.iterdir()} - known)


def refs(repository: Repository) -> set[str]:
    return {ref.split("/")[2] for ref in git(repository.path, "for-each-ref", "--format=%(refname)").split()} - {"main"}


def test_create(repository: Repository, tmp_path: Path) -> None:
    killed_at_each_step(tmp_path, lambda: new(repository, tmp_path / "w"))
    worktree = new(repository, tmp_path / "w")
    assert (status(worktree), leftovers(worktree), refs(repository)) == ("", [], {"base"})
    assert git(worktree.path, "log", "--format=%s") == "first"


def test_commit_all(worktree: Worktree, repository: Repository, tmp_path: Path) -> None:
    write(worktree.path, {"src/app.py": "print(2)\n", "src/lib.py": None, "new": "x", "forced.log": "x"})
    git(worktree.path, "add", "-f", "forced.log")
    killed_at_each_step(tmp_path, lambda: worktree.commit_all("work"))
    head = worktree.head()
    assert repository.changed_files(worktree.base(), head) == ["forced.log", "new", "src/app.py", "src/lib.py"]
    assert git(repository.path, "rev-list", "--count", f"{worktree.base()}..{head}") == "1"
    assert (status(worktree), worktree.published(), refs(repository)) == ("", head, {"base", "task"})


def merge(worktree: Worktree) -> tuple[str, str]:
    theirs = commit(worktree.repository.path, {"src/app.py": "theirs\n", "README.md": None, "added": "x"})
    write(worktree.path, {"src/app.py": "ours\n", "mine": "x"})
    return worktree.commit_all("ours"), theirs


def test_a_merge_with_conflicts_and_its_conclusion(worktree: Worktree, repository: Repository, tmp_path: Path) -> None:
    ours, theirs = merge(worktree)
    killed_at_each_step(tmp_path, lambda: start_merge(worktree, theirs, "Merge"))
    assert status(worktree).split("\n") == ["D  README.md", "A  added", "UU src/app.py"]
    assert git(worktree.path, "rev-parse", "HEAD", "MERGE_HEAD") == f"{ours}\n{theirs}"
    assert "<<<<<<< HEAD" in (worktree.path / "src" / "app.py").read_text()
    write(worktree.path, {"src/app.py": "both\n"})
    killed_at_each_step(tmp_path, lambda: worktree.commit_all("merged"))
    head = worktree.head()
    assert git(repository.path, "rev-parse", f"{head}^@") == f"{ours}\n{theirs}"
    assert (status(worktree), refs(repository)) == ("", {"base", "task", "merge"})


def test_a_clean_merge(worktree: Worktree, repository: Repository, tmp_path: Path) -> None:
    theirs = commit(repository.path, {"README.md": None, "added": "x"})
    write(worktree.path, {"src/app.py": "ours\n"})
    ours = worktree.commit_all("ours")
    killed_at_each_step(tmp_path, lambda: start_merge(worktree, theirs, "Merge"))
    assert git(repository.path, "rev-parse", f"{worktree.head()}^@") == f"{ours}\n{theirs}"
    assert repository.changed_files(ours, worktree.published()) == ["README.md", "added"]
    assert (status(worktree), refs(repository)) == ("", {"base", "task"})


def test_put_back(worktree: Worktree, repository: Repository, tmp_path: Path) -> None:
    head = worktree.commit_all("nothing")
    write(worktree.path, {"src/app.py": "edited\n", "src/lib.py": None, "new/x": "x"})
    commit(worktree.path)
    write(worktree.path, {"more": "x"})
    killed_at_each_step(tmp_path, lambda: worktree.put_back(head))
    assert (status(worktree), worktree.head(), refs(repository)) == ("", head, {"base", "task"})
    assert {name: (worktree.path / name).read_text() for name in FILES} == FILES
    assert sorted(path.name for path in worktree.path.iterdir()) == [".git", ".gitignore", "README.md", "src"]


def test_half_of_a_put_back_is_not_taken_for_work(worktree: Worktree) -> None:
    head = worktree.commit_all("nothing")
    write(worktree.path, {"src/app.py": "edited\n", "new": "x"})
    assert killed(lambda: worktree.put_back(head), "'clean'")
    assert status(worktree) == "?? new"
    assert worktree.commit_all("work?") == head
    assert status(worktree) == ""


def test_rebuild(worktree: Worktree, repository: Repository, tmp_path: Path) -> None:
    write(worktree.path, {"a": "a"})
    head = worktree.commit_all("a")
    write(worktree.path, {"b": "b"})
    shutil.rmtree(worktree.path / ".git" / "objects")
    killed_at_each_step(tmp_path, lambda: rebuild(repository, worktree.path, worktree.key, worktree.branch, MAIN))
    assert (status(worktree), worktree.head(), leftovers(worktree)) == ("?? b", head, [])


def test_salvage(worktree: Worktree, repository: Repository, tmp_path: Path) -> None:
    commit(worktree.path, {"a": "a"})
    write(worktree.path, {"b": "staged"})
    git(worktree.path, "add", "b")
    write(worktree.path, {"b": "changed", "src/lib.py": None})
    before = status(worktree)
    killed_at_each_step(tmp_path, lambda: save(worktree, task_id="t", outcome="cancelled"))
    assert git(repository.path, "for-each-ref", "--format=%(refname)", "refs/mergewright/salvage").endswith("/t/1")
    assert status(worktree) == before


def test_remove(worktree: Worktree, repository: Repository, tmp_path: Path) -> None:
    write(worktree.path, {"a": "a"})
    worktree.commit_all("a")
    shutil.rmtree(worktree.path / ".git" / "objects")  # a hundred files, one by one, show nothing new
    killed_at_each_step(tmp_path, worktree.remove)
    assert (list(worktree.path.parent.iterdir()), refs(repository)) == ([], set())


def test_a_slot(repository: Repository, tmp_path: Path) -> None:
    first = repository.tip(MAIN)
    second = commit(repository.path, {"src/app.py": None, "new": "x"})

    def checkout(sha: str) -> None:
        with slot.take(tmp_path / "slots", 1) as taken:
            slot.checkout(taken, repository, sha)

    for sha in (first, second):
        killed_at_each_step(tmp_path, lambda sha=sha: checkout(sha))  # type: ignore[misc]
        tree = tmp_path / "slots" / "0" / "tree"
        assert git(tree, "status", "--porcelain", "--ignored") == ""
        assert git(tree, "rev-parse", "HEAD") == sha
