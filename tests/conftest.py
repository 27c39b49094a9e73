from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from service.converter import data_converter
from service.devserver import temporal_cli
from tests.kit import Kit

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
