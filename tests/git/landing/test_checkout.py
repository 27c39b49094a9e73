from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.git.landings import (
    candidate,
    every_kind_of_change,
    everything,
    inside,
    land_it,
    link,
    state,
    unnoticed,
    work,
)
from tests.git.repos import commit, git, run_git, write


def replaced_by_link(repo: Path) -> None:
    (repo / "sub").rename(repo / "elsewhere")
    (repo / "sub").symlink_to("elsewhere")


def link_for_folder(repo: Path) -> None:
    (repo / "elsewhere").mkdir()
    (repo / "dir").symlink_to("elsewhere")
    write(repo, {".git/info/exclude": "dir\nelsewhere\n"})


def assume_unchanged(repo: Path) -> None:
    git(repo, "update-index", "--assume-unchanged", "mod")
    write(repo, {"mod": "mine\n"})


def skip_worktree(repo: Path) -> None:
    git(repo, "update-index", "--skip-worktree", "mod")
    write(repo, {"mod": "mine\n"})


def staged_and_back(repo: Path) -> None:
    content = (repo / "mod").read_bytes()
    write(repo, {"mod": "mine\n"})
    git(repo, "add", "mod")
    write(repo, {"mod": content})


def staged(repo: Path) -> None:
    write(repo, {"mod": "mine\n"})
    git(repo, "add", "mod")


IN_THE_WAY: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "changed": (lambda repo: write(repo, {"mod": "mine\n"}), ["mod"]),
    "changed, same size and time": (lambda repo: unnoticed(repo / "mod", b"min\n" * 9), ["mod"]),
    "made executable": (lambda repo: (repo / "mod").chmod(0o755), ["mod"]),
    "staged": (staged, ["mod"]),
    "staged, file as it was": (staged_and_back, ["mod"]),
    "deleted": (lambda repo: (repo / "mod").unlink(), ["mod"]),
    "deletion staged": (lambda repo: git(repo, "rm", "-q", "mod"), ["mod"]),
    "taken out of the index": (lambda repo: git(repo, "rm", "-q", "--cached", "mod"), ["mod"]),
    "changed, deleted by the task": (lambda repo: write(repo, {"gone": "mine\n"}), ["gone"]),
    "two of them": (lambda repo: write(repo, {"gone": "mine\n", "mod": "mine\n"}), ["gone", "mod"]),
    "a link now": (lambda repo: link(repo / "mod", "other"), ["mod"]),
    "a folder now": (lambda repo: _folder(repo / "mod"), ["mod"]),
    "untracked": (lambda repo: write(repo, {"dir/new": "mine\n"}), ["dir/new"]),
    "untracked, the same content": (lambda repo: write(repo, {"dir/new": "new\n"}), ["dir/new"]),
    "ignored": (lambda repo: write(repo, {"dir/x.log": "mine\n"}), ["dir/x.log"]),
    "ignored folder": (lambda repo: write(repo, {"build/a/b": "mine\n"}), ["build/a/b"]),
    "broken link": (lambda repo: link(repo / "build", "nowhere"), ["build"]),
    "file in the place of a folder": (lambda repo: write(repo, {"dir": "mine\n"}), ["dir"]),
    "ignored link in the place of a folder": (link_for_folder, ["dir"]),
    "link to where the folder is now": (replaced_by_link, ["sub"]),
    "announced": (lambda repo: (write(repo, {"dir/new": "mine\n"}), git(repo, "add", "-N", "dir/new")), ["dir/new"]),
    "assumed unchanged": (assume_unchanged, ["mod"]),
    "skipped": (skip_worktree, ["mod"]),
}


def _folder(file: Path) -> None:
    file.unlink()
    write(file, {"inside": "mine\n"})


@pytest.mark.parametrize("case", IN_THE_WAY)
def test_files_in_the_way_are_named_and_nothing_moves(repo: Path, folder: Path, case: str) -> None:
    given = candidate(repo, every_kind_of_change(repo))
    do, named = IN_THE_WAY[case]
    do(repo)
    before = everything(repo)
    landed = land_it(repo, folder, given)
    assert (landed.kind, landed.in_the_way, landed.checkout) == ("blocked", named, str(repo))
    assert landed.sha == git(repo, "rev-parse", "main")
    assert everything(repo) == before
    assert not (folder / "landing.json").exists()


def conflicted_stash(repo: Path) -> None:
    write(repo, {"other": "mine\n"})
    git(repo, "stash", "-q")
    commit(repo, {"other": "theirs\n"})
    assert run_git(repo, "stash", "pop", check=False).returncode == 1


def in_conflict(command: str) -> Callable[[Path], object]:
    def do(repo: Path) -> None:
        base = git(repo, "rev-parse", "HEAD")
        git(repo, "checkout", "-q", "-b", "side", base)
        commit(repo, {"other": "side\n"})
        git(repo, "checkout", "-q", "main")
        commit(repo, {"other": "main\n"})
        assert run_git(repo, *command.split(), check=False).returncode != 0

    return do


def split_index(repo: Path) -> None:
    git(repo, "update-index", "--split-index")


STATES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "merge": (in_conflict("merge side"), ["a merge in progress"]),
    "cherry-pick": (in_conflict("cherry-pick side"), ["a cherry-pick in progress"]),
    "revert": (in_conflict("revert --no-edit HEAD~0^{/first}"), ["a revert in progress"]),
    "rebase": (in_conflict("rebase side"), ["a rebase in progress"]),
    "bisect": (lambda repo: git(repo, "bisect", "start"), ["a bisect in progress"]),
    "stash": (conflicted_stash, ["other"]),
    "lock": (lambda repo: write(repo, {".git/index.lock": ""}), ["index.lock (another git is at work, or was killed)"]),
    "split index": (split_index, ["index (it is split: git update-index --no-split-index)"]),
    "no index": (lambda repo: (repo / ".git/index").unlink(), ["index (there is none)"]),
}


@pytest.mark.parametrize("case", STATES)
def test_what_else_goes_on_is_named(repo: Path, folder: Path, case: str) -> None:
    given = candidate(repo, every_kind_of_change(repo))
    do, named = STATES[case]
    do(repo)
    before = state(repo), git(repo, "for-each-ref", "refs/heads"), inside(repo)
    landed = land_it(repo, folder, given)
    assert (landed.kind, landed.in_the_way) == ("blocked", named)
    assert before == (state(repo), git(repo, "for-each-ref", "refs/heads"), inside(repo))


@pytest.mark.parametrize("where", [".gitattributes", "sub/.gitattributes", ".git/info/attributes", "macro"])
def test_a_file_that_needs_a_filter(repo: Path, folder: Path, where: str) -> None:
    text = {"macro": "[attr]big filter=lfs\nfile big\n", "sub/.gitattributes": "file filter=lfs\n"}
    name = ".gitattributes" if where == "macro" else where
    write(repo, {name: text.get(where, "sub/* filter=lfs\nmod -filter\n")})
    if ".git/" not in where:
        commit(repo)
    before = everything(repo)
    landed = land_it(repo, folder, candidate(repo, every_kind_of_change(repo)))
    assert (landed.kind, landed.in_the_way) == ("blocked", ["sub/file (filter=lfs)"])
    assert everything(repo)[:3] == before[:3]


def test_a_filter_of_files_that_do_not_change(repo: Path, folder: Path) -> None:
    commit(repo, {".gitattributes": "*.bin filter=lfs\n", "big.bin": "pointer\n"})
    assert land_it(repo, folder, candidate(repo, every_kind_of_change(repo))).kind == "landed"


def test_odd_names_are_named(repo: Path, folder: Path) -> None:
    names = {"line\nbreak", "quo'te", "*", 'dq"', os.fsdecode(b"latin\xe9"), ":(top)", "-x"}
    given = candidate(repo, work(repo, dict.fromkeys(names, "new\n")))
    write(repo, dict.fromkeys(names, "mine\n"))
    landed = land_it(repo, folder, given)
    assert set(landed.in_the_way) == names - {os.fsdecode(b"latin\xe9")} | {"latin\\xe9"}
    assert landed.model_dump_json()
    for name in names:
        (repo / name).unlink()
    assert land_it(repo, folder, given).kind == "landed"
    assert git(repo, "status", "--porcelain") == ""


def test_so_many_files_that_they_are_not_given_to_git_by_name(repo: Path, folder: Path) -> None:
    names = [f"many/{number}" for number in range(300)]
    commit(repo, dict.fromkeys(names, "old\n"))
    given = candidate(repo, work(repo, dict.fromkeys(names, "new\n")))
    write(repo, {"many/7": "mine\n"})
    assert land_it(repo, folder, given).in_the_way == ["many/7"]
    git(repo, "checkout", "-q", "many/7")
    assert land_it(repo, folder, given).kind == "landed"
    assert git(repo, "status", "--porcelain") == ""
