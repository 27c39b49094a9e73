"""What visibility shows of tasks, on a real server: search attributes, registered once, and the glance in the memo."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from console.glance import Seen, seen
from service import attributes
from service.attributes import WANTED, cloud_command, command, ensure_attributes
from tests.git.repos import commit
from tests.kit import Kit, status_when
from tests.queue_kit import Queue

WRITE = {"write": {"a.txt": "x\n"}}


async def test_they_are_registered_once_by_however_many_workers(client: Client) -> None:
    events = [asyncio.Event() for _ in range(4)]
    await asyncio.gather(*(ensure_attributes(client, event) for event in events))
    again = asyncio.Event()
    await ensure_attributes(client, again)
    assert all(event.is_set() for event in [*events, again])
    request = ListSearchAttributesRequest(namespace=client.namespace)
    there = (await client.operator_service.list_search_attributes(request)).custom_attributes
    assert WANTED.items() <= dict(there).items()


def test_a_person_is_told_the_command_that_registers_them() -> None:
    told = command("work")
    assert told.startswith("temporal operator search-attribute create --namespace work --name TaskStage --type Keyword")
    assert "--name TaskLabels --type KeywordList --name TaskCost --type Double" in told
    assert '--sa "TaskLabels=KeywordList"' in cloud_command("work")


async def found_when(client: Client, query: str, wanted: Callable[[Seen], bool] = lambda _: True) -> Seen:
    """The one task that the query finds, once it is as wanted: visibility comes after the event."""
    last: list[Seen] = []
    for _ in range(300):
        last = await seen(client, query)
        if len(last) == 1 and wanted(last[0]):
            return last[0]
        await asyncio.sleep(0.1)
    raise AssertionError(f"{query}: last {last}")


async def test_a_task_is_found_by_its_stage_all_along_its_life(kit: Kit) -> None:
    agent = kit.agent(
        planner=[{"say": "The plan"}],
        executor=[
            {"say": "NEEDS_FOLLOWUP why", "usage": {"cost_usd": 2.5}},
            {"say": "NEEDS_FOLLOWUP why"},
            WRITE,
        ],
    )
    only = f'TaskRepository="{kit.repo}" AND TaskTarget="main" AND TaskRuntime="command"'
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, interactive=True, labels=["auth", "api"]))
        waits = await found_when(kit.client, f'TaskStage="AwaitingApproval" AND TaskLabels="auth" AND {only}')
        assert (waits.task_id, waits.labels) == (handle.id, ("auth", "api"))
        assert waits.glance.title == "Do it"
        assert "approve_plan" in waits.glance.next_command
        await handle.execute_update("approve_plan")
        blocked = await found_when(kit.client, f'TaskStage="Blocked" AND TaskBlocked="NeedsFollowup" AND {only}')
        assert (blocked.glance.blocked, blocked.glance.why, blocked.glance.turns) == ("needs follow-up", "why", 3)
        assert await found_when(kit.client, f"TaskCost > 2 AND TaskCost < 3 AND {only}")
        await handle.execute_update("continue_task", "go on")
        await handle.result()
        merged = await found_when(kit.client, f'TaskStage="Ended" AND TaskOutcome="merged" AND {only}')
        assert (merged.running, merged.stage, merged.glance.blocked) == (False, "merged", "")
        assert await seen(kit.client, f'TaskBlocked="NeedsFollowup" AND {only}') == []
        queues = kit.client.list_workflows(f'WorkflowType="MergeQueueWorkflow" AND TaskRepository="{kit.repo}"')
        assert len([queue async for queue in queues]) == 1


async def test_what_is_blocked_before_it_is_prepared_is_seen_too(kit: Kit) -> None:
    commit(kit.repo, {"mergewright.toml": '[worktree]\nsetup = ["echo no such luck; false"]\n'})
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[WRITE])))
        blocked = await found_when(kit.client, f'TaskBlocked="Setup" AND TaskRepository="{kit.repo}"')
        assert "no such luck" in (await status_when(handle, lambda now: now.blocked is not None)).model_dump_json()
        assert blocked.stage == "blocked"
        await handle.execute_update("abandon")
        await handle.result()


async def test_a_landing_is_seen_as_tasks_are(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("true", protected=["ci/"])
    queue.branch("feature", {"ci/run": "true\n"})
    async with kit.worker():
        handle = await queue.send("feature")
        waits = await found_when(kit.client, f'TaskStage="MergeQueue" AND TaskRepository="{kit.repo}"')
        assert (waits.task_id, waits.glance.title) == (handle.id, "land feature")
        await queue.when(lambda now: bool(now.places) and now.places[0].state == "approval")
        await queue.handle.execute_update("allow", queue.task("feature"))
        await handle.result()
        merged = await found_when(kit.client, f'TaskOutcome="merged" AND TaskRepository="{kit.repo}"')
        assert (merged.stage, merged.glance.waiting_for) == ("merged", "")


async def test_without_search_attributes_the_memo_says_it_all(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "WANTED", {"TaskNobodyRegistered": 2})

    async def refused(*_: object) -> None:
        raise RPCError("no permission", RPCStatusCode.PERMISSION_DENIED, b"")

    monkeypatch.setattr(attributes, "_register", refused)
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[WRITE])))
        assert (await handle.result()).outcome == "merged"
    ended = await found_when(kit.client, f'WorkflowId="{handle.id}"', lambda now: not now.running)
    assert (ended.stage, ended.glance.turns) == ("merged", 1)
    assert await seen(kit.client, f'TaskRepository="{kit.repo}"') == []
    kinds = Counter(EventType.Name(event.event_type) for event in (await handle.fetch_history()).events)
    assert kinds["EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED"] == 5  # work, gates, merge queue, settle, ended
    assert kinds["EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES"] == 0
