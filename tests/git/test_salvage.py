from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.git.repository import Repository, RepositoryProblem, open_repository
from activities.git.salvage import save
from activities.git.salvaged import contents, drop, find, listing, restore, unpack
from activities.git.worktree import Worktree, create
from activities.home import safe_name
from tests.git.repos import commit, git, make_repo, run_git, write
from tests.git.worktrees import MAIN


def saved(worktree: Worktree, **more: str) -> str | None:
    """The ref."""
    found = save(worktree, task_id="fix login/42", outcome="cancelled", **more)
    assert found is None or found.commit == worktree.repository.tip(found.ref)
    return found.ref if found else None


def read(worktree: Worktree, ref: str, path: str) -> bytes:
    return run_git(worktree.repository.path, "cat-file", "blob", f"{ref}:{path}").stdout


def paths(worktree: Worktree, ref: str) -> list[str]:
    return git(worktree.repository.path, "ls-tree", "-r", "-z", "--name-only", ref).rstrip("\0").split("\0")


def parents(worktree: Worktree, ref: str) -> list[str]:
    return git(worktree.repository.path, "rev-parse", f"{ref}^@").split()


# --- what is saved -------------------------------------------------------------------------------


def test_nothing_to_save(worktree: Worktree, repository: Repository) -> None:
    assert saved(worktree) is None
    write(worktree.path, {"x.log": "ignored"})
    assert saved(worktree) is None
    git(worktree.path, "branch", "side")
    assert saved(worktree) is None
    assert git(repository.path, "for-each-ref", "refs/mergewright/salvage") == ""


def test_a_repository_that_the_agent_has_made_and_added_gives_its_files(
    worktree: Worktree, repository: Repository
) -> None:
    """Its commit is in no other repository, and goes with the worktree."""
    write(worktree.path, {"nested/deep/x": "5"})
    inner = worktree.path / "nested"
    git(inner, "init", "-q")
    git(inner, "add", "-A")
    git(inner, "-c", "user.name=A", "-c", "user.email=a@a", "commit", "-q", "-m", "inside")
    git(worktree.path, "add", "-A")
    git(worktree.path, "commit", "-q", "-m", "with a link to it")
    saved = save(worktree, task_id="t", outcome="abandoned")
    assert saved is not None
    assert git(repository.path, "show", f"{saved.commit}:nested/deep/x") == "5"


def test_work_that_has_landed_needs_no_saving(worktree: Worktree, repository: Repository) -> None:
    write(worktree.path, {"a": "a"})
    head = worktree.commit_all("a")
    assert saved(worktree, kept=head) is None  # squashed: on main under another sha
    git(repository.path, "merge", "-q", "--no-ff", "-m", "merged", head)
    assert saved(worktree) is None
    write(worktree.path, {"b": "b"})
    ref = saved(worktree, kept=head)
    assert ref is not None
    assert parents(worktree, ref) == [head]


def test_committed_work_is_saved(worktree: Worktree) -> None:
    head = commit(worktree.path, {"a": "a"})
    ref = saved(worktree)
    assert ref == f"refs/mergewright/salvage/{safe_name('fix login/42')}/1"
    assert parents(worktree, ref) == [head]
    assert read(worktree, ref, "a") == b"a"


def test_everything_in_the_files_is_saved(worktree: Worktree, submodule: Path) -> None:
    commit(worktree.path, {"committed": "1", "kind": "a file", "deleted": "1"})
    odd = os.fsdecode(b"latin-\xe9\n.txt")
    write(
        worktree.path, {"src/app.py": "modified\n", "deleted": None, "staged": "2", "dos.txt": b"a\r\nb\r\n", odd: "3"}
    )
    git(worktree.path, "add", "staged")
    (worktree.path / "link").symlink_to("/nowhere")
    (worktree.path / "run.sh").write_text("#!/bin/sh\n")
    (worktree.path / "run.sh").chmod(0o755)
    (worktree.path / "kind").unlink()
    write(worktree.path, {"kind/of/folder": "4", "nested/deep/x": "5", "x.log": "ignored"})
    git(worktree.path / "nested", "init", "-q")
    write(worktree.path, {"README.md": "hidden from git\n", "src/lib.py": "too\n"})
    git(worktree.path, "update-index", "--assume-unchanged", "README.md")
    git(worktree.path, "update-index", "--skip-worktree", "src/lib.py")
    git(worktree.path, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(submodule), "sub")
    write(worktree.path, {"sub/s": "changed inside of the submodule", "sub/new": "6"})
    ref = saved(worktree)
    assert ref is not None
    there = {name: read(worktree, ref, name) for name in paths(worktree, ref)}
    there.pop(".gitmodules")
    assert there == {
        ".gitignore": b"*.log\n",
        "README.md": b"hidden from git\n",
        "committed": b"1",
        "dos.txt": b"a\r\nb\r\n",
        "kind/of/folder": b"4",
        odd: b"3",
        "link": b"/nowhere",
        "nested/deep/x": b"5",
        "run.sh": b"#!/bin/sh\n",
        "src/app.py": b"modified\n",
        "src/lib.py": b"too\n",
        "staged": b"2",
        "sub/new": b"6",
        "sub/s": b"changed inside of the submodule",
    }
    body = git(worktree.repository.path, "show", "-s", "--format=%b", ref)
    assert re.findall(r"^    (\w.*)$", body, re.MULTILINE)[2:] == ["nested/.git", "sub/.git", "x.log"]
    assert git(worktree.repository.path, "fsck", "--no-dangling") == ""


def test_a_submodule_without_work_is_no_work(repository: Repository, submodule: Path, tmp_path: Path) -> None:
    allow = ("-c", "protocol.file.allow=always", "submodule")
    git(repository.path, *allow, "add", "-q", str(submodule), "sub")
    commit(repository.path)
    worktree = create(repository, tmp_path / "w" / "t.2", "t.2", "mergewright/t", repository.tip(MAIN), MAIN)
    git(worktree.path, *allow, "update", "-q", "--init")
    assert saved(worktree) is None
    write(worktree.path, {"sub/s": "2"})
    ref = saved(worktree)
    assert ref is not None
    assert read(worktree, ref, "sub/s") == b"2"
    git(worktree.path / "sub", "config", "user.name", "x")
    git(worktree.path / "sub", "config", "user.email", "x@example.org")
    commit(worktree.path / "sub")
    assert saved(worktree) == ref  # committed there, but nobody else has that commit


def test_what_was_staged_and_changed_again(worktree: Worktree) -> None:
    write(worktree.path, {"src/app.py": "staged\n", "only/in/the/index": "1"})
    git(worktree.path, "add", "-A")
    write(worktree.path, {"src/app.py": "later\n"})
    shutil.rmtree(worktree.path / "only")
    ref = saved(worktree)
    assert ref is not None
    assert read(worktree, ref, "src/app.py") == b"later\n"
    head, index = parents(worktree, ref)
    assert head == worktree.base()
    assert read(worktree, index, "src/app.py") == b"staged\n"
    assert read(worktree, index, "only/in/the/index") == b"1"
    assert saved(worktree) == ref


def test_other_branches_and_stashes(worktree: Worktree) -> None:
    for number in range(2):
        write(worktree.path, {"src/app.py": f"stash {number}\n", f"untracked {number}": "x"})
        git(worktree.path, "stash", "-q", "--include-untracked")
    git(worktree.path, "checkout", "-q", "-b", "idea")
    idea = commit(worktree.path, {"idea": "1"})
    git(worktree.path, "worktree", "add", "-q", "--detach", ".trees/x", worktree.base())
    detached = commit(worktree.path / ".trees" / "x", {"elsewhere": "1"})
    git(worktree.path, "checkout", "-q", worktree.branch)
    stashes = git(worktree.path, "log", "-g", "--format=%H", "refs/stash").split()
    ref = saved(worktree)
    assert ref is not None
    assert parents(worktree, ref) == [worktree.base(), idea, *stashes, detached]
    assert read(worktree, f"{stashes[1]}^3", "untracked 0") == b"x"


def test_commits_that_were_amended_or_reset_away(worktree: Worktree) -> None:
    first = commit(worktree.path, {"a": "first\n"})
    git(worktree.path, "commit", "-q", "--amend", "-m", "only another message")
    kept = commit(worktree.path, {"b": "1"})
    gone = commit(worktree.path, {"c": "reset away\n"})
    git(worktree.path, "reset", "-q", "--hard", kept)
    ref = saved(worktree)
    assert ref is not None
    assert parents(worktree, ref) == [kept, gone, first]
    assert saved(worktree) == ref


def test_a_merge_in_progress(worktree: Worktree) -> None:
    git(worktree.path, "checkout", "-q", "--detach")
    other = commit(worktree.path, {"src/app.py": "other\n"})
    git(worktree.path, "checkout", "-q", worktree.branch)
    head = commit(worktree.path, {"src/app.py": "mine\n"})
    assert run_git(worktree.path, "merge", other, check=False).returncode == 1
    ref = saved(worktree)
    assert ref is not None
    assert parents(worktree, ref)[0] == head
    assert other in parents(worktree, ref)
    assert b"<<<<<<< HEAD" in read(worktree, ref, "src/app.py")


def test_a_file_that_its_attributes_forbid(worktree: Worktree) -> None:
    write(worktree.path, {".gitattributes": "*.u working-tree-encoding=UTF-16\n", "a.u": "no utf-16", "b": "b"})
    ref = saved(worktree)
    assert ref is not None
    assert (read(worktree, ref, "a.u"), read(worktree, ref, "b")) == (b"no utf-16", b"b")


@pytest.mark.parametrize("broken", ["gone", "link", "objects", "corrupt"])
def test_a_broken_git_directory_still_gives_its_files(worktree: Worktree, repository: Repository, broken: str) -> None:
    write(worktree.path, {"a": "a"})
    published = worktree.commit_all("a")
    commit(worktree.path, {"b": "b"})
    write(worktree.path, {"c": "c"})
    git_dir = worktree.path / ".git"
    if broken in ("gone", "link"):
        shutil.rmtree(git_dir)
    if broken == "link":
        git_dir.symlink_to(repository.common_dir)
    if broken == "objects":
        shutil.rmtree(git_dir / "objects")
    if broken == "corrupt":
        for file in (git_dir / "objects").glob("??/*"):
            file.chmod(0o644)
            file.write_bytes(b"garbage")
    ref = saved(worktree)
    assert ref is not None
    assert parents(worktree, ref) == [published]
    assert {"a", "b", "c"} <= set(paths(worktree, ref))
    assert saved(worktree) == ref
    assert git(repository.path, "fsck", "--no-dangling") == ""


def test_a_worktree_that_is_gone_gives_what_was_published(worktree: Worktree) -> None:
    write(worktree.path, {"a": "a"})
    published = worktree.commit_all("a")
    shutil.rmtree(worktree.path)
    ref = saved(worktree)
    assert ref is not None
    assert parents(worktree, ref) == [published]
    assert read(worktree, ref, "a") == b"a"


# --- refs, listing, restoring --------------------------------------------------------------------


def test_each_state_is_saved_once(worktree: Worktree) -> None:
    write(worktree.path, {"a": "1"})
    first = saved(worktree)
    assert first is not None
    assert saved(worktree) == first
    write(worktree.path, {"a": "2"})
    second = saved(worktree)
    assert second == first[:-1] + "2"
    for number in range(3, 12):
        write(worktree.path, {"a": str(number)})
        assert saved(worktree) == first[:-1] + str(number)
    assert saved(worktree) == first[:-1] + "11"


def test_salvages_are_listed(worktree: Worktree, repository: Repository) -> None:
    assert listing(repository) == []
    write(worktree.path, {"a": "1", "b": "1"})
    mine = save(worktree, task_id="fix login/42", outcome="abandoned\nTask-Id: forged")
    other = save(worktree, task_id="other", outcome="failed")
    assert mine is not None and other is not None
    assert {salvage.ref for salvage in listing(repository)} == {mine.ref, other.ref}
    (found,) = listing(repository, "fix login/42")
    assert (found.ref, found.commit, found.task, found.files) == (mine.ref, mine.commit, "fix login/42", 2)
    assert mine.files == 2
    assert found.outcome == "abandoned Task-Id: forged"
    assert found.subject.startswith("Saved work of task fix login/42 (abandoned")
    message = git(repository.path, "show", "-s", "--format=%B", mine.ref)
    assert f"starter.py salvage restore {mine.ref}" in message
    assert listing(repository, "fix") == []


def test_a_salvage_becomes_a_branch_again(worktree: Worktree, repository: Repository) -> None:
    write(worktree.path, {"a": "1", "src/lib.py": None})
    ref = saved(worktree)
    assert ref is not None
    worktree.remove()
    write(repository.path, {"README.md": "the user's own edit\n"})
    before = git(repository.path, "status", "--porcelain", "--branch")
    branch = restore(repository, ref)
    assert restore(repository, ref) == branch == f"salvage/{safe_name('fix login/42')}-1"
    assert git(repository.path, "diff", "--name-status", MAIN, branch) == "A\ta\nD\tsrc/lib.py"
    assert git(repository.path, "status", "--porcelain", "--branch") == before
    git(repository.path, "stash", "-q")
    git(repository.path, "checkout", "-q", branch)
    commit(repository.path, {"more": "1"})
    assert restore(repository, ref) == branch  # it has gone on from there


def test_what_cannot_be_restored_is_told(worktree: Worktree, repository: Repository) -> None:
    write(worktree.path, {"a": "1"})
    ref = saved(worktree)
    assert ref is not None
    for wrong in (f"{ref}2", "refs/heads/main", "nope", "--all", ""):
        with pytest.raises(RepositoryProblem, match="salvage list"):
            restore(repository, wrong)
    git(repository.path, "branch", "salvage")
    with pytest.raises(RepositoryProblem, match="git branch <name>"):
        restore(repository, ref)


def test_a_salvage_tells_what_it_holds(worktree: Worktree, repository: Repository) -> None:
    commit(worktree.path, {"done": "1"}, "half of it")
    write(worktree.path, {"src/app.py": "staged\n", "new": "1", "x.log": "1", "odd\nname.log": "1"})
    git(worktree.path, "add", "src/app.py")
    write(worktree.path, {"src/app.py": "later\n", "src/lib.py": None})
    git(worktree.path, "stash", "-q")
    git(worktree.path, "stash", "apply", "-q", "--index")
    write(worktree.path, {"src/app.py": "later\n"})
    ref = saved(worktree)
    assert ref is not None
    [salvage] = find(repository, "fix login/42")
    assert [salvage] == find(repository, ref) == find(repository, ref.removeprefix("refs/mergewright/salvage/"))
    held = contents(repository, salvage)
    assert [line.partition(" ")[2] for line in held.commits] == ["half of it"]
    assert held.uncommitted == ["A new", "M src/app.py", "D src/lib.py"]
    assert held.staged == ["M src/app.py"]
    assert [line.partition(" ")[2][:4] for line in held.others] == ["WIP "]
    assert held.ignored == ["odd\\nname.log", "x.log"]


def test_a_salvage_becomes_a_folder(worktree: Worktree, repository: Repository, tmp_path: Path) -> None:
    write(worktree.path, {"a": "1", "src/lib.py": None})
    ref = saved(worktree)
    assert ref is not None
    before = git(repository.path, "for-each-ref")
    folder = unpack(repository, "fix login/42", tmp_path / "out" / "there")
    there = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert there == {".gitignore", "README.md", "a", "src/app.py"}
    assert git(repository.path, "for-each-ref") == before
    (tmp_path / "dangling").symlink_to("/nowhere")
    for taken in (folder, tmp_path / "dangling"):
        with pytest.raises(RepositoryProblem, match="name a folder that does not"):
            unpack(repository, ref, taken)
    assert [path.name for path in folder.parent.iterdir()] == ["there"]


def test_a_branch_of_ones_own_name_and_nothing_that_exists(worktree: Worktree, repository: Repository) -> None:
    write(worktree.path, {"a": "1"})
    ref = saved(worktree)
    assert ref is not None
    tip = git(repository.path, "rev-parse", "main")
    assert restore(repository, "fix login/42", "mine/again") == "mine/again"
    assert git(repository.path, "rev-parse", "mine/again") == git(repository.path, "rev-parse", ref)
    for name, told in (("main", "in the way"), ("mine", "in the way"), ("a..b", "no name"), ("-x", "no name")):
        with pytest.raises(RepositoryProblem, match=told):
            restore(repository, ref, name)
    assert git(repository.path, "rev-parse", "main") == tip


def test_a_dropped_salvage_is_gone(worktree: Worktree, repository: Repository) -> None:
    for number in "12":
        write(worktree.path, {"a": number})
        saved(worktree)
    both = find(repository, "fix login/42")
    assert [one.ref[-2:] for one in both] == ["/2", "/1"]
    drop(repository, both[1:])
    assert find(repository, "fix login/42") == both[:1]
    drop(repository, both[:1])
    with pytest.raises(RepositoryProblem, match="salvage list"):
        find(repository, "fix login/42")


# --- nothing is lost, nothing is touched ---------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "dir/a", "dir/b", "dir/sub/c", "x y", "é", "a.log", "b/c"])
CONTENT = st.sampled_from([b"", b"1\n", b"2\n", b"3\n", b"\0\xff", b"a\r\nb\r\n"])
MANY = 50 if os.environ.get("MERGEWRIGHT_EVERY_STEP") else 12
STEPS = st.one_of(
    st.tuples(st.just("write"), NAMES, CONTENT),
    st.tuples(st.just("delete"), NAMES, st.none()),
    st.tuples(st.just("stage"), NAMES, st.none()),
    st.tuples(st.just("unstage"), NAMES, st.none()),
    st.tuples(st.just("link"), NAMES, st.sampled_from(["a", "/nowhere", "."])),
    st.tuples(st.just("chmod"), NAMES, st.none()),
    st.tuples(st.just("commit"), st.none(), st.none()),
    st.tuples(st.just("branch"), st.none(), st.none()),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """One repository for all examples of a property."""
    path = make_repo(tmp_path_factory.mktemp("shared") / "repo", {"a": "1\n", "dir/a": "1\n"})
    yield open_repository(str(path))
    assert git(path, "fsck", "--no-dangling") == ""


def scratch(shared: Repository, place: Path) -> Worktree:
    key = f"example.{len(list(place.iterdir()))}"
    return create(shared, place / key, key, "mergewright/t", shared.tip(MAIN), MAIN)


def act(worktree: Worktree, step: tuple[str, str | None, bytes | str | None], number: int) -> None:
    """One thing that an agent may do; what cannot be done in this state is left out."""
    what, name, detail = step
    path = worktree.path
    file = path / (name or ".")
    if what in ("write", "link", "delete"):
        for parent in reversed([parent for parent in file.parents if parent != path and parent.is_relative_to(path)]):
            if parent.is_symlink() or parent.is_file():
                if what == "delete":
                    return
                parent.unlink()
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        file.unlink(missing_ok=True)
        if what != "delete":
            file.parent.mkdir(parents=True, exist_ok=True)
    if what == "write":
        assert isinstance(detail, bytes)
        file.write_bytes(detail)
    elif what == "link":
        file.symlink_to(str(detail))
    elif what == "stage":
        run_git(path, "add", "-f", "--", str(name), check=False)
    elif what == "unstage":
        run_git(path, "rm", "-q", "-r", "--cached", "--", str(name), check=False)
    elif what == "chmod" and file.is_file() and not file.is_symlink():
        file.chmod(0o755)
    elif what == "commit":
        run_git(path, "commit", "-q", "-m", f"step {number}", check=False)
    elif what == "branch":
        run_git(path, "checkout", "-q", "-b", f"branch-{number}", check=False)


def files_of(path: Path) -> dict[str, tuple[str, bytes]]:
    """Every file but git's own: kind and content."""
    found = {}
    for folder, folders, files in os.walk(path):
        if Path(folder) == path:
            folders.remove(".git")
        for name in (*files, *folders):
            file = Path(folder, name)
            if file.is_symlink():
                found[str(file.relative_to(path))] = ("120000", os.fsencode(file.readlink()))
            elif file.is_file():
                mode = "100755" if os.access(file, os.X_OK) and file.stat().st_mode & 0o100 else "100644"
                found[str(file.relative_to(path))] = (mode, file.read_bytes())
    return found


def tree_of(path: Path, commit: str) -> dict[str, tuple[str, bytes]]:
    found = {}
    for line in filter(None, git(path, "ls-tree", "-r", "-z", commit).split("\0")):
        info, name = line.split("\t", 1)
        mode, _, sha = info.split()
        found[name] = (mode, run_git(path, "cat-file", "blob", sha).stdout)
    return found


def state_of(worktree: Worktree) -> dict[str, object]:
    """Files with their times, index, HEAD and every ref."""
    files = [file for file in worktree.path.rglob("*") if ".git" not in file.relative_to(worktree.path).parts]
    git_dir = worktree.path / ".git"
    return {
        "files": {str(file): (file.lstat().st_mtime_ns, file.lstat().st_mode, file.lstat().st_ino) for file in files},
        "index": (git_dir / "index").read_bytes(),
        "HEAD": (git_dir / "HEAD").read_bytes(),
        "refs": git(worktree.path, "for-each-ref"),
        "inside": sorted(str(file) for file in git_dir.rglob("*")),
    }


@settings(max_examples=MANY, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=1, max_size=12))
def test_whatever_an_agent_does_can_be_read_back(
    shared: Repository, tmp_path: Path, steps: list[tuple[str, str | None, bytes | str | None]]
) -> None:
    worktree = scratch(shared, tmp_path)
    for number, step in enumerate(steps):
        act(worktree, step, number)
    now, before = files_of(worktree.path), state_of(worktree)
    staged = [line.split()[1] for line in git(worktree.path, "ls-files", "-z", "--stage").split("\0") if line]
    head = git(worktree.path, "rev-parse", "HEAD")
    found = save(worktree, task_id=worktree.key, outcome="cancelled")
    assert state_of(worktree) == before
    assert tree_of(shared.path, found.commit if found else worktree.base()) == now
    assert git(shared.path, "rev-parse", f"{found.commit}^1" if found else worktree.base()) == head
    for sha in staged:
        assert run_git(shared.path, "cat-file", "-e", sha, check=False).returncode == 0
    if found is not None:
        whole = git(shared.path, "rev-list", "--objects", "--no-object-names", found.commit).split()
        assert set(staged) <= set(whole)
    assert save(worktree, task_id=worktree.key, outcome="cancelled") == found
    worktree.remove()


@settings(max_examples=MANY, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=1, max_size=12))
def test_commit_all_is_what_git_add_and_commit_would_make(
    shared: Repository, tmp_path: Path, steps: list[tuple[str, str | None, bytes | str | None]]
) -> None:
    worktree = scratch(shared, tmp_path)
    write(worktree.path, {".gitignore": "*.log\n"})
    for number, step in enumerate(steps):
        act(worktree, step, number)
    twin = tmp_path / f"{worktree.key}-twin"
    shutil.copytree(worktree.path, twin, symlinks=True)
    git(twin, "add", "-A")
    git(twin, "commit", "-q", "--allow-empty", "-m", "as git does it")
    head = worktree.commit_all("as we do it")
    assert git(shared.path, "rev-parse", f"{head}^{{tree}}") == git(twin, "rev-parse", "HEAD^{tree}")
    assert git(worktree.path, "status", "--porcelain") == git(twin, "status", "--porcelain") == ""
    assert files_of(worktree.path) == files_of(twin)
    worktree.remove()
