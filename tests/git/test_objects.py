"""One `cat-file` that stays says what the commands of git say that are started for each question."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities.git.objects import Unreadable
from activities.git.repository import Repository, open_repository
from activities.policy import twins
from tests.git.landings import FILES
from tests.git.repos import commit, git, make_repo, run_git

NAMES = ["a", "b", "b.c", "a-", "A", "new\nline", " space", "ü", "tab\t", '"', os.fsdecode(b"\xff")]
MODES = ["100644", "100755", "120000", "160000"]
trees = st.recursive(
    st.tuples(st.sampled_from(MODES), st.sampled_from(["one", "two"])),
    lambda below: st.dictionaries(st.sampled_from(NAMES), below, min_size=1, max_size=4),
    max_leaves=8,
).filter(lambda tree: isinstance(tree, dict))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return open_repository(str(make_repo(tmp_path_factory.mktemp("objects") / "repo", FILES)))


def made(repo: Path, tree: dict[str, object]) -> str:
    entries = []
    for name, entry in tree.items():
        if isinstance(entry, dict):
            entries.append(f"040000 tree {made(repo, entry)}\t{name}")
            continue
        mode, text = entry  # type: ignore[misc]
        kind = "commit" if mode == "160000" else "blob"
        sha = git(repo, "hash-object", "-w", "--stdin", stdin=str(text).encode())  # of a submodule, any will do
        if mode == "160000":
            sha = sha[::-1]
        entries.append(f"{mode} {kind} {sha}\t{name}")
    return git(repo, "mktree", "-z", "--missing", stdin=b"".join(os.fsencode(entry) + b"\0" for entry in entries))


def told(repo: Path, old: str, new: str) -> list[tuple[str, object, object]]:
    """What diff-tree says, in the order of paths."""
    fields = iter(run_git(repo, "diff-tree", "-r", "-z", "--raw", "--no-renames", old, new).stdout.split(b"\0")[:-1])
    found = []
    for facts in fields:
        was, now, old_sha, new_sha, _ = facts[1:].decode().split(" ")
        sides = [(mode, sha) if int(mode) else None for mode, sha in ((was, old_sha), (now, new_sha))]
        found.append((next(fields), *sides))
    return [(os.fsdecode(path), *sides) for path, *sides in sorted(found)]  # type: ignore[misc]


@settings(max_examples=25, deadline=None)
@given(trees, trees)
def test_changes_are_those_of_diff_tree(repository: Repository, old: dict[str, object], new: dict[str, object]) -> None:
    before, after = made(repository.path, old), made(repository.path, new)
    with repository.git() as hardened:
        changes = hardened.objects.changes(before, after)
    assert [(change.path, change.old, change.new) for change in changes] == told(repository.path, before, after)


def test_what_is_not_there(repository: Repository) -> None:
    sha = git(repository.path, "rev-parse", "main")
    with repository.git() as hardened:
        objects = hardened.objects
        for name in ("refs/heads/none", "0" * 40, "", "two\nlines\n", f"{sha}^{{tree}}", "-z", f"{sha} commit 1\nx"):
            assert objects.commit(name) is None
        assert (objects.has("0" * 40), objects.has(f"{sha} is"), objects.has(sha)) == (False, False, True)
        assert objects.read("0" * 40) is None
        assert objects.read(f"{sha}:no\nsuch\nfile") is None
        with pytest.raises(Unreadable):
            objects.changes(sha, "0" * 40)
        assert objects.commit("refs/heads/main") == sha  # the answers still belong to the questions


def test_a_large_object_comes_in_pieces(repository: Repository) -> None:
    sha = git(repository.path, "hash-object", "-w", "--stdin", stdin=b"0123456789")
    empty = git(repository.path, "hash-object", "-w", "--stdin", stdin=b"")
    with repository.git() as hardened:
        objects = hardened.objects
        assert list(objects.pieces(sha, 4)) == [b"0123", b"4567", b"89"]
        assert list(objects.pieces(sha, 5)) == [b"01234", b"56789"]
        assert list(objects.pieces(empty)) == []
        assert objects.read(sha) == b"0123456789"
        with pytest.raises(Unreadable, match="is missing"):
            list(objects.pieces("0" * 40))
        assert objects.folder(objects.tree("main"))["exec"] == (
            "100644",
            git(repository.path, "rev-parse", "main:exec"),
        )


def test_refs_are_read_as_they_are_now(repository: Repository) -> None:
    repo = repository.path
    with repository.git() as hardened:
        for _ in range(2):
            sha = commit(repo, {"new": f"{hardened.objects.commit('refs/heads/main')}\n"})
            assert hardened.objects.commit("refs/heads/main") == sha
            git(repo, "pack-refs", "--all")
            git(repo, "repack", "-q", "-a", "-d")
            assert hardened.objects.commit("refs/heads/main") == sha
            assert hardened.objects.read(f"{sha}:new")


def test_its_end_is_told(repository: Repository) -> None:
    with repository.git() as hardened:
        assert hardened.objects.commit("refs/heads/main")
        process = hardened.objects._process
        assert process
        process.kill()
        process.wait()
        with pytest.raises(Unreadable):
            hardened.objects.commit("refs/heads/main")
    assert process.stdout
    assert process.stdout.closed


def test_a_tree_may_be_deeper_than_python_goes(repository: Repository) -> None:
    path = f"{'d/' * 1500}file"
    blob = git(repository.path, "hash-object", "-w", "--stdin", stdin=b"deep")
    with repository.git() as git_:
        git_.run("update-index", "--index-info", stdin=f"100644 {blob}\t{path}\n".encode())
        deep = git_("write-tree")
        [change] = git_.objects.changes(git_("mktree", stdin=b""), deep)
    assert change.path == path
    assert len(twins([path], [path.upper()])) == 1501
