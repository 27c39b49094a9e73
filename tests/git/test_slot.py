from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from activities.git.clone import WorktreeBroken
from activities.git.repository import Repository, open_repository
from activities.git.run import GitError
from activities.git.slot import NoSlotFree, Slot, checkout, keep_out, take
from tests.git.repos import commit, git, make_repo, write

FILES = {"README.md": "hello\n", "run.sh": "#!/bin/sh\n", "src/app.py": "print(1)\n", ".gitignore": "*.log\nbuild/\n"}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return open_repository(str(make_repo(tmp_path / "repo", FILES)))


@pytest.fixture
def slot(tmp_path: Path) -> Iterator[Slot]:
    with take(tmp_path / "slots", 1) as taken:
        yield taken


def lies_in(tree: Path) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for folder, folders, files in os.walk(tree):
        if Path(folder) == tree:
            folders.remove(".git")
        if not folders and not files:
            found[str(Path(folder).relative_to(tree)) + "/"] = b""
        for name in (*files, *(name for name in folders if Path(folder, name).is_symlink())):
            file = Path(folder, name)
            found[str(file.relative_to(tree))] = str(file.readlink()) if file.is_symlink() else file.read_bytes()
    return found


def test_a_tree_is_exactly_its_commit(repository: Repository, slot: Slot) -> None:
    first = repository.tip("refs/heads/main")
    git(repository.path, "tag", "-a", "v1", "-m", "one")
    (repository.path / "link").symlink_to("src")
    second = commit(repository.path, {"src/new.py": "x\n", "README.md": "changed\n", "src/app.py": None})
    for sha in (first, second, second, first):
        tree = checkout(slot, repository, sha, ("refs/heads/main", first))
        listed = git(repository.path, "ls-tree", "-r", "--name-only", sha).split("\n")
        assert sorted(lies_in(tree)) == sorted(listed)
        assert git(tree, "rev-parse", "HEAD", "origin/main") == f"{sha}\n{first}"
        assert git(tree, "status", "--porcelain") == ""
        assert git(tree, "describe").startswith("v1")
    assert lies_in(tree)["src/app.py"] == b"print(1)\n"


def test_what_a_gate_left_is_gone(repository: Repository, slot: Slot, tmp_path: Path) -> None:
    sha = repository.tip("refs/heads/main")
    tree = checkout(slot, repository, sha)
    clean = lies_in(tree)
    times = (tree / "src" / "app.py").stat()
    write(tree, {"src/app.py": "print(2)\n", "README.md": None, "build/cache": "x", "out.log": "x", "new/deep/x": "x"})
    os.utime(tree / "src" / "app.py", ns=(times.st_atime_ns, times.st_mtime_ns))  # same size, same time
    write(tree, {"README.md/was": "a file", "src/.git/config": "[core]\n\tfsmonitor = /bin/false\n", "src/x.log": "x"})
    git(tree, "init", "-q", "build/nested")
    write(tree, {"build/nested/x": "x", ".gitignore": "*\n"})
    (tree / "empty").mkdir()
    (tree / "out").symlink_to(tmp_path / "repo")
    (tree / "run.sh").chmod(0o777)
    git(tree, "config", "core.worktree", str(tmp_path / "repo"))
    (tree / ".git" / "index").write_bytes(b"garbage")
    (tree / ".git" / "hooks").mkdir()
    (slot.folder / "index.lock").write_text("")
    assert lies_in(checkout(slot, repository, sha)) == clean
    assert not os.access(tree / "run.sh", os.X_OK)
    assert git(tree, "status", "--porcelain") == ""
    assert not (tree / ".git" / "hooks").exists()
    assert git(repository.path, "status", "--porcelain") == ""
    assert sorted(lies_in(repository.path)) == sorted(clean)


def test_a_change_that_hides_behind_size_and_time_is_undone(repository: Repository, slot: Slot) -> None:
    git(repository.path, "config", "core.trustCtime", "false")
    sha = repository.tip("refs/heads/main")
    file = checkout(slot, repository, sha) / "src" / "app.py"
    time.sleep(1.1)  # git compares whole seconds, and reads every file that is as young as the index
    checkout(slot, repository, sha)
    before = file.stat()
    file.write_text("print(2)\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    checkout(slot, repository, sha)
    assert file.read_text() == "print(1)\n"


@pytest.mark.parametrize("kind", ["file", "link", "nothing"])
def test_a_git_directory_that_a_gate_replaced(repository: Repository, slot: Slot, kind: str) -> None:
    sha = repository.tip("refs/heads/main")
    tree = checkout(slot, repository, sha)
    (tree / ".git").rename(tree / "away")
    if kind == "file":
        (tree / ".git").write_text(f"gitdir: {repository.common_dir}\n")
    if kind == "link":
        (tree / ".git").symlink_to(repository.common_dir)
    before = sorted(str(file) for file in repository.common_dir.rglob("*"))
    checkout(slot, repository, sha)
    assert sorted(lies_in(tree)) == sorted(FILES)
    assert sorted(str(file) for file in repository.common_dir.rglob("*")) == before


def test_a_gate_may_commit_without_touching_the_repository(repository: Repository, slot: Slot) -> None:
    tree = checkout(slot, repository, repository.tip("refs/heads/main"))
    refs = git(repository.path, "for-each-ref")
    made = commit(tree, {"generated": "x"})
    assert git(repository.path, "for-each-ref") == refs
    with pytest.raises(AssertionError):
        git(repository.path, "cat-file", "-e", made)


def test_a_folder_in_place_of_a_submodule_is_emptied(repository: Repository, slot: Slot, tmp_path: Path) -> None:
    make_repo(tmp_path / "sub", {"s": "1"})
    git(repository.path, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "sub"), "sub")
    sha = commit(repository.path)
    tree = checkout(slot, repository, sha)
    write(tree, {"sub/evil": "x"})
    checkout(slot, repository, sha)
    assert list((tree / "sub").iterdir()) == []


@pytest.mark.parametrize("index", [b"", b"torn", None])
def test_a_torn_index_means_from_nothing(repository: Repository, slot: Slot, index: bytes | None) -> None:
    sha = repository.tip("refs/heads/main")
    tree = checkout(slot, repository, sha)
    clean = lies_in(tree)
    write(tree, {"src/app.py": "x", "y": "y"})
    if index is None:
        slot.index.unlink()
    else:
        slot.index.write_bytes(index)
    assert lies_in(checkout(slot, repository, sha)) == clean


def test_an_unknown_commit_leaves_the_slot_warm(repository: Repository, slot: Slot) -> None:
    tree = checkout(slot, repository, repository.tip("refs/heads/main"))
    with pytest.raises(GitError):
        checkout(slot, repository, "1" * 40)
    assert lies_in(tree) != {}


# --- taking --------------------------------------------------------------------------------------


def test_slots_are_taken_one_by_one(tmp_path: Path) -> None:
    with take(tmp_path, 2) as first:
        with take(tmp_path, 2) as second:
            assert [first.number, second.number] == [0, 1]
            with pytest.raises(NoSlotFree, match="all 2 slots"), take(tmp_path, 2):
                pass
        with take(tmp_path, 2) as again:
            assert again.number == 1
    with pytest.raises(RuntimeError), take(tmp_path, 1):
        raise RuntimeError
    with take(tmp_path, 1) as free:
        assert free.number == 0


def test_a_process_that_inherited_the_lock_keeps_the_slot(tmp_path: Path) -> None:
    script = "import sys; sys.stdin.read()"
    with take(tmp_path, 1) as slot:
        process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, pass_fds=[slot.lock])
    with pytest.raises(NoSlotFree), take(tmp_path, 1):
        pass
    process.communicate()
    with take(tmp_path, 1) as slot:
        assert slot.number == 0


def test_what_set_up_has_left_leads_nowhere(repository: Repository, slot: Slot, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    head = repository.tip("refs/heads/main")
    own = checkout(slot, repository, head) / ".git"
    write(slot.tree, {"made": "x", "app": "x"})
    shutil.rmtree(own / "info")
    (own / "info").symlink_to(outside)
    keep_out(slot, repository, head, ["app"], whole=True)
    assert git(slot.tree, "status", "--porcelain") == ""
    own.rename(outside / "git")
    own.symlink_to(outside / "git")
    (outside / "git" / "info" / "exclude").write_text("mine")
    with pytest.raises(WorktreeBroken):
        keep_out(slot, repository, head, ["app"], whole=True)
    assert (outside / "git" / "info" / "exclude").read_text() == "mine"
    assert [path.name for path in outside.iterdir()] == ["git"]
