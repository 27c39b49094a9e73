"""What the server and the swarms themselves say of them. A swarm whose worker is away does not answer, and is shown
by what the server knows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.service import RPCError, RPCStatusCode

from activities.attributes import LABELS, REPOSITORY
from console.glance import MOST, RUNNING, Seen, seen_as
from console.steering import AT_ONCE, PATIENCE
from service.codec import Undecodable
from service.devserver import CannotServe
from workflows.swarm_contracts import BoardLine, BoardPage, Member, Place, SwarmResult, SwarmStatus

SWARMS = "WorkflowType = 'SwarmWorkflow' AND ExecutionStatus != 'ContinuedAsNew'"
ANSWER = timedelta(seconds=3)
LABEL = "swarm:"
"""Of the tasks that are cycles of a swarm, before its id."""


@dataclass(frozen=True)
class SeenSwarm:
    """One swarm: what the server has, and its own answer if there was one."""

    swarm_id: str
    state: str
    """`running`, `completed`, `terminated` …: the workflow's."""
    started: float
    ended: float | None
    repo: str = ""
    status: SwarmStatus | None = None
    result: SwarmResult | None = None
    why: str = ""
    """It failed."""
    cycles: list[Seen] = field(default_factory=list)
    """Its tasks that run."""

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def dead(self) -> bool:
        """It ended without giving back what its tasks hold."""
        return not self.running and self.result is None

    @property
    def stage(self) -> str:
        if self.running:
            return self.status.stage if self.status else "does not answer"
        return "ended" if self.state == "completed" else self.state

    @property
    def counts(self) -> Mapping[Place, int]:
        return self.result.counts if self.result else self.status.counts if self.status else {}

    @property
    def members(self) -> Sequence[Member]:
        return self.result.members if self.result else self.status.members if self.status else []

    @property
    def cost_usd(self) -> float | None:
        return self.result.cost_usd if self.result else self.status.cost_usd if self.status else None

    def as_dict(self) -> dict[str, Any]:
        return {
            "swarm_id": self.swarm_id,
            "state": self.state,
            "stage": self.stage,
            "repo": self.repo,
            "started": self.started,
            "ended": self.ended,
            "cost_usd": self.cost_usd,
            "counts": dict(self.counts),
            "status": self.status and self.status.model_dump(mode="json"),
            "result": self.result and self.result.model_dump(mode="json"),
            "why": self.why,
            "running_tasks": [cycle.task_id for cycle in self.cycles],
        }


async def swarms(client: Client, past: bool) -> list[SeenSwarm]:
    """Those that run, and those that are over but have tasks that run; `past`: all. The newest first, the last run of
    each."""
    query = SWARMS if past else f"{SWARMS} AND {RUNNING}"
    found: dict[str, WorkflowExecution] = {}
    async for execution in client.list_workflows(query, page_size=MOST, limit=MOST):
        found.setdefault(execution.id, execution)
    at = await cycles(client)
    for swarm in at.keys() - found.keys():
        with contextlib.suppress(CannotServe):  # the server has forgotten it
            found[swarm] = await the_swarm(client, swarm)
    free = asyncio.Semaphore(AT_ONCE)

    async def one(execution: WorkflowExecution) -> SeenSwarm:
        async with free:
            return await look(client, execution, at.get(execution.id, []))

    return list(await asyncio.gather(*map(one, found.values())))


async def look(client: Client, execution: WorkflowExecution, running: list[Seen]) -> SeenSwarm:
    """One of them. Who has ended is asked for its result, which takes no worker."""
    state = execution.status.name.lower().replace("_", " ") if execution.status else ""
    status, result, why = None, None, ""
    if state in ("completed", "failed"):
        result, why = await _result(client, execution)
    if result is None:
        status = await status_of(client, execution.id, execution.run_id)
    return SeenSwarm(
        swarm_id=execution.id,
        state=state,
        started=status.started if status and status.started else _started(execution, result),
        ended=execution.close_time.timestamp() if execution.close_time else None,
        repo=(status.repo if status else "") or await _repo(client, execution),
        status=status,
        result=result,
        why=why,
        cycles=running,
    )


def _started(execution: WorkflowExecution, result: SwarmResult | None) -> float:
    """The run that is seen may be the last of many."""
    if result and result.wall_seconds and execution.close_time:
        return execution.close_time.timestamp() - result.wall_seconds
    return execution.start_time.timestamp()


async def _result(client: Client, execution: WorkflowExecution) -> tuple[SwarmResult | None, str]:
    handle = client.get_workflow_handle(execution.id, run_id=execution.run_id, result_type=SwarmResult)
    try:
        return await handle.result(follow_runs=False), ""
    except WorkflowFailureError as error:
        return None, str(getattr(error.cause, "message", error.cause))
    except (RPCError, Undecodable) as problem:
        return None, str(problem)


def last_words(swarm: SeenSwarm) -> SwarmStatus:
    """What it says of itself; of one that could not say how it ended, as the server has it."""
    assert swarm.status is not None
    if swarm.running:
        return swarm.status
    why = "what it said last"
    return swarm.status.model_copy(update={"stage": swarm.stage, "reason": why, "ended": swarm.ended})


async def status_of(client: Client, swarm: str, run: str | None = None) -> SwarmStatus | None:
    """None: it does not answer."""
    try:
        handle = client.get_workflow_handle(swarm, run_id=run)
        found: SwarmStatus = await handle.query("swarm", result_type=SwarmStatus, rpc_timeout=ANSWER)
        return found
    except (RPCError, WorkflowQueryFailedError, Undecodable):
        return None


async def _repo(client: Client, execution: WorkflowExecution) -> str:
    return execution.typed_search_attributes.get(REPOSITORY) or str((await given(client, execution)).get("repo", ""))


async def given(client: Client, execution: WorkflowExecution) -> dict[str, Any]:
    """Its input, from its first event; empty when the server has it no more."""
    for run in dict.fromkeys([await _first_run(client, execution), execution.run_id]):
        handle = client.get_workflow_handle(execution.id, run_id=run)
        try:
            async for event in handle.fetch_history_events(page_size=1):
                payloads = event.workflow_execution_started_event_attributes.input.payloads
                found = await client.data_converter.decode(list(payloads))
                return found[0] if found and isinstance(found[0], dict) else {}
        except (RPCError, Undecodable):  # a long chain's first run is forgotten before its last
            continue
    return {}


async def _first_run(client: Client, execution: WorkflowExecution) -> str:
    try:
        described = await client.get_workflow_handle(execution.id, run_id=execution.run_id).describe()
    except RPCError:  # the server has forgotten it, and visibility not yet
        return execution.run_id
    return described.raw_description.workflow_execution_info.first_run_id or execution.run_id


async def cycles(client: Client) -> dict[str, list[Seen]]:
    """The running tasks that are a swarm's, by its id: known by their label, or as the swarm's children."""
    found: dict[str, list[Seen]] = {}
    query = f"WorkflowType = 'TaskWorkflow' AND {RUNNING}"
    async for execution in client.list_workflows(query, page_size=MOST):
        labels = execution.typed_search_attributes.get(LABELS, ())
        named = next((label.removeprefix(LABEL) for label in labels if label.startswith(LABEL)), None)
        if swarm := named or execution.parent_id:
            found.setdefault(swarm, []).append(await seen_as(execution))
    return found


async def the_swarm(client: Client, swarm: str | None, running: bool = False) -> WorkflowExecution:
    """The one of that id; None: the newest that runs, else (unless it must run) the newest. Raises CannotServe."""
    if swarm is None:
        for query in (f"{SWARMS} AND {RUNNING}", *(() if running else (SWARMS,))):
            async for execution in client.list_workflows(query, limit=1):
                return execution
        start = "start one: starter.py swarm --help"
        raise CannotServe(f"no swarm runs: name one, or {start}" if running else f"there is no swarm; {start}")
    try:
        described = await client.get_workflow_handle(swarm).describe()
    except RPCError as error:
        if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            raise
        raise CannotServe(f"there is no swarm {swarm}: `starter.py swarms --all` shows all") from None
    if described.workflow_type != "SwarmWorkflow":
        raise CannotServe(f"{swarm} is a {described.workflow_type}, no swarm: `starter.py swarms --all` shows all")
    return described


async def board(client: Client, swarm: SeenSwarm, place: Place | None) -> list[BoardLine]:
    """Page by page; of one that has ended and whose worker is away: what it left open. Raises CannotServe."""
    handle = client.get_workflow_handle(swarm.swarm_id)
    lines: dict[str, BoardLine] = {}  # a task may come to another place between two pages
    offset = 0
    try:
        while True:
            wanted = {"offset": offset} | ({"place": place} if place else {})
            page: BoardPage = await handle.query("board", wanted, result_type=BoardPage, rpc_timeout=ANSWER)
            lines |= {task.id: task for task in page.lines}
            offset += len(page.lines)
            if not page.more or not page.lines:
                return list(lines.values())
    except (RPCError, WorkflowQueryFailedError):
        if swarm.result is None:
            raise silent(swarm.swarm_id) from None
        return [task for task in swarm.result.open if place in (None, task.place)]


async def tell(client: Client, swarm: str, verb: str, *arguments: Any) -> str:
    """The answer to an update. Raises CannotServe for a swarm that has ended or does not answer."""
    try:
        handle = client.get_workflow_handle(swarm)
        return str(await handle.execute_update(verb, args=list(arguments), rpc_timeout=PATIENCE))
    except WorkflowUpdateRPCTimeoutOrCancelledError:
        raise CannotServe(f"{swarm} takes it once a worker runs; none has answered in {PATIENCE.seconds} s") from None
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        raise over(swarm) from None


def over(swarm: str) -> CannotServe:
    return CannotServe(f"{swarm} has ended: go on with `starter.py swarm --continue {swarm}`")


def silent(swarm: str) -> CannotServe:
    return CannotServe(f"{swarm} does not answer: does a worker run? starter.py doctor")
