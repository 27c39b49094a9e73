"""How a task's stages do things: one activity, one turn, one wait, one stop. And what the operator sees of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.contracts import OPERATOR, Ask, Claimed, Collected, Prepared
    from activities.settings import INVALID_TASK, NO_ROOM, SETUP_FAILED, AgentSpec, Role, TaskInput
    from workflows import glance, options
    from workflows.contracts import (
        Blocked,
        BlockedReason,
        GateLine,
        MergeAnswer,
        Outcome,
        Stage,
        TaskResult,
        TaskStatus,
        TurnRecord,
    )
    from workflows.leases import signalled
    from workflows.ledger import Ledger
    from workflows.notices import Notices
    from workflows.policy import limits as budgets
    from workflows.policy import turns
    from workflows.policy.commands import Situation
    from workflows.story import task_story

ROOM_PAUSE = timedelta(minutes=1)

G = TypeVar("G")
R = TypeVar("R")


class End(Exception):
    """The task is over."""

    def __init__(self, outcome: Outcome, reason: str = "") -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


class Anew(Exception):
    """What the task is at begins anew: an operator wants it."""


@dataclass(frozen=True)
class Todo:
    """What an agent has to do next."""

    role: Role
    ask: Ask
    detail: str = ""
    evidence: list[str] = field(default_factory=list)


def failure(result: TaskResult) -> ApplicationError:
    """A task that ends as `failed` fails its workflow; the result is in the failure's details."""
    saved = f"; its work is saved: git branch rescued {result.salvage_ref}" if result.salvage_ref else ""
    return ApplicationError(f"{result.reason}{saved}", result, type="TaskFailed", non_retryable=True)


class TaskSteps(Notices):
    def __init__(self) -> None:
        super().__init__()
        self.task: TaskInput | None = None
        self.title = ""
        self.ledger = Ledger()
        self.stage = Stage.PREPARE
        self.waiting_for = ""
        self.blocked: Blocked | None = None
        self.prepared: Prepared | None = None
        self.found: Collected | None = None
        self.sessions: dict[str, str] = {}
        self.plan_file = self.plan_digest = self.plan_said = ""
        self.plan_waits = False
        self.landing_waits = ""
        """Sha of the work that waits for approval."""
        self.reminders: list[str] = []
        """What waits for an operator, and for how long."""
        self.planned: list[str] = []
        """What the plan says that it changes."""
        self.running = False
        """An activity that may be left, and begin anew."""
        self.landing_approved = ""
        self.switched_to: AgentSpec | None = None
        """Who has the task instead of its agent, by an operator's word."""
        self.acting: Role | None = None
        """Whose turn it is, or was last."""
        self.said = ""
        self.review_rounds = self.gate_failures = self.merge_attempts = self.gate_runs = 0
        self.approvals = 0
        """Reviews that had nothing against it."""
        self.position: dict[str, int] = {}
        """Which of the chain has each session: 0 is the first, then the fallbacks."""
        self.final_texts: list[str] = []
        """Files, of the turns since the last summary."""
        self.summary = ""
        self.red_gates: list[str] = []
        """Logs of the last run, as long as it was red."""
        self.gate_lines: list[GateLine] = []
        self.last_fault = ""
        self.fixup_spent = 0.0
        self.handovers: list[str] = []
        self.meanwhile: list[str] = []
        """What changed in the user's repository during the newest turn that saw anything change."""
        self.reviews: list[str] = []
        self.approved_head: str | None = None
        self.approved_by: list[str] = []
        self.ops: list[str] = []
        """Candidates that were submitted."""
        self.answers: dict[str, MergeAnswer] = {}
        self.landed: MergeAnswer | None = None
        self.result: TaskResult | None = None
        self.holds: list[str] = []
        """Tasks of its swarm's board."""
        self.claimed: Claimed | None = None
        """What came of the last claim."""
        self.board = glance.Board(self._seen)

    @property
    def ready(self) -> Prepared:
        assert self.prepared is not None, "before prepare"
        return self.prepared

    @property
    def shared_queue(self) -> str:
        return workflow.info().task_queue

    # --- one activity ------------------------------------------------------------------------------

    async def do(
        self,
        activity: Callable[[Any, G], Awaitable[R]],
        given: G,
        with_options: options.Options,
        summary: str,
        *,
        whole: bool = False,
    ) -> R:
        """Run it to its end. An abandoned task cancels it; our own trouble blocks the task, and is tried again.

        `whole`: nothing that an operator does interrupts it.
        """
        while True:
            try:
                return await self._once(activity, given, with_options, summary, whole=whole)
            except Anew:
                continue
            except ActivityError as error:
                cause = error.cause if isinstance(error.cause, ApplicationError) else None
                if self.prepared is None and cause and cause.details:
                    self.board.registered = cause.details[0]
                with contextlib.suppress(Anew):
                    await self._in_trouble(error, cause)

    async def _in_trouble(self, error: ActivityError, cause: ApplicationError | None) -> None:
        if cause and cause.type == NO_ROOM:
            await self._wait_for_room(cause.message)
        elif cause and cause.type == SETUP_FAILED:
            self.hear(await self.block(BlockedReason.SETUP, cause.message))
        else:
            text = f"{error.activity_type}: {options.retried(error)}"
            self.hear(await self.block(BlockedReason.INFRASTRUCTURE, text))

    async def _wait_for_room(self, text: str) -> None:
        """The disk is too full. Neither the task nor an operator has to do with it, so it goes on by itself."""
        stage = self.stage
        self.enter(stage, f"room on the disk: {text}")
        with contextlib.suppress(TimeoutError):
            await self.wait(lambda: False, ROOM_PAUSE, "looks for room on the disk again")
        self.enter(stage)

    def hear(self, text: str) -> None:
        """What an operator said when a stopped task was let go on, where no turn follows at once."""
        if text:
            self.mail.post(text, OPERATOR, workflow.time())

    async def _once(
        self,
        activity: Callable[[Any, G], Awaitable[R]],
        given: G,
        with_options: options.Options,
        summary: str,
        *,
        whole: bool = False,
    ) -> R:
        """Raises ActivityError for our own trouble, and End or Anew when an operator wants it left."""
        self.running = not whole
        handle = workflow.start_activity_method(cast(Any, activity), given, summary=summary, **with_options)
        try:
            await workflow.wait_condition(lambda: handle.done() or (self.stops and not whole))
            self.running = False
            if not handle.done():
                await _cancelled(handle)
                if not self.abandoned and workflow.cancellation_reason() is not None:
                    raise asyncio.CancelledError  # the activity's cancellation has hidden the task's own
                self.stop_if_wanted()
            elif not whole:
                self.begin_anew_if_wanted()  # it was over in the same moment
            return cast(R, await handle)
        except asyncio.CancelledError:
            self.running = False
            await _cancelled(handle)
            raise
        except ActivityError as error:
            self.begin_anew_if_wanted()
            if isinstance(error.cause, ApplicationError) and error.cause.type == INVALID_TASK:
                raise error.cause from None
            raise

    def stop_if_wanted(self) -> None:
        """Raises End or Anew."""
        if self.abandoned:
            raise End(self.stop_as, f"{self.stop_as} by an operator")
        self.begin_anew_if_wanted()

    def begin_anew_if_wanted(self) -> None:
        if self.anew:
            self.anew = False
            raise Anew

    async def git(self, activity: Callable[[Any, G], Awaitable[R]], given: G, summary: str) -> R:
        return await self.do(activity, given, options.git_options(self.shared_queue, self.ready.host), summary)

    async def whole(self, activity: Callable[[Any, G], Awaitable[R]], given: G, summary: str) -> tuple[R, bool]:
        """To its end, whatever happens; with it, whether the task was cancelled meanwhile."""
        where = options.git_options(self.shared_queue, self.ready.host)
        running = asyncio.create_task(self.do(activity, given, where, summary, whole=True))
        cancelled = False
        while not running.done():
            try:
                await workflow.wait_condition(lambda: running.done() or (cancelled and self.blocked is not None))  # noqa: B023
            except asyncio.CancelledError:
                cancelled = True
            else:
                if not running.done():  # it waits for an operator, who has just cancelled the task
                    running.cancel()
                    raise asyncio.CancelledError
        return running.result(), cancelled

    async def tell(self, workflow_id: str, signal: str, value: Any) -> None:
        """Signal another workflow; one that is gone needs to be told nothing."""
        try:
            await signalled(workflow_id, signal, value)
        except FailureError as error:
            workflow.logger.warning("%s is not told %s: %s", workflow_id, signal, error)

    # --- who does it ---------------------------------------------------------------------------------

    def chain(self, role: Role) -> list[AgentSpec]:
        """Who may do it: the agent, and who takes over from it."""
        settings = self.ready.settings
        first = self.switched_to or settings.agent
        if role == "resolver":
            first = settings.resolver or first
        return [first, *settings.fallbacks]

    def agent(self, role: Role) -> AgentSpec:
        return self.chain(role)[self.position.get(self.session_name(role), 0)]

    def has_fallback(self, role: Role) -> bool:
        return self.position.get(self.session_name(role), 0) + 1 < len(self.chain(role))

    def session_name(self, role: Role) -> str:
        """Executor and fixer go on in one session, and so does the resolver where it is the same agent.

        Not the planner: a session keeps its first standing instructions, and a planner's forbid to write.
        """
        if role == "planner" or (role == "resolver" and self.ready.settings.resolver):
            return role
        return "agent"

    # --- one wait, one stop --------------------------------------------------------------------------

    async def wait(self, condition: Callable[[], bool], patience: timedelta | None, summary: str) -> None:
        """Until `condition`, or TimeoutError after `patience`; the time counts as waiting, not as ours."""
        started = workflow.time()
        self.show()
        # Not in a `finally`: that would also run when an evicted workflow is thrown away, where there is no clock.
        try:
            await workflow.wait_condition(
                lambda: condition() or self.stops, timeout=patience, timeout_summary=summary if patience else None
            )
        except (TimeoutError, asyncio.CancelledError):
            self.ledger.add("waiting", workflow.time() - started)
            raise
        self.ledger.add("waiting", workflow.time() - started)
        self.stop_if_wanted()

    async def wait_for_limit(self, wait: turns.Wait, agent: AgentSpec) -> None:
        """A rate limit: a durable timer. It uses up nothing."""
        stage = self.stage
        until = workflow.now() + timedelta(seconds=wait.seconds)
        said = "stated" if wait.stated else "back-off"
        text = f"rate limited by {agent.account or agent.runtime} until {until:%H:%M:%S} UTC ({said})"
        self.enter(Stage.LIMITED, f"the end of a limit: {text}")
        self.notify_limit(text, wait.seconds)
        try:
            await self.wait(lambda: False, timedelta(seconds=wait.seconds), text)
        except TimeoutError:
            self.enter(stage)
            self.stop_if_wanted()

    async def block(self, reason: BlockedReason, text: str, otherwise: Callable[[], bool] = lambda: False) -> str:
        """Stop and wait for `continue_task`; its text is returned. With `on_blocked: fail` the task ends instead.

        `otherwise`: what else lets it go on.
        """
        settings = self.prepared.settings if self.prepared else self.task
        if settings is None or settings.on_blocked == "fail":
            raise End("failed", f"{reason}: {text}")
        stage = self.stage
        self.blocked, self.continued = Blocked(reason=reason, text=text), None
        self.enter(Stage.BLOCKED, "an operator")
        workflow.logger.warning("blocked: %s: %s", reason, text)
        try:
            await self.wait(lambda: self.continued is not None or otherwise(), None, "blocked")
        finally:
            self.blocked = None
        self.enter(stage)
        return self.continued or ""

    async def wait_for_answer(self) -> None:
        """The agent has asked something. It costs nothing: no turn runs, and no account is held."""
        if not self.question:
            return  # it was answered while the turn still ran
        if self.ready.settings.on_blocked == "fail":
            raise End("failed", f"the agent asks, and nobody is there to answer: {self.question[:500]}")
        stage = self.stage
        self.enter(Stage.QUESTION, f"an answer: {' '.join(self.question.split())[:200]}")
        await self.wait(lambda: not self.question, None, "waits for an answer")
        self.enter(stage)

    # --- what the operator sees ----------------------------------------------------------------------

    def enter(self, stage: Stage, waiting_for: str = "") -> None:
        if stage is not self.stage:
            workflow.logger.info("stage: %s", stage)
        self.stage, self.waiting_for = stage, waiting_for
        self.show()
        if waiting_for or stage is Stage.ENDED:
            self.notify_stage()

    def show(self) -> None:
        workflow.set_current_details(task_story(self.current_status(), self.ledger.turns))
        self.board.changed = True

    def _seen(self) -> tuple[glance.Glance, glance.Values]:
        status = self.current_status()
        seen = glance.glance(status, self.task, self.prepared)
        return seen, glance.values(status, seen, self.task, self.prepared)

    def situation(self) -> Situation:
        return Situation(
            ended=self.stage in (Stage.SETTLE, Stage.ENDED),
            blocked=self.blocked is not None and self.continued is None and not self.anew,
            paused=self.paused,
            plan=self.plan_digest if self.plan_waits and self.plan_answer is None else None,
            landing=self.landing_waits if self.landing_waits and self.landing_answer is None else None,
            ending=self.abandoned,
            no_retry=self._no_retry(),
            listed=bool(self.planned) and (self.prepared is None or self.ready.settings.plan_files == "enforce"),
            prepared=self.prepared is not None,
            question=bool(self.question),
        )

    def _no_retry(self) -> str:
        if self.anew:
            return "it begins anew already"
        if self.blocked is not None:
            match self.blocked.reason:
                case BlockedReason.BUDGET:
                    return "the budget is used up: `raise_budget` or `continue_task` goes on"
                case BlockedReason.PLAN_TIMEOUT | BlockedReason.LANDING_TIMEOUT:
                    return f"{self.waiting_approval()} waits for an answer: approve it, or `revise` sends it back"
            return "" if self.continued is None else "the task goes on already"
        if self.running:
            return ""
        match self.stage:
            case Stage.APPROVAL:
                return f"{self.waiting_approval()} waits for an answer: approve it, or `revise` sends it back"
            case Stage.LIMITED:
                return "it waits for a limit: `switch_agent` has another agent do it, `starter.py quota` looks at it"
            case Stage.QUESTION:
                return "the agent has asked something: `answer` it, and the task goes on"
            case Stage.PAUSED:
                return "the task is paused: `resume` goes on"
            case Stage.QUEUE:
                return "it stands in the merge queue: `starter.py queue` shows it"
        return "nothing runs at this moment that could begin anew"

    def waiting_approval(self) -> str:
        return "the landing" if self.landing_waits else "the plan"

    def remind(self, text: str) -> None:
        """An operator is waited for, and has not answered for long."""
        self.reminders = [*self.reminders, text]
        workflow.logger.warning(text)
        self.notify("approval", text, self._next_command())
        self.show()

    def plan_text(self) -> str:
        return f"{self.plan_said}\n\nhash: {self.plan_digest}\nfile: {self.plan_file}" if self.plan_said else ""

    def turn_records(self) -> list[TurnRecord]:
        return self.ledger.turns

    def rewindable(self) -> list[int]:
        """Not those of a resolver: a merge in progress is not had back."""
        return [record.turn for record in self.ledger.turns if record.role in ("executor", "fixer")]

    def _next_command(self) -> str:
        signal = f"temporal workflow signal -w {workflow.info().workflow_id} --name"
        if self.plan_waits:
            return f"{signal} approve_plan    (or: {signal} reject_plan --input '\"what to change\"')"
        if self.landing_waits:
            sha = self.landing_waits[:12]
            return f"{signal} approve_landing --input '\"{sha}\"'    (or: {signal} revise --input '\"what to change\"')"
        if self.question and self.blocked is None:
            task = workflow.info().workflow_id
            return f'{signal} answer --input \'"…"\'    (or: python starter.py answer {task} "…")'
        if self.blocked is not None and self.blocked.reason is BlockedReason.BUDGET:
            return f"{signal} raise_budget --input '{{\"max_cost_usd\": 20}}'    (or: {signal} continue_task)"
        if self.blocked is not None:
            return f"{signal} continue_task --input '\"what to do\"'    (or: {signal} abandon)"
        return f"{signal} resume" if self.paused else ""

    def _warnings(self) -> list[str]:
        money = budgets.warnings(self.limits, self.ledger.usage, self.ledger.agent_seconds)
        notes = self.prepared.notes if self.prepared else []
        return [*notes, *self.reminders, *money, *self.handovers, *self.meanwhile]

    def _overlaps(self) -> list[str]:
        found = self.found.overlaps if self.found and not self.result else []
        return [f"{other.task} ({other.title}): {', '.join(other.files)}" for other in found]

    def current_status(self) -> TaskStatus:
        seconds = self.result.seconds if self.result else self.ledger.seconds(workflow.time())
        swarm = self.task.swarm if self.task else None
        return TaskStatus(
            task_id=workflow.info().workflow_id,
            title=self.title,
            stage=self.stage,
            waiting_for=self.waiting_for,
            next_command=self._next_command(),
            blocked=self.blocked,
            paused=self.paused,
            said=self.said,
            plan=self.plan_said[:2000],
            plan_hash=self.plan_digest,
            landing=self.landing_waits or None,
            planned=[*self.planned, *self.allowed_files],
            touched=self.found.files if self.found else [],
            unplanned=self.found.unplanned if self.found else [],
            priority=self.priority,
            worktree=self.prepared.worktree if self.prepared else None,
            branch=self.prepared.branch if self.prepared else None,
            salvage_ref=self.result.salvage_ref if self.result else None,
            turns=self.ledger.turn_count,
            review_rounds=self.review_rounds,
            gate_failures=self.gate_failures,
            merge_attempts=self.merge_attempts,
            cost_usd=self.ledger.usage.cost_usd,
            tokens=self.ledger.usage.tokens,
            usage=self.ledger.usage,
            costs=self.ledger.costs(),
            warnings=self._warnings(),
            agent=self.agent("executor").label() if self.prepared else "",
            run_folder=self.prepared.run_folder if self.prepared else None,
            seconds=seconds,
            undelivered_messages=[message.text for message in self.mail.waiting()],
            messages=self.mail.shown(),
            question="" if self.result else self.question,
            progress=self.progress,
            proposals=self.proposals,
            repo=self.prepared.ref.repo if self.prepared else self.task.repo if self.task else "",
            labels=self.task.labels if self.task else [],
            overlaps=self._overlaps(),
            gates=self.gate_lines,
            findings=self.found.findings if self.found and not self.result else [],
            problems=self.problems,
            swarm=swarm.swarm if swarm else "",
            worker=swarm.worker if swarm else "",
            holds=self.holds,
            outcome=self.result.outcome if self.result else None,
            sha=self.landed.sha if self.landed else None,
            reason=self.result.reason if self.result else "",
        )

    def make_result(self, outcome: Outcome, reason: str, salvage_ref: str | None) -> TaskResult:
        return TaskResult(
            outcome=outcome,
            sha=self.landed.sha if self.landed else None,
            reason=reason,
            branch=self.prepared.branch if self.prepared else None,
            salvage_ref=salvage_ref,
            turns=self.ledger.turn_count,
            review_rounds=self.review_rounds,
            cost_usd=round(self.ledger.usage.cost_usd, 6),
            tokens=self.ledger.usage.tokens,
            seconds=self.ledger.seconds(workflow.time()),
        )


async def _cancelled(handle: workflow.ActivityHandle[Any]) -> None:
    """Cancel an activity and wait until what it started has ended."""
    handle.cancel()
    try:
        await handle
    except (ActivityError, asyncio.CancelledError) as error:
        if not is_cancelled_exception(error):
            workflow.logger.warning("ended with an error while it was cancelled: %s", options.retried(error))
