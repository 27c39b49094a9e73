"""Operators decide and steer: approvals bound to what was seen, and every verb does what it says."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ActivityError, ApplicationError

from console import steering
from console.again import continue_ended
from console.steering import Addressee, Chosen, Gone, chosen, send, send_all
from service.devserver import CannotServe
from tests.git.repos import commit, git
from tests.kit import PATIENCE, Kit, status_when
from tests.test_queue import the_queue
from tests.test_starter import starter
from workflows.contracts import Stage, TaskResult
from workflows.task import TaskWorkflow

WRITE = {"write": {"new.txt": "work\n"}}
Handle = WorkflowHandle[Any, TaskResult]


async def refused(handle: Handle, verb: str, *given: Any) -> str:
    with pytest.raises(WorkflowUpdateFailedError) as caught:
        await handle.execute_update(verb, args=given)
    return str(getattr(caught.value.cause, "message", caught.value.cause))


def test_a_refusal_says_what_the_check_said_not_that_it_has_failed() -> None:
    failed = ActivityError(
        "Activity task failed", scheduled_event_id=5, started_event_id=6, identity="", activity_type="check_agent",
        activity_id="1", retry_state=None,
    )  # fmt: skip
    failed.__cause__ = ApplicationError("agent: codex is not installed")
    assert steering.refusal(WorkflowUpdateFailedError(failed)) == "agent: codex is not installed"
    assert steering.refusal(WorkflowUpdateFailedError(ApplicationError("count: 0 to 200"))) == "count: 0 to 200"


async def over(handle: Handle) -> TaskResult:
    return await asyncio.wait_for(handle.result(), PATIENCE)


async def test_what_lands_is_the_commit_that_was_approved(kit: Kit) -> None:
    """What was sent back, and mended, is asked for anew."""
    agent = kit.agent(executor=[WRITE, {"write": {"new.txt": "better\n"}}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, approve_landing=True))
        first = await status_when(handle, lambda now: now.landing is not None)
        assert first.stage is Stage.APPROVAL
        assert f"approve_landing --input '\"{(first.landing or '')[:12]}\"'" in first.next_command
        assert (
            await refused(handle, "approve_plan") == "no plan waits for approval; the landing does: `approve_landing`"
        )
        assert "approve it, or `revise`" in await refused(handle, "retry_stage")
        await handle.execute_update("revise", "do it better")
        second = await status_when(handle, lambda now: now.landing not in (None, first.landing))
        assert "the work has changed" in await refused(handle, "approve_landing", first.landing)
        assert "exactly that commit" in await handle.execute_update("approve_landing", second.landing)
        assert (await over(handle)).outcome == "merged"
    assert git(kit.repo, "rev-parse", "main^2") == second.landing
    assert kit.show("new.txt") == "better"
    prompt = next((kit.home.root / "runs").glob("*/turns/002-executor/prompt.md")).read_text()
    assert "do it better" in prompt
    kit.assert_clean()


@pytest.mark.long
async def test_a_landing_that_the_queue_sends_back_is_approved_again(kit: Kit) -> None:
    agent = kit.agent(executor=[{"append": {"README.md": "mine\n"}}], resolver=[{"resolve": True}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, approve_landing=True))
        first = await status_when(handle, lambda now: now.landing is not None)
        commit(kit.repo, {"README.md": "# app\ntheirs\n"})
        await handle.signal("approve_landing")
        second = await status_when(handle, lambda now: now.landing not in (None, first.landing))
        await handle.signal("approve_landing", second.landing)
        assert (await over(handle)).outcome == "merged"
    assert git(kit.repo, "rev-parse", "main^2") == second.landing


async def test_a_plans_files_are_what_may_change(kit: Kit) -> None:
    plan = {"say": "Do it.\n\n## Files\n\n- `new.txt`\n- docs/ (how to use it)\n"}
    more = {"write": {"new.txt": "work\n", "other.txt": "x\n"}}
    agent = kit.agent(planner=[plan], executor=[more], fixer=[{"say": "NEEDS_FOLLOWUP other.txt must change"}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, interactive=True, limits={"max_needs_followups": 0}))
        waits = await status_when(handle, lambda now: now.stage is Stage.APPROVAL)
        assert waits.planned == ["new.txt", "docs/"]
        await handle.execute_update("approve_plan", waits.plan_hash)
        blocked = await status_when(handle, lambda now: now.blocked is not None)
        assert blocked.unplanned == ["other.txt"]
        assert set(blocked.touched) == {"new.txt", "other.txt"}
        assert [(one.rule, one.severity, one.path) for one in blocked.findings] == [("plan", "mend", "other.txt")]
        assert "allowed" in await handle.execute_update("allow_files", "other.txt")
        await handle.execute_update("switch_agent", kit.agent(fixer=[{}]))  # it says that it is done
        result = await over(handle)
        assert (result.outcome, kit.show("other.txt")) == ("merged", "x")
    fixer = next((kit.home.root / "runs").glob("*/turns/003-fixer/prompt.md")).read_text()
    assert "| plan | other.txt | is not among the files of the plan |" in fixer


async def test_gates_run_again_without_a_turn(kit: Kit) -> None:
    """What was wrong with them lies outside of the worktree."""
    gate = {"name": "there", "command": f"test -e {kit.folder}/mended"}
    async with kit.worker():
        handle = await kit.start(
            kit.input(agent=kit.agent(executor=[WRITE]), gates=[gate], limits={"max_gate_failures": 1})
        )
        await status_when(handle, lambda now: now.blocked is not None)
        (kit.folder / "mended").touch()
        assert "begins anew" in await handle.execute_update("retry_stage")
        result = await over(handle)
    assert (result.outcome, result.turns) == ("merged", 1)


@pytest.mark.long
async def test_a_stage_that_runs_begins_anew(kit: Kit) -> None:
    """A gate that hangs is ended; a turn is taken up again in its session."""
    once = "test -e {0} || {{ touch {0}; sleep 600; }}"
    gate = {"name": "slow", "command": once.format(kit.folder / "gated")}
    step = {"shell": once.format(kit.folder / "turned"), **WRITE}
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[step]), gates=[gate]))
        for mark in ("turned", "gated"):
            await appears(kit, mark)
            assert "begins anew" in await handle.execute_update("retry_stage")
        result = await over(handle)
    assert (result.outcome, result.turns) == ("merged", 1)
    assert kit.show("new.txt") == "work"
    kit.assert_clean()


async def appears(kit: Kit, name: str) -> None:
    for _ in range(600):
        if [*kit.folder.glob(name)]:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"there is no {name}")


async def test_another_agent_takes_over_from_one_that_is_blocked_or_limited(kit: Kit) -> None:
    first = kit.agent(executor=[{**WRITE, "say": "NEEDS_FOLLOWUP x"}, {"fail": 75, "stderr": "retry-after: 9000"}])
    second = kit.agent(executor=[{"say": "NEEDS_FOLLOWUP y"}])
    third = kit.agent(executor=[{"fail": 75, "stderr": "retry-after: 9000"}])
    fourth = kit.agent(executor=[{"append": {"new.txt": "more\n"}}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=first, limits={"max_needs_followups": 0}))
        await status_when(handle, lambda now: now.blocked is not None)
        assert "switch_agent takes an agent" in await refused(handle, "switch_agent")
        assert "nope" in await refused(handle, "switch_agent", "nope:model")
        assert "unknown field" in await refused(handle, "switch_agent", {"runtim": "codex"})
        assert "next turn" in await handle.execute_update("switch_agent", second)
        blocked = await status_when(handle, lambda now: now.blocked is not None and now.turns == 2)
        assert "an operator wanted it" in blocked.warnings[-1]
        await handle.execute_update("switch_agent", third)
        await status_when(handle, lambda now: now.stage is Stage.LIMITED)
        await handle.execute_update("switch_agent", fourth)
        assert (await over(handle)).outcome == "merged"
    assert kit.show("new.txt") == "work\nmore"
    prompt = next((kit.home.root / "runs").glob("*/turns/002-executor/prompt.md")).read_text()
    assert "An earlier session worked on this task" in prompt


async def test_cancel_ends_it_as_cancelled_and_saves_the_work(kit: Kit) -> None:
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[{**WRITE, "say": "NEEDS_FOLLOWUP x"}])))
        await status_when(handle, lambda now: now.blocked is not None)
        assert "cancelled" in await handle.execute_update("cancel")
        result = await over(handle)
    assert (result.outcome, result.reason) == ("cancelled", "cancelled by an operator")
    assert result.salvage_ref is not None


@pytest.mark.long
async def test_pause_holds_between_stages_too(kit: Kit) -> None:
    gate = {
        "name": "slow",
        "command": f"touch {kit.folder}/gated; while test -e {kit.folder}/gated; do sleep 0.1; done",
    }
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[WRITE]), gates=[gate]))
        await appears(kit, "gated")
        await handle.signal("pause")
        (kit.folder / "gated").unlink()
        await status_when(handle, lambda now: now.stage is Stage.PAUSED)
        assert "`resume` goes on" in await refused(handle, "retry_stage")
        await handle.signal("resume")
        assert (await over(handle)).outcome == "merged"


async def test_a_priority_reaches_the_merge_queue(kit: Kit) -> None:
    commit(kit.repo, {"mergewright.toml": '[queue]\nprotected = ["new.txt"]\n'})
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[WRITE])))
        await status_when(handle, lambda now: now.stage is Stage.QUEUE and "leave" in now.waiting_for.lower())
        assert "from -1000 to 1000" in await refused(handle, "set_priority", "high")
        await handle.execute_update("set_priority", 7)
        queue = await the_place(kit, 7)
        await queue.execute_update("allow", handle.id)
        assert (await over(handle)).outcome == "merged"


async def the_place(kit: Kit, priority: int) -> WorkflowHandle[Any, Any]:
    queue = the_queue(kit)
    for _ in range(600):
        if [place["priority"] for place in (await queue.query("queue"))["places"]] == [priority]:
            return queue
        await asyncio.sleep(0.1)
    raise AssertionError("the queue was not told")


async def test_a_task_that_ended_badly_begins_again_with_its_saved_work(kit: Kit) -> None:
    """Its plan is still approved, its agent is told what the last one said, and the operator's word."""
    agent = kit.agent(
        planner=[{"say": "The plan\n\nFiles:\n* new.txt"}],
        executor=[{**WRITE, "commit": "half", "say": "NEEDS_FOLLOWUP x"}, {"append": {"new.txt": "more\n"}}],
    )
    async with kit.worker():
        given = kit.input(agent=agent, interactive=True, limits={"max_needs_followups": 0})
        handle = await kit.start(given, "again")
        await status_when(handle, lambda now: now.stage is Stage.APPROVAL)
        await handle.execute_update("approve_plan")
        await status_when(handle, lambda now: now.blocked is not None)
        await handle.signal("cancel")
        saved = (await over(handle)).salvage_ref
        assert "had ended as cancelled" in await continue_ended(kit.client, "again", "try once more")
        handle = kit.client.get_workflow_handle_for(TaskWorkflow.run, "again")
        result = await over(handle)
        assert "has landed as" in await starter(kit, "continue", "again", code=1)
    assert (result.outcome, result.turns, kit.show("new.txt")) == ("merged", 1, "work\nmore")
    key = (await handle.describe()).run_id[-12:]
    prompt = (kit.home.root / "runs" / f"again.{key}" / "turns" / "001-executor" / "prompt.md").read_text()
    for told in ("The plan", "try once more", "NEEDS_FOLLOWUP x", str(saved)):
        assert told in prompt


async def test_many_are_steered_at_once_and_refusals_have_reasons(kit: Kit) -> None:
    agent = kit.agent(executor=[{"say": "NEEDS_FOLLOWUP x"}])
    ours = f"TaskQueue = '{kit.task_queue}'"
    async with kit.worker():
        handles = [await kit.start(kit.input(agent=agent, limits={"max_needs_followups": 0})) for _ in range(3)]
        for handle in handles:
            await status_when(handle, lambda now: now.blocked is not None)
        await handles[0].execute_update("pause")
        said = await starter(kit, "pause", "--query", ours)
        assert "2 of 3 have taken it" in said
        assert "the task is paused already" in said
        with pytest.raises(CannotServe, match="temporal workflow list --query"):
            await chosen(kit.client, Chosen("nonsense !"))
        with pytest.raises(Gone, match="there is no task nobody"):
            await send(kit.client, "nobody", "pause", [])
        assert "Aborted" in await starter(kit, "cancel", "--query", ours, code=1)
        tasks = await chosen(kit.client, Chosen(ours))
        assert {each.task for each in tasks} == {handle.id for handle in handles}
        assert [answer.taken for answer in await send_all(kit.client, tasks, "cancel", [])] == [True] * 3
        assert {(await over(handle)).outcome for handle in handles} == {"cancelled"}
        assert [answer.said for answer in await send_all(kit.client, tasks[:1], "pause", [])] == ["it has ended"]
        with pytest.raises(Gone, match="begins it again"):
            await send(kit.client, tasks[0].task, "pause", [])


async def test_a_task_queue_without_a_worker_is_waited_for_once(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a worker answers for are told all the same; the rest of the others are not even sent to."""
    monkeypatch.setattr(steering, "AT_ONCE", 1)
    monkeypatch.setattr(steering, "PATIENCE", timedelta(seconds=3))
    deaf = Kit(kit.client, kit.folder / "deaf")
    left = [await deaf.start(deaf.input(agent=deaf.agent(executor=[]))) for _ in range(3)]
    async with kit.worker():
        heard = await kit.start(kit.input(agent=kit.agent(executor=[{"say": "NEEDS_FOLLOWUP x"}])))
        to = [Addressee(handle.id, deaf.task_queue) for handle in left] + [Addressee(heard.id, kit.task_queue)]
        *said, taken = await send_all(kit.client, to, "cancel", [])
        assert taken.taken
        await over(heard)
    assert [answer.said.partition(":")[0] for answer in said] == [
        "no answer in 3 s",
        *["not sent, as the tasks before it did not answer"] * 2,
    ]


async def test_a_worker_that_drains_lets_its_turns_end_and_takes_no_others(kit: Kit) -> None:
    mark = kit.folder / "begun"
    slow = kit.agent(executor=[{"shell": f"touch {mark}; while test -e {mark}; do sleep 0.1; done", **WRITE}])
    async with kit.worker():
        first = await kit.start(kit.input(agent=slow), "first")
        await appears(kit, "begun")
        draining = asyncio.create_task(starter(kit, "drain-worker", "--home", str(kit.home.root)))
        await appears(kit, "home/workers/*/draining")
        other = await kit.start(kit.input(agent=kit.agent(executor=[{"write": {"b.txt": "x\n"}}])), "other")
        await status_when(other, lambda now: now.stage is Stage.WORK)
        mark.unlink()
        assert "it has ended" in await draining
    runs = kit.home.root / "runs"
    assert [*runs.glob("first.*/turns/001-executor/result.json")]
    assert not [*runs.glob("other.*/turns/*")]
    async with kit.worker():
        assert {(await over(handle)).outcome for handle in (first, other)} == {"merged"}
    kit.assert_clean()


async def test_a_worker_that_stops_ends_its_turns_and_the_next_resumes_them(kit: Kit) -> None:
    """Although one that drains would wait for them."""
    mark = kit.folder / "begun"
    step = {"shell": f"test -e {mark} || {{ touch {mark}; sleep 600; }}", **WRITE}
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[step])))
        await appears(kit, "begun")
    async with kit.worker():
        result = await over(handle)
    assert (result.outcome, result.turns) == ("merged", 1)
    kit.assert_clean()
