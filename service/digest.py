"""The daily digest: its Schedule, and what it says: landed, not landed, waiting for somebody, cost."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from temporalio import activity
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from activities.config import Digest, load
from activities.contracts import Notice
from activities.home import Home
from activities.notify import deliver_to
from activities.settings import tail
from activities.site import Site, blocking
from service.past import AT_ONCE, Past, asked_of, ended_tasks
from workflows import options
from workflows.contracts import TaskStatus
from workflows.digest import DigestInput

log = structlog.get_logger()

MOST = 15
"""Tasks in one list."""
CATCH_UP = timedelta(hours=1)


@dataclass(frozen=True)
class Waiting:
    """A task that goes on when a person has acted."""

    repo: str
    status: TaskStatus


class DigestActivities:
    def __init__(self, site: Site) -> None:
        self.site = site

    @activity.defn
    async def digest(self, given: DigestInput) -> str:
        """To all destinations that want it, each about its repositories; a second run sends what was not sent."""
        site = self.site
        home = Home(Path(given.home)) if given.home else site.home
        since = datetime.now(UTC) - timedelta(hours=given.hours)
        ended = await ended_tasks(site.client, home.root, since, site.task_queue)
        waiting = await waiting_tasks(site.client, site.task_queue)
        failed = []
        for destination in load(home.root).notify:
            if destination.wants("digest", ""):
                text = digest_text(ended, waiting, destination.repositories)
                notice = Notice(event="digest", id=f"digest-{activity.info().workflow_run_id}", text=text)
                if problem := await blocking(deliver_to, home, destination, notice):
                    failed.append(f"{destination.url}: {problem}")
        if failed:
            raise ApplicationError(f"not told: {'; '.join(failed)}", type="NotTold")
        return digest_text(ended, waiting, [])


async def waiting_tasks(client: Client, task_queue: str = "") -> list[Waiting]:
    """Of the running ones, those that a command moves on. One that does not answer is left out."""
    query = "WorkflowType = 'TaskWorkflow' AND ExecutionStatus = 'Running'"
    query += f" AND TaskQueue = '{task_queue}'" if task_queue else ""
    gate = asyncio.Semaphore(AT_ONCE)

    async def look(task_id: str) -> Waiting | None:
        async with gate:
            try:
                status = await client.get_workflow_handle(task_id).query("status", result_type=TaskStatus)
                if not status.next_command:
                    return None
                repo = str((await asked_of(client, task_id)).get("repo", ""))
            except Exception as problem:  # also what another key or another version has written
                log.warning("a task is not in the digest", task=task_id, reason=str(problem))
                return None
        return Waiting(str(Path(repo).resolve()), status)

    found = await asyncio.gather(*[look(each.id) async for each in client.list_workflows(query)])
    return [each for each in found if each is not None]


def digest_text(ended: Sequence[Past], waiting: Sequence[Waiting], repositories: Sequence[str]) -> str:
    """`repositories`: of these only; none: of all."""
    ended = [past for past in ended if not repositories or past.repo in repositories]
    waiting = [each for each in waiting if not repositories or each.repo in repositories]
    counts = Counter("landed" if past.outcome == "merged" else past.outcome for past in ended)
    counted = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()) or "no task has ended"
    cost, tokens = sum(past.cost_usd for past in ended), sum(past.tokens for past in ended)
    lines = [f"{counted}; they cost ${cost:.2f}, {tokens:,} tokens. {len(waiting)} wait for you."]
    asks = [
        f"{_name(each.repo, each.status.task_id, each.status.title)}: "
        f"{each.status.blocked.reason if each.status.blocked else each.status.stage}\n    {each.status.next_command}"
        for each in waiting
    ]
    landed = [_name(past.repo, past.task_id, past.title) for past in ended if past.outcome == "merged"]
    others = [
        f"{_name(past.repo, past.task_id, past.title)}: {past.outcome}, {tail(past.reason, 120)}".rstrip(", ")
        for past in ended
        if past.outcome != "merged"
    ]
    for heading, entries in (("Waiting for you", asks), ("Landed", landed), ("Not landed", others)):
        lines += ["", heading, *(f"- {entry}" for entry in entries[:MOST])] if entries else []
        lines += [f"- and {len(entries) - MOST} more"] if len(entries) > MOST else []
    return "\n".join(lines)


def _name(repo: str, task_id: str, title: str) -> str:
    return f"{Path(repo).name}: {task_id}: {title}"


# --- when ------------------------------------------------------------------------------------------


def digest_id(task_queue: str, host: str, home: Path) -> str:
    """Each data folder of a host has one of its own."""
    return f"digest/{options.work_queue(task_queue, host)}/{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}"


async def ensure_digest(client: Client, task_queue: str, host: str, home: Home) -> None:
    """The Schedule as the configuration has it now, or none. Safe to run again. A paused one stays paused."""
    name, wanted = digest_id(task_queue, host, home.root), load(home.root).notify_digest
    handle = client.get_schedule_handle(name)
    try:
        if wanted is None:
            await handle.delete()
            return
        schedule = _schedule(wanted, name, task_queue, host, home)

        def update(found: ScheduleUpdateInput) -> ScheduleUpdate:
            return ScheduleUpdate(schedule=replace(schedule, state=found.description.schedule.state))

        try:
            await client.create_schedule(name, schedule)
        except ScheduleAlreadyRunningError:
            await handle.update(update)
    except RPCError as error:
        if error.status is RPCStatusCode.UNIMPLEMENTED and wanted is not None:
            log.warning("this server has no schedules: there is no daily digest")
        elif error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.UNIMPLEMENTED):
            raise


def _schedule(wanted: Digest, name: str, task_queue: str, host: str, home: Home) -> Schedule:
    hour, minute = wanted.at.split(":")
    return Schedule(
        action=ScheduleActionStartWorkflow(
            "DigestWorkflow",
            DigestInput(host=host, home=str(home.root)),
            id=name,
            task_queue=task_queue,
            static_summary="daily digest",
        ),
        spec=ScheduleSpec(cron_expressions=[f"{int(minute)} {int(hour)} * * *"], time_zone_name=wanted.timezone),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCH_UP),
    )
