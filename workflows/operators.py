"""The operators' door into a task: signals, the same verbs as updates, and queries.

A signal can neither wedge nor fail a task: whatever is wrong with one is shown in the status and ignored. An update
checks before it is accepted and answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from pydantic import ValidationError
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.contracts import OPERATOR, OURSELVES, Message
    from activities.settings import Limits, explain
    from workflows.contracts import TaskStatus, TurnRecord
    from workflows.policy import commands
    from workflows.policy import limits as budgets
    from workflows.policy.commands import Situation, Verb
    from workflows.policy.mailbox import Mailbox, saying


_TAKEN: dict[Verb, str] = {
    "approve_plan": "approved: the agent starts",
    "reject_plan": "taken: with feedback the plan is made anew, without the task ends",
    "send_message": "taken: it reaches the agent at its next turn",
    "answer": "taken: the agent goes on with it",
    "pause": "pauses before the next turn or stage",
    "resume": "goes on",
    "continue_task": "goes on",
    "compact": "taken: the next turn starts from a summary",
    "abandon": "ends; unmerged work is saved under a salvage ref",
    "raise_budget": "raised: the task goes on in the same session",
    "rewind": "taken: the next turn begins with the worktree as it was then; what is in it now is kept",
    "revise": "taken: it is sent back to the agent",
    "approve_landing": "approved: exactly that commit goes to the merge queue",
    "allow_files": "allowed; a task that is blocked for them goes on with `retry_stage`",
    "cancel": "ends as cancelled; unmerged work is saved under a salvage ref",
    "retry_stage": "taken: what the task is at begins anew",
    "switch_agent": "taken: it does the next turn",
    "set_priority": "taken: in the merge queue now, or when the work gets there",
}


class Desk(Protocol):
    """Who takes the commands of operators."""

    def refusal(self, verb: Verb, given: Any) -> str | None: ...

    def take(self, verb: Verb, given: Any) -> str: ...

    def problem(self, text: str) -> None: ...


def _command(verb: Verb, description: str) -> tuple[Callable[..., None], workflow.UpdateMethodMultiParam[..., str]]:
    """The signal and the update of a verb: what the one ignores and shows, the other refuses."""

    @workflow.signal(name=verb, description=description)
    def on(self: Desk, given: Any = None) -> None:
        if why := self.refusal(verb, given):
            self.problem(f"signal {verb} ignored: {why}")
        else:
            self.take(verb, given)

    @workflow.update(name=verb, description=description)
    def answered(self: Desk, given: Any = None) -> str:
        return self.take(verb, given)

    @answered.validator
    def _(self: Desk, given: Any = None) -> None:
        if why := self.refusal(verb, given):
            raise ApplicationError(why, type="Refused", non_retryable=True)

    return on, answered


class OperatorCommands:
    """What the operator wants; the workflow looks at it at its own pace."""

    def __init__(self) -> None:
        self.mail = Mailbox()
        self.question = ""
        """What the agent has asked, and nobody has answered."""
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
        self.rewind_leaves_queue = False
        """A candidate is taken back for it; not so in tasks that took a rewind before there was this."""
        self.stop_as: Literal["abandoned", "cancelled"] = "abandoned"
        """How an operator has it end, when `abandoned` is set."""
        self.anew = False
        """What the task is at is to be left, and to begin anew."""
        self.landing_answer: tuple[Verb, str] | None = None
        self.allowed_files: list[str] = []
        """Besides those of the plan."""
        self.priority: int | None = None
        """In the merge queue; none: as the settings say."""
        self.priority_changed = False
        """And the queue has not been told."""

    def situation(self) -> Situation:
        raise NotImplementedError

    def current_status(self) -> TaskStatus:
        raise NotImplementedError

    def plan_text(self) -> str:
        raise NotImplementedError

    def turn_records(self) -> list[TurnRecord]:
        raise NotImplementedError

    def unread(self) -> list[Message]:
        raise NotImplementedError

    def rewindable(self) -> list[int]:
        """Turns after which the worktree was kept."""
        raise NotImplementedError

    @property
    def stops(self) -> bool:
        """An operator wants what runs, or what is waited for, to be left."""
        return self.abandoned or self.anew

    def interrupt(self) -> bool:
        """End the running turn, and take it up again at once. False: none runs that could be."""
        raise NotImplementedError

    def show(self) -> None:
        """Something changed that the operator should see."""
        raise NotImplementedError

    def refusal(self, verb: Verb, given: Any) -> str | None:
        match verb:
            case "raise_budget":
                return self._raise_refusal(given)
            case "rewind":
                return commands.rewind_refusal(self.situation(), given, self.rewindable())
            case "set_priority":
                return commands.priority_refusal(self.situation(), given)
            case "switch_agent":
                return commands.switch_refusal(self.situation(), given)
            case "send_message" if given is None or isinstance(given, str | dict):
                return self._message_refusal(given)
        if given is not None and not isinstance(given, str):
            return f"{verb} takes one JSON string, not {type(given).__name__}: --input '\"...\"'"
        return commands.refusal(self.situation(), verb, given or "")

    def take(self, verb: Verb, given: Any) -> str:
        match verb:
            case "approve_plan" | "reject_plan":
                self.plan_answer = (verb, given or "")
            case "send_message":
                return self._hear_message(given)
            case "answer":
                self._hear(given)
            case "pause":
                self.paused = True
            case "resume":
                self.paused = False
            case "continue_task":
                self.continued = given or ""
            case "compact":
                self.compact_wanted = True
            case "revise":
                if self.situation().plan is None:
                    self.landing_answer = (verb, given)
                else:
                    self.plan_answer = (verb, given)
            case "approve_landing":
                self.landing_answer = (verb, given or "")
            case "allow_files":
                self.allowed_files = [*dict.fromkeys([*self.allowed_files, *given.split()])]
            case "set_priority":
                self.priority, self.priority_changed = given, True
            case "retry_stage":
                self.anew = True
            case "abandon" | "cancel":
                self.abandoned, self.stop_as = True, "abandoned" if verb == "abandon" else "cancelled"
            case "raise_budget":
                self.limits = budgets.raised(self.limits, budgets.wanted(given))
            case "rewind":
                self._rewind(given)
        self.show()
        return _TAKEN[verb]

    def problem(self, text: str) -> None:
        self.problems = [*self.problems, text][-10:]
        workflow.logger.warning(text)
        self.show()

    # --- each verb as a signal, and as an update of the same name ----------------------------------

    on_approve_plan, approve_plan = _command("approve_plan", "let the plan be carried out; optional: its hash")
    on_reject_plan, reject_plan = _command("reject_plan", 'send the plan back with "feedback"; without: end the task')
    on_send_message, send_message = _command(
        "send_message", '"text" for the agent at its next turn, or at once: {"text": "…", "now": true}'
    )
    on_answer, answer = _command("answer", '"text" that answers what the agent has asked; the task goes on with it')
    on_pause, pause = _command("pause", "stop before the next turn or stage")
    on_resume, resume = _command("resume", "go on after a pause")
    on_continue, continue_task = _command("continue_task", 'go on with a blocked task; optional "text" for the agent')
    on_abandon, abandon = _command("abandon", "end the task; its work is saved under a salvage ref")
    on_cancel, cancel = _command("cancel", "end the task as cancelled; its work is saved under a salvage ref")
    on_revise, revise = _command("revise", 'send the plan, or the work that waits for its landing, back: "feedback"')
    on_approve_landing, approve_landing = _command("approve_landing", "let this work land; optional: its sha")
    on_allow_files, allow_files = _command("allow_files", 'besides the plan\'s: "src/b.py docs/", as in .gitignore')
    on_retry, retry_stage = _command("retry_stage", "begin anew what the task is at, or what it is blocked in")
    on_set_priority, set_priority = _command("set_priority", "in the merge queue: 10 lands sooner than 0")
    on_compact, compact_session = _command("compact", "summarise the session; the next turn starts a new one from it")
    on_raise_budget, raise_budget = _command("raise_budget", 'new caps: 20 (dollars), or {"max_tokens": 5000000}')
    on_rewind, rewind = _command("rewind", "begin the next turn with the worktree as it was after turn 3")

    @workflow.signal(dynamic=True)
    def on_unknown_signal(self, name: str, _: Sequence[RawValue]) -> None:
        self.problem(f"signal {name} ignored: there is none of this name; there are: {', '.join(_TAKEN)}")

    def _rewind(self, turn: int) -> None:
        self.rewind_to = turn
        self.rewind_leaves_queue = workflow.patched("rewind-leaves-queue")
        self._hear(_rewound(turn), OURSELVES)

    def rewind_fails(self, turn: int, why: str) -> None:
        """Nobody is to go on with what an operator wanted undone: so the task waits for another word."""
        if self.rewind_to == turn:
            self.rewind_to, self.paused = None, True
        self.mail.take_back(_rewound(turn), OURSELVES)
        self.problem(f"no rewind: {why}. The task is paused: rewind to another turn, or `resume` it as it is")

    def _hear(self, text: str, sender: str = OPERATOR) -> None:
        """An operator who speaks while a question waits answers it."""
        answers = self.question if sender == OPERATOR else ""
        self.mail.post(text, sender, workflow.time(), answers)
        if answers:
            self.question = ""

    def _hear_message(self, given: Any) -> str:
        said, asked = saying(given), self.question
        self._hear(said.text, said.sender)
        at_once = said.now and self.interrupt()
        self.show()
        if asked and not self.question:
            return _TAKEN["answer"]
        if said.now:
            return (
                "taken: the running turn is ended, and goes on with it"
                if at_once
                else "taken: no turn runs; it reaches the agent at its next one, if its work does not land before"
            )
        return _TAKEN["send_message"]

    def _message_refusal(self, given: Any) -> str | None:
        try:
            said = saying(given)
        except ValidationError as error:
            return f"send_message: {explain(error)}"
        return commands.refusal(self.situation(), "send_message", said.text) or self.mail.refusal(
            said.text, said.sender
        )

    def _raise_refusal(self, caps: Any) -> str | None:
        if why := commands.refusal(self.situation(), "raise_budget", ""):
            return why
        try:
            return budgets.raise_refusal(self.limits, budgets.wanted(caps))
        except ValidationError as error:
            return f"raise_budget: {explain(error)}"

    # --- queries -----------------------------------------------------------------------------------

    @workflow.query(description="stage, what it waits for, what moves it on, figures so far")
    def status(self) -> TaskStatus:
        return self.current_status()

    @workflow.query(description="the plan and its hash")
    def plan(self) -> str:
        return self.plan_text()

    @workflow.query(description="messages that the running turn does not know yet")
    def inbox(self) -> list[Message]:
        return self.unread()

    @workflow.query(description="every turn: role, agent, end, cost, seconds")
    def timeline(self) -> list[TurnRecord]:
        return self.turn_records()


def _rewound(turn: int) -> str:
    """For the agent."""
    return (
        f"An operator has put your worktree back to how it was after turn {turn}: what came later is gone from it. "
        "Look at the files before you go on."
    )
