"""The Temporal Schedule that starts the janitor of this host; made, or brought up to date, by its worker."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import structlog
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from activities.contracts import CleanUpInput
from workflows import options

log = structlog.get_logger()


def schedule_id(task_queue: str, host: str) -> str:
    return f"clean-up/{options.work_queue(task_queue, host)}"


async def ensure_schedule(client: Client, task_queue: str, host: str, every: timedelta) -> None:
    """Safe to run again, and by several at once. One that an operator has paused stays paused."""
    name = schedule_id(task_queue, host)
    wanted = Schedule(
        action=ScheduleActionStartWorkflow(
            "JanitorWorkflow", CleanUpInput(host=host), id=name, task_queue=task_queue, static_summary="clean up"
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=every),
    )

    def update(found: ScheduleUpdateInput) -> ScheduleUpdate:
        return ScheduleUpdate(schedule=replace(wanted, state=found.description.schedule.state))

    try:
        await client.create_schedule(name, wanted)
    except ScheduleAlreadyRunningError:
        await client.get_schedule_handle(name).update(update)
    except RPCError as error:
        if error.status is not RPCStatusCode.UNIMPLEMENTED:
            raise
        log.warning("this server has no schedules: nothing is cleaned up by itself", remedy="starter.py clean")
