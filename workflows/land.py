"""One branch through the merge queue, without a task: a person's, or one that an agent has left.

What the queue sends back ends it: a person reads why, mends it, and starts it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.branches import BranchActivities
    from activities.queue_contracts import Evidence, LandRequest, SubmitBranchInput, Submitted
    from activities.settings import INVALID_TASK
    from workflows import options
    from workflows.contracts import Code, LandResult, LandStatus, MergeAnswer, QueueNote
    from workflows.glance import Board, landing
    from workflows.leases import signalled
    from workflows.policy.answers import land_result
    from workflows.story import land_story

ASK_AGAIN = timedelta(minutes=10)
"""Who has heard nothing from the merge queue asks again; the queue answers twice rather than never."""

TRY_AGAIN = timedelta(seconds=30)
"""After an activity has used up its attempts: workers died, the disk was full."""


@workflow.defn
class LandWorkflow:
    def __init__(self) -> None:
        self.sent: Submitted | None = None
        self.answers: dict[str, MergeAnswer] = {}
        """By op: an earlier run of this id may still be answered."""
        self.withdrawn = False
        """By an operator: cancelled, or abandoned."""
        self.now = LandStatus(task_id=workflow.info().workflow_id)
        self.board = Board(lambda: landing(self.now))

    @workflow.run
    async def run(self, request: LandRequest) -> LandResult:
        self.board.open()
        self._show(repo=request.repo, branch=request.branch, target=request.target, waiting_for="its turn")
        while (answer := self._answer()) is None:
            sent = await self._submit(request)
            if sent is None:
                if self.withdrawn:
                    return self._over(LandResult(outcome="withdrawn", reason=self.now.waiting_for))
                continue
            self.board.registered = sent.attributes
            if sent.refused:
                evidence = Evidence(messages=sent.refused[1:])
                refusal = LandResult(outcome="sent-back", code=Code.POLICY, reason=sent.refused[0], evidence=evidence)
                return self._over(refusal)
            self.sent = sent
            self._show(queue=sent.queue, op=sent.op, waiting_for="its turn")
            await self._heard()
            if self.withdrawn and self._answer() is None:
                await self._withdraw(self.sent)
        return self._over(land_result(answer))

    def _over(self, result: LandResult) -> LandResult:
        self._show(result=result, waiting_for="")
        self.board.show()
        return result

    async def _submit(self, request: LandRequest) -> Submitted | None:
        """To its end, also when it is cancelled meanwhile: what may be in the queue must be known here.

        None: it did not come to its end for trouble that is not the branch's; it is time to try again.
        """
        info = workflow.info()
        given = SubmitBranchInput(
            task_id=info.workflow_id,
            run_id=info.first_execution_run_id,
            request=request,
            date=int(workflow.time()),
        )
        sending = asyncio.create_task(
            workflow.execute_activity_method(
                BranchActivities.submit_branch,
                given,
                summary="submit to the merge queue",
                **options.prepare_options(info.task_queue),
            )
        )
        while not sending.done():
            try:
                await workflow.wait_condition(sending.done)
            except asyncio.CancelledError:
                self.withdrawn = True
        try:
            return sending.result()
        except ActivityError as error:
            if isinstance(error.cause, ApplicationError) and error.cause.type == INVALID_TASK:
                raise error.cause from None
            self._show(waiting_for=f"an end of this, it is tried again: {options.retried(error)}")
            try:
                await workflow.wait_condition(lambda: self.withdrawn, timeout=TRY_AGAIN, timeout_summary="tries again")
            except TimeoutError:
                pass
            except asyncio.CancelledError:
                self.withdrawn = True
            return None

    async def _heard(self) -> None:
        """Wait for the queue's answer, not for ever."""
        try:
            await workflow.wait_condition(
                lambda: self._answer() is not None or self.withdrawn,
                timeout=ASK_AGAIN,
                timeout_summary="waits for the merge queue",
            )
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            self.withdrawn = True

    async def _withdraw(self, sent: Submitted) -> None:
        """Take it back. If it landed in the meantime, then it landed."""
        try:
            await signalled(sent.queue, "withdraw", sent.op)
            await workflow.wait_condition(lambda: self._answer() is not None, timeout=timedelta(minutes=1))
        except (FailureError, TimeoutError) as error:
            workflow.logger.warning("the merge queue does not say whether it landed: %s", error)
            self.answers[sent.op] = MergeAnswer(op=sent.op, kind="withdrawn")

    def _answer(self) -> MergeAnswer | None:
        return self.answers.get(self.sent.op) if self.sent else None

    # --- what others say, and see -------------------------------------------------------------------

    @workflow.signal(description="from the merge queue: how it ended")
    def merge_answer(self, answer: MergeAnswer) -> None:
        self.answers[answer.op] = answer

    @workflow.signal(description="from the merge queue: why it waits")
    def queue_note(self, note: QueueNote) -> None:
        if self.now.result is None:
            self._show(waiting_for=note.text)

    @workflow.signal(name="abandon", description="take it out of the merge queue")
    def on_abandon(self, _reason: Any = None) -> None:
        self.withdrawn = True

    @workflow.update(description="take it out of the merge queue")
    def abandon(self, _reason: Any = None) -> str:
        self.withdrawn = True
        return "taken back, unless it has just landed"

    @workflow.signal(dynamic=True)
    def on_unknown_signal(self, name: str, _: Sequence[RawValue]) -> None:
        self.problem(f"signal {name} ignored: there is none of this name; there is: abandon")

    def problem(self, text: str) -> None:
        workflow.logger.warning(text)
        self._show(problems=[*self.now.problems, text][-10:])

    @workflow.query(description="what it waits for, and how it ended")
    def status(self) -> LandStatus:
        return self.now

    def _show(self, **changed: Any) -> None:
        self.now = self.now.model_copy(update=changed)
        workflow.set_current_details(land_story(self.now))
        self.board.changed = True
