"""The Temporal Schedule that starts the janitor of a data folder; made, or brought up to date, by its worker."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import structlog
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from activities.contracts import CleanUpInput
from workflows import options

log = structlog.get_logger()


def schedule_id(task_queue: str, host: str, home: Path) -> str:
    """Several data folders of a host may serve one task queue: each has its own."""
    return f"{_earlier_id(task_queue, host)}/{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}"


def _earlier_id(task_queue: str, host: str) -> str:
    """As it was when all data folders of a host had one."""
    return f"clean-up/{options.work_queue(task_queue, host)}"


async def ensure_schedule(client: Client, task_queue: str, host: str, home: Path, every: timedelta) -> None:
    """Safe to run again, and by several at once. One that an operator has paused stays paused."""
    name, earlier = schedule_id(task_queue, host, home), client.get_schedule_handle(_earlier_id(task_queue, host))
    given = CleanUpInput(host=host, home=str(home))
    wanted = Schedule(
        action=ScheduleActionStartWorkflow(
            "JanitorWorkflow", given, id=name, task_queue=task_queue, static_summary=f"clean up {home}"
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=every),
    )

    def update(found: ScheduleUpdateInput) -> ScheduleUpdate:
        return ScheduleUpdate(schedule=replace(wanted, state=found.description.schedule.state))

    try:
        replaced = await _state(earlier)
        try:
            await client.create_schedule(name, replace(wanted, state=replaced or ScheduleState()))
        except ScheduleAlreadyRunningError:
            await client.get_schedule_handle(name).update(update)
        if replaced is not None:
            await earlier.delete()
    except RPCError as error:
        if error.status is not RPCStatusCode.UNIMPLEMENTED:
            raise
        log.warning("this server has no schedules: nothing is cleaned up by itself", remedy="starter.py clean")


async def _state(schedule: ScheduleHandle) -> ScheduleState | None:
    """None: there is no such schedule."""
    try:
        return (await schedule.describe()).schedule.state
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return None
