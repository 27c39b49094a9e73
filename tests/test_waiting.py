"""Hours that pass in a second: a server that skips time. What waits there waits for nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from activities.contracts import quota_id
from activities.site import write_atomically
from service.converter import data_converter
from service.devserver import temporal_cli
from tests.kit import Kit, status_when
from tests.queue_kit import Queue, ended


@pytest_asyncio.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[Kit]:
    environment = await WorkflowEnvironment.start_time_skipping_v2(
        dev_server_existing_path=temporal_cli(),
        dev_server_log_level="error",
        dev_server_extra_args=["--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true"],
        data_converter=data_converter,
    )
    yield Kit(environment.client, tmp_path, environment=environment)
    await environment.shutdown()


@pytest.mark.long
async def test_a_limit_without_a_stated_time_backs_off_and_uses_up_nothing(hasty: Kit) -> None:
    limited = {"fail": 75, "stderr": "too many requests"}
    agent = hasty.agent(executor=[limited, limited, limited, {"write": {"a.txt": "x\n"}}])
    async with hasty.worker():
        result = await hasty.run(agent=agent, limits={"max_working_resumes": 0})
    assert (result.outcome, result.turns) == ("merged", 1)
    assert 210 <= result.seconds.waiting <= 270  # 30 + 60 + 120, each up to a quarter longer


async def test_a_plan_that_nobody_answers_blocks_the_task(hasty: Kit) -> None:
    async with hasty.worker():
        with pytest.raises(WorkflowFailureError) as caught:
            await hasty.run(agent=hasty.agent(planner=[{"say": "Plan"}]), interactive=True, on_blocked="fail")
    assert "plan not approved in time" in str(getattr(caught.value.cause, "message", ""))
    hasty.assert_clean()


async def test_a_late_answer_is_taken_although_the_task_is_blocked(hasty: Kit) -> None:
    agent = hasty.agent(planner=[{"say": "Plan"}], executor=[{"write": {"a.txt": "x\n"}}])
    async with hasty.worker():
        handle = await hasty.start(hasty.input(agent=agent, interactive=True))
        await status_when(handle, lambda now: now.blocked is not None)
        assert "approved" in await handle.execute_update("approve_plan")
        assert (await handle.result()).outcome == "merged"


async def test_a_first_turn_that_was_refused_gets_the_whole_task_when_it_is_resumed(hasty: Kit) -> None:
    agent = hasty.agent(executor=[{"fail": 75}, {"fail": 3}, {"write": {"a.txt": "x\n"}}])
    async with hasty.worker():
        assert (await hasty.run(agent=agent, description="what it is all about")).outcome == "merged"
    for prompt in (hasty.home.root / "runs").glob("*/turns/*/prompt.md"):
        assert "what it is all about" in prompt.read_text()
        assert "without a signal" not in prompt.read_text()


async def _tell_the_time(kit: Kit, quota: str, path: Path) -> None:
    """The quota's clock, for agents: each workflow has one of its own on this server, and the machine's is another."""
    environment = kit.environment
    assert environment is not None
    while True:
        now = time.time()
        with contextlib.suppress(RPCError):  # it does not run yet
            now = (await environment.get_current_time(kit.client.get_workflow_handle(quota))).timestamp()
        write_atomically(path, str(now))
        await asyncio.sleep(0.02)


FIVE_HOURS = """
now=$(cut -d. -f1 {clock})
test -e {begin} || echo $now > {begin}
end=$(( $(cat {begin}) + 18000 ))
echo "$now" >> {calls}
if [ "$now" -lt "$end" ]; then echo "$now" >> {refused}; echo "retry-after: $(( end - now ))" >&2; exit 75; fi
echo work > "$MERGEWRIGHT_TASK.txt"
echo COMPLETE_AND_READY_FOR_MERGE
"""


@pytest.mark.long
async def test_a_five_hour_limit_hits_thirty_tasks(hasty: Kit) -> None:
    """All finish, and hardly a call is refused: those that were under way, and nobody after them."""
    paths = {name: hasty.folder / name for name in ("clock", "begin", "calls", "refused")}
    command = ["sh", "-c", FIVE_HOURS.format(**paths)]
    agent = {"runtime": "command", "command": command, "account": "five-hours"}
    with hasty.config.open("a") as file:
        file.write('[accounts."command/five-hours"]\nslots = 3\n')
    clock = asyncio.create_task(_tell_the_time(hasty, quota_id("command/five-hours", hasty.task_queue), paths["clock"]))
    await asyncio.sleep(1)
    assert paths["clock"].exists()
    async with hasty.worker():
        handles = [await hasty.start(hasty.input(agent=agent), f"limited-{number}") for number in range(30)]
        results = [await asyncio.wait_for(handle.result(), 250) for handle in handles]
    clock.cancel()
    assert {(result.outcome, result.turns, result.review_rounds) for result in results} == {("merged", 1, 0)}
    refused = paths["refused"].read_text().splitlines()
    assert 1 <= len(refused) < 5
    assert len(paths["calls"].read_text().splitlines()) == 30 + len(refused)


async def test_a_landing_whose_queue_is_gone_asks_again(hasty: Kit) -> None:
    queue = Queue(hasty)
    queue.branch("one", {"a.txt": "x\n"})
    async with hasty.worker():
        await queue.open("paused")
        landing = await queue.send("one")
        await queue.gathered("one")
        await queue.handle.terminate()
        [result] = await ended(landing)
    assert result.outcome == "merged"
