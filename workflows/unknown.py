"""Answers a start with a wrong `--type` in one line; Temporal would try it again for ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

KNOWN = ("TaskWorkflow", "LandWorkflow", "SwarmWorkflow", "MergeQueueWorkflow", "QuotaWorkflow")


@workflow.defn(dynamic=True)
class UnknownWorkflow:
    @workflow.run
    async def run(self, _: Sequence[RawValue]) -> Any:
        name = workflow.info().workflow_type
        raise ApplicationError(
            f"--type: there is no workflow {name!r}; tasks are started with --type {KNOWN[0]}, "
            f"branches are landed with --type {KNOWN[1]}, swarms started with --type {KNOWN[2]}",
            type="InvalidTask",
            non_retryable=True,
        )
