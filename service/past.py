"""What ended tasks were: read from their histories, which never change, and kept in the data folder by run id.

A server forgets a run after its retention; what was once read stays known here. Payloads of every version are read, so
nothing here insists on a field.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowExecution
from temporalio.service import RPCError

from activities.home import Home, safe_name
from activities.settings import AgentSpec, Model
from activities.site import write_model
from service.codec import Undecodable

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Histories that are fetched at the same time."""


class PastTurn(Model):
    role: str = ""
    runtime: str = ""
    model: str = ""
    cost_usd: float = 0.0
    tokens: int = 0
    seconds: float = 0.0


class Past(Model):
    """One task that has ended."""

    task_id: str
    run_id: str
    repo: str = ""
    title: str = ""
    runtime: str = ""
    outcome: str = "failed"
    sha: str = ""
    reason: str = ""
    ended: float = 0.0
    """Seconds since the epoch."""
    seconds: dict[str, float] = {}
    """By stage, and `total`; empty for a task that never began, or was terminated."""
    turns: list[PastTurn] = []
    faults: dict[str, int] = {}
    """Classes of gates that were red, and how often."""

    @property
    def cost_usd(self) -> float:
        return sum(turn.cost_usd for turn in self.turns)

    @property
    def tokens(self) -> int:
        return sum(turn.tokens for turn in self.turns)


def cache(client: Client, home: Path) -> Path:
    """Of what this server's namespace has told."""
    server = f"{client.service_client.config.target_host}/{client.namespace}"
    return Home(home).past / safe_name(server)


async def ended_tasks(client: Client, home: Path, since: datetime, task_queue: str = "") -> list[Past]:
    """Those that ended since then, the newest first; also those that only the data folder still knows."""
    folder = cache(client, home)
    found = {past.run_id: past for past in await asyncio.to_thread(_kept, folder)} if not task_queue else {}
    query = f"WorkflowType = 'TaskWorkflow' AND CloseTime >= '{since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}'"
    query += f" AND TaskQueue = '{task_queue}'" if task_queue else ""
    gate = asyncio.Semaphore(AT_ONCE)

    async def read(execution: WorkflowExecution) -> None:
        async with gate:
            if past := _one(folder / f"{execution.run_id}.json") or await _fetched(client, execution, folder):
                found[past.run_id] = past

    await asyncio.gather(*[read(each) async for each in client.list_workflows(query) if each.run_id not in found])
    newest = sorted(found.values(), key=lambda past: -past.ended)
    return [past for past in newest if past.ended >= since.timestamp()]


def _kept(folder: Path) -> list[Past]:
    return [past for path in folder.glob("*.json") if (past := _one(path))]


def _one(path: Path) -> Past | None:
    """None: there is none, or another version has written it."""
    with suppress(OSError, ValueError):
        return Past.model_validate_json(path.read_bytes())
    return None


async def _fetched(client: Client, execution: WorkflowExecution, folder: Path) -> Past | None:
    """None: the server has forgotten it meanwhile, or it cannot be read."""
    handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
    reader = _Reader(client, execution.id, execution.run_id)
    try:
        async for event in handle.fetch_history_events():
            await reader.feed(event)
    except RPCError:
        return None
    except Undecodable as problem:  # somebody else's, or from before a key was lost
        log.warning("%s is left out: %s", execution.id, problem)
        return None
    past = reader.past()
    await asyncio.to_thread(write_model, folder / f"{past.run_id}.json", past)
    return past


class _Reader:
    """One history."""

    def __init__(self, client: Client, task_id: str, run_id: str) -> None:
        self.converter = client.data_converter
        self.found: dict[str, Any] = {"task_id": task_id, "run_id": run_id}
        self.scheduled: dict[int, tuple[str, Any]] = {}
        self.turns: list[PastTurn] = []
        self.faults: Counter[str] = Counter()

    async def feed(self, event: HistoryEvent) -> None:
        match event.event_type:
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
                self._asked(await self._decoded(event.workflow_execution_started_event_attributes.input))
            case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                scheduled = event.activity_task_scheduled_event_attributes
                name = scheduled.activity_type.name
                given = await self._decoded(scheduled.input) if name == "take_turn" else {}
                self.scheduled[event.event_id] = name, given
            case EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
                done = event.activity_task_completed_event_attributes
                name, given = self.scheduled.pop(done.scheduled_event_id, ("", {}))
                if name in ("prepare", "take_turn", "run_gates"):
                    self._done(name, given, await self._decoded(done.result))
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                signal = event.workflow_execution_signaled_event_attributes
                if signal.signal_name == "merge_answer":
                    self._red((await self._decoded(signal.input)).get("gates"))
            case _:
                await self._end(event)

    def past(self) -> Past:
        return Past(**self.found, turns=self.turns, faults=dict(self.faults))

    def _asked(self, task: dict[str, Any]) -> None:
        self.found |= {"repo": str(task.get("repo", "")), "title": str(task.get("title", ""))}
        self.found["runtime"] = _runtime(task.get("agent"))

    def _done(self, name: str, given: dict[str, Any], result: dict[str, Any]) -> None:
        if name == "prepare":
            self.found["repo"] = result.get("ref", {}).get("repo", "")
            self.found["title"] = result.get("title") or self.found["title"]
            self.found["runtime"] = _runtime(result.get("settings", {}).get("agent"))
        elif name == "run_gates":
            self._red(result.get("results"))
        else:
            agent, usage = given.get("agent", {}), result.get("usage", {})
            self.turns.append(
                PastTurn(
                    role=given.get("role", ""),
                    runtime=_runtime(agent),
                    model=result.get("model") or agent.get("model") or "",
                    cost_usd=usage.get("cost_usd", 0.0),
                    tokens=usage.get("input_tokens", 0) + usage.get("output_tokens", 0),
                    seconds=result.get("seconds", 0.0),
                )
            )

    def _red(self, gates: Any) -> None:
        self.faults.update(gate.get("fault") or "of no known class" for gate in gates or [] if not gate.get("passed"))

    async def _end(self, event: HistoryEvent) -> None:
        self.found["ended"] = event.event_time.ToNanoseconds() / 1e9  # of the last event
        match event.event_type:
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
                self._result(await self._decoded(event.workflow_execution_completed_event_attributes.result))
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
                failure = event.workflow_execution_failed_event_attributes.failure
                error: Any = await self.converter.decode_failure(failure)
                self.found["reason"] = str(getattr(error, "message", error))
                details = [each for each in getattr(error, "details", ()) if isinstance(each, dict)]
                self._result(details[0] if details else {})
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
                self.found["outcome"] = "terminated"
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
                self.found["outcome"] = "cancelled"

    def _result(self, result: dict[str, Any]) -> None:
        self.found |= {"outcome": result.get("outcome", "failed"), "seconds": result.get("seconds", {})}
        self.found |= {"sha": result.get("sha") or ""}
        self.found["reason"] = result.get("reason") or self.found.get("reason", "")

    async def _decoded(self, payloads: Payloads) -> dict[str, Any]:
        """The first; {} when it is no object."""
        found = await self.converter.decode(list(payloads.payloads)[:1])
        return found[0] if found and isinstance(found[0], dict) else {}


def _runtime(agent: Any) -> str:
    """Of an agent as it was given: an object, or `codex:gpt-5.5`."""
    if isinstance(agent, str):
        return agent.partition(":")[0]
    return str((agent or {}).get("runtime") or AgentSpec().runtime)


async def asked_of(client: Client, task_id: str) -> dict[str, Any]:
    """A task's input, from the first event of its history."""
    events: AsyncIterator[HistoryEvent] = client.get_workflow_handle(task_id).fetch_history_events(page_size=1)
    first = await anext(events)
    given = first.workflow_execution_started_event_attributes.input
    found = await client.data_converter.decode(list(given.payloads)[:1])
    return found[0] if found and isinstance(found[0], dict) else {}
