"""A queue that is in use for so long that its workflow continues as new, again and again, while it is under load."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHistory
from temporalio.testing import WorkflowEnvironment

from service.converter import data_converter
from service.devserver import temporal_cli
from tests.kit import Kit
from tests.queue_kit import Queue, ended, on_main
from tests.test_replay import replayer

BRANCHES, SENDERS = 32, 4
SUGGESTED = 100
"""Events after which the server suggests to continue as new; 4096 by default."""
MARGIN = 150
"""Events of what has begun by then, and of what comes meanwhile."""


@pytest_asyncio.fixture(loop_scope="session")
async def impatient() -> AsyncIterator[Client]:
    environment = await WorkflowEnvironment.start_local(
        dev_server_existing_path=temporal_cli(),
        dev_server_log_level="error",
        dev_server_extra_args=["--dynamic-config-value", f"limit.historyCount.suggestContinueAsNew={SUGGESTED}"],
        data_converter=data_converter,
    )
    yield environment.client
    await environment.shutdown()


@pytest.mark.long
async def test_nothing_is_lost_where_it_continues_as_new(impatient: Client, tmp_path: Path) -> None:
    kit = Kit(impatient, tmp_path)
    queue = Queue(kit)
    queue.configure("true", gate_slots=2)
    names = [f"b{number}" for number in range(BRANCHES)]
    for name in names:
        queue.branch(name, {f"{name}.txt": "x\n"})
    answers: list[str] = []
    async with kit.worker():
        await queue.open()
        operating = asyncio.create_task(operate(queue, answers))
        results = await asyncio.gather(*(send(queue, names[sender::SENDERS]) for sender in range(SENDERS)))
        operating.cancel()
        runs = await histories(queue)
        status = await queue.status()
    assert [result for sent in results for result in sent] == ["merged"] * BRANCHES
    assert (status.landed, status.ejected, status.places) == (BRANCHES, 0, [])
    assert sorted(kit.trailers("Task-Id")) == sorted(map(queue.task, names))
    assert {f"{name}.txt" for name in names} <= on_main(kit.repo)
    told = [answered(history) for history in runs]
    assert sorted(task for run in told for task in run) == sorted(map(queue.task, names)), "each is answered once"
    assert len(answers) >= 8
    assert len(runs) >= 3, len(runs)
    assert max(len(history.events) for history in runs) <= SUGGESTED + MARGIN
    for history in runs:
        await replayer().replay_workflow(history)
    assert kit.refs() == []
    kit.assert_clean()


async def send(queue: Queue, names: list[str]) -> list[str]:
    """One sender: three at once, and then it waits for them."""
    outcomes: list[str] = []
    for first in range(0, len(names), 3):
        landings = [await queue.send(name) for name in names[first : first + 3]]
        outcomes += [result.outcome for result in await ended(*landings)]
    return outcomes


async def operate(queue: Queue, answers: list[str]) -> None:
    """Updates while branches land: none of them may be lost where one run ends and the next begins."""
    landed = 0
    for commands in itertools.cycle((["retry_checkout"], ["retry_checkout"], ["pause", "resume"])):
        for command in commands:
            async with asyncio.timeout(20):
                answers.append(await queue.handle.execute_update(command))
        status = await queue.when(lambda now: now.landed > landed or now.landed == BRANCHES)  # noqa: B023
        landed = status.landed


async def histories(queue: Queue) -> list[WorkflowHistory]:
    """Of all runs, the first one first."""
    first = (await queue.handle.describe()).raw_description.workflow_execution_info.first_run_id
    found, run_id = [], first
    while run_id:
        found.append(await queue.kit.client.get_workflow_handle(queue.id, run_id=run_id).fetch_history())
        run_id = found[-1].events[-1].workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return found


def answered(history: WorkflowHistory) -> list[str]:
    """Whom the run has told how it ended."""
    sent = [
        event.signal_external_workflow_execution_initiated_event_attributes
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED
    ]
    return [one.workflow_execution.workflow_id for one in sent if one.signal_name == "merge_answer"]
