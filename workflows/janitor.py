"""The janitor of one host's data folder: a Temporal Schedule starts it (`service/schedule.py`)."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from activities.contracts import CleanedUp, CleanUpInput
    from activities.janitor import JanitorActivities
    from workflows import options

PATIENCE = timedelta(minutes=30)
"""For a host that is away. The next one of the schedule finds the same and more."""


@workflow.defn
class JanitorWorkflow:
    @workflow.run
    async def run(self, given: CleanUpInput) -> CleanedUp:
        where = options.git_options(workflow.info().task_queue, given.host)
        where["schedule_to_start_timeout"] = PATIENCE
        where["retry_policy"] = RetryPolicy(maximum_attempts=3)
        done = await workflow.execute_activity_method(
            JanitorActivities.clean_up, given, summary="remove what is saved and over", **where
        )
        lines = [f"removed {done.removed_count}, freed {done.freed / 1e6:.0f} MB", ""]
        lines += [f"- left alone: `{one.name}`: {one.why}" for one in done.left]
        workflow.set_current_details("\n".join(lines))
        return done
