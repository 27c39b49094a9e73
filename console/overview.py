"""All tasks, swarms, merge queues and quotas at one moment: one list query, and a query of each swarm, queue and quota;
of no task."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.text import Text
from temporalio.client import Client, WorkflowExecution, WorkflowQueryFailedError
from temporalio.service import RPCError

from console.glance import MOST, TASKS, Seen, narrowed, printable, seen_as
from console.quotas import quota_table, says
from service.codec import Undecodable
from workflows.contracts import QueueStatus, QuotaState
from workflows.policy.quota import slots
from workflows.swarm_contracts import SwarmStatus

ANSWER = timedelta(seconds=2)
"""A queue or quota whose worker is away does not answer at all; what it said last is shown on."""
TYPES: dict[str, tuple[str, type[Any]]] = {
    "MergeQueueWorkflow": ("queue", QueueStatus),
    "QuotaWorkflow": ("quota", QuotaState),
    "SwarmWorkflow": ("swarm", SwarmStatus),
}
T = TypeVar("T")


@dataclass(frozen=True)
class Overview:
    at: float
    """Seconds since the epoch."""
    tasks: list[Seen] = field(default_factory=list)
    """Those that need a person first, then the newest."""
    queues: list[QueueStatus] = field(default_factory=list)
    quotas: list[QuotaState] = field(default_factory=list)
    swarms: list[SwarmStatus] = field(default_factory=list)

    def of(self, words: str) -> list[Seen]:
        """Tasks in which each of the words occurs: in the id, title, repository, stage, agent or a label."""
        wanted = words.lower().split()
        return [task for task in self.tasks if all(word in _text(task) for word in wanted)]

    def headline(self) -> str:
        running = [task for task in self.tasks if task.running]
        need = sum(task.needs_a_person for task in running)
        cost = sum(task.glance.cost_usd for task in self.tasks)
        return f"tasks: {len(running)}, need a person: {need}, cost: ${cost:.2f}  {_clock(self.at)} UTC"


def _text(task: Seen) -> str:
    shown = task.glance
    return " ".join([task.task_id, shown.title, shown.repo, task.stage, shown.agent, *task.labels]).lower()


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S}"


class Lookout:
    """Looks again and again: at what runs, and what has ended since it began."""

    def __init__(self, client: Client, query: str = "") -> None:
        self.client = client
        since = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        recent = narrowed(f"{TASKS} AND (ExecutionStatus = 'Running' OR CloseTime >= '{since}')", query)
        others = ", ".join(f"'{name}'" for name in TYPES)
        self.query = f"({recent}) OR (WorkflowType IN ({others}) AND ExecutionStatus = 'Running')"
        self.last: dict[str, Any] = {}
        """What each queue and quota answered last."""

    async def look(self) -> Overview:
        """Raises RPCError."""
        tasks, others = [], []
        async for execution in self.client.list_workflows(self.query, page_size=MOST, limit=MOST):
            if execution.workflow_type in TYPES:
                others.append(execution)
            else:
                tasks.append(await seen_as(execution))
        answers = await asyncio.gather(*map(self._ask, others))
        self.last = {execution.id: found for execution, found in zip(others, answers, strict=True) if found}
        return Overview(
            at=datetime.now(UTC).timestamp(),
            tasks=sorted(tasks, key=lambda task: (not task.needs_a_person, not task.running, -task.started)),
            queues=sorted(_those(answers, QueueStatus), key=lambda queue: (queue.repo, queue.target)),
            quotas=sorted(_those(answers, QuotaState), key=lambda quota: quota.name),
            swarms=sorted(_those(answers, SwarmStatus), key=lambda swarm: swarm.swarm_id),
        )

    async def _ask(self, execution: WorkflowExecution) -> Any:
        query, kind = TYPES[execution.workflow_type]
        handle = self.client.get_workflow_handle(execution.id)
        try:
            return await handle.query(query, result_type=kind, rpc_timeout=ANSWER)
        except (RPCError, WorkflowQueryFailedError, Undecodable):
            return self.last.get(execution.id)


def _those(answers: Sequence[object], kind: type[T]) -> list[T]:
    return [answer for answer in answers if isinstance(answer, kind)]


def queue_line(queue: QueueStatus) -> str:
    """`main of app: open, 3 wait, 2 chains tested, 12 landed, 1 sent back`."""
    mode = f"{queue.mode}: {queue.mode_reason}" if queue.mode_reason else queue.mode
    name = f"{queue.target.removeprefix('refs/heads/')} of {queue.repo.rpartition('/')[2]}"
    parts = [
        f"{name}: {mode}",
        f"{queue.waiting} wait",
        f"{len(queue.tests)} chains tested",
        f"{queue.landed} landed",
        f"{queue.ejected} sent back",
        f"in trouble: {queue.trouble}" if queue.trouble else "",
    ]
    return printable(", ".join(filter(None, parts)))


def swarm_line(swarm: SwarmStatus) -> str:
    """`swarm-app-1a2b3c: running, 5 of 8 work, 3 of 12 complete, 1 blocked, $1.20`."""
    at_work = sum(member.state == "working" for member in swarm.members)
    board = f"{swarm.counts.get('complete', 0)} of {sum(swarm.counts.values())} complete"
    parts = [
        f"{swarm.swarm_id}: {swarm.stage}",
        f"{at_work} of {len(swarm.members)} work",
        board,
        f"{swarm.counts.get('blocked', 0)} blocked",
        f"${swarm.cost_usd:.2f}",
        f"waits for {swarm.waiting_for}" if swarm.waiting_for else "",
    ]
    return printable(", ".join(filter(None, parts)))


def quota_line(quota: QuotaState, now: float) -> str:
    """`anthropic/default: 3/8 turns, 2 wait, open`."""
    turns = f"{len(quota.leases)}/{slots(quota) or '∞'} turns, {len(quota.waiting)} wait"
    return printable(f"{quota.name}: {turns}, {says(quota, now)}")


def task_line(task: Seen) -> str:
    shown = task.glance
    parts = [f"{task.task_id}: {task.stage}", f"turn {shown.turns}", f"${shown.cost_usd:.2f}"]
    return printable(", ".join([*parts, *filter(None, [task.about])]))


def others(overview: Overview) -> RenderableType:
    """The swarms, queues and quotas."""
    shown: list[RenderableType] = [Text(f"swarm {swarm_line(swarm)}", no_wrap=True) for swarm in overview.swarms]
    shown += [Text(f"queue {queue_line(queue)}", no_wrap=True) for queue in overview.queues]
    if overview.quotas:
        shown.append(quota_table(overview.quotas, overview.at))
    return Group(*shown)


class Changes:
    """Lines for what has changed since the last look."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}

    def lines(self, overview: Overview, words: str) -> Iterator[str]:
        now = {f"task {task.task_id}": task_line(task) for task in overview.of(words)}
        now |= {f"queue {queue.repo} {queue.target}": f"queue {queue_line(queue)}" for queue in overview.queues}
        now |= {f"swarm {swarm.swarm_id}": f"swarm {swarm_line(swarm)}" for swarm in overview.swarms}
        now |= {f"quota {quota.name}": f"quota {quota_line(quota, overview.at)}" for quota in overview.quotas}
        for name, line in now.items():
            if self.told.get(name) != line:
                yield f"{_clock(overview.at)} {line}"
        self.told = now
