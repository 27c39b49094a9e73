"""`starter.py continue` of a task that has ended without landing: it begins again under the same id."""

from __future__ import annotations

from typing import Any

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from service.devserver import CannotServe
from workflows.contracts import TaskResult


async def continue_ended(client: Client, task: str, text: str) -> str:
    """Starts a new run with the old one's input. Raises CannotServe: it has landed, runs, or is no task."""
    found = await client.get_workflow_handle(task).describe()
    if found.workflow_type != "TaskWorkflow":
        raise CannotServe(f"{task} is a {found.workflow_type}, no task")
    if found.status is WorkflowExecutionStatus.RUNNING:
        raise CannotServe(f"{task} has begun to run just now: starter.py status {task}")
    how = await _end(client, task, found.run_id, found.status)
    given = await _input(client, task, found.run_id)
    if swarm := (given.get("swarm") or {}).get("swarm"):
        raise CannotServe(
            f"{task} was a worker's of the swarm {swarm}, which gives its tasks to others: see starter.py tasks"
        )
    first = found.raw_description.workflow_execution_info.first_run_id or found.run_id
    try:
        await client.start_workflow(
            "TaskWorkflow",
            {**given, "continues": {"run": first, "text": text}},
            id=task,
            task_queue=found.task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary=str(given.get("title", "")),
        )
    except WorkflowAlreadyStartedError:
        raise CannotServe(f"{task} has begun to run just now: starter.py status {task}") from None
    return f"begins again with what it had saved; it had ended as {how}. Its budget is new: starter.py follow {task}"


async def _end(client: Client, task: str, run: str, status: WorkflowExecutionStatus | None) -> str:
    if status is not WorkflowExecutionStatus.COMPLETED:
        return status.name.lower() if status else "unknown"
    try:
        result: TaskResult = await client.get_workflow_handle(task, run_id=run, result_type=TaskResult).result(
            follow_runs=False
        )
    except WorkflowFailureError:
        return "failed"
    if result.outcome == "merged":
        raise CannotServe(f"{task} has landed as {(result.sha or '')[:12]}: start a new task for what is to follow")
    return result.outcome


async def _input(client: Client, task: str, run: str) -> dict[str, Any]:
    """As it was given to the run, from its first event."""
    async for event in client.get_workflow_handle(task, run_id=run).fetch_history_events(page_size=1):
        payloads = event.workflow_execution_started_event_attributes.input.payloads
        [given] = await client.data_converter.decode(list(payloads))
        if isinstance(given, dict):
            return given
        break
    raise CannotServe(f"{task} has no input that could be read: start it anew")
