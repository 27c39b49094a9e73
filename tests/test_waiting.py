"""Hours that pass in a second: a server that skips time. What waits there waits for nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment

from service.converter import data_converter
from service.devserver import temporal_cli
from tests.kit import Kit, status_when


@pytest_asyncio.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[Kit]:
    environment = await WorkflowEnvironment.start_time_skipping_v2(
        dev_server_existing_path=temporal_cli(),
        dev_server_log_level="error",
        dev_server_extra_args=["--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true"],
        data_converter=data_converter,
    )
    yield Kit(environment.client, tmp_path)
    await environment.shutdown()


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
