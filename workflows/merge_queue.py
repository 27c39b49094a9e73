"""The singleton that puts work on one branch of one repository. Its rules are in `policy.queue`.

A candidate comes by signal-with-start from the `submit` activity, and its task is answered by signal. Each answer is
remembered, so a task that asks twice, or a crash in between, never lands anything twice.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.contracts import BuildInput, Built, Candidate, GatesInput, GatesResult, Landed, LandInput
    from activities.gates import GateActivities
    from activities.merging import MergeActivities
    from workflows import options
    from workflows.contracts import MergeAnswer, QueueEntry, QueueNote, QueueState, QueueStatus
    from workflows.policy import queue as policy
    from workflows.story import queue_story

IDLE = timedelta(minutes=30)
"""A queue with nothing to do ends; the next candidate starts it again, with the code of then."""


@workflow.defn
class MergeQueueWorkflow:
    def __init__(self) -> None:
        self.state: QueueState | None = None
        self.early: list[Candidate] = []
        """Submitted before `run` has begun: signal-with-start."""
        self.withdrawn: set[str] = set()
        self.woken = False

    @workflow.run
    async def run(self, state: QueueState) -> None:
        self.state = state
        for candidate in self.early:
            await self.submit(candidate)
        while not workflow.info().is_continue_as_new_suggested():
            entry = None if self._s.paused else policy.next_entry(self._s.entries, workflow.time())
            if entry is not None:
                await self._process(entry)
            elif not await self._something_to_do():
                return
        await workflow.wait_condition(workflow.all_handlers_finished)
        workflow.continue_as_new(self._s)

    @property
    def _s(self) -> QueueState:
        assert self.state is not None, "before run"
        return self.state

    def _set(self, **changed: Any) -> None:
        self.state = self._s.model_copy(update=changed)
        workflow.set_current_details(queue_story(self.queue()))

    async def _something_to_do(self) -> bool:
        """Wait for a candidate or a held one's time; False when the queue was idle for long."""
        self.woken = False
        wake = policy.wake_at(self._s.entries)
        paused = self._s.paused
        patience = IDLE if wake is None or paused else timedelta(seconds=max(wake - workflow.time(), 0.01))
        known = len(self._s.entries)
        try:
            await workflow.wait_condition(
                lambda: self.woken or len(self._s.entries) != known,
                timeout=patience,
                timeout_summary="idle" if wake is None else "try held candidates again",
            )
        except TimeoutError:
            return bool(self._s.entries) or self._s.paused
        return True

    # --- one candidate -----------------------------------------------------------------------------

    async def _process(self, entry: QueueEntry) -> None:
        try:
            answer = await self._try_to_land(entry)
        except ActivityError as error:
            answer = MergeAnswer(op=entry.candidate.op, kind="failed", reason=options.retried(error))
        if answer is not None:
            await self._answer(entry.candidate, answer)

    async def _try_to_land(self, entry: QueueEntry) -> MergeAnswer | None:
        """None: it stays in the queue. Main only ever moves to the exact commit that the gates passed."""
        candidate = entry.candidate
        self._show(entry, "building")
        built = await self._build(candidate)
        if built.kind != "built":
            return _not_built(candidate, built)
        assert built.tip is not None
        if candidate.op in self.withdrawn:
            return MergeAnswer(op=candidate.op, kind="withdrawn")
        if candidate.gates:
            self._show(entry, "gates")
            ran = await self._gates(candidate, built.tip)
            if ran is None:
                return MergeAnswer(op=candidate.op, kind="withdrawn")
            if not ran.passed:
                red = ", ".join(gate.name for gate in ran.results if not gate.passed)
                return MergeAnswer(
                    op=candidate.op, kind="gate_red", base=built.base, gates=_short(ran), reason=f"red: {red}"
                )
        self._show(entry, "landing")
        if candidate.op in self.withdrawn or not await _tell(
            candidate.answer_to, "queue_note", QueueNote(op=candidate.op, text="its landing")
        ):
            return MergeAnswer(op=candidate.op, kind="withdrawn", reason="its task is over")
        landed = await self._land(candidate, built.base, built.tip)
        match landed.kind:
            case "landed":
                return MergeAnswer(op=candidate.op, kind="landed", sha=landed.sha, base=built.base)
            case "lost_race":
                self._show(entry, "waiting", "the target moved: once more")
            case "blocked":
                await self._hold(entry, landed)
        return None

    async def _build(self, candidate: Candidate) -> Built:
        return await workflow.execute_activity_method(
            MergeActivities.build,
            BuildInput(candidate=candidate),
            summary=f"build {candidate.ref.task_id}",
            **options.git_options(workflow.info().task_queue, candidate.host),
        )

    async def _gates(self, candidate: Candidate, tip: str) -> GatesResult | None:
        """On the exact commit that would land, in a clean slot. Red is confirmed once. None: withdrawn meanwhile."""
        for run in range(1 + policy.CONFIRMING_RUNS):
            handle = workflow.start_activity_method(
                GateActivities.run_gates,
                GatesInput(ref=candidate.ref, gates=candidate.gates, commit=tip, where="slot", number=run),
                summary=f"gates on {tip[:12]} for {candidate.ref.task_id}" + (", confirming red" if run else ""),
                **options.gate_options(workflow.info().task_queue, candidate.host, candidate.gates),
            )
            await workflow.wait_condition(lambda: handle.done() or candidate.op in self.withdrawn)  # noqa: B023
            if not handle.done():
                handle.cancel()
                try:
                    await handle
                except (ActivityError, asyncio.CancelledError):
                    return None
            ran = await handle
            if ran.passed:
                break
        return ran

    async def _land(self, candidate: Candidate, base: str, tip: str) -> Landed:
        return await workflow.execute_activity_method(
            MergeActivities.land,
            LandInput(candidate=candidate, base=base, tip=tip),
            summary=f"land {tip[:12]} of {candidate.ref.task_id}",
            **options.git_options(workflow.info().task_queue, candidate.host),
        )

    async def _hold(self, entry: QueueEntry, landed: Landed) -> None:
        files = ", ".join(landed.in_the_way[:20]) + (" …" if len(landed.in_the_way) > 20 else "")
        text = f"{landed.reason or 'your changes are in the way'} in {landed.checkout}: {files}"
        waiting = policy.held(entry, text, workflow.time())
        self._set(entries=policy.replaced(self._s.entries, waiting))
        if text != entry.reason:
            note = QueueNote(op=entry.candidate.op, text=f"the checkout of the target to be free: {text}")
            await _tell(entry.candidate.answer_to, "queue_note", note)

    def _show(self, entry: QueueEntry, state: str, reason: str = "") -> None:
        now = entry.model_copy(update={"state": state, "reason": reason or entry.reason})
        self._set(entries=policy.replaced(self._s.entries, now))

    async def _answer(self, candidate: Candidate, answer: MergeAnswer) -> None:
        landed = answer.kind == "landed"
        self.withdrawn.discard(candidate.op)
        self._set(
            entries=policy.without(self._s.entries, candidate.op),
            recent=policy.remember(self._s.recent, answer),
            landed=self._s.landed + landed,
            ejected=self._s.ejected + (not landed),
        )
        workflow.logger.info("%s: %s %s", candidate.ref.task_id, answer.kind, answer.reason)
        await _tell(candidate.answer_to, "merge_answer", answer)

    # --- signals, updates, queries --------------------------------------------------------------------

    @workflow.signal(description="queue a candidate; the same one again is answered again, not landed again")
    async def submit(self, candidate: Candidate) -> None:
        if self.state is None:
            self.early.append(candidate)
            return
        before = next((answer for answer in self._s.recent if answer.op == candidate.op), None)
        if before is not None and before.kind in ("landed", "noop"):
            await _tell(candidate.answer_to, "merge_answer", before)
        else:
            self.withdrawn.discard(candidate.op)
            self._set(entries=policy.submitted(self._s.entries, QueueEntry(candidate=candidate)))

    @workflow.signal(description="take a candidate back; no effect once it is landing")
    async def withdraw(self, op: str) -> None:
        entry = next((entry for entry in self._s.entries if entry.candidate.op == op), None) if self.state else None
        if entry is None:
            return
        if entry.state in ("waiting", "held"):
            await self._answer(entry.candidate, MergeAnswer(op=op, kind="withdrawn"))
        else:
            self.withdrawn.add(op)

    @workflow.signal(name="pause", description="land nothing until resumed")
    def on_pause(self) -> None:
        self._set(paused=True)

    @workflow.signal(name="resume", description="go on landing")
    def on_resume(self) -> None:
        self._set(paused=False)
        self.woken = True

    @workflow.signal(name="retry_checkout", description="try held candidates again at once")
    def on_retry_checkout(self) -> None:
        self._set(entries=[entry.model_copy(update={"not_before": 0.0}) for entry in self._s.entries])
        self.woken = True

    @workflow.update(name="pause", description="land nothing until resumed")
    def pause(self) -> str:
        self.on_pause()
        return f"paused; {len(self._s.entries)} wait"

    @workflow.update(name="resume", description="go on landing")
    def resume(self) -> str:
        self.on_resume()
        return f"goes on; {len(self._s.entries)} wait"

    @workflow.update(name="retry_checkout", description="try held candidates again at once")
    def retry_checkout(self) -> str:
        count = sum(entry.state == "held" for entry in self._s.entries)
        self.on_retry_checkout()
        return f"{count} held candidates are tried again"

    @workflow.query(description="who waits, in what order, and why")
    def queue(self) -> QueueStatus:
        now = self._s
        return QueueStatus(
            repo=now.repo,
            target=now.target,
            paused=now.paused,
            entries=now.entries,
            landed=now.landed,
            ejected=now.ejected,
            last=now.recent[-10:],
        )


def _not_built(candidate: Candidate, built: Built) -> MergeAnswer:
    match built.kind:
        case "landed":
            return MergeAnswer(op=candidate.op, kind="landed", sha=built.tip, base=built.base)
        case "noop":
            return MergeAnswer(op=candidate.op, kind="noop", base=built.base)
        case "stale":
            return MergeAnswer(op=candidate.op, kind="stale", base=built.base, reason="the target has moved")
    files = built.conflict.files if built.conflict else []
    return MergeAnswer(
        op=candidate.op,
        kind="conflict",
        base=built.base,
        conflict=built.conflict,
        reason="conflict in " + ", ".join(files[:10]),
    )


def _short(ran: GatesResult) -> list[Any]:
    """Without the tails: the task reads the logs."""
    return [gate.model_copy(update={"tail": ""}) for gate in ran.results]


async def _tell(workflow_id: str, signal: str, value: Any) -> bool:
    """False when there is nobody to tell: the task has ended, or was terminated."""
    try:
        await workflow.get_external_workflow_handle(workflow_id).signal(signal, value)
    except (FailureError, ApplicationError) as error:
        workflow.logger.warning("%s is gone and is not told %s: %s", workflow_id, signal, error)
        return False
    return True
