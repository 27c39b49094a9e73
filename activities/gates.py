"""Gates: shell commands that must exit 0 on one exact commit."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities import boxes, fence, process
from activities.config import BadConfig, load
from activities.contracts import GateResult, GatesInput, GatesResult, Tested, TestInput
from activities.faults.project import classify
from activities.git import slot
from activities.git.landing import base_of
from activities.git.repository import Repository, open_repository
from activities.results import Results
from activities.sandbox import Limits, Sandbox
from activities.settings import GateSpec, tail
from activities.site import Site, blocking, progress, worktree_of

log = structlog.get_logger()

TAIL_BYTES = 3_000
"""FEATURES A11."""
CLASSIFIED_BYTES = 20_000
KEPT_RUNS = 500
"""Logs of so many runs in the slots of one repository are kept."""
LOOK_SECONDS = 2.0
LOOK_REMOTE_SECONDS = 15.0
MOST_SLOTS = 256
"""Of one repository and data folder. How many gates run at once is the workers' affair (`--gate-slots`)."""


class GateActivities:
    def __init__(self, site: Site) -> None:
        self.site = site

    @activity.defn
    async def run_gates(self, given: GatesInput) -> GatesResult:
        """In order, up to the first red one. A second run runs them again: a gate changes nothing that counts."""
        waited = activity.info().started_time - activity.info().current_attempt_scheduled_time
        started = time.monotonic()
        logs = self.site.home.run(given.ref.key) / "gates" / f"{given.where}-{given.commit[:12]}-{given.number}"
        logs.mkdir(parents=True, exist_ok=True)
        results = await self._in_worktree(given, logs)
        await blocking(self._remember, given, results)
        return GatesResult(
            passed=all(result.passed for result in results),
            results=results,
            seconds=time.monotonic() - started,
            waited_seconds=waited.total_seconds(),
        )

    async def _in_worktree(self, given: GatesInput, logs: Path) -> list[GateResult]:
        ref = given.ref
        worktree = await blocking(worktree_of, self.site.home, ref)
        (await fence.take(self.site.home.worktree_lock(ref.key))).close()
        # What a gate writes is no work: the tree is put back to the commit, also after one that was killed.
        if activity.info().attempt > 1:
            await blocking(worktree.put_back, given.commit)
        box = self.site.home.box(ref.key, "gate")
        room = await blocking(self._room, worktree.repository, worktree.path, box)
        results = await self._run_all(given.gates, room, logs, self.site.home.worktree_lock(ref.key))
        await blocking(worktree.put_back, given.commit)
        return results

    @activity.defn
    async def test_chain(self, given: TestInput) -> Tested:
        """All gates of its candidates on the tip of a chain, in a clean slot.

        Ends early, as `moved`, when somebody pushes to the target: the result would be of no use. A second run runs
        them again.
        """
        waited = activity.info().started_time - activity.info().current_attempt_scheduled_time
        started = time.monotonic()
        repository = await blocking(open_repository, given.repo)
        running = asyncio.ensure_future(self._in_slot(repository, given))
        watching = asyncio.ensure_future(_until_moved(repository, given))
        try:
            await asyncio.wait([running, watching], return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            if not running.done():
                running.cancel()
                await asyncio.wait([running])
        results = None if running.cancelled() else running.result()
        return Tested(
            kind="moved" if results is None else "green" if all(result.passed for result in results) else "red",
            results=results or [],
            seconds=time.monotonic() - started,
            waited_seconds=waited.total_seconds(),
        )

    async def _in_slot(self, repository: Repository, given: TestInput) -> list[GateResult]:
        home = self.site.home
        folder = home.repository(repository.common_dir)
        gates = await blocking(self._gates_of, repository, given)
        logs = folder / "gates" / f"{given.tip[:12]}-{given.number}"
        logs.mkdir(parents=True, exist_ok=True)
        await blocking(_keep_newest, logs.parent)
        with slot.take(folder / "slots", MOST_SLOTS) as taken:
            lock = taken.folder / "gates.lock"
            (await fence.take(lock)).close()
            tree = await blocking(slot.checkout, taken, repository, given.tip, (given.target, given.base))
            room = await blocking(self._room, repository, tree, taken.folder / "box")
            results = await self._run_all(gates, room, logs, lock)
        passed = [gate.digest() for gate, result in zip(gates, results, strict=False) if result.passed]
        await blocking(
            Results(home.results(repository.common_dir)).keep, given.tree or repository.tree(given.tip), passed, "slot"
        )
        return results

    def _gates_of(self, repository: Repository, given: TestInput) -> list[GateSpec]:
        """All of them: a later one may need what an earlier one has built. Two of a name are told apart."""
        files = [self.site.home.gate(repository.common_dir, digest) for digest in given.gates]
        gates = [GateSpec.model_validate_json(file.read_bytes()) for file in files]
        return [
            gate if _first(gate, gates) else gate.model_copy(update={"name": f"{gate.name}-{gate.digest()[:6]}"})
            for gate in gates
        ]

    def _remember(self, given: GatesInput, results: list[GateResult]) -> None:
        """The same tree need not be tested again in the merge queue."""
        repository = open_repository(given.ref.repo)
        passed = [gate.digest() for gate, result in zip(given.gates, results, strict=False) if result.passed]
        Results(self.site.home.results(repository.common_dir)).keep(repository.tree(given.commit), passed, "worktree")

    def _room(self, repository: Repository, tree: Path, box: Path) -> _Room:
        """Nothing of a former run is in its box: no agent and no gate has a hand in how this one ends."""
        slot.put_away(box)
        env = {**process.base_environment(), "TMPDIR": str(boxes.temporary_of(box))}
        data = self.site.home.root
        try:
            settings = load(data).sandbox
            sandbox = None
            if boxes.wanted(settings):
                read = list(boxes.of_repository(repository))
                network = settings.network_of_gates()
                sandbox = boxes.make(settings, box, env, data=data, write=[tree], read=read, network=network)
        except BadConfig as problem:
            raise ApplicationError(str(problem), type="BadConfig") from problem
        return _Room(tree, env, sandbox, settings.limits.limits())

    async def _run_all(self, gates: Sequence[GateSpec], room: _Room, logs: Path, lock: Path) -> list[GateResult]:
        results: list[GateResult] = []
        for gate in gates:
            progress()["gate"] = gate.name
            results.append(await self._run(gate, room, logs / f"{gate.name}.log", lock))
            if not results[-1].passed:
                break
        return results

    async def _run(self, gate: GateSpec, room: _Room, log: Path, lock: Path) -> GateResult:
        try:
            # Both outputs in one file, in the order in which they were written.
            ended = await process.run(
                room.command(gate), stdout=log, stderr=log, lock=lock, wall_seconds=gate.timeout_seconds
            )
        except process.Busy as busy:
            raise ApplicationError(str(busy), type="Busy") from busy
        found = classify(_end_of(log, CLASSIFIED_BYTES), ended.exit_code, ended.limit.partition(":")[0])
        end = "" if ended.by == "exit" else f"\nended by the time-out of {gate.timeout_seconds:g} s"
        if ended.limit:
            end = f"\nended, as it used more than it may: {ended.limit}"
        return GateResult(
            name=gate.name,
            passed=ended.exit_code == 0,
            fault=found.name if found else "",
            hint=found.hint if found else "",
            hard=bool(found and found.hard),
            exit_code=ended.exit_code,
            seconds=ended.seconds,
            tail=tail(_end_of(log, TAIL_BYTES) + end),
            log=str(log),
        )


@dataclass(frozen=True)
class _Room:
    """Where gates run one after the other."""

    tree: Path
    env: dict[str, str]
    sandbox: Sandbox | None
    limits: Limits

    def command(self, gate: GateSpec) -> process.Command:
        sandbox = self.sandbox
        if sandbox and gate.network and not process.sandbox_problem(gate.network):
            sandbox = replace(sandbox, network=gate.network)
        return process.Command(
            ["/bin/sh", "-c", gate.command], self.tree, self.env, sandbox=sandbox, limits=self.limits
        )


def _first(gate: GateSpec, gates: Sequence[GateSpec]) -> bool:
    return next(other for other in gates if other.name == gate.name) is gate


async def _until_moved(repository: Repository, given: TestInput) -> None:
    """Until the target is somewhere that the tip does not contain. What else goes wrong is found when it lands."""
    while True:
        await asyncio.sleep(LOOK_REMOTE_SECONDS if given.queue.push else LOOK_SECONDS)
        try:
            now = await blocking(base_of, repository, given.target, given.queue.checkout, given.queue.push)
            if now != given.base and not await blocking(repository.contains, now, given.tip):
                return
        except Exception as problem:  # the gates' result counts all the same
            log.warning("cannot see where the target is", target=given.target, error=str(problem))


def _keep_newest(folder: Path) -> None:
    runs = sorted(folder.iterdir(), key=lambda run: run.stat().st_mtime)
    for run in runs[:-KEPT_RUNS]:
        shutil.rmtree(run, ignore_errors=True)


def _end_of(log: Path, limit: int) -> str:
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - limit, 0))
        return file.read().decode("utf-8", "replace")
