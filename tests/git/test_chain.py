from __future__ import annotations

from pathlib import Path

import pytest

from activities.git.chain import pin_chains
from activities.git.landing import land
from activities.git.repository import Repository, open_repository
from activities.git.run import Git
from activities.queue_contracts import Candidate
from tests.git.landings import FILES, MAIN, STATUS, candidate, chained, dirty, landed_ops, landing, left_in, work
from tests.git.repos import commit, git, make_repo


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo", FILES)


@pytest.fixture
def repository(repo: Path) -> Repository:
    return open_repository(str(repo))


def tasks(repo: Path) -> list[Candidate]:
    """They go together, each by another strategy."""
    strategies = ("squash", "merge", "rebase")
    return [
        candidate(repo, work(repo, {f"new/{name}": "x\n"}, message=name), task=f"task-{name}", strategy=name)
        for name in strategies
    ]


def refs(repo: Path, under: str) -> list[str]:
    return [name.removeprefix(under) for name in git(repo, "for-each-ref", "--format=%(refname)", under).splitlines()]


def test_each_is_built_on_the_one_before_and_one_move_lands_all(
    repo: Path, repository: Repository, tmp_path: Path
) -> None:
    given, base = tasks(repo), repository.tip(MAIN)
    made = chained(repo, given)
    assert made == chained(repo, given)
    assert made.stopped is None
    assert [step.op for step in made.steps] == [one.op for one in given]
    trees = [git(repo, "rev-parse", f"{step.sha}^{{tree}}") for step in made.steps]
    assert [step.tree for step in made.steps] == trees
    assert git(repo, "rev-list", "--first-parent", "--reverse", f"{base}..{made.steps[-1].sha}").split() == [
        step.sha for step in made.steps
    ]
    dirty(repo)
    tip = made.steps[-1].sha
    for one in given:
        git(repo, "update-ref", f"refs/mergewright/source/{one.op}", one.head)
        git(repo, "update-ref", f"refs/mergewright/candidate/{one.op}", one.head)  # of a former version
    with repository.git() as hardened:
        pin_chains(hardened, MAIN, [step.sha for step in made.steps])
    for _ in range(2):
        landed = land(repository, landing(given, base, tip, keep=[made.steps[1].sha, "0" * 40]), tmp_path / "home")
        assert (landed.kind, landed.sha, landed.behind) == ("landed", tip, "")
        assert refs(repo, "refs/mergewright/") == [f"chain/main/{made.steps[1].sha}"]
    assert landed_ops(repository) == [one.op for one in reversed(given)]
    assert git(repo, "status", "--porcelain", "-uall", "--ignored") == STATUS
    assert left_in(repo) == []
    assert git(repo, "log", "-1", "-g", "--format=%gs", "main") == (
        f"mergewright: land {' '.join(one.op for one in given)} Do it"
    )


def test_it_ends_at_the_first_that_does_not_go_on_top(repo: Path) -> None:
    first, second, third = tasks(repo)
    clash = candidate(repo, work(repo, {"new/merge": "another\n"}), task="clash")
    same = candidate(repo, work(repo, {"new/merge": "x\n"}), task="same")
    stale = candidate(repo, work(repo, {"z": "z\n"}), task="stale", strategy="ff-only")
    for one, kind in ((clash, "conflict"), (same, "noop"), (stale, "stale")):
        made = chained(repo, [first, second, one, third])
        assert made.stopped
        assert (made.stopped.kind, made.stopped.base) == (kind, made.steps[-1].sha)
        assert made.stopped.conflict is None
        assert [step.op for step in made.steps] == [first.op, second.op]
    assert chained(repo, [clash, third]).stopped is None
    assert chained(repo, [stale]).stopped is None


def test_what_has_landed_is_found(repo: Path) -> None:
    given = tasks(repo)
    git(repo, "merge", "-q", "--ff-only", chained(repo, given).steps[-1].sha)
    commit(repo, {"later": "x\n"})
    for one in given:
        made = chained(repo, [one])
        assert made.stopped
        assert made.stopped.kind == "landed"
        assert git(repo, "log", "-1", "--format=%(trailers:key=Merge-Op,valueonly)", str(made.stopped.tip)) == one.op


def test_exactly_these_are_pinned(repo: Path, repository: Repository) -> None:
    a, b = git(repo, "rev-parse", "main"), work(repo, {"x": "x\n"})
    with repository.git() as hardened:
        pin_chains(hardened, MAIN, [a, b])
        pin_chains(hardened, f"{MAIN}/below", [a])
        pin_chains(hardened, MAIN, {b})
        pin_chains(hardened, MAIN, {b})
        assert refs(repo, "refs/mergewright/chain/") == sorted([f"main/{b}", f"main/below/{a}"])
        pin_chains(hardened, MAIN, [])
    assert refs(repo, "refs/mergewright/chain/") == [f"main/below/{a}"]


def test_a_step_takes_few_processes(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long chain costs what its steps cost: none looks at those before it again."""
    names = [f"task-{number}" for number in range(4)]
    given = [candidate(repo, work(repo, {f"new/{name}": "x\n"}), task=name) for name in names]
    count, real = 0, Git.run

    def run(self: Git, *args: str, **more: object) -> object:
        nonlocal count
        count += 1
        return real(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Git, "run", run)
    assert chained(repo, given).stopped is None
    assert count <= 4 * len(given) + 4


def test_commits_that_cannot_be_read_keep_nobody_else_back(repo: Path) -> None:
    first, _, _ = tasks(repo)
    tree, parent = git(repo, "rev-parse", f"{work(repo, {'z': 'z'})}^{{tree}}", "main").split()
    raw = f"tree {tree}\nparent {parent}\ncommitter x <x> 5 +0000\n\nnobody wrote it\n"
    sha = git(repo, "hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=raw.encode())
    made = chained(repo, [first, candidate(repo, sha, task="odd", strategy="rebase")])
    assert [step.op for step in made.steps] == [first.op]
    assert made.alone
    assert (made.alone.kind, "cannot be read" in made.alone.reason) == ("policy", True)
