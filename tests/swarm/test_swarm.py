"""Whole swarms: real server, worker, git and processes; agents without a model."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.service import RPCError

from tests.git.repos import commit, git
from tests.kit import Kit, status_when
from tests.swarm import kit as swarms
from workflows.contracts import Stage, TaskResult
from workflows.swarm_contracts import BoardPage, SwarmStatus

NONE_LEFT = {"pending": 0, "current": 0, "blocked": 0}


def landed(kit: Kit) -> list[str]:
    """Tasks of whose files main tells that they are done, each as often as it was."""
    if not git(kit.repo, "ls-tree", "main", "done/"):
        return []
    files = git(kit.repo, "ls-tree", "--name-only", "main", "done/").split()
    return sorted(
        line.removeprefix("once ") for file in files for line in kit.show(file).splitlines() if "once" in line
    )


async def holders(handle: swarms.Handle) -> dict[str, str]:
    page = await handle.query("board", result_type=BoardPage)
    return {line.id: line.holder for line in page.lines if line.holder}


async def until(handle: swarms.Handle, wanted: Any, seconds: float = 60) -> SwarmStatus:
    last: SwarmStatus | None = None
    for _ in range(int(seconds * 5)):
        with contextlib.suppress(Exception):
            last = await handle.query("swarm", result_type=SwarmStatus)
            if wanted(last):
                return last
        await asyncio.sleep(0.2)
    raise AssertionError(f"not in {seconds} s; last: {last}")


async def test_tasks_given_to_workers_land_in_the_order_of_their_dependencies(kit: Kit) -> None:
    async with kit.worker():
        handle = await swarms.start(kit, workers=[{"agent": swarms.agent(kit), "count": 2}])
        last = {"id": "last", "title": "Last", "after": ["t2", "t1"], "priority": 100}
        assert await handle.execute_update("add", [*swarms.cards(3), last]) == "4 on the board"
        result = await swarms.over(kit, handle)
    assert result.reason == "all tasks are complete"
    assert result.counts == {**NONE_LEFT, "complete": 4}
    assert landed(kit) == ["last", "t0", "t1", "t2"]
    assert kit.trailers("Task-Id")[0].endswith("-4")  # the newest on main
    tallies = [member.tally for member in result.members]
    assert [sum(each.merges for each in tallies), sum(each.claims for each in tallies)] == [4, 4]
    kit.assert_clean()


@pytest.mark.long
async def test_a_file_of_tasks_that_came_meanwhile_is_done_before_the_swarm_ends(kit: Kit) -> None:
    async with kit.worker():
        handle = await swarms.start(kit, workers=[{"agent": swarms.agent(kit, sleep=2)}])
        await handle.execute_update("add", swarms.cards(1))
        await until(handle, lambda status: status.counts["current"])
        commit(kit.repo, {"tasks/pending/late.json": '{"id": "late", "title": "Late"}'})
        result = await swarms.over(kit, handle)
    assert result.counts == {**NONE_LEFT, "complete": 2}
    assert landed(kit) == ["late", "t0"]


async def test_agents_choose_their_tasks_and_no_two_get_the_same(kit: Kit) -> None:
    agent = swarms.agent(kit, claims=2, sleep=0.3)
    async with kit.worker():
        workers = [{"agent": agent, "count": 2, "claims": True, "can_plan": False}]
        handle = await swarms.start(kit, workers=workers)
        await handle.execute_update("add", swarms.cards(5))
        result = await swarms.over(kit, handle)
    assert result.counts == {**NONE_LEFT, "complete": 5}
    assert landed(kit) == [f"t{number}" for number in range(5)]
    assert sum(member.tally.claims for member in result.members) == 5 + sum(
        member.tally.recycled for member in result.members
    )
    assert sum(member.tally.merges for member in result.members) < 5  # some did two at once
    kit.assert_clean()


async def test_a_planner_makes_tasks_of_the_spec_until_it_is_met(kit: Kit) -> None:
    commit(kit.repo, {"spec.md": "Three files, please.\n"})
    plan = [[{"id": "a", "summary": "A"}, {"id": "b", "summary": "B", "after": ["a"]}], [{"id": "c", "summary": "C"}]]
    planner = {"agent": swarms.agent(kit, plan=plan, memory=str(kit.folder / "planned")), "max_pending": 5}
    never = {"name": "never", "command": "test ! -d tasks || test -d done"}  # it is not run on what only plans
    async with kit.worker():
        given = {"workers": [{"agent": swarms.agent(kit), "count": 2}], "task": {"gates": [never]}}
        # A planner that has nothing to add while others work is not one that chose nothing: it plans again at the end.
        handle = await swarms.start(kit, planner=planner, error_backoff_seconds=600, **given)
        result = await swarms.over(kit, handle)
    assert result.reason == "the spec is met"
    assert result.counts == {**NONE_LEFT, "complete": 3}
    assert landed(kit) == ["a", "b", "c"]
    assert git(kit.repo, "ls-tree", "--name-only", "main", "tasks/pending/").split() == [
        "tasks/pending/a.json", "tasks/pending/b.json", "tasks/pending/c.json"
    ]  # fmt: skip
    kit.assert_clean()


async def test_a_reviewer_of_the_swarm_sends_back_and_the_task_keeps_its_claim(kit: Kit) -> None:
    agent = swarms.agent(kit, reject=["t1"])
    async with kit.worker():
        handle = await swarms.start(kit, workers=[{"agent": agent}], reviewers=[agent])
        await handle.execute_update("add", swarms.cards(2))
        result = await swarms.over(kit, handle)
    assert result.counts == {**NONE_LEFT, "complete": 2}
    assert [(member.tally.rejects, member.tally.review_rounds) for member in result.members] == [(1, 3)]
    assert kit.show("done/t1.txt") == "once t1\nagain t1"


@pytest.mark.long
async def test_what_fails_is_tried_again_by_others_and_then_blocked_with_its_reason(kit: Kit) -> None:
    broken = swarms.agent(kit, odds={"fail": 1})
    async with kit.worker():
        workers = [{"agent": broken, "count": 2, "name": "broken"}]
        handle = await swarms.start(kit, workers=workers, on_blocked="fail", max_tries=2, max_errors=3)
        await handle.execute_update("add", swarms.cards(1))
        result = await swarms.over(kit, handle)
        assert result.reason == "1 task is blocked, all others are complete"
        assert result.counts == {"pending": 0, "current": 0, "blocked": 1, "complete": 0}
        assert result.open[0].tries == 2
        assert "agent failed" in result.open[0].why
        assert sum(member.tally.errors for member in result.members) == 2
        with pytest.raises(RPCError, match="already completed"):
            await handle.execute_update("requeue")
    kit.assert_clean()


async def test_a_blocked_task_waits_for_its_operator_and_its_worker_goes_on(kit: Kit) -> None:
    async with kit.worker():
        silent = swarms.agent(kit, odds={"silent": 1})
        quiet = {"max_working_resumes": 0}
        workers = [{"agent": silent, **quiet, "name": "quiet", "max_cycle": 1}, {"agent": swarms.agent(kit)}]
        handle = await swarms.start(kit, workers=workers, max_errors=1)
        await handle.execute_update("add", [{"id": "first", "title": "First", "priority": 9}, *swarms.cards(2)])
        status = await until(handle, lambda now: now.stage == "waiting for you" and not now.counts["pending"])
        assert status.counts == {"pending": 0, "current": 0, "blocked": 1, "complete": 2}
        stuck = kit.client.get_workflow_handle(next(iter((await holders(handle)).values())))
        await status_when(stuck, lambda now: now.blocked is not None)
        await stuck.signal("abandon")
        await until(handle, lambda now: now.counts["blocked"] == 1 and now.stage != "waiting for you")
        result = await swarms.over(kit, handle)
        assert result.open[0].why == "abandoned by an operator"
        assert result.open[0].holder == ""
    kit.assert_clean()


@pytest.mark.long
async def test_a_blocked_task_is_told_of_when_its_worker_is_one_too_many(kit: Kit) -> None:
    async with kit.worker():
        silent = swarms.agent(kit, odds={"silent": 1})
        handle = await swarms.start(kit, workers=[{"agent": silent, "max_working_resumes": 0}])
        await handle.execute_update("add", swarms.cards(1))
        await until(handle, lambda now: now.stage == "waiting for you")
        await handle.execute_update("set_count", {"kind": "worker-1", "count": 0})
        stuck = kit.client.get_workflow_handle(next(iter((await holders(handle)).values())))
        await status_when(stuck, lambda now: now.blocked is not None)
        await stuck.signal("abandon")
        result = await swarms.over(kit, handle)
    assert (result.counts["blocked"], result.open[0].why) == (1, "abandoned by an operator")
    [member] = result.members
    assert (member.tally.cycles, member.tally.claims, member.tally.recycled, member.tally.errors) == (1, 1, 1, 1)


async def test_a_cycle_that_is_terminated_keeps_no_claim(kit: Kit) -> None:
    async with kit.worker():
        agent = swarms.agent(kit, sleep=5)
        handle = await swarms.start(kit, workers=[{"agent": agent}])
        await handle.execute_update("add", swarms.cards(1))
        await until(handle, lambda now: now.counts["current"] == 1)
        cycle = next(iter((await holders(handle)).values()))
        await kit.client.get_workflow_handle(cycle).terminate("by hand")
        result = await swarms.over(kit, handle)
    assert result.counts == {**NONE_LEFT, "complete": 1}
    assert result.members[0].tally.recycled == 1
    assert landed(kit) == ["t0"]


async def test_stop_lets_what_runs_end_and_now_ends_it(kit: Kit) -> None:
    async with kit.worker():
        agent = swarms.agent(kit, sleep=2)
        gentle = await swarms.start(kit, workers=[{"agent": agent}])
        await gentle.execute_update("add", swarms.cards(2))
        await until(gentle, lambda now: now.counts["current"] == 1)
        await gentle.execute_update("stop")
        result = await swarms.over(kit, gentle)
        assert (result.reason, result.counts["complete"], result.counts["pending"]) == ("stopped by an operator", 1, 1)

        slow = swarms.agent(kit, sleep=60)
        hard = await swarms.start(kit, workers=[{"agent": slow}])
        await hard.execute_update("add", [{"id": "x", "title": "X"}])
        await until(hard, lambda now: now.counts["current"] == 1)
        cycle = next(iter((await holders(hard)).values()))
        await status_when(kit.client.get_workflow_handle(cycle), lambda now: now.stage is Stage.WORK)
        await hard.execute_update("stop", "now")
        result = await swarms.over(kit, hard)
        assert result.counts == {"pending": 1, "current": 0, "blocked": 0, "complete": 0}
        ended: TaskResult = await kit.client.get_workflow_handle(cycle, result_type=TaskResult).result()
        assert ended.outcome == "cancelled"
    kit.assert_clean()


async def test_what_waits_for_its_operator_has_ended_when_a_stop_now_is_over(kit: Kit) -> None:
    async with kit.worker():
        handle = await swarms.start(kit, workers=[{"agent": swarms.agent(kit, odds={"fail": 1})}])
        await handle.execute_update("add", swarms.cards(1))
        await until(handle, lambda status: status.stage == "waiting for you")
        await handle.execute_update("stop", "now")
        result = await swarms.over(kit, handle)
    assert [(task.place, task.holder) for task in result.open] == [("pending", "")]
    assert [member.tally.recycled for member in result.members] == [1]


async def test_workers_are_added_and_their_number_changed_while_it_runs(kit: Kit) -> None:
    async with kit.worker():
        handle = await swarms.start(kit, workers=[{"agent": swarms.agent(kit), "count": 0}], max_tries=1)
        await handle.execute_update("add", swarms.cards(2))
        assert await handle.execute_update("set_count", {"kind": "worker-1", "count": 1}) == (
            "1 of worker-1; who is too many goes when its cycle is over"
        )
        assert (
            await handle.execute_update("add_workers", {"agent": swarms.agent(kit), "name": "more"})
            == "1 of more besides"
        )
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update("set_count", {"kind": "nobody", "count": 1})
        assert "there is no kind 'nobody'; there are: worker-1, more" in str(refused.value.cause)
        result = await swarms.over(kit, handle)
    assert [member.name for member in result.members] == ["worker-1.1", "more.1"]
    assert result.counts["complete"] == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"repo": "/nowhere"}, "repo: "),
        ({"repo": "relative"}, "repo: must be an absolute path"),
        ({"workers": [{"agent": "basic"}]}, "unknown runtime 'basic'"),
        ({"workers": [{"agent": "codex", "cuont": 1}]}, "workers.0.cuont: unknown field"),
        ({"file": "none.toml"}, "none.toml is not on the target branch"),
    ],
)
async def test_bad_input_fails_in_one_line(kit: Kit, given: dict[str, Any], said: str) -> None:
    async with kit.worker():
        handle = await swarms.start(kit, **given)
        with pytest.raises(WorkflowFailureError) as failed:
            await handle.result()
    assert said in str(failed.value.cause)
    assert "\n" not in str(failed.value.cause)
