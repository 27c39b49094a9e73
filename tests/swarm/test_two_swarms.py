"""Swarms beside and after each other on one repository: they share its merge queue, its tasks and an account."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from tests.git.repos import commit, git
from tests.kit import Kit, status_when
from tests.swarm import kit as swarms
from tests.swarm.test_swarm import NONE_LEFT, holders, landed, until
from workflows.contracts import Stage, TaskResult
from workflows.swarm_contracts import BoardPage, SwarmStatus


def task_files(count: int) -> dict[str, bytes | str | None]:
    return {
        f"tasks/pending/f{number}.json": json.dumps({"id": f"f{number}", "summary": f"File {number}"})
        for number in range(count)
    }


async def done_by(handle: swarms.Handle) -> list[str]:
    page = await handle.query("board", result_type=BoardPage)
    return sorted(line.id for line in page.lines if line.place == "complete")


async def problems(handle: swarms.Handle) -> list[str]:
    status: SwarmStatus = await handle.query("swarm", result_type=SwarmStatus)
    return sorted(status.problems)


async def refusals(kit: Kit, cycle: str) -> list[dict[str, str]]:
    """Of claims: what its swarm has told a cycle."""
    decode, found = kit.client.data_converter.payload_converter.from_payload, []
    for event in (await kit.client.get_workflow_handle(cycle).fetch_history()).events:
        told = event.workflow_execution_signaled_event_attributes
        if told.signal_name == "claim_answer":
            found += decode(told.input.payloads[0])["refused"]
    return found


async def working(kit: Kit, handle: swarms.Handle, task: str) -> Any:
    """The cycle that does a task, once its agent is at it."""
    await until(handle, lambda now: now.counts["current"] > 0)
    cycle = kit.client.get_workflow_handle((await holders(handle))[task], result_type=TaskResult)
    await status_when(cycle, lambda now: now.stage is Stage.WORK)
    return cycle


@pytest.mark.long
async def test_two_at_once_do_each_task_once_and_share_queue_and_account(kit: Kit) -> None:
    commit(kit.repo, task_files(3))
    account = f"both-{uuid.uuid4().hex[:6]}"
    config = f'[accounts."command/{account}"]\nslots = 1\n'
    shared = {"account": account}
    agent = {**swarms.agent(kit, sleep=0.5, alone=str(kit.folder / "alone")), **shared}
    asking = {**swarms.agent(kit, sleep=0.5, alone=str(kit.folder / "alone"), asks=["f2"]), **shared}
    async with kit.worker():
        one = await swarms.start(kit, config=config, workers=[{"agent": agent, "count": 2}])
        await one.execute_update("add", [{"id": "one", "title": "Of the first"}])
        await until(one, lambda now: sum(now.counts.values()) == 4)
        other = await swarms.start(kit, config=config, workers=[{"agent": asking, "claims": True}])
        await other.execute_update("add", [{"id": "two", "title": "Of the other", "priority": 5}])
        results = await asyncio.gather(swarms.over(kit, one), swarms.over(kit, other))
        assert [await done_by(one), await done_by(other)] == [["f0", "f1", "f2", "one"], ["two"]]
        assert await problems(other) == [f"f{number}: swarm {one.id} has it" for number in range(3)]
    assert [result.reason for result in results] == ["all tasks are complete"] * 2
    assert landed(kit) == ["f0", "f1", "f2", "one", "two"]
    assert await refusals(kit, f"{other.id}-worker-1.1-1") == [{"id": "f2", "why": "not on the board"}]
    assert sum(member.tally.errors for result in results for member in result.members) == 0  # who met another fails
    assert kit.trailers("Task-Id")[0].startswith(f"{one.id}-")  # the other did not have to wait for the end of it all
    began = {cycle.rpartition("-worker-")[0] for cycle in kit.trailers("Task-Id")}
    assert began == {one.id, other.id}
    of_kind = [
        [each.id async for each in kit.client.list_workflows(f"WorkflowType = '{kind}' AND TaskQueue = '{queue}'")]
        for kind, queue in (("MergeQueueWorkflow", kit.task_queue), ("QuotaWorkflow", kit.task_queue))
    ]
    assert len(of_kind[0]) == 1
    assert [name for name in of_kind[1] if account in name] == [name for name in of_kind[1] if "command" in name]
    assert len([name for name in of_kind[1] if account in name]) == 1
    kit.assert_clean()


@pytest.mark.long
async def test_what_a_terminated_swarm_leaves_is_its_own_until_its_cycles_are_over(kit: Kit) -> None:
    commit(kit.repo, task_files(2))
    go = kit.folder / "go"
    slow, quick = swarms.agent(kit, until=str(go)), swarms.agent(kit)
    async with kit.worker():
        first = await swarms.start(kit, workers=[{"agent": slow}])
        await first.execute_update("add", [{"id": "own", "title": "Given", "priority": -1}])
        cycle = await working(kit, first, "f0")
        await first.terminate("by hand")

        beside = await swarms.start(kit, workers=[{"agent": quick}])
        await until(beside, lambda now: len(now.problems) == 2)
        assert await problems(beside) == [f"f{number}: swarm {first.id} has it" for number in range(2)]
        await beside.execute_update("stop")
        assert (await swarms.over(kit, beside)).counts == {**NONE_LEFT, "complete": 0}
        early = await swarms.start(kit, workers=[{"agent": quick}], continues=first.id)
        with pytest.raises(WorkflowFailureError) as failed:
            await early.result()
        assert f"continues: {cycle.id}, which {first.id} began, is not over" in str(failed.value.cause)

        go.touch()
        assert (await cycle.result()).outcome == "merged"
        after = await swarms.start(kit, workers=[{"agent": quick}], continues=first.id)
        result = await swarms.over(kit, after)
        status: SwarmStatus = await after.query("swarm", result_type=SwarmStatus)
    assert f"2 tasks that {first.id} has left open are on the board" in status.notes
    assert result.counts == {**NONE_LEFT, "complete": 2}
    assert landed(kit) == ["f0", "f1", "own"]
    assert len(kit.trailers("Task-Id")) == 3
    kit.assert_clean()


@pytest.mark.long
async def test_what_a_stopped_swarm_leaves_blocked_is_its_own_until_its_operator_has_spoken(kit: Kit) -> None:
    commit(kit.repo, task_files(2))
    silent, quick = swarms.agent(kit, odds={"silent": 1}), swarms.agent(kit)
    async with kit.worker():
        workers = [{"agent": silent, "max_working_resumes": 0, "max_cycle": 1}]
        first = await swarms.start(kit, workers=workers)
        await until(first, lambda now: now.stage == "waiting for you")
        [(blocked, cycle)] = (await holders(first)).items()
        await first.execute_update("stop")
        assert (await swarms.over(kit, first)).counts == {**NONE_LEFT, "pending": 1, "blocked": 1, "complete": 0}

        beside = await swarms.start(kit, workers=[{"agent": quick}])
        assert (await swarms.over(kit, beside)).counts == {**NONE_LEFT, "complete": 1}
        assert await problems(beside) == [f"{blocked}: swarm {first.id} has it"]
        stuck = kit.client.get_workflow_handle(cycle)
        await stuck.signal("abandon")
        assert (await stuck.result())["outcome"] == "abandoned"
        after = await swarms.start(kit, workers=[{"agent": quick}])
        assert (await swarms.over(kit, after)).counts == {**NONE_LEFT, "complete": 1}
    assert landed(kit) == ["f0", "f1"]
    kit.assert_clean()


@pytest.mark.long
async def test_a_later_one_does_what_is_written_anew_and_nothing_else_again(kit: Kit) -> None:
    commit(kit.repo, task_files(2))
    agent = swarms.agent(kit)
    async with kit.worker():
        assert (await swarms.over(kit, await swarms.start(kit, workers=[{"agent": agent}]))).counts["complete"] == 2
        commit(kit.repo, {"tasks/pending/f1.json": json.dumps({"id": "f1", "summary": "Otherwise"})})
        later = await swarms.start(kit, workers=[{"agent": agent}])
        result = await swarms.over(kit, later)
        assert await done_by(later) == ["f1"]
    assert result.counts == {**NONE_LEFT, "complete": 1}
    assert [kit.show("done/f0.txt"), kit.show("done/f1.txt")] == ["once f0", "once f1\nagain f1"]
    assert len(git(kit.repo, "log", "--first-parent", "--format=%H", "--", "done/f0.txt").split()) == 1
    kit.assert_clean()
