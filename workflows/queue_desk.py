"""What a merge queue keeps, shows, and lets operators do. How it works through it is in `merge_queue`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.queue_contracts import QueueEntry, Step, Tested
    from activities.settings import QueueSettings
    from workflows.contracts import (
        MergeAnswer,
        Priority,
        QueueMode,
        QueueNote,
        QueuePlace,
        QueueState,
        QueueStatus,
        QueueTest,
    )
    from workflows.leases import signalled
    from workflows.policy import queue as policy
    from workflows.policy.speculation import Chain, Verdict, expected_runs
    from workflows.story import queue_story

SHOWN = 40
"""Places in the current details."""


@dataclass
class Test:
    """A run of the gates on the tip of a chain; of the empty chain: on the target itself."""

    handle: workflow.ActivityHandle[Tested]
    tip: str
    gates: list[str]
    since: float
    number: int


@dataclass
class Sight:
    """What is known on the present target. All of it can be found out again."""

    base: str = ""
    """Empty: to be looked up."""
    settings: QueueSettings = field(default_factory=QueueSettings)
    slots: int = 1
    known: dict[Chain, Verdict] = field(default_factory=dict)
    gates: list[str] = field(default_factory=list)
    """Digests of those that the target's own settings name."""
    target_gates: list[str] = field(default_factory=list)
    """Digests of those that were red on the target itself when they ran there last,"""
    red_gates: list[str] = field(default_factory=list)
    """and of the red ones among them."""
    steps: dict[Chain, Step] = field(default_factory=dict)
    """The last commit of each chain that was built."""
    red: dict[Chain, Tested] = field(default_factory=dict)
    """The last red run of each chain, and of the target itself (the empty one)."""
    reds: dict[str, int] = field(default_factory=dict)
    """How often a candidate was red alone; the target itself under the empty name."""
    doubted: set[str] = field(default_factory=set)
    """Were red alone, or something landed that is red with them; the one thing that outlasts a new target."""


class QueueDesk:
    def __init__(self, state: QueueState) -> None:
        self.s = state.model_copy(update={"entries": []})
        self.entries = {entry.op: entry for entry in state.entries}
        """In order of arrival. Not in the state: a thousand may come at once, a copy of a list for each takes long."""
        self.withdrawn: dict[str, str] = {}
        """Ops to take out, and why."""
        self.leftover: list[QueueEntry] = []
        """Answered before: nothing is to be kept for them."""
        self.landing: Chain = ()
        self.sight = Sight()
        self.order: list[str] = []
        """Of those that may go, as it was looked at last."""
        self.tests: dict[Chain, Test] = {}
        self.ending: list[Test] = []
        """Cancelled, and not dead yet: their slots are not free."""
        self.woken = self.follow_now = False
        self.try_at = 0.0
        """When what is in trouble is tried again, in seconds since the epoch."""

    def put(self, **changed: Any) -> None:
        self.s = self.s.model_copy(update=changed)

    def carried(self) -> QueueState:
        return self.s.model_copy(update={"entries": list(self.entries.values())})

    def find(self, name: str) -> QueueEntry | None:
        """By its op, or by its task."""
        return self.entries.get(name) or next((one for one in self.entries.values() if one.task_id == name), None)

    def change(self, entry: QueueEntry, **changed: Any) -> None:
        self.entries[entry.op] = entry.model_copy(update=changed)

    def show(self) -> None:
        workflow.set_current_details(queue_story(self._status(SHOWN)))

    def going(self) -> tuple[list[QueueEntry], dict[str, str]]:
        """Those that may go, in order, and why the others wait."""
        tested = {op for chain in (*self.tests, *self.sight.known) for op in chain}
        order, waits = policy.going(
            self.entries.values(), self.s, workflow.time(), [op for op in self.order if op in tested]
        )
        return order, waits

    def take_in(self, entry: QueueEntry) -> None:
        """A new candidate, or one that is known."""
        after = entry.after
        if after:
            landed = {answer.task_id for answer in self.s.recent if answer.kind in ("landed", "noop")}
            after = [task for task in after if task not in landed]
        if known := self.entries.get(entry.op):
            if not self.withdrawn.get(entry.op):  # what an operator has taken out stays out
                self.withdrawn.pop(entry.op, None)
            asked = known if known.allowed else entry  # by the policy of today
            self.change(known, after=after, protected=asked.protected, asked=asked.asked)
            self.woken = True
            return
        arrivals = self.s.arrivals + 1
        placed = policy.short(entry.model_copy(update={"number": arrivals, "since": workflow.time(), "after": after}))
        self.entries[entry.op] = placed
        self.put(arrivals=arrivals, host=entry.host)
        self.woken = True

    # --- from tasks ------------------------------------------------------------------------------------

    @workflow.signal(description="queue a candidate; the same one again is answered again, not landed again")
    async def submit(self, entry: QueueEntry) -> None:
        before = next((answer for answer in self.s.recent if answer.op == entry.op), None)
        if before is not None and (before.kind in ("landed", "noop") or before.submission == entry.submission):
            # Whoever asked has pinned it once more: an attempt that was killed, or one that missed our answer.
            self.leftover.append(entry)
            self.woken = True
            await tell(entry.answer_to, "merge_answer", before)
        else:
            self.take_in(entry)
            if entry.protected and (placed := self.entries.get(entry.op)):
                await self.note(placed, policy.why_not(placed, self.s, workflow.time()))

    @workflow.signal(description="take a candidate back; no effect once it is landing")
    def withdraw(self, op: str) -> None:
        self._take_out(op, "")

    def _take_out(self, op: str, why: str) -> None:
        if op in self.entries:
            self.withdrawn[op] = why
            self.woken = True

    # --- from operators --------------------------------------------------------------------------------

    def _mode(self, mode: QueueMode, reason: str = "", since: int = 0) -> str:
        self.put(mode=mode, mode_reason=reason, mode_since=since, frozen_on="", drained=None)
        self.woken = True
        self.show()
        return f"{len(self.entries)} in the queue"

    def thaw(self) -> None:
        """The red target is history: the queue goes on as before."""
        mode = "open" if self.s.drained is None else "draining"
        self.put(mode=mode, mode_reason="", mode_since=self.s.drained or 0, frozen_on="", drained=None)

    def _pause(self) -> str:
        return "paused; " + self._mode("paused")

    def _resume(self) -> str:
        self.try_at = 0.0
        self.sight.reds.clear()
        self.sight.known = {chain: verdict for chain, verdict in self.sight.known.items() if verdict != "red"}
        return "goes on; " + self._mode("open")

    def _drain(self) -> str:
        return "draining; " + self._mode("draining", since=self.s.arrivals)

    def _freeze_by_hand(self, reason: str) -> str:
        return "frozen; " + self._mode("frozen", reason or "by an operator", self.s.arrivals)

    def _retry_checkout(self) -> str:
        now = workflow.time()
        held = [entry for entry in self.entries.values() if entry.not_before > now]
        for entry in held:
            self.change(entry, not_before=now)
        self.woken = self.follow_now = True
        return f"{len(held)} held candidates are tried again"

    def _cancel(self, task: str) -> str:
        entry = self._known(task)
        self._take_out(entry.op, "taken out by an operator")
        landing = entry.op in self.landing
        return (
            f"{entry.task_id} is landing: it is taken out unless that succeeds"
            if landing
            else (f"{entry.task_id} is taken out")
        )

    def _set_priority(self, given: Priority) -> str:
        entry = self._known(given.task)
        self.change(entry, priority=given.priority)
        self.woken = True
        return f"{entry.task_id} has priority {given.priority}"

    def _allow(self, task: str) -> str:
        entry = self._known(task)
        self.change(entry, allowed=True)
        self.woken = True
        return f"{entry.task_id} may change {', '.join(entry.protected) or 'what it changes'}"

    def _known(self, task: str) -> QueueEntry:
        """Raises Refused, which an update answers with; a signal that makes no sense is ignored."""
        if (entry := self.find(task)) is None:
            there = ", ".join(entry.task_id for entry in list(self.entries.values())[:20]) or "nobody"
            raise ApplicationError(
                f"{task} is not in the queue; there are: {there}", type="Refused", non_retryable=True
            )
        return entry

    @workflow.update(description="test nothing and land nothing until resumed")
    def pause(self) -> str:
        return self._pause()

    @workflow.update(description="go on; also after drain and freeze")
    def resume(self) -> str:
        return self._resume()

    @workflow.update(description="land who is in, let newcomers wait")
    def drain(self) -> str:
        return self._drain()

    @workflow.update(description="the target is red: judge nobody who is in; what comes now may mend it")
    def freeze(self, reason: str = "") -> str:
        return self._freeze_by_hand(reason)

    @workflow.update(description="try held candidates, and the checkout that is behind, again at once")
    def retry_checkout(self) -> str:
        return self._retry_checkout()

    @workflow.update(description="take a candidate out, by its task or op; a task ends as abandoned")
    def cancel(self, task: str) -> str:
        return self._cancel(task)

    @workflow.update(description="a higher priority lands sooner; the default is 0")
    def set_priority(self, given: Priority) -> str:
        return self._set_priority(given)

    @workflow.update(description="let a candidate land that changes protected paths")
    def allow(self, task: str) -> str:
        return self._allow(task)

    @cancel.validator
    def _cancel_makes_sense(self, task: str) -> None:
        self._known(task)

    @allow.validator
    def _allow_makes_sense(self, task: str) -> None:
        self._known(task)

    @set_priority.validator
    def _priority_makes_sense(self, given: Priority) -> None:
        self._known(given.task)

    @workflow.signal(name="pause", description="test nothing and land nothing until resumed")
    def on_pause(self) -> None:
        self._pause()

    @workflow.signal(name="resume", description="go on; also after drain and freeze")
    def on_resume(self) -> None:
        self._resume()

    @workflow.signal(name="drain", description="land who is in, let newcomers wait")
    def on_drain(self) -> None:
        self._drain()

    @workflow.signal(name="freeze", description="the target is red: judge nobody who is in")
    def on_freeze(self, reason: str = "") -> None:
        self._freeze_by_hand(reason)

    @workflow.signal(name="retry_checkout", description="try held candidates again at once")
    def on_retry_checkout(self) -> None:
        self._retry_checkout()

    @workflow.signal(name="cancel", description="take a candidate out, by its task or op; a task ends as abandoned")
    def on_cancel(self, task: str) -> None:
        with suppress(ApplicationError):
            self._cancel(task)

    @workflow.signal(name="set_priority", description="a higher priority lands sooner; the default is 0")
    def on_set_priority(self, given: Priority) -> None:
        with suppress(ApplicationError):
            self._set_priority(given)

    @workflow.signal(name="allow", description="let a candidate land that changes protected paths")
    def on_allow(self, task: str) -> None:
        with suppress(ApplicationError):
            self._allow(task)

    # --- what there is to see --------------------------------------------------------------------------

    @workflow.query(description="who is in, in what order, what is tested, and why anything waits")
    def queue(self) -> QueueStatus:
        return self._status()

    def _status(self, most: int | None = None) -> QueueStatus:
        now, sight = self.s, self.sight
        names = {entry.op: entry.task_id for entry in self.entries.values()}
        return QueueStatus(
            repo=now.repo,
            target=now.target,
            base=sight.base,
            mode=now.mode,
            mode_reason=now.mode_reason,
            slots=sight.slots,
            p=round(now.odds.p, 4),
            gate_seconds=round(now.gate_seconds, 3),
            places=self._places(most),
            waiting=len(self.entries),
            tests=[
                QueueTest(
                    tasks=[names.get(op, op) for op in chain],
                    tip=test.tip,
                    since=test.since,
                    confirming=test.number > 0,
                )
                for chain, test in self.tests.items()
            ],
            landed=now.landed,
            ejected=now.ejected,
            flaky=now.flaky,
            behind=now.behind,
            trouble=now.trouble,
            last=now.recent[-10:],
        )

    def _places(self, most: int | None) -> list[QueuePlace]:
        time = workflow.time()
        order, waits = self.going()
        tested = {op for chain in self.tests for op in chain}
        places = []
        stand = [*order, *(entry for entry in self.entries.values() if entry.op in waits)]
        for number, entry in enumerate(stand[:most]):
            why = waits.get(entry.op, "")
            runs = expected_runs(number, self.sight.slots, self.s.odds.p, self.sight.settings.strict_each)
            known = self.s.mode == "open" and not why and self.s.gate_seconds > 0
            places.append(
                QueuePlace(
                    op=entry.op,
                    task_id=entry.task_id,
                    title=entry.title,
                    state="landing" if entry.op in self.landing
                    else "approval" if entry.protected and not entry.allowed
                    else "held" if entry.not_before > time
                    else "testing" if entry.op in tested
                    else "waiting",
                    why=why,
                    priority=entry.priority,
                    since=entry.since,
                    expected=round(time + runs * self.s.gate_seconds, 1) if known else None,
                )
            )  # fmt: skip
        return places

    async def answer(self, entry: QueueEntry, answer: MergeAnswer) -> None:
        landed = answer.kind == "landed"
        told = answer.model_copy(
            update={"task_id": entry.task_id, "submission": entry.submission, "at": workflow.time()}
        )
        self.withdrawn.pop(entry.op, None)
        del self.entries[entry.op]
        if landed or answer.kind == "noop":
            for other in [other for other in self.entries.values() if entry.task_id in other.after]:
                self.change(other, after=[task for task in other.after if task != entry.task_id])
        self.put(
            recent=policy.remember(self.s.recent, told),
            landed=self.s.landed + landed,
            ejected=self.s.ejected + (answer.kind not in ("landed", "noop", "withdrawn")),
        )
        workflow.logger.info("%s: %s %s", entry.task_id, answer.kind, answer.reason)
        await tell(entry.answer_to, "merge_answer", told)

    async def note(self, entry: QueueEntry, why: str) -> None:
        """Why it waits, for its task's status; told once."""
        why = why[: policy.MOST_CHARACTERS]
        if why and why != entry.why:
            self.change(entry, why=why)
            wants_leave = bool(entry.protected) and not entry.allowed
            await tell(entry.answer_to, "queue_note", QueueNote(op=entry.op, text=why, wants_leave=wants_leave))


async def tell(workflow_id: str, signal: str, value: Any) -> None:
    """Nobody may be there any more: the task has ended, or was terminated."""
    try:
        await signalled(workflow_id, signal, value)
    except FailureError as error:
        workflow.logger.warning("%s is gone and is not told %s: %s", workflow_id, signal, error)
