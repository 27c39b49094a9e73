"""How a task takes a turn: the lease, the attempts, the budget; and how another session or another agent takes over."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.contracts import READING, Ask, CollectInput, Escape, OpenQuotaInput, TurnInput, TurnResult
    from activities.prepare import PrepareActivities
    from activities.settings import SETUP_FAILED, AgentSpec, Role
    from activities.turn import QUESTION_CHARACTERS, TurnActivities
    from activities.worksite import WorksiteActivities
    from workflows import options
    from workflows.contracts import Blocked, BlockedReason, LeaseNote, Stage
    from workflows.leases import Held, TooLong
    from workflows.policy import limits as budgets
    from workflows.policy import turns
    from workflows.steps import Anew, End, TaskSteps, Todo

MAX_ATTEMPTS = 20
"""Of one turn, whose worker was lost or was in trouble, before the task is blocked."""
MAX_ATTEMPT_PAUSE = 60.0
START_WITHIN = timedelta(minutes=5)
"""A turn that no worker has room for gives its slot of the account back, and asks again; twice as patient each time."""
MAX_START_WITHIN = timedelta(hours=1)
GOOD_ENDS = ("done", "max_turns", "budget", "timeout")
"""The agent has read what it was told."""
REWINDING = ("executor", "fixer", "resolver")
"""Roles whose turns may begin with an earlier worktree: they write in it."""
REMEMBERED_TURNS = 20
"""Whose final texts a summary is made of."""


def escaped(what: str, escape: Escape) -> str:
    """For the operator: what has changed, and what to do about it."""
    text = f"while {what} ran, {'; '.join(escape.changed)}"
    if escape.undone:
        text += f". Undone: {', '.join(escape.undone)}; what was there is in {escape.kept}"
    if rest := [name for name in escape.changed if name.split(" ")[0] not in escape.undone]:
        text += f". Look at it, and undo it by hand: {', '.join(name.split(' ')[0] for name in rest)}"
    return f"{text}. Was it you, or is all well again: continue"


_DOES: dict[Ask, str] = {
    "plan": "writes the plan",
    "revise_plan": "writes the plan anew",
    "start": "does the task",
    "resume": "goes on",
    "nudge": "is told to wrap up",
    "followup": "finishes what it said was left",
    "gate_red": "mends what is red",
    "review": "judges the work",
    "review_on": "goes on judging",
    "fix": "does what the reviewer asked for",
    "resolve": "resolves the conflict",
    "continue": "goes on after an operator's word",
    "answer": "goes on with the answer",
    "heard": "hears what was said meanwhile",
    "takeover": "takes over",
    "compact": "summarises the session",
    "claimed": "goes on with what it has claimed",
    "unclaimed": "is to claim a task first",
}


def turn_summary(what: str, agent: AgentSpec, ask: Ask, resumed: bool) -> str:
    """`executor turn 3, codex (gpt-5.5), resumed: mends what is red`."""
    return f"{what}, {agent.label()}{', resumed' if resumed else ''}: {_DOES[ask]}"


class TurnTaking(TaskSteps):
    async def turn(
        self,
        todo: Todo,
        agent: AgentSpec,
        commit: str | None = None,
        patience: float | None = None,
        session: str | None = None,
    ) -> TurnResult:
        """One turn, when the task is neither paused nor over its budget, and the agent's account has a slot.

        The session of whoever only reads is new, or `session`. `patience`: seconds to wait for the account; when it is
        known to take longer the result is `limited`, and no turn was taken.
        """
        only_reads = todo.role in READING
        name = self.session_name(todo.role)
        session = session if only_reads else self.sessions.get(name)
        self.turn_number += 1
        self.acting = todo.role
        self.progress = ""
        what = f"{todo.role} turn {self.turn_number}"
        summary = turn_summary(what, agent, todo.ask, resumed=bool(session))
        attempts, start_within = 0, START_WITHIN
        held: Held | TooLong | None = None
        while True:
            if held is None:
                held = await self._lease(agent, what, patience)
            if isinstance(held, TooLong):
                self.turn_number -= not attempts  # its folder is another turn's, unless it was begun
                return TurnResult(end="limited", reason=held.text, retry_after_seconds=held.seconds)
            attempts += 1
            now = todo
            if self.rewind_to is not None and todo.role in REWINDING:
                now = replace(todo, ask="continue", evidence=[])  # what it was about is gone
            given = self._turn_input(now, agent, session, commit, held)
            slots = options.agent_options(
                self.shared_queue, self.ready.host, agent, start_within if held.quotas else None
            )
            self.cut_off = given
            try:
                self.turning = True
                result = await self._once(TurnActivities.take_turn, given, slots, summary)
                break
            except Anew:  # the same turn, in its session, with what an operator has said
                if self.paused:
                    await self.give_back(held, None)
                    held = None
            except ActivityError as error:
                await self.give_back(held, None)
                held = None
                if options.never_started(error):  # no worker had room for it: others may use the account meanwhile
                    attempts, start_within = attempts - 1, min(2 * start_within, MAX_START_WITHIN)
                elif given.rewind is not None and (why := options.nothing_kept(error)):
                    self.rewind_fails(given.rewind, why)
                else:
                    with contextlib.suppress(Anew):
                        await self._try_again(attempts, error)
            except (Exception, asyncio.CancelledError):
                await self.give_back(held, None)
                raise
            finally:
                self.turning = False
        self.cut_off = None
        if given.rewind is not None and given.rewind == self.rewind_to:
            self.rewind_to = None
        await self.give_back(held, result)
        self.ledger.record(self.turn_number, todo.role, agent, result, attempts, workflow.time())
        return await self._came_to(result, given, what)

    async def _came_to(self, result: TurnResult, given: TurnInput, what: str) -> TurnResult:
        """What the turn leaves for those after it."""
        self.notify_budget(budgets.nearly_used(self.limits, self.ledger.usage, self.ledger.agent_seconds))
        self.said = result.said or self.said
        if result.session and given.role not in READING:
            self.sessions[self.session_name(given.role)] = result.session
        if given.role not in READING and result.text:
            self.final_texts = [*self.final_texts, result.text][-REMEMBERED_TURNS:]
        if result.end in GOOD_ENDS and given.role not in READING:
            told = [message.id for message in given.messages] if result.told is None else result.told
            self.mail.deliver(told, self.turn_number)
            self.mail.said(self.turn_number, result.said)
            result = self._with_question(result)
        if result.notes:
            self.meanwhile = [f"while {what} ran: {note}" for note in result.notes]
        self.show()
        if result.escape is not None:
            self.hear(await self.block(BlockedReason.ESCAPE, escaped(what, result.escape)))
        return result

    def _with_question(self, result: TurnResult) -> TurnResult:
        """What the agent asked by its tool outweighs how it ended its turn."""
        if self.asked:
            result = result.model_copy(update={"end": "done", "signal": "needs_input", "reason": self.asked})
            self.asked = ""
        elif result.signal == "needs_input":
            self.question = result.reason or result.said[-QUESTION_CHARACTERS:].strip()
        return result

    def interrupt(self) -> bool:
        turn = self.cut_off if self.running and self.turning else None
        runs = turn is not None and turn.role not in READING
        self.anew = self.anew or runs
        return runs

    def _turn_input(
        self,
        todo: Todo,
        agent: AgentSpec,
        session: str | None,
        commit: str | None,
        held: Held,
    ) -> TurnInput:
        # A new session knows nothing of what the one before was told.
        only_reads = todo.role in READING
        fixup = budgets.fixup_money(self.limits, todo.role, self.fixup_spent)
        caps = budgets.caps_left(self.limits, self.ledger.usage, self.ledger.agent_seconds, fixup, *held.caps_usd)
        if todo.role == "fixer":
            agent = agent.model_copy(update={"max_turns": min(agent.max_turns, self.limits.max_fixup_turns)})
        return TurnInput(
            ref=self.ready.ref,
            turn=self.turn_number,
            role=todo.role,
            agent=agent,
            ask=todo.ask,
            session=session,
            messages=[] if only_reads else self.mail.for_turn(session is None, self.turn_number),
            plan=self.plan_file,
            detail=todo.detail,
            evidence=todo.evidence,
            commit=commit,
            caps=caps,
            red_gates=self.red_gates,
            summary="" if session else self.summary,
            rewind=self.rewind_to if todo.role in REWINDING else None,
            holds=self.holds,
            claimed=self.claimed if todo.ask == "claimed" else None,
            overlaps=[] if only_reads or not self.found else [each for each in self.found.overlaps if each.earlier],
        )

    async def _lease(self, agent: AgentSpec, what: str, patience: float | None) -> Held | TooLong:
        """Leave to take a turn now: of the operator, the budget, the account, and the repository's daily purse."""
        while True:
            await self._may_go_on()
            account, purse = agent.account or "", self.ready.day_purse
            if not (account or purse):
                return Held("", [], [])
            held = await self._ask_and_wait(account, purse, what, patience)
            if isinstance(held, TooLong) or not (self.paused or self._over_budget() or self.anew):
                return held
            await self.give_back(held, None)  # hours may have passed: the operator has had a word meanwhile

    async def _ask_and_wait(self, account: str, purse: str, what: str, patience: float | None) -> Held | TooLong:
        stage, waiting_for, started = self.stage, self.waiting_for, workflow.time()

        def waits(note: LeaseNote) -> None:
            until = f" until {datetime.fromtimestamp(note.until, UTC):%Y-%m-%d %H:%M:%S} UTC" if note.until else ""
            self.enter(Stage.LIMITED, f"{note.text}{until}")
            self.notify_account(note)

        try:
            held = await self.ask_quotas(account, purse, what, patience, waits)
        except (Exception, asyncio.CancelledError):
            self.ledger.add("waiting", workflow.time() - started)
            raise
        self.ledger.add("waiting", workflow.time() - started)
        if self.stage is not stage:
            self.enter(stage, waiting_for)
        return held

    async def open_quota(self, quota: str) -> None:
        """Start it again; a configuration that cannot be read is a reason to wait for a person, not to end."""
        given = OpenQuotaInput(quota=quota, max_cost_usd_per_day=self.limits.max_cost_usd_per_day)
        where = options.prepare_options(self.shared_queue)
        while True:
            try:
                return await self._once(PrepareActivities.open_quota, given, where, f"start the quota of {quota}")
            except Anew:
                continue
            except (ActivityError, ApplicationError) as error:
                await self.block(BlockedReason.INFRASTRUCTURE, options.retried(error))

    async def _try_again(self, attempts: int, error: ActivityError) -> None:
        """The worker was lost, or in trouble of its own: the turn goes on where it was, with a lease of its own."""
        if isinstance(error.cause, ApplicationError) and error.cause.type == SETUP_FAILED:
            self.hear(await self.block(BlockedReason.SETUP, error.cause.message))
            return
        if attempts % MAX_ATTEMPTS == 0:
            text = f"{error.activity_type}, {attempts} times: {options.retried(error)}"
            self.hear(await self.block(BlockedReason.INFRASTRUCTURE, text))
            return
        pause = timedelta(seconds=min(2.0 ** (attempts - 1), MAX_ATTEMPT_PAUSE))
        with contextlib.suppress(TimeoutError):
            await self.wait(lambda: False, pause, f"tries again: {options.retried(error)}"[:200])

    async def _may_go_on(self) -> None:
        self.begin_anew_if_wanted()
        await self.pause_here()
        while blocked := self._over_budget():
            self.hear(await self.block(blocked.reason, blocked.text, lambda: self._over_budget() is None))
            self.limits = budgets.granted_again(
                self.limits, self.ready.settings.limits, self.ledger.usage, self.ledger.agent_seconds
            )

    async def pause_here(self) -> None:
        if self.paused:
            stage, self.stage = self.stage, Stage.PAUSED
            await self.wait(lambda: not self.paused, None, "paused")
            self.enter(stage)

    def _over_budget(self) -> Blocked | None:
        return budgets.over_budget(self.limits, self.ledger.usage, self.ledger.agent_seconds)

    # --- another session, another agent --------------------------------------------------------------

    async def commit_work(self) -> str | None:
        """What the agent left is committed; the commit, or none while a merge waits for its resolution."""
        given = CollectInput(ref=self.ready.ref, message=self.title)
        found = await self.git(WorksiteActivities.collect, given, "commit the work so far")
        return None if found.unresolved else found.head

    async def compact(self, role: Role, why: str, must: bool = True) -> bool:
        """Summarise what the sessions so far did (FEATURES B12); the next one starts from that.

        Without a summary, should nobody write one, it starts from what is in the worktree. While a merge waits for its
        resolution the tree cannot be lent to somebody who reads: then there is none. `must`: the session is of no use
        any more, whether there is a summary or not. True: the next session is a new one.
        """
        commit = await self.commit_work()
        if commit is None and not must:
            return False
        self.compact_wanted = False
        if commit is not None and self.final_texts:
            agent = self.ready.settings.compactor or self.agent(role)
            patience = self.limits.max_limit_wait_minutes * 60
            todo = Todo("compactor", "compact", why, list(self.final_texts))
            result = await self.turn(todo, agent, commit, patience)
            if result.end == "done" and result.said.strip():
                self.summary, self.final_texts = result.text, [result.text]
            elif not must:
                return False
        self.sessions.pop(self.session_name(role), None)
        return True

    async def hand_over(self, role: Role, why: str) -> None:
        """The next of the fallbacks takes over, on the same worktree with all work committed (FEATURES B6)."""
        before = self.agent(role)
        await self.commit_work()
        name = self.session_name(role)
        self.sessions.pop(name, None)
        self.position[name] = self.position.get(name, 0) + 1
        self.last_fault = ""
        workflow.logger.warning("%s hands over to %s: %s", before.label(), self.agent(role).label(), why)
        self.handovers = [*self.handovers, f"{before.label()} handed over to {self.agent(role).label()}: {why}"][-10:]

    def fail_without_login(self, decision: turns.Block, todo: Todo) -> None:
        """Nothing was done yet: a missing login is bad input, and is told at once. Later it is a reason to wait."""
        if decision.reason is BlockedReason.LOGIN and not self.ledger.turn_count:
            raise End("failed", f"agent: {self.agent(todo.role).runtime}: {decision.text}")
