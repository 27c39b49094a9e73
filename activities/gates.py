"""Gates: shell commands that must exit 0 on one exact commit."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities import fence, process
from activities.contracts import GateResult, GatesInput, GatesResult
from activities.faults.project import classify
from activities.git import extras, slot
from activities.git.landing import base_of
from activities.git.repository import Repository, open_repository
from activities.place import Place, end_of
from activities.queue_contracts import Tested, TestInput
from activities.results import Results
from activities.rooms import Room, furnish
from activities.settings import INVALID_TASK, SETUP_FAILED, GateSpec, WorktreeSettings, tail
from activities.setup import linked, ready, set_up_slot, tear_down_slot, worktree_settings
from activities.site import Site, blocking, progress, write_atomically

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
        again = logs.exists()  # also by an activity before this one, which an operator has ended
        logs.mkdir(parents=True, exist_ok=True)
        results = await self._in_worktree(given, logs, again)
        await blocking(self._remember, given, results)
        return GatesResult(
            passed=all(result.passed for result in results),
            results=results,
            seconds=time.monotonic() - started,
            waited_seconds=waited.total_seconds(),
        )

    async def _in_worktree(self, given: GatesInput, logs: Path, again: bool) -> list[GateResult]:
        ref = given.ref
        (await fence.take(self.site.home.worktree_lock(ref.key))).close()
        worktree = await ready(self.site.home, ref)
        if worktree.cone:  # gates judge the whole, and what passes here counts in the merge queue
            base = await blocking(worktree.refresh)
            return await self._in_slot(worktree.repository, given.gates, given.commit, (ref.target, base), logs)
        # What a gate writes is no work: the tree is put back to the commit, also after one that was killed.
        if again:
            await blocking(worktree.put_back, given.commit)
        home = self.site.home
        room = await blocking(
            self._room, worktree.repository, worktree.path, home.box(ref.key, "gate"), linked(home, ref.key)
        )
        results = await self._run_all(given.gates, room, logs, home.worktree_lock(ref.key))
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
        running = asyncio.ensure_future(self._of_chain(repository, given))
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

    async def _of_chain(self, repository: Repository, given: TestInput) -> list[GateResult]:
        gates = await blocking(self._gates_of, repository, given)
        logs = self.site.home.repository(repository.common_dir) / "gates" / f"{given.tip[:12]}-{given.number}"
        logs.mkdir(parents=True, exist_ok=True)
        await blocking(_keep_newest, logs.parent)
        results = await self._in_slot(repository, gates, given.tip, (given.target, given.base), logs)
        passed = [gate.digest() for gate, result in zip(gates, results, strict=False) if result.passed]
        kept = Results(self.site.home.results(repository.common_dir))
        await blocking(kept.keep, given.tree or repository.tree(given.tip), passed, "slot")
        return results

    async def _in_slot(
        self, repository: Repository, gates: list[GateSpec], commit: str, target: tuple[str, str], logs: Path
    ) -> list[GateResult]:
        """`target`: full ref and sha of the branch that the commit is for."""
        home = self.site.home
        folder = home.repository(repository.common_dir)
        with slot.take(folder / "slots", MOST_SLOTS) as taken:
            lock = taken.folder / "gates.lock"
            (await fence.take(lock)).close()
            tree = await blocking(slot.checkout, taken, repository, commit, target)
            place = Place(
                home=home,
                repository=repository,
                tree=tree,
                commit=commit,
                logs=logs,
                box=taken.folder / "setup-box",
                lock=lock,
                trusted=commit == target[1],
            )
            return await self._run_set_up(gates, taken, place, target[1])

    async def _run_set_up(self, gates: list[GateSpec], taken: slot.Slot, place: Place, base: str) -> list[GateResult]:
        """In a slot that is made ready as the target asks. What fails there is red as a gate is: the work may be to
        blame for it."""
        if not gates:
            return []
        started = time.monotonic()
        settings = WorktreeSettings()
        try:
            settings = await blocking(worktree_settings, place.repository, base)
            found = await blocking(extras.find, place.repository, settings.copy_, settings.link)
            place = replace(place, links=extras.targets(found))
            await set_up_slot(place, settings, found, taken)
        except ApplicationError as error:
            if error.type not in (SETUP_FAILED, INVALID_TASK):
                raise
            seconds = time.monotonic() - started
            return [_not_set_up(error.message, seconds, place.logs)]
        else:
            box = taken.folder / "box"
            room = await blocking(self._room, place.repository, place.tree, box, place.links)
            return await self._run_all(gates, room, place.logs, place.lock)
        finally:
            await tear_down_slot(place, settings)

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

    def _room(self, repository: Repository, tree: Path, box: Path, links: Sequence[Path]) -> Room:
        """Nothing of a former run is in its box: no agent and no gate has a hand in how this one ends."""
        slot.put_away(box)
        return furnish(self.site.home, repository, tree, box, "gates", links)

    async def _run_all(self, gates: Sequence[GateSpec], room: Room, logs: Path, lock: Path) -> list[GateResult]:
        results: list[GateResult] = []
        for gate in gates:
            progress()["gate"] = gate.name
            results.append(await self._run(gate, room, logs / f"{gate.name}.log", lock))
            if not results[-1].passed:
                break
        return results

    async def _run(self, gate: GateSpec, room: Room, log: Path, lock: Path) -> GateResult:
        command = room.command(gate.command, gate.network)
        try:
            # Both outputs in one file, in the order in which they were written.
            ended = await process.run(command, stdout=log, stderr=log, lock=lock, wall_seconds=gate.timeout_seconds)
        except process.Busy as busy:
            raise ApplicationError(str(busy), type="Busy") from busy
        found = classify(end_of(log, CLASSIFIED_BYTES), ended.exit_code, ended.limit.partition(":")[0])
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
            tail=tail(end_of(log, TAIL_BYTES) + end),
            log=str(log),
        )


def _not_set_up(text: str, seconds: float, logs: Path) -> GateResult:
    log = logs / "set-up.log"
    write_atomically(log, text.encode("utf-8", "replace"))
    found = classify(text, 1)
    return GateResult(
        name="set-up",
        passed=False,
        fault=found.name if found else "",
        hint=found.hint if found else "",
        hard=bool(found and found.hard),
        exit_code=1,
        seconds=seconds,
        tail=tail(text),
        log=str(log),
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
