"""A swarm begins no more than there is room for: agents' slots, accounts, the disk, its own money and time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from activities.contracts import Usage
from tests.kit import Kit, status_when
from tests.swarm import kit as swarms
from tests.swarm.test_swarm import NONE_LEFT, landed, until
from tests.test_quota import an_account, on, the_quota
from workflows.contracts import LeaseRequest, LeaseReturn, QuotaState, Refusal, Stage
from workflows.swarm_contracts import SwarmStatus


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.policy.admission.AGAIN", 1.0)


def states(status: SwarmStatus) -> list[str]:
    return sorted(member.state for member in status.members)


async def test_no_more_tasks_are_claimed_than_the_host_has_slots_for_agents(kit: Kit) -> None:
    gate = kit.folder / "go"
    async with kit.worker(agents=1):
        agent = swarms.agent(kit, until=str(gate))
        handle = await swarms.start(kit, workers=[{"agent": agent, "count": 3}])
        await handle.execute_update("add", swarms.cards(3))
        status = await until(handle, lambda now: states(now) == ["limited", "limited", "working"])
        assert {member.why for member in status.members if member.state == "limited"} == {
            "no agent slot is free on here"
        }
        cycle = next(member.cycle for member in status.members if member.cycle)
        await status_when(kit.client.get_workflow_handle(cycle), lambda now: now.stage is Stage.WORK)
        assert (await handle.query("swarm", result_type=SwarmStatus)).counts["current"] == 1
        gate.touch()
        result = await swarms.over(kit, handle)
    assert result.counts == {**NONE_LEFT, "complete": 3}
    assert landed(kit) == ["t0", "t1", "t2"]


async def met(kit: Kit, account: str, holder: str, **back: Any) -> None:
    """What an account met in somebody's turn."""
    quota = the_quota(kit, account)
    await quota.signal("lease", LeaseRequest(lease="1", holder=holder, what="executor turn 1"))
    for _ in range(300):
        if (await quota.query("quota", result_type=QuotaState)).leases:
            break
        await asyncio.sleep(0.1)
    await quota.signal("give_back", LeaseReturn(lease="1", worked=False, **back))


async def test_those_of_an_account_that_is_parked_or_spent_leave_the_tasks_to_others(kit: Kit) -> None:
    kit.config.write_text("")
    parked, spent = an_account(kit), an_account(kit, max_cost_usd_per_day=1)
    accounts = kit.config.read_text()
    kinds = {"parked": on(parked, swarms.agent(kit)), "spent": on(spent, swarms.agent(kit)), "free": swarms.agent(kit)}
    workers = [{"name": name, "agent": agent, "count": 0} for name, agent in kinds.items()]
    async with kit.worker():
        handle = await swarms.start(kit, workers=workers, config=accounts)
        await handle.execute_update("add", swarms.cards(2))
        refused = Refusal(kind="limited", reason="You've hit your limit", retry_after_seconds=9000)
        await met(kit, parked, handle.id, refused=refused)
        await met(kit, spent, handle.id, usage=Usage(cost_usd=2))
        for name in ("parked", "spent"):
            await handle.execute_update("set_count", {"kind": name, "count": 1})
        status = await until(handle, lambda now: states(now) == ["limited", "limited"])
        assert [member.why for member in status.members] == [
            f"command/{parked}: You've hit your limit",
            f"command/{spent}: today's $1.00 are spent",
        ]
        await handle.execute_update("set_count", {"kind": "free", "count": 1})
        result = await swarms.over(kit, handle)
    assert result.counts == {**NONE_LEFT, "complete": 2}
    assert [(member.name, member.tally.cycles) for member in result.members] == [
        ("parked.1", 0), ("spent.1", 0), ("free.1", 2)
    ]  # fmt: skip


@pytest.mark.long
async def test_nothing_begins_while_the_disk_is_full_and_it_goes_on_by_itself(kit: Kit) -> None:
    async with kit.worker():
        handle = await swarms.start(kit, workers=[{"agent": swarms.agent(kit)}])
        full = kit.config.read_text() + "[disk]\nfloor_gb = 1000000\n"
        room = kit.config.read_text()
        kit.config.write_text(full)
        await handle.execute_update("add", swarms.cards(1))
        status = await until(handle, lambda now: states(now) == ["limited"])
        assert "are to stay free" in status.members[0].why
        assert status.counts["pending"] == 1
        kit.config.write_text(room)
        result = await swarms.over(kit, handle)
    assert result.counts == {**NONE_LEFT, "complete": 1}


@pytest.mark.long
async def test_nothing_begins_any_more_when_its_money_is_spent(kit: Kit) -> None:
    agent = swarms.agent(kit, usage={"cost_usd": 0.03})
    async with kit.worker():
        handle = await swarms.start(kit, workers=[{"agent": agent}], max_cost_usd=0.05)
        await handle.execute_update("add", swarms.cards(3))
        result = await swarms.over(kit, handle)
    assert result.reason == "$0.06 of $0.05 are spent: nothing is begun any more"
    assert (result.counts, result.cost_usd) == ({**NONE_LEFT, "pending": 1, "complete": 2}, 0.06)


async def test_what_runs_has_spent_counts_before_it_is_over(kit: Kit) -> None:
    gate = kit.folder / "go"
    agent, reviewer = swarms.agent(kit, usage={"cost_usd": 0.06}), swarms.agent(kit, until=str(gate))
    async with kit.worker():
        handle = await swarms.start(
            kit, workers=[{"name": "dear", "agent": agent}], reviewers=[reviewer], max_cost_usd=0.05
        )
        await handle.execute_update("add", swarms.cards(2))
        cycle = kit.client.get_workflow_handle(f"{handle.id}-dear.1-1")
        await until(handle, lambda now: states(now) == ["working"])
        await status_when(cycle, lambda now: now.stage is Stage.REVIEW)
        await handle.execute_update("set_count", {"kind": "dear", "count": 2})
        status = await until(handle, lambda now: states(now) == ["waiting", "working"])
        said = [member.why for member in status.members if member.state == "waiting"]
        assert said == ["$0.06 of $0.05 are spent: nothing is begun any more"]
        assert status.cost_usd == 0.06
        gate.touch()
        result = await swarms.over(kit, handle)
    assert (result.counts, result.cost_usd) == ({**NONE_LEFT, "pending": 1, "complete": 1}, 0.06)


@pytest.mark.long
async def test_who_has_done_its_cycles_or_waited_long_enough_stops(kit: Kit) -> None:
    agent = swarms.agent(kit)
    async with kit.worker():
        once = {"name": "once", "agent": agent, "max_cycle": 1}
        patient = {"name": "patient", "agent": agent, "max_wait_for_tasks": 2, "wait_between": 2}
        handle = await swarms.start(kit, workers=[once, patient], spec="")
        [last] = swarms.cards(1, after=["never"])
        tasks = [{**card, "id": f"x{card['id']}"} for card in swarms.cards(3)]
        await handle.execute_update("add", [*tasks, last])
        result = await swarms.over(kit, handle)
        cycles = [f"{handle.id}-patient.1-{number}" for number in (2, 3)]
        described = [await kit.client.get_workflow_handle(cycle).describe() for cycle in cycles]
    assert result.counts == {**NONE_LEFT, "pending": 1, "complete": 3}
    assert [member.tally.cycles for member in result.members] == [1, 2]
    assert result.members[0].why == "has done its 1 cycles"
    ended, began = described[0].close_time, described[1].start_time
    assert ended is not None
    assert (began - ended).total_seconds() > 1.5
    assert result.reason == "what is left waits for tasks that are not complete"
