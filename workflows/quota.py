"""Who may call the models of one account now. Its rules are in `policy.quota`.

A task asks by signal before each turn, and is answered by signal when it may go; it gives its lease back when the turn
is over, with what it cost, and with the limit that it met. A repository whose daily money is capped has such a workflow
of its own, without slots. It is started by `prepare`, with signal-with-start; asking again is harmless.

A task that was terminated gives nothing back. While others wait for a slot the holders are pinged: a signal to a
workflow that is gone fails, and its lease is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.contracts import QuotaConfig
    from workflows.contracts import LeaseNote, LeasePing, LeaseRequest, LeaseReturn, QuotaState
    from workflows.policy import quota as policy
    from workflows.story import quota_story

IDLE = timedelta(minutes=30)
PING = timedelta(minutes=1)
MAX_PING = timedelta(minutes=30)
"""Between two looks at the same holders: turns take long, and each look is in their histories."""
MAX_SLOTS = 10_000


@workflow.defn
class QuotaWorkflow:
    @workflow.init
    def __init__(self, state: QuotaState) -> None:
        self.state = state
        self.changed = False
        self.timer: asyncio.Task[None] | None = None
        self.ping_after = PING
        self.due: float | str | None = None
        """What the timer is for: the time of the next grant, a look at the holders, or idleness."""
        self.told: dict[str, tuple[str, float | None]] = {}
        """What each that waits was told last."""

    @workflow.run
    async def run(self, state: QuotaState) -> None:  # noqa: ARG002 (it has been taken in `__init__`)
        while not workflow.info().is_continue_as_new_suggested():
            await self._grant()
            if not await self._something_happens():
                return
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(self.state)

    def _set(self, state: QuotaState) -> None:
        self.state = state
        self.changed = True

    async def _grant(self) -> None:
        self.changed = False
        now = workflow.time()
        state, grants = policy.granted(self.state, now)
        self.state = state
        holders = {lease.request.lease: lease.request.holder for lease in state.leases}
        heard = await asyncio.gather(*(_tell(holders[grant.lease], "lease_granted", grant) for grant in grants))
        for grant, alive in zip(grants, heard, strict=True):
            self.told.pop(grant.lease, None)
            if not alive:
                self._set(policy.withdrawn(self.state, grant.lease))
        await self._tell_why(now)
        workflow.set_current_details(quota_story(self.state, workflow.time(), workflow.info().workflow_id))

    async def _tell_why(self, now: float) -> None:
        """To all that wait and were not told so yet."""
        news = text, until = policy.why(self.state, now)
        unaware = [waits.request for waits in self.state.waiting if self.told.get(waits.request.lease) != news]
        self.told |= {request.lease: news for request in unaware}
        trouble = policy.trouble(self.state, now)
        note = LeaseNote(quota=self.state.name, lease="", text=text, until=until, trouble=trouble)
        notes = [(request, note.model_copy(update={"lease": request.lease})) for request in unaware]
        heard = await asyncio.gather(*(_tell(request.holder, "lease_note", each) for request, each in notes))
        for (request, _), alive in zip(notes, heard, strict=True):
            if not alive:
                self._set(policy.withdrawn(self.state, request.lease))

    async def _something_happens(self) -> bool:
        """A message, or the time for the next grant; False when there is nothing left to wait for.

        A timer runs on while messages come that do not change what it is for: histories stay short.
        """
        now = workflow.time()
        wake = policy.wake_at(self.state, now)
        crowded = policy.crowded(self.state)
        due = "crowded" if crowded else wake
        if self.timer is None or self.timer.done() or self.due != due:
            if self.timer is not None:
                self.timer.cancel()
            if not crowded:
                self.ping_after = PING
            patience = (
                self.ping_after if crowded else IDLE if wake is None else timedelta(seconds=max(wake - now, 0.01))
            )
            self.timer, self.due = asyncio.create_task(workflow.sleep(patience, summary=self._waits_for(wake))), due
        timer = self.timer
        await workflow.wait_condition(lambda: self.changed or timer.done())
        if timer.done() and crowded:
            self.ping_after = min(2 * self.ping_after, MAX_PING)
            await self._ping()
        return not (timer.done() and due is None and self._may_end())

    def _waits_for(self, wake: float | None) -> str:
        if wake is None:
            return "whoever waits waits for a turn to end" if self.state.waiting else "idle"
        return policy.why(self.state, workflow.time())[0]

    def _may_end(self) -> bool:
        """Idle, and nothing to remember: what was spent today counts against the day's cap."""
        state = self.state
        remembers = state.config.max_cost_usd_per_day is not None and state.spent_today > 0
        today = state.day == int(workflow.time() // policy.DAY)
        parked = state.parked_until is not None and state.parked_until > workflow.time()
        changed = state.held or state.slots_override is not None
        return not (state.leases or state.waiting or changed or parked or (remembers and today))

    async def _ping(self) -> None:
        pings = [LeasePing(quota=self.state.name, lease=lease.request.lease) for lease in self.state.leases]
        holders = [lease.request.holder for lease in self.state.leases]
        alive = await asyncio.gather(
            *(_tell(holder, "lease_ping", ping) for holder, ping in zip(holders, pings, strict=True))
        )
        for ping, answered in zip(pings, alive, strict=True):
            if not answered:
                self._set(policy.withdrawn(self.state, ping.lease))

    # --- messages ------------------------------------------------------------------------------------

    def _handle(self, name: str, value: Any) -> None:
        now = workflow.time()
        match name, value:
            case "configure", QuotaConfig():
                self._set(self.state.model_copy(update={"config": value}))
            case "lease", LeaseRequest():
                self._set(policy.requested(self.state, value, now))
            case "give_back", LeaseReturn():
                self._set(policy.returned(self.state, value, now, workflow.random().random()))
            case "withdraw", str():
                self._set(policy.withdrawn(self.state, value))
            case "wake", _:
                self._set(policy.woken(self.state, now))
            case "hold", _:
                self._set(self.state.model_copy(update={"held": True}))
            case "release", _:
                self._set(self.state.model_copy(update={"held": False}))
            case "set_slots", int() if 1 <= value <= MAX_SLOTS and not isinstance(value, bool):
                self._set(self.state.model_copy(update={"slots_override": value}))
            case _:
                workflow.logger.warning("signal %s ignored: it makes no sense with %r", name, value)

    @workflow.signal(description="from a worker: what the configuration says")
    def configure(self, config: QuotaConfig) -> None:
        self._handle("configure", config)

    @workflow.signal(description="from a task: may I take a turn?")
    def lease(self, request: LeaseRequest) -> None:
        self._handle("lease", request)

    @workflow.signal(description="from a task: the turn is over")
    def give_back(self, back: LeaseReturn) -> None:
        self._handle("give_back", back)

    @workflow.signal(description="from a task: it waits no longer")
    def withdraw(self, lease: str) -> None:
        self._handle("withdraw", lease)

    @workflow.signal(name="wake", description="end the wait now; one turn goes first")
    def on_wake(self, _: Any = None) -> None:
        self._handle("wake", None)

    @workflow.signal(name="hold", description="grant no turn until released")
    def on_hold(self, _: Any = None) -> None:
        self._handle("hold", None)

    @workflow.signal(name="release", description="go on after a hold")
    def on_release(self, _: Any = None) -> None:
        self._handle("release", None)

    @workflow.signal(name="set_slots", description="turns at once, a number")
    def on_set_slots(self, slots: Any = None) -> None:
        self._handle("set_slots", slots)

    @workflow.signal(dynamic=True)
    def on_unknown_signal(self, name: str, _: Sequence[RawValue]) -> None:
        workflow.logger.warning("signal %s ignored: there is none of this name", name)

    @workflow.update(name="wake", description="end the wait now; one turn goes first")
    def wake(self) -> str:
        self._handle("wake", None)
        return f"awake; {len(self.state.waiting)} wait, one goes first"

    @workflow.update(name="hold", description="grant no turn until released")
    def hold(self) -> str:
        self._handle("hold", None)
        return f"held; {len(self.state.leases)} turns run to their end, {len(self.state.waiting)} wait"

    @workflow.update(name="release", description="go on after a hold")
    def release(self) -> str:
        self._handle("release", None)
        return f"goes on; {len(self.state.waiting)} wait"

    @workflow.update(name="set_slots", description="turns at once, a number")
    def set_slots(self, slots: Any = None) -> str:
        self._handle("set_slots", slots)
        return f"{slots} turns at once; {len(self.state.leases)} run, {len(self.state.waiting)} wait"

    @set_slots.validator
    def _may_set_slots(self, slots: Any = None) -> None:
        if not isinstance(slots, int) or isinstance(slots, bool) or not 1 <= slots <= MAX_SLOTS:
            text = f"set_slots takes a number from 1 to {MAX_SLOTS}: --input 4"
            raise ApplicationError(text, type="Refused", non_retryable=True)

    @workflow.query(description="slots, who holds them, who waits, until when it is parked and why")
    def quota(self) -> QuotaState:
        return self.state


async def _tell(workflow_id: str, signal: str, value: Any) -> bool:
    """False when there is nobody to tell: the task has ended, or was terminated."""
    try:
        await workflow.get_external_workflow_handle(workflow_id).signal(signal, value)
    except (FailureError, ApplicationError):
        return False
    return True
