from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from activities.git.clone import NO_PUSH, WorktreeBroken
from activities.git.repository import Repository, open_repository
from activities.git.worktree import Worktree, create, open_worktree, rebuild
from tests.git.repos import USER, commit, git, make_repo, run_git, write
from tests.git.worktrees import FILES, MAIN, content, new, status


def test_a_worktree_is_an_ordinary_clone_for_its_agent(worktree: Worktree, repository: Repository) -> None:
    base = repository.tip(MAIN)
    assert git(worktree.path, "rev-parse", "HEAD", "origin/main") == f"{base}\n{base}"
    assert git(worktree.path, "branch", "--show-current") == worktree.branch
    assert git(worktree.path, "config", "user.name") == USER[0]
    assert git(worktree.path, "config", "user.email") == USER[1]
    assert git(worktree.path, "config", "commit.gpgSign") == "false"  # whatever the user's own settings say
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
        for worktree in made:
            write(worktree.path, {"x": worktree.key})
        shas = list(pool.map(lambda worktree: worktree.commit_all("x"), made))
        assert [repository.tip(f"refs/mergewright/task/{worktree.key}") for worktree in made] == shas
        list(pool.map(lambda worktree: worktree.remove(), made))
    assert git(repository.path, "for-each-ref", "refs/mergewright") == ""
    assert list(tmp_path.glob("*t.*")) == []


def test_a_git_that_outlived_its_worker_is_waited_for(worktree: Worktree) -> None:
    script = "import sys, time; time.sleep(0.5); open('late', 'w').write('late')"
    with worktree.alone() as lock:
        orphan = subprocess.Popen([sys.executable, "-c", script], cwd=worktree.path, pass_fds=[lock])
    assert worktree.repository.read_file(worktree.commit_all("all of it"), "late") == b"late"
    orphan.wait()


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
        assert git(worktree.path, "log", "--format=%s").startswith("more\nchange\nchange")
        assert (repository.common_dir / "shallow").exists() == (name == "shallow")


def test_a_repository_with_longer_hashes(tmp_path: Path) -> None:
    source = make_repo(tmp_path / "source", FILES)
    git(tmp_path, "init", "-q", "--object-format=sha256", "-b", "main", "long")
    git(tmp_path / "long", "config", "user.name", "x")
    git(tmp_path / "long", "config", "user.email", "x@example.org")
    shutil.copy(source / "README.md", tmp_path / "long")
    commit(tmp_path / "long")
    repository = open_repository(str(tmp_path / "long"))
    worktree = new(repository, tmp_path / "worktrees")
    first = commit(worktree.path, {"a": "a"})
    git(worktree.path, "checkout", "-q", "--detach")
    write(worktree.path, {"b": "b"})
    head = worktree.commit_all("b")
    assert git(repository.path, "rev-parse", f"{head}^@") == first
    assert (len(head), status(worktree)) == (64, "")


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
    head = worktree.commit_all("edit")
    assert repository.changed_files(worktree.base(), head) == ["src/app.py"]
    write(worktree.path, {"src/app.py": None})
    worktree.put_back(head)
    assert (worktree.path / "src" / "app.py").read_text() == "print(2)\n"
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


# --- refresh, publish, put_back, remove ----------------------------------------------------------


def test_refresh_shows_the_target_as_it_is(worktree: Worktree, repository: Repository) -> None:
    tip = commit(repository.path, {"more": "more"})
    assert worktree.refresh() == tip == git(worktree.path, "rev-parse", "origin/main")
    assert git(worktree.path, "show", "origin/main:more") == "more"
    assert worktree.base() != tip
    git(repository.path, "reset", "-q", "--hard", "HEAD~1")  # what the agent was shown stays there for it
    git(repository.path, "reflog", "expire", "--expire=now", "--all")
    git(repository.path, "gc", "-q", "--prune=now")
    assert git(worktree.path, "show", "origin/main:more") == "more"


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
