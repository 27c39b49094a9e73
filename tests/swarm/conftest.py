from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from temporalio.client import Client
from temporalio.service import RPCError

LEFT = "ExecutionStatus = 'Running' AND WorkflowType IN ('TaskWorkflow', 'SwarmWorkflow', 'StandIn')"


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def nothing_runs_on(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Whatever a test has left without a worker would have the commands of later ones, which speak to all, wait."""
    yield
    if not {"client", "kit", "desk"} & set(request.fixturenames):
        return
    client: Client = request.getfixturevalue("client")
    found = [execution.id async for execution in client.list_workflows(LEFT)]

    async def end(name: str) -> None:
        with contextlib.suppress(RPCError):
            await client.get_workflow_handle(name).terminate("its test is over")

    await asyncio.gather(*map(end, found))
