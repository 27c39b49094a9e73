"""What the tests of candidate, checkout and landing share: work of a task, and its way to main."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from activities.contracts import TaskRef
from activities.git.candidate import SOURCES, build, op_id
from activities.git.chain import ChainBuilder, pin_chains
from activities.git.landing import land
from activities.git.repository import Repository, open_repository
from activities.queue_contracts import BuiltChain, Candidate, ChainToBuild, Landed, LandInput
from activities.settings import Strategy
from tests.git.repos import commit, git, write

MAIN = "refs/heads/main"
DATE = 1_700_000_000

FILES: dict[str, bytes | str | None] = {
    **{"mod": "mod\n" * 9, "gone": "gone\n", "sub/file": "file\n", "other": "other\n", "more/other": "other\n"},
    **{".gitignore": "*.log\nbuild\n", "exec": "x\n"},
}


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


def landing(given: Candidate | Sequence[Candidate], base: str, tip: str, **more: object) -> LandInput:
    chain = [given] if isinstance(given, Candidate) else given
    facts = {"repo": chain[0].ref.repo, "target": MAIN, "base": base, "tip": tip, "ops": [one.op for one in chain]}
    return LandInput.model_validate(facts | {"title": chain[0].title} | more)


def chained(repo: Path, given: Sequence[Candidate], base: str = MAIN) -> BuiltChain:
    repository = open_repository(str(repo))
    with repository.git() as hardened:
        builder = ChainBuilder(hardened, repository.tip(base), {one.op: one for one in given})
        return builder.chain(ChainToBuild(ops=[one.op for one in given]))


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
        pin_chains(hardened, MAIN, [built.tip])
    return land(repository, landing(given, base, built.tip), folder)


def landed_ops(repository: Repository) -> list[str]:
    """Of every commit on main's first-parent line, the newest first."""
    with repository.git() as hardened:
        out = hardened("log", "--first-parent", "--format=%(trailers:key=Merge-Op,valueonly,separator=%x2C)", MAIN)
    return [line for line in out.split("\n") if line]


def every_kind_of_change(repo: Path) -> str:
    """Changes `mod` and `sub/file`, deletes `gone`, adds `dir/new`, `dir/x.log` and `build`."""
    files = {"mod": "MOD\n" * 9, "gone": None, "sub/file": "FILE\n", "dir/new": "new\n"}
    head = work(repo, files)
    side = repo.with_name("repo-side")
    write(side, {"dir/x.log": "log\n", "build": "build\n"})
    git(side, "add", "-f", "dir/x.log", "build")
    git(side, "commit", "-q", "--amend", "-m", f"work on {head}")
    return git(side, "rev-parse", "HEAD")


# --- landings that are killed --------------------------------------------------------------------------------------


def one_task(repo: Path, name: str = "task-1", **more: str | None) -> Candidate:
    """Changes one file, deletes one, and adds one in a new folder."""
    head = work(repo, {"mod": f"{name}\n" * 9, "gone": None, f"new/{name}/file": "new\n", **more})
    return candidate(repo, head, task=name)


def other_task(repo: Path) -> Candidate:
    """Goes with every other one."""
    return candidate(repo, work(repo, {"sub/file": "FILE\n", "new/other": "x\n"}), task="task-2")


def dirty(repo: Path) -> None:
    """What the user has in hand."""
    write(repo, {"staged": "staged\n", "other": "mine\n", "mine": "mine\n", "x.log": "ignored\n"})
    git(repo, "add", "staged")


USERS = ("staged", "other", "mine", "x.log")
STATUS = " M other\nA  staged\n?? mine\n!! x.log"


def tip_of(repository: Repository, given: Candidate, base: str = "") -> tuple[str, str]:
    base = base or repository.tip(MAIN)
    with repository.git() as hardened:
        built = build(hardened, given, base)
        assert built.tip, built
        pin_chains(hardened, MAIN, [built.tip])
        git(repository.path, "update-ref", SOURCES + given.op, given.head)
    return base, built.tip


def is_clean(repo: Path) -> None:
    """Nothing is left of a landing, and the user sees their own changes only."""
    assert git(repo, "status", "--porcelain", "-uall", "--ignored") == STATUS
    assert left_in(repo) == []
    assert list((repo / ".git/refs").rglob("*.lock")) == []
    assert git(repo, "for-each-ref", "refs/mergewright") == ""


# --- what a checkout looks like -------------------------------------------------------------------------------------

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


def contents(repo: Path) -> dict[str, tuple[int, bytes]]:
    return {name: (mode, content) for name, (mode, _time, content) in state(repo).items()}


def link(file: Path, to: str) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to(to)


def unnoticed(file: Path, content: bytes) -> None:
    """Changed in the very second in which git wrote its index, long ago: git can tell by the content alone."""
    then = (time.time_ns() - 10**11,) * 2
    assert len(content) == file.stat().st_size
    git(file.parent, "config", "core.trustctime", "false")
    os.utime(file, ns=then)
    git(file.parent, "update-index", "-q", "--refresh")
    os.utime(file.parent / ".git" / "index", ns=then)
    file.write_bytes(content)
    os.utime(file, ns=then)
