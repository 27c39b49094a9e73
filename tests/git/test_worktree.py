from __future__ import annotations

import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from activities.git.clone import NO_PUSH, WorktreeBroken
from activities.git.repository import Repository, open_repository
from activities.git.worktree import Worktree, create, open_worktree, rebuild
from tests.git.repos import USER, commit, git, make_repo, run_git, write

FILES = {"README.md": "hello\n", "src/app.py": "print(1)\n", "src/lib.py": "x = 1\n", ".gitignore": "*.log\n"}
MAIN = "refs/heads/main"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return open_repository(str(make_repo(tmp_path / "repo", FILES)))


def new(repository: Repository, place: Path, key: str = "t.1") -> Worktree:
    return create(repository, place / key, key, f"mergewright/{key}", repository.tip(MAIN), MAIN)


@pytest.fixture
def worktree(repository: Repository, tmp_path: Path) -> Worktree:
    return new(repository, tmp_path / "worktrees")


def status(worktree: Worktree) -> str:
    return git(worktree.path, "status", "--porcelain")


def tree(worktree: Worktree, commit: str) -> list[str]:
    """Read from the user's repository: what is not there does not count."""
    listed = git(worktree.repository.path, "ls-tree", "-r", "-z", "--name-only", commit)
    return listed.rstrip("\0").split("\0")


def content(worktree: Worktree, commit: str, path: str) -> bytes:
    return run_git(worktree.repository.path, "cat-file", "blob", f"{commit}:{path}").stdout


# --- making --------------------------------------------------------------------------------------


def test_a_worktree_is_an_ordinary_clone_for_its_agent(worktree: Worktree, repository: Repository) -> None:
    base = repository.tip(MAIN)
    assert git(worktree.path, "rev-parse", "HEAD", "origin/main") == f"{base}\n{base}"
    assert git(worktree.path, "branch", "--show-current") == worktree.branch
    assert git(worktree.path, "config", "user.name") == USER[0]
    assert git(worktree.path, "config", "user.email") == USER[1]
    assert status(worktree) == ""
    assert (worktree.path / "src" / "app.py").read_text() == "print(1)\n"
    assert not list((worktree.path / ".git" / "objects").glob("??"))  # nothing was copied
    head = commit(worktree.path, {"new.txt": "1"})
    assert git(worktree.path, "diff", "--name-only", "origin/main") == "new.txt"
    assert git(worktree.path, "fsck", "--no-dangling") == ""
    assert worktree.base() == base != worktree.head() == head


def test_an_agent_cannot_push_by_mistake(worktree: Worktree, repository: Repository) -> None:
    commit(worktree.path, {"new.txt": "1"})
    done = run_git(worktree.path, "push", "origin", "HEAD:main", check=False)
    assert done.returncode != 0
    assert NO_PUSH.encode() in done.stderr
    assert repository.tip(MAIN) == worktree.base()


def test_tags_and_executable_files_are_there(repository: Repository, tmp_path: Path) -> None:
    (repository.path / "run.sh").write_text("#!/bin/sh\n")
    (repository.path / "run.sh").chmod(0o755)
    (repository.path / "link").symlink_to("README.md")
    commit(repository.path)
    git(repository.path, "tag", "-a", "v1", "-m", "one")
    worktree = new(repository, tmp_path)
    assert git(worktree.path, "describe") == "v1"
    assert (worktree.path / "run.sh").stat().st_mode & stat.S_IXUSR
    assert (worktree.path / "link").readlink() == Path("README.md")
    assert status(worktree) == ""


def test_a_second_run_touches_nothing(worktree: Worktree, repository: Repository) -> None:
    write(worktree.path, {"src/app.py": "edited\n", "new.txt": "1"})
    moved = commit(repository.path, {"more": "more"})
    again = create(repository, worktree.path, worktree.key, worktree.branch, moved, MAIN)
    assert again == worktree
    assert again.base() != moved  # it keeps the base that it began with
    assert (worktree.path / "src" / "app.py").read_text() == "edited\n"
    assert status(worktree).split("\n") == [" M src/app.py", "?? new.txt"]


def test_one_that_was_left_half_made_is_made_again(repository: Repository, tmp_path: Path) -> None:
    write(tmp_path, {".t.1.made/.git/HEAD": "ref: ", ".t.1.made/src/app.py": "torn"})
    worktree = new(repository, tmp_path)
    assert status(worktree) == ""
    assert sorted(path.name for path in tmp_path.glob(".t.1.*")) == [".t.1.index", ".t.1.lock"]


def test_32_at_once(repository: Repository, tmp_path: Path) -> None:
    with ThreadPoolExecutor(32) as pool:
        made = list(pool.map(lambda number: new(repository, tmp_path, f"t.{number}"), range(32)))
    assert [status(worktree) for worktree in made] == [""] * 32
    with ThreadPoolExecutor(32) as pool:
        shas = list(
            pool.map(lambda worktree: (write(worktree.path, {"x": worktree.key}), worktree.commit_all("x"))[1], made)
        )
        assert [repository.tip(f"refs/mergewright/task/{worktree.key}") for worktree in made] == shas
        list(pool.map(lambda worktree: worktree.remove(), made))
    assert git(repository.path, "for-each-ref", "refs/mergewright") == ""
    assert list(tmp_path.glob("*t.*")) == []


def test_the_base_outlives_a_rewritten_main(worktree: Worktree, repository: Repository) -> None:
    git(repository.path, "checkout", "-q", "--orphan", "fresh")
    commit(repository.path, {"other": "other"})
    git(repository.path, "branch", "-M", "fresh", "main")
    git(repository.path, "reflog", "expire", "--expire=now", "--all")
    git(repository.path, "gc", "-q", "--prune=now")
    write(worktree.path, {"new.txt": "1"})
    head = worktree.commit_all("still works")
    assert git(worktree.path, "fsck", "--no-dangling") == ""
    assert repository.contains(worktree.base(), head)


def test_a_bare_and_a_shallow_repository(tmp_path: Path) -> None:
    source = make_repo(tmp_path / "source", FILES)
    commit(source, {"second": "2"})
    for name, flag in {"bare": "--bare", "shallow": "--depth=1"}.items():
        git(tmp_path, "clone", "-q", flag, f"file://{source}", name)
        repository = open_repository(str(tmp_path / name))
        worktree = new(repository, tmp_path / "worktrees", f"{name}.1")
        first = commit(worktree.path, {"new.txt": "1"})
        write(worktree.path, {"more.txt": "2"})
        head = worktree.commit_all("more")
        assert repository.changed_files(worktree.base(), head) == ["more.txt", "new.txt"]
        assert repository.contains(first, head)
        assert git(worktree.path, "log", "--format=%s", "-n", "2") == "more\nchange"
        assert (repository.common_dir / "shallow").exists() == (name == "shallow")


def test_line_ends_are_the_user_s(repository: Repository, tmp_path: Path) -> None:
    git(repository.path, "config", "core.autocrlf", "true")
    worktree = new(repository, tmp_path)
    assert (worktree.path / "README.md").read_bytes() == b"hello\r\n"
    assert status(worktree) == ""
    write(worktree.path, {"new.txt": b"a\r\nb\r\n"})
    head = worktree.commit_all("crlf")
    assert content(worktree, head, "new.txt") == b"a\nb\n"
    assert repository.changed_files(worktree.base(), head) == ["new.txt"]
    assert status(worktree) == ""


def test_a_sparse_checkout_of_the_user_s_does_not_narrow_the_work(repository: Repository, tmp_path: Path) -> None:
    git(repository.path, "sparse-checkout", "set", "docs")
    worktree = new(repository, tmp_path)
    assert (worktree.path / "src" / "app.py").exists()
    write(worktree.path, {"src/app.py": "print(2)\n"})
    assert repository.changed_files(worktree.base(), worktree.commit_all("edit")) == ["src/app.py"]
    assert status(worktree) == ""


def test_open_and_rebuild(worktree: Worktree, repository: Repository) -> None:
    args = (repository, worktree.path, worktree.key, worktree.branch, MAIN)
    assert open_worktree(*args) == worktree
    write(worktree.path, {"new.txt": "1"})
    head = worktree.commit_all("work")
    shutil.rmtree(worktree.path)
    with pytest.raises(WorktreeBroken):
        open_worktree(*args)
    assert rebuild(*args).head() == head
    assert (worktree.path / "new.txt").read_text() == "1"
    assert status(worktree) == ""
    worktree.remove()
    with pytest.raises(WorktreeBroken, match="was removed"):
        rebuild(*args)


# --- head ----------------------------------------------------------------------------------------


def test_head_is_followed_wherever_it_goes(worktree: Worktree) -> None:
    git(worktree.path, "checkout", "-q", "-b", "own/idea")
    sha = commit(worktree.path, {"a": "a"})
    assert worktree.head() == sha
    git(worktree.path, "checkout", "-q", "--detach")
    sha = commit(worktree.path, {"b": "b"})
    assert worktree.head() == sha
    write(worktree.path, {"c": "c"})
    head = worktree.commit_all("the rest")
    assert worktree.head() == head == git(worktree.path, "rev-parse", "HEAD")
    assert git(worktree.path, "branch", "--show-current") == ""
    git(worktree.path, "checkout", "-q", "own/idea")
    git(worktree.path, "pack-refs", "--all")
    write(worktree.path, {"d": "d"})
    head = worktree.commit_all("on a packed branch")
    assert git(worktree.path, "rev-parse", "own/idea") == head


@pytest.mark.parametrize(
    "head", ["", "garbage\n", "ref: refs/heads/../../config\n", "ref: refs/heads/unborn\n", "0" * 40 + "\n", None]
)
def test_a_broken_head_is_the_task_s_branch(worktree: Worktree, head: str | None) -> None:
    first = commit(worktree.path, {"a": "a"})
    config = (worktree.path / ".git" / "config").read_bytes()
    if head is None:
        (worktree.path / ".git" / "HEAD").unlink()
    else:
        (worktree.path / ".git" / "HEAD").write_text(head)
    write(worktree.path, {"b": "b"})
    assert worktree.head() == first
    second = worktree.commit_all("b")
    assert git(worktree.path, "rev-parse", "HEAD", "HEAD^") == f"{second}\n{first}"
    assert status(worktree) == ""
    assert (worktree.path / ".git" / "config").read_bytes() == config


def test_a_branch_below_the_task_s_own(worktree: Worktree) -> None:
    git(worktree.path, "checkout", "-q", "--detach")
    git(worktree.path, "branch", "-D", worktree.branch)
    git(worktree.path, "branch", f"{worktree.branch}/sub")
    (worktree.path / ".git" / "HEAD").write_text("garbage")
    write(worktree.path, {"b": "b"})
    assert worktree.commit_all("b") == worktree.head() == git(worktree.path, "rev-parse", "HEAD")
    assert status(worktree) == ""


def test_an_unrelated_history_is_put_onto_the_work(worktree: Worktree) -> None:
    write(worktree.path, {"a": "a"})
    before = worktree.commit_all("a")
    git(worktree.path, "checkout", "-q", "--orphan", "fresh")
    commit(worktree.path, {"b": "b"})
    head = worktree.commit_all("all of it")
    assert git(worktree.repository.path, "rev-parse", f"{head}^@") == before
    assert "b" in tree(worktree, head)
    assert status(worktree) == ""


def test_a_new_git_init_costs_only_the_history(worktree: Worktree) -> None:
    write(worktree.path, {"a": "a"})
    before = worktree.commit_all("a")
    shutil.rmtree(worktree.path / ".git")
    git(worktree.path, "init", "-q")
    git(worktree.path, "config", "user.name", "x")
    git(worktree.path, "config", "user.email", "x@example.org")
    write(worktree.path, {"b": "b"})
    commit(worktree.path)
    head = worktree.commit_all("all of it")
    assert git(worktree.repository.path, "rev-parse", f"{head}^@") == before
    assert worktree.repository.changed_files(before, head) == ["b"]
    assert git(worktree.path, "fsck", "--connectivity-only") == ""


def break_by_removal(worktree: Worktree) -> None:
    shutil.rmtree(worktree.path / ".git")


def break_by_file(worktree: Worktree) -> None:
    shutil.rmtree(worktree.path / ".git")
    (worktree.path / ".git").write_text(f"gitdir: {worktree.repository.common_dir}\n")


def break_by_link(worktree: Worktree) -> None:
    shutil.rmtree(worktree.path / ".git")
    (worktree.path / ".git").symlink_to(worktree.repository.common_dir)


def break_by_linked_refs(worktree: Worktree) -> None:
    shutil.rmtree(worktree.path / ".git" / "refs" / "heads")
    (worktree.path / ".git" / "refs" / "heads").symlink_to(worktree.repository.common_dir / "refs" / "heads")


def break_by_linked_objects(worktree: Worktree) -> None:
    shutil.rmtree(worktree.path / ".git" / "objects")
    (worktree.path / ".git" / "objects").symlink_to(worktree.repository.common_dir / "objects")


def break_by_missing_objects(worktree: Worktree) -> None:
    shutil.rmtree(worktree.path / ".git" / "objects")


@pytest.mark.parametrize(
    "break_it",
    [
        break_by_removal,
        break_by_file,
        break_by_link,
        break_by_linked_refs,
        break_by_linked_objects,
        break_by_missing_objects,
    ],
)
def test_a_broken_git_directory_is_told_and_made_good(worktree: Worktree, break_it) -> None:  # type: ignore[no-untyped-def]
    write(worktree.path, {"a": "a"})
    published = worktree.commit_all("a")
    write(worktree.path, {"b": "b", "src/app.py": None})
    break_it(worktree)
    before = _everything(worktree.repository.path)
    for act in (
        worktree.head,
        lambda: worktree.commit_all("x"),
        worktree.is_clean,
        worktree.refresh,
        lambda: worktree.put_back(published),
        lambda: worktree.publish("refs/mergewright/task/t.1", published),
    ):
        with pytest.raises(WorktreeBroken):
            act()
    assert _everything(worktree.repository.path) | before == before  # nothing of the user's was changed
    rebuild(worktree.repository, worktree.path, worktree.key, worktree.branch, MAIN)
    assert worktree.head() == published
    assert (worktree.path / "b").read_text() == "b"
    head = worktree.commit_all("b")
    assert worktree.repository.changed_files(published, head) == ["b", "src/app.py"]
    assert status(worktree) == ""
    assert git(worktree.repository.path, "status", "--porcelain") == ""


def _everything(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file() and "mergewright" not in str(file.relative_to(path)))
    return {str(file): file.read_bytes() for file in files}


# --- commit_all ----------------------------------------------------------------------------------


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
    assert worktree.repository.changed_files(worktree.base(), worktree.commit_all("b")) == ["b"]


def test_locks_of_a_killed_git_do_not_block(worktree: Worktree) -> None:
    git_dir = worktree.path / ".git"
    for lock in ("index.lock", "HEAD.lock", "config.lock", "packed-refs.lock", "refs/heads/mergewright/t.1.lock"):
        (git_dir / lock).write_text("")
    write(worktree.path, {"a": "a"})
    worktree.commit_all("a")
    assert list(git_dir.rglob("*.lock")) == []
    commit(worktree.path, {"b": "b"})


@pytest.mark.parametrize("index", [b"", b"DIRC garbage", None])
def test_a_torn_index_does_not_block(worktree: Worktree, index: bytes | None) -> None:
    file = worktree.path / ".git" / "index"
    if index is None:
        file.unlink()
    else:
        file.write_bytes(index)
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


@pytest.fixture
def submodule(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "submodule", {"s": "1"})


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


# --- refresh, publish, put_back, remove ----------------------------------------------------------


def test_refresh_shows_the_target_as_it_is(worktree: Worktree, repository: Repository) -> None:
    tip = commit(repository.path, {"more": "more"})
    assert worktree.refresh() == tip == git(worktree.path, "rev-parse", "origin/main")
    assert git(worktree.path, "show", "origin/main:more") == "more"
    assert worktree.base() != tip


def test_publish_copies_only_what_is_sound(worktree: Worktree, repository: Repository) -> None:
    sha = commit(worktree.path, {"a": "a"})
    ref = "refs/mergewright/elsewhere/x"
    worktree.publish(ref, sha)
    worktree.publish(ref, sha)
    assert repository.tip(ref) == sha
    assert repository.read_file(sha, "a") == b"a"
    assert git(repository.path, "fsck", "--no-dangling") == ""
    with pytest.raises(WorktreeBroken):
        worktree.publish("refs/mergewright/elsewhere/y", "1" * 40)


def test_a_corrupt_object_does_not_come_over(worktree: Worktree, repository: Repository) -> None:
    sha = commit(worktree.path, {"a": "honest"})
    honest, evil = (git(worktree.path, "hash-object", "-w", "--stdin", stdin=data) for data in (b"honest", b"evil"))
    objects = worktree.path / ".git" / "objects"
    victim = objects / honest[:2] / honest[2:]
    victim.chmod(0o644)
    shutil.copy(objects / evil[:2] / evil[2:], victim)  # the name of the one, the content of the other
    with pytest.raises(WorktreeBroken):
        worktree.publish("refs/mergewright/elsewhere/x", sha)
    assert git(repository.path, "for-each-ref", "refs/mergewright/elsewhere") == ""
    head = worktree.commit_all("the files, then")
    assert repository.read_file(head, "a") == b"honest"
    assert git(repository.path, "rev-parse", f"{head}^@") == worktree.base()


def test_a_diff_cannot_be_faked_after_publishing(worktree: Worktree, repository: Repository) -> None:
    write(worktree.path, {"a": "evil"})
    head = worktree.commit_all("evil")
    objects = worktree.path / ".git" / "objects"
    evil, honest = (git(worktree.path, "hash-object", "-w", "--stdin", stdin=data) for data in (b"evil", b"honest"))
    (objects / evil[:2]).mkdir(exist_ok=True)
    target = objects / evil[:2] / evil[2:]
    target.unlink(missing_ok=True)
    shutil.copy(objects / honest[:2] / honest[2:], target)
    assert git(worktree.path, "cat-file", "blob", evil) == "honest"  # what the clone would say
    assert worktree.commit_all("again") == head
    assert b"+evil" in repository.diff(worktree.base(), head)


def test_borrowing_from_elsewhere_is_undone(worktree: Worktree, repository: Repository, tmp_path: Path) -> None:
    secret = make_repo(tmp_path / "secret", {"key": "hunter2"})
    blob = git(secret, "rev-parse", "HEAD:key")
    alternates = worktree.path / ".git" / "objects" / "info" / "alternates"
    alternates.write_text(f"{repository.common_dir}/objects\n{secret}/.git/objects\n")
    entry = f"100644 blob {blob}\tleak\n".encode()
    leak = git(worktree.path, "mktree", "--missing", stdin=entry)
    sha = git(worktree.path, "commit-tree", leak, "-p", "HEAD", "-m", "leak")
    git(worktree.path, "reset", "-q", "--soft", sha)
    head = worktree.commit_all("x")
    assert head != sha
    assert run_git(repository.path, "cat-file", "-e", blob, check=False).returncode != 0
    alternates.unlink()
    write(worktree.path, {"b": "b"})
    assert worktree.commit_all("b") != head  # lent again


def test_a_shallow_file_of_the_agent_s_hides_no_history(worktree: Worktree, repository: Repository) -> None:
    first = commit(worktree.path, {"a": "a"})
    second = commit(worktree.path, {"b": "b"})
    (worktree.path / ".git" / "shallow").write_text(f"{second}\n")
    assert worktree.commit_all("x") == second
    assert repository.contains(first, second)


def test_put_back_leaves_no_trace(worktree: Worktree) -> None:
    head = worktree.commit_all("nothing")
    write(worktree.path, {"src/app.py": "edited\n", "src/lib.py": None, "new/x": "x", "kept.log": "ignored"})
    write(worktree.path, {"README.md": None})
    write(worktree.path, {"README.md/is/now": "a folder", "nested/x": "x"})
    git(worktree.path / "nested", "init", "-q")
    git(worktree.path, "checkout", "-q", "-b", "side")
    git(worktree.path, "add", "src", "new")
    git(worktree.path, "commit", "-q", "-m", "by a reviewer")
    git(worktree.path, "update-index", "--skip-worktree", ".gitignore")
    write(worktree.path, {".gitignore": "*\n"})
    worktree.put_back(head)
    assert status(worktree) == ""
    assert git(worktree.path, "rev-parse", "HEAD") == head
    assert git(worktree.path, "branch", "--show-current") == worktree.branch
    left = {str(file.relative_to(worktree.path)) for file in worktree.path.rglob("*") if file.is_file()}
    assert {name for name in left if not name.startswith(".git/")} == {*FILES, "kept.log"}
    assert {name: (worktree.path / name).read_text() for name in FILES} == FILES


def test_put_back_moves_to_another_commit(worktree: Worktree) -> None:
    first = worktree.commit_all("nothing")
    write(worktree.path, {"a": "a", "src/app.py": "print(2)\n"})
    second = worktree.commit_all("second")
    worktree.put_back(first)
    assert not (worktree.path / "a").exists()
    worktree.put_back(second)
    assert (worktree.path / "src" / "app.py").read_text() == "print(2)\n"
    (worktree.path.with_name(".t.1.index")).write_bytes(b"torn")
    write(worktree.path, {"src/app.py": "x"})
    worktree.put_back(first)
    assert status(worktree) == ""
    assert (worktree.path / "src" / "app.py").read_text() == "print(1)\n"


def test_put_back_that_was_killed_is_completed(worktree: Worktree, repository: Repository) -> None:
    head = worktree.commit_all("nothing")
    git(repository.path, "update-ref", "refs/mergewright/reset/t.1", head)
    write(worktree.path, {"src/app.py": "half a restored fi"})
    assert worktree.commit_all("must not be taken for work") == head
    assert status(worktree) == ""
    assert git(repository.path, "for-each-ref", "refs/mergewright/reset") == ""


def test_removal_of_what_does_not_want_to_go(worktree: Worktree, repository: Repository) -> None:
    write(worktree.path, {"locked/deep/x": "x"})
    worktree.commit_all("x")
    (worktree.path / "locked" / "deep" / "x").chmod(0)
    for folder in (worktree.path / "locked" / "deep", worktree.path / "locked", worktree.path):
        folder.chmod(0o555)
    worktree.remove()
    worktree.remove()
    assert list(worktree.path.parent.iterdir()) == []
    assert git(repository.path, "for-each-ref", "refs/mergewright") == ""


def test_removal_may_keep_what_was_published(worktree: Worktree, repository: Repository) -> None:
    head = commit(worktree.path, {"a": "a"})
    worktree.commit_all("x")
    worktree.remove(published=False)
    assert repository.tip("refs/mergewright/task/t.1") == head
    assert rebuild(repository, worktree.path, worktree.key, worktree.branch, MAIN).head() == head
