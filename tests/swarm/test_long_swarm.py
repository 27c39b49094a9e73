"""A swarm of 2,000 tasks that takes more than a day, on a server that skips time.

The swarm's workflow is the real one. Its cycles and its activities are models of the environment: a cycle claims, works
a quarter of an hour, and says how it ended; the cards lie in memory.
"""

from __future__ import annotations

import asyncio
import random
import resource
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.settings import AgentSpec, TaskInput
from activities.swarm.contracts import (
    Card,
    FinishInput,
    Looked,
    LookInput,
    OpenedSwarm,
    OpenSwarmInput,
    Row,
    SwarmRef,
    TakeInInput,
    TakenIn,
)
from activities.swarm.settings import SwarmSettings
from service.converter import data_converter
from service.devserver import temporal_cli
from service.run import workflow_runner
from workflows import options
from workflows.contracts import TaskResult
from workflows.leases import signalled
from workflows.swarm import SwarmWorkflow
from workflows.swarm_contracts import ClaimAnswer, ClaimRequest, CycleReport, SwarmResult, SwarmStatus

HOST = "here"
MOST_EVENTS = 10_000
"""Of one run: a server suggests to continue as new at 4,096, and what runs then is waited for."""
PATIENCE = 120
"""Seconds, for 200 tasks."""
WORK = timedelta(minutes=15)


@workflow.defn(name="TaskWorkflow", sandboxed=False)
class Cycle:
    """What a swarm sees of a task: claims, and an end."""

    def __init__(self) -> None:
        self.answers: dict[int, ClaimAnswer] = {}

    @workflow.run
    async def run(self, task: TaskInput) -> TaskResult:
        member = task.swarm
        assert member is not None
        me, held = workflow.info().workflow_id, [*member.claims]
        if member.may_claim:
            wanted = [each.id for each in member.open[:2]]
            await signalled(member.swarm, "claim", ClaimRequest(cycle=me, request=1, ids=wanted))
            await workflow.wait_condition(lambda: 1 in self.answers)
            held = self.answers[1].got
        await workflow.sleep(WORK)
        fails = workflow.random().random() < 0.05
        outcome = "failed" if fails else "merged" if held else "no-changes"
        result = TaskResult(outcome=outcome, sha="0" * 40 if outcome == "merged" else None, turns=1, cost_usd=0.01)
        await signalled(member.swarm, "cycle_ended", CycleReport(cycle=me, result=result))
        if workflow.random().random() < 0.2:  # a signal may come twice
            await signalled(member.swarm, "cycle_ended", CycleReport(cycle=me, result=result))
        return result

    @workflow.signal
    def claim_answer(self, answer: ClaimAnswer) -> None:
        self.answers[answer.request] = answer


class Outside:
    """The swarm's activities."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.cards: list[Card] = []
        self.finished = 0

    def add(self, cards: list[Card]) -> None:
        known = {card.id for card in self.cards}
        self.cards += [card for card in cards if card.id not in known]

    @activity.defn
    async def open_swarm(self, given: OpenSwarmInput) -> OpenedSwarm:
        ref = SwarmRef(swarm_id=given.swarm_id, key="k", repo="/repo", target="refs/heads/main")
        return OpenedSwarm(ref=ref, host=HOST, settings=SwarmSettings.model_validate(self.settings), folder="/none")

    @activity.defn
    async def take_in(self, given: TakeInInput) -> TakenIn:
        self.add(given.cards)
        new = self.cards[given.upto : given.upto + 100]
        rows = [Row(id=card.id, title=card.title, after=card.after, files=card.files) for card in new]
        upto = given.upto + len(rows)
        return TakenIn(rows=rows, upto=upto, more=upto < len(self.cards))

    @activity.defn
    async def look(self, given: LookInput) -> Looked:  # noqa: ARG002
        return Looked()

    @activity.defn
    async def finish(self, given: FinishInput) -> None:  # noqa: ARG002
        self.finished += 1


@pytest_asyncio.fixture(loop_scope="function")
async def environment() -> AsyncIterator[WorkflowEnvironment]:
    started = await WorkflowEnvironment.start_time_skipping_v2(
        dev_server_existing_path=temporal_cli(),
        dev_server_log_level="error",
        dev_server_extra_args=["--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true"],
        data_converter=data_converter,
    )
    yield started
    await started.shutdown()


def card(number: int) -> Card:
    """Each tenth waits for the one before; some touch the same files."""
    after = [f"t{number - 1}"] if number % 10 == 9 else []
    return Card(id=f"t{number}", title=f"Task {number}", after=after, files=[f"src/{number % 37}.py"])


async def go(client: Client, tasks: int, workers: list[dict[str, Any]], memory: list[int]) -> tuple[Any, str]:
    queue = f"swarm-{uuid.uuid4().hex[:8]}"
    outside = Outside({"spec": "", "workers": workers, "max_tries": 50, "error_backoff_seconds": 1.0})
    outside.add([card(number) for number in range(tasks // 2)])
    activities: list[Any] = [outside.open_swarm, outside.take_in, outside.look, outside.finish]
    one: dict[str, Any] = {"workflow_runner": workflow_runner(), "max_cached_workflows": 200}
    async with (
        Worker(client, task_queue=queue, workflows=[SwarmWorkflow, Cycle], activities=activities, **one),
        Worker(client, task_queue=options.work_queue(queue, HOST), activities=activities),
    ):
        handle = await client.start_workflow(
            "SwarmWorkflow", {"repo": "/repo"}, id=queue, task_queue=queue, result_type=SwarmResult
        )
        adding = asyncio.create_task(add_the_rest(handle, tasks))
        measuring = asyncio.create_task(measure(memory))
        try:
            result = await asyncio.wait_for(handle.result(), PATIENCE * max(tasks / 200, 1))
        except TimeoutError:
            raise AssertionError(f"not over: {await handle.query('swarm', result_type=SwarmStatus)}") from None
        await adding
        measuring.cancel()
        assert outside.finished == 1
        return result, queue


async def measure(memory: list[int]) -> None:
    """kB of this process, which is the worker: the most that it has had."""
    while True:
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        await asyncio.sleep(1)


async def add_the_rest(handle: WorkflowHandle[Any, SwarmResult], tasks: int) -> None:
    """By signals, while cycles end and the swarm continues as new."""
    numbers = list(range(tasks // 2, tasks))
    for start in range(0, len(numbers), 10):
        cards = [card(number).model_dump(mode="json") for number in numbers[start : start + 10]]
        await handle.signal("add", cards)
        await asyncio.sleep(random.uniform(0, 0.3))


async def runs(client: Client, workflow_id: str) -> list[int]:
    """How long the history of each run is."""
    found = []
    async for execution in client.list_workflows(f"WorkflowId = '{workflow_id}'"):
        handle = client.get_workflow_handle(workflow_id, run_id=execution.run_id)
        described = await handle.describe()
        assert described.status in (WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.CONTINUED_AS_NEW)
        found.append(described.raw_description.workflow_execution_info.history_length)
    return found


MEMBERS = 20
WORKERS = [
    {"name": "given", "count": 12, "agent": AgentSpec().model_dump(mode="json"), "max_wait_for_tasks": 1e6},
    {"name": "choosing", "count": 8, "claims": True, "max_wait_for_tasks": 1e6},
]


@pytest.mark.parametrize("tasks", [30, pytest.param(2_000, marks=[pytest.mark.long, pytest.mark.timeout(1_800)])])
async def test_every_task_is_done_once_whatever_is_continued_as_new(
    environment: WorkflowEnvironment, tasks: int
) -> None:
    memory: list[int] = []
    result, name = await go(environment.client, tasks, WORKERS, memory)
    assert result.counts == {"pending": 0, "current": 0, "blocked": 0, "complete": tasks}, result.reason
    tallies = [member.tally for member in result.members]
    errors, recycled = sum(each.errors for each in tallies), sum(each.recycled for each in tallies)
    claims, cycles = sum(each.claims for each in tallies), sum(each.cycles for each in tallies)
    assert claims == tasks + recycled
    ends: Counter[str] = Counter()
    async for execution in environment.client.list_workflows(f"WorkflowType = 'TaskWorkflow' AND TaskQueue = '{name}'"):
        ends[execution.status.name if execution.status else ""] += 1
    assert ends == {"COMPLETED": cycles}
    assert errors > 0 or tasks < 500
    lengths = await runs(environment.client, name)
    assert max(lengths) < MOST_EVENTS
    assert len(lengths) > 5 or tasks < 2_000
    if tasks >= 2_000:
        assert cycles * WORK / MEMBERS > timedelta(days=1)  # by its timers: those of the server's own clock are real
        third = memory[len(memory) // 3]
        assert memory[-1] < 1.25 * third
        print(f"{cycles} cycles in {len(lengths)} runs of at most {max(lengths)} events; kB: {third}, {memory[-1]}")
