"""The merge queue on real repositories: what it lands, what it costs, and how it bears a long line.

    .venv/bin/python -m bench.queue throughput [--full] [--gates 30] [--seconds 1] [--bad 0 0.05] [--slots 1 4]
    .venv/bin/python -m bench.queue cost [--rounds 7] [--queued 10 100 1000] [--files 200 5000 50000]
    .venv/bin/python -m bench.queue long [--branches 1000] [--gate-slots 4]

throughput  Real commits, slots, gates and landings, but no server, so that many gates that only sleep measure the
            policy and git. 32 candidates always wait. Ours and three known policies on the same draws, beside the
            same draws on a virtual clock. With short gates git's own time counts: it is shown.
cost        From the end of a green gate to the moved branch, through a worker and a Temporal server, beside the bare
            git commands by hand in the same repository.
long        Many branches in one go: events of each run of the queue's workflow, memory of the worker, lost answers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import os
import random
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from temporalio.client import Client, WorkflowHistory
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from activities.gates import MOST_SLOTS
from activities.git import slot
from activities.git.chain import ChainBuilder
from activities.git.landing import land
from activities.git.repository import Repository, open_repository
from activities.queue_contracts import Candidate, ChainToBuild, Step
from activities.site import blocking
from bench.policies import Policy
from bench.simulate import POLICIES, SHARES, SLOTS
from bench.world import JITTER, World
from service.converter import data_converter
from service.devserver import temporal_cli
from tests.git.landings import MAIN, candidate, landing
from tests.git.repos import git, make_repo, run_git
from tests.kit import Kit
from tests.queue_kit import Landing, Queue
from workflows.policy.speculation import Chain, after_landing, without

BACKLOG = 32
PUBLISHED = {
    0.0: (15.93, 32.02, 32.24, 32.33),
    0.02: (4.90, 7.17, 10.64, 12.36),
    0.05: (2.38, 3.60, 4.35, 5.80),
    0.10: (1.49, 2.12, 2.56, 3.47),
    0.20: (0.87, 1.10, 1.51, 1.85),
}
"""Landed per duration of the gates, with 1, 2, 4 and 8 slots: of the simulator with which the policy was chosen, its
row "hybrid", 400 durations long, two seeds, 32 candidates waiting, without flakes and pairs that clash, and, as here,
with one confirming run before each ejection. It is what to come up to."""
GOAL_NEAR, GOAL_UNDER = 0.10, 0.05
GOAL_COST = 5
GOAL_EVENTS = 5_000
PATIENCE = 3_600


# --- throughput --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draws:
    """Which candidates are bad and how long each run takes: the same on every clock and for every policy."""

    seed: int
    share: float

    def bad(self, number: int) -> bool:
        return random.Random(f"{self.seed} candidate {number}").random() < self.share

    def length(self, run: int) -> float:
        return random.Random(f"{self.seed} run {run}").uniform(1 - JITTER, 1 + JITTER)


def advance(world: World, draws: Draws) -> None:
    """All that can be done without waiting for a run; the line is kept full."""
    while True:
        while len(world.queue) < BACKLOG:
            number = len(world.queue) + len(world.landed) + len(world.ejected)
            world.submit(str(number), bad=draws.bad(number))
        if not world.step():
            break


def virtual(name: str, slots: int, draws: Draws, gates: float) -> float:
    """Landed per duration of the gates, on a virtual clock."""
    world, now, started = World(POLICIES[name](), slots), 0.0, 0
    clock: list[tuple[float, int]] = []
    while now <= gates:
        advance(world, draws)
        for number in range(started + 1, world.runs + 1):
            heapq.heappush(clock, (now + draws.length(number), number))
        started = world.runs
        now, number = heapq.heappop(clock)
        if number in world.running:
            world.finish(number)
    return len(world.landed) / gates


@dataclass(kw_only=True)
class RealWorld(World):
    """The same with commits, slots, gates that sleep, and landings."""

    folder: Path
    heads: list[str]
    draws: Draws
    seconds: float
    """Of the gates."""
    steps: dict[Chain, Step] = field(default_factory=dict)
    tips: dict[int, str] = field(default_factory=dict)
    """By the number of the run."""
    spent: Counter[str] = field(default_factory=Counter)
    """Seconds of git, and how often, by what it was for."""

    @cached_property
    def repository(self) -> Repository:
        return open_repository(str(self.folder / "repo"))

    @contextlib.contextmanager
    def timed(self, what: str, count: int = 1) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.spent[what] += time.monotonic() - started  # type: ignore[assignment]
            self.spent[f"{what}s"] += count

    @cached_property
    def pattern(self) -> Candidate:
        return candidate(self.repository.path, self.heads[0])

    def candidate(self, op: str) -> Candidate:
        changed = {"op": op.zfill(16), "head": self.heads[int(op)], "answer_to": op}
        return self.pattern.model_copy(update=changed)

    def advance(self) -> None:
        """Also builds what is to be tested."""
        advance(self, self.draws)
        new = {number: chain for number, chain in self.running.items() if number not in self.tips}
        if not new:
            return
        todo = {chain[: count + 1] for chain in new.values() for count in range(len(chain))} - self.steps.keys()
        with self.timed("build", len(todo)), self.repository.git() as hardened:
            base = self.repository.tip(MAIN)
            candidates = {op: self.candidate(op) for chain in new.values() for op in chain}
            builder = ChainBuilder(hardened, base, candidates)
            for number, chain in new.items():
                made = next((n for n in range(len(chain), 0, -1) if chain[:n] in self.steps), 0)
                on = self.steps[chain[:made]].sha if made else base
                built = builder.chain(ChainToBuild(ops=list(chain), made=made, on=on))
                assert built.stopped is None, built
                for count, step in enumerate(built.steps, made + 1):
                    self.steps[chain[:count]] = step
                self.tips[number] = self.steps[chain].sha if chain else base

    def _land(self, chain: Chain) -> None:
        with self.timed("landing"):
            given = landing([self.candidate(op) for op in chain], self.repository.tip(MAIN), self.steps[chain].sha)
            landed = land(self.repository, given, self.folder)
        assert landed.kind == "landed", landed
        self.steps = after_landing(self.steps, chain)
        super()._land(chain)

    def withdraw(self, op: str) -> None:
        self.steps = without(self.steps, op)
        super().withdraw(op)

    async def test(self, number: int) -> bool:
        """A run of the gate in a slot; cancelled, nothing of it is left."""
        with slot.take(self.folder / "slots", MOST_SLOTS) as taken:
            with self.timed("checkout"):
                tree = await blocking(slot.checkout, taken, self.repository, self.tips[number])
            gate = f"sleep {self.draws.length(number) * self.seconds}; ! ls bad* 2>/dev/null"
            process = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", gate, cwd=tree, stdout=asyncio.subprocess.DEVNULL, start_new_session=True
            )
            try:
                return await process.wait() == 0
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    await process.wait()

    async def run(self, gates: float) -> None:
        """As long as this many runs take."""
        tests: dict[int, asyncio.Task[bool]] = {}
        end = time.monotonic() + gates * self.seconds
        while (left := end - time.monotonic()) > 0:
            await blocking(self.advance)
            await _stop([tests.pop(number) for number in list(tests) if number not in self.running])
            tests |= {number: asyncio.create_task(self.test(number)) for number in self.running if number not in tests}
            await asyncio.wait(tests.values(), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for number in [number for number, test in tests.items() if test.done()]:
                self.known[self.running.pop(number)] = "green" if tests.pop(number).result() else "red"
        await _stop(list(tests.values()))

    def check(self) -> None:
        """What is on main is what was said to have landed, and nothing bad is among it."""
        names = set(git(self.repository.path, "ls-tree", "--name-only", "main").split())
        assert names - {"README.md"} == {f"good-{op}" for op in self.landed}, names
        assert git(self.repository.path, "status", "--porcelain") == ""

    def mean(self, what: str) -> str:
        return f"{1000 * self.spent[what] / max(self.spent[f'{what}s'], 1):.0f}"


async def _stop(tests: list[asyncio.Task[bool]]) -> None:
    for test in tests:
        test.cancel()
    await asyncio.gather(*tests, return_exceptions=True)


def branches(repo: Path, files: Mapping[str, str]) -> list[str]:
    """Branches on main as it is, each of which adds one file: by name, its path. Their heads."""
    base = git(repo, "rev-parse", "main")
    lines: list[str] = []
    for name, path in files.items():
        lines += [f"commit refs/heads/{name}", "committer Una User <una@example.org> 1700000000 +0000"]
        lines += ["data 4", "work", f"from {base}", f"M 644 inline {path}", f"data {len(path)}", path]
    git(repo, "fast-import", "--quiet", stdin="\n".join([*lines, ""]).encode())
    git(repo, "pack-refs", "--all")
    return git(repo, "rev-parse", *(f"refs/heads/{name}" for name in files)).split()


def make_world(folder: Path, name: str, slots: int, draws: Draws, gates: float, seconds: float) -> RealWorld:
    repo = make_repo(folder / "repo", {"README.md": "# app\n"})
    most = int(gates * BACKLOG * 1.3) + 2 * BACKLOG
    names = {f"b{number}": f"{'bad' if draws.bad(number) else 'good'}-{number}" for number in range(most)}
    policy: Policy = POLICIES[name]()
    return RealWorld(policy, slots, folder=folder, heads=branches(repo, names), draws=draws, seconds=seconds)


async def throughput(given: argparse.Namespace) -> None:
    shares = given.bad or (SHARES if given.full else (0.0, 0.05, 0.20))
    slots = given.slots or (SLOTS if given.full else (1, 4))
    gates = given.gates or (60 if given.full else 30)
    cells = [(share, name, 1) for share in shares for name in ("serial", "batches")]
    cells += [(share, name, count) for share in shares for name in ("linear", "ours") for count in slots]
    cells.sort(key=lambda cell: -cell[2])
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2 * given.at_once))
    room, changed = given.at_once, asyncio.Condition()
    found: dict[tuple[float, str, int], RealWorld] = {}

    async def one(cell: tuple[float, str, int]) -> None:
        nonlocal room
        share, name, count = cell
        async with changed:
            await changed.wait_for(lambda: room >= count)
            room -= count
        await found[cell].run(gates)
        found[cell].check()
        Console().print(f"{share:.0%} bad, {name}, {count} slots: {len(found[cell].landed)} landed")
        async with changed:
            room += count
            changed.notify_all()

    with tempfile.TemporaryDirectory() as made:
        for number, (share, name, count) in enumerate(cells):  # before any starts: it takes seconds
            folder = Path(made) / str(number)
            folder.mkdir()
            draws = Draws(given.seed, share)
            found[share, name, count] = make_world(folder, name, count, draws, gates, given.seconds)
        await asyncio.gather(*map(one, cells))
    _show_throughput(given, gates, found)


def _show_throughput(given: argparse.Namespace, gates: float, found: dict[tuple[float, str, int], RealWorld]) -> None:
    table = Table(title=f"landed per duration of the gates, of {given.seconds:g} s, in {gates:g} of them")
    titles = ["bad", "slots", "serial", "batches", "linear", "ours", "ours ÷ best", "virtual", "published"]
    for column in (*titles, "ours ÷ published", "error", "build, checkout, land (ms)", "git ÷ all"):
        table.add_column(column, justify="right")
    for share, _, count in sorted(cell for cell in found if cell[1] == "ours"):
        draws, ours = Draws(given.seed, share), found[share, "ours", count]
        rates = {
            name: len(found[share, name, 1 if name in ("serial", "batches") else count].landed) / gates
            for name in POLICIES
        }
        best = max(rate for name, rate in rates.items() if name != "ours")
        spread = statistics.stdev(virtual("ours", count, Draws(seed, share), gates) for seed in range(100, 120))
        published = PUBLISHED[share][SLOTS.index(count)]
        waits = ours.spent["build"] + ours.spent["landing"] + ours.spent["checkout"] / count
        table.add_row(
            f"{share:.0%}", str(count), *(f"{rates[name]:.2f}" for name in POLICIES), f"{rates['ours'] / best:.2f}",
            f"{virtual('ours', count, draws, gates):.2f}", f"{published:.2f}", f"{rates['ours'] / published:.2f}",
            f"± {spread / published:.2f}", ", ".join(map(ours.mean, ("build", "checkout", "landing"))),
            f"{waits / (gates * given.seconds):.0%}",
        )  # fmt: skip
    Console(width=180).print(table)
    Console().print(
        f"Goals: ours ÷ published at least {1 - GOAL_NEAR:.2f}, ours ÷ best at least {1 - GOAL_UNDER:.2f}. error: the "
        "standard deviation of one run of this length for its draws alone, as a share of published."
    )


# --- through the product -----------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[Client]:
    environment = await WorkflowEnvironment.start_local(
        dev_server_existing_path=temporal_cli(), dev_server_log_level="error", data_converter=data_converter
    )
    try:
        yield environment.client
    finally:
        await environment.shutdown()


@contextlib.asynccontextmanager
async def worker(kit: Kit, gate_slots: int) -> AsyncIterator[int]:
    """A worker in a process of its own; its pid."""
    address = kit.client.service_client.config.target_host
    argv = ["worker.py", "--address", address, "--task-queue", kit.task_queue, "--home", str(kit.home.root)]
    argv += ["--host", "here", "--gate-slots", str(gate_slots)]
    with (kit.folder / "worker.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *argv, cwd=Path(__file__).parents[1], stdout=log, stderr=log
        )
        try:
            yield process.pid
        finally:
            process.terminate()
            await process.wait()


def fill(repo: Path, count: int) -> None:
    """So many files on main and in its checkout, a hundred in each folder."""
    base = git(repo, "rev-parse", "main")
    lines = ["commit refs/heads/main", "committer Una User <una@example.org> 1700000000 +0000", "data 4", "fill"]
    lines += [f"from {base}"]
    for number in range(count):
        text = f"file {number}"
        lines += [f"M 644 inline folder{number // 100}/file{number}", f"data {len(text)}", text]
    git(repo, "fast-import", "--quiet", "--force", stdin="\n".join([*lines, ""]).encode())
    subprocess.run(["git", "reset", "-q", "--hard"], cwd=repo, check=True)  # may take minutes


def by_hand(repo: Path, branch: str) -> float:
    """Seconds of the git commands that no landing can do without."""
    tree = git(repo, "merge-tree", "--write-tree", "main", branch)
    made = git(repo, "commit-tree", tree, "-p", "main", "-p", branch, "-m", "land")
    started = time.perf_counter()
    old = run_git(repo, "rev-parse", "main").stdout.decode().strip()
    run_git(repo, "merge-base", "--is-ancestor", old, made)
    run_git(repo, "read-tree", "-n", "-m", "-u", old, made)
    run_git(repo, "read-tree", "-m", "-u", old, made)
    run_git(repo, "update-ref", "refs/heads/main", made, old)
    return time.perf_counter() - started


@dataclass
class Costs:
    ours: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    parts: list[tuple[float, ...]] = field(default_factory=list)
    """Of ours: the rest of the gate's activity, the workflow, the hop to the worker, the landing."""


async def cost_of(files: int, queued: int, rounds: int) -> Costs:
    with tempfile.TemporaryDirectory() as made:
        async with server() as client:
            kit = Kit(client, Path(made))
            fill(kit.repo, files)
            queue, green = Queue(kit), kit.folder / "green"
            queue.configure(f"date +%s.%N > {shlex.quote(str(green))}")
            waiting = [f"waits{number}" for number in range(queued)]
            going = [f"{kind}{number}" for kind in ("go", "hand") for number in range(rounds)]
            branches(kit.repo, {name: f"new-{name}" for name in [*waiting, *going]})
            async with worker(kit, 1):
                await queue.open("paused")
                await asyncio.gather(*(queue.send(name, after=["nobody"]) for name in waiting))
                await _gathered(queue, queued)
                await queue.handle.execute_update("resume")
                return await _costs(queue, green, rounds)


async def _costs(queue: Queue, green: Path, rounds: int) -> Costs:
    costs, moments = Costs(), []
    for number in range(rounds):
        result = await (await queue.send(f"go{number}")).result()
        assert result.outcome == "merged", result
        moved = (queue.kit.repo / ".git" / MAIN).stat().st_mtime_ns / 1e9
        passed = float(green.read_text())
        moments.append((passed, moved))
        costs.ours.append(moved - passed)
        costs.floor.append(by_hand(queue.kit.repo, f"hand{number}"))
    hops = _hops(await queue.handle.fetch_history())
    for (passed, moved), (tested, scheduled, started) in zip(moments[::-1], hops[::-1], strict=False):
        costs.parts.append((tested - passed, scheduled - tested, started - scheduled, moved - started))
    return costs


def _hops(history: WorkflowHistory) -> list[tuple[float, float, float]]:
    """Of each landing: when the gate's activity was done, when the landing was scheduled, and when it started."""
    kinds: dict[int, str] = {}
    found, tested, scheduled = [], 0.0, 0.0
    for event in history.events:
        now = event.event_time.ToNanoseconds() / 1e9
        if event.HasField("activity_task_scheduled_event_attributes"):
            kind = event.activity_task_scheduled_event_attributes.activity_type.name
            kinds[event.event_id] = kind
            scheduled = now if kind == "land" else scheduled
        elif event.HasField("activity_task_started_event_attributes"):
            if kinds[event.activity_task_started_event_attributes.scheduled_event_id] == "land":
                found.append((tested, scheduled, now))
        elif event.HasField("activity_task_completed_event_attributes") and (
            kinds[event.activity_task_completed_event_attributes.scheduled_event_id] == "test_chain"
        ):
            tested = now
    return found


async def _gathered(queue: Queue, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        waiting = 0
        while waiting < count:
            await asyncio.sleep(1)
            with contextlib.suppress(RPCError):  # a worker that takes in a thousand has no time for questions
                waiting = (await queue.status()).waiting


async def cost(given: argparse.Namespace) -> None:
    table = Table(title="from the end of a green gate to the moved branch (ms, medians)")
    titles = ["files", "queued", "ours", "floor", f"ratio (goal {GOAL_COST})"]
    for column in (*titles, "rest of the gate", "workflow", "hop", "landing"):
        table.add_column(column, justify="right")
    cells = [(given.files[0], queued) for queued in given.queued]
    cells += [(files, given.queued[0]) for files in given.files[1:]]
    for files, queued in cells:
        costs = await cost_of(files, queued, given.rounds)
        ours, floor = statistics.median(costs.ours), statistics.median(costs.floor)
        parts = [statistics.median(part) for part in zip(*costs.parts, strict=True)]
        table.add_row(
            f"{files:,}", f"{queued:,}", f"{ours * 1000:.0f}", f"{floor * 1000:.0f}", f"{ours / floor:.1f}",
            *(f"{part * 1000:.0f}" for part in parts),
        )  # fmt: skip
    Console(width=120).print(table)


# --- a long line -------------------------------------------------------------------------------------


async def long(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as made:
        async with server() as client:
            kit = Kit(client, Path(made))
            queue = Queue(kit)
            queue.configure("true")
            names = [f"b{number}" for number in range(given.branches)]
            branches(kit.repo, {name: f"new-{name}" for name in names})
            async with worker(kit, given.gate_slots) as pid:
                await _long(given, queue, names, pid)


async def _long(given: argparse.Namespace, queue: Queue, names: list[str], pid: int) -> None:
    table = Table(title=f"{given.branches:,} branches through one queue, {given.gate_slots} slots")
    for column in ("answered", "seconds", "memory of the worker (MB)"):
        table.add_column(column, justify="right")
    started, answered, outcomes = time.monotonic(), 0, Counter[str]()

    def note() -> None:
        table.add_row(f"{answered:,}", f"{time.monotonic() - started:.0f}", f"{_memory(pid):.0f}")

    async def wait_for(landing: Landing) -> None:
        nonlocal answered
        outcomes[(await landing.result()).outcome] += 1
        answered += 1
        if answered % max(given.branches // 10, 1) == 0:
            note()

    await queue.open()
    note()
    landings = [await queue.send(name) for name in names]
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*map(wait_for, landings))
    tree = set(git(queue.kit.repo, "ls-tree", "--name-only", "main").split())
    client = queue.kit.client
    runs = [found.run_id async for found in client.list_workflows(f"WorkflowId = '{queue.id}'")]
    events = [(await client.get_workflow_handle(queue.id, run_id=run).describe()).history_length for run in runs]
    status: Any = await queue.status()
    console = Console()
    console.print(table)
    console.print(f"outcomes: {dict(outcomes)}; on main: {sum(f'new-{name}' in tree for name in names):,}")
    console.print(f"moves of main: {len(git(queue.kit.repo, 'reflog', 'show', 'main').splitlines()) - 2:,}; "
                  f"runs of the gate: {queue.runs():,}; left in the queue: {len(status.places)}")  # fmt: skip
    console.print(f"events of each run of the queue (goal: under {GOAL_EVENTS:,}): {events[::-1]}")


def _memory(pid: int) -> float:
    """Resident, in MB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("throughput")
    part.set_defaults(run=throughput)
    part.add_argument("--full", action="store_true", help="all shares and slots, and twice as long")
    part.add_argument("--gates", type=float, help="so many durations of the gates for each cell")
    part.add_argument("--seconds", type=float, default=1.0, help="that the gates take")
    part.add_argument("--bad", type=float, nargs="+", choices=SHARES)
    part.add_argument("--slots", type=int, nargs="+", choices=SLOTS)
    part.add_argument("--seed", type=int, default=1)
    part.add_argument("--at-once", type=int, default=max(SLOTS), help="gates that sleep at the same time, of all cells")
    part = parts.add_parser("cost")
    part.set_defaults(run=cost)
    part.add_argument("--rounds", type=int, default=7, help="landings for each median")
    part.add_argument("--queued", type=int, nargs="+", default=[10, 100, 1_000])
    part.add_argument("--files", type=int, nargs="+", default=[200, 5_000, 50_000])
    part = parts.add_parser("long")
    part.set_defaults(run=long)
    part.add_argument("--branches", type=int, default=1_000)
    part.add_argument("--gate-slots", type=int, default=4)
    given = parser.parse_args()
    asyncio.run(given.run(given))


if __name__ == "__main__":
    main()
    time.sleep(0.5)  # as in worker.py
