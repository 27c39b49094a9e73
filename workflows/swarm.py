"""A swarm: a board of tasks, and workers of several kinds that do them side by side, until the spec is met.

The board is this workflow's state, so a claim is atomic: it handles one message at a time. Each cycle of a worker is a
`TaskWorkflow` of its own, a child that outlives the swarm where it must. What a cycle says comes by signal; what it
cannot say any more, because it was terminated, is found out by looking. Rules are in `policy.board` and
`policy.members`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import timedelta

from pydantic import ValidationError
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.settings import INVALID_TASK
    from activities.swarm.contracts import (
        Card,
        FinishInput,
        LookInput,
        OpenSwarmInput,
        TakeInInput,
    )
    from activities.swarm.settings import WorkerSpec
    from activities.swarm.swarm import SwarmActivities
    from workflows import options
    from workflows.contracts import TaskResult
    from workflows.policy import admission
    from workflows.policy import board as boards
    from workflows.policy import members as policy
    from workflows.policy.admission import Outside
    from workflows.swarm_contracts import Member, SwarmResult, SwarmStage, SwarmStart, SwarmState, SwarmStatus
    from workflows.swarm_cycles import PLANNER
    from workflows.swarm_mirror import SwarmMirror
    from workflows.swarm_story import swarm_story
    from workflows.swarm_waits import what_to_do

LOOK_EVERY = timedelta(minutes=5)
"""At the target, for files of tasks; and after cycles that nobody tells about."""
TRY_AGAIN = timedelta(seconds=30)
MAX_EVENTS = 2_500
"""Of one run: a worker that takes a swarm over goes through all of them again."""
MAX_RUN = timedelta(days=1)
"""Then it continues as new, with the code of then."""
ENDING = timedelta(minutes=15)
"""For cycles to end after a swarm was cancelled."""
CARDS_AT_ONCE = 20
CARDS_BYTES = 48_000
"""Of their JSON, but for one that is larger by itself."""
SHOWN_TASKS = 60


@workflow.defn
class SwarmWorkflow(SwarmMirror):
    def __init__(self) -> None:
        super().__init__()
        self.given: SwarmStart | None = None
        self.looked_at = 0.0
        self.failures = 0
        """In a row, to take tasks in."""
        self.outside = Outside("")
        self.in_flight: dict[str, float] = {}
        """Dollars that cycles had cost when they were looked at, where there is a cap."""
        self.undecided: set[str] = set()
        """Cycles that were ended with work in the merge queue, which has yet to let go of it."""
        self.decide_at = 0.0
        self.waiting_for = ""
        self.looked_last = False
        """At the target, since there is nothing left to do."""

    @workflow.run
    async def run(self, given: SwarmStart) -> SwarmResult:
        self.given = given
        try:
            await self._open(given)
            while not (reason := await self._step()):
                if self._is_long() and self._is_quiet():
                    # Not only for the handlers: one of them may wait for what is to be heard now.
                    await workflow.wait_condition(lambda: workflow.all_handlers_finished() or not self._is_quiet())
                    if self._is_quiet():
                        workflow.continue_as_new(given.model_copy(update={"state": self._carried()}))
                    continue
                await self._something_happens()
        except asyncio.CancelledError:
            reason = "cancelled by an operator"
            if self.state is None:
                raise
            await self._end_cycles()
        finishing = asyncio.create_task(self._finish(reason))
        while not finishing.done():
            with contextlib.suppress(asyncio.CancelledError):  # too late: it is over, and lets its claims go
                await asyncio.shield(finishing)
        return finishing.result()

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
                _was_it_us(error)
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
        if reason := self._over():
            if self.looked_last or self.s.stopping:
                return reason
            self.looked_last = self.take_in_due = self.woken = True  # a file of tasks may have come meanwhile
            return ""
        self.looked_last = False
        if not self._is_long():
            await self._dispatch()
            self.mirror()
        self._show()
        return ""

    def _is_long(self) -> bool:
        """Nothing is begun then, so that what is under way can be waited for."""
        info = workflow.info()
        long = info.is_continue_as_new_suggested() or info.get_current_history_length() > MAX_EVENTS
        return long or workflow.now() - info.start_time > MAX_RUN

    def _is_quiet(self) -> bool:
        unheard = self.claims or self.notes or self.reports or self.incoming or self.closed
        return not unheard

    def _carried(self) -> SwarmState:
        return self.s.model_copy(
            update={
                "board": self.board,
                "members": list(self.members.values()),
                "problems": self.problems,
                # What still waits in the merge queue lands by itself, or is sent back.
                "mirror_due": self.mirror_due or self.mirroring is not None,
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
        times += [self.decide_at] if self.undecided else []
        if (mirror_at := self.mirror_at()) is not None:
            times.append(mirror_at)
        patience = max(min((time for time in times if time > now), default=now + 60.0) - now, 0.05)
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
            cards = self._next_cards()
            given = TakeInInput(ref=self.opened.ref, upto=self.s.upto, cards=cards, read_target=due)
            try:
                found = await workflow.execute_activity_method(
                    SwarmActivities.take_in,
                    given,
                    summary=f"take tasks in: {len(cards)} sent" + (", and the target's" if due else ""),
                    **self._here(),
                )
            except ActivityError as error:
                _was_it_us(error)
                self.problem(f"tasks are not taken in: {options.retried(error)}")
                self.failures += 1
                pause = min(TRY_AGAIN * 2 ** min(self.failures - 1, 10), LOOK_EVERY)
                self.try_at = workflow.time() + pause.total_seconds()
                return
            self.failures = 0
            self.take_in_due = due = False
            self.board = boards.added(self.board, found.rows, now)
            self.mirror_due = self.mirror_due or bool(found.rows)
            self.put(upto=found.upto, took_in_at=now)
            self.remember_refused(found.refused)
            self.incoming = self.incoming[len(cards) :]
            if found.more:
                due = True

    def _next_cards(self) -> list[Card]:
        size = 0
        for number, card in enumerate(self.incoming[:CARDS_AT_ONCE]):
            size += len(card.model_dump_json())
            if number and size > CARDS_BYTES:
                return self.incoming[:number]
        return self.incoming[:CARDS_AT_ONCE]

    def _here(self) -> options.Options:
        return options.queue_options(workflow.info().task_queue, self.opened.host)

    async def _find_out(self) -> None:
        """How cycles ended that cannot say it any more."""
        now, going = workflow.time(), self._going()
        self.closed &= going
        over = self.closed | (self.undecided if now >= self.decide_at else set())
        silent = over & going
        if now - self.looked_at >= LOOK_EVERY.total_seconds():
            silent |= going - self.watched
            self.looked_at = now
            self.look_again()
        if silent:
            await self._look([], sorted(silent))
        self.undecided = (self.undecided | over) & self._going()
        if over:
            self.decide_at = now + TRY_AGAIN.total_seconds()

    def _going(self) -> set[str]:
        return {member.cycle for member in self.members.values() if member.cycle} | set(self.s.blocked_cycles)

    async def _look(self, accounts: list[str], cycles: list[str]) -> None:
        young = workflow.time() - admission.STARTING
        begun = [member.cycle for member in self.members.values() if member.cycle and member.since > young]
        spending = cycles if self.settings.max_cost_usd is None else sorted(self._going())
        held = {cycle: tasks for cycle in cycles if (tasks := boards.held(self.board, cycle))}
        given = LookInput(
            ref=self.opened.ref, accounts=accounts, cycles=cycles, held=held, begun=begun, spending=spending
        )
        try:
            looked = await workflow.execute_activity_method(
                SwarmActivities.look, given, summary="look at accounts, disk, silent cycles", **self._here()
            )
        except ActivityError as error:
            _was_it_us(error)
            self.problem(f"cannot look: {options.retried(error)}")
            self.closed.difference_update(cycles)  # in a while again
            self.outside = Outside(self.opened.host)
            return
        mine = {member.account for member in self.members.values() if member.cycle}
        self.outside = Outside(self.opened.host, looked, mine)
        going = self._going()
        self.in_flight = {cycle: cost for cycle, cost in (self.in_flight | looked.spent).items() if cycle in going}
        for end in looked.ended:
            cost = self.in_flight.get(end.cycle, 0.0)
            result = TaskResult(outcome="failed", reason=end.reason or end.outcome, cost_usd=cost)
            if end.result:
                with contextlib.suppress(ValidationError):  # of another version: what is known of it is above
                    result = TaskResult.model_validate(end.result)
            self.settle(end.cycle, end.outcome, result, end.sha)
        self.closed.difference_update(cycles)

    # --- who does what ---------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        """The best tasks to those who are free: dependencies, priority, overlap are the board's; accounts, slots and
        the disk are looked at here."""
        self.muster()
        free = [member for member in self.members.values() if self._is_free(member)]
        if not free or self.s.paused or self.s.stopping:
            return
        if self._wait_for_money(free):
            return
        if self._wanting(free):
            await self._look(sorted({name for member in free for name in self._accounts(member) if name}), [])
            if self.s.paused or self.s.stopping or self._wait_for_money(free):
                return
            # While it looked something may have been claimed, or have ended: what is begun is decided now. Whoever has
            # become free meanwhile was not looked at.
            looked_at = {member.name for member in free}
            now_free = [member for member in self.members.values() if self._is_free(member)]
            free = [member for member in now_free if member.name in looked_at]
            self.woken = self.woken or len(now_free) > len(free)
        await asyncio.gather(*(self.begin(*one) for one in self._wanting(free, self._admits)))
        self._idle()

    def _is_free(self, member: Member) -> bool:
        due = member.until is None or member.until <= workflow.time()
        return not member.cycle and member.state != "stopped" and due and not self.too_many(member)

    def _wait_for_money(self, free: list[Member]) -> bool:
        """None of them begins, as all of it is spent; what runs goes on."""
        if why := self._too_dear():
            for member in free:
                if self.members.get(member.name) == member:  # else it has changed since they were found free
                    self.change(member, state="waiting", why=why)
        return bool(why)

    def _too_dear(self) -> str:
        cap, spent = self.settings.max_cost_usd, self._spent()
        if cap is None or spent < cap:
            return ""
        return f"${spent:.2f} of ${cap:.2f} are spent: nothing is begun any more"

    def _spent(self) -> float:
        """By cycles that are over, and by those that run, as far as they were looked at."""
        over = policy.total([*self.members.values(), *self.s.retired]).cost_usd
        going = self._going()
        return over + sum(cost for cycle, cost in self.in_flight.items() if cycle in going)

    def _wanting(
        self, free: list[Member], admits: Callable[[Member], bool] = lambda _: True
    ) -> list[tuple[Member, str | None, bool]]:
        """Who would begin what: a task that is claimed for it, a choice of its own (None), or a plan. What one who is
        not admitted would have begun is left to the next."""
        ready = self.ready()
        # Each agent that chooses for itself, and has not yet, will take one of them.
        ready = ready[: max(len(ready) - self.choosing(), 0)]
        found: list[tuple[Member, str | None, bool]] = []
        planning = any(member.plans for member in self.members.values())
        for member in sorted(free, key=lambda each: each.kind != PLANNER):
            if member.kind == PLANNER:
                if not planning and self._should_plan() and admits(member):
                    planning = True
                    found.append((member, None, True))
            elif ready:
                if admits(member):
                    best = ready.pop(0)
                    found.append((member, None if self.chooses(member) else best, False))
            elif self._may_plan(member) and not planning and self._should_plan() and admits(member):
                planning = True
                found.append((member, None, True))
        return found

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

    def _admits(self, member: Member) -> bool:
        """What it needs is there; else it waits for it."""
        limit = self.outside.admit(self._accounts(member), workflow.time())
        if limit is not None:
            self.change(member, state="limited", why=limit.why[:200], until=limit.until, idle_since=None)
        return limit is None

    def _accounts(self, member: Member) -> list[str]:
        """Of its agent, and of those that may take over from it."""
        kind = self.kind(member)
        agents = [kind.agent, *kind.fallbacks] if kind is not None else []
        return list(dict.fromkeys(agent.account or "" for agent in agents))

    def _idle(self) -> None:
        """Whoever is free still has nothing to do, and waits for what others make of it."""
        counts = boards.counts(self.board)
        waits_for_person = bool(self.s.blocked_cycles)
        # Who plans may have to wait for an account, or after an error; then there are tasks again.
        busy = any(member.cycle for member in self.members.values()) or self._plans_again()
        for member in [each for each in self.members.values() if self._is_free(each)]:
            if member.kind == PLANNER:
                self.change(member, state="waiting", why="plans when there is little left to do")
                continue
            why = "waits for tasks" if not counts["pending"] else "what is pending waits for other tasks"
            kind = self.kind(member)
            member = policy.waits(member, kind, why, workflow.time(), busy or waits_for_person)
            self.members[member.name] = member
            if member.state == "stopped":
                self.wake()  # perhaps it was the last one

    def _note_plan(self) -> None:
        """What the last plan came to, once its tasks are on the board."""
        if self.s.plan_over and not self.take_in_due and not self.incoming:
            counts = boards.counts(self.board)
            dry = len(self.board.items) == self.s.planned_on
            nothing_open = counts["pending"] + counts["current"] == 0
            self.put(plan_over=False, plan_dry=dry, spec_met=self.s.spec_met or (dry and nothing_open))

    # --- the end ---------------------------------------------------------------------------------------

    def _over(self) -> str:
        if any(member.cycle for member in self.members.values()):
            return ""
        if self.s.stopping:
            left = self.s.blocked_cycles if self.s.ends_now else self.s.going_again
            return "" if left else "stopped by an operator"
        if self.incoming or self.take_in_due:
            return ""
        counts = boards.counts(self.board)
        if self.s.paused or self.s.blocked_cycles:
            return ""
        workers = [member for member in self.members.values() if member.kind != PLANNER]
        stopped = bool(workers) and all(member.state == "stopped" for member in workers)
        if counts["pending"] + counts["current"] == 0 and self.board.items and not self._plans_again():
            if counts["blocked"]:
                one = counts["blocked"] == 1
                return f"{counts['blocked']} {'task is' if one else 'tasks are'} blocked, all others are complete"
            return "the spec is met" if self.s.spec_met else "all tasks are complete"
        if self.s.spec_met and not self.board.items:
            return "the spec is met"
        if why := self._too_dear():
            return why
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
        return bool(planners) and self._should_plan()

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
        for card in self.incoming:
            self.refused[card.id] = "the swarm has ended"
            self.problem(f"{card.id}: not taken in, the swarm has ended")
        self.incoming = []
        left = {name: item.place for name, item in self.board.items.items() if item.place != "complete"}
        await self.last_mirror()
        try:
            await workflow.execute_activity_method(
                SwarmActivities.finish,
                FinishInput(
                    ref=self.opened.ref,
                    board={name: str(place) for name, place in left.items()},
                    held=[name for name in left if self.board.items[name].holder],
                    lands_later=self.lands_later(),
                ),
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
        members = self.members.values()
        waits = self.s.waiting() or any(member.waits() for member in members)
        busy = self.s.going_again or any(member.cycle and not member.waits() for member in members)
        return "waiting for you" if waits and not busy else "running"

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
        waiting, command = "", ""
        if self.ended is None:
            waiting, command = what_to_do(
                info.workflow_id, self.s, self.members.values(), self.board, self._plans_again()
            )
        elif self.mirroring is not None and not self.mirroring.done():
            waiting = "the merge queue: the last board is to land"
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


def _was_it_us(error: ActivityError) -> None:
    """Raises CancelledError: the cancellation of an activity has hidden the swarm's own."""
    if is_cancelled_exception(error):
        raise asyncio.CancelledError from None
