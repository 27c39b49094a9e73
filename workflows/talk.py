"""What the agent of a task says while it works, by its MCP server: the worker signals it, and nobody else should.

All of it is an agent's text: it is kept, shown and bounded, and moves nothing but a question, which parks the task
after the turn.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.agent_tools import MAX_PROPOSALS
    from activities.contracts import AgentCall, Message, TurnInput
    from activities.settings import explain
    from workflows.contracts import Proposal
    from workflows.operators import OperatorCommands

MAX_QUESTION = 4_000
"""Characters of all that is asked in one turn."""


class Talk(OperatorCommands):
    def __init__(self) -> None:
        super().__init__()
        self.turn_number = 0
        self.cut_off: TurnInput | None = None
        """The turn that runs, or was ended by what ended the task."""
        self.turning = False
        """What runs is the turn."""
        self.asked = ""
        """By a tool, in the turn that runs: the task is parked after it, also when it has been answered meanwhile."""
        self.progress = ""
        self.proposals: list[Proposal] = []

    def unread(self) -> list[Message]:
        """What waits, but for what the running turn was told at its beginning."""
        told = {message.id for message in self.cut_off.messages} if self.cut_off else set()
        return [message for message in self.mail.waiting() if message.id not in told]

    @workflow.signal(description="from the worker: what the agent does by its tools")
    def from_agent(self, given: Any = None) -> None:
        try:
            call = AgentCall.model_validate(given)
        except ValidationError as error:
            self.problem(f"signal from_agent ignored: {explain(error)}")
            return
        if self.cut_off is None or call.turn != self.turn_number:
            return  # its turn is over
        match call.kind:
            case "read":
                self.mail.deliver(call.messages, call.turn)
            case "reply":
                self.mail.reply(call.messages[0] if call.messages else "", call.text)
            case "ask":
                self.asked = "\n".join(filter(None, [self.asked, call.text]))[:MAX_QUESTION]
                self.question = "\n".join(filter(None, [self.question, call.text]))[:MAX_QUESTION]
            case "progress":
                self.progress = " ".join(call.text.split())
            case "propose" if len(self.proposals) < MAX_PROPOSALS:
                proposal = Proposal(turn=call.turn, title=" ".join(call.title.split()), description=call.text)
                if proposal not in self.proposals:
                    self.proposals = [*self.proposals, proposal]
        self.show()
