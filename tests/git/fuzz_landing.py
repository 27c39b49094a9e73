"""Lands chains of tasks while main is checked out and worked on, and kills everything all the time.

Run as `python -m tests.git.fuzz_landing FOLDER SECONDS SEED`: prints a report, exits 0 if nothing was wrong.

A worker is a fork that lands what is left to do, from a file that it keeps, as the history of a workflow would be
kept. After 35 to 75 ms it is killed: sometimes alone, so that its git lives on; sometimes with all its processes.
When none of them gets anywhere, as the machine is busy, they are given a little more time.
Now and then a task that is just landing is put off, as if it were cancelled, and another one comes first. In some
rounds the user has a change in hand that one task is in conflict with, so that from this one on all are parked; in
others they land on a remote first. That one is a server: it is not killed, but may lose its client at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from activities.git import run
from activities.git.chain import pin_chains
from activities.git.landing import base_of, follow, land, parking_branch
from activities.git.repository import open_repository
from activities.queue_contracts import Candidate
from activities.settings import Strategy
from tests.git.landings import MAIN, candidate, chained, landed_ops, landing, state, work
from tests.git.repos import git, make_repo, run_git, write

MODES = ("hold", "park", "push")
REMOTE = "refs/mergewright/remote/origin/main"

ROUND = 25
"""Tasks in one repository; then a new one is made."""

USERS = {
    "staged": "staged\n",
    "both": "unstaged\n",
    "unstaged": "unstaged\n",
    "d1/untracked": "untracked\n",
    "d2/x.log": "ignored\n",
    "text.crlf": "mine\r\n",
}


@dataclass
class Report:
    seed: str
    rounds: int = 0
    kills: int = 0
    with_git: int = 0
    """Kills that took a living git along."""
    landed: int = 0
    already: int = 0
    """Landings whose end a killed worker had not told."""
    undone: int = 0
    """Workers that found a landing half done."""
    blocked: int = 0
    parked: int = 0
    """Landings that the branch did not follow at once."""


COUNTED = ("already", "undone", "blocked", "parked")


# --- the repository ------------------------------------------------------------------------------------------------


def prepare(repo: Path, rnd: random.Random) -> list[Candidate]:
    """A repository with 60 files, work for `ROUND` tasks, and a checkout in which the user is busy."""
    files = {f"d{number % 6}/f{number}": f"base {number}\n" * 200 for number in range(60)}
    commits = {
        "busy": "x\n",
        "both": "x\n",
        "unstaged": "x\n",
        ".gitignore": "*.log\n",
        ".gitattributes": "*.crlf eol=crlf\n",
    }
    make_repo(repo, {**files, **commits, "text.crlf": "x\r\n"})
    given = [_task(repo, number, rnd) for number in range(ROUND)]
    git(repo, "worktree", "remove", "--force", str(repo.with_name(f"{repo.name}-side")))
    write(repo, {"staged": "staged\n", "both": "staged\n"})
    git(repo, "add", "staged", "both")
    write(repo, USERS)
    return given


def _task(repo: Path, number: int, rnd: random.Random) -> Candidate:
    """Its own files only, so that all go together: one rewritten or deleted, one grown, a dozen new."""
    files: dict[str, str | None] = {f"new{number}/n{n}": f"{number} {n}\n" * rnd.randint(0, 900) for n in range(12)}
    files[f"d{number % 6}/f{number}"] = None if number % 5 == 4 else f"task {number}\n" * rnd.randint(1, 2000)
    grown = number + 30
    files[f"d{grown % 6}/f{grown}"] = f"base {grown}\n" * 200 + "more\n" * 20
    files[f"new{number}/lines.crlf"] = "line\r\n" * 50
    if number == 3:
        files["busy"] = "task 3\n"
    head = work(repo, files, message=f"work {number}")
    strategy = rnd.choice(get_args(Strategy)[:3])  # main moves: not ff-only
    return candidate(repo, head, task=f"task-{number}", strategy=strategy, title=f"Task {number}")


# --- the worker ----------------------------------------------------------------------------------------------------


def keep(file: Path, told: dict[str, Any]) -> None:
    made = file.with_suffix(".new")
    made.write_text(json.dumps(told))
    made.replace(file)


def worker(repo: Path, folder: Path, kept: Path) -> None:
    told = json.loads(kept.read_text())
    repository = open_repository(str(repo))
    if (folder / "landing.json").exists():
        told["undone"] += 1
        keep(kept, told)
    checkout, push = how(told["mode"])
    while told["todo"]:
        given = [Candidate.model_validate(one) for one in told["todo"]]
        if told["now"] is None:
            base = base_of(repository, MAIN, checkout, push)
            made = chained(repo, given[: told["most"]], base)
            with repository.git() as hardened:
                pin_chains(hardened, MAIN, [step.sha for step in made.steps])
            assert made.stopped is None or made.stopped.kind == "landed", made
            if made.steps:
                told["now"] = [len(made.steps), base, made.steps[-1].sha]
            else:
                told["already"] += 1
                told["todo"].pop(0)
        else:
            count, base, tip = told["now"]
            with repository.git() as hardened:
                places = (MAIN, parking_branch(MAIN), REMOTE)
                told["already"] += any(hardened.ok("merge-base", "--is-ancestor", tip, place) for place in places)
            landed = land(repository, landing(given[:count], base, tip, checkout=checkout, push=push), folder)
            if landed.kind == "landed":
                told["parked"] += bool(landed.behind)
                del told["todo"][:count]
            elif landed.kind == "blocked":
                told["blocked"] += 1
                told["why"] = landed.model_dump()
            told["now"] = None
        keep(kept, told)


def how(mode: str) -> tuple[str, str]:
    """`checkout` and `push` of the landings."""
    return "park" if mode == "park" else "hold", "origin" if mode == "push" else ""


def start(repo: Path, folder: Path, kept: Path) -> int:
    if (child := os.fork()) != 0:
        return child
    status = 1
    try:
        worker(repo, folder, kept)
        status = 0
    except BaseException:
        traceback.print_exc()
    os._exit(status)


# --- killing -------------------------------------------------------------------------------------------------------


def children(of: int) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            facts = (place / "stat").read_text().rpartition(")")[2].split()
            if int(facts[1]) == of and b"receive-pack" not in (place / "cmdline").read_bytes():
                found += [int(place.name), *children(int(place.name))]
    return found


def kill(worker: int, rnd: random.Random, report: Report) -> None:
    report.kills += 1
    if rnd.random() < 0.3:
        os.kill(worker, signal.SIGKILL)
        return
    os.kill(worker, signal.SIGSTOP)  # it must not see its git die
    gits = children(worker)
    for process in (*gits, worker):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    report.with_git += bool(gits)


def one_round(place: Path, rnd: random.Random, report: Report, deadline: float) -> None:
    repo, folder, kept = place / "repo", place / "home", place / "kept.json"
    place.mkdir(parents=True)
    mode = rnd.choice(MODES)
    given = prepare(repo, rnd)
    if mode == "push":
        run_git(place, "clone", "-q", "--bare", str(repo), "remote.git")
        git(repo, "remote", "add", "origin", f"file://{place}/remote.git")
    users, status = (
        {name: state(repo)[name] for name in USERS},
        git(repo, "status", "--porcelain", "-uall", "--ignored"),
    )
    if mode == "park":
        write(repo, {"busy": "mine\n"})
    counts = dict.fromkeys(COUNTED, 0)
    todo = [one.model_dump(mode="json") for one in given]
    keep(kept, {"mode": mode, "most": rnd.randint(1, 4), "todo": todo, "now": None, **counts})
    patience: float = 1.0
    before: tuple[object, ...] = ()
    while True:
        process, code = start(repo, folder, kept), None
        end = time.monotonic() + rnd.uniform(0.035, 0.075) * patience
        calm = time.monotonic() > deadline  # out of time: what is left lands in peace
        while code is None and (calm or time.monotonic() < end):
            time.sleep(0.001)
            done, state_of = os.waitpid(process, os.WNOHANG)
            code = os.waitstatus_to_exitcode(state_of) if done else None
        if code is None:
            kill(process, rnd, report)
            os.waitpid(process, 0)
        elif code != 0:
            raise AssertionError(f"the worker failed; {kept.read_text()[-500:]}")
        told = json.loads(kept.read_text())
        stands = (told["todo"], told["now"])
        patience, before = (patience * 1.3, before) if stands == before else (1.0, stands)
        if not told["todo"]:
            break
        if rnd.random() < 0.1:
            keep(kept, told | {"todo": [*told["todo"][1:], told["todo"][0]], "now": None})
    if mode == "park":
        assert (repo / "busy").read_text() == "mine\n", "nothing came over the user's change"
        git(repo, "checkout", "busy")
    in_the_end(repo, folder, mode)
    check(repo, given, users, status)
    report.rounds += 1
    report.landed += len(given)
    for what in COUNTED:
        setattr(report, what, getattr(report, what) + told[what])


def in_the_end(repo: Path, folder: Path, mode: str) -> None:
    """The branch here follows, and what was put off while it landed is let go, as by the next chain."""
    repository = open_repository(str(repo))
    checkout, push = how(mode)
    assert follow(repository, MAIN, base_of(repository, MAIN, checkout, push), checkout, folder) == ""
    with repository.git() as hardened:
        pin_chains(hardened, MAIN, [])
        if push:
            hardened.update_refs(f"delete {REMOTE}")
    assert git(repo, "for-each-ref", parking_branch(MAIN)) == ""


def check(repo: Path, given: list[Candidate], users: dict[str, Any], status: str) -> None:
    ops = landed_ops(open_repository(str(repo)))
    assert sorted(ops) == sorted(one.op for one in given), "every one has landed exactly once"
    assert {name: state(repo)[name] for name in USERS} == users, "the user's files are as they were"
    seen = git(repo, "status", "--porcelain", "-uall", "--ignored")
    assert seen == status, f"the user sees their own changes and no others, not {seen}"
    assert run_git(repo, "fsck", "--no-dangling").stderr == b""
    left = [
        str(file) for file in (repo / ".git").rglob("*") if file.name.endswith(".lock") or "mergewright-" in file.name
    ]
    assert left == [], "no lock is left"
    assert git(repo, "for-each-ref", "refs/mergewright") == "", "no pin is left"


def main(place: str, seconds: str, seed: str) -> None:
    run.PACKED_STALE_SECONDS = 1.0  # nobody runs a `git gc` here
    rnd, report = random.Random(seed), Report(seed)
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        one_round(Path(place) / str(report.rounds), rnd, report, deadline)
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    main(*sys.argv[1:])
