"""Swarms at the moments that are easily forgotten: on a real server, with cycles and activities that a test directs."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import CancelledError

from activities.swarm.contracts import CycleEnd, Looked, LookInput
from tests.swarm.stage import PATIENCE, Stage

ONE: list[dict[str, Any]] = [{"name": "w"}]


async def test_a_signal_with_an_agent_that_cannot_be_checked_fails_no_swarm(client: Client) -> None:
    async with Stage(client, workers=ONE).played() as stage:
        await stage.add("a")
        await stage.working()
        await stage.handle.signal("add_workers", {"agent": {"runtime": "nowhere"}})
        status = await stage.until(lambda now: bool(now.problems))
        assert "unknown runtime 'nowhere'" in status.problems[0]
        await stage.handle.signal("stop", "now")
        assert (await stage.over()).reason == "stopped by an operator"


@pytest.mark.parametrize("where", ["take_in", "look"])
async def test_a_cancellation_is_heard_whatever_is_awaited(client: Client, where: str) -> None:
    async with Stage(client, workers=ONE).played(start=False) as stage:
        stage.gates[where].clear()
        await stage.start()
        adding = asyncio.create_task(stage.add("a"))
        await asyncio.wait_for(stage.entered[where].wait(), PATIENCE)
        await stage.handle.cancel()
        result = await stage.over()
        await asyncio.wait([adding], timeout=PATIENCE)
        assert result.reason == "cancelled by an operator"
        assert adding.done()
        assert len(stage.finished) == 1


async def test_a_cancellation_is_heard_while_the_swarm_is_opened(client: Client) -> None:
    async with Stage(client, workers=ONE).played(start=False) as stage:
        stage.gates["open_swarm"].clear()
        await stage.start()
        await asyncio.wait_for(stage.entered["open_swarm"].wait(), PATIENCE)
        await stage.handle.cancel()
        with pytest.raises(WorkflowFailureError) as ended:
            await stage.over()
        assert isinstance(ended.value.cause, CancelledError)


async def test_what_cannot_be_taken_in_holds_up_neither_its_sender_nor_a_stop(client: Client) -> None:
    async with Stage(client, workers=ONE).played() as stage:
        await stage.add("a")
        (cycle,) = await stage.working()
        stage.broken = "the disk is broken"
        said = await stage.add("b")
        assert "the disk is broken" in said
        assert "b" in said
        await stage.handle.execute_update("stop")
        await stage.end(cycle, "merged")
        result = await stage.over()
        assert (result.reason, result.counts["complete"]) == ("stopped by an operator", 1)


async def test_a_blocked_cycle_whose_worker_is_too_many_gives_its_task_back(client: Client) -> None:
    async with Stage(client, workers=[{"name": "w", "count": 2}]).played() as stage:
        await stage.add("a", "b")
        one, two = sorted(await stage.working(2))
        await stage.cycle(two).signal("blocks")
        await stage.until(lambda now: now.counts["blocked"] == 1)
        await stage.handle.execute_update("set_count", {"kind": "w", "count": 1})
        await stage.end(one, "merged")
        await stage.until(lambda now: now.counts["complete"] == 1)
        await stage.end(two, "merged")
        result = await stage.over()
        assert result.counts["complete"] == 2
        assert sum(member.tally.merges for member in result.members) == 2


async def test_a_planner_whose_first_cycle_has_the_name_of_an_older_one_plans_all_the_same(client: Client) -> None:
    settings: dict[str, Any] = {"spec": "spec.md", "planner": {}, "workers": ONE}
    async with Stage(client, **settings).played() as first:
        await first.working()
        await first.handle.terminate()
        second = Stage(client, **settings)
        second.name = first.name
        await second.start()
        await second.until(lambda now: now.members[0].cycle == f"{first.name}-planner-2")
        (cycle,) = await second.working()
        await second.end(cycle, "no-changes")
        assert (await second.over()).reason == "the spec is met"
        await first.end(f"{first.name}-planner-1", "no-changes")


async def test_a_swarm_ends_when_all_who_work_have_stopped_though_its_planner_has_not(client: Client) -> None:
    settings: dict[str, Any] = {"spec": "spec.md", "planner": {}, "workers": [{"name": "w", "max_cycle": 1}]}
    async with Stage(client, **settings).played() as stage:
        await stage.add("a", "b", "c")
        (cycle,) = await stage.working()
        await stage.end(cycle, "merged")
        result = await stage.over()
        assert result.reason == "all workers have stopped"
        assert result.counts["pending"] == 2


async def test_nothing_is_begun_after_a_stop_that_came_while_it_looked(client: Client) -> None:
    async with Stage(client, workers=ONE).played(start=False) as stage:
        stage.gates["look"].clear()
        await stage.start()
        await stage.add("a")
        await asyncio.wait_for(stage.entered["look"].wait(), PATIENCE)
        await stage.handle.execute_update("stop", "now")
        stage.gates["look"].set()
        result = await stage.over()
        assert (result.reason, result.counts["pending"]) == ("stopped by an operator", 1)
        assert result.members[0].tally.cycles == 0


async def test_a_stop_lets_what_is_paused_come_to_its_end(client: Client) -> None:
    async with Stage(client, workers=ONE).played() as stage:
        await stage.add("a", "b")
        (cycle,) = await stage.working()
        await stage.handle.execute_update("pause")
        await stage.handle.execute_update("stop")
        assert await stage.cycle(cycle).query("heard") == ["pause", "resume"]
        await stage.end(cycle, "merged")
        assert (await stage.over()).counts["complete"] == 1


async def test_a_task_added_while_it_waits_to_continue_as_new_is_taken_in(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Stage(client, workers=ONE).played() as stage:
        await stage.add("a")
        await stage.working()
        stage.gates["check_agent"].clear()
        adding_workers = asyncio.create_task(stage.handle.execute_update("add_workers", {"count": 1}))
        await asyncio.wait_for(stage.entered["check_agent"].wait(), PATIENCE)
        monkeypatch.setattr("workflows.swarm.MAX_EVENTS", 1)
        await stage.handle.signal("propose", {"cycle": "x", "card": {"id": "b", "title": "B"}})
        await stage.until(lambda now: now.counts["pending"] == 1)
        assert await asyncio.wait_for(stage.add("c"), 5) == "1 on the board"
        monkeypatch.undo()
        stage.gates["check_agent"].set()
        await adding_workers
        await stage.handle.execute_update("stop", "now")
        await stage.over()


async def test_workers_added_at_the_same_time_are_kinds_of_their_own(client: Client) -> None:
    async with Stage(client, workers=ONE).played() as stage:
        await stage.add("a")
        await stage.working()
        stage.gates["check_agent"].clear()
        two = [asyncio.create_task(stage.handle.execute_update("add_workers", {"count": 1})) for _ in range(2)]
        await asyncio.wait_for(stage.entered["check_agent"].wait(), PATIENCE)
        await asyncio.sleep(0.3)  # so that both are checked; whatever comes of it, the names must differ
        stage.gates["check_agent"].set()
        await asyncio.gather(*two)
        status = await stage.status()
        assert [member.name for member in status.members] == ["w.1", "worker-2.1", "worker-3.1"]
        await stage.handle.execute_update("stop", "now")
        await stage.over()


async def test_an_agent_that_finds_nothing_to_claim_is_asked_more_and_more_seldom(client: Client) -> None:
    async with Stage(
        client, workers=[{"name": "w", "claims": True}], error_backoff_seconds=0.5, max_errors=3
    ).played() as stage:
        await stage.add("a")
        pauses = []
        for _ in range(3):
            (cycle,) = await stage.working()
            await stage.end(cycle, "no-changes")
            await stage.cycle(cycle).result()
            member = (await stage.until(lambda now: not now.members[0].cycle)).members[0]
            pauses.append((member.until or 0) - member.since)
        assert pauses[1] > pauses[0]
        result = await stage.over()
        assert result.reason == "all workers have stopped"


async def test_what_another_run_of_the_swarm_says_is_not_heard(client: Client) -> None:
    async with Stage(client, workers=ONE).played() as stage:
        await stage.add("a")
        (cycle,) = await stage.working()
        report = {"cycle": cycle, "key": "another", "result": {"outcome": "merged"}}
        await stage.handle.signal("cycle_ended", report)
        await stage.add("b")
        assert (await stage.status()).counts["current"] == 1
        await stage.end(cycle, "merged")
        await stage.until(lambda now: now.counts["complete"] == 1)
        await stage.handle.execute_update("stop", "now")
        await stage.over()
        described = await stage.handle.describe()
        assert described.status is WorkflowExecutionStatus.COMPLETED


async def test_large_tasks_come_in_by_messages_that_a_server_takes(client: Client) -> None:
    async with Stage(client, workers=[{"name": "w", "count": 0}]).played() as stage:
        stage.gates["take_in"].clear()
        large = [{"id": f"t{number}", "title": "T", "description": "x" * 30_000} for number in range(6)]
        await stage.handle.signal("add", large)
        stage.gates["take_in"].set()
        await stage.until(lambda now: now.counts.get("pending") == 6)
        assert max(len(given.model_dump_json()) for given in stage.taking) < 64_000
        await stage.handle.execute_update("stop")
        await stage.over()


async def test_no_signal_fails_a_swarm_or_wedges_it(client: Client) -> None:
    async with Stage(client, workers=ONE).played() as stage:
        await stage.add("a")
        (cycle,) = await stage.working()
        for name in ("claim", "cycle_note", "cycle_ended", "propose", "add", "stop", "set_count", "nonsense"):
            for given in (None, 7, {"cycle": cycle}, {"cycle": cycle, "card": {"id": ".."}}):
                if (name, given) != ("stop", None):
                    await stage.handle.signal(name, given)
        await stage.end(cycle, "merged")
        status = await stage.until(lambda now: now.counts["complete"] == 1)
        assert any("signal nonsense ignored" in problem for problem in status.problems)


class OtherVersion(Stage):
    @activity.defn
    async def look(self, given: LookInput) -> Looked:
        strange = {"outcome": "merged", "nobody": "knows"}
        return Looked(ended=[CycleEnd(cycle=one, outcome="merged", result=strange) for one in given.cycles])


async def test_the_end_of_a_cycle_of_another_version_is_understood(client: Client) -> None:
    async with OtherVersion(client, workers=ONE).played() as stage:
        await stage.add("a")
        (cycle,) = await stage.working()
        await stage.cycle(cycle).terminate()
        assert (await stage.over()).counts["complete"] == 1


async def test_nobody_stops_for_want_of_tasks_before_a_planner_has_tried_again(client: Client) -> None:
    workers = [{"name": "w", "max_wait_for_tasks": 0.1}]
    settings: dict[str, Any] = {"spec": "spec.md", "planner": {}, "workers": workers, "error_backoff_seconds": 1}
    async with Stage(client, **settings).played() as stage:
        (cycle,) = await stage.working()
        await stage.end(cycle, "failed")
        await stage.until(lambda now: now.members[0].cycle not in ("", cycle))
        (again,) = await stage.working()
        await stage.end(again, "no-changes")
        result = await stage.over()
        assert (result.reason, [member.state for member in result.members]) == ("the spec is met", ["idle", "waiting"])


async def test_a_blocked_cycle_that_goes_on_waits_for_nobody_is_paused_and_has_its_end_before_a_stop(
    client: Client,
) -> None:
    async with Stage(client, workers=ONE).played() as stage:
        await stage.add("a")
        (cycle,) = await stage.working()
        await stage.cycle(cycle).signal("blocks")
        status = await stage.until(lambda now: now.stage == "waiting for you")
        assert status.next_command == f"starter.py status {cycle}"
        await stage.cycle(cycle).signal("goes_on")
        status = await stage.until(lambda now: now.counts["current"] == 1)
        assert (status.stage, status.waiting_for) == ("running", "")
        await stage.handle.execute_update("pause")
        assert await stage.cycle(cycle).query("heard") == ["pause"]
        await stage.handle.execute_update("stop")
        assert await stage.cycle(cycle).query("heard") == ["pause", "resume"]
        await stage.end(cycle, "merged")
        result = await stage.over()
        assert (result.reason, result.counts["complete"]) == ("stopped by an operator", 1)


async def test_work_that_lands_after_its_operator_was_waited_for_ends_the_row_of_errors(client: Client) -> None:
    async with Stage(client, workers=ONE, max_errors=1).played() as stage:
        await stage.add("a", "b")
        (cycle,) = await stage.working()
        await stage.cycle(cycle).signal("blocks")
        await stage.until(lambda now: now.members[0].state == "stopped")
        await stage.cycle(cycle).signal("goes_on")
        await stage.end(cycle, "merged")
        (other,) = await stage.working()
        await stage.end(other, "merged")
        result = await stage.over()
        assert (result.reason, result.counts["complete"]) == ("all tasks are complete", 2)


async def test_a_planner_that_waits_for_its_operator_is_told_of_also_while_a_stop_waits_for_it(client: Client) -> None:
    settings: dict[str, Any] = {"spec": "spec.md", "planner": {}, "workers": ONE}
    async with Stage(client, **settings).played() as stage:
        (cycle,) = await stage.working()
        await stage.cycle(cycle).signal("blocks")
        status = await stage.until(lambda now: now.stage == "waiting for you")
        assert (status.waiting_for, status.next_command) == (
            f"you: 1 blocked, {cycle} (stuck)",
            f"starter.py status {cycle}",
        )
        await stage.handle.execute_update("stop")
        assert (await stage.status()).next_command == f"starter.py status {cycle}"
        await stage.cycle(cycle).signal("goes_on")
        await stage.until(lambda now: not now.next_command)
        await stage.end(cycle, "no-changes")
        assert (await stage.over()).reason == "stopped by an operator"


class Dear(Stage):
    @activity.defn
    async def look(self, given: LookInput) -> Looked:
        looked = await super().look(given)
        return looked.model_copy(update={"spent": dict.fromkeys(given.spending, 0.5)})


@pytest.mark.parametrize("cap", [None, 0.4])
async def test_what_a_terminated_cycle_has_cost_stays_spent(client: Client, cap: float | None) -> None:
    async with Dear(client, workers=ONE, max_cost_usd=cap, max_tries=1).played() as stage:
        await stage.add("a")
        (cycle,) = await stage.working()
        await stage.cycle(cycle).terminate()
        assert (await stage.over()).cost_usd == 0.5


async def test_the_time_of_a_pause_is_none_without_tasks(client: Client) -> None:
    async with Stage(client, workers=[{"name": "w", "max_wait_for_tasks": 2}]).played() as stage:
        await stage.until(lambda now: now.members[0].state == "waiting")
        await stage.handle.execute_update("pause")
        began = (await stage.status()).members[0].idle_since
        assert began is not None
        await asyncio.sleep(max(began + 2.5 - time.time(), 0))
        await stage.handle.execute_update("resume")
        await stage.add("a")
        (cycle,) = await stage.working()
        await stage.end(cycle, "merged")
        assert (await stage.over()).counts["complete"] == 1
