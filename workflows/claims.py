"""How a task that is a worker's cycle speaks with its swarm: it claims tasks of the board, says that it waits for an
operator, and how it has ended. The swarm may be gone at any time: that is no reason to lose work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import FailureError

with workflow.unsafe.imports_passed_through():
    from activities.contracts import Claimed, Collected
    from activities.settings import Membership
    from workflows.approvals import Approvals
    from workflows.contracts import BlockedReason, TaskResult
    from workflows.leases import signalled
    from workflows.steps import Anew, End, Todo
    from workflows.swarm_contracts import ClaimAnswer, ClaimRequest, CycleNote, CycleReport

ASK_AGAIN = timedelta(minutes=10)
"""A swarm that has not answered is asked once more: the same request, so it may answer twice."""
LONGEST_TITLE = 200
LONGEST_NOTE = 1_000


class Claims(Approvals):
    """A part of the task's workflow; without `swarm` in its input it does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.claim_number = 0
        self.claim_answers: dict[int, ClaimAnswer] = {}
        self.unclaimed = 0
        """How often the agent was told that it holds nothing."""

    def joins(self, swarm: Membership | None) -> None:
        """It begins with what the swarm has claimed for it."""
        self.holds = list(swarm.claims) if swarm else []

    # --- claims --------------------------------------------------------------------------------------

    @workflow.signal(description="from the swarm: what came of a claim")
    def claim_answer(self, answer: ClaimAnswer) -> None:
        self.claim_answers[answer.request] = answer

    async def claim(self, ids: list[str]) -> bool:
        """Whether the agent got anything that it did not have. What it got and what not is for its next turn."""
        answer = await self._ask_swarm(ids)
        if answer is None:
            if not self.holds:
                raise End("failed", "the swarm is over")
            self.claimed = Claimed(over=True)
            return False
        titles = dict(zip(answer.got, answer.titles, strict=False))
        got = [name for name in answer.got if name not in self.holds]
        self._entitle([titles.get(name, name) for name in got])
        self.holds = [*self.holds, *got]
        self.claimed = Claimed(
            got=answer.got,
            refused=[f"{one.id}: {one.why}" for one in answer.refused],
            left=answer.left,
            left_count=answer.left_count,
        )
        self.show()
        return bool(got)

    def _entitle(self, titles: list[str]) -> None:
        """It is called after what it does."""
        before = [self.title] if self.holds else []
        self.title = "; ".join([*before, *titles])[:LONGEST_TITLE] or self.title

    async def _ask_swarm(self, ids: list[str]) -> ClaimAnswer | None:
        """None: there is no swarm any more."""
        self.claim_number += 1
        number, stage = self.claim_number, self.stage
        request = ClaimRequest(cycle=workflow.info().workflow_id, key=self.membership.key, request=number, ids=ids)
        self.enter(stage, f"the swarm's answer to a claim of {', '.join(ids)}"[:200])
        while number not in self.claim_answers:
            try:
                await signalled(self.membership.swarm, "claim", request)
            except FailureError as error:
                workflow.logger.warning("the swarm is over: %s", error)
                break
            with contextlib.suppress(TimeoutError, Anew):
                await self.wait(lambda: number in self.claim_answers, ASK_AGAIN, "waits for the swarm's answer")
        self.enter(stage)
        return self.claim_answers.pop(number, None)

    # --- what there is to land -------------------------------------------------------------------------

    async def nothing_claimed(self, found: Collected) -> Todo | None:
        """The agent says that it is done, and holds no task. Nothing but new tasks lands so, of who may make them."""
        swarm = self.task.swarm if self.task else None
        if swarm is None or swarm.plans or not swarm.may_claim or self.holds:
            return None
        if swarm.can_plan and found.only_tasks:
            return None
        self.unclaimed += 1
        if self.unclaimed <= self.limits.max_working_resumes:
            return Todo("executor", "unclaimed")
        text = await self.block(BlockedReason.STUCK, f"done {self.unclaimed} times without a task of the board")
        self.hear(text)
        self.unclaimed = 0
        return Todo("executor", "unclaimed")

    def lands_tasks(self) -> bool:
        """Nothing but files of tasks: no gate and no reviewer is asked (FEATURES A8)."""
        return self.task is not None and self.task.swarm is not None and bool(self.found and self.found.only_tasks)

    def bounds(self) -> dict[str, Any]:
        """Of what it may change: see `CollectInput`."""
        swarm = self.task.swarm if self.task else None
        if swarm is None:
            return {}
        if swarm.plans:
            return {"task_files": "only", "max_new_tasks": swarm.max_new_tasks}
        return {"task_files": "may" if swarm.can_plan else "none"}

    def done_cards(self) -> dict[str, Any]:
        """For the ledger of the repository; nothing, where the work is not on the target."""
        swarm = self.task.swarm if self.task else None
        if swarm is None or self.landed is None or not self.holds or self.lands_tasks():
            return {}
        return {"swarm": swarm.swarm, "swarm_key": swarm.key, "claims": self.holds, "sha": self.landed.sha or ""}

    # --- what the swarm is told ------------------------------------------------------------------------

    @property
    def membership(self) -> Membership:
        assert self.task is not None and self.task.swarm is not None, "of no swarm"
        return self.task.swarm

    async def cycle_ends(self, result: TaskResult) -> None:
        """After its work was settled. Whoever cancels the task now is too late, and the signal is on its way."""
        if self.task is not None and (swarm := self.task.swarm) is not None:
            cycle, only_tasks = workflow.info().workflow_id, self.lands_tasks()
            report = CycleReport(
                cycle=cycle, key=swarm.key, result=result, only_tasks=only_tasks, approvals=self.approvals
            )
            with contextlib.suppress(asyncio.CancelledError):
                await self.tell(swarm.swarm, "cycle_ended", report)

    @contextlib.asynccontextmanager
    async def _parked(self, waits_for: str) -> AsyncIterator[None]:
        """While an operator is waited for the swarm knows it, and has the worker go on with something else."""
        settings = self.prepared.settings if self.prepared else self.task
        ends = settings is None or settings.on_blocked == "fail"
        if not waits_for or ends or self.task is None or self.task.swarm is None:
            yield
            return
        me, key = workflow.info().workflow_id, self.membership.key
        note = CycleNote(cycle=me, key=key, blocked=waits_for[:LONGEST_NOTE])
        goes_on = note.model_copy(update={"blocked": ""})
        await self.tell(self.membership.swarm, "cycle_note", note)
        try:
            yield
        except Anew:
            await self.tell(self.membership.swarm, "cycle_note", goes_on)
            raise
        await self.tell(self.membership.swarm, "cycle_note", goes_on)  # not where it ends: that says it all

    async def block(self, reason: BlockedReason, text: str, otherwise: Callable[[], bool] = lambda: False) -> str:
        swarm = self.task.swarm if self.task and self.prepared else None
        if swarm is not None and not (self.holds or swarm.plans or (self.found and self.found.changed)):
            raise End("failed", f"{reason}: {text}")  # it has nothing that would be worth a person's time
        async with self._parked(f"{reason}: {text}"):
            return await super().block(reason, text, otherwise)

    async def wait_for_answer(self) -> None:
        async with self._parked(f"the agent asks: {self.question}" if self.question else ""):
            await super().wait_for_answer()

    async def plan_decision(self) -> tuple[str, str]:
        async with self._parked("the plan waits for approval"):
            return await super().plan_decision()

    async def landing_decision(self, head: str) -> str:
        asks = self.ready.settings.approve_landing and self.landing_approved != head
        async with self._parked("the landing waits for approval" if asks else ""):
            return await super().landing_decision(head)
