"""What a task asks an operator for: the approval of its plan, and of the very commit that is to land."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from workflows.contracts import BlockedReason, Stage
    from workflows.steps import TaskSteps

REMIND_AT = (0.5, 0.9)
"""Parts of the time that there is for an answer."""


class Approvals(TaskSteps):
    async def plan_decision(self) -> tuple[str, str]:
        """The verb, and what was said with it."""
        self.plan_answer, self.plan_waits = None, True
        self.enter(Stage.APPROVAL, "the approval of the plan")
        try:
            while self.plan_answer is None:
                await self._asked("plan", BlockedReason.PLAN_TIMEOUT, lambda: self.plan_answer is not None)
        finally:
            self.plan_waits, self.reminders = False, []
        return self.plan_answer

    async def landing_decision(self, head: str) -> str:
        """Empty: `head` may land. Else what an operator wants to be changed first. For each new commit anew."""
        if not self.ready.settings.approve_landing or self.landing_approved == head:
            return ""
        self.landing_answer, self.landing_waits = None, head
        self.enter(Stage.APPROVAL, f"the approval of the landing of {head[:12]}")
        try:
            while self.landing_answer is None and self.rewind_to is None:
                await self._asked("landing", BlockedReason.LANDING_TIMEOUT, self._landing_answered)
        finally:
            self.landing_waits, self.reminders = "", []
        if self.landing_answer is None:
            return ""  # what is there is not what is to land
        verb, text = self.landing_answer
        if verb == "approve_landing":
            self.landing_approved = head
            return ""
        return text

    def _landing_answered(self) -> bool:
        return self.landing_answer is not None or self.rewind_to is not None

    async def _asked(self, what: str, reason: BlockedReason, answered: Callable[[], bool]) -> None:
        """Wait for an answer; nobody's blocks the task. An answer is taken all the same then, and `continue_task` waits
        as long once more."""
        patience = timedelta(hours=self.ready.settings.plan_timeout_hours)
        try:
            waited = timedelta()
            for part in (*REMIND_AT, 1.0) if workflow.patched("remind") else (1.0,):
                with_reminder = part < 1.0
                try:
                    await self.wait(answered, patience * part - waited, f"{what} waits for approval")
                    return
                except TimeoutError:
                    if not with_reminder:
                        raise
                waited = patience * part
                self.remind(f"the {what} has waited for its approval for {_span(waited)}, it is waited for until "
                            f"{workflow.now() + patience - waited:%Y-%m-%d %H:%M} UTC")  # fmt: skip
        except TimeoutError:
            await self.block(reason, f"no answer in {patience}", answered)


def _span(time: timedelta) -> str:
    return str(timedelta(seconds=round(time.total_seconds())))
