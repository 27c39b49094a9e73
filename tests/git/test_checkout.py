from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from activities.git.checkout import InTheWay, Move, moving
from activities.git.repository import open_repository
from tests.git.landings import MAIN, candidate, land_it, landed_ops, work
from tests.git.repos import USER, commit, git, make_repo, run_git, write

State = dict[str, tuple[int, int, bytes]]


def state(place: Path) -> State:
    """Mode, time and content of everything in a work tree but its `.git`."""
    found = {}
    for folder, folders, files in os.walk(place):
        if ".git" in folders:
            folders.remove(".git")
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in (*files, *links):
            file = Path(folder, name)
            facts = file.lstat()
            content = os.fsencode(file.readlink()) if file.is_symlink() else file.read_bytes()
            found[str(file.relative_to(place))] = (facts.st_mode, facts.st_mtime_ns, content)
    return found


def everything(repo: Path) -> tuple[State, bytes, str, list[str]]:
    index = repo / ".git" / "index"
    return state(repo), index.read_bytes(), git(repo, "for-each-ref", "refs/heads"), inside(repo)


def inside(repo: Path) -> list[str]:
    return sorted(file.name for file in (repo / ".git").iterdir())


def left_in(repo: Path) -> list[str]:
    return [name for name in inside(repo) if "mergewright" in name or ".lock" in name]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    files = {
        **{"mod": "mod\n" * 9, "gone": "gone\n", "sub/file": "file\n", "other": "other\n", "more/other": "other\n"},
        **{".gitignore": "*.log\nbuild\n", "exec": "x\n"},
    }
    return make_repo(tmp_path / "repo", files)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home"


def task(repo: Path) -> str:
    """Changes `mod` and `sub/file`, deletes `gone`, adds `dir/new`, `dir/x.log` and `build`."""
    files = {"mod": "MOD\n" * 9, "gone": None, "sub/file": "FILE\n", "dir/new": "new\n"}
    head = work(repo, files)
    side = repo.with_name("repo-side")
    write(side, {"dir/x.log": "log\n", "build": "build\n"})
    git(side, "add", "-f", "dir/x.log", "build")
    git(side, "commit", "-q", "--amend", "-m", f"work on {head}")
    return git(side, "rev-parse", "HEAD")


# --- what is in the way --------------------------------------------------------------------------------------------


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
    "changed, same size and time": (lambda repo: _unnoticed(repo / "mod", b"min\n" * 9), ["mod"]),
    "made executable": (lambda repo: (repo / "mod").chmod(0o755), ["mod"]),
    "staged": (staged, ["mod"]),
    "staged, file as it was": (staged_and_back, ["mod"]),
    "deleted": (lambda repo: (repo / "mod").unlink(), ["mod"]),
    "deletion staged": (lambda repo: git(repo, "rm", "-q", "mod"), ["mod"]),
    "taken out of the index": (lambda repo: git(repo, "rm", "-q", "--cached", "mod"), ["mod"]),
    "changed, deleted by the task": (lambda repo: write(repo, {"gone": "mine\n"}), ["gone"]),
    "two of them": (lambda repo: write(repo, {"gone": "mine\n", "mod": "mine\n"}), ["gone", "mod"]),
    "a link now": (lambda repo: _link(repo / "mod", "other"), ["mod"]),
    "a folder now": (lambda repo: _folder(repo / "mod"), ["mod"]),
    "untracked": (lambda repo: write(repo, {"dir/new": "mine\n"}), ["dir/new"]),
    "untracked, the same content": (lambda repo: write(repo, {"dir/new": "new\n"}), ["dir/new"]),
    "ignored": (lambda repo: write(repo, {"dir/x.log": "mine\n"}), ["dir/x.log"]),
    "ignored folder": (lambda repo: write(repo, {"build/a/b": "mine\n"}), ["build/a/b"]),
    "broken link": (lambda repo: _link(repo / "build", "nowhere"), ["build"]),
    "file in the place of a folder": (lambda repo: write(repo, {"dir": "mine\n"}), ["dir"]),
    "ignored link in the place of a folder": (link_for_folder, ["dir"]),
    "link to where the folder is now": (replaced_by_link, ["sub"]),
    "announced": (lambda repo: (write(repo, {"dir/new": "mine\n"}), git(repo, "add", "-N", "dir/new")), ["dir/new"]),
    "assumed unchanged": (assume_unchanged, ["mod"]),
    "skipped": (skip_worktree, ["mod"]),
}


def _unnoticed(file: Path, content: bytes) -> None:
    """Changed in the very second in which git wrote its index, long ago: git can tell by the content alone."""
    then = (time.time_ns() - 10**11,) * 2
    assert len(content) == file.stat().st_size
    git(file.parent, "config", "core.trustctime", "false")
    os.utime(file, ns=then)
    git(file.parent, "update-index", "-q", "--refresh")
    os.utime(file.parent / ".git" / "index", ns=then)
    file.write_bytes(content)
    os.utime(file, ns=then)


def _link(file: Path, to: str) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to(to)


def _folder(file: Path) -> None:
    file.unlink()
    write(file, {"inside": "mine\n"})


@pytest.mark.parametrize("case", IN_THE_WAY)
def test_files_in_the_way_are_named_and_nothing_moves(repo: Path, folder: Path, case: str) -> None:
    given = candidate(repo, task(repo))
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
    given = candidate(repo, task(repo))
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
    landed = land_it(repo, folder, candidate(repo, task(repo)))
    assert (landed.kind, landed.in_the_way) == ("blocked", ["sub/file (filter=lfs)"])
    assert everything(repo)[:3] == before[:3]


def test_a_filter_of_files_that_do_not_change(repo: Path, folder: Path) -> None:
    commit(repo, {".gitattributes": "*.bin filter=lfs\n", "big.bin": "pointer\n"})
    assert land_it(repo, folder, candidate(repo, task(repo))).kind == "landed"


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


# --- what is not in the way ----------------------------------------------------------------------------------------


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
    head = task(repo)
    write(repo, {"staged": "staged\n", "other": "staged\n"})
    git(repo, "add", "staged", "other")
    git(repo, "mv", "exec", "renamed")
    write(repo, {"other": "unstaged\n", "more/other": "mine\n", "dir/untracked": "u\n", "x.log": "ignored\n"})
    _link(repo / "link", "nowhere")
    lands(repo, folder, head)
    assert git(repo, "rev-parse", "HEAD:mod") == git(repo, "hash-object", "mod")
    assert not (repo / "gone").exists()


def test_a_file_that_was_only_touched(repo: Path, folder: Path) -> None:
    head = task(repo)
    (repo / "mod").touch()
    (repo / "other").touch()
    lands(repo, folder, head)
    assert (repo / "mod").read_text() == "MOD\n" * 9


@pytest.mark.parametrize("landed", [True, False])
def test_a_change_that_git_tells_by_the_content_alone(repo: Path, folder: Path, landed: bool) -> None:
    """Nothing that we do with the index makes git overlook it."""
    head = task(repo)
    _unnoticed(repo / "other", b"mine!\n")
    if landed:
        assert land_it(repo, folder, candidate(repo, head)).kind == "landed"
    else:
        with move(repo, head, folder) as moved:
            moved.bring()
            moved.undo()
    assert git(repo, "status", "--porcelain") == " M other"


def test_the_same_change_staged_already(repo: Path, folder: Path) -> None:
    head = task(repo)
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
    head = task(repo)
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
    head = task(repo)
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
    lands(repo, folder, task(repo))
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
    given = candidate(repo, task(repo))
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
    given = candidate(repo, task(repo))
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


# --- there and back ------------------------------------------------------------------------------------------------


@contextmanager
def move(repo: Path, head: str, folder: Path) -> Iterator[Move]:
    repository = open_repository(str(repo))
    (checkout,) = repository.checkouts(MAIN)
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        base = git(repo, "rev-parse", "main")
        with moving(
            repository.common_dir, checkout, base, head, journal=folder / "journal", holding=lock.fileno()
        ) as made:
            yield made


def prepared(repo: Path) -> str:
    """The user has changes, and the task changes files in every way."""
    commit(repo, {"f": "f\n", "d/a": "a\n", "to-link": "x\n", "append": "1\n", ".gitattributes": "*.t eol=crlf\n"})
    (repo / "link").symlink_to("other")
    commit(repo, {"text.t": b"text\r\n"})
    side = repo.with_name("repo-side")
    work(repo, {"f": None, "to-link": None, "append": "1\n2\n", "mod": "MOD\n" * 9, "deep/er/new": "n\n"})
    shutil.rmtree(side / "d")
    write(side, {"f/inside": "inside\n", "d": "d\n", "text.t": b"TEXT\r\n", ".gitattributes": "*.t eol=lf\n"})
    (side / "to-link").symlink_to("d")
    _link(side / "link", "mod")
    (side / "exec").chmod(0o755)
    head = commit(side)
    write(repo, {"staged": "staged\n", "other": "mine\n", "mine": "mine\n", "x.log": "ignored\n"})
    git(repo, "add", "staged")
    return head


def contents(repo: Path) -> dict[str, tuple[int, bytes]]:
    return {name: (mode, content) for name, (mode, _time, content) in state(repo).items()}


def test_undo_puts_everything_back(repo: Path, folder: Path) -> None:
    head = prepared(repo)
    before, (_, index, *rest) = contents(repo), everything(repo)
    with move(repo, head, folder) as moved:
        moved.bring()
        assert contents(repo) != before
        assert (repo / ".git/index").read_bytes() != index
        assert run_git(repo, "add", "mine", check=False).returncode == 128  # the user's git has to wait
        moved.undo()
        moved.undo()
    assert contents(repo) == before
    _, index_now, *rest_now = everything(repo)
    assert (index_now, rest_now) == (index, rest)
    assert git(repo, "status", "--porcelain", "-uall") == "M other\nA  staged\n?? mine".replace("M other", " M other")


def test_undo_leaves_what_somebody_changed_since(repo: Path, folder: Path) -> None:
    head = prepared(repo)
    before = contents(repo)
    with move(repo, head, folder) as moved:
        moved.bring()
        mine = {"mod": "an editor was quick\n", "f/inside": "so was this one\n", "d": "and another\n"}
        write(repo, mine)
        moved.undo()
    after = contents(repo)
    assert {name: after.pop(name)[1].decode() for name in mine} == mine
    del before["mod"], before["f"], before["d/a"]  # no file where now is a folder, no folder where now is a file
    assert after == before


def test_undo_when_the_user_removed_our_lock_and_committed(repo: Path, folder: Path) -> None:
    head = prepared(repo)
    with move(repo, head, folder) as moved:
        moved.bring()
        (repo / ".git/index.lock").unlink()
        committed = commit(repo)
        before = contents(repo)
        moved.undo()
    assert contents(repo) == before
    assert git(repo, "rev-parse", "HEAD") == committed
    assert git(repo, "status", "--porcelain") == ""
    assert left_in(repo) == []


def test_undo_waits_for_a_git_that_took_the_lock(repo: Path, folder: Path) -> None:
    head = prepared(repo)
    with move(repo, head, folder) as moved:
        moved.bring()
        (repo / ".git/index.lock").unlink()
        write(repo, {".git/index.lock": "another's"})
        with pytest.raises(InTheWay, match=r"index\.lock"):
            moved.undo()
        assert (repo / ".git/index.lock").read_text() == "another's"
        (repo / ".git/index.lock").unlink()
        moved.undo()
    assert left_in(repo) == []
