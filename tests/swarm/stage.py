"""A swarm whose cycles do what a test says, and whose activities answer what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.contracts import CheckAgentInput
from activities.settings import AgentSpec, Membership, TaskInput
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
from activities.swarm.looking import ends_of
from activities.swarm.settings import SwarmSettings
from service.converter import InputGuard
from workflows import options
from workflows.contracts import TaskResult
from workflows.leases import signalled
from workflows.swarm import SwarmWorkflow
from workflows.swarm_contracts import CycleNote, CycleReport, SwarmResult, SwarmStatus

KEY = "k"
PATIENCE = 30
"""Seconds."""


@workflow.defn(name="TaskWorkflow", sandboxed=False)
class Cycle:
    def __init__(self) -> None:
        self.outcome: Any = None
        self.told: list[str] = []
        self.swarm: Membership | None = None

    @workflow.run
    async def run(self, task: TaskInput) -> TaskResult:
        assert task.swarm is not None
        self.swarm, me = task.swarm, workflow.info().workflow_id
        await workflow.wait_condition(lambda: self.outcome is not None)
        result = TaskResult(outcome=self.outcome, turns=1)
        report = CycleReport(cycle=me, key=self.swarm.key, result=result)
        with contextlib.suppress(Exception):
            await signalled(self.swarm.swarm, "cycle_ended", report)
        return result

    @workflow.signal
    def end(self, outcome: str) -> None:
        self.outcome = outcome

    @workflow.signal
    async def blocks(self) -> None:
        await workflow.wait_condition(lambda: self.swarm is not None)
        assert self.swarm is not None
        note = CycleNote(cycle=workflow.info().workflow_id, key=self.swarm.key, blocked="stuck")
        await signalled(self.swarm.swarm, "cycle_note", note)

    @workflow.signal
    async def goes_on(self) -> None:
        assert self.swarm is not None
        note = CycleNote(cycle=workflow.info().workflow_id, key=self.swarm.key)
        await signalled(self.swarm.swarm, "cycle_note", note)

    @workflow.signal
    def cancel(self) -> None:
        self.told.append("cancel")
        self.outcome = "cancelled"

    @workflow.signal
    def pause(self) -> None:
        self.told.append("pause")

    @workflow.signal
    def resume(self) -> None:
        self.told.append("resume")

    @workflow.query
    def heard(self) -> list[str]:
        return self.told


class Stage:
    """Its activities, and what a test does with the swarm."""

    def __init__(self, client: Client, **settings: Any) -> None:
        self.client, self.settings = client, {"spec": "", "error_backoff_seconds": 0.1, **settings}
        self.name = f"swarm-{uuid.uuid4().hex[:8]}"
        self.cards: list[Card] = []
        self.taking: list[TakeInInput] = []
        self.finished: list[FinishInput] = []
        self.gates = {name: asyncio.Event() for name in ("open_swarm", "take_in", "look", "check_agent")}
        """An activity waits until its own is set."""
        self.entered: dict[str, asyncio.Event] = {name: asyncio.Event() for name in self.gates}
        for gate in self.gates.values():
            gate.set()
        self.broken = ""
        """Why nothing is taken in."""
        self.handle: WorkflowHandle[Any, SwarmResult]

    async def _passes(self, name: str) -> None:
        self.entered[name].set()
        while not self.gates[name].is_set():
            activity.heartbeat()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.gates[name].wait(), 0.2)

    @activity.defn
    async def open_swarm(self, given: OpenSwarmInput) -> OpenedSwarm:
        await self._passes("open_swarm")
        ref = SwarmRef(swarm_id=given.swarm_id, key=KEY, repo="/repo", target="refs/heads/main")
        return OpenedSwarm(ref=ref, host="here", settings=SwarmSettings.model_validate(self.settings), folder="/none")

    @activity.defn
    async def take_in(self, given: TakeInInput) -> TakenIn:
        await self._passes("take_in")
        self.taking.append(given)
        if self.broken:
            raise ApplicationError(self.broken, non_retryable=True)
        known = {card.id for card in self.cards}
        self.cards += [card for card in given.cards if card.id not in known]
        new = self.cards[given.upto : given.upto + 100]
        rows = [Row(id=card.id, title=card.title, after=card.after, files=card.files) for card in new]
        return TakenIn(rows=rows, upto=given.upto + len(rows))

    @activity.defn
    async def look(self, given: LookInput) -> Looked:
        await self._passes("look")
        return Looked(ended=await ends_of(self.client, given.cycles))

    @activity.defn
    async def finish(self, given: FinishInput) -> None:
        self.finished.append(given)

    @activity.defn
    async def check_agent(self, given: CheckAgentInput) -> AgentSpec:
        await self._passes("check_agent")
        if given.agent.runtime == "nowhere":
            raise ApplicationError("agent: unknown runtime 'nowhere'", type="InvalidTask", non_retryable=True)
        return given.agent

    @contextlib.asynccontextmanager
    async def played(self, start: bool = True) -> AsyncIterator[Stage]:
        activities: list[Any] = [self.open_swarm, self.take_in, self.look, self.finish, self.check_agent]
        one: dict[str, Any] = {"activities": activities, "max_heartbeat_throttle_interval": timedelta(seconds=0.2)}
        runner = UnsandboxedWorkflowRunner()
        flows: list[type] = [SwarmWorkflow, Cycle]
        async with (
            Worker(
                self.client,
                task_queue=self.name,
                workflows=flows,
                workflow_runner=runner,
                interceptors=[InputGuard()],
                **one,
            ),
            Worker(self.client, task_queue=options.work_queue(self.name, "here"), **one),
        ):
            if start:
                await self.start()
            yield self

    async def start(self) -> None:
        self.handle = await self.client.start_workflow(
            "SwarmWorkflow", {"repo": "/repo"}, id=self.name, task_queue=self.name, result_type=SwarmResult
        )

    async def over(self) -> SwarmResult:
        try:
            return await asyncio.wait_for(self.handle.result(), PATIENCE)
        except TimeoutError:
            raise AssertionError(f"not over: {await self.status()}") from None

    async def status(self) -> SwarmStatus:
        return await self.handle.query("swarm", result_type=SwarmStatus)

    async def until(self, wanted: Callable[[SwarmStatus], bool]) -> SwarmStatus:
        status = None
        for _ in range(PATIENCE * 10):
            with contextlib.suppress(Exception):
                status = await self.status()
                if wanted(status):
                    return status
            await asyncio.sleep(0.1)
        raise AssertionError(f"never came: {status}")

    async def working(self, count: int = 1) -> list[str]:
        """Cycles, once so many are at work."""
        cycles = _cycles(await self.until(lambda now: len(_cycles(now)) == count))
        try:
            for cycle in cycles:
                await self.cycle(cycle).describe()
        except RPCError:  # it is being started
            await asyncio.sleep(0.1)
            return await self.working(count)
        return cycles

    async def add(self, *names: str, **fields: Any) -> Any:
        cards = [{"id": name, "title": name, **fields} for name in names]
        return await asyncio.wait_for(self.handle.execute_update("add", cards), PATIENCE)

    def cycle(self, name: str) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(name)

    async def end(self, cycle: str, outcome: str) -> None:
        await self.cycle(cycle).signal("end", outcome)


def _cycles(status: SwarmStatus) -> list[str]:
    return [member.cycle for member in status.members if member.cycle]
