"""Lands branches through the whole product while its worker is killed all the time, in the midst of git's work.

Run as `python -m tests.fuzz_queue --landings 300`: prints how it goes and a verdict, exits 0 if nothing was wrong.

A worker is a process of its own, with its gates and gits. It is killed after 35 to 75 ms in which one of its gits ran:
sometimes alone, so that its git lives on; sometimes with all of them. The next one is started at once. While most of
them get nowhere, as the machine is busy, they are given a little more time.
Branches are sent in by bursts, so that chains grow. Some are bad: their gate is red; some are in conflict with another
one. Meanwhile the user has main checked out, with changes in hand that no branch touches, and commits to it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from temporalio.testing import WorkflowEnvironment

import worker
from activities.git.owner import LOCK
from service.converter import data_converter
from service.devserver import temporal_cli
from service.leave import run_and_leave
from tests.git.landings import state
from tests.git.repos import git, run_git, write
from tests.kit import Kit
from tests.queue_kit import Queue, on_main
from workflows.contracts import Code, LandResult

LOOK_SECONDS = 0.002

DAEMON = "setsid sleep 300 >/dev/null 2>&1 &"
STUBBORN = "setsid sh -c 'trap \"\" TERM HUP; sleep 300' >/dev/null 2>&1 &"
GATE = (
    f"n=$(od -An -N1 -tu1 /dev/urandom); if [ $((n % 8)) = 0 ]; then {STUBBORN} else {DAEMON} fi; "
    "sleep 0.$((n % 4)); ! ls bad* >/dev/null 2>&1"
)
"""Takes a moment, and leaves a daemon behind, which now and then does not go when it is asked to."""

USERS = {
    "staged": "staged\n",
    "both": "unstaged\n",
    "unstaged": "unstaged\n",
    "dir/untracked": "untracked\n",
    "dir/x.ignored": "ignored\n",
}


@dataclass
class Report:
    seed: int
    landings: int = 0
    kills: int = 0
    with_git: int = 0
    """Kills that took a living git along."""
    alone: int = 0
    """Kills that left a living git behind."""
    git_seconds: float = 0.0
    """In which a git of a worker ran."""
    moves: int = 0
    """Of main, by landings."""
    commits: int = 0
    """By the user, meanwhile."""
    gates: int = 0
    attempts: int = 0
    """The most that an activity took."""
    asked_again: int = 0
    """Landings that had heard nothing for ten minutes."""
    runs: int = 0
    """Of the queue's workflow."""
    outcomes: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def expect(self, right: object, text: str) -> None:
        if not right:
            self.wrong.append(text)


# --- the repository ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Branch:
    name: str
    kind: str
    """good, bad, or conflict: it goes with all but its neighbour."""
    files: dict[str, str] = field(hash=False)


Answers = dict[Branch, LandResult]


def branches(count: int) -> list[Branch]:
    return [_branch(number) for number in range(count)]


def _branch(number: int) -> Branch:
    kind, name = "good", f"b{number:03}"
    files = {f"new{number}/n{n}": f"{number} {n}\n" * 50 * n for n in range(6)}
    files |= {f"d{number % 6}/f{number}": f"{name}\n" * 500} if number < 60 else {}
    if number % 12 == 5:
        kind, files[f"bad{number}"] = "bad", "bad\n"
    elif number % 20 in (2, 3):
        kind, files[f"shared{number // 2}"] = "conflict", f"{name}\n"
    return Branch(name, kind, files)


def prepare(queue: Queue, made: Sequence[Branch]) -> None:
    """All branches begin at main as it is at first; then the user gets busy."""
    repo = queue.kit.repo
    write(repo, {f"d{number % 6}/f{number}": f"base {number}\n" * 200 for number in range(60)})
    write(repo, {"both": "x\n", "unstaged": "x\n"})
    queue.configure(GATE, gate_slots=2)
    told = []
    for branch in made:
        told.append(f"commit refs/heads/{branch.name}\ncommitter Una User <una@example.org> 1700000000 +0000\n")
        told.append(f"{_data(f'work on {branch.name}')}from refs/heads/main^0\n")
        told += [f"M 100644 inline {path}\n{_data(content)}" for path, content in branch.files.items()]
    git(repo, "fast-import", "--quiet", stdin="".join(told).encode())
    write(repo, {"staged": "staged\n", "both": "staged\n"})
    git(repo, "add", "staged", "both")
    write(repo, USERS)
    (queue.kit.folder / "tmp").mkdir()


def _data(text: str) -> str:
    return f"data {len(text)}\n{text}\n"


# --- the worker, and who kills it ----------------------------------------------------------------------------------


class Killer(threading.Thread):
    """Keeps one worker alive, and none for long. `calm`: from now on the one that is there stays."""

    def __init__(self, kit: Kit, rnd: random.Random, report: Report) -> None:
        super().__init__(daemon=True)
        self.kit = kit
        self.rnd = rnd
        self.report = report
        self.calm = threading.Event()
        self.over = threading.Event()
        self.patience = 1.0
        # To load all its modules takes a worker longer than it lives.
        self.forks = multiprocessing.get_context("forkserver")
        self.forks.set_forkserver_preload(["worker"])

    def run(self) -> None:
        stands: object = None
        while not self.over.is_set():
            self._watch(self._start())
            before, stands = stands, self._stands()
            self.patience = max(self.patience / 1.5, 1.0) if stands != before else min(self.patience * 1.2, 30.0)

    def _start(self) -> BaseProcess:
        worker = self.forks.Process(target=work, args=(self.kit.client.service_client.config.target_host,
                                                       self.kit.task_queue, self.kit.folder))  # fmt: skip
        worker.start()
        return worker

    def _watch(self, worker: BaseProcess) -> None:
        assert worker.pid is not None
        gits = Gits(worker.pid)
        left = self.rnd.uniform(0.035, 0.075) * self.patience
        last = time.monotonic()
        while worker.is_alive():
            if self.over.is_set():
                worker.terminate()
                worker.join()
                return
            time.sleep(LOOK_SECONDS)
            living, now = gits.living(), time.monotonic()
            if living:
                left -= now - last
                self.report.git_seconds += now - last
                if left <= 0 and not self.calm.is_set():
                    self._kill(worker.pid, gits)
                    worker.join()
                    return
            last = now
        self.report.wrong.append(f"a worker ended by itself, with {worker.exitcode}")

    def _kill(self, worker: int, gits: Gits) -> None:
        alone = self.rnd.random() < 0.3
        os.kill(worker, signal.SIGSTOP)  # it must not see its git die
        living = gits.living()
        for process in [] if alone else living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        os.killpg(worker, signal.SIGKILL)
        self.report.kills += 1
        self.report.with_git += bool(living) and not alone
        self.report.alone += bool(living) and alone

    def _stands(self) -> object:
        """What changes when something was done."""
        homes = self.kit.home.root
        files = [*homes.glob("repositories/*/candidates/*"), *homes.glob("runs/*/branch.json")]
        logs = [*homes.glob("repositories/*/results/*.json"), *homes.glob("repositories/*/gates/*")]
        return git(self.kit.repo, "rev-parse", "main"), len(files), len(logs)


def work(address: str, task_queue: str, folder: Path) -> None:
    """As `worker.py` does, in a session of its own."""
    os.setsid()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
    log = os.open(folder / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    serve = partial(worker.main, address=address, task_queue=task_queue, home=folder / "home", host="here")
    run_and_leave(partial(serve, agents=1, gate_slots=2))


class Gits:
    """The gits that a worker runs. Each is looked at once: a look at all that runs must take little time."""

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self.others: set[str] = set()
        self.known: set[str] = set()

    def living(self) -> list[int]:
        there = {name for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208 (the quickest)
        self.known &= there
        self.others &= there
        for name in there - self.known - self.others:
            with contextlib.suppress(OSError):
                comm, _, rest = (Path("/proc") / name / "stat").read_text().partition("(")[2].rpartition(")")
                if int(rest.split()[1]) != self.worker:
                    self.others.add(name)
                elif comm == "git":
                    self.known.add(name)
        return [int(name) for name in self.known]


# --- the others ----------------------------------------------------------------------------------------------------


async def send_all(queue: Queue, made: Sequence[Branch], rnd: random.Random, seconds: float, killer: Killer) -> Answers:
    """By bursts, some while the queue is paused. After `seconds` none are sent, and what is left ends in peace."""
    answers: Answers = {}
    landings: dict[asyncio.Task[LandResult], Branch] = {}
    todo, until = list(made), time.monotonic() + seconds
    await queue.open()
    while todo or landings:
        if time.monotonic() > until:
            todo = []
            killer.calm.set()
        if len(landings) <= 4 and todo:
            count = rnd.randint(4, 24)
            if paused := rnd.random() < 0.5:
                await queue.handle.signal("pause")
            for branch in todo[:count]:
                landings[asyncio.ensure_future((await queue.send(branch.name)).result())] = branch
            del todo[:count]
            if paused:
                await asyncio.sleep(rnd.uniform(0, 5))
                await queue.handle.signal("resume")
            if rnd.random() < 0.5:
                await commit_outside(queue.kit.repo, killer.report)
        over, _ = await asyncio.wait(landings, return_when=asyncio.FIRST_COMPLETED, timeout=5)
        answers |= {landings.pop(landing): landing.result() for landing in over}
        killer.report.landings = len(answers)
    return answers


async def commit_outside(repo: Path, report: Report) -> None:
    """As the user does: again until no landing is under way. What is staged stays so."""
    name = f"outside{report.commits}"
    write(repo, {name: "by the user\n"})
    await until_done(repo, "add", name)
    await until_done(repo, "commit", "-q", "--only", "-m", name, name)
    report.commits += 1


async def until_done(repo: Path, *args: str) -> None:
    done = False
    while not done:
        await asyncio.sleep(0.05)
        done = (await asyncio.to_thread(run_git, repo, *args, check=False)).returncode == 0


async def tell(report: Report, killer: Killer) -> None:
    started = time.monotonic()
    while True:
        await asyncio.sleep(20)
        print(f"{time.monotonic() - started:5.0f} s: {report.landings} answered, {report.kills} kills, "
              f"{report.git_seconds:.1f} s of git, patience {killer.patience:.1f}", flush=True)  # fmt: skip


# --- all of it -----------------------------------------------------------------------------------------------------


async def fuzz(kit: Kit, landings: int, seconds: float, seed: int) -> Report:
    report, queue = Report(seed), Queue(kit)
    made = branches(landings)
    prepare(queue, made)
    before = _users(kit.repo)
    killer = Killer(kit, random.Random(seed + 1), report)
    killer.start()
    telling = asyncio.create_task(tell(report, killer))
    try:
        answers = await send_all(queue, made, random.Random(seed), seconds, killer)
        killer.calm.set()
        status = await queue.when(lambda now: not now.places and not now.tests)
        told = f"{status.landed} landed, {status.ejected} sent back"
        report.expect(status.landed + status.ejected == len(answers), told)
        await _look_back(queue, answers, report)
    finally:
        telling.cancel()
        killer.over.set()
        await asyncio.to_thread(killer.join)
    _check(kit, queue, answers, report, before)
    return report


def _users(repo: Path) -> tuple[dict[str, Any], str, str]:
    there = state(repo)
    seen = git(repo, "status", "--porcelain", "-uall", "--ignored")
    return {name: there.get(name) for name in USERS}, seen, git(repo, "ls-files", "--stage", "staged", "both")


async def _look_back(queue: Queue, answers: Answers, report: Report) -> None:
    """At the histories."""
    client = queue.kit.client
    async for run in client.list_workflows(f"WorkflowId = '{queue.id}'"):
        report.runs += 1
        history = await client.get_workflow_handle(queue.id, run_id=run.run_id).fetch_history()
        for event in history.events:
            started = event.activity_task_started_event_attributes
            report.attempts = max(report.attempts, started.attempt)
    for branch in answers:
        history = await client.get_workflow_handle(queue.task(branch.name)).fetch_history()
        for event in history.events:
            report.attempts = max(report.attempts, event.activity_task_started_event_attributes.attempt)
            report.asked_again += event.HasField("timer_fired_event_attributes")


def _check(
    kit: Kit,
    queue: Queue,
    answers: Answers,
    report: Report,
    before: tuple[dict[str, Any], str, str],
) -> None:
    repo = kit.repo
    report.outcomes = dict(Counter(f"{answer.outcome} {answer.code or ''}".strip() for answer in answers.values()))
    report.gates = queue.runs()
    moved = git(repo, "reflog", "show", "--format=%gs", "main").splitlines()
    report.moves = sum(line.startswith("mergewright: land") for line in moved)
    _check_outcomes(kit, queue, answers, report)

    now = _users(repo)
    for name, was in before[0].items():
        report.expect(now[0][name] == was, f"the user's {name} has changed")
    report.expect(now[1:] == before[1:], f"status is {now[1:]}, not {before[1:]}")
    fsck = run_git(repo, "fsck", "--strict", check=False)
    report.expect(fsck.returncode == 0 and b"error" not in fsck.stderr, f"fsck: {fsck.stderr.decode()[-500:]}")
    left = [
        *kit.refs("refs/mergewright/chain"),
        *kit.refs("refs/mergewright/source"),
        *kit.refs("refs/heads/mergewright"),
        *(str(file) for file in kit.home.root.glob("repositories/*/candidates/*")),
        *(str(file) for file in kit.home.root.glob("repositories/*/landing.json")),
        *(str(file) for file in (repo / ".git").rglob("*.lock*") if file.name != LOCK),
        *(str(file) for file in (repo / ".git").glob("mergewright-*")),
        *left_running(kit.folder),
    ]
    report.expect(not left, f"left behind: {left}")
    log = (kit.folder / "worker.log").read_text(errors="replace")
    bad = re.findall(r"(?m)^.*(?:Nondeterminism|AssertionError|KeyError|InvalidStateError).*$", log)
    report.expect(not bad, f"in the worker's log: {bad[:5]}")


def _check_outcomes(kit: Kit, queue: Queue, answers: Answers, report: Report) -> None:
    ops, tasks = kit.trailers("Merge-Op"), kit.trailers("Task-Id")
    report.expect(len(ops) == len(set(ops)), f"landed twice: {[op for op, n in Counter(ops).items() if n > 1]}")
    merged = {queue.task(one.name) for one, answer in answers.items() if answer.outcome == "merged"}
    report.expect(sorted(tasks) == sorted(merged), f"not both merged and on main: {sorted(set(tasks) ^ merged)}")
    right: dict[str, list[tuple[str, Code | None]]] = {
        "good": [("merged", None)],
        "bad": [("sent-back", Code.GATE_RED)],
        "conflict": [("merged", None), ("sent-back", Code.CONFLICT)],
    }
    there = on_main(kit.repo)
    for one, answer in answers.items():
        how = (answer.outcome, answer.code)
        report.expect(how in right[one.kind], f"{one.name}, which is {one.kind}, is {how}: {answer.reason}")
        report.expect(how != ("merged", None) or one.files.keys() <= there, f"files of {one.name} are not on main")
    landed = Counter(path for one in answers if queue.task(one.name) in merged for path in one.files)
    both = [path for path, count in landed.items() if count > 1]
    report.expect(not both, f"two in conflict have landed: {both}")
    neither = [path for one in answers for path in one.files if path.startswith("shared") and path not in there]
    report.expect(not neither, f"both of two in conflict were sent back: {neither}")
    report.expect(not any(path.startswith("bad") for path in there), "a bad one is on main")
    report.expect({f"outside{number}" for number in range(report.commits)} <= there, "a commit of the user's is lost")


def left_running(folder: Path) -> list[str]:
    return list(_living(folder))


def _living(folder: Path) -> Iterator[str]:
    """Processes of workers that are gone: by their current directory or their environment."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            cwd, environment = str((process / "cwd").readlink()), (process / "environ").read_bytes()
            if cwd.startswith(str(folder)) or f"={folder}".encode() in environment:
                yield (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


async def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.fuzz_queue")
    options.add_argument("--landings", type=int, default=300)
    options.add_argument("--seconds", type=float, default=3600, help="after which no more branches are sent in")
    options.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    options.add_argument("--folder", type=Path, help="kept; default: a temporary one, kept when something was wrong")
    given = options.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="fuzz-queue-"))
    environment = await WorkflowEnvironment.start_local(
        dev_server_existing_path=temporal_cli(), dev_server_log_level="error", data_converter=data_converter
    )
    print(f"seed {given.seed}, in {folder}", flush=True)
    try:
        report = await fuzz(Kit(environment.client, folder), given.landings, given.seconds, given.seed)
    finally:
        await environment.shutdown()
    print(json.dumps(asdict(report), indent=1))
    print(f"wrong: {len(report.wrong)}" if report.wrong else "nothing was wrong")
    sys.exit(1 if report.wrong else 0)


if __name__ == "__main__":
    run_and_leave(lambda: asyncio.run(main()))
