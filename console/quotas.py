"""The quotas that there are: slots, who waits, until when an account is parked and why."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.table import Table
from temporalio.client import Client, WorkflowQueryFailedError
from temporalio.service import RPCError

from activities.contracts import quota_id
from workflows.contracts import QuotaState
from workflows.policy.quota import slots, why


async def quotas(client: Client) -> list[QuotaState]:
    """Those that run, by name; one that does not answer is left out."""
    found: list[QuotaState] = []
    async for execution in client.list_workflows("WorkflowType = 'QuotaWorkflow' AND ExecutionStatus = 'Running'"):
        try:
            handle = client.get_workflow_handle(execution.id)
            found.append(await handle.query("quota", result_type=QuotaState))
        except (RPCError, WorkflowQueryFailedError):
            continue
    return sorted(found, key=lambda state: state.name)


def quota_table(found: list[QuotaState], now: float) -> Table:
    table = Table(box=None, header_style="dim")
    for column in ("quota", "turns", "waiting", "today", "state"):
        table.add_column(column, no_wrap=column != "state")
    for state in found:
        cap = state.config.max_cost_usd_per_day
        today = f"${state.spent_today:.2f}" + (f" of ${cap * state.days_granted:.2f}" if cap is not None else "")
        table.add_row(
            state.name, f"{len(state.leases)}/{slots(state) or '∞'}", str(len(state.waiting)), today, says(state, now)
        )
    return table


def says(state: QuotaState, now: float) -> str:
    parked = state.parked_until is not None and state.parked_until > now
    if not (parked or state.held or state.waiting):
        return "open"
    text, until = why(state, now)
    return text + (f", until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M:%S} UTC" if until else "")


def handle_id(name: str, task_queue: str) -> str:
    """`anthropic` is `anthropic/default`."""
    return quota_id(name if "/" in name else f"{name}/default", task_queue)
