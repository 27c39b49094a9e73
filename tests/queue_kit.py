"""Branches of people on their way through a real merge queue: what the tests of the queue share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHandle

from activities.git.repository import open_repository
from activities.merging import queue_id
from tests.git.landings import work
from tests.git.repos import commit, git
from tests.kit import Kit
from workflows.contracts import LandResult, QueueState, QueueStatus

MAIN = "refs/heads/main"
Landing = WorkflowHandle[Any, LandResult]


class Queue:
    """The merge queue of a kit's repository, and branches that are sent into it."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.log = kit.folder / "gate-runs"
        self.id = queue_id(open_repository(str(kit.repo)), MAIN, kit.task_queue)
        self.handle: Any = kit.client.get_workflow_handle(self.id)

    def configure(self, gate: str, **queue: Any) -> None:
        """Commits a mergewright.toml with one gate, whose runs in slots are counted, and the table [queue]."""
        command = f"case $PWD in */slots/*) echo run >> {self.log};; esac; {gate}"
        fields = "".join(f"{name} = {json.dumps(value)}\n" for name, value in queue.items())
        text = f"[[gates]]\nname = 'test'\ncommand = {json.dumps(command)}\n[queue]\n{fields}"
        commit(self.kit.repo, {"mergewright.toml": text}, "settings")

    def runs(self) -> int:
        """How often the gate ran in a slot."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def branch(self, name: str, files: Mapping[str, str | None], base: str = "main") -> str:
        sha = work(self.kit.repo, files, base=base, message=f"work on {name}")
        git(self.kit.repo, "branch", "--force", name, sha)
        return sha

    def task(self, name: str) -> str:
        """Id of the workflow that lands a branch: the tests share a server."""
        return f"{self.kit.task_queue}.{name}"

    async def open(self, mode: str = "open") -> None:
        """Before the first candidate: a queue that is paused lets them gather."""
        state = QueueState.model_validate({"repo": str(self.kit.repo), "target": MAIN, "mode": mode})
        await self.kit.client.start_workflow("MergeQueueWorkflow", state, id=self.id, task_queue=self.kit.task_queue)

    async def send(self, name: str, **request: Any) -> Landing:
        given = {"repo": str(self.kit.repo), "branch": name, **request}
        handle: Landing = await self.kit.client.start_workflow(
            "LandWorkflow", given, id=self.task(name), task_queue=self.kit.task_queue, result_type=LandResult
        )
        return handle

    async def status(self) -> QueueStatus:
        found: QueueStatus = await self.handle.query("queue", result_type=QueueStatus)
        return found

    async def when(self, wanted: Callable[[QueueStatus], bool]) -> QueueStatus:
        """The status once it is as wanted."""
        last: QueueStatus | None = None
        for _ in range(300):
            try:
                last = await self.status()
                if wanted(last):
                    return last
            except Exception as error:  # it has not begun yet
                if "not found" not in str(error):
                    raise
            await asyncio.sleep(0.1)
        raise AssertionError(f"not in 30 s; last: {last}")

    async def gathered(self, *names: str) -> QueueStatus:
        return await self.when(lambda now: {place.task_id for place in now.places} >= set(map(self.task, names)))

    async def together(self, *names: str) -> tuple[list[str], dict[str, LandResult]]:
        """All of them wait before the first is tested: the tasks in order of arrival, and how each branch ended."""
        await self.open("paused")
        landings = [await self.send(name) for name in names]
        arrived = [place.task_id for place in (await self.gathered(*names)).places]
        await self.handle.execute_update("resume")
        return arrived, dict(zip(names, await ended(*landings), strict=True))


async def ended(*landings: Landing) -> list[LandResult]:
    async with asyncio.timeout(40):
        return list(await asyncio.gather(*(landing.result() for landing in landings)))


def on_main(repo: Path) -> set[str]:
    return set(git(repo, "ls-tree", "-r", "--name-only", "main").splitlines())
