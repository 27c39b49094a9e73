"""Many tasks that end in every way, with workers that are killed at random: afterwards nothing is left of them.

MERGEWRIGHT_TASKS=200 for the whole of it; fewer otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from functools import partial
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle

from activities.ages import DAY
from activities.disk import used
from activities.janitor import clean_up
from activities.runs import asking
from tests.git.repos import git
from tests.kit import Kit, leftovers
from tests.test_janitor import let_pass
from tests.test_kill import ended, start_worker, until_up
from workflows.contracts import TaskResult

TASKS = int(os.environ.get("MERGEWRIGHT_TASKS", "24"))
KILLS = max(3, TASKS // 10)
MINUTES = 20
"""After the last kill: who has not ended by then never will."""
ENDS = ("merged", "failed", "abandon", "cancel", "terminate")


async def start(kit: Kit, number: int) -> WorkflowHandle[Any, TaskResult]:
    chance = random.Random(number)
    step: dict[str, Any] = {"sleep": chance.uniform(0.1, 1.5), "write": {f"new{number}.txt": f"{number}\n"}}
    if number % len(ENDS):  # these do not come to their end by themselves
        step |= {"shell": "git add -A; echo more >> README.md", "say": "NEEDS_FOLLOWUP x"}
    agent = kit.agent(executor=[step])
    on_blocked = "fail" if ENDS[number % len(ENDS)] == "failed" else "wait"
    gates = [{"name": "there", "command": f"test -f new{number}.txt"}]
    return await kit.start(kit.input(agent=agent, gates=gates, on_blocked=on_blocked), f"many-{number}")


async def end(handle: WorkflowHandle[Any, TaskResult], number: int) -> None:
    how = ENDS[number % len(ENDS)]
    await asyncio.sleep(random.Random(number).uniform(0, TASKS / 4))
    if how == "abandon":
        await handle.signal("abandon")
    elif how == "cancel":
        await handle.cancel()
    elif how == "terminate":
        await handle.terminate()
    with contextlib.suppress(WorkflowFailureError):
        await handle.result()


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_nothing_is_left_of_many_tasks_that_were_killed_at_random(kit: Kit) -> None:
    chance = random.Random(3)
    kit.home.create()
    kit.configure("[keep]\nsalvage_count = 0\n")
    address = kit.client.service_client.config.target_host
    workers = [start_worker(kit, "--address", address)]
    async with ended(workers):
        await until_up(kit, 1)
        before = used(kit.home.root)
        handles = [await start(kit, number) for number in range(TASKS)]
        ends = [asyncio.create_task(end(handle, number)) for number, handle in enumerate(handles)]
        over, began = asyncio.gather(*ends), time.monotonic()
        for number in range(KILLS):
            await until_up(kit, number + 1)
            await asyncio.wait([over], timeout=chance.uniform(1, TASKS / 5))
            workers[-1].kill()
            workers[-1].wait()
            workers.append(start_worker(kit, "--address", address))
            print(_ended(ends, began), f"{number + 1} kills")
        await asyncio.wait([over], timeout=MINUTES * 60)
        assert over.done(), _ended(ends, began)
        await over
        print(_ended(ends, began))
    clean = partial(clean_up, await asking(kit.client), kit.home)
    done = await clean()
    assert done.left == []
    kit.assert_clean()
    assert {ref.split("/")[2] for ref in kit.refs()} <= {"salvage"}
    for number in range(0, TASKS, len(ENDS)):
        assert kit.show(f"new{number}.txt") == str(number)
    saved = {name for ref in kit.refs() for name in git(kit.repo, "ls-tree", "--name-only", ref).split()}
    written = {path.parent.parent.parent.name for path in (kit.home.root / "runs").glob("*/turns/*/result.json")}
    for number in range(TASKS):
        if any(name.startswith(f"many-{number}.") for name in written):
            assert f"new{number}.txt" in saved or number % len(ENDS) == 0

    let_pass(kit.home, time.time() + 31 * DAY)
    assert (await clean(now=time.time() + 31 * DAY)).left == []
    assert kit.refs() == []
    assert len(git(kit.repo, "worktree", "list").splitlines()) == 1
    assert leftovers(kit.home.root) == []
    rest = {str(path.relative_to(kit.home.root)): used(path) for path in kit.home.root.rglob("*") if path.is_file()}
    assert used(kit.home.root) - before < 200_000 + 1_000 * TASKS, _largest(rest)


def _ended(ends: list[asyncio.Task[None]], began: float) -> str:
    return f"{sum(one.done() for one in ends)} of {len(ends)} had ended after {time.monotonic() - began:.0f} s"


def _largest(files: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(files.items(), key=lambda file: -file[1])[:20]
