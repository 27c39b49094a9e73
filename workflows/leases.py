"""How a task asks its quotas before a turn: the account's, and the repository's where its daily money is capped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities.contracts import TurnResult, quota_id
    from activities.prepare import REPOSITORY_QUOTA
    from workflows.contracts import LeaseGrant, LeaseNote, LeasePing, LeaseRequest, LeaseReturn, Refusal
    from workflows.talk import Talk

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


class Leases(Talk):
    """A part of the task's workflow: it keeps what quotas have answered."""

    def __init__(self) -> None:
        super().__init__()
        self.grants: dict[tuple[str, str], LeaseGrant] = {}
        self.notes: dict[tuple[str, str], LeaseNote] = {}
        self.leases: set[str] = set()
        """Asked for or held, by this run of the task."""
        self.lease_number = 0

    async def ask_quotas(
        self, account: str, purse: str, what: str, patience: float | None, waits: Callable[[LeaseNote], None]
    ) -> Held | TooLong:
        """Wait until the account and the repository's purse have granted the turn; either may be none.

        The account comes first, and is given back while there is no money: whoever waits for the one must not keep the
        other from those who could go. `waits` is told why it takes time. `patience`: seconds; a wait for the account
        that is known to be longer is not waited for. None: any.
        """
        while True:
            held = self._new_lease()
            if account and isinstance(answer := await self._ask(account, held, what, patience, waits), TooLong):
                return answer
            if not purse or not isinstance(await self._ask(purse, held, what, 0.0, waits, at_once=True), TooLong):
                return held
            money = self._new_lease()
            await self._ask(purse, money, what, None, waits)
            await self._unask(money)

    def _new_lease(self) -> Held:
        self.lease_number += 1
        info = workflow.info()
        held = Held(f"{info.workflow_id}/{info.run_id[-8:]}/{self.lease_number}", [], [])
        self.leases.add(held.lease)
        return held

    async def _ask(
        self,
        quota: str,
        held: Held,
        what: str,
        patience: float | None,
        waits: Callable[[LeaseNote], None],
        at_once: bool = False,
    ) -> LeaseGrant | TooLong:
        """One quota. Where it is not granted, nothing at all is held any more."""
        held.quotas.append(quota)
        request = LeaseRequest(lease=held.lease, holder=workflow.info().workflow_id, what=what)
        try:
            answer = await self._answer(quota, request, patience, waits, at_once)
        except (Exception, asyncio.CancelledError):  # cancelled or abandoned: nobody waits any more
            await self._unask(held)
            raise
        if isinstance(answer, TooLong):
            await self._unask(held)
        else:
            held.caps_usd.append(answer.cap_usd)
        return answer

    async def _answer(
        self,
        quota: str,
        request: LeaseRequest,
        patience: float | None,
        waits: Callable[[LeaseNote], None],
        at_once: bool,
    ) -> LeaseGrant | TooLong:
        key = (quota, request.lease)
        asked = workflow.time()
        shown: LeaseNote | None = None
        pause = ASK_AGAIN
        while True:
            await self._send(quota, "lease", request)
            again = pause
            while True:
                try:
                    await workflow.wait_condition(
                        lambda: key in self.grants or self.notes.get(key) != shown or self.stops,  # noqa: B023
                        timeout=again,
                        timeout_summary=_waits(quota, shown),
                    )
                except TimeoutError:
                    pause = min(2 * pause, MAX_ASK_AGAIN)
                    break
                if key in self.grants:
                    self.notes.pop(key, None)
                    return self.grants.pop(key)
                self.stop_if_wanted()
                note = shown = self.notes[key]
                wait = max(note.until - workflow.time(), 0.0) if note.until is not None else 0.0
                if at_once:
                    return TooLong(note.text, wait)
                if patience is not None and note.until is not None and note.until - asked > patience:
                    return TooLong(note.text, note.until - asked)
                waits(note)
                again = pause + timedelta(seconds=wait)

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
        self.leases.discard(held.lease)
        for quota in held.quotas:
            refused = None if quota.startswith(REPOSITORY_QUOTA) else back.refused
            await self._send(quota, "give_back", back.model_copy(update={"refused": refused}))

    async def _unask(self, held: Held) -> None:
        self.leases.discard(held.lease)
        for quota in held.quotas:
            self.grants.pop((quota, held.lease), None)
            self.notes.pop((quota, held.lease), None)
            await self._send(quota, "withdraw", held.lease)

    async def _send(self, quota: str, signal: str, value: Any) -> None:
        """To a quota that has ended for idleness, or was terminated, after it was started again."""
        where = quota_id(quota, workflow.info().task_queue)
        try:
            await signalled(where, signal, value)
        except FailureError:
            if signal == "lease":  # anything else is of a lease that it has forgotten
                await self.open_quota(quota)
                await signalled(where, signal, value)

    async def open_quota(self, quota: str) -> None:
        raise NotImplementedError

    def stop_if_wanted(self) -> None:
        raise NotImplementedError

    @workflow.signal(description="from a quota: a turn may be taken")
    def lease_granted(self, grant: LeaseGrant) -> None:
        self.grants[grant.quota, grant.lease] = grant

    @workflow.signal(description="from a quota: why a turn must wait")
    def lease_note(self, note: LeaseNote) -> None:
        self.notes[note.quota, note.lease] = note

    @workflow.signal(description="from a quota: are you still there?")
    async def lease_ping(self, ping: LeasePing) -> None:
        """Whoever can be signalled is; but an earlier run of this id, which was terminated, is not."""
        if ping.lease not in self.leases:
            await self._send(ping.quota, "withdraw", ping.lease)


def _waits(quota: str, note: LeaseNote | None) -> str:
    """For the timeline: `anthropic/default is limited: 429, until 14:05 UTC`."""
    if note is None:
        return f"waits for a turn of {quota}"
    until = f", until {datetime.fromtimestamp(note.until, UTC):%H:%M} UTC" if note.until else ""
    return f"waits for {note.text[:160]}{until}"


async def signalled(workflow_id: str, signal: str, value: Any) -> None:
    """Signal another workflow. Raises FailureError when there is none.

    A cancellation that comes meanwhile is ours: without the shield the SDK takes it for the signal's, and it is lost.
    """
    handle = workflow.get_external_workflow_handle(workflow_id)
    await asyncio.shield(asyncio.create_task(handle.signal(signal, value)))


def _refusal(result: TurnResult) -> Refusal | None:
    match result.end:
        case "limited" | "credit" as kind:
            return Refusal(kind=kind, reason=result.reason, retry_after_seconds=result.retry_after_seconds)
    return None
