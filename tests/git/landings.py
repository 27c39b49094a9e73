"""What the tests of candidate, checkout and landing share: work of a task, and its way to main."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from activities.contracts import Candidate, Landed, Strategy, TaskRef
from activities.git.candidate import build, op_id, pin
from activities.git.landing import land
from activities.git.repository import Repository, open_repository
from tests.git.repos import commit, git

MAIN = "refs/heads/main"
DATE = 1_700_000_000


def candidate(
    repo: Path, head: str, *, task: str = "task-1", strategy: Strategy = "squash", title: str = "Do it", **more: object
) -> Candidate:
    common = open_repository(str(repo)).common_dir
    facts = {
        "op": op_id(common, MAIN, task, head, strategy),
        "ref": TaskRef(task_id=task, key=task, repo=str(repo), target=MAIN),
        "head": head,
        "strategy": strategy,
        "title": title,
        "agent": "codex (gpt-5.5)",
        "reviewers": ["claude-code (opus)", "codex"],
        "author": "Ada Agent <ada@example.org>",
        "date": DATE,
        "host": "here",
        "answer_to": task,
    }
    return Candidate.model_validate(facts | more)


def work(repo: Path, files: Mapping[str, bytes | str | None], *, base: str = "main", message: str = "work") -> str:
    """The sha of a commit with `files` on top of `base`, made beside the user's checkout."""
    side = repo.with_name(f"{repo.name}-side")
    if not side.exists():
        git(repo, "worktree", "add", "-q", "--detach", str(side), base)
    git(side, "checkout", "-q", "--force", "--detach", git(repo, "rev-parse", base))
    git(side, "clean", "-qffdx")
    return commit(side, files, message)


def land_it(repo: Path, folder: Path, given: Candidate) -> Landed:
    """Builds and lands it on main as it is now."""
    repository = open_repository(str(repo))
    base = repository.tip(MAIN)
    with repository.git() as hardened:
        built = build(hardened, given, base)
        if built.kind == "landed":
            return Landed(kind="landed", sha=base)
        assert built.kind == "built", built
        assert built.tip
        pin(hardened, given.op, built.tip)
    return land(repository, given, base, built.tip, folder)


def landed_ops(repository: Repository) -> list[str]:
    """Of every commit on main's first-parent line, the newest first."""
    with repository.git() as hardened:
        out = hardened("log", "--first-parent", "--format=%(trailers:key=Merge-Op,valueonly,separator=%x2C)", MAIN)
    return [line for line in out.split("\n") if line]
