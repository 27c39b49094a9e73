"""The merge queue through whole tasks: what it tests, what it sends back, how operators steer it."""

from __future__ import annotations

import asyncio
from typing import Any

from activities.git.repository import open_repository
from activities.merging import queue_id
from tests.git.repos import commit, git
from tests.kit import Kit, status_when
from tests.queue_kit import Queue
from workflows.contracts import Code, MergeAnswer, QueueStatus, Stage, TaskStatus

TOGETHER = {"name": "apart", "command": "! { test -f left && test -f right; }"}


def the_queue(kit: Kit) -> Any:
    return kit.client.get_workflow_handle(queue_id(open_repository(str(kit.repo)), "refs/heads/main", kit.task_queue))


async def test_green_apart_and_red_together_goes_back_to_its_agent(kit: Kit) -> None:
    def agent(name: str) -> dict[str, Any]:
        executor = [{"sleep": 1, "write": {name: "x\n"}}]
        return kit.agent(executor=executor, fixer=[{"delete": [name], "write": {f"{name}-renamed": "x\n"}}])

    async with kit.worker():
        both = await asyncio.gather(*(kit.run(agent=agent(name), gates=[TOGETHER]) for name in ("left", "right")))
        status: QueueStatus = await the_queue(kit).query("queue", result_type=QueueStatus)
    assert [result.outcome for result in both] == ["merged", "merged"]
    assert sorted(result.turns for result in both) == [1, 2]
    files = set(git(kit.repo, "ls-tree", "--name-only", "main").splitlines())
    assert not {"left", "right"} <= files
    prompt = next((kit.home.root / "runs").glob("*/turns/002-fixer/prompt.md")).read_text()
    assert "merged with the target's present state" in prompt
    confirmed = list(kit.home.root.glob("repositories/*/gates/*-1/apart.log"))
    assert len(confirmed) == 1  # red was run once more before it was believed
    answer = next(answer for answer in status.last if answer.kind == "gate_red")
    assert (answer.code, answer.evidence.fails_alone) == (Code.SEMANTIC_CONFLICT, True)
    assert answer.evidence.landed_by == kit.trailers("Task-Id")[-1:]


async def test_what_a_task_has_tested_before_is_not_tested_again(kit: Kit) -> None:
    log = kit.folder / "runs"
    gate = {"name": "test", "command": f"echo run >> {log}"}
    async with kit.worker():
        assert (
            await kit.run(agent=kit.agent(executor=[{"write": {"a.txt": "x\n"}}]), gates=[gate])
        ).outcome == "merged"
        first = log.read_text().count("run")
        commit(kit.repo, {"mergewright.toml": "[queue]\nprecheck = false\n"})
        assert (
            await kit.run(agent=kit.agent(executor=[{"write": {"b.txt": "x\n"}}]), gates=[gate])
        ).outcome == "merged"
    assert (first, log.read_text().count("run")) == (1, 3)


async def test_a_push_from_outside_costs_nobody_anything(kit: Kit) -> None:
    commit(kit.repo, {"mergewright.toml": "[queue]\nprecheck = false\n"})
    slow = {"name": "slow", "command": "case $PWD in */slots/*) test -e outside.txt || sleep 60;; esac"}
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[{"write": {"a.txt": "x\n"}}]), gates=[slow]))
        await status_when(handle, lambda now: now.stage is Stage.QUEUE)
        for _ in range(300):
            if list(kit.home.root.glob("repositories/*/slots/0/tree/a.txt")):
                break
            await asyncio.sleep(0.1)
        pushed = commit(kit.repo, {"outside.txt": "a person\n"})
        result = await handle.result()
    assert (result.outcome, result.turns) == ("merged", 1)
    assert git(kit.repo, "rev-parse", "main^1") == pushed
    kit.assert_clean()


async def test_the_queue_is_paused_seen_and_resumed(kit: Kit) -> None:
    async with kit.worker():
        first = await kit.run(agent=kit.agent(executor=[{"write": {"a.txt": "x\n"}}]))
        queue = the_queue(kit)
        assert "paused" in await queue.execute_update("pause")
        handle = await kit.start(kit.input(agent=kit.agent(executor=[{"write": {"b.txt": "x\n"}}])))
        await status_when(handle, lambda now: now.stage is Stage.QUEUE)
        await asyncio.sleep(1)
        seen: QueueStatus = await queue.query("queue", result_type=QueueStatus)
        assert (seen.mode, [place.state for place in seen.places]) == ("paused", ["waiting"])
        assert seen.places[0].task_id == handle.id
        assert git(kit.repo, "rev-parse", "main") == first.sha
        assert "goes on" in await queue.execute_update("resume")
        assert (await handle.result()).outcome == "merged"


async def test_a_rewind_takes_the_candidate_out_of_the_queue_first(kit: Kit) -> None:
    async with kit.worker():
        await kit.run(agent=kit.agent(executor=[{"write": {"a.txt": "x\n"}}]))
        await the_queue(kit).execute_update("pause")
        executor = [{"write": {"b.txt": "good\n"}, "say": "NEEDS_FOLLOWUP x"}, {"write": {"b.txt": "bad\n"}}, {}]
        handle = await kit.start(kit.input(agent=kit.agent(executor=executor)))
        await status_when(handle, lambda now: now.stage is Stage.QUEUE)
        await handle.execute_update("pause")
        await handle.execute_update("rewind", 1)
        await status_when(handle, lambda now: now.stage is Stage.PAUSED)
        seen: QueueStatus = await the_queue(kit).query("queue", result_type=QueueStatus)
        assert seen.places == []
        await the_queue(kit).execute_update("resume")
        await handle.execute_update("resume")
        result = await handle.result()
    assert (result.outcome, kit.show("b.txt")) == ("merged", "good")
    kit.assert_clean()


async def test_a_rewind_that_comes_too_late_is_told(kit: Kit) -> None:
    """Both are there when the task looks: what an operator wants, and that its work has landed."""
    async with kit.worker():
        await kit.run(agent=kit.agent(executor=[{"write": {"a.txt": "x\n"}}]))
        await the_queue(kit).execute_update("pause")
        handle = await kit.start(kit.input(agent=kit.agent(executor=[{"write": {"b.txt": "x\n"}}])))
        seen = await Queue(kit).when(lambda now: bool(now.places))
    await handle.signal("pause")
    await handle.signal("rewind", 1)
    await handle.signal("merge_answer", MergeAnswer(op=seen.places[0].op, kind="landed", sha="1" * 40))
    async with kit.worker():
        assert (await handle.result()).outcome == "merged"
        [problem] = (await handle.query("status", result_type=TaskStatus)).problems
    assert problem == "no rewind to turn 1: the work had landed before it could be taken back"


async def test_a_task_abandoned_in_the_queue_is_taken_out(kit: Kit) -> None:
    async with kit.worker():
        await kit.run(agent=kit.agent(executor=[{"write": {"a.txt": "x\n"}}]))
        await the_queue(kit).execute_update("pause")
        handle = await kit.start(kit.input(agent=kit.agent(executor=[{"write": {"b.txt": "x\n"}}])))
        await status_when(handle, lambda now: now.stage is Stage.QUEUE)
        await handle.signal("abandon")
        result = await handle.result()
        await the_queue(kit).execute_update("resume")
        seen: QueueStatus = await the_queue(kit).query("queue", result_type=QueueStatus)
    assert (result.outcome, seen.places) == ("abandoned", [])
    assert kit.refs() == [result.salvage_ref]
    assert result.salvage_ref is not None
    assert kit.show("b.txt", result.salvage_ref) == "x"
    assert "b.txt" not in git(kit.repo, "ls-tree", "--name-only", "main")
    kit.assert_clean()
