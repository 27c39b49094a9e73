"""How things stand outside of a swarm: who may call a model, and how cycles that say nothing have ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from datetime import timedelta
from typing import Any

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowQueryFailedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from activities.attributes import COST
from activities.contracts import quota_id
from activities.swarm.contracts import AccountSeen, CycleEnd

ANSWER_WITHIN = timedelta(seconds=3)
"""Of a quota: who does not know how it stands may begin all the same, and waits at the quota."""
QUEUE_WITHIN = timedelta(seconds=10)
ANY_NUMBER = 1_000
"""Free turns of an account without a limit."""
AT_ONCE = 10
DAY = 86_400


async def account_seen(client: Client, account: str, task_queue: str) -> AccountSeen:
    """What its quota says; nothing, where it does not run or does not answer in time."""
    handle = client.get_workflow_handle(quota_id(account, task_queue))
    try:
        state = await handle.query("quota", rpc_timeout=ANSWER_WITHIN)
    except (RPCError, WorkflowQueryFailedError):
        return AccountSeen()
    return seen_in(state, time.time()) if isinstance(state, dict) else AccountSeen()


def seen_in(state: dict[str, Any], now: float) -> AccountSeen:
    """From a `QuotaState` as JSON."""
    config = state.get("config") or {}
    if state.get("held"):
        return AccountSeen(free=0, why="held by an operator")
    parked, cap = state.get("parked_until") or 0.0, config.get("max_cost_usd_per_day")
    if parked > now:
        return AccountSeen(free=0, parked_until=parked, why=state.get("parked_for") or "limited")
    today = int(now // DAY)
    if cap is not None and state.get("day") == today:
        money = cap * state.get("days_granted", 1)
        if state.get("spent_today", 0.0) >= money:
            return AccountSeen(free=0, parked_until=float((today + 1) * DAY), why=f"today's ${money:.2f} are spent")
    slots = state.get("slots_override") or config.get("slots")
    in_use = len(state.get("leases") or []) + len(state.get("waiting") or [])
    return AccountSeen(free=max((ANY_NUMBER if slots is None else slots) - in_use, 0))


async def in_queue(client: Client, queue: str, cycles: Collection[str]) -> set[str]:
    """Those with work in the merge queue, which is asked to let go of it; all of them, where the queue does not say.

    A landing that was begun before its cycle was terminated goes on: only when the queue has nothing more of a cycle
    does the target tell whether its work landed.
    """
    handle = client.get_workflow_handle(queue)
    try:
        status = await handle.query("queue", rpc_timeout=QUEUE_WITHIN)
        places = [place for place in status["places"] if place["task_id"] in cycles]
        for place in places:
            await handle.signal("withdraw", place["op"])
    except RPCError as error:
        return set() if error.status is RPCStatusCode.NOT_FOUND else set(cycles)
    except WorkflowQueryFailedError:
        return set(cycles)
    return {place["task_id"] for place in places}


async def ends_of(client: Client, cycles: Collection[str]) -> list[CycleEnd]:
    """Of those that run no more, as the server tells. One that it does not know was forgotten: it ended long ago."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(cycle: str) -> CycleEnd | None:
        async with gate:
            return await _end_of(client, cycle)

    return [end for end in await asyncio.gather(*map(one, cycles)) if end is not None]


async def spent_by(client: Client, cycles: Collection[str]) -> dict[str, float]:
    """Dollars, as the tasks themselves have told the server; nothing of one that it does not tell of."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(cycle: str) -> float | None:
        async with gate:
            try:
                found = await client.get_workflow_handle(cycle).describe(rpc_timeout=ANSWER_WITHIN)
            except RPCError:
                return None
            return found.typed_search_attributes.get(COST)

    costs = await asyncio.gather(*map(one, cycles))
    return {cycle: cost for cycle, cost in zip(cycles, costs, strict=True) if cost is not None}


async def _end_of(client: Client, cycle: str) -> CycleEnd | None:
    handle = client.get_workflow_handle(cycle)
    try:
        found = await handle.describe()
    except RPCError as error:
        if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            raise
        return CycleEnd(cycle=cycle, outcome="terminated", reason="the server does not know it any more")
    status = found.status
    if status in (WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.CONTINUED_AS_NEW, None):
        return None
    if status in (WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.FAILED):
        return await _result_of(client, cycle, found.run_id)
    words = {WorkflowExecutionStatus.TIMED_OUT: "timed out", WorkflowExecutionStatus.CANCELED: "was cancelled"}
    outcome = "cancelled" if status is WorkflowExecutionStatus.CANCELED else "terminated"
    return CycleEnd(cycle=cycle, outcome=outcome, reason=f"it {words.get(status, 'was terminated')}")


async def _result_of(client: Client, cycle: str, run_id: str) -> CycleEnd:
    result: Any = None
    reason = ""
    try:
        result = await client.get_workflow_handle(cycle, run_id=run_id).result()
    except WorkflowFailureError as failure:
        error = failure.cause
        reason = str(getattr(error, "message", error))
        details = error.details if isinstance(error, ApplicationError) else ()
        result = next((each for each in details if isinstance(each, dict)), None)
    if not isinstance(result, dict):
        return CycleEnd(cycle=cycle, outcome="failed", reason=reason)
    return CycleEnd(
        cycle=cycle,
        outcome=str(result.get("outcome") or "failed"),
        sha=result.get("sha") or "",
        reason=result.get("reason") or reason,
        result=result,
    )
