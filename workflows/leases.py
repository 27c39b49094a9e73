"""How a task asks its quotas before a turn: the account's, and the repository's where its daily money is capped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities.contracts import OpenQuotaInput, TurnResult, quota_id
    from activities.prepare import PrepareActivities
    from workflows import options
    from workflows.contracts import LeaseGrant, LeaseNote, LeaseRequest, LeaseReturn, Refusal
    from workflows.operators import OperatorCommands

ASK_AGAIN = timedelta(hours=1)
"""A quota that was terminated has forgotten who asked. Twice as long each time: most have not."""
MAX_ASK_AGAIN = timedelta(days=30)


@dataclass(frozen=True)
class Held:
    """Leave to take one turn."""

    lease: str
    quotas: list[str]
    caps_usd: list[float | None]


@dataclass(frozen=True)
class TooLong:
    """The wait would be longer than the task wants to wait."""

    text: str
    seconds: float


class Leases(OperatorCommands):
    """A part of the task's workflow: it keeps what quotas have answered."""

    def __init__(self) -> None:
        super().__init__()
        self.grants: dict[tuple[str, str], LeaseGrant] = {}
        self.notes: dict[tuple[str, str], LeaseNote] = {}
        self.lease_number = 0

    async def ask_quotas(
        self, quotas: list[str], what: str, patience: float | None, waits: Callable[[LeaseNote], None]
    ) -> Held | TooLong:
        """Wait until each of them has granted the turn; `waits` is told why one does not yet.

        `patience`: seconds; a wait that is known to be longer is not waited for. None: any.
        """
        self.lease_number += 1
        info = workflow.info()
        lease = f"{info.workflow_id}/{info.run_id[-8:]}/{self.lease_number}"
        held = Held(lease, [], [])
        request = LeaseRequest(lease=lease, holder=info.workflow_id, what=what)
        for quota in quotas:
            held.quotas.append(quota)
            try:
                answer = await self._ask(quota, request, patience, waits)
            except (Exception, asyncio.CancelledError):  # cancelled or abandoned: nobody waits any more
                await self._unask(held)
                raise
            if isinstance(answer, TooLong):
                await self._unask(held)
                return answer
            held.caps_usd.append(answer.cap_usd)
        return held

    async def _ask(
        self, quota: str, request: LeaseRequest, patience: float | None, waits: Callable[[LeaseNote], None]
    ) -> LeaseGrant | TooLong:
        key = (quota, request.lease)
        shown: LeaseNote | None = None
        pause = ASK_AGAIN
        while True:
            await self._send(quota, "lease", request)
            again = pause
            while True:
                try:
                    await workflow.wait_condition(
                        lambda: key in self.grants or self.notes.get(key) != shown or self.abandoned,  # noqa: B023
                        timeout=again,
                        timeout_summary=f"asks {quota} again",
                    )
                except TimeoutError:
                    pause = min(2 * pause, MAX_ASK_AGAIN)
                    break
                if key in self.grants:
                    self.notes.pop(key, None)
                    return self.grants.pop(key)
                self.stop_if_abandoned()
                note = shown = self.notes[key]
                wait = note.until - workflow.time() if note.until is not None else 0.0
                if patience is not None and wait > patience:
                    return TooLong(note.text, wait)
                waits(note)
                again = pause + timedelta(seconds=max(wait, 0.0))

    async def give_back(self, held: Held, result: TurnResult | None) -> None:
        """None: the turn did not come to its end."""
        back = LeaseReturn(lease=held.lease, worked=False)
        if result is not None:
            back = back.model_copy(
                update={
                    "usage": result.usage,
                    "worked": result.end in ("done", "max_turns", "budget"),
                    "refused": _refusal(result),
                }
            )
        for quota in held.quotas:
            refused = None if quota.startswith("repository/") else back.refused
            await self._send(quota, "give_back", back.model_copy(update={"refused": refused}))

    async def _unask(self, held: Held) -> None:
        for quota in held.quotas:
            self.grants.pop((quota, held.lease), None)
            self.notes.pop((quota, held.lease), None)
            await self._send(quota, "withdraw", held.lease)

    async def _send(self, quota: str, signal: str, value: Any) -> None:
        """To a quota that has ended for idleness, or was terminated, after it was started again."""
        handle = workflow.get_external_workflow_handle(quota_id(quota))
        try:
            await handle.signal(signal, value)
        except FailureError:
            if signal != "lease":
                return  # it has forgotten the lease
            await workflow.execute_activity_method(
                PrepareActivities.open_quota,
                OpenQuotaInput(quota=quota, max_cost_usd_per_day=self.daily_cap()),
                summary=f"start the quota of {quota}",
                **options.prepare_options(workflow.info().task_queue),
            )
            await handle.signal(signal, value)

    def daily_cap(self) -> float | None:
        raise NotImplementedError

    def stop_if_abandoned(self) -> None:
        raise NotImplementedError

    @workflow.signal(description="from a quota: a turn may be taken")
    def lease_granted(self, grant: LeaseGrant) -> None:
        self.grants[grant.quota, grant.lease] = grant

    @workflow.signal(description="from a quota: why a turn must wait")
    def lease_note(self, note: LeaseNote) -> None:
        self.notes[note.quota, note.lease] = note

    @workflow.signal(description="from a quota: are you still there?")
    def lease_ping(self, lease: str) -> None:
        """Whoever can be signalled is."""


def _refusal(result: TurnResult) -> Refusal | None:
    match result.end:
        case "limited" | "credit" as kind:
            return Refusal(kind=kind, reason=result.reason, retry_after_seconds=result.retry_after_seconds)
    return None
