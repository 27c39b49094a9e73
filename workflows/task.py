"""One task, from its worktree to main.

    prepare → plan (approval) → work ⇄ gates ⇄ review ⇄ merge queue → settle

`run` is the list of stages. A stage returns None when the work passed it, or a `Todo`: what an agent has to do
before the work comes by again. What ends the task is raised as `End`. Every rule that a reader may want to change
is in `workflows.policy`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.contracts import (
        OPERATOR,
        Collected,
        CollectInput,
        GateResult,
        GatesInput,
        PrepareInput,
        SettleInput,
        TurnResult,
        UpdateBranchInput,
    )
    from activities.gates import GateActivities
    from activities.merging import MergeActivities
    from activities.prepare import PrepareActivities
    from activities.queue_contracts import SubmitInput, Submitted
    from activities.settings import AgentSpec, TaskInput
    from activities.worksite import WorksiteActivities
    from workflows import options
    from workflows.claims import Claims
    from workflows.contracts import BlockedReason, MergeAnswer, Outcome, Priority, QueueNote, Stage, TaskResult
    from workflows.policy import gate_faults, turns
    from workflows.policy.answers import explain_answer, refused
    from workflows.steps import Anew, End, Todo, failure
    from workflows.switching import Switching

RESUBMIT_AFTER = timedelta(minutes=10)
"""A task that has heard nothing from the merge queue asks again; the queue answers twice rather than never."""


COLD_ASKS = ("resume", "nudge", "followup", "continue", "takeover", "answer", "heard", "claimed", "unclaimed")
"""What makes no sense to a session that knows nothing of the one before."""


@workflow.defn
class TaskWorkflow(Claims, Switching):
    @workflow.run
    async def run(self, task: TaskInput) -> TaskResult:
        self.task, self.title = task, task.title
        self.ledger.started = workflow.time()
        self.joins(task.swarm)
        self.board.open()
        try:
            await self._prepare(task)
            await self._plan()
            todo: Todo | None = Todo("executor", "start")
            if self.ready.earlier and self.ready.earlier.salvage_ref:
                todo = Todo("executor", "takeover", f"its work was saved as {self.ready.earlier.salvage_ref}")
            while self.landed is None:
                try:
                    if todo is not None:
                        await self._work(todo)
                    todo = None
                    for stage in (self._verify, self._review, self._land):
                        await self._between_stages()
                        todo = todo or self._rewound() or await stage()
                except Anew:
                    todo = self._anew(todo)
            end = End("merged")
        except End as ended:
            end = ended
        except asyncio.CancelledError:
            end = End("cancelled", "cancelled by an operator")
        except ApplicationError as error:  # bad input: what there is to settle is settled by the next who comes by
            await self.cycle_ends(self.make_result("failed", error.message, None))
            raise
        return await self._settle(end)

    # --- stages ------------------------------------------------------------------------------------

    async def _prepare(self, task: TaskInput) -> None:
        info = workflow.info()
        fields = task.model_dump(mode="json", exclude_unset=True)
        given = PrepareInput(task_id=info.workflow_id, run_id=info.first_execution_run_id, task=fields)
        shared = options.prepare_options(self.shared_queue)
        self.prepared = await self.do(PrepareActivities.prepare, given, shared, "check the input, make the worktree")
        self.limits = self.prepared.settings.limits
        self.board.registered = self.prepared.attributes
        self.title = self.prepared.title or self.title
        if task.continues is not None and (earlier := self.prepared.earlier) is not None:
            self.hear(task.continues.text)
            self.summary, self.plan_file, self.planned = earlier.summary, earlier.plan, earlier.planned

    async def _plan(self) -> None:
        """Interactive tasks: no code before an operator has approved the plan."""
        if not self.ready.settings.interactive or self.plan_file:  # of an earlier run, which was approved
            return
        todo = Todo("planner", "plan")
        while True:
            try:
                result = await self._work(todo)
            except Anew:
                todo = self._anew(todo) or todo
                continue
            self.plan_file, self.plan_digest, self.plan_said = result.text, result.digest, result.said
            self.planned = result.files
            verb, text = await self.plan_decision()
            if verb == "approve_plan":
                return
            if not text:
                raise End("rejected", "the plan was rejected")
            todo = Todo("planner", "revise_plan", text)

    async def _between_stages(self) -> None:
        if self.paused and workflow.patched("pause-between-stages"):
            await self.pause_here()

    def _anew(self, todo: Todo | None) -> Todo | None:
        """What was to be done, in a new session; None: to look at what there is, from the gates on."""
        self.gate_failures, self.last_fault = 0, ""
        self.question = self.asked = ""
        if todo is None:
            return None
        self.sessions.pop(self.session_name(todo.role), None)
        return self._taken_over(todo, "an operator had it begun anew")

    def _rewound(self) -> Todo | None:
        """Nothing that an operator has undone goes on to the next stage."""
        return Todo("executor", "continue") if self.rewind_to is not None else None

    async def _work(self, todo: Todo) -> TurnResult:
        """The turn loop: until the agent says that it is done, or, for a planner, has written its plan."""
        counters = turns.Counters()
        first = todo
        self.fixup_spent = 0.0
        while True:
            self.enter({"planner": Stage.PLAN, "resolver": Stage.RESOLVE}.get(todo.role, Stage.WORK))
            if why := await self.switch():
                if todo.ask == "continue":
                    self.hear(todo.detail)
                todo, counters = self._taken_over(first, why), turns.Counters()
            if self.compact_wanted and await self.compact(todo.role, "an operator asked for it", must=False):
                if todo.ask == "continue":
                    self.hear(todo.detail)
                todo = self._taken_over(first, "an operator asked for it")
            agent = self.agent(todo.role)
            commit = self.ready.base if todo.role == "planner" else None
            patience = self.limits.max_limit_wait_minutes * 60 if self.has_fallback(todo.role) else None
            result = await self.turn(todo, agent, commit, patience)
            if todo.role == "planner" and result.end == "done" and result.signal != "needs_input":
                return result
            if todo.role == "fixer" and self._fixed_enough(result):
                return result
            fallback = self.has_fallback(todo.role)
            counters, decision = turns.after_turn(counters, result, self.limits, workflow.random().random(), fallback)
            match decision:
                case turns.Verify() if self._heard_too_late():
                    todo = replace(todo, ask="heard", detail="", evidence=[])
                case turns.Verify():
                    return result
                case turns.Wait() if agent.account:
                    pass  # its quota says when
                case turns.Wait():
                    await self.wait_for_limit(decision, agent)
                case turns.Compact():
                    await self.compact(todo.role, decision.why)
                    todo = self._taken_over(first, decision.why)
                case turns.HandOver():
                    await self.hand_over(todo.role, decision.why)
                    todo, counters = self._taken_over(first, decision.why), turns.Counters()
                case turns.Again(cold=True):
                    self.sessions.pop(self.session_name(todo.role), None)
                    todo = self._taken_over(first, decision.detail or result.reason)
                case turns.Again() if result.end == "failed" or result.session is None:
                    pass  # it may never have read what it was asked: the same once more
                case turns.Again():
                    todo = replace(todo, ask=decision.ask, detail=decision.detail, evidence=[])
                case turns.Question():
                    await self.wait_for_answer()
                    todo = replace(todo, ask="answer", detail="", evidence=[])
                case turns.Claim():
                    if await self.claim(result.claims):
                        counters = replace(counters, claims=0)
                    todo = replace(todo, ask="claimed", detail="", evidence=[])
                case turns.Nothing():
                    raise End("no-changes", f"nothing to claim: {result.reason}".removesuffix(": "))
                case turns.Block():
                    self.question = self.asked = ""  # what lets the task go on answers it
                    self.fail_without_login(decision, todo)
                    # As a message, so that whoever takes the next turn hears it.
                    self.hear(await self.block(decision.reason, decision.text))
                    counters = turns.Counters()
                    if self.ledger.turn_count:
                        todo = replace(todo, ask="continue", detail="")

    def _heard_too_late(self) -> bool:
        """An operator said something while the agent's last turn ran: nobody's word is lost because it was quicker."""
        waiting = any(message.sender == OPERATOR for message in self.mail.waiting())
        return waiting and workflow.patched("hears-before-it-is-done")

    def _taken_over(self, todo: Todo, why: str) -> Todo:
        """For a session that knows nothing of the one before: what was asked at first, or to go on with it."""
        begun = todo.ask == "start" and self.ledger.turn_count > 0
        return replace(todo, ask="takeover", detail=why, evidence=[]) if begun or todo.ask in COLD_ASKS else todo

    def _fixed_enough(self, result: TurnResult) -> bool:
        """A fix-up that has used up its turns or its money is over: the gates say what it came to (FEATURES B11)."""
        self.fixup_spent += result.usage.cost_usd
        over = self.fixup_spent >= self.limits.max_fixup_cost_usd
        return result.end == "max_turns" or (result.end == "budget" and over)

    async def _verify(self) -> Todo | None:
        """Rule 4: what there is counts, not what was claimed."""
        self.enter(Stage.GATES)
        ready = self.ready
        given = CollectInput(
            ref=ready.ref,
            message=self.title,
            strategy=ready.settings.delivery.strategy,
            planned=[*self.planned, *self.allowed_files] if self.planned else [],
            plan_files=ready.settings.plan_files,
            **self.bounds(),
        )
        found = await self.git(WorksiteActivities.collect, given, "commit and look at the work")
        self.found = found
        if todo := await self.nothing_claimed(found):
            return todo
        if not found.changed:
            raise End("no-changes", "the agent said it was done and changed nothing")
        if found.unresolved:
            return await self._again_or_block(
                Todo("resolver", "resolve", "conflict markers are left in " + ", ".join(found.unresolved[:10]))
            )
        if found.preflight is not None:
            self.red_gates = [found.preflight.log]
            return await self._mend([found.preflight])
        self.red_gates = []
        if not ready.settings.gates or self.lands_tasks():
            self.last_fault = ""
            return None
        self.gate_runs += 1
        gates = GatesInput(
            ref=ready.ref, gates=ready.settings.gates, commit=found.head, where="worktree", number=self.gate_runs
        )
        slots = options.gate_options(self.shared_queue, ready.host, ready.settings.gates)
        summary = "gates: " + ", ".join(gate.name for gate in ready.settings.gates)
        while True:
            ran = await self.do(GateActivities.run_gates, gates, slots, summary)
            self.ledger.add("gates", ran.seconds)
            self.ledger.add("waiting", ran.waited_seconds)
            self.gate_lines = gate_faults.lines(ran.results)
            red = [result for result in ran.results if not result.passed]
            self.red_gates = [gate.log for gate in red]
            broken = gate_faults.broken(red)
            if broken is None:
                break
            if text := await self.block(BlockedReason.GATES_BROKEN, broken):
                # The operator thinks that the agent can do something about it.
                return Todo("fixer", "gate_red", f"{broken}\n{text}", [gate.log for gate in red])
        if ran.passed:
            self.last_fault = ""
            return None
        return await self._mend(red)

    async def _mend(self, red: list[GateResult]) -> Todo:
        """With what is known of such failures; the same class twice in a row goes to the next fallback (B9, B12)."""
        fault = gate_faults.fault(red)
        repeated = bool(fault) and fault == self.last_fault
        self.last_fault = fault
        todo = await self._again_or_block(
            Todo("fixer", "gate_red", gate_faults.told(red, repeated), [gate.log for gate in red])
        )
        if repeated and self.has_fallback("fixer"):
            await self.hand_over("fixer", f"{fault}, twice in a row")
        elif self.gate_failures == turns.MAX_FAILURES:
            await self.compact("fixer", f"the gates were red {self.gate_failures} times")
        return todo

    async def _again_or_block(self, todo: Todo) -> Todo:
        self.gate_failures += 1
        if self.gate_failures < self.limits.max_gate_failures:
            return todo
        text = await self.block(BlockedReason.GATES_RED, f"{self.gate_failures} times: {todo.detail}")
        self.gate_failures = 0
        return replace(todo, detail="\n".join(filter(None, [todo.detail, text])))

    async def _review(self) -> Todo | None:
        """A chain of reviewers: the first that gives a verdict on this very commit decides."""
        ready, found = self.ready, self.found
        assert found is not None
        if not ready.settings.reviewers or self.approved_head == found.head or self.lands_tasks():
            return None
        self.enter(Stage.REVIEW)
        result, reviewer = await self._verdict(found.head)
        if result.verdict == "approved":
            self.approved_head, self.approved_by = found.head, [reviewer.label()]
            self.approvals += 1
            return None
        self.review_rounds += 1
        self.reviews.append(result.text)
        fix = Todo("fixer", "fix", evidence=list(self.reviews))
        if self.review_rounds % self.limits.max_review_rounds == 0:
            text = await self.block(
                BlockedReason.REVIEW_ROUNDS, f"changes asked for {self.review_rounds} times; last: {result.said[-500:]}"
            )
            fix = replace(fix, detail=text)
        return fix

    async def _verdict(self, commit: str) -> tuple[TurnResult, AgentSpec]:
        """The first explicit one of the chain.

        A reviewer who is limited for long is passed over while there is another; when nobody else is left it is waited
        for. One that gives no verdict, or is not logged in, is not asked again; one that fails is, twice more.
        """
        reviewers = self.ready.settings.reviewers
        counters, failures, said = turns.Counters(), [0] * len(reviewers), ""
        patience: float | None = self.limits.max_limit_wait_minutes * 60
        while True:
            wait: tuple[turns.Wait, AgentSpec] | None = None
            left = [place for place, failed in enumerate(failures) if failed < turns.MAX_FAILURES]
            for place in left:
                reviewer = reviewers[place]
                result = await self._judge(reviewer, commit, None if len(left) == 1 else patience)
                if result.end == "done" and result.verdict is not None:
                    return result, reviewer
                if result.end in ("limited", "credit"):
                    if wait is None:
                        counters, pause = turns.wait_for_limit(counters, result, workflow.random().random())
                        wait = pause, reviewer
                    continue
                said = f"{reviewer.label()}: {result.reason or 'ended without a verdict'}"
                same_again = result.end in ("done", "login", "max_turns", "budget")
                failures[place] += turns.MAX_FAILURES if same_again else 1
            if wait is not None:
                patience = None
                if not wait[1].account:  # else its quota says when
                    await self.wait_for_limit(*wait)
            elif min(failures) >= turns.MAX_FAILURES:
                self.hear(await self.block(BlockedReason.NO_VERDICT, said))
                failures = [0] * len(reviewers)

    async def _judge(self, reviewer: AgentSpec, commit: str, patience: float | None) -> TurnResult:
        """One reviewer's turn; one that was stopped at its turns or its share of the money goes on in its session."""
        todo = Todo("reviewer", "review", evidence=self.reviews[-1:])
        result = await self.turn(todo, reviewer, commit, patience)
        resumes = 0
        while result.end in ("budget", "max_turns") and result.session and resumes < self.limits.max_working_resumes:
            resumes += 1
            result = await self.turn(Todo("reviewer", "review_on"), reviewer, commit, None, result.session)
        return result

    async def _land(self) -> Todo | None:
        """Through the merge queue. What it sends back is mended out here, so that nobody waits for it."""
        found = self.found
        assert found is not None
        if feedback := await self.landing_decision(found.head):
            return Todo("executor", "continue", feedback)
        await self._between_stages()
        if todo := self._rewound():
            return todo
        answer = await self._merge(found)
        match answer.kind:
            case "landed":
                self.landed = answer
                return None
            case "noop":
                raise End("no-changes", "the target has all of it already")
            case "withdrawn" if self._leaves_queue():
                return None
            case "withdrawn":
                raise End(self.stop_as, answer.reason or f"{self.stop_as} by an operator")
            case "failed":
                self.hear(await self.block(BlockedReason.INFRASTRUCTURE, answer.reason))
                return None
            case "policy" | "push_rejected" | "head_moved" if not _red(answer):
                reason = BlockedReason.PUSH_REJECTED if answer.kind == "push_rejected" else BlockedReason.POLICY
                self.hear(await self.block(reason, explain_answer(answer)))
                return None
            case "gate_red" | "gate_infra" if broken := gate_faults.broken(_red(answer)):
                self.hear(await self.block(BlockedReason.GATES_BROKEN, broken))
                return None
            case "gate_infra":
                self.hear(await self.block(BlockedReason.INFRASTRUCTURE, answer.reason))
                return None
        self.merge_attempts += 1
        text = ""
        if self.merge_attempts % self.limits.max_merge_attempts == 0:
            text = await self.block(BlockedReason.MERGE_ATTEMPTS, explain_answer(answer))
        # Also where only the gates are red: they are red on the merge, so the agent must have it before its eyes.
        todo = await self._update_branch(text)
        if todo is None and answer.kind in ("gate_red", "policy"):
            red = _red(answer)
            told = "merged with the target's present state: " + gate_faults.told(red, repeated=False)
            return Todo("fixer", "gate_red", "\n".join(filter(None, [told, text])), [gate.log for gate in red])
        return todo

    async def _update_branch(self, text: str) -> Todo | None:
        """Conflict, or ff-only and the target moved: bring the branch up to date, with a resolver where need be."""
        self.enter(Stage.RESOLVE)
        ready, found = self.ready, self.found
        assert found is not None
        given = UpdateBranchInput(
            ref=ready.ref,
            strategy=ready.settings.delivery.strategy,
            message=f"Merge {ready.ref.target.removeprefix('refs/heads/')} into the task's branch",
        )
        updated = await self.git(WorksiteActivities.update_branch, given, "bring the branch up to date")
        if updated.clean:
            if self.approved_head == found.head:
                self.approved_head = updated.head  # nobody wrote a line: the approval stands
            return None
        files = ", ".join(updated.files[:20])
        return Todo("resolver", "resolve", "\n".join(filter(None, [files, text])), [updated.report])

    async def _merge(self, found: Collected) -> MergeAnswer:
        ready, settings = self.ready, self.ready.settings
        self.enter(Stage.QUEUE, "its turn in the merge queue")
        gates = [] if self.lands_tasks() else settings.gates
        submission = SubmitInput(
            ref=ready.ref,
            head=found.head,
            strategy=settings.delivery.strategy,
            title=self.title,
            agent=self.agent("executor").label(),
            reviewers=self.approved_by if self.approved_head == found.head else [],
            gates=gates,
            host=ready.host,
            date=int(workflow.time()),
            submission=f"{workflow.info().run_id}/{workflow.time():.3f}",
            checked_on=found.base if gates else "",
            overlaps=len(found.overlaps),
            after=settings.delivery.after,
        )
        started = workflow.time()
        while True:
            # Once it may be in the queue it must be known here, so that it can be taken out again.
            self.priority_changed = False
            priority = settings.delivery.priority if self.priority is None else self.priority
            given = submission.model_copy(update={"priority": priority})
            sent, cancelled = await self.whole(MergeActivities.submit, given, "submit to the merge queue")
            self.ops = [*dict.fromkeys([*self.ops, sent.op])]
            if sent.refused and sent.op not in self.answers:
                if cancelled:
                    raise asyncio.CancelledError
                self.stop_if_wanted()
                return refused(sent)
            if not cancelled:
                cancelled = await self._heard(sent, self._leaves_queue)
            if not cancelled and self._leaves_queue():
                cancelled = await self._taken_back(sent)
            if cancelled or (self.abandoned and sent.op not in self.answers):
                await self._withdraw(sent)
            if sent.op in self.answers:
                self.ledger.add("queue", workflow.time() - started)
                answer = self.answers.pop(sent.op)
                if cancelled and answer.kind != "landed":
                    raise asyncio.CancelledError
                return answer

    def _leaves_queue(self) -> bool:
        return self.rewind_leaves_queue and self.rewind_to is not None

    async def _taken_back(self, sent: Submitted) -> bool:
        """What an operator wants undone does not land meanwhile. True: the task was cancelled.

        The queue has the last word, however long a landing takes: one that says nothing is asked anew.
        """
        cancelled = False
        if sent.op not in self.answers:
            self.enter(Stage.QUEUE, "the merge queue to let go of the candidate, for the rewind")
            await self.tell(sent.queue, "withdraw", sent.op)
            cancelled = await self._heard(sent)
        if sent.op in self.answers and self.answers[sent.op].kind == "landed":
            self.problem(f"no rewind to turn {self.rewind_to}: the work had landed before it could be taken back")
        return cancelled

    async def _heard(self, sent: Submitted, otherwise: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the queue's answer, not for ever. True: the task was cancelled."""
        with contextlib.suppress(TimeoutError):
            try:
                while True:
                    if self.priority_changed and self.priority is not None:
                        self.priority_changed = False
                        await self.tell(sent.queue, "set_priority", Priority(task=sent.op, priority=self.priority))
                    await workflow.wait_condition(
                        lambda: sent.op in self.answers or self.abandoned or otherwise() or self.priority_changed,
                        timeout=RESUBMIT_AFTER,
                        timeout_summary="waits for the merge queue",
                    )
                    if not self.priority_changed or self.abandoned:
                        return False
            except asyncio.CancelledError:
                return True
        return False

    async def _withdraw(self, sent: Submitted) -> None:
        """Take the candidate back. If it landed in the meantime, then it landed, and is reported so."""
        await self.tell(sent.queue, "withdraw", sent.op)
        try:
            await workflow.wait_condition(lambda: sent.op in self.answers, timeout=timedelta(minutes=1))
        except TimeoutError:
            self.answers[sent.op] = MergeAnswer(op=sent.op, kind="withdrawn")

    async def _settle(self, end: End) -> TaskResult:
        """Save what did not land, remove the worktree, say how it ended. Runs to its end whatever is signalled."""
        self.enter(Stage.SETTLE)
        self.abandoned = False
        merged = self.landed is not None
        outcome: Outcome = "merged" if merged else end.outcome
        reason, salvage_ref = end.reason, None
        if self.prepared is not None:
            head = self.found.head if merged and self.found else None
            turn = self.cut_off
            folder = f"{turn.turn:03d}-{turn.role}" if turn else ""
            given = SettleInput(ref=self.prepared.ref, outcome=outcome, landed_head=head, ops=self.ops, cut_off=folder)
            given = given.model_copy(update=self.done_cards())
            summary = "save what did not land, remove the worktree"
            try:
                settled, _ = await self.whole(WorksiteActivities.settle, given, summary)
                salvage_ref = settled.salvage_ref
                if turn is not None:
                    used = TurnResult(end="failed", reason="cut off", usage=settled.usage)
                    self.ledger.record(turn.turn, turn.role, turn.agent, used, 1, workflow.time())
            except End as trouble:  # the worktree stays; the worker's housekeeping saves and removes it
                reason = "; ".join(filter(None, [reason, f"not settled: {trouble.reason}"]))
        with contextlib.suppress(asyncio.CancelledError):
            await workflow.wait_condition(workflow.all_handlers_finished)
        self.result = self.make_result(outcome, reason, salvage_ref)
        self.enter(Stage.ENDED)
        self.board.show()
        await self.cycle_ends(self.result)
        await self.notices_sent()
        if outcome == "failed":
            raise failure(self.result)
        return self.result

    # --- from the merge queue ------------------------------------------------------------------------

    @workflow.signal(description="from the merge queue: how a candidate ended")
    def merge_answer(self, answer: MergeAnswer) -> None:
        self.answers[answer.op] = answer

    @workflow.signal(description="from the merge queue: why a candidate waits")
    def queue_note(self, note: QueueNote) -> None:
        if self.stage is Stage.QUEUE:
            self.waiting_for = note.text
            self.show()
            if note.wants_leave:
                self.notify_leave(note.op, note.text)


def _red(answer: MergeAnswer) -> list[GateResult]:
    return [gate for gate in answer.gates if not gate.passed]
