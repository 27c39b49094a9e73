from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import settings
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from service.converter import data_converter
from service.devserver import temporal_cli
from tests.kit import Kit

# A busy machine is no defect. The same examples in each run, as a change is judged by it; ALL=1 seeks new ones.
settings.register_profile("ours", deadline=None, derandomize="MERGEWRIGHT_EVERY_STEP" not in os.environ)
settings.load_profile("ours")

LONG = {"test_kill.py", "test_waiting.py", "test_killed.py", "test_killed_landing.py", "test_real_tasks.py",
        "test_real_swarm.py"}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first: the last that run at once should be short."""
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client() -> AsyncIterator[Client]:
    """A real Temporal server in real time. A missing one fails: a suite that skips looks green."""
    environment = await WorkflowEnvironment.start_local(
        dev_server_existing_path=temporal_cli(), dev_server_log_level="error", data_converter=data_converter
    )
    yield environment.client
    await environment.shutdown()


@pytest.fixture
def kit(client: Client, tmp_path: Path) -> Kit:
    return Kit(client, tmp_path)


LEFT = "ExecutionStatus = 'Running' AND WorkflowType IN ('TaskWorkflow', 'SwarmWorkflow', 'StandIn')"


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def nothing_runs_on(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Whatever a test has left without a worker would have the commands of later ones, which speak to all, wait."""
    yield
    if "client" not in request.fixturenames:
        return
    client: Client = request.getfixturevalue("client")
    found = [execution.id async for execution in client.list_workflows(LEFT)]

    async def end(name: str) -> None:
        with contextlib.suppress(RPCError):
            await client.get_workflow_handle(name).terminate("its test is over")

    await asyncio.gather(*map(end, found))
