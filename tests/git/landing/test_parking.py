"""Where the user's changes are in the way of a landing, and it may not wait: parked, or left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from activities.git.landing import base_of, follow, land
from activities.git.repository import Repository
from activities.queue_contracts import Landed
from tests.git.landings import MAIN, candidate, contents, everything, landed_ops, landing, left_in, tip_of, work
from tests.git.repos import commit, git, write

PARKED = "refs/heads/mergewright/main"


def land_on(repository: Repository, folder: Path, files: dict[str, str], task: str, checkout: str = "park") -> Landed:
    """Builds it on what the queue builds on, and lands it; a second run says the same."""
    repo = repository.path
    base = base_of(repository, MAIN, checkout, "")
    given = candidate(repo, work(repo, files, base=base), task=task)
    given_base, tip = tip_of(repository, given, base)
    asked = landing(given, given_base, tip, checkout=checkout)
    landed = land(repository, asked, folder)
    if landed.kind == "landed":
        again = land(repository, asked, folder)
        assert (again.kind, again.sha) == ("landed", landed.sha)
        assert git(repo, "for-each-ref", "refs/mergewright/chain", f"refs/mergewright/source/{given.op}") == ""
    assert left_in(repo) == []
    assert not (folder / "landing.json").exists()
    return landed


def test_it_is_parked_and_the_target_follows(repo: Path, repository: Repository, folder: Path) -> None:
    write(repo, {"mod": "mine\n"})
    before, main = everything(repo)[:2], repository.tip(MAIN)
    landed = land_on(repository, folder, {"mod": "theirs\n"}, "task-1")
    assert (landed.kind, landed.behind) == ("landed", f"in the way in {repo}: mod")
    assert git(repo, "rev-parse", PARKED) == landed.sha == base_of(repository, MAIN, "park", "")
    landed = land_on(repository, folder, {"x": "x\n"}, "task-2")  # on top of the parked one, so that it waits too
    assert landed.behind == f"in the way in {repo}: mod"
    assert (everything(repo)[:2], repository.tip(MAIN)) == (before, main)
    assert follow(repository, MAIN, landed.sha, "park", folder) == f"in the way in {repo}: mod"
    git(repo, "checkout", "mod")
    for _ in range(2):
        assert follow(repository, MAIN, landed.sha, "park", folder) == ""
        assert (repository.tip(MAIN), git(repo, "status", "--porcelain")) == (landed.sha, "")
        assert git(repo, "for-each-ref", PARKED) == ""
    assert len(landed_ops(repository)) == 2


@pytest.mark.parametrize("checkout", ["park", "hold", "bare"])
def test_the_next_landing_takes_what_is_parked_along(
    repo: Path, repository: Repository, folder: Path, checkout: str
) -> None:
    write(repo, {"mod": "mine\n"})
    land_on(repository, folder, {"mod": "theirs\n"}, "task-1")
    git(repo, "checkout", "mod")
    landed = land_on(repository, folder, {"x": "x\n"}, "task-2", checkout)
    assert landed == Landed(kind="landed", sha=repository.tip(MAIN))
    assert git(repo, "status", "--porcelain") == ""
    assert git(repo, "for-each-ref", PARKED) == ""
    assert len(landed_ops(repository)) == 2


def test_a_target_that_went_its_own_way(repo: Path, repository: Repository, folder: Path) -> None:
    """Nothing lands until the user has merged what is parked: else it would be forgotten."""
    write(repo, {"mod": "mine\n"})
    parked = land_on(repository, folder, {"mod": "theirs\n"}, "task-1")
    git(repo, "checkout", "mod")
    now = commit(repo, {"later": "x\n"})
    assert base_of(repository, MAIN, "park", "") == now
    assert "has commits that" in follow(repository, MAIN, parked.sha, "park", folder)
    blocked = land_on(repository, folder, {"x": "x\n"}, "task-2")
    assert (blocked.kind, blocked.sha) == ("blocked", now)
    assert PARKED in blocked.in_the_way[0]
    git(repo, "merge", "-q", "-m", "merge", "mergewright/main")
    assert land_on(repository, folder, {"x": "x\n"}, "task-2").behind == ""
    assert git(repo, "for-each-ref", PARKED) == ""


def test_a_parked_branch_with_a_checkout(repo: Path, repository: Repository, folder: Path) -> None:
    """It moves like any other branch; the user's changes there hold it."""
    write(repo, {"mod": "mine\n"})
    land_on(repository, folder, {"mod": "theirs\n"}, "task-1")
    linked = repo.with_name("linked")
    git(repo, "worktree", "add", "-q", str(linked), "mergewright/main")
    landed = land_on(repository, folder, {"x": "x\n"}, "task-2")
    assert git(linked, "rev-parse", "HEAD") == landed.sha
    assert git(linked, "status", "--porcelain") == ""
    write(linked, {"x": "mine too\n"})
    blocked = land_on(repository, folder, {"x": "y\n"}, "task-3")
    assert (blocked.kind, blocked.checkout, blocked.in_the_way) == ("blocked", str(linked), ["x"])
    git(repo, "checkout", "mod")
    assert follow(repository, MAIN, landed.sha, "park", folder) == ""
    assert repository.tip(PARKED) == landed.sha  # somebody looks at it


def test_no_room_for_a_parked_branch(repo: Path, repository: Repository, folder: Path) -> None:
    git(repo, "branch", "mergewright")
    write(repo, {"mod": "mine\n"})
    blocked = land_on(repository, folder, {"mod": "theirs\n"}, "task-1")
    assert (blocked.kind, blocked.in_the_way) == ("blocked", [PARKED])


def test_the_target_moves_and_a_checkout_is_left(repo: Path, repository: Repository, folder: Path) -> None:
    """The others come along."""
    linked = repo.with_name("linked")
    git(repo, "worktree", "add", "-q", "--force", str(linked), "main")
    write(repo, {"mod": "mine\n"})
    before = contents(repo), (repo / ".git/index").read_bytes()
    landed = land_on(repository, folder, {"mod": "theirs\n", "new/file": "x\n"}, "task-1", "bare")
    assert landed == Landed(kind="landed", sha=repository.tip(MAIN), behind=f"in the way in {repo}: mod")
    assert (contents(repo), (repo / ".git/index").read_bytes()) == before
    assert git(linked, "status", "--porcelain") == ""
    assert (linked / "mod").read_text() == "theirs\n"


def test_follow_leaves_a_checkout_too(repo: Path, repository: Repository, folder: Path) -> None:
    write(repo, {"mod": "mine\n"})
    tip = work(repo, {"mod": "theirs\n"})
    assert follow(repository, MAIN, tip, "hold", folder) == f"in the way in {repo}: mod"
    assert follow(repository, MAIN, tip, "bare", folder) == f"in the way in {repo}: mod"
    assert repository.tip(MAIN) == tip
    assert (repo / "mod").read_text() == "mine\n"
    assert follow(repository, MAIN, tip, "hold", folder) == ""
    assert "is no commit" in follow(repository, "refs/heads/gone", tip, "hold", folder)
