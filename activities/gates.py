"""Gates: shell commands that must exit 0 on one exact commit."""

from __future__ import annotations

import time
from pathlib import Path

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities import fence, process
from activities.contracts import GateResult, GatesInput, GatesResult
from activities.faults.project import classify
from activities.git import slot
from activities.git.repository import open_repository
from activities.settings import GateSpec, tail
from activities.site import Site, blocking, progress, worktree_of

TAIL_BYTES = 3_000
"""FEATURES A11."""
CLASSIFIED_BYTES = 20_000
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
        run = self._in_worktree if given.where == "worktree" else self._in_slot
        results = await run(given, logs)
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
        results = await self._run_all(given, worktree.path, logs, self.site.home.worktree_lock(ref.key))
        await blocking(worktree.put_back, given.commit)
        return results

    async def _in_slot(self, given: GatesInput, logs: Path) -> list[GateResult]:
        repository = await blocking(open_repository, given.ref.repo)
        folder = self.site.home.repository(repository.common_dir) / "slots"
        with slot.take(folder, MOST_SLOTS) as taken:
            lock = taken.folder / "gates.lock"
            (await fence.take(lock)).close()
            tree = await blocking(slot.checkout, taken, repository, given.commit)
            return await self._run_all(given, tree, logs, lock)

    async def _run_all(self, given: GatesInput, tree: Path, logs: Path, lock: Path) -> list[GateResult]:
        results: list[GateResult] = []
        for gate in given.gates:
            progress()["gate"] = gate.name
            results.append(await self._run(gate, tree, logs / f"{gate.name}.log", lock, given.ref.key))
            if not results[-1].passed:
                break
        return results

    async def _run(self, gate: GateSpec, tree: Path, log: Path, lock: Path, key: str) -> GateResult:
        temporary = self.site.home.run(key) / "tmp"
        temporary.mkdir(exist_ok=True)
        command = process.Command(
            argv=["/bin/sh", "-c", gate.command],
            cwd=tree,
            env={**process.base_environment(), "TMPDIR": str(temporary)},
        )
        try:
            # Both outputs in one file, in the order in which they were written.
            ended = await process.run(command, stdout=log, stderr=log, lock=lock, wall_seconds=gate.timeout_seconds)
        except process.Busy as busy:
            raise ApplicationError(str(busy), type="Busy") from busy
        found = None if ended.exit_code == 0 else classify(_end_of(log, CLASSIFIED_BYTES), ended.exit_code)
        end = "" if ended.by == "exit" else f"\nended by the time-out of {gate.timeout_seconds:g} s"
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


def _end_of(log: Path, limit: int) -> str:
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - limit, 0))
        return file.read().decode("utf-8", "replace")
