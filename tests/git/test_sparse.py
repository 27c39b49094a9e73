"""A worktree that holds some folders: what is not there is no change, and what is done there is, wherever it lies."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.git import turns
from activities.git.merging import abort_merge, start_merge, unresolved
from activities.git.repository import Repository, open_repository
from activities.git.salvage import save
from activities.git.sparse import Cone
from activities.git.worktree import Worktree, create, open_worktree, rebuild
from tests.git.repos import commit, git, make_repo, run_git, write
from tests.git.test_killed import killed_at_each_step
from tests.git.worktrees import MAIN, content, status, tree

FILES = {
    "top": "t\n",
    ".gitignore": "*.log\n",
    "services/readme": "r\n",
    "services/api/a": "a\n",
    "services/api/deep/b": "b\n",
    "services/web/w": "w\n",
    "libs/l": "l\n",
    "docs/d": "1\n2\n3\n4\n5\n6\n7\n8\n9\n",
    "docs/more/m": "m\n",
}
FOLDERS = ("services/api", "libs")
HERE = {"top", ".gitignore", "services/readme", "services/api/a", "services/api/deep/b", "libs/l"}


def sparse(repository: Repository, place: Path, key: str = "t.1") -> Worktree:
    return create(repository, place / key, key, f"mergewright/{key}", repository.tip(MAIN), MAIN, FOLDERS)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return open_repository(str(make_repo(tmp_path / "repo", FILES)))


@pytest.fixture
def worktree(repository: Repository, tmp_path: Path) -> Worktree:
    return sparse(repository, tmp_path / "worktrees")


def there(worktree: Worktree) -> set[str]:
    found = (path for path in worktree.path.rglob("*") if ".git" not in path.parts and not path.is_dir())
    return {path.relative_to(worktree.path).as_posix() for path in found}


def changed(worktree: Worktree, head: str) -> list[str]:
    return worktree.repository.changed_files(worktree.base(), head)


def test_it_holds_its_folders_and_nothing_else_is_missed(worktree: Worktree) -> None:
    assert there(worktree) == HERE
    assert status(worktree) == ""
    assert git(worktree.path, "sparse-checkout", "list").split() == ["libs", "services/api"]
    assert worktree.commit_all("nothing") == worktree.base()
    assert worktree.is_clean()
    assert save(worktree, task_id="t", outcome="cancelled") is None
    again = open_worktree(worktree.repository, worktree.path, worktree.key, worktree.branch, MAIN)
    assert again.cone == Cone(FOLDERS)
    assert worktree.untracked() == []
    worktree.remove()
    assert list(worktree.path.parent.iterdir()) == []


def test_what_is_done_is_work_wherever_it_lies(worktree: Worktree) -> None:
    top = worktree.path
    write(top, {"libs/l": None, "services/api/new": "n", "docs/new": "n", "docs/more/m": "changed", "other/x": "x"})
    (top / "services/api/deep").rename(top / "docs/deep")
    write(top, {"services/web/w/in": "a folder in place of a file"})
    head = worktree.commit_all("all of it")
    named = {"docs/new", "docs/more/m", "other/x", "services/api/new", "docs/deep/b", "services/web/w/in"}
    gone = {"libs/l", "services/api/deep/b", "services/web/w"}
    assert set(changed(worktree, head)) == named | gone
    assert set(tree(worktree, head)) == (FILES.keys() | named) - gone
    assert status(worktree) == ""
    (top / "docs/new").rename(top / "libs/new")  # across again: it was there once
    (top / "docs/more/m").unlink()
    head = worktree.commit_all("back")
    assert not {"docs/new", "docs/more/m"} & set(tree(worktree, head))
    assert content(worktree, head, "libs/new") == b"n"
    assert "docs/d" in tree(worktree, head)


def test_what_was_never_there_can_be_deleted_too(worktree: Worktree) -> None:
    git(worktree.path, "rm", "-q", "--sparse", "docs/d")
    saved = save(worktree, task_id="t", outcome="cancelled")
    assert saved is not None
    kept = turns.keep(worktree, "1")
    for one in (saved.commit, kept, worktree.commit_all("gone")):
        assert changed(worktree, one) == ["docs/d"]


OWN = {
    "add": ("sparse-checkout", "add", "docs"),
    "disable": ("sparse-checkout", "disable"),
    "less": ("sparse-checkout", "set", "libs"),
    "patterns": ("sparse-checkout", "set", "--no-cone", "/docs/d"),
    "sparse index": ("sparse-checkout", "init", "--cone", "--sparse-index"),
}


@pytest.mark.parametrize("how", OWN)
def test_an_agent_may_have_more_or_less_of_it_and_loses_nothing(worktree: Worktree, how: str) -> None:
    write(worktree.path, {"libs/new": "n", "docs/new": "n"})
    run_git(worktree.path, *OWN[how])
    shown = there(worktree) - {"libs/new", "docs/new"}
    assert changed(worktree, worktree.commit_all("some")) == ["docs/new", "libs/new"]
    assert status(worktree) == ""
    if "docs/d" in shown:
        (worktree.path / "docs/d").unlink()
        commit_of = worktree.commit_all("a deletion")
        assert "docs/d" not in tree(worktree, commit_of)
        write(worktree.path, {"docs/d": "again"})
    head = worktree.commit_all("more")
    write(worktree.path, {"docs/more/m": "scratch", "top": "scratch"})
    worktree.put_back(head)
    assert worktree.is_clean()
    assert status(worktree) == ""
    assert shown - {"docs/d"} <= there(worktree)  # we go by what it wants to have
    assert worktree.commit_all("nothing") == head


def _no_index(worktree: Worktree) -> None:
    (worktree.path / ".git/index").unlink()


def _torn_index(worktree: Worktree) -> None:
    (worktree.path / ".git/index").write_bytes(b"DIRC torn")


def _unmarked_index(worktree: Worktree) -> None:
    git(worktree.path, "read-tree", "HEAD")


def _no_git(worktree: Worktree) -> None:
    shutil.rmtree(worktree.path / ".git")
    rebuild(worktree.repository, worktree.path, worktree.key, worktree.branch, worktree.target)


def _link_for_patterns(worktree: Worktree) -> None:
    file = worktree.path / ".git/info/sparse-checkout"
    file.unlink()
    file.symlink_to("/dev/zero")


def _pipe_for_config(worktree: Worktree) -> None:
    file = worktree.path / ".git/config"
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    "damage", [_no_index, _torn_index, _unmarked_index, _no_git, _link_for_patterns, _pipe_for_config]
)
def test_whatever_becomes_of_its_git_directory_nothing_is_taken_for_deleted(
    worktree: Worktree, damage: Callable[[Worktree], None]
) -> None:
    write(worktree.path, {"libs/l": None, "docs/new": "n", "top": "changed"})
    damage(worktree)
    saved = save(worktree, task_id="t", outcome="cancelled")
    assert saved is not None
    assert set(tree(worktree, saved.commit)) == (FILES.keys() | {"docs/new"}) - {"libs/l"}
    head = worktree.commit_all("work")
    assert changed(worktree, head) == ["docs/new", "libs/l", "top"]
    worktree.put_back(worktree.base())
    assert there(worktree) == HERE


def test_one_that_is_gone_is_made_as_it_was(worktree: Worktree) -> None:
    shutil.rmtree(worktree.path)
    rebuild(worktree.repository, worktree.path, worktree.key, worktree.branch, worktree.target)
    assert there(worktree) == HERE
    assert status(worktree) == ""


def test_a_turn_is_had_back_with_all_that_is_not_there(worktree: Worktree) -> None:
    write(worktree.path, {"libs/new": "1", "docs/new": "1"})
    kept = turns.keep(worktree, "1")
    assert set(tree(worktree, kept)) == FILES.keys() | {"libs/new", "docs/new"}
    worktree.commit_all("one")
    write(worktree.path, {"libs/new": "2", "docs/new": None})
    worktree.commit_all("two")
    turns.rewind(worktree, 1, "2-before")
    head = worktree.commit_all("goes on")
    assert changed(worktree, head) == ["docs/new", "libs/new"]
    assert content(worktree, head, "libs/new") == b"1"


def test_the_target_is_merged_in_also_where_nothing_of_it_is_there(worktree: Worktree) -> None:
    write(worktree.path, {"libs/l": "ours\n"})
    worktree.commit_all("ours")
    write(
        worktree.repository.path, {"docs/d": "new\n", "docs/added": "new\n", "docs/more/m": None, "services/api/c": "c"}
    )
    theirs = commit(worktree.repository.path)
    assert start_merge(worktree, theirs, "Merge main") == []
    assert there(worktree) == HERE | {"services/api/c"}
    assert status(worktree) == ""
    head = worktree.commit_all("nothing")
    assert worktree.repository.changed_files(theirs, head) == ["libs/l"]


@pytest.mark.parametrize("decided", ["both\n", None])
def test_a_conflict_outside_is_put_before_its_resolver(worktree: Worktree, decided: str | None) -> None:
    write(worktree.path, {"docs/d": "ours\n", "libs/l": "ours\n"})
    worktree.commit_all("ours")
    git(worktree.path, "sparse-checkout", "reapply")
    assert there(worktree) == HERE
    write(worktree.repository.path, {"docs/d": "theirs\n", "libs/l": "theirs\n", "docs/more/m": "theirs\n"})
    theirs = commit(worktree.repository.path)
    for _ in range(2):
        assert start_merge(worktree, theirs, "Merge main") == ["docs/d", "libs/l"]
        assert there(worktree) == HERE | {"docs/d"}
        assert status(worktree).splitlines() == ["UU docs/d", "M  docs/more/m", "UU libs/l"]
        assert unresolved(worktree) == ["docs/d", "libs/l"]
        abort_merge(worktree)
        assert there(worktree) == HERE
    start_merge(worktree, theirs, "Merge main")
    write(worktree.path, {"docs/d": decided, "libs/l": "both\n"})
    kept = turns.keep(worktree, "1")
    head = worktree.commit_all("resolved")
    assert unresolved(worktree) == []
    for one in (kept, head):
        assert worktree.repository.changed_files(theirs, one) == ["docs/d", "libs/l"]
        assert ("docs/d" in tree(worktree, one)) == (decided is not None)
    assert content(worktree, head, "docs/more/m") == b"theirs\n"


def test_a_merge_of_the_agents_own_is_whole_before_it_is_committed(worktree: Worktree) -> None:
    lines = FILES["docs/d"]
    write(worktree.path, {"docs/d": lines.replace("1", "one"), "libs/l": "ours\n"})
    worktree.commit_all("ours")
    git(worktree.path, "sparse-checkout", "reapply")
    write(worktree.repository.path, {"docs/d": lines.replace("9", "nine"), "libs/l": "theirs\n", "docs/added": "new\n"})
    commit(worktree.repository.path)
    worktree.refresh()
    assert run_git(worktree.path, "merge", "origin/main", check=False).returncode == 1
    assert there(worktree) == HERE
    write(worktree.path, {"libs/l": "both\n"})
    saved = save(worktree, task_id="t", outcome="cancelled")
    assert saved is not None
    head = worktree.commit_all("resolved")
    for one in (saved.commit, head):
        assert content(worktree, one, "docs/d").decode() == lines.replace("1", "one").replace("9", "nine")
        assert content(worktree, one, "docs/added") == b"new\n"
    assert status(worktree) == ""
    assert there(worktree) == HERE


def test_folders_with_odd_names_are_what_git_takes_them_for(tmp_path: Path) -> None:
    names = ["a b/c*", "[x]/y", "!z", "#h", "back\\slash", "q?", "ä"]
    files = {f"{name}/in": "1" for name in names} | {"a b/cd/out": "1", "x/y/out": "1", "qq/out": "1", "a b/near": "1"}
    opened = open_repository(str(make_repo(tmp_path / "odd", files)))
    worktree = create(opened, tmp_path / "w/t.1", "t.1", "mergewright/t", opened.tip(MAIN), MAIN, names)
    assert there(worktree) == {name for name in files if not name.endswith("/out")}
    assert worktree.cone is not None
    assert {name for name in files if worktree.cone.holds(name)} == there(worktree)
    assert status(worktree) == ""


@pytest.mark.long
def test_killed_at_any_step_it_is_made_and_merged_all_the_same(repository: Repository, tmp_path: Path) -> None:
    killed_at_each_step(tmp_path, lambda: sparse(repository, tmp_path / "w"))
    worktree = sparse(repository, tmp_path / "w")
    assert (there(worktree), status(worktree)) == (HERE, "")
    write(worktree.path, {"docs/d": "ours\n"})
    ours = worktree.commit_all("ours")
    theirs = commit(repository.path, {"docs/d": "theirs\n", "docs/more/m": "theirs\n"})
    killed_at_each_step(tmp_path, lambda: start_merge(worktree, theirs, "Merge"))
    assert unresolved(worktree) == ["docs/d"]
    write(worktree.path, {"docs/d": "both\n"})
    head = worktree.commit_all("resolved")
    assert git(repository.path, "rev-parse", f"{head}^1", f"{head}^2").split() == [ours, theirs]
    assert repository.changed_files(theirs, head) == ["docs/d"]
    assert status(worktree) == ""


PATHS = st.sampled_from(
    ["top", "services/readme", "services/api/a", "services/web/w", "libs/l", "libs/n", "docs/d", "x/n"]
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PATHS, st.just("")),
        st.tuples(st.just("delete"), PATHS, st.just("")),
        st.tuples(st.just("move"), PATHS, PATHS),
        st.tuples(st.sampled_from(["add", "less", "disable", "reapply", "commit", "stage", "ours", "back", "save"]),
                  st.just(""), st.just("")),
    ),
    max_size=8,
)  # fmt: skip


@given(steps=STEPS)
@settings(
    max_examples=80 if os.environ.get("MERGEWRIGHT_EVERY_STEP") else 4,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_the_work_is_what_an_agent_did(steps: list[tuple[str, str, str]]) -> None:
    """Beside a list of what each file should be; what is not there is as it was."""
    with tempfile.TemporaryDirectory(prefix="mergewright-test-") as folder:
        opened = open_repository(str(make_repo(Path(folder) / "repo", FILES)))
        worktree = sparse(opened, Path(folder) / "w")
        wanted = dict(FILES)
        for number, step in enumerate(steps):
            _do(worktree, wanted, number, *step)
        saved = save(worktree, task_id="t", outcome="cancelled")
        heads = [worktree.commit_all("work"), *([saved.commit] if saved else [])]
        for head in heads:
            assert {path: content(worktree, head, path).decode() for path in tree(worktree, head)} == wanted
        assert status(worktree) == ""


def _unseen(worktree: Worktree, path: str) -> bool:
    """Whether no git has noted that a file outside of the cone was there: then it is as it was before."""
    known = git(worktree.path, "ls-files", "-t", "--debug", path)
    assert worktree.cone is not None
    if worktree.cone.holds(path) or known.startswith("S"):
        return known.startswith("S")
    return "mtime: 0:0" in known and not git(worktree.path, "diff", "--cached", "--name-only", "--", path)


def _do(worktree: Worktree, wanted: dict[str, str], number: int, what: str, path: str, to: str) -> None:
    top, own = worktree.path, {"add": ("add", "docs"), "less": ("set", "libs"), "disable": ("disable",)}
    if what == "write":
        wanted[path] = f"{number}\n"
        write(top, {path: wanted[path]})
    elif what in ("delete", "move") and (top / path).is_file() and path != to:
        text = wanted.pop(path)
        (top / path).unlink()
        if _unseen(worktree, path):
            wanted[path] = git(top, "show", f":{path}") + "\n"
        if what == "move":
            wanted[to] = text
            write(top, {to: text})
    elif what in own:
        run_git(top, "sparse-checkout", *own[what], check=False)
        for gone in (
            FILES.keys() - wanted.keys()
        ):  # deleted, and then left out: git tells the one no more from the other
            if git(top, "ls-files", "-t", gone).startswith("S"):
                wanted[gone] = git(top, "show", f":{gone}") + "\n"
    elif what == "reapply":
        run_git(top, "sparse-checkout", "reapply", check=False)
    elif what in ("commit", "stage"):
        git(top, "add", "--sparse", "-A")
        if what == "commit":
            git(top, "commit", "-q", "--allow-empty", "-m", "x")
    elif what == "ours":
        worktree.commit_all("ours")
    elif what == "back":
        worktree.put_back(worktree.commit_all("back"))
    elif what == "save":
        turns.keep(worktree, str(number))
