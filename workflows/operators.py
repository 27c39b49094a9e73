"""The operators' door into a task: signals, the same verbs as updates, and queries.

A signal can neither wedge nor fail a task: whatever is wrong with one is shown in the status and ignored. An update
checks before it is accepted and answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.settings import Limits, explain
    from workflows.contracts import TaskStatus, TurnRecord
    from workflows.policy import limits as budgets
    from workflows.policy.commands import Situation, Verb, refusal, rewind_refusal


class OperatorCommands:
    """What the operator wants; the workflow looks at it at its own pace."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.paused = False
        self.abandoned = False
        self.continued: str | None = None
        """Text of `continue_task`, until the blocked stage has taken it."""
        self.plan_answer: tuple[Verb, str] | None = None
        self.compact_wanted = False
        self.limits = Limits()
        """Those of the settings, as raised by operators."""
        self.problems: list[str] = []
        self.rewind_to: int | None = None
        """The turn whose worktree the next one begins with."""

    def situation(self) -> Situation:
        raise NotImplementedError

    def current_status(self) -> TaskStatus:
        raise NotImplementedError

    def plan_text(self) -> str:
        raise NotImplementedError

    def turn_records(self) -> list[TurnRecord]:
        raise NotImplementedError

    def rewindable(self) -> list[int]:
        """Turns after which the worktree was kept."""
        raise NotImplementedError

    def show(self) -> None:
        """Something changed that the operator should see."""
        raise NotImplementedError

    def _refusal(self, verb: Verb, text: Any) -> str | None:
        if text is not None and not isinstance(text, str):
            return f"{verb} takes one JSON string, not {type(text).__name__}: --input '\"...\"'"
        return refusal(self.situation(), verb, text or "")

    def _take(self, verb: Verb, text: Any) -> str:
        match verb:
            case "approve_plan" | "reject_plan":
                self.plan_answer = (verb, text or "")
            case "send_message":
                self.messages.append(text)
            case "pause":
                self.paused = True
            case "resume":
                self.paused = False
            case "continue_task":
                self.continued = text or ""
            case "compact":
                self.compact_wanted = True
            case "abandon":
                self.abandoned = True
        self.show()
        return _TAKEN[verb]

    def problem(self, text: str) -> None:
        self.problems = [*self.problems, text][-10:]
        workflow.logger.warning(text)
        self.show()

    def _signalled(self, verb: Verb, text: Any) -> None:
        if why := self._refusal(verb, text):
            self.problem(f"signal {verb} ignored: {why}")
        else:
            self._take(verb, text)

    def _validate(self, verb: Verb, text: Any) -> None:
        if why := self._refusal(verb, text):
            raise ApplicationError(why, type="Refused", non_retryable=True)

    # --- signals -----------------------------------------------------------------------------------

    @workflow.signal(name="approve_plan", description="let the plan be carried out; optional: its hash")
    def on_approve_plan(self, plan_hash: Any = None) -> None:
        self._signalled("approve_plan", plan_hash)

    @workflow.signal(name="reject_plan", description='send the plan back with "feedback"; without: end the task')
    def on_reject_plan(self, feedback: Any = None) -> None:
        self._signalled("reject_plan", feedback)

    @workflow.signal(name="send_message", description='"text" that reaches the agent at its next turn')
    def on_send_message(self, text: Any = None) -> None:
        self._signalled("send_message", text)

    @workflow.signal(name="pause", description="stop before the next turn or stage")
    def on_pause(self, reason: Any = None) -> None:
        self._signalled("pause", reason)

    @workflow.signal(name="resume", description="go on after a pause")
    def on_resume(self, reason: Any = None) -> None:
        self._signalled("resume", reason)

    @workflow.signal(name="continue_task", description='go on with a blocked task; optional "text" for the agent')
    def on_continue_task(self, text: Any = None) -> None:
        self._signalled("continue_task", text)

    @workflow.signal(name="abandon", description="end the task; its work is saved under a salvage ref")
    def on_abandon(self, reason: Any = None) -> None:
        self._signalled("abandon", reason)

    @workflow.signal(name="compact", description="summarise the session; the next turn starts a new one from it")
    def on_compact(self, reason: Any = None) -> None:
        self._signalled("compact", reason)

    @workflow.signal(name="raise_budget", description='new caps: 20 (dollars), or {"max_tokens": 5000000}')
    def on_raise_budget(self, caps: Any = None) -> None:
        if why := self._raise_refusal(caps):
            self.problem(f"signal raise_budget ignored: {why}")
        else:
            self._raise(caps)

    @workflow.signal(name="rewind", description="begin the next turn with the worktree as it was after turn 3")
    def on_rewind(self, turn: Any = None) -> None:
        if why := rewind_refusal(self.situation(), turn, self.rewindable()):
            self.problem(f"signal rewind ignored: {why}")
        else:
            self._rewind(turn)

    @workflow.signal(dynamic=True)
    def on_unknown_signal(self, name: str, _: Sequence[RawValue]) -> None:
        there = ", ".join([*_TAKEN, "raise_budget", "rewind"])
        self.problem(f"signal {name} ignored: there is none of this name; there are: {there}")

    # --- updates -----------------------------------------------------------------------------------

    @workflow.update(name="approve_plan", description="let the plan be carried out; optional: its hash")
    def approve_plan(self, plan_hash: Any = None) -> str:
        return self._take("approve_plan", plan_hash)

    @approve_plan.validator
    def _may_approve_plan(self, plan_hash: Any = None) -> None:
        self._validate("approve_plan", plan_hash)

    @workflow.update(name="reject_plan", description='send the plan back with "feedback"; without: end the task')
    def reject_plan(self, feedback: Any = None) -> str:
        return self._take("reject_plan", feedback)

    @reject_plan.validator
    def _may_reject_plan(self, feedback: Any = None) -> None:
        self._validate("reject_plan", feedback)

    @workflow.update(name="send_message", description='"text" that reaches the agent at its next turn')
    def send_message(self, text: Any = None) -> str:
        return self._take("send_message", text)

    @send_message.validator
    def _may_send_message(self, text: Any = None) -> None:
        self._validate("send_message", text)

    @workflow.update(name="pause", description="stop before the next turn or stage")
    def pause(self, reason: Any = None) -> str:
        return self._take("pause", reason)

    @pause.validator
    def _may_pause(self, reason: Any = None) -> None:
        self._validate("pause", reason)

    @workflow.update(name="resume", description="go on after a pause")
    def resume(self, reason: Any = None) -> str:
        return self._take("resume", reason)

    @resume.validator
    def _may_resume(self, reason: Any = None) -> None:
        self._validate("resume", reason)

    @workflow.update(name="continue_task", description='go on with a blocked task; optional "text" for the agent')
    def continue_task(self, text: Any = None) -> str:
        return self._take("continue_task", text)

    @continue_task.validator
    def _may_continue_task(self, text: Any = None) -> None:
        self._validate("continue_task", text)

    @workflow.update(name="abandon", description="end the task; its work is saved under a salvage ref")
    def abandon(self, reason: Any = None) -> str:
        return self._take("abandon", reason)

    @abandon.validator
    def _may_abandon(self, reason: Any = None) -> None:
        self._validate("abandon", reason)

    @workflow.update(name="compact", description="summarise the session; the next turn starts a new one from it")
    def compact_session(self, reason: Any = None) -> str:
        return self._take("compact", reason)

    @compact_session.validator
    def _may_compact(self, reason: Any = None) -> None:
        self._validate("compact", reason)

    @workflow.update(name="raise_budget", description='new caps: 20 (dollars), or {"max_tokens": 5000000}')
    def raise_budget(self, caps: Any = None) -> str:
        return self._raise(caps)

    @raise_budget.validator
    def _may_raise_budget(self, caps: Any = None) -> None:
        if why := self._raise_refusal(caps):
            raise ApplicationError(why, type="Refused", non_retryable=True)

    @workflow.update(name="rewind", description="begin the next turn with the worktree as it was after turn 3")
    def rewind(self, turn: Any = None) -> str:
        return self._rewind(turn)

    @rewind.validator
    def _may_rewind(self, turn: Any = None) -> None:
        if why := rewind_refusal(self.situation(), turn, self.rewindable()):
            raise ApplicationError(why, type="Refused", non_retryable=True)

    def _rewind(self, turn: int) -> str:
        self.rewind_to = turn
        self.messages.append(
            f"An operator has put your worktree back to how it was after turn {turn}: what came later is gone from it. "
            "Look at the files before you go on."
        )
        self.show()
        return f"taken: the next turn begins with the worktree as it was after turn {turn}; what is in it now is kept"

    def _raise_refusal(self, caps: Any) -> str | None:
        if self.situation().ended:
            return "the task has ended"
        try:
            return budgets.raise_refusal(self.limits, budgets.wanted(caps))
        except ValidationError as error:
            return f"raise_budget: {explain(error)}"

    def _raise(self, caps: Any) -> str:
        self.limits = budgets.raised(self.limits, budgets.wanted(caps))
        self.show()
        return "raised: the task goes on in the same session"

    # --- queries -----------------------------------------------------------------------------------

    @workflow.query(description="stage, what it waits for, what moves it on, figures so far")
    def status(self) -> TaskStatus:
        return self.current_status()

    @workflow.query(description="the plan and its hash")
    def plan(self) -> str:
        return self.plan_text()

    @workflow.query(description="every turn: role, agent, end, cost, seconds")
    def timeline(self) -> list[TurnRecord]:
        return self.turn_records()


_TAKEN: dict[Verb, str] = {
    "approve_plan": "approved: the agent starts",
    "reject_plan": "taken: with feedback the plan is made anew, without the task ends",
    "send_message": "taken: it reaches the agent at its next turn",
    "pause": "pauses before the next turn or stage",
    "resume": "goes on",
    "continue_task": "goes on",
    "compact": "taken: the next turn starts from a summary",
    "abandon": "ends; unmerged work is saved under a salvage ref",
}
