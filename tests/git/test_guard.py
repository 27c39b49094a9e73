"""What is seen, told and undone of a change in the user's git directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from activities.git.guard import Difference, Guarded, compare, look, put_back
from activities.git.repository import Repository, open_repository
from tests.git.repos import git, make_repo

HOOK = "#!/bin/sh\nid\n"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = open_repository(str(make_repo(tmp_path / "repo", files={"a.txt": "a\n", "b.txt": "b\n"})))
    git(made.path, "config", "user.name", "User")
    (made.common_dir / "hooks").mkdir(exist_ok=True)
    (made.common_dir / "hooks" / "pre-push").write_text("#!/bin/sh\n")
    (made.common_dir / "hooks" / "pre-push").chmod(0o755)
    (made.common_dir / "info").mkdir(exist_ok=True)
    (tmp_path / "own").mkdir()
    return made


def happened(repository: Repository, what: Callable[[Path], object]) -> tuple[Difference, Guarded, Guarded]:
    own = repository.path.parent / "own"
    before = Guarded.model_validate_json(look(repository, own).model_dump_json())
    what(repository.common_dir)
    after = look(repository, own)
    return compare(repository, before, after), before, after


def kept(repository: Repository) -> Path:
    return repository.path.parent / "kept"


def put(name: str, text: str = HOOK, mode: int = 0o755) -> Callable[[Path], object]:
    def write(git_dir: Path) -> None:
        (git_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (git_dir / name).write_text(text)
        (git_dir / name).chmod(mode)

    return write


def setting(*args: str) -> Callable[[Path], object]:
    return lambda git_dir: git(git_dir.parent, "config", *args)


def linked(git_dir: Path) -> None:
    hooks = git_dir / "hooks"
    for hook in hooks.iterdir():
        hook.unlink()
    hooks.rmdir()
    hooks.symlink_to("/tmp")


UNDONE = {
    "hooks/pre-commit was added": put("hooks/pre-commit"),
    "hooks/pre-push was changed": put("hooks/pre-push"),
    "hooks/pre-push was removed": lambda git_dir: (git_dir / "hooks" / "pre-push").unlink(),
    "hooks was added; hooks/pre-push was removed": linked,
    "info/attributes was added": put("info/attributes", "* filter=x\n", 0o644),
    "config was changed (core.hookspath = /tmp/x)": setting("core.hooksPath", "/tmp/x"),
    "config was changed (alias.st = !id)": setting("alias.st", "!id"),
    "config was changed (filter.x.clean = id)": setting("filter.x.clean", "id"),
    "config was changed (include.path = /tmp/x)": setting("include.path", "/tmp/x"),
    "config was removed (no core.pager = less)": lambda git_dir: (git_dir / "config").unlink(),
}


@pytest.mark.parametrize("told", UNDONE)
def test_what_only_an_attacker_does_is_told_and_undone(repository: Repository, told: str) -> None:
    git(repository.path, "config", "core.pager", "less")
    first = look(repository, repository.path.parent / "own")
    found, before, after = happened(repository, UNDONE[told])
    assert ("; ".join(found.escaped), found.notes) == (told, [])
    assert put_back(repository, before, after, kept(repository))
    assert look(repository, repository.path.parent / "own") == first
    assert put_back(repository, before, before, kept(repository)) == []


def test_what_was_there_is_kept(repository: Repository) -> None:
    _, before, after = happened(repository, put("hooks/pre-commit"))
    assert put_back(repository, before, after, kept(repository)) == ["hooks/pre-commit"]
    assert (kept(repository) / "hooks" / "pre-commit").read_text() == HOOK


def test_what_cannot_be_undone_without_a_loss_is_only_told(repository: Repository) -> None:
    def all_of_it(git_dir: Path) -> None:
        git(git_dir.parent, "config", "core.fsmonitor", "/tmp/x")
        git(git_dir.parent, "config", "branch.main.remote", "origin")
        put("objects/info/alternates", "/tmp/objects\n", 0o644)(git_dir)
        os.mkfifo(git_dir / "hooks" / "post-checkout")

    found, before, after = happened(repository, all_of_it)
    assert found.escaped == [
        "config was changed (core.fsmonitor = /tmp/x)",
        "hooks/post-checkout was added",
        "objects/info/alternates was added",
    ]
    assert put_back(repository, before, after, kept(repository)) == []
    assert git(repository.path, "config", "core.fsmonitor") == "/tmp/x"


def test_a_submodules_git_directory_is_looked_at_too(repository: Repository) -> None:
    put("modules/lib/x/HEAD", "ref: refs/heads/main\n")(repository.common_dir)
    found, _, _ = happened(repository, put("modules/lib/x/hooks/post-merge"))
    assert found.escaped == ["modules/lib/x/hooks/post-merge was added"]


def test_what_users_do_is_noted_and_no_more(repository: Repository) -> None:
    def work(git_dir: Path) -> None:
        top = git_dir.parent
        git(top, "config", "branch.main.remote", "origin")
        git(top, "config", "user.email", "me@example.org")
        git(top, "config", "lfs.https://example.org/x.access", "basic")
        git(top, "config", "submodule.lib.update", "rebase")
        put("modules/lib/HEAD", "ref: refs/heads/main\n")(git_dir)
        put("modules/lib/config", "[core]\nworktree = ../../../lib\n")(git_dir)
        git(top, "checkout", "-q", "-b", "other")
        git(top, "update-ref", "refs/remotes/origin/main", "HEAD")
        (top / "b.txt").write_text("mine\n")

    found, before, _ = happened(repository, work)
    assert found.escaped == []
    assert found.notes == [
        f"refs/heads/other went from nothing to {before.refs['refs/heads/main'][:12]}",
        "HEAD went from ref: refs/heads/main to ref: refs/heads/other",
        "changed in your checkout: b.txt",
    ]


def test_a_landing_is_nobodys_doing(repository: Repository) -> None:
    def land(_: Path) -> None:
        with repository.git() as hardened:
            tip = repository.tip("refs/heads/main")
            commit = hardened("commit-tree", f"{tip}^{{tree}}", "-p", tip, "-m", "landed")
            hardened.update_refs(f"update refs/heads/main {commit}")

    assert happened(repository, land)[0] == Difference()


def test_what_an_agent_plants_in_its_own_clone_is_noted(repository: Repository) -> None:
    own = repository.path.parent / "own"
    found, _, _ = happened(repository, lambda _: put("config", "[core]\nfsmonitor = id\n")(own))
    assert (found.escaped, found.notes) == (
        [], ["the worktree's own git: config was added (core.fsmonitor = id)"]
    )  # fmt: skip
