"""The cycles of a swarm's workers: how they begin, what they are told, what comes of them."""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError, WorkflowAlreadyStartedError
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from activities.contracts import CheckAgentInput, TaskRef
    from activities.prepare import PrepareActivities
    from activities.settings import AgentSpec, Listed, Membership
    from activities.swarm.contracts import Refused
    from activities.swarm.settings import MAX_MEMBERS, PlannerSpec, WorkerSpec
    from workflows import options
    from workflows.contracts import TaskResult
    from workflows.leases import signalled
    from workflows.policy import board as boards
    from workflows.policy import members as policy
    from workflows.swarm_contracts import ClaimAnswer, ClaimRequest, CycleNote, Member
    from workflows.swarm_desk import SwarmDesk

SHOWN = 30
"""Tasks that an agent is shown at once."""
SHOWN_PLANNER = 50
REMEMBERED = 500
LONGEST_REASON = 1_000
PLANNER = "planner"
LANDED = "merged", "planned"
"""planned: nothing but new tasks landed; what it held is not done."""
_REASONS = {"planned": "only new tasks landed", "no-changes": "nothing was changed"}
BUNDLED = "executor", "worker", "planner"
"""Names of our own prompts."""


class SwarmCycles(SwarmDesk):
    def __init__(self) -> None:
        super().__init__()
        self.closed: set[str] = set()
        """Cycles that have ended by what the server says, and have not said so themselves."""
        self.watched: set[str] = set()
        """Cycles whose end the server tells this run of the swarm."""
        self.starting: set[str] = set()
        """Cycles that are being started: nobody can tell them anything yet."""
        self.take_in_due = True
        self.mirror_due = False

    # --- who there is ----------------------------------------------------------------------------------

    def kind(self, member: Member) -> WorkerSpec | PlannerSpec | None:
        """None: it is there no more."""
        if member.kind == PLANNER:
            return self.settings.planner
        return next((worker for worker in self.settings.workers if worker.name == member.kind), None)

    def muster(self) -> None:
        """As many members of each kind as there are to be; those that are too many go when their cycle is over."""
        wanted: dict[str, tuple[str, AgentSpec]] = {}
        if self.settings.planner is not None and self.settings.spec:
            wanted[PLANNER] = PLANNER, self.settings.planner.agent
        for worker in self.settings.workers:
            for number in range(1, worker.count + 1):
                wanted[f"{worker.name}.{number}"] = worker.name, worker.agent
        for name, (kind, agent) in wanted.items():
            if name not in self.members:
                self.members[name] = Member(name=name, kind=kind, agent=agent.label(), account=agent.account or "")
        # Also not while a cycle of theirs waits for an operator: what it holds is theirs.
        parked = self.s.blocked_cycles.values()
        gone = [
            member for name, member in self.members.items()
            if name not in wanted and not member.cycle and name not in parked
        ]  # fmt: skip
        for member in gone:
            del self.members[member.name]
        if gone:
            self.put(retired=[*self.s.retired, *(each for each in gone if each.tally.cycles)])

    def chooses(self, member: Member) -> bool:
        kind = self.kind(member)
        return isinstance(kind, WorkerSpec) and kind.claims

    def choosing(self) -> int:
        """How many have begun, and not chosen yet."""
        begun = [member for member in self.members.values() if member.cycle and not member.plans and not member.holds]
        return sum(map(self.chooses, begun))

    def too_many(self, member: Member) -> bool:
        kind = self.kind(member)
        if isinstance(kind, WorkerSpec):
            return int(member.name.rpartition(".")[2]) > kind.count
        return kind is None

    def revive(self) -> None:
        self.members = {name: policy.revived(member, self.kind(member)) for name, member in self.members.items()}
        if workflow.patched("swarm-pause-is-no-idling"):
            for member in [each for each in self.members.values() if each.idle_since is not None]:
                self.change(member, idle_since=None)

    async def add_workers(self, worker: WorkerSpec) -> str:
        self._new_kind(worker)
        ref = self.opened.ref
        task = TaskRef(task_id=ref.swarm_id, key=ref.key, repo=ref.repo, target=ref.target)
        agents: list[AgentSpec] = []
        for agent in (worker.agent, *worker.fallbacks, *(worker.reviewers or [])):
            checked = await workflow.execute_activity_method(
                PrepareActivities.check_agent,
                CheckAgentInput(ref=task, agent=agent),
                summary=f"check {agent.label()}",
                **options.git_options(workflow.info().task_queue, self.opened.host),
            )
            agents.append(checked)
        fallbacks = agents[1 : 1 + len(worker.fallbacks)]
        reviewers = None if worker.reviewers is None else agents[1 + len(fallbacks) :]
        name = self._new_kind(worker)  # others may have been added meanwhile
        update = {"name": name, "agent": agents[0], "fallbacks": fallbacks, "reviewers": reviewers}
        self._with_workers([*self.settings.workers, worker.model_copy(update=update)])
        return f"{worker.count} of {name} besides"

    def _new_kind(self, worker: WorkerSpec) -> str:
        """Its name. Raises ApplicationError."""
        names = {each.name for each in self.settings.workers}
        number = len(names) + 1
        while not worker.name and f"worker-{number}" in names:
            number += 1
        name = worker.name or f"worker-{number}"
        if name in names or name == PLANNER:
            raise ApplicationError(f"add_workers: there is a kind {name!r} already: `set_count` changes how many")
        if sum(each.count for each in self.settings.workers) + worker.count > MAX_MEMBERS:
            raise ApplicationError(f"add_workers: more than {MAX_MEMBERS} in all")
        return name

    def set_count(self, kind: str, count: int) -> str:
        others = sum(each.count for each in self.settings.workers if each.name != kind)
        if others + count > MAX_MEMBERS:
            raise ApplicationError(f"set_count: more than {MAX_MEMBERS} in all")
        self._with_workers(
            [each.model_copy(update={"count": count}) if each.name == kind else each for each in self.settings.workers]
        )
        return f"{count} of {kind}; who is too many goes when its cycle is over"

    def _with_workers(self, workers: list[WorkerSpec]) -> None:
        settings = self.settings.model_copy(update={"workers": workers})
        self.put(opened=self.opened.model_copy(update={"settings": settings}))
        self.muster()
        self.wake()

    # --- a cycle begins --------------------------------------------------------------------------------

    async def begin(self, member: Member, task: str | None, plans: bool = False) -> None:
        """`task`: claimed for it; None: its agent chooses, or plans. It is the member's before anything is awaited."""
        number = self.s.cycles + 1
        cycle = f"{workflow.info().workflow_id}-{member.name}-{number}"
        self.put(cycles=number)
        claims: list[str] = []
        if task is not None:
            self.board, claims, _ = boards.claimed(
                self.board, [task], cycle, member.name, workflow.time(), self.settings.max_claims
            )
            self.mirror_due = True
        member = self.change(
            member, cycle=cycle, state="working", why="", until=None, idle_since=None, plans=plans, holds=claims
        )
        given = self._input(member, claims, plans)
        self.starting.add(cycle)
        try:
            handle = await workflow.start_child_workflow(
                "TaskWorkflow",
                given,
                id=cycle,
                parent_close_policy=ParentClosePolicy.ABANDON,
                cancellation_type=ChildWorkflowCancellationType.ABANDON,
                static_summary=str(given["title"]),
            )
        except WorkflowAlreadyStartedError:
            # Of an earlier swarm with this id, and it waits for an operator: the next number is free.
            self.board = boards.released(self.board, cycle, workflow.time(), "", tried=False, max_tries=1)
            self.change(self.members[member.name], cycle="", state="idle", holds=[], plans=False)
            self.wake()
            return
        finally:
            self.starting.discard(cycle)
        if plans:
            self.put(completed_since_plan=0, planned_on=len(self.board.items), plan_over=False)
        self.watched.add(cycle)
        handle.add_done_callback(lambda done: self._is_closed(cycle, done))

    def _is_closed(self, cycle: str, done: asyncio.Future[Any]) -> None:
        if not done.cancelled():
            done.exception()  # it is told by the cycle itself
        self.watched.discard(cycle)
        self.closed.add(cycle)
        self.wake()

    def _input(self, member: Member, claims: list[str], plans: bool) -> dict[str, Any]:
        ref, settings, kind = self.opened.ref, self.settings, self.kind(member)
        assert kind is not None
        worker = kind if isinstance(kind, WorkerSpec) else WorkerSpec(agent=kind.agent, can_plan=True)
        prompts = kind.prompts or [BUNDLED[2 if plans else int(worker.can_plan)]]
        if plans:  # a worker's, as there is no planner: ours would have it do tasks
            prompts = list(dict.fromkeys(PLANNER if name in BUNDLED else name for name in prompts))
        shown: list[str] = []
        if plans:
            shown = [name for name in self.ordered() if self.board.items[name].place != "complete"]
        elif not claims:  # each sees another one first, so that not all who choose now want the same
            shown, others = self.ready(), self.choosing() - 1
            shown = [*shown[others:], *shown[:others]]
        pending = boards.counts(self.board)["pending"]
        membership = Membership(
            swarm=ref.swarm_id,
            key=ref.key,
            worker=member.name,
            cycle=self.s.cycles,
            plans=plans,
            can_plan=plans or worker.can_plan,
            claims=claims,
            may_claim=worker.claims and not plans,
            open=boards.listed(self.board, shown[: SHOWN_PLANNER if plans else SHOWN]),
            counts={place: count for place, count in boards.counts(self.board).items() if count},
            spec=settings.spec,
            max_new_tasks=max(self.max_pending - pending, 0) if plans or worker.can_plan else 0,
        )
        title = self.board.items[claims[0]].row.title if claims else f"{'Plan' if plans else 'Work'} of {member.name}"
        labels = [*settings.task.get("labels", []), f"swarm:{ref.swarm_id}"[:100]][-20:]
        limits: dict[str, Any] = {**settings.task.get("limits", {})}
        for name in ("max_working_resumes", "max_needs_followups"):
            if (most := getattr(worker, name)) is not None:
                limits[name] = most
        given: dict[str, Any] = {
            "on_blocked": settings.on_blocked,
            **settings.task,
            "repo": ref.repo,
            "target": ref.target.removeprefix("refs/heads/"),
            "title": title,
            "agent": _told(kind.agent.model_copy(update={"prompts": [*kind.agent.prompts, *prompts]})),
            "labels": labels,
            "swarm": membership.model_dump(mode="json", exclude_defaults=True),
        }
        if limits:
            given["limits"] = limits
        if kind.fallbacks:
            given["fallbacks"] = [_told(agent) for agent in kind.fallbacks]
        reviewers = self._reviewers(worker)
        if reviewers is not None:
            given["reviewers"] = [_told(agent) for agent in reviewers]
        return given

    def _reviewers(self, worker: WorkerSpec) -> list[AgentSpec] | None:
        """Its own before those of the swarm; none at all where it says so."""
        if worker.reviewers is None or self.settings.reviewers is None:
            return self.settings.reviewers if worker.reviewers is None else worker.reviewers
        both = [*worker.reviewers, *self.settings.reviewers] if worker.reviewers else []
        return [agent for number, agent in enumerate(both) if agent not in both[:number]]

    @property
    def max_pending(self) -> int:
        planner = self.settings.planner
        return planner.max_pending if planner is not None else PlannerSpec().max_pending

    def _shown(self, ids: list[str]) -> list[Listed]:
        return boards.listed(self.board, ids[:SHOWN])

    # --- what a cycle says -----------------------------------------------------------------------------

    def member_of(self, cycle: str, key: str = "") -> Member | None:
        """Also of one that has gone on while the cycle waits for an operator. `key`: of the run of the swarm that the
        cycle is of, where it says so; one of an earlier run may have the same name."""
        if key not in ("", self.opened.ref.key):
            return None
        if name := self.s.blocked_cycles.get(cycle):
            return self.members.get(name)
        return next((member for member in self.members.values() if member.cycle == cycle), None)

    async def hear(self) -> None:
        """All that was said since: in the order of notes, claims, ends, so that no end is overtaken by its own past."""
        while self.notes:
            self._note(self.notes.pop(0))
        while self.claims:
            await self._answer(self.claims.pop(0))
        while self.reports:
            report = self.reports.pop(0)
            if self.member_of(report.cycle, report.key) is None:
                continue
            outcome = "planned" if report.only_tasks and report.result.outcome == "merged" else report.result.outcome
            self.settle(report.cycle, outcome, report.result, report.result.sha or "", report.approvals)

    async def _answer(self, request: ClaimRequest) -> None:
        member = self.member_of(request.cycle, request.key)
        if member is None:
            gone = "the swarm has given this worker up"
            refused = [Refused(id=name, why=gone) for name in request.ids]
            answer = ClaimAnswer(request=request.request, refused=refused)
        else:
            self.board, got, refused = boards.claimed(
                self.board, request.ids, request.cycle, member.name, workflow.time(), self.settings.max_claims
            )
            self.mirror_due = self.mirror_due or bool(got)
            if member.cycle == request.cycle:
                self.change(member, holds=boards.held(self.board, request.cycle))
            ready = self.ready()
            answer = ClaimAnswer(
                request=request.request,
                got=got,
                titles=[self.board.items[name].row.title for name in got],
                refused=refused,
                left=self._shown(ready),
                left_count=len(ready),
            )
        try:
            await signalled(request.cycle, "claim_answer", answer)
        except FailureError:
            self.closed.add(request.cycle)  # it is over, and what it got goes back

    def _note(self, note: CycleNote) -> None:
        """A blocked cycle keeps its tasks and waits for an operator; its worker goes on with others."""
        member = self.member_of(note.cycle, note.key)
        if member is None:
            return
        now = workflow.time()
        going = [cycle for cycle in self.s.going_again if cycle != note.cycle]
        if note.cycle in self.s.blocked_cycles and not note.blocked and workflow.patched("swarm-goes-again"):
            going.append(note.cycle)
        self.put(going_again=going)
        if note.blocked:
            self.board = boards.parked(self.board, note.cycle, now, note.blocked)
            if member.plans:
                self.change(member, why=note.blocked[:200])
            elif member.cycle == note.cycle:
                self.put(blocked_cycles={**self.s.blocked_cycles, note.cycle: member.name})
                kind = self.kind(member)
                member = policy.after_error(member, note.blocked, self.settings, now)
                self.change(policy.freed(member, kind, now))
        else:
            self.board = boards.parked(self.board, note.cycle, now, "")
            if member.cycle == note.cycle:
                self.change(member, why="")
        self.mirror_due = True

    def settle(self, cycle: str, outcome: str, result: TaskResult | None, sha: str, approvals: int = 0) -> None:
        """A cycle is over: its tasks are complete, or go back. A second time it does nothing."""
        self.closed.discard(cycle)
        self.watched.discard(cycle)
        member = self.member_of(cycle)
        if cycle in self.s.seen or member is None:
            return
        now, board = workflow.time(), self.board
        reason = ((result.reason if result else "") or _REASONS.get(outcome, outcome))[:LONGEST_REASON]
        held = boards.held(board, cycle)
        parked = cycle in self.s.blocked_cycles
        self.put(
            seen=[*self.s.seen, cycle][-REMEMBERED:],
            blocked_cycles={name: who for name, who in self.s.blocked_cycles.items() if name != cycle},
            going_again=[name for name in self.s.going_again if name != cycle],
        )
        given_back = 0
        if outcome == "merged":
            self.board = boards.completed(board, cycle, now, sha)
            self.put(completed_since_plan=self.s.completed_since_plan + len(held))
        elif outcome in ("abandoned", "cancelled") and not self.s.stopping:
            self.board = boards.stopped(board, cycle, now, f"{outcome} by an operator")
            given_back = len(held)
        else:
            tried = outcome not in ("abandoned", "cancelled")
            self.board = boards.released(board, cycle, now, reason, tried=tried, max_tries=self.settings.max_tries)
            given_back = len(held)
        self.mirror_due = self.mirror_due or bool(held)
        self.look_again()
        plans = member.plans and member.cycle == cycle
        self.take_in_due = self.take_in_due or (outcome in LANDED and (plans or self._can_plan(member)))
        done = policy.tallied(member, outcome, result, claims=len(held), recycled=given_back, approvals=approvals)
        self.change(done)
        if not parked:
            self._free(self.members[member.name], outcome, reason, now)
        elif outcome in LANDED and workflow.patched("swarm-parked-work-lands"):
            self.members[member.name] = policy.revived(done, self.kind(done)).model_copy(update={"errors": 0})
        if plans and outcome in (*LANDED, "no-changes"):
            self.put(plan_over=True)  # what it came to is known when its tasks are taken in

    def look_again(self) -> None:
        """Something may be free now that there was not enough of, or an operator has had a word."""
        for member in [each for each in self.members.values() if each.state == "limited"]:
            self.change(member, until=None)

    def _can_plan(self, member: Member) -> bool:
        kind = self.kind(member)
        return isinstance(kind, PlannerSpec) or (kind is not None and kind.can_plan)

    def _free(self, member: Member, outcome: str, reason: str, now: float) -> None:
        kind, chose = self.kind(member), not member.plans and not member.holds
        if policy.is_error(outcome):
            member = policy.after_error(member, reason, self.settings, now)
        elif outcome in (*LANDED, "no-changes"):
            member = member.model_copy(update={"errors": 0})
        member = policy.freed(member, kind, now)
        if outcome == "no-changes" and chose:
            others = any(other.cycle for other in self.members.values() if other.name != member.name)
            member = policy.after_nothing(member, self.settings, now, others_may_help=others)
        elif outcome in LANDED:
            member = member.model_copy(update={"nothing": 0})
        self.members[member.name] = member
        self.muster()

    async def tell_cycles(self, verb: str, parked: bool = False) -> None:
        await workflow.wait_condition(lambda: not self.starting)
        cycles = [member.cycle for member in self.members.values() if member.cycle]
        for cycle in [*cycles, *(self.s.blocked_cycles if parked else self.s.going_again)]:
            try:
                await signalled(cycle, verb, None)
            except FailureError:
                self.closed.add(cycle)
                self.wake()


def _told(agent: AgentSpec) -> dict[str, Any]:
    return agent.model_dump(mode="json", exclude_defaults=True) or {"runtime": agent.runtime}
