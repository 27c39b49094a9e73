"""What operators and cycles say to a swarm: taken in here, acted on by its loop, one at a time.

A signal can neither wedge nor fail a swarm: what is wrong with one is shown among its problems. An update answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from pydantic import Field, ValidationError
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.settings import Model, explain
    from activities.swarm.contracts import Card, OpenedSwarm, Refused
    from activities.swarm.settings import SwarmSettings, WorkerSpec
    from workflows import options
    from workflows.policy import board as boards
    from workflows.policy.board import Board, Place
    from workflows.swarm_contracts import (
        BoardLine,
        BoardPage,
        ClaimRequest,
        CycleNote,
        CycleReport,
        Member,
        Proposed,
        SwarmState,
        SwarmStatus,
    )

MAX_PROBLEMS = 20
PAGE = 200
MOST_AFTER = 20
LONGEST_WHY = 500
_ORDER: dict[Place, int] = {"current": 0, "blocked": 1, "pending": 2, "complete": 3}
MAX_ADDED = 100
"""Cards in one message."""
Verb = Literal["add", "requeue", "pause", "resume", "stop", "add_workers", "set_count"]
TAKES: dict[Verb, str] = {
    "add": 'tasks for the board: {"id": "login", "title": "Fix the login"}, or a list of such',
    "requeue": 'blocked tasks go back to pending: ["login"]; without: all that nobody holds',
    "pause": "begin nothing, and pause what runs at its next turn",
    "resume": "go on after a pause; workers that errors have stopped begin anew",
    "stop": 'let what runs come to its end, then end; "now": end it, its work is saved',
    "add_workers": 'workers besides: {"agent": "codex:gpt-5.5", "count": 2}',
    "set_count": 'how many there are of a kind: {"kind": "worker-1", "count": 3}',
}


class BoardAsked(Model):
    """Argument of the query `board`."""

    place: Place | None = None
    offset: int = Field(0, ge=0)


class Counted(Model):
    """Argument of `set_count`."""

    kind: str
    count: int


class Asked(Model):
    """What an operator wants, once it is known to make sense."""

    cards: list[Card] = []
    ids: list[str] = []
    now: bool = False
    worker: WorkerSpec | None = None
    counted: Counted | None = None


def asked(verb: Verb, given: Any) -> Asked:
    """Raises ValueError, in one line, for what makes no sense."""
    try:
        match verb, given:
            case "add", [*_] | {}:
                found = Asked(
                    cards=[Card.model_validate(each) for each in (given if isinstance(given, list) else [given])]
                )
                if not 0 < len(found.cards) <= MAX_ADDED:
                    raise ValueError(f"1 to {MAX_ADDED} tasks at once, not {len(found.cards)}")
                return found
            case "requeue", None | [*_]:
                return Asked.model_validate({"ids": given or []})
            case "requeue", str():
                return Asked(ids=given.replace(",", " ").split())
            case "pause" | "resume", None:
                return Asked()
            case "stop", None | "now":
                return Asked(now=given == "now")
            case "add_workers", {}:
                return Asked(worker=WorkerSpec.model_validate(given))
            case "set_count", {}:
                return Asked(counted=Counted.model_validate(given))
    except ValidationError as error:
        raise ValueError(explain(error)) from None
    raise ValueError(f"not understood; what it does: {TAKES[verb]}")


class Desk(Protocol):
    """Who takes the commands of operators."""

    async def act(self, verb: Verb, given: Any) -> str: ...

    def check(self, verb: Verb, given: Any) -> Asked: ...

    def problem(self, text: str) -> None: ...

    def wake(self) -> None: ...


def _command(verb: Verb) -> tuple[Any, Any]:
    """The signal and the update of a verb, as tasks have them."""

    @workflow.signal(name=verb, description=TAKES[verb])
    async def on(self: Desk, given: Any = None) -> None:
        try:
            await self.act(verb, given)
        except (ApplicationError, ActivityError) as refusal:
            self.problem(f"signal {verb} ignored: {options.retried(refusal)}")
            self.wake()

    @workflow.update(name=verb, description=TAKES[verb])
    async def answered(self: Desk, given: Any = None) -> str:
        return await self.act(verb, given)

    @answered.validator
    def _(self: Desk, given: Any = None) -> None:
        self.check(verb, given)

    return on, answered


class SwarmDesk:
    def __init__(self) -> None:
        self.state: SwarmState | None = None
        self.board = Board()
        self._ready: tuple[Board, list[str]] | None = None
        self.members: dict[str, Member] = {}
        self.problems: list[str] = []
        self.claims: list[ClaimRequest] = []
        self.notes: list[CycleNote] = []
        self.reports: list[CycleReport] = []
        self.incoming: list[Card] = []
        """Not on the board yet."""
        self.refused: dict[str, str] = {}
        """Why the newest that were added were not taken."""
        self.try_at = 0.0
        """Nothing is taken in before, as it has just failed; seconds since the epoch."""
        self.woken = False
        self.ended: float | None = None
        self.over = ""
        """Why it ended."""

    @property
    def s(self) -> SwarmState:
        assert self.state is not None, "before it was opened"
        return self.state

    @property
    def opened(self) -> OpenedSwarm:
        return self.s.opened

    @property
    def settings(self) -> SwarmSettings:
        return self.opened.settings

    def put(self, **changed: Any) -> None:
        self.state = self.s.model_copy(update=changed)

    def change(self, member: Member, **changed: Any) -> Member:
        if "state" in changed and changed["state"] != member.state:
            changed["since"] = workflow.time()
        changed_one = member.model_copy(update=changed)
        self.members[member.name] = changed_one
        return changed_one

    def problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems = [*self.problems, text][-MAX_PROBLEMS:]
            workflow.logger.warning(text)

    def wake(self) -> None:
        self.woken = True

    # --- operators -------------------------------------------------------------------------------------

    def check(self, verb: Verb, given: Any) -> Asked:
        """Raises ApplicationError for what cannot be taken."""
        try:
            wanted = asked(verb, given)
            if self.ended is not None:
                raise ValueError("the swarm has ended; `starter.py swarm --continue` begins another with what it left")
            if self.state is not None and (why := self.refusal(verb, wanted)):
                raise ValueError(why)
        except ValueError as error:
            raise ApplicationError(f"{verb}: {error}", type="Refused", non_retryable=True) from None
        return wanted

    def refusal(self, verb: Verb, wanted: Asked) -> str:
        if verb == "add" and self.s.stopping:
            return "the swarm is stopping"
        if verb == "set_count" and wanted.counted is not None:
            kinds = [worker.name for worker in self.settings.workers]
            if wanted.counted.kind not in kinds:
                return f"there is no kind {wanted.counted.kind!r}; there are: {', '.join(kinds)}"
            if not 0 <= wanted.counted.count <= 200:
                return "count: 0 to 200"
        return ""

    async def act(self, verb: Verb, given: Any) -> str:
        self.check(verb, given)
        await workflow.wait_condition(lambda: self.state is not None or self.ended is not None)
        wanted = self.check(verb, given)  # it is known now what there is
        self.wake()
        match verb:
            case "add":
                return await self._add(wanted.cards)
            case "requeue":
                return self._requeue(wanted.ids)
            case "pause":
                self.put(paused=True)
                await self.tell_cycles("pause")
                return "paused: nothing is begun; what runs pauses before its next turn"
            case "resume":
                self.put(paused=False)
                self.revive()
                await self.tell_cycles("resume")
                return "goes on"
            case "stop":
                paused = self.s.paused
                self.put(stopping=True, paused=False, ends_now=self.s.ends_now or wanted.now)
                if wanted.now:
                    await self.tell_cycles("cancel", parked=True)
                    return "ends: what runs is ended, its work is saved"
                if paused:  # else it would never come to its end
                    await self.tell_cycles("resume")
                return "stops: what runs comes to its end, nothing else is begun"
            case "add_workers":
                assert wanted.worker is not None
                return await self.add_workers(wanted.worker)
        assert wanted.counted is not None
        return self.set_count(wanted.counted.kind, wanted.counted.count)

    async def _add(self, cards: list[Card]) -> str:
        for card in cards:
            self.refused.pop(card.id, None)
        self.incoming = [*self.incoming, *cards]
        self.put(spec_met=False)
        names = {card.id for card in cards}
        await workflow.wait_condition(
            lambda: names.isdisjoint(card.id for card in self.incoming) or self.try_at > workflow.time()
        )
        if waiting := sorted(names & {card.id for card in self.incoming}):
            why = f"; {self.problems[-1]}" if self.problems else ""
            return f"not on the board yet, but kept, and tried again: {', '.join(waiting)}{why}"
        refused = [f"{name} ({self.refused[name]})" for name in sorted(names & self.refused.keys())]
        taken = f"{len(names) - len(refused)} on the board"
        return f"{taken}; not taken: {', '.join(refused)}" if refused else taken

    def _requeue(self, ids: list[str]) -> str:
        wanted = ids or [name for name, item in self.board.items.items() if item.place == "blocked" and not item.holder]
        self.board, done, refused = boards.requeued(self.board, wanted, workflow.time())
        said = f"{len(done)} pending again" + (f": {', '.join(done[:20])}" if done else "")
        said += "".join(f"; {each.id}: {each.why}" for each in refused[:20])
        held = [self.board.items[name] for name in (ids or self.board.items) if name in self.board.items]
        parked = list(dict.fromkeys(item.holder for item in held if item.place == "blocked" and item.holder))
        if parked:
            said += (
                f"; held by tasks that wait for you: {', '.join(parked[:5])}; starter.py status {parked[0]} says how"
            )
        return said

    async def tell_cycles(self, verb: str, parked: bool = False) -> None:
        raise NotImplementedError

    def revive(self) -> None:
        raise NotImplementedError

    async def add_workers(self, worker: WorkerSpec) -> str:
        raise NotImplementedError

    def set_count(self, kind: str, count: int) -> str:
        raise NotImplementedError

    def status_now(self) -> SwarmStatus:
        raise NotImplementedError

    on_add, add = _command("add")
    on_requeue, requeue = _command("requeue")
    on_pause, pause = _command("pause")
    on_resume, resume = _command("resume")
    on_stop, stop = _command("stop")
    on_add_workers, workers_added = _command("add_workers")
    on_set_count, count_set = _command("set_count")

    @workflow.signal(dynamic=True)
    def on_unknown_signal(self, name: str, _: Sequence[RawValue]) -> None:
        self.problem(f"signal {name} ignored: there is none of this name; there are: {', '.join(TAKES)}")
        self.wake()

    # --- cycles ----------------------------------------------------------------------------------------

    @workflow.signal(description="from a cycle: tasks that it wants")
    def claim(self, request: ClaimRequest) -> None:
        self.claims.append(request)
        self.wake()

    @workflow.signal(description="from a cycle: it waits for an operator, or does so no more")
    def cycle_note(self, note: CycleNote) -> None:
        self.notes.append(note)
        self.wake()

    @workflow.signal(description="from a cycle: how it ended")
    def cycle_ended(self, report: CycleReport) -> None:
        self.reports.append(report)
        self.wake()

    @workflow.signal(description="from a cycle: a task for the board")
    def propose(self, proposed: Proposed) -> None:
        self.incoming.append(proposed.card)
        self.wake()

    # --- queries ---------------------------------------------------------------------------------------

    @workflow.query(name="swarm", description="stage, workers, counts, what it waits for")
    def swarm_status(self) -> SwarmStatus:
        return self.status_now()

    @workflow.query(name="board", description='the tasks: {"place": "pending", "offset": 0}, or nothing')
    def board_page(self, given: Any = None) -> BoardPage:
        try:
            wanted = BoardAsked.model_validate(given or {})
        except ValidationError as error:
            raise ApplicationError(f"board: {explain(error)}", type="Refused", non_retryable=True) from None
        names = self.ordered(wanted.place)[wanted.offset :]
        more = max(len(names) - PAGE, 0)
        return BoardPage(counts=boards.counts(self.board), lines=self.lines(names[:PAGE]), more=more)

    def ordered(self, place: Place | None = None) -> list[str]:
        """The current ones first, then the blocked, the pending in the order of dispatch, the complete."""
        rank = {name: number for number, name in enumerate(self.ready())}
        last = len(rank)
        names = [name for name, item in self.board.items.items() if place in (None, item.place)]
        names.sort(key=lambda name: (_ORDER[self.board.items[name].place], rank.get(name, last)))
        return names

    def lines(self, names: Sequence[str]) -> list[BoardLine]:
        stuck = boards.unreachable(self.board)
        return [self._line(name, stuck.get(name, "")) for name in names]

    def ready(self) -> list[str]:
        """What could be claimed now, the best first: found out once for each state of the board, as a swarm that is
        replayed goes through thousands of them."""
        if self._ready is None or self._ready[0] is not self.board:
            self._ready = self.board, boards.claimable(self.board)
        return self._ready[1]

    def _line(self, name: str, stuck: str) -> BoardLine:
        item = self.board.items[name]
        return BoardLine(
            id=name,
            title=item.row.title,
            place=item.place,
            priority=item.row.priority,
            after=[] if item.place == "complete" else boards.waits_for(self.board, name)[:MOST_AFTER],
            holder=item.holder,
            worker=item.worker,
            since=item.since,
            tries=item.tries,
            why=(item.why or stuck)[:LONGEST_WHY],
            sha=item.sha,
        )

    def remember_refused(self, refused: Sequence[Refused]) -> None:
        for each in refused:
            self.refused[each.id] = each.why
            self.problem(f"{each.id}: {each.why}")
        self.refused = dict(list(self.refused.items())[-500:])
