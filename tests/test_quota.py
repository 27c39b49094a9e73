"""Limits, fallbacks and money, with whole tasks: what a quota grants, who takes over, where a budget ends."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError

from activities.contracts import quota_id
from tests.kit import Kit, status_when
from workflows.contracts import QuotaState, Stage

WRITE = {"write": {"new.txt": "work\n"}}


def on(account: str, agent: dict[str, Any]) -> dict[str, Any]:
    return {**agent, "account": account}


def an_account(kit: Kit, **settings: Any) -> str:
    """A name that no other test uses: quotas are known by their names, on one server."""
    name = f"acc-{uuid.uuid4().hex[:8]}"
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    kit.home.root.mkdir(parents=True, exist_ok=True)
    with (kit.home.root / "config.toml").open("a") as file:
        file.write("\n".join([f'[accounts."command/{name}"]', *lines, ""]))
    return name


def the_quota(kit: Kit, account: str) -> WorkflowHandle[Any, Any]:
    return kit.client.get_workflow_handle(quota_id(f"command/{account}", kit.task_queue))


async def quota(kit: Kit, account: str) -> QuotaState:
    found: QuotaState = await the_quota(kit, account).query("quota", result_type=QuotaState)
    return found


async def test_an_account_has_no_more_turns_at_once_than_slots(kit: Kit) -> None:
    account = an_account(kit, slots=1)
    crowd = f"mkdir {kit.folder}/busy && sleep 0.7 && rmdir {kit.folder}/busy"
    agents = [on(account, kit.agent(executor=[{"write": {f"{n}.txt": "x\n"}, "shell": crowd}])) for n in range(4)]
    async with kit.worker():
        ends = await asyncio.gather(*(kit.run(agent=agent) for agent in agents))
        state = await quota(kit, account)
    assert [(end.outcome, end.turns) for end in ends] == [("merged", 1)] * 4  # mkdir fails where two are at it
    assert max(end.seconds.waiting for end in ends) > 1
    assert (state.leases, state.waiting) == ([], [])


async def test_a_terminated_task_leaves_its_slot_to_others(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.quota.PING", timedelta(seconds=1))
    account = an_account(kit, slots=1)
    async with kit.worker():
        first = await kit.start(kit.input(agent=on(account, kit.agent(executor=[{"sleep": 300}]))))
        await status_when(first, lambda now: now.stage is Stage.WORK)
        second = await kit.start(kit.input(agent=on(account, kit.agent(executor=[WRITE]))))
        waits = await status_when(second, lambda now: now.stage is Stage.LIMITED)
        assert "free slot" in waits.waiting_for
        await first.terminate()
        assert (await second.result()).outcome == "merged"


async def test_a_worker_that_stops_gives_its_slots_back_and_nothing_is_lost(kit: Kit) -> None:
    account = an_account(kit, slots=1)
    agent = on(
        account, kit.agent(executor=[{**WRITE, "shell": "test -e s.ignored || { touch s.ignored; sleep 300; }"}])
    )
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent))
        await status_when(handle, lambda now: now.stage is Stage.WORK)
        for _ in range(600):
            if list((kit.home.root / "worktrees").glob("*/s.ignored")):
                break
            await asyncio.sleep(0.1)
    async with kit.worker():
        result = await handle.result()
        [turn] = await handle.query("timeline")
        state = await quota(kit, account)
    assert (result.outcome, result.turns) == ("merged", 1)
    assert turn["attempts"] == 2
    assert state.leases == []


async def test_an_operator_holds_wakes_and_changes_slots(kit: Kit) -> None:
    account = an_account(kit, slots=2)
    limited = {"fail": 75, "stderr": "You've hit your limit\nretry-after: 9000"}
    async with kit.worker():
        handle = await kit.start(kit.input(agent=on(account, kit.agent(executor=[limited, WRITE]))))
        status = await status_when(handle, lambda now: now.stage is Stage.LIMITED)
        assert "You've hit your limit" in status.waiting_for
        assert " until 20" in status.waiting_for
        state = await quota(kit, account)
        assert state.parked_until is not None
        assert [waiting.request.holder for waiting in state.waiting] == [handle.id]
        control = the_quota(kit, account)
        assert "held" in await control.execute_update("hold")
        await control.signal("wake")
        await asyncio.sleep(1)
        assert (await handle.query("timeline"))[-1]["end"] == "limited"
        assert "4 turns at once" in await control.execute_update("set_slots", 4)
        for wrong in ("many", 0, True):
            with pytest.raises(WorkflowUpdateFailedError) as refused:
                await control.execute_update("set_slots", wrong)
            assert "set_slots takes a number" in str(refused.value.cause)
        await control.signal("set_slots", "nonsense")
        await control.signal("no_such_signal")
        assert "goes on" in await control.execute_update("release")
        result = await handle.result()
        assert (await quota(kit, account)).slots_override == 4
    assert (result.outcome, result.turns) == ("merged", 1)


@pytest.mark.parametrize(
    "fail",
    [{"fail": 75, "stderr": "retry-after: 9000"}, pytest.param({"fail": 77}, marks=pytest.mark.long), {"fail": 3}],
)
async def test_a_fallback_takes_over_on_the_same_worktree(kit: Kit, fail: dict[str, Any]) -> None:
    started = {"write": {"half.txt": "half\n"}, "say": "thinking"}
    first = kit.agent(executor=[started, fail])
    second = {**kit.agent(executor=[{**WRITE, "shell": "git log --format=%s -1 > log.txt; git status -s > left.txt"}]),
              "model": "backup"}  # fmt: skip
    account = an_account(kit)
    async with kit.worker():
        handle = await kit.start(kit.input(agent=on(account, first), fallbacks=[second], title="Do it well"))
        result = await handle.result()
        timeline = await handle.query("timeline")
        status = await status_when(handle, lambda now: now.outcome is not None)
    assert result.outcome == "merged"
    assert [turn["agent"] for turn in timeline][-1] == "command (backup)"
    assert kit.show("half.txt") == "half"
    assert kit.show("log.txt") == "Do it well"  # what the first one left was committed
    assert "left.txt" in kit.show("left.txt")
    assert "half.txt" not in kit.show("left.txt")
    assert kit.trailers("Agent") == ["command (backup)"]
    assert "handed over" in status.warnings[-1]
    prompt = sorted((kit.home.root / "runs").glob("*/turns/*/prompt.md"))[-1].read_text()
    assert "# Task" in prompt
    assert "An earlier session worked on this task" in prompt


async def test_money_stops_the_running_turn_and_raising_it_goes_on(kit: Kit) -> None:
    long = "test $MERGEWRIGHT_TURN != 1 || sleep 60"  # ended before it can do anything else
    step = {"usage": {"cost_usd": 3, "input_tokens": 1_000, "output_tokens": 50}, **WRITE, "shell": long}
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[step]), limits={"max_cost_usd": 2}))
        status = await status_when(handle, lambda now: now.blocked is not None)
        assert status.blocked is not None
        assert status.blocked.text == "spent $3.00 of $2.00"
        assert "--name raise_budget" in status.next_command
        [turn] = await handle.query("timeline")
        assert (turn["end"], turn["usage"]["cost_usd"]) == ("budget", 3)
        assert await handle.execute_update("raise_budget", 50)
        result = await handle.result()
        status = await handle.query("status")
    assert (result.outcome, result.cost_usd, result.tokens) == ("merged", 6.0, 2_100)
    [line] = status["costs"]
    assert (line["turns"], line["usage"]["input_tokens"], line["usage"]["output_tokens"]) == (2, 2_000, 100)
    sessions = {path.read_text() for path in (kit.home.root / "runs").glob("*/turns/*/session")}
    assert len(sessions) == 1


async def test_tokens_stop_the_running_turn(kit: Kit) -> None:
    step = {"usage": {"input_tokens": 5_000}, "sleep": 60}
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[step]), limits={"max_tokens": 4_000}))
        status = await status_when(handle, lambda now: now.blocked is not None)
        assert status.blocked is not None
        assert status.blocked.text == "used 5,000 of 4,000 tokens"
        assert status.usage.unpriced_tokens == 0


async def test_the_days_money_of_an_account_and_of_a_repository(kit: Kit) -> None:
    account = an_account(kit, max_cost_usd_per_day=5.0)
    step = {"usage": {"cost_usd": 6}, **WRITE}
    async with kit.worker():
        first = await kit.run(agent=on(account, kit.agent(executor=[step])))
        assert (first.outcome, first.cost_usd) == ("merged", 6)
        second = await kit.start(kit.input(agent=on(account, kit.agent(executor=[{"append": {"new.txt": "more\n"}}]))))
        status = await status_when(second, lambda now: now.stage is Stage.LIMITED)
        assert "$6.00 of today's $5.00 are spent" in status.waiting_for
        await the_quota(kit, account).signal("wake")
        assert (await second.result()).outcome == "merged"
        limits = {"max_cost_usd_per_day": 1.0}
        step = {"usage": {"cost_usd": 2}, "append": {"new.txt": "again\n"}}
        assert (await kit.run(agent=kit.agent(executor=[step]), limits=limits)).outcome == "merged"
        fourth = await kit.start(kit.input(agent=kit.agent(executor=[WRITE]), limits=limits))
        status = await status_when(fourth, lambda now: now.stage is Stage.LIMITED)
        assert status.waiting_for.startswith("repository/repo-")
        await fourth.execute_update("abandon")
        assert (await fourth.result()).outcome == "abandoned"


async def test_an_operator_has_the_session_summarised(kit: Kit) -> None:
    agent = kit.agent(
        executor=[{"say": "NEEDS_FOLLOWUP the rest"}, {"say": "NEEDS_FOLLOWUP more"}, WRITE],
        compactor=[{"say": "SUMMARY-77: half is done", "write": {"thrown-away.txt": "x\n"}}],
    )
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent))
        await status_when(handle, lambda now: now.blocked is not None)
        assert "summary" in await handle.execute_update("compact")
        await handle.signal("continue_task", "go on")
        result = await handle.result()
    assert result.outcome == "merged"
    prompt = sorted((kit.home.root / "runs").glob("*/turns/*-executor/prompt.md"))[-1].read_text()
    assert "SUMMARY-77" in prompt
    assert "thrown-away.txt" not in kit.show("", "main")


@pytest.mark.long
async def test_three_red_gates_are_summarised_once_and_stay_before_the_agents_eyes(kit: Kit) -> None:
    agent = kit.agent(
        executor=[{"write": {"a.txt": "1\n"}}],
        fixer=[{"append": {"a.txt": "2\n"}}, {"append": {"a.txt": "3\n"}}, {"write": {"good.txt": "x\n"}}],
        compactor=[{"say": "SUMMARY: two tries"}],
    )
    gate = {"name": "good", "command": "echo RED-GATE-TAIL; test -e good.txt"}
    async with kit.worker():
        result = await kit.run(agent=agent, gates=[gate])
    assert result.outcome == "merged"
    turns = sorted(path.name for path in (kit.home.root / "runs").glob("*/turns/*"))
    assert [name.split("-")[1] for name in turns] == ["executor", "fixer", "fixer", "compactor", "fixer"]
    run = next((kit.home.root / "runs").glob("*/turns"))
    assert "RED-GATE-TAIL" in (run / turns[1] / "system.md").read_text()
    assert "RED-GATE-TAIL" in (run / turns[1] / "prompt.md").read_text()
    assert "SUMMARY: two tries" in (run / turns[4] / "prompt.md").read_text()


async def test_a_gate_that_cannot_pass_on_this_machine_goes_to_a_person(kit: Kit) -> None:
    full = f"test -e {kit.folder}/mended || {{ echo 'write error: No space left on device' >&2; exit 1; }}"
    async with kit.worker():
        gates = [{"name": "test", "command": full}]
        handle = await kit.start(kit.input(agent=kit.agent(executor=[WRITE]), gates=gates))
        status = await status_when(handle, lambda now: now.blocked is not None)
        assert status.blocked is not None
        assert status.blocked.reason == "gates cannot pass on this machine"
        assert (status.gate_failures, status.turns) == (0, 1)
        (kit.folder / "mended").touch()
        await handle.signal("continue_task")
        result = await handle.result()
    assert (result.outcome, result.turns) == ("merged", 1)


async def test_a_known_failure_gives_a_hint_and_the_second_in_a_row_another_agent(kit: Kit) -> None:
    first = kit.agent(executor=[{"write": {"a.py": "def f(:\n"}}], fixer=[{"write": {"a.py": "def g(:\n"}}])
    second = {**kit.agent(fixer=[{"write": {"a.py": "def f(): ...\n"}}]), "model": "other"}
    gate = {"name": "compile", "command": f"{sys.executable} -m py_compile a.py"}
    async with kit.worker():
        result = await kit.run(agent=first, fallbacks=[second], gates=[gate])
    assert result.outcome == "merged"
    assert kit.trailers("Agent") == ["command (other)"]
    hint, again = (path.read_text() for path in sorted((kit.home.root / "runs").glob("*/turns/*-fixer/prompt.md")))
    assert "(python: syntax error)" in hint
    assert "same kind of failure" not in hint
    assert "same kind of failure" in again


async def test_what_a_resumed_turn_is_told_is_little(kit: Kit) -> None:
    """FEATURES B4: under a tenth of the first prompt."""
    agent = kit.agent(executor=[{"say": "thinking"}, {"say": "NEEDS_FOLLOWUP the tests"}, WRITE])
    async with kit.worker():
        await kit.run(agent=agent, description="A sentence about what is wanted. " * 120, acceptance=["It works."] * 20)
    first, *later = sorted((kit.home.root / "runs").glob("*/turns/*/prompt.md"))
    whole = first.stat().st_size
    assert len(later) == 2
    assert all(path.stat().st_size < whole / 10 for path in later)


async def test_a_task_of_the_same_id_does_not_wait_for_the_turn_of_the_one_before(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.quota.PING", timedelta(seconds=1))
    account = an_account(kit, slots=1)
    async with kit.worker():
        first = await kit.start(kit.input(agent=on(account, kit.agent(executor=[{"sleep": 300}]))), f"same-{account}")
        await status_when(first, lambda now: now.stage is Stage.WORK)
        await first.terminate()
        second = await kit.start(kit.input(agent=on(account, kit.agent(executor=[WRITE]))), f"same-{account}")
        assert (await second.result()).outcome == "merged"


async def test_reviewers_that_are_limited_are_passed_over_and_then_waited_for(kit: Kit) -> None:
    account = an_account(kit)
    limited = {"fail": 75, "stderr": "retry-after: 9000"}
    first = on(account, kit.agent(reviewer=[limited, {"say": "VERDICT: APPROVED"}]))
    silent = kit.agent(reviewer=[{"say": "I cannot say."}])
    agent = kit.agent(executor=[WRITE])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, reviewers=[first, silent]))
        status = await status_when(handle, lambda now: now.stage is Stage.LIMITED)
        assert "limited" in status.waiting_for
        await the_quota(kit, account).signal("wake")
        result = await handle.result()
    assert (result.outcome, result.turns) == ("merged", 3)  # the silent one was asked once


async def test_a_reviewer_whose_share_is_used_up_goes_on_in_its_session(kit: Kit) -> None:
    account = an_account(kit, max_cost_usd_per_day=10.0)
    once = f"test -e {kit.folder}/seen || {{ touch {kit.folder}/seen && sleep 60; }}"
    reviewer = kit.agent(reviewer=[{"usage": {"cost_usd": 3}, "shell": once, "say": "VERDICT: APPROVED"}])
    async with kit.worker():
        result = await kit.run(agent=kit.agent(executor=[WRITE]), reviewers=[on(account, reviewer)])
    assert result.outcome == "merged"
    assert result.turns == 3
    prompt = sorted((kit.home.root / "runs").glob("*/turns/*-reviewer/prompt.md"))[-1].read_text()
    assert "stopped in the middle of your review" in prompt


async def test_cancelled_while_it_waits_for_a_turn(kit: Kit) -> None:
    account = an_account(kit)
    limited = {"fail": 75, "stderr": "retry-after: 9000"}
    async with kit.worker():
        handle = await kit.start(kit.input(agent=on(account, kit.agent(executor=[limited]))))
        await status_when(handle, lambda now: now.stage is Stage.LIMITED)
        await handle.cancel()
        assert (await handle.result()).outcome == "cancelled"
        for _ in range(100):
            state = await quota(kit, account)
            if not state.waiting:
                break
            await asyncio.sleep(0.1)
        assert (state.waiting, state.leases) == ([], [])


async def test_a_configuration_that_cannot_be_read_stops_no_task_for_good(kit: Kit) -> None:
    account = an_account(kit)
    config = kit.home.root / "config.toml"
    good = config.read_text()
    agent = kit.agent(executor=[{"say": "NEEDS_FOLLOWUP x"}, {"say": "NEEDS_FOLLOWUP x"}, WRITE])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=on(account, agent)))
        await status_when(handle, lambda now: now.blocked is not None)
        await the_quota(kit, account).terminate()
        config.write_text("accounts = 7\n")
        await handle.signal("continue_task", "go on")
        status = await status_when(
            handle, lambda now: now.blocked is not None and now.blocked.reason == "our own trouble"
        )
        assert status.blocked is not None
        assert "config.toml" in status.blocked.text
        config.write_text(good)
        await handle.signal("continue_task")
        assert (await handle.result()).outcome == "merged"


async def test_what_an_abandoned_turn_has_cost_is_counted(kit: Kit) -> None:
    step = {"usage": {"cost_usd": 0.5, "input_tokens": 70}, **WRITE, "shell": "touch seen.ignored; sleep 300"}
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[step])))
        await status_when(handle, lambda now: now.stage is Stage.WORK)
        for _ in range(600):
            if list((kit.home.root / "worktrees").glob("*/seen.ignored")):
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)  # it is looked at five times a second
        await handle.signal("abandon")
        result = await handle.result()
    assert (result.outcome, result.cost_usd, result.tokens) == ("abandoned", 0.5, 70)
