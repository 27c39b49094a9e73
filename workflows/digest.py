"""The daily digest of one worker: a Temporal Schedule starts it (`service/digest.py`)."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.settings import Model
    from workflows import options

PATIENCE = timedelta(hours=1)
"""For a host that is away: later it would not be the day's digest."""


class DigestInput(Model):
    host: str
    """Whose configuration says who gets it."""
    hours: float = 24
    home: str = ""
    """Its data folder on that host; empty: that of whichever worker takes it."""


@workflow.defn
class DigestWorkflow:
    @workflow.run
    async def run(self, given: DigestInput) -> str:
        """Its text, as it is without a choice of repositories."""
        where = options.notify_options(workflow.info().task_queue, given.host)
        where["schedule_to_start_timeout"] = PATIENCE
        where["start_to_close_timeout"] = timedelta(minutes=15)
        text: str = await workflow.execute_activity(
            "digest", given, result_type=str, summary="tell operators how the day went", **where
        )
        workflow.set_current_details(f"~~~\n{text}\n~~~")
        return text
