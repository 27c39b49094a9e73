"""How an operator gives a task to another agent. It takes the next turn; one that runs is not ended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.contracts import CheckAgentInput
    from activities.prepare import PrepareActivities
    from activities.settings import AgentSpec
    from workflows import options
    from workflows.contracts import BlockedReason, Stage
    from workflows.policy import commands
    from workflows.turn_taking import TurnTaking

CHECK_WITHIN = timedelta(minutes=2)
"""An operator waits for it."""


class Switching(TurnTaking):
    def __init__(self) -> None:
        super().__init__()
        self.wanted_agent: AgentSpec | None = None

    async def switch(self) -> str:
        """Before a turn. Why another session takes over; empty: nobody wants that.

        Planner, executor and fixer are one agent; a resolver of its own stays. `fallbacks` take over from the new one.
        """
        if self.wanted_agent is None:
            return ""
        before = self.agent("executor")
        await self.commit_work()
        agent, self.wanted_agent = self.wanted_agent, None
        self.switched_to = agent
        for name in ("agent", "planner"):
            self.sessions.pop(name, None)
            self.position.pop(name, None)
        self.last_fault = ""
        why = f"an operator has given the task to {agent.label()}"
        told = f"{before.label()} handed over to {agent.label()}: an operator wanted it"
        self.handovers = [*self.handovers, told][-10:]
        workflow.logger.warning(why)
        return why

    @workflow.signal(name="switch_agent", description='the next turn is taken by "codex:gpt-5.5", or an agent object')
    async def on_switch_agent(self, given: Any = None) -> None:
        try:
            if why := self.refusal("switch_agent", given):
                raise _refused(why)
            await self._switch_agent(given)
        except ApplicationError as error:
            self.problem(f"signal switch_agent ignored: {error.message}")

    @workflow.update(name="switch_agent", description='the next turn is taken by "codex:gpt-5.5", or an agent object')
    async def switch_agent(self, given: Any = None) -> str:
        return await self._switch_agent(given)

    @switch_agent.validator
    def _can_switch(self, given: Any = None) -> None:
        if why := self.refusal("switch_agent", given):
            raise _refused(why)

    async def _switch_agent(self, given: Any) -> str:
        """Raises ApplicationError: this host cannot run it, or the task is over meanwhile."""
        agent = commands.agent(given)
        check = CheckAgentInput(agent=agent, ref=self.ready.ref)
        try:
            agent = await workflow.execute_activity_method(
                PrepareActivities.check_agent,
                check,
                summary=f"can {agent.label()} be run",
                schedule_to_close_timeout=CHECK_WITHIN,
                **options.git_options(self.shared_queue, self.ready.host),
            )
        except ActivityError as error:
            raise _refused(options.retried(error)) from None
        if why := self.refusal("switch_agent", given):
            raise _refused(why)
        self.wanted_agent = agent
        return self.take("switch_agent", given)

    def take(self, verb: commands.Verb, given: Any) -> str:
        if verb == "switch_agent":
            # Who waits for the old one's limit need not; and what is blocked goes on, unless a new agent is no help.
            if self.stage is Stage.LIMITED and self.acting not in ("reviewer", "compactor"):
                self.anew = True
            elif self.blocked is not None and self.blocked.reason not in _NO_MATTER_WHO and self.continued is None:
                self.continued = ""
        return super().take(verb, given)


_NO_MATTER_WHO = (BlockedReason.BUDGET, BlockedReason.PLAN_TIMEOUT, BlockedReason.LANDING_TIMEOUT)


def _refused(why: str) -> ApplicationError:
    return ApplicationError(why, type="Refused", non_retryable=True)
