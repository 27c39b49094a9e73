from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from activities.git.repository import Repository
from activities.git.worktree import Worktree
from tests.git.repos import commit, git, run_git, write
from tests.git.worktrees import content, new, status, tree


def test_what_was_left_is_committed(worktree: Worktree, repository: Repository) -> None:
    first = commit(worktree.path, {"a": "a"}, "by the agent")
    write(worktree.path, {"src/app.py": "print(2)\n", "src/lib.py": None, "b/c.txt": "c", "x.log": "ignored"})
    git(worktree.path, "add", "b/c.txt")
    write(worktree.path, {"b/c.txt": "changed after it was staged"})
    head = worktree.commit_all("what was left\n\nmore", ("Ann", "ann@example.org"))
    assert git(repository.path, "rev-parse", f"{head}^@", "refs/mergewright/task/t.1") == f"{first}\n{head}"
    assert git(repository.path, "show", "-s", "--format=%an %ae|%cn|%B", head) == (
        "Ann ann@example.org|mergewright|what was left\n\nmore"
    )
    assert tree(worktree, head) == [".gitignore", "README.md", "a", "b/c.txt", "src/app.py"]
    assert content(worktree, head, "b/c.txt") == b"changed after it was staged"
    assert status(worktree) == ""
    assert git(worktree.path, "log", "--format=%s", "-n1", worktree.branch) == "what was left"
    assert worktree.is_clean()
    assert worktree.commit_all("again") == head
    assert git(repository.path, "fsck", "--no-dangling") == ""


def test_nothing_to_commit_publishes_what_the_agent_committed(worktree: Worktree, repository: Repository) -> None:
    base = worktree.base()
    assert worktree.commit_all("nothing") == base == worktree.published()
    sha = commit(worktree.path, {"a": "a"})
    assert worktree.commit_all("nothing") == sha == worktree.published() == repository.tip("refs/mergewright/task/t.1")


def test_what_the_agent_decided_in_its_index_counts(worktree: Worktree) -> None:
    write(worktree.path, {"forced.log": "forced", "kept.log": "kept", "later.txt": "x"})
    git(worktree.path, "add", "-f", "forced.log")
    git(worktree.path, "add", "--intent-to-add", "later.txt")
    git(worktree.path, "rm", "-q", "--cached", "src/lib.py")
    write(worktree.path, {".gitignore": "*.log\nlib.py\n", "src/app.py": "hidden\n", "README.md": "mine\n"})
    git(worktree.path, "update-index", "--assume-unchanged", "src/app.py")
    git(worktree.path, "update-index", "--skip-worktree", "README.md")
    head = worktree.commit_all("as decided")
    assert tree(worktree, head) == [".gitignore", "README.md", "forced.log", "later.txt", "src/app.py"]
    assert content(worktree, head, "src/app.py") == b"print(1)\n"
    assert (worktree.path / "src" / "lib.py").exists()
    assert status(worktree) == ""
    assert git(worktree.path, "ls-files", "-v", "README.md", "src/app.py") == "S README.md\nh src/app.py"


def test_a_sparse_checkout_of_the_agent_s_deletes_nothing(worktree: Worktree, repository: Repository) -> None:
    git(worktree.path, "sparse-checkout", "set", "docs")
    assert not (worktree.path / "src").exists()
    write(worktree.path, {"docs/a": "a"})
    head = worktree.commit_all("docs")
    assert repository.changed_files(worktree.base(), head) == ["docs/a"]
    assert status(worktree) == ""


def test_a_change_in_the_same_instant_is_seen(worktree: Worktree) -> None:
    for number in range(5):
        write(worktree.path, {"src/lib.py": f"x = {number}\n"})
        git(worktree.path, "add", "-A")
        write(worktree.path, {"src/lib.py": f"y = {number}\n"})
        assert content(worktree, worktree.commit_all("quick"), "src/lib.py") == f"y = {number}\n".encode()


def test_the_time_of_an_index_goes_with_it(worktree: Worktree, tmp_path: Path) -> None:
    """Git takes a file for unchanged when it is older than the index that describes it: a younger copy would lie."""
    clone, past = worktree.clone, 1_500_000_000_123_456_789
    os.utime(clone.index, ns=(past, past))
    assert clone.copy_index(tmp_path / "index")
    assert (tmp_path / "index").stat().st_mtime_ns == past
    clone.index.unlink()
    clone.put_index(tmp_path / "index")
    assert clone.index.stat().st_mtime_ns == past


def test_files_change_their_kind(worktree: Worktree) -> None:
    write(worktree.path, {"d/x": "x", "d/y": "y", "f": "f", "l": "l", "run": "#!/bin/sh\n"})
    commit(worktree.path)
    shutil.rmtree(worktree.path / "d")
    (worktree.path / "f").unlink()
    (worktree.path / "l").unlink()
    (worktree.path / "d").symlink_to("src")  # d/x is now beyond a link
    (worktree.path / "l").symlink_to("/nowhere/at/all")
    write(worktree.path, {"f/x": "x", "f/y/z": "z"})
    (worktree.path / "run").chmod(0o755)
    os.mkfifo(worktree.path / "pipe")
    head = worktree.commit_all("kinds")
    listed = git(worktree.repository.path, "ls-tree", "-r", "--format=%(objectmode) %(path)", head)
    assert set(listed.split("\n")) >= {"120000 d", "120000 l", "100644 f/x", "100644 f/y/z", "100755 run"}
    assert {"d/x", "d/y", "pipe"} & set(tree(worktree, head)) == set()
    assert content(worktree, head, "l") == b"/nowhere/at/all"
    assert status(worktree) == ""


def test_what_was_staged_is_beyond_a_link_now(worktree: Worktree) -> None:
    write(worktree.path, {"new/lib.py": "x = 1\n"})
    git(worktree.path, "add", "new/lib.py")
    shutil.rmtree(worktree.path / "new")
    (worktree.path / "new").symlink_to("src")
    head = worktree.commit_all("a link")
    assert worktree.repository.changed_files(worktree.base(), head) == ["new"]
    assert status(worktree) == ""


def test_names_of_any_bytes(worktree: Worktree) -> None:
    names = [b"latin-\xe9", "naïve ☃".encode(), b'quo"te', b"line\nbreak", b" lead", b"-dash", b"back\\slash", b"*?[x]"]
    for name in names:
        (worktree.path / os.fsdecode(name)).write_bytes(name)
    head = worktree.commit_all("names")
    for name in names:
        assert content(worktree, head, os.fsdecode(name)) == name
    assert status(worktree) == ""
    (worktree.path / os.fsdecode(names[0])).unlink()
    assert os.fsdecode(names[0]) not in tree(worktree, worktree.commit_all("one less"))


def test_a_name_that_git_refuses_does_not_block_the_rest(worktree: Worktree) -> None:
    write(worktree.path, {"git~1": "x", "a": "a"})
    assert "a" in tree(worktree, worktree.commit_all("what can be"))


def test_a_file_that_is_not_in_the_encoding_of_its_attributes(worktree: Worktree) -> None:
    write(worktree.path, {".gitattributes": "*.u working-tree-encoding=UTF-16\n", "a.u": "no utf-16", "b": "b"})
    head = worktree.commit_all("as it is")
    assert content(worktree, head, "a.u") == b"no utf-16"
    assert content(worktree, head, "b") == b"b"


def test_what_the_user_ignores_stays_out(worktree: Worktree, own_home: Path) -> None:
    write(own_home, {".config/git/ignore": "*.swp\n"})
    write(worktree.repository.common_dir, {"info/exclude": "notes/\n"})
    write(worktree.path, {"a.swp": "x", "notes/x": "x", "b": "b"})
    head = worktree.commit_all("b")
    assert worktree.repository.changed_files(worktree.base(), head) == ["b"]
    worktree.put_back(head)
    assert (worktree.path / "a.swp").exists() and (worktree.path / "notes" / "x").exists()


def test_locks_of_a_killed_git_do_not_block(worktree: Worktree) -> None:
    git_dir = worktree.path / ".git"
    for lock in ("index.lock", "HEAD.lock", "config.lock", "packed-refs.lock", "refs/heads/mergewright/t.1.lock"):
        (git_dir / lock).write_text("")
    write(worktree.path, {"a": "a"})
    worktree.commit_all("a")
    assert list(git_dir.rglob("*.lock")) == []
    commit(worktree.path, {"b": "b"})


@pytest.mark.parametrize("index", [b"", b"DIRC garbage", None, "pipe"])
def test_a_torn_index_does_not_block(worktree: Worktree, index: bytes | str | None) -> None:
    file = worktree.path / ".git" / "index"
    file.unlink()
    if isinstance(index, bytes):
        file.write_bytes(index)
    elif index == "pipe":
        os.mkfifo(file)
    write(worktree.path, {"a": "a", "src/lib.py": None})
    head = worktree.commit_all("a")
    assert worktree.repository.changed_files(worktree.base(), head) == ["a", "src/lib.py"]
    assert status(worktree) == ""


def test_an_index_that_is_a_link_is_not_followed(worktree: Worktree, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (worktree.path / ".git" / "index").unlink()
    (worktree.path / ".git" / "index").symlink_to(tmp_path / "precious")
    write(worktree.path, {"a": "a"})
    worktree.commit_all("a")
    assert (tmp_path / "precious").read_text() == "precious"
    assert status(worktree) == ""


def test_a_split_index(worktree: Worktree) -> None:
    git(worktree.path, "update-index", "--split-index")
    write(worktree.path, {"a": "a"})
    assert worktree.repository.changed_files(worktree.base(), worktree.commit_all("a")) == ["a"]
    assert status(worktree) == ""


def test_a_merge_in_progress_is_concluded(worktree: Worktree, repository: Repository) -> None:
    theirs = commit(repository.path, {"src/app.py": "theirs\n"})
    ours = commit(worktree.path, {"src/app.py": "ours\n"})
    worktree.refresh()
    assert run_git(worktree.path, "merge", "origin/main", check=False).returncode == 1
    write(worktree.path, {"src/app.py": "both\n"})
    head = worktree.commit_all("resolved")
    assert git(repository.path, "rev-parse", f"{head}^@") == f"{ours}\n{theirs}"
    assert status(worktree) == ""
    assert not (worktree.path / ".git" / "MERGE_HEAD").exists()
    assert worktree.commit_all("again") == head


def test_a_merge_that_was_committed_is_not_committed_again(worktree: Worktree) -> None:
    """A kill came between the commit and the clearing away of MERGE_HEAD."""
    head = commit(worktree.path, {"a": "a"})
    (worktree.path / ".git" / "MERGE_HEAD").write_text(f"{worktree.base()}\n")
    assert worktree.commit_all("x") == head
    assert not (worktree.path / ".git" / "MERGE_HEAD").exists()


def test_a_merge_head_that_is_nothing_is_ignored(worktree: Worktree) -> None:
    (worktree.path / ".git" / "MERGE_HEAD").write_text(f"{'1' * 40}\nx\n")
    write(worktree.path, {"a": "a"})
    head = worktree.commit_all("a")
    assert git(worktree.repository.path, "rev-parse", f"{head}^@") == worktree.base()


# --- repositories inside of the worktree ---------------------------------------------------------


def test_a_nested_repository_gives_its_files(worktree: Worktree) -> None:
    nested = worktree.path / "vendor" / "tool"
    write(nested, {"main.c": "int main;\n", "deep/er.c": "x\n", "out.log": "ignored", "own.tmp": "ignored"})
    write(nested, {".gitignore": "*.tmp\n"})
    git(nested, "init", "-q")
    write(worktree.path / "empty", {"only.txt": "no commit yet"})
    git(worktree.path / "empty", "init", "-q")
    git(nested, "config", "user.name", "x")
    git(nested, "config", "user.email", "x@example.org")
    commit(nested, {"later.c": "y\n"})
    write(nested, {"uncommitted.c": "z\n"})
    (nested / "link").symlink_to("deep")
    head = worktree.commit_all("with a tool")
    assert worktree.repository.changed_files(worktree.base(), head) == [
        "empty/only.txt",
        "vendor/tool/.gitignore",
        "vendor/tool/deep/er.c",
        "vendor/tool/later.c",
        "vendor/tool/link",
        "vendor/tool/main.c",
        "vendor/tool/uncommitted.c",
    ]
    assert "160000" not in git(worktree.repository.path, "ls-tree", "-r", head)
    assert status(worktree) == ""
    assert worktree.is_clean()
    write(nested, {"main.c": "int main2;\n"})
    head2 = worktree.commit_all("changed")
    assert worktree.repository.changed_files(head, head2) == ["vendor/tool/main.c"]


def test_a_file_becomes_a_nested_repository(worktree: Worktree) -> None:
    write(worktree.path, {"README.md": None})
    write(worktree.path, {"README.md/a": "a"})
    git(worktree.path / "README.md", "init", "-q")
    git(worktree.path / "README.md", "config", "user.name", "x")
    git(worktree.path / "README.md", "config", "user.email", "x@example.org")
    commit(worktree.path / "README.md")
    head = worktree.commit_all("odd")
    assert worktree.repository.changed_files(worktree.base(), head) == ["README.md", "README.md/a"]


def test_a_linked_worktree_of_the_clone_is_left_out(worktree: Worktree) -> None:
    git(worktree.path, "worktree", "add", "-q", "-b", "side", ".trees/side")
    write(worktree.path, {"a": "a"})
    assert worktree.repository.changed_files(worktree.base(), worktree.commit_all("a")) == ["a"]


def add_submodule(path: Path, submodule: Path) -> None:
    git(path, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(submodule), "sub")


def test_a_submodule_stays_where_it_is_named(repository: Repository, submodule: Path, tmp_path: Path) -> None:
    add_submodule(repository.path, submodule)
    commit(repository.path)
    worktree = new(repository, tmp_path / "worktrees")
    assert list((worktree.path / "sub").iterdir()) == []
    assert status(worktree) == ""
    git(worktree.path, "-c", "protocol.file.allow=always", "submodule", "update", "-q", "--init")
    inside = worktree.path / "sub"
    git(inside, "config", "user.name", "x")
    git(inside, "config", "user.email", "x@example.org")
    moved = commit(inside, {"s": "2"})
    write(inside, {"t": "uncommitted"})
    write(worktree.path, {"a": "a"})
    head = worktree.commit_all("a")
    assert repository.changed_files(worktree.base(), head) == ["a"]
    git(worktree.path, "add", "sub")  # now the agent says so
    head = worktree.commit_all("moved")
    assert git(repository.path, "rev-parse", f"{head}:sub") == moved
    shutil.rmtree(worktree.path / "sub")
    assert worktree.commit_all("an absent folder says nothing") == head


def test_a_new_submodule_that_was_staged(worktree: Worktree, submodule: Path) -> None:
    add_submodule(worktree.path, submodule)
    head = worktree.commit_all("submodule")
    listed = git(worktree.repository.path, "ls-tree", "-r", "--format=%(objectmode) %(path)", head)
    assert "160000 sub" in listed.split("\n")
    assert ".gitmodules" in tree(worktree, head)
    git(worktree.path, "rm", "-q", "-f", "sub")
    assert worktree.repository.changed_files(worktree.base(), worktree.commit_all("gone")) == [".gitmodules"]
