from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from activities.git.checkout import Move
from activities.git.landing import NotAFastForward, land
from activities.git.repository import Repository, RepositoryProblem
from activities.git.run import GitError
from activities.queue_contracts import Landed
from tests.git.landings import (
    MAIN,
    STATUS,
    candidate,
    contents,
    dirty,
    is_clean,
    land_it,
    landed_ops,
    landing,
    left_in,
    one_task,
    state,
    tip_of,
)
from tests.git.repos import commit, git, run_git, write


def test_it_lands_and_a_second_run_finds_it_landed(repo: Path, repository: Repository, folder: Path) -> None:
    given = one_task(repo)
    dirty(repo)
    base, tip = tip_of(repository, given)
    for _ in range(2):
        assert land(repository, landing(given, base, tip), folder) == Landed(kind="landed", sha=tip)
        is_clean(repo)
        assert os.listdir(folder) == ["landing.lock"]  # noqa: PTH208
    assert git(repo, "log", "-1", "-g", "--format=%gs", "main") == f"mergewright: land {given.op} Do it"
    later = commit(repo, {"later": "x\n"})
    assert land(repository, landing(given, base, tip), folder) == Landed(kind="landed", sha=later)


def test_the_race_is_lost(repo: Path, repository: Repository, folder: Path) -> None:
    given = one_task(repo)
    base, tip = tip_of(repository, given)
    dirty(repo)
    now = commit(repo, {"later": "x\n"})
    before = state(repo)
    assert land(repository, landing(given, base, tip), folder) == Landed(kind="lost_race", sha=now)
    assert state(repo) == before
    assert git(repo, "for-each-ref", "refs/mergewright/chain") != ""  # it may still land


def test_a_branch_moved_behind_our_back(
    repo: Path, repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the checkouts and the branch somebody without a checkout moves it: everything goes back."""
    given = one_task(repo)
    base, tip = tip_of(repository, given)
    dirty(repo)
    pushed = git(repo, "commit-tree", "main^{tree}", "-p", "main", "-m", "pushed")
    before = contents(repo)
    real = Move.bring

    def bring_and_push(self: Move) -> None:
        real(self)
        git(repo, "update-ref", MAIN, pushed)

    monkeypatch.setattr(Move, "bring", bring_and_push)
    assert land(repository, landing(given, base, tip), folder) == Landed(kind="lost_race", sha=pushed)
    assert contents(repo) == before
    assert left_in(repo) == []
    assert git(repo, "status", "--porcelain", "-uall", "--ignored") == STATUS


def test_a_checkout_that_appears_meanwhile(
    repo: Path, repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = one_task(repo)
    base, tip = tip_of(repository, given)
    dirty(repo)
    before, linked = contents(repo), repo.with_name("linked")
    real = Move.bring

    def bring_and_add(self: Move) -> None:
        real(self)
        git(repo, "worktree", "add", "-q", "--force", str(linked), "main")

    with monkeypatch.context() as patch:
        patch.setattr(Move, "bring", bring_and_add)
        assert land(repository, landing(given, base, tip), folder).kind == "blocked"
    assert contents(repo) == before
    assert land(repository, landing(given, base, tip), folder).kind == "landed"
    assert git(linked, "status", "--porcelain") == ""
    is_clean(repo)


def test_no_landing_takes_commits_off(repo: Path, repository: Repository, folder: Path) -> None:
    given = one_task(repo)
    evil = git(repo, "commit-tree", "main^{tree}", "-m", "a history of its own")
    with pytest.raises(NotAFastForward):
        land(repository, landing(given, repository.tip(MAIN), evil), folder)
    assert not (folder / "landing.json").exists()


def test_a_deleted_target(repo: Path, repository: Repository, folder: Path) -> None:
    given = one_task(repo)
    base, tip = tip_of(repository, given)
    git(repo, "checkout", "-q", "--detach")
    git(repo, "branch", "-q", "-D", "main")
    with pytest.raises(RepositoryProblem, match="main"):
        land(repository, landing(given, base, tip), folder)


def test_a_lock_of_another_git(repo: Path, repository: Repository, folder: Path) -> None:
    given = one_task(repo)
    base, tip = tip_of(repository, given)
    dirty(repo)
    before = contents(repo)
    lock = repo / ".git/refs/heads/main.lock"
    lock.touch()
    landed = land(repository, landing(given, base, tip), folder)
    assert (landed.kind, landed.in_the_way) == ("blocked", [str(lock)])
    assert contents(repo) == before
    assert lock.exists()
    assert not (folder / "landing.json").exists()
    lock.unlink()
    assert land(repository, landing(given, base, tip), folder).kind == "landed"
    is_clean(repo)


def test_a_rebase_of_the_target(repo: Path, folder: Path) -> None:
    """HEAD is detached while it goes on, but the rebase wants to move the branch in the end."""
    given = one_task(repo)
    git(repo, "checkout", "-q", "-b", "upstream")
    commit(repo, {"other": "theirs\n"})
    git(repo, "checkout", "-q", "main")
    commit(repo, {"other": "ours\n"})
    assert run_git(repo, "rebase", "upstream", check=False).returncode == 1
    landed = land_it(repo, folder, given)
    assert (landed.kind, landed.in_the_way) == ("blocked", ["a rebase in progress"])
    write(repo, {"other": "both\n"})
    git(repo, "add", "other")
    git(repo, "rebase", "--continue")
    assert land_it(repo, folder, given).kind == "landed"


def test_a_name_that_the_file_system_refuses(repo: Path, folder: Path) -> None:
    blob, name = git(repo, "hash-object", "-w", "--stdin", stdin=b"x"), "n" * 300
    one_task(repo)
    side = repo.with_name("repo-side")
    git(side, "update-index", "--add", "--cacheinfo", f"100644,{blob},{name}")
    git(side, "commit", "-q", "-m", "a name that is too long")
    landed = land_it(repo, folder, candidate(repo, git(side, "rev-parse", "HEAD")))
    assert (landed.kind, landed.in_the_way) == ("blocked", [name])


@contextmanager
def small_files_only() -> Iterator[None]:
    """The kernel kills git when it writes a file of more than 50 kB, in the middle of it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_be_written(
    repo: Path, repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git finds out in the middle of it, with other files done: they go back."""
    given = one_task(repo, a="small\n", big="x" * 100_000)
    base, tip = tip_of(repository, given)
    dirty(repo)
    before = contents(repo), (repo / ".git/index").read_bytes()
    real = Move.bring

    def bring(self: Move) -> None:
        with small_files_only():
            real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Move, "bring", bring)
        landed = land(repository, landing(given, base, tip), folder)
    assert (landed.kind, landed.sha, landed.in_the_way) == ("blocked", base, [])
    assert "read-tree" in landed.reason
    assert (contents(repo), (repo / ".git/index").read_bytes()) == before
    assert left_in(repo) == []
    assert not (folder / "landing.json").exists()
    assert land(repository, landing(given, base, tip), folder).kind == "landed"
    is_clean(repo)


def test_a_full_disk_on_the_way_there_and_back(repo: Path, repository: Repository, folder: Path) -> None:
    """It cannot even be undone; it is when there is space again."""
    given = one_task(repo, a="small\n", big="x" * 100_000)
    base, tip = tip_of(repository, given)
    dirty(repo)
    with small_files_only(), pytest.raises(GitError):
        land(repository, landing(given, base, tip), folder)
    assert repository.tip(MAIN) == base
    assert land(repository, landing(given, base, tip), folder).kind == "landed"
    is_clean(repo)


def test_landings_of_several_workers(repo: Path, repository: Repository, folder: Path) -> None:
    """Zombies and duplicates: of candidates on the same base one lands, the same one twice lands once."""
    given = [one_task(repo, f"task-{number}") for number in range(4)]
    dirty(repo)
    tips = [landing(one, *tip_of(repository, one)) for one in given] * 2
    results: list[Landed] = []
    threads = [
        threading.Thread(target=lambda one=one: results.append(land(repository, one, folder)))  # type: ignore[misc]
        for one in tips
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.kind for result in results) == ["landed"] * 2 + ["lost_race"] * 6
    assert len(landed_ops(repository)) == 1
    assert left_in(repo) == []
