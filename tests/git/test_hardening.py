"""What an agent may write into the user's `.git` for git to run: candidates and landings run none of it.

`test_untrusted.py` shows the same for worktrees, salvage and gate slots, and for the clone.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from activities.git.candidate import build, op_id, repository_id, unpin
from activities.git.chain import pin_chains
from activities.git.checkout import Move
from activities.git.landing import base_of, follow, land
from activities.git.repository import Repository, RepositoryProblem, open_repository
from activities.git.run import GitError
from activities.queue_contracts import Landed
from activities.settings import Strategy
from tests.git.landings import MAIN, candidate, chained, contents, land_it, landing, work
from tests.git.repos import Canary, commit, git, make_repo, run_git, write

FILES = {"a": "a\n" * 20, "both": "x\n", "gone": "gone\n", "mine": "mine\n"}


class Prepared:
    def __init__(self, repo: Path) -> None:
        self.repo = make_repo(repo, FILES)
        self.head = work(repo, {"a": "A\n" + "a\n" * 19, "gone": None, "new/file": "new\n"})
        self.clash = work(repo, {"both": "theirs\n"})
        self.base = commit(repo, {"both": "ours\n", "a": "a\n" * 19 + "A\n"})
        git(repo, "worktree", "remove", "--force", str(repo.with_name(f"{repo.name}-side")))


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary(tmp_path / "canary")


@pytest.fixture
def poisoned(tmp_path: Path, canary: Canary) -> Prepared:
    """The user has a change in hand, and every file looks changed: git has to read them, through a filter if it may."""
    prepared = Prepared(tmp_path / "repo")
    repo = prepared.repo
    canary.poison(repo / ".git", repo)
    # A file that asks for a filter blocks the landing; one that only the agent's own .gitattributes asks for does not.
    write(repo, {".git/info/attributes": "* merge=evil diff=evil\n", "mine": "in hand\n"})
    for name in ("a", "both", "gone"):
        (repo / name).touch()
    assert canary.fired() == set()
    return prepared


def build_all(repository: Repository, prepared: Prepared) -> None:
    for strategy in get_args(Strategy):
        for head, kind in ((prepared.head, "built"), (prepared.clash, "conflict")):
            given = candidate(prepared.repo, head, strategy=strategy)
            with repository.git() as hardened:
                built = build(hardened, given, prepared.base)
                assert built.kind == ("stale" if strategy == "ff-only" else kind)
                if built.tip:
                    pin_chains(hardened, MAIN, [built.tip])
                    unpin(hardened, given.op)


def test_building(poisoned: Prepared, canary: Canary) -> None:
    repository = open_repository(str(poisoned.repo))
    repository_id(repository.common_dir)
    op_id(repository.common_dir, MAIN, "t", poisoned.head, "merge")
    build_all(repository, poisoned)
    assert canary.fired() == set()


def test_landing(poisoned: Prepared, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocked, undone, undone by the next run, landed, found landed, a race lost."""
    repo, folder = poisoned.repo, tmp_path / "home"
    repository = open_repository(str(repo))
    given = candidate(repo, poisoned.head)
    before = contents(repo)

    write(repo, {"a": "mine\n"})
    assert land_it(repo, folder, given).in_the_way == ["a"]
    write(repo, {"a": "a\n" * 19 + "A\n"})

    real = Move.bring

    def bring(self: Move) -> None:
        real(self)
        raise died

    with monkeypatch.context() as patch:
        patch.setattr(Move, "bring", bring)
        died: Exception = GitError(["read-tree"], 128, "it went wrong")
        assert land_it(repo, folder, given).reason
        assert contents(repo) == before
        died = RuntimeError("as good as killed")
        with pytest.raises(RuntimeError):
            land_it(repo, folder, given)
        assert contents(repo) != before

    assert land_it(repo, folder, given).kind == "landed"
    assert (repo / "new/file").read_text() == "new\n"
    with repository.git() as hardened:
        other = candidate(repo, poisoned.head, task="other")
        built = build(hardened, other, poisoned.base)
    assert built.tip
    assert land(repository, landing(other, poisoned.base, built.tip), folder).kind == "lost_race"
    assert canary.fired() == set()


@pytest.mark.parametrize("checkout", ["hold", "park", "bare"])
def test_chains(poisoned: Prepared, canary: Canary, tmp_path: Path, checkout: str) -> None:
    """Built, pinned, landed where it can be, and followed."""
    repo, folder = poisoned.repo, tmp_path / "home"
    repository = open_repository(str(repo))
    given = [candidate(repo, head, task=head) for head in (poisoned.head, poisoned.clash)]
    base = base_of(repository, MAIN, checkout, "")
    made = chained(repo, given)
    assert made.stopped
    assert made.stopped.kind == "conflict"
    tip = made.steps[-1].sha
    with repository.git() as hardened:
        pin_chains(hardened, MAIN, [tip])
    write(repo, {"a": "mine\n"})
    landed = land(repository, landing(given[:1], base, tip, checkout=checkout), folder)
    assert (landed.kind, bool(landed.behind)) == (("blocked", False) if checkout == "hold" else ("landed", True))
    write(repo, {"a": "a\n" * 19 + "A\n"})
    assert follow(repository, MAIN, tip, checkout, folder) == ""
    assert repository.tip(MAIN) == tip
    assert canary.fired() == set()


def test_a_remote(poisoned: Prepared, canary: Canary, tmp_path: Path) -> None:
    """Fetched from and pushed to where its address says, whatever else the repository's configuration wants."""
    repo, bare, folder = poisoned.repo, tmp_path / "bare.git", tmp_path / "home"
    run_git(tmp_path, "clone", "-q", "--bare", str(repo), str(bare))
    repository = open_repository(str(repo))
    evil = f"ext::{canary.script('ext')} "
    with (repo / ".git/config").open("a") as config:
        config.write(
            f'[remote "origin"]\nurl = file://{bare}\nreceivepack = touch {canary.sang}/receivepack; git-receive-pack\n'
            f"uploadpack = touch {canary.sang}/uploadpack; git-upload-pack\n"
            f'[url "{evil}"]\ninsteadOf = file://\npushInsteadOf = file://\n'
            f'[remote "evil"]\nurl = file://{bare}\npushurl = "{evil}"\n[protocol]\nallow = always\n'
        )
    base = base_of(repository, MAIN, "hold", "origin")
    given = candidate(repo, poisoned.head)
    tip = chained(repo, [given]).steps[-1].sha
    with pytest.raises(RepositoryProblem, match="'evil' is no https"):
        land(repository, landing(given, base, tip, push="evil"), folder)
    assert land(repository, landing(given, base, tip, push="origin"), folder) == Landed(kind="landed", sha=tip)
    assert git(bare, "for-each-ref", "--format=%(objectname)") == tip
    other = candidate(repo, poisoned.head, task="other")
    with repository.git() as hardened:
        built = build(hardened, other, base)
    assert built.tip
    assert land(repository, landing(other, base, built.tip, push="origin"), folder).kind == "lost_race"
    assert canary.fired() == set()
    for command in ("fetch", "push"):  # else its silence would prove nothing
        done = run_git(repo, command, "origin", "main", check=False)
        assert "ext" in canary.fired(), done.stderr
        (canary.sang / "ext").unlink()


def test_a_filter_for_every_file(poisoned: Prepared, canary: Canary, tmp_path: Path) -> None:
    write(poisoned.repo, {".git/info/attributes": "* filter=evil\n"})
    landed = land_it(poisoned.repo, tmp_path / "home", candidate(poisoned.repo, poisoned.head))
    assert landed.in_the_way == ["a (filter=evil)", "new/file (filter=evil)"]
    assert canary.fired() == set()


def test_a_linked_worktree(tmp_path: Path, canary: Canary) -> None:
    prepared = Prepared(tmp_path / "repo")
    repo, linked = prepared.repo, tmp_path / "linked"
    git(repo, "checkout", "-q", "--detach")
    git(repo, "worktree", "add", "-q", str(linked), "main")
    own = repo / ".git/worktrees/linked"
    canary.poison(repo / ".git", linked)
    write(repo, {".git/info/attributes": "* merge=evil diff=evil\n"})
    (own / "config.worktree").write_bytes((repo / ".git/config.worktree").read_bytes())
    for name in ("a", "both", "gone"):
        (linked / name).touch()
    assert land_it(repo, tmp_path / "home", candidate(repo, prepared.head)).kind == "landed"
    assert (linked / "new/file").read_text() == "new\n"
    assert canary.fired() == set()


CONTROLS = {
    "merge-tree": (["merge-tree", "--write-tree", "main", "{clash}"], {"merge-driver"}),
    "read-tree": (["read-tree", "-m", "-u", "main", "{head}"], {"worktree-fsmonitor"}),
    "status": (["status"], {"worktree-fsmonitor", "filter-clean"}),
    "update-ref": (["update-ref", "refs/x", "main"], {"hook-reference-transaction"}),
    "commit": (["commit", "-am", "x"], {"hook-pre-commit", "filter-clean"}),
    "checkout": (["checkout", "-q", "-f", "{head}"], {"filter-smudge", "hook-post-checkout"}),
    "merge": (["merge", "{clash}"], {"merge-driver"}),
    "diff": (["diff", "main", "{head}"], {"diff-command"}),
}


@pytest.mark.parametrize("command", CONTROLS)
def test_the_canaries_sing_for_plain_git(poisoned: Prepared, canary: Canary, command: str) -> None:
    """Else their silence would prove nothing."""
    argv, expected = CONTROLS[command]
    run_git(poisoned.repo, *(word.format(**vars(poisoned)) for word in argv), check=False)
    assert expected <= canary.fired()
