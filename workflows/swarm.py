"""A swarm: a board of tasks, and workers of several kinds that do them side by side, until the spec is met.

The board is this workflow's state, so a claim is atomic: it handles one message at a time. Each cycle of a worker is a
`TaskWorkflow` of its own, a child that outlives the swarm where it must. What a cycle says comes by signal; what it
cannot say any more, because it was terminated, is found out by looking. Rules are in `policy.board` and
`policy.members`.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError

with workflow.unsafe.imports_passed_through():
    from activities.settings import INVALID_TASK
    from activities.swarm.contracts import (
        AccountSeen,
        FinishInput,
        LookInput,
        MirrorInput,
        OpenSwarmInput,
        TakeInInput,
    )
    from activities.swarm.settings import WorkerSpec
    from activities.swarm.swarm import SwarmActivities
    from workflows import options
    from workflows.contracts import TaskResult
    from workflows.policy import board as boards
    from workflows.policy import members as policy
    from workflows.swarm_contracts import Member, SwarmResult, SwarmStage, SwarmStart, SwarmState, SwarmStatus
    from workflows.swarm_cycles import PLANNER, SwarmCycles
    from workflows.swarm_story import swarm_story

LOOK_EVERY = timedelta(minutes=5)
"""At the target, for files of tasks; and after cycles that nobody tells about."""
MIRROR_EVERY = timedelta(minutes=1)
TRY_AGAIN = timedelta(seconds=30)
MAX_EVENTS = 2_500
"""Of one run: a worker that takes a swarm over goes through all of them again."""
MAX_RUN = timedelta(days=1)
"""Then it continues as new, with the code of then."""
ENDING = timedelta(minutes=15)
"""For cycles to end after a swarm was cancelled."""
CARDS_AT_ONCE = 20
SHOWN_TASKS = 60


@workflow.defn
class SwarmWorkflow(SwarmCycles):
    def __init__(self) -> None:
        super().__init__()
        self.given: SwarmStart | None = None
        self.looked_at = 0.0
        self.mirrored_at = self.try_at = 0.0
        self.mirroring: asyncio.Task[None] | None = None
        self.accounts: dict[str, AccountSeen] = {}
        self.room = ""
        self.waiting_for = ""

    @workflow.run
    async def run(self, given: SwarmStart) -> SwarmResult:
        self.given = given
        try:
            await self._open(given)
            while not (reason := await self._step()):
                if self._is_long() and self._is_quiet():
                    await workflow.wait_condition(workflow.all_handlers_finished)
                    if self._is_quiet():
                        workflow.continue_as_new(given.model_copy(update={"state": self._carried()}))
                    continue
                await self._something_happens()
        except asyncio.CancelledError:
            reason = "cancelled by an operator"
            if self.state is None:
                raise
            await self._end_cycles()
        return await self._finish(reason)

    async def _open(self, given: SwarmStart) -> None:
        if (state := given.state) is not None:
            self.state, self.board, self.problems = state, state.board, state.problems
            self.members = {member.name: member for member in state.members}
            self.mirror_due = state.mirror_due
            return
        info = workflow.info()
        fields = given.model_dump(mode="json", exclude_unset=True)
        wanted = OpenSwarmInput(swarm_id=info.workflow_id, run_id=info.first_execution_run_id, given=fields)
        while True:
            try:
                opened = await workflow.execute_activity_method(
                    SwarmActivities.open_swarm,
                    wanted,
                    summary="check the input, make the board",
                    **options.prepare_options(info.task_queue),
                )
                break
            except ActivityError as error:
                if isinstance(error.cause, ApplicationError) and error.cause.type == INVALID_TASK:
                    raise error.cause from None
                self.problem(f"not opened yet: {options.retried(error)}")
                await workflow.sleep(TRY_AGAIN)
        self.state = SwarmState(opened=opened, started=workflow.time())
        self.muster()

    # --- the loop --------------------------------------------------------------------------------------

    async def _step(self) -> str:
        """Do what is due; why the swarm is over, or nothing."""
        self.woken = False
        await self.hear()
        await self._take_in()
        self._note_plan()
        await self._find_out()
        self._mirror()
        if reason := self._over():
            return reason
        if not self._is_long():
            await self._dispatch()
        self._show()
        return ""

    def _is_long(self) -> bool:
        """Nothing is begun then, so that what is under way can be waited for."""
        info = workflow.info()
        long = info.is_continue_as_new_suggested() or info.get_current_history_length() > MAX_EVENTS
        return long or workflow.now() - info.start_time > MAX_RUN

    def _is_quiet(self) -> bool:
        unheard = self.claims or self.notes or self.reports or self.incoming or self.closed
        return not unheard and self.mirroring is None

    def _carried(self) -> SwarmState:
        return self.s.model_copy(
            update={
                "board": self.board,
                "members": list(self.members.values()),
                "problems": self.problems,
                "mirror_due": self.mirror_due,
            }
        )

    async def _something_happens(self) -> None:
        """A message, the end of a cycle, or the next time that somebody waits for."""
        now = workflow.time()
        times = [member.until for member in self.members.values() if member.until is not None and not member.cycle]
        times += [
            member.idle_since + kind.max_wait_for_tasks
            for member in self.members.values()
            if member.state == "waiting" and member.idle_since is not None
            if isinstance(kind := self.kind(member), WorkerSpec)
        ]
        times += [self.s.took_in_at + LOOK_EVERY.total_seconds(), self.try_at]
        if self.mirror_due and self.settings.mirror and self.mirroring is None:
            times.append(self.mirrored_at + MIRROR_EVERY.total_seconds())
        patience = max(min((time for time in times if time > now), default=now + 60) - now, 0.05)
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self.woken or bool(self.closed),
                timeout=timedelta(seconds=patience),
                timeout_summary=self.waiting_for[:200] or "looks again",
            )

    # --- what comes from outside -----------------------------------------------------------------------

    async def _take_in(self) -> None:
        """Cards that were sent, and what is new on the target."""
        now = workflow.time()
        due = self.take_in_due or now - self.s.took_in_at >= LOOK_EVERY.total_seconds()
        while (due or self.incoming) and now >= self.try_at:
            cards = self.incoming[:CARDS_AT_ONCE]
            given = TakeInInput(ref=self.opened.ref, upto=self.s.upto, cards=cards, read_target=due)
            try:
                found = await workflow.execute_activity_method(
                    SwarmActivities.take_in,
                    given,
                    summary=f"take tasks in: {len(cards)} sent" + (", and the target's" if due else ""),
                    **self._here(),
                )
            except ActivityError as error:
                self.problem(f"tasks are not taken in: {options.retried(error)}")
                self.try_at = workflow.time() + TRY_AGAIN.total_seconds()
                return
            self.take_in_due = due = False
            self.board = boards.added(self.board, found.rows, now)
            self.mirror_due = self.mirror_due or bool(found.rows)
            self.put(upto=found.upto, took_in_at=now)
            self.remember_refused(found.refused)
            self.incoming = self.incoming[len(cards) :]
            if found.more:
                due = True

    def _here(self) -> options.Options:
        return options.queue_options(workflow.info().task_queue, self.opened.host)

    async def _find_out(self) -> None:
        """How cycles ended that cannot say it any more."""
        now = workflow.time()
        going = {member.cycle for member in self.members.values() if member.cycle} | set(self.s.blocked_cycles)
        silent = self.closed & going
        self.closed &= silent
        if now - self.looked_at >= LOOK_EVERY.total_seconds():
            silent |= going - self.watched
            self.looked_at = now
        if silent:
            await self._look([], sorted(silent))

    async def _look(self, accounts: list[str], cycles: list[str]) -> None:
        given = LookInput(ref=self.opened.ref, accounts=accounts, cycles=cycles)
        try:
            looked = await workflow.execute_activity_method(
                SwarmActivities.look, given, summary="look at accounts, disk, silent cycles", **self._here()
            )
        except ActivityError as error:
            self.problem(f"cannot look: {options.retried(error)}")
            self.closed.difference_update(cycles)  # in a while again
            return
        self.accounts.update(looked.accounts)
        self.room = looked.room
        for end in looked.ended:
            result = TaskResult.model_validate(end.result) if end.result else None
            if result is None:
                result = TaskResult(outcome="failed", reason=end.reason or end.outcome)
            self.settle(end.cycle, end.outcome, result, end.sha)
        self.closed.difference_update(cycles)

    # --- the mirror ------------------------------------------------------------------------------------

    def _mirror(self) -> None:
        """Beside everything else: it goes through the merge queue, and may wait there."""
        if self.mirroring is not None and self.mirroring.done():
            self.mirroring = None
        waited = workflow.time() - self.mirrored_at >= MIRROR_EVERY.total_seconds()
        if self.settings.mirror and self.mirror_due and self.mirroring is None and waited and not self._is_long():
            self.mirrored_at, self.mirror_due = workflow.time(), False
            self.mirroring = asyncio.create_task(self._write_mirror())

    async def _write_mirror(self) -> None:
        self.put(mirrored=self.s.mirrored + 1)
        places = {
            name: "pending" if item.place == "blocked" and not item.holder else
            "current" if item.place == "blocked" else item.place
            for name, item in self.board.items.items()
        }  # fmt: skip
        given = MirrorInput(
            ref=self.opened.ref,
            places=places,
            holders={name: item.worker for name, item in self.board.items.items() if item.holder},
            done_by={name: item.worker for name, item in self.board.items.items() if item.place == "complete"},
            number=self.s.mirrored,
        )
        try:
            mirrored = await workflow.execute_activity_method(
                SwarmActivities.mirror, given, summary="write the board to tasks/", **self._here()
            )
            if mirrored.branch:
                await workflow.execute_child_workflow(
                    "LandWorkflow",
                    {
                        "repo": self.opened.ref.repo,
                        "branch": mirrored.branch,
                        "target": self.opened.ref.target.removeprefix("refs/heads/"),
                        "title": f"Tasks of {self.opened.ref.swarm_id}",
                        "gates": [],
                    },
                    id=f"{workflow.info().workflow_id}-board-{self.s.mirrored}",
                )
        except (ActivityError, ChildWorkflowError) as error:
            self.problem(f"the board is not in tasks/: {options.retried(error)}")
            self.mirror_due = True
        self.wake()

    # --- who does what ---------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        """The best tasks to those who are free: dependencies, priority, overlap are the board's; accounts, slots and
        the disk are looked at here."""
        self.muster()
        free = [member for member in self.members.values() if self._is_free(member)]
        if not free or self.s.paused or self.s.stopping:
            return
        if why := self._too_dear():
            for member in free:
                self.change(member, state="waiting", why=why)
            return
        wanting = self._wanting(free)
        if wanting:
            accounts = sorted({member.account for member, _, _ in wanting if member.account})
            await self._look(accounts, [])
            # While it looked something may have been claimed, or have ended: what is begun is decided now.
            wanting = self._wanting([member for member in self.members.values() if self._is_free(member)])
        begun = []
        taken: dict[str, int] = {}
        for member, task, plans in wanting:
            if why := self._not_now(member, taken):
                self._limited(member, why)
                continue
            taken[member.account] = taken.get(member.account, 0) + 1
            begun.append(self.begin(member, task, plans))
        await asyncio.gather(*begun)
        self._idle()

    def _is_free(self, member: Member) -> bool:
        due = member.until is None or member.until <= workflow.time()
        return not member.cycle and member.state != "stopped" and due and not self.too_many(member)

    def _too_dear(self) -> str:
        cap, spent = self.settings.max_cost_usd, self._spent()
        if cap is None or spent < cap:
            return ""
        return f"${spent:.2f} of ${cap:.2f} are spent: nothing is begun any more"

    def _spent(self) -> float:
        return policy.total([*self.members.values(), *self.s.retired]).cost_usd

    def _wanting(self, free: list[Member]) -> list[tuple[Member, str | None, bool]]:
        """Who would begin what: a task that is claimed for it, a choice of its own (None), or a plan."""
        ready = self.ready()
        # Each agent that chooses for itself, and has not yet, will take one of them.
        choosing = sum(
            1 for member in self.members.values()
            if member.cycle and not member.holds and not member.plans and self._chooses(member)
        )  # fmt: skip
        ready = ready[: max(len(ready) - choosing, 0)]
        found: list[tuple[Member, str | None, bool]] = []
        planning = any(member.plans for member in self.members.values())
        for member in sorted(free, key=lambda each: each.kind != PLANNER):
            if member.kind == PLANNER:
                if not planning and self._should_plan():
                    planning = True
                    found.append((member, None, True))
            elif ready:
                best = ready.pop(0)
                found.append((member, None if self._chooses(member) else best, False))
            elif self._may_plan(member) and not planning and self._should_plan():
                planning = True
                found.append((member, None, True))
        return found

    def _chooses(self, member: Member) -> bool:
        kind = self.kind(member)
        return isinstance(kind, WorkerSpec) and kind.claims

    def _may_plan(self, member: Member) -> bool:
        """Where there is a planner, workers leave it to that."""
        kind = self.kind(member)
        return self.settings.planner is None and isinstance(kind, WorkerSpec) and kind.can_plan

    def _should_plan(self) -> bool:
        """There is a spec, and nothing left to do for those who are free. Who had nothing to add is not asked again
        before everything is done."""
        counts = boards.counts(self.board)
        if not self.settings.spec or self.s.spec_met or self.s.plan_over or counts["pending"] >= self.max_pending:
            return False
        if counts["pending"] + counts["current"] == 0:
            return True
        return not self.s.plan_dry and not self.ready() and self.s.completed_since_plan > 0

    def _not_now(self, member: Member, taken: dict[str, int]) -> str:
        if self.room:
            return self.room
        seen = self.accounts.get(member.account)
        if seen is None:
            return ""
        if seen.parked_until is not None and seen.parked_until > workflow.time():
            return f"{member.account}: {seen.why or 'limited'}"
        if seen.free is not None and seen.free <= taken.get(member.account, 0):
            return f"{member.account}: no slot is free"
        return ""

    def _limited(self, member: Member, why: str) -> None:
        seen = self.accounts.get(member.account)
        until = workflow.time() + 30
        if seen is not None and seen.parked_until is not None and not self.room:
            until = max(seen.parked_until, until)
        self.change(member, state="limited", why=why[:200], until=until)

    def _idle(self) -> None:
        """Whoever is free still has nothing to do, and waits for what others make of it."""
        counts = boards.counts(self.board)
        waits_for_person = bool(self.s.blocked_cycles)
        busy = any(member.cycle for member in self.members.values())
        for member in [each for each in self.members.values() if self._is_free(each)]:
            if member.kind == PLANNER:
                self.change(member, state="waiting", why="plans when there is little left to do")
                continue
            why = "waits for tasks" if not counts["pending"] else "what is pending waits for other tasks"
            kind = self.kind(member)
            self.members[member.name] = policy.waits(member, kind, why, workflow.time(), busy or waits_for_person)

    def _note_plan(self) -> None:
        """What the last plan came to, once its tasks are on the board."""
        if self.s.plan_over and not self.take_in_due and not self.incoming:
            counts = boards.counts(self.board)
            dry = len(self.board.items) == self.s.planned_on
            nothing_open = counts["pending"] + counts["current"] == 0
            self.put(plan_over=False, plan_dry=dry, spec_met=self.s.spec_met or (dry and nothing_open))

    # --- the end ---------------------------------------------------------------------------------------

    def _over(self) -> str:
        if any(member.cycle for member in self.members.values()) or self.incoming or self.take_in_due:
            return ""
        counts = boards.counts(self.board)
        if self.s.stopping:
            return "stopped by an operator"
        if self.s.paused or self.s.blocked_cycles:
            return ""
        if why := self._too_dear():
            return why
        workers = [member for member in self.members.values() if member.kind != PLANNER]
        stopped = bool(workers) and all(member.state == "stopped" for member in self.members.values())
        if counts["pending"] + counts["current"] == 0 and self.board.items and not self._plans_again():
            if counts["blocked"]:
                return f"{counts['blocked']} tasks are blocked, all others are complete"
            return "the spec is met" if self.s.spec_met else "all tasks are complete"
        if self.s.spec_met and not self.board.items:
            return "the spec is met"
        if stopped:
            return "all workers have stopped"
        if counts["pending"] == len(boards.unreachable(self.board)) > 0 and not self._plans_again():
            return "what is left waits for tasks that are not complete"
        return ""

    def _plans_again(self) -> bool:
        planners = [
            member for member in self.members.values()
            if member.state != "stopped" and (member.kind == PLANNER or self._may_plan(member))
        ]  # fmt: skip
        return bool(planners) and bool(self.settings.spec) and not self.s.spec_met

    async def _end_cycles(self) -> None:
        """The swarm was cancelled: so are its cycles, whose work is saved."""
        self.put(stopping=True)
        await self.tell_cycles("cancel", parked=True)
        deadline = workflow.time() + ENDING.total_seconds()
        while workflow.time() < deadline:
            self.woken = False
            await self.hear()
            await self._find_out()
            if not self.s.blocked_cycles and not any(member.cycle for member in self.members.values()):
                return
            await self._something_happens()

    async def _finish(self, reason: str) -> SwarmResult:
        self.over, self.ended = reason, workflow.time()
        left = {name: item.place for name, item in self.board.items.items() if item.place != "complete"}
        if self.mirroring is not None:
            await self.mirroring
        if self.settings.mirror and self.mirror_due:
            await self._write_mirror()
        try:
            await workflow.execute_activity_method(
                SwarmActivities.finish,
                FinishInput(ref=self.opened.ref, board={name: str(place) for name, place in left.items()}),
                summary="keep the last board, let claims go",
                **self._here(),
            )
        except ActivityError as error:
            self.problem(f"not finished: {options.retried(error)}")
        self._show()
        await workflow.wait_condition(workflow.all_handlers_finished)
        members = [*self.members.values(), *self.s.retired]
        total = policy.total(members)
        return SwarmResult(
            reason=reason,
            counts=boards.counts(self.board),
            members=members,
            open=self.lines([name for name in self.ordered() if name in left][:200]),
            cost_usd=total.cost_usd,
            tokens=total.tokens,
            seconds=total.seconds,
            wall_seconds=round(self.ended - self.s.started, 3),
        )

    # --- what operators see ----------------------------------------------------------------------------

    def _stage(self) -> SwarmStage:
        if self.ended is not None:
            return "ended"
        if self.state is None:
            return "opening"
        if self.s.stopping:
            return "stopping"
        if self.s.paused:
            return "paused"
        busy = any(member.cycle for member in self.members.values())
        return "waiting for you" if self.s.blocked_cycles and not busy else "running"

    def _show(self) -> None:
        status = self.status_now()
        self.waiting_for = status.waiting_for
        shown = [name for name in self.ordered() if self.board.items[name].place != "complete"][:SHOWN_TASKS]
        workflow.set_current_details(swarm_story(status, [self._line(name, "") for name in shown]))

    def status_now(self) -> SwarmStatus:
        info, stage = workflow.info(), self._stage()
        if self.state is None:
            repo = self.given.repo if self.given else ""
            return SwarmStatus(swarm_id=info.workflow_id, repo=repo, stage=stage, problems=self.problems)
        parked = sorted(self.s.blocked_cycles)
        waiting, command = "", ""
        if parked:
            waiting = f"you: {len(parked)} blocked, {', '.join(parked[:5])}"
            command = f"starter.py status {parked[0]}"
        elif stage == "paused":
            waiting, command = "you: it is paused", f"starter.py resume {info.workflow_id}"
        elif not any(worker.count for worker in self.settings.workers) and self.ended is None:
            kind = self.settings.workers[0].name if self.settings.workers else "worker-1"
            waiting, command = "you: it has no workers", f"starter.py workers {info.workflow_id} --count {kind}=1"
        return SwarmStatus(
            swarm_id=info.workflow_id,
            repo=self.opened.ref.repo,
            target=self.opened.ref.target.removeprefix("refs/heads/"),
            stage=stage,
            waiting_for=waiting,
            next_command=command,
            counts=boards.counts(self.board),
            members=list(self.members.values()),
            cost_usd=self._spent(),
            started=self.s.started,
            ended=self.ended,
            notes=self.opened.notes,
            problems=self.problems,
            reason=self.over,
        )
