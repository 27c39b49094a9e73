"""Submodules that are filled from what the user has, and files that are only pointers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from activities.git import lfs, slot
from activities.git.repository import Repository
from activities.git.salvage import save
from activities.git.submodules import SubmoduleMissing, fill, links
from tests.git.repos import commit, git, make_repo, write
from tests.git.worktrees import content, new, status

ALLOWED = ("-c", "protocol.file.allow=always")


def test_a_submodule_is_filled_with_its_own_from_what_the_user_has(
    repository: Repository, submodule: Path, tmp_path: Path
) -> None:
    inner = make_repo(tmp_path / "inner", {"deep": "2"})
    git(submodule, *ALLOWED, "submodule", "add", "-q", str(inner), "libs/inner")
    commit(submodule)
    git(repository.path, *ALLOWED, "submodule", "add", "-q", "--name", "a.b", str(submodule), "sub")
    git(repository.path, *ALLOWED, "submodule", "update", "-q", "--init", "--recursive")
    sha = commit(repository.path)
    submodule.rename(tmp_path / "gone")  # whatever is needed is in the user's repository
    worktree = new(repository, tmp_path / "worktrees")
    for _ in range(2):
        fill(repository, worktree.path, sha)
        assert (worktree.path / "sub/s").read_text() == "1"
        assert (worktree.path / "sub/libs/inner/deep").read_text() == "2"
    assert list(links(repository, sha)) == ["sub"]
    assert status(worktree) == ""
    assert worktree.commit_all("nothing") == sha
    worktree.put_back(sha)
    assert (worktree.path / "sub/libs/inner/deep").exists()
    assert save(worktree, task_id="t", outcome="cancelled") is None
    write(worktree.path, {"sub/s": "changed"})
    saved = save(worktree, task_id="t", outcome="cancelled")
    assert saved is not None
    assert content(worktree, saved.commit, "sub/s") == b"changed"
    assert (repository.path / "sub/s").read_text() == "1"


def test_a_slot_has_the_submodule_of_its_commit(repository: Repository, submodule: Path, tmp_path: Path) -> None:
    git(repository.path, *ALLOWED, "submodule", "add", "-q", str(submodule), "sub")
    first = commit(repository.path)
    write(repository.path, {"sub/s": "2"})
    git(repository.path / "sub", "-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-a", "-m", "two")
    second = commit(repository.path)
    with slot.take(tmp_path / "slots", 1) as taken:
        for sha, text in ((first, "1"), (second, "2"), (first, "1")):
            top = slot.checkout(taken, repository, sha)
            fill(repository, top, sha)
            assert (top / "sub/s").read_text() == text
            assert git(top, "status", "--porcelain") == ""
            write(top, {"sub/s": "left by a gate", "sub/new": "x"})
        git(repository.path, "rm", "-q", "sub")
        top = slot.checkout(taken, repository, commit(repository.path))
        assert not (top / "sub").exists()


def test_what_the_user_does_not_have_is_named(repository: Repository, submodule: Path, tmp_path: Path) -> None:
    git(repository.path, *ALLOWED, "submodule", "add", "-q", str(submodule), "sub")
    first = commit(repository.path)
    git(repository.path, "update-index", "--cacheinfo", f"160000,{'1' * 40},sub")
    git(repository.path, "commit", "-q", "-m", "a commit that nobody has")
    with pytest.raises(SubmoduleMissing, match="sub has no commit 1111"):
        fill(repository, new(repository, tmp_path / "w").path, git(repository.path, "rev-parse", "HEAD"))
    (repository.common_dir / "modules" / "sub").rename(tmp_path / "gone")
    with pytest.raises(SubmoduleMissing, match="git submodule update --init"):
        fill(repository, new(repository, tmp_path / "w", "t.2").path, first)


def test_files_that_are_only_pointers_are_told_apart(repository: Repository, tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 12\n"
    files = {".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "a.bin": pointer, "b.bin": "whole"}
    git(repository.path, "config", "filter.lfs.clean", "cat")
    sha = commit(repository.path, {**files, "doc.txt": pointer})
    assert lfs.pointers(repository, new(repository, tmp_path / "w").path, sha) == ["a.bin"]


def test_a_link_on_the_way_to_a_submodule_leads_nowhere(
    repository: Repository, submodule: Path, tmp_path: Path
) -> None:
    git(repository.path, *ALLOWED, "submodule", "add", "-q", str(submodule), "libs/sub")
    sha = commit(repository.path)
    write(tmp_path, {"outside/sub/mine": "x"})
    with slot.take(tmp_path / "slots", 1) as taken:
        top = slot.checkout(taken, repository, sha)
        for again in (fill, lambda *_: slot.checkout(taken, repository, sha)):
            shutil.rmtree(top / "libs")
            (top / "libs").symlink_to(tmp_path / "outside")
            again(repository, top, sha)
            assert (top / "libs/sub").is_dir()
            assert not (top / "libs").is_symlink()
    assert (tmp_path / "outside/sub/mine").read_text() == "x"
