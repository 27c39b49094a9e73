from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from activities.git.repository import open_repository
from tests.git.landings import (
    candidate,
    every_kind_of_change,
    everything,
    land_it,
    landed_ops,
    left_in,
    link,
    state,
    work,
)
from tests.git.repos import USER, commit, git, make_repo, write


def lands(repo: Path, folder: Path, head: str, checkout: Path | None = None) -> None:
    """Lands: all that the task did not touch is untouched, and the user sees their own changes and no others."""
    checkout = checkout or repo
    changed = set(git(repo, "diff", "--name-only", "--no-renames", f"main...{head}").split("\n"))
    before, status = state(checkout), git(checkout, "status", "--porcelain", "-uall", "--ignored")
    landed = land_it(repo, folder, candidate(repo, head))
    assert (landed.kind, landed.in_the_way) == ("landed", [])
    assert {name: facts for name, facts in state(checkout).items() if name not in changed} == {
        name: facts for name, facts in before.items() if name not in changed
    }
    assert git(checkout, "status", "--porcelain", "-uall", "--ignored") == status
    assert left_in(repo) == []


def test_unrelated_changes_of_every_kind(repo: Path, folder: Path) -> None:
    head = every_kind_of_change(repo)
    write(repo, {"staged": "staged\n", "other": "staged\n"})
    git(repo, "add", "staged", "other")
    git(repo, "mv", "exec", "renamed")
    write(repo, {"other": "unstaged\n", "more/other": "mine\n", "dir/untracked": "u\n", "x.log": "ignored\n"})
    link(repo / "link", "nowhere")
    lands(repo, folder, head)
    assert git(repo, "rev-parse", "HEAD:mod") == git(repo, "hash-object", "mod")
    assert not (repo / "gone").exists()


def test_a_file_that_was_only_touched(repo: Path, folder: Path) -> None:
    head = every_kind_of_change(repo)
    (repo / "mod").touch()
    (repo / "other").touch()
    lands(repo, folder, head)
    assert (repo / "mod").read_text() == "MOD\n" * 9


def test_the_same_change_staged_already(repo: Path, folder: Path) -> None:
    head = every_kind_of_change(repo)
    write(repo, {"mod": "MOD\n" * 9, "dir/new": "new\n"})
    git(repo, "add", "mod", "dir/new")
    before = state(repo)
    assert land_it(repo, folder, candidate(repo, head)).kind == "landed"
    assert git(repo, "status", "--porcelain") == ""
    assert {name: state(repo)[name] for name in ("mod", "dir/new")} == {
        name: before[name] for name in ("mod", "dir/new")
    }


def test_files_folders_links_and_modes(repo: Path, folder: Path) -> None:
    commit(repo, {"f": "f\n", "d/a": "a\n", "d/b/c": "c\n", "to-link": "x\n", "script": "s\n"})
    side = repo.with_name("repo-side")
    work(repo, {"f": None, "to-link": None})
    shutil.rmtree(side / "d")
    write(side, {"f/inside": "inside\n", "d": "d\n"})
    (side / "to-link").symlink_to("d")
    (side / "script").chmod(0o755)
    head = commit(side)
    lands(repo, folder, head)
    assert (repo / "f/inside").read_text() == "inside\n"
    assert (repo / "d").read_text() == "d\n"
    assert (repo / "to-link").readlink() == Path("d")
    assert (repo / "script").stat().st_mode & stat.S_IXUSR


def test_a_folder_that_goes_but_holds_a_file_of_the_users(repo: Path, folder: Path) -> None:
    commit(repo, {"d/a": "a\n"})
    head = work(repo, {"d/a": None, "other": "new\n"})
    write(repo, {"d/mine.log": "mine\n"})
    lands(repo, folder, head)
    assert state(repo)["d/mine.log"][2] == b"mine\n"


def test_an_empty_folder_is_no_file(repo: Path, folder: Path) -> None:
    head = every_kind_of_change(repo)
    (repo / "build/empty").mkdir(parents=True)
    lands(repo, folder, head)
    assert (repo / "build").read_text() == "build\n"


@pytest.mark.parametrize("mode", ["cone", "patterns", "sparse index"])
def test_a_sparse_checkout_stays_sparse(repo: Path, folder: Path, mode: str) -> None:
    commit(repo, {"in/x": "x\n", "out/x": "x\n"})
    work(repo, {})  # git would make this worktree sparse too
    given = {"cone": ["--cone", "in"], "patterns": ["--no-cone", "/in/", "/mod"]}.get(mode)
    git(repo, "sparse-checkout", "set", *(given or ["--cone", "--sparse-index", "in"]))
    files = {"in/x": "X\n", "in/n": "n\n", "out/x": "X\n", "out/n": "n\n", "out/far/n": "n\n", "mod": "MOD\n"}
    lands(repo, folder, work(repo, files))
    assert {name for name in state(repo) if "/" in name} == {"in/x", "in/n"}
    assert git(repo, "sparse-checkout", "list").split() == (["/in/", "/mod"] if mode == "patterns" else ["in"])
    lands(repo, folder, work(repo, {"in/x": "XX\n", "out/x": "XX\n"}))


def test_a_linked_worktree_is_sparse_in_its_own_way(repo: Path, folder: Path) -> None:
    commit(repo, {"in/x": "x\n", "out/x": "x\n"})
    git(repo, "checkout", "-q", "-b", "elsewhere")
    linked = repo.with_name("linked")
    git(repo, "worktree", "add", "-q", str(linked), "main")
    git(repo, "sparse-checkout", "set", "out")
    git(linked, "sparse-checkout", "set", "in")
    before = state(repo)
    lands(repo, folder, work(repo, {"in/x": "X\n", "out/x": "X\n", "out/n": "n\n"}), checkout=linked)
    assert {name for name in state(linked) if "/" in name} == {"in/x"}
    assert state(repo) == before


LINE_ENDS: dict[str, Callable[[Path, Path], object]] = {
    "the repository's config": lambda repo, _home: git(repo, "config", "core.autocrlf", "true"),
    "the user's config": lambda _repo, home: write(home, {".gitconfig": "[core]\n\tautocrlf\n"}),
    "core.eol": lambda repo, _home: (
        git(repo, "config", "core.eol", "crlf"),
        write(repo, {".git/info/attributes": "* text\n"}),
    ),
    "info/attributes": lambda repo, _home: write(repo, {".git/info/attributes": "* text eol=crlf\n"}),
    "gitattributes": lambda repo, _home: commit(repo, {".gitattributes": "* text eol=crlf\n"}),
}


@pytest.mark.parametrize("case", LINE_ENDS)
def test_line_ends_are_written_as_the_user_has_them(repo: Path, folder: Path, own_home: Path, case: str) -> None:
    head = every_kind_of_change(repo)
    LINE_ENDS[case](repo, own_home)
    global_config = ["-c", "core.autocrlf"] if case == "the user's config" else []
    (repo / ".git/index").unlink()
    git(repo, *global_config, "reset", "-q", "--hard")
    assert (repo / "mod").read_bytes() == b"mod\r\n" * 9
    assert land_it(repo, folder, candidate(repo, head)).kind == "landed"
    assert (repo / "mod").read_bytes() == b"MOD\r\n" * 9
    assert (repo / "dir/new").read_bytes() == b"new\r\n"
    assert git(repo, *global_config, "status", "--porcelain") == ""


def test_attributes_that_come_with_the_landing_count(repo: Path, folder: Path) -> None:
    head = work(repo, {".gitattributes": "mod text eol=crlf\n", "mod": "MOD\n"})
    assert land_it(repo, folder, candidate(repo, head)).kind == "landed"
    assert (repo / "mod").read_bytes() == b"MOD\r\n"
    assert git(repo, "status", "--porcelain") == ""


def test_extensions_of_the_index(repo: Path, folder: Path) -> None:
    git(repo, "config", "core.untrackedCache", "true")
    git(repo, "update-index", "--index-version", "4", "--untracked-cache", "--force-untracked-cache")
    write(repo, {"mine": "mine\n"})
    assert git(repo, "status", "--porcelain") == "?? mine"
    lands(repo, folder, every_kind_of_change(repo))
    write(repo, {"dir/mine-too": "mine\n"})
    assert git(repo, "status", "--porcelain", "-uall") == "?? dir/mine-too\n?? mine"


def test_a_submodule_stays_where_the_user_has_it(repo: Path, folder: Path, tmp_path: Path) -> None:
    library = make_repo(tmp_path / "library")
    allow = ("-c", "protocol.file.allow=always")
    git(repo, *allow, "submodule", "--quiet", "add", str(library), "lib")
    commit(repo)
    old = git(repo / "lib", "rev-parse", "HEAD")
    for _ in range(2):
        new = commit(library)
        side = repo.with_name("repo-side")
        work(repo, {})
        git(side, "update-index", "--cacheinfo", f"160000,{new},lib")
        git(side, "commit", "-q", "-m", "bump")
        assert land_it(repo, folder, candidate(repo, git(side, "rev-parse", "HEAD"), title="bump")).kind == "landed"
        assert git(repo / "lib", "rev-parse", "HEAD") == old
        assert git(repo, "rev-parse", "HEAD:lib", ":lib").split() == [new, new]


def test_linked_worktrees_all_or_none(repo: Path, folder: Path) -> None:
    linked = repo.with_name("linked")
    git(repo, "worktree", "add", "-q", "--force", str(linked), "main")
    given = candidate(repo, every_kind_of_change(repo))
    write(linked, {"mod": "mine\n"})
    before = everything(repo), state(linked)
    landed = land_it(repo, folder, given)
    assert (landed.kind, landed.checkout, landed.in_the_way) == ("blocked", str(linked), ["mod"])
    assert (everything(repo), state(linked)) == before
    git(linked, "checkout", "-q", "mod")
    assert land_it(repo, folder, given).kind == "landed"
    for place in (repo, linked):
        assert git(place, "status", "--porcelain") == ""
        assert (place / "dir/new").read_text() == "new\n"


def test_only_checkouts_of_the_target_are_touched(repo: Path, folder: Path) -> None:
    linked = repo.with_name("linked")
    git(repo, "worktree", "add", "-q", "--detach", str(linked), "main")
    git(repo, "checkout", "-q", "-b", "elsewhere")
    given = candidate(repo, every_kind_of_change(repo))
    write(repo, {"mod": "mine\n"})
    before = state(repo), state(linked), (repo / ".git/index").read_bytes(), (repo / ".git/HEAD").read_bytes()
    assert land_it(repo, folder, given).kind == "landed"
    after = state(repo), state(linked), (repo / ".git/index").read_bytes(), (repo / ".git/HEAD").read_bytes()
    assert after == before


def test_a_bare_repository(tmp_path: Path, folder: Path) -> None:
    bare = make_repo(tmp_path / "bare.git", bare=True)
    git(bare, "config", "user.name", USER[0])
    git(bare, "config", "user.email", USER[1])
    landed = land_it(bare, folder, candidate(bare, work(bare, {"x": "x\n"})))
    assert landed.kind == "landed"
    assert git(bare, "show", "main:x") == "x"


@pytest.mark.long
def test_twenty_landings_beside_the_users_work(repo: Path, folder: Path) -> None:
    """Some are blocked by a file of the user's, and land when it is out of the way; everything else never changes."""
    write(repo, {"staged": "staged\n", "other": "staged\n"})
    git(repo, "add", "staged", "other")
    mine = {"other": "unstaged\n", "more/other": "mine\n", "dir/untracked": "u\n", "x.log": "i\n", "build/out": "o\n"}
    write(repo, mine)
    before, status = state(repo), git(repo, "status", "--porcelain", "-uall", "--ignored")
    users = {name: before[name] for name in (*mine, "staged", "exec")}
    blocked = {3: "more/other", 7: "x.log", 11: "build/out", 15: "staged", 19: "dir/untracked"}
    waiting = []
    for number in range(20):
        files = {f"work/{number}": "new\n", "mod": f"{number}\n", "sub/file": f"{number}\n"}
        if name := blocked.get(number):
            files = {name: f"{number}\n"}
        head = work(repo, {})
        write(repo.with_name("repo-side"), files)
        git(repo.with_name("repo-side"), "add", "-f", *files)
        git(repo.with_name("repo-side"), "commit", "-q", "-m", f"work {number} on {head}")
        given = candidate(repo, git(repo.with_name("repo-side"), "rev-parse", "HEAD"), task=f"task-{number}")
        landed = land_it(repo, folder, given)
        assert (landed.kind, landed.in_the_way) == (("blocked", [name]) if name else ("landed", []))
        waiting += [given] if name else []
        assert {name: state(repo)[name] for name in users} == users
        assert git(repo, "status", "--porcelain", "-uall", "--ignored") == status
    assert (repo / "mod").read_text() == "18\n"
    git(repo, "stash", "-q", "--all")
    for given in waiting:
        assert land_it(repo, folder, given).kind == "landed"
    assert len(set(landed_ops(open_repository(str(repo))))) == 20
