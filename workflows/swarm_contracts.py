"""What operators see of a swarm, what its cycles and it say to each other, and what it carries over.

A cycle is a `TaskWorkflow` that a worker of the swarm does. It asks for tasks by the signal `claim`, is answered by
`claim_answer`, tells by `cycle_note` that it is blocked or goes on, and by `cycle_ended` how it ended; each of them may
come twice.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from activities.settings import Listed, Model
from activities.swarm.contracts import Card, OpenedSwarm, Refused
from activities.swarm.settings import SwarmInput
from workflows.contracts import Seconds, TaskResult
from workflows.policy.board import Board, Place

__all__ = ["Card", "Place", "Refused"]


class ClaimRequest(Model):
    """From a cycle. Asked again, it is the same request: what it holds already is `got`."""

    cycle: str
    """Workflow id of the task."""
    key: str = ""
    """Of the run of the swarm that it is a cycle of."""
    request: int
    ids: list[str] = Field(max_length=100)


class ClaimAnswer(Model):
    request: int
    got: list[str] = []
    titles: list[str] = []
    """Of `got`."""
    refused: list[Refused] = []
    left: list[Listed] = Field([], max_length=30)
    """What could be claimed still, the best first."""
    left_count: int = 0


class CycleNote(Model):
    """From a cycle: it waits for an operator, or does so no more."""

    cycle: str
    key: str = ""
    """Of the run of the swarm that it is a cycle of."""
    blocked: str = ""
    """Why; empty: it goes on."""


class CycleReport(Model):
    """From a cycle, at its end, after its work was settled."""

    cycle: str
    key: str = ""
    """Of the run of the swarm that it is a cycle of."""
    result: TaskResult
    only_tasks: bool = False
    """What landed are new tasks, and nothing that would complete one."""
    approvals: int = 0
    """Reviews that approved; those that asked for changes are the result's `review_rounds`."""


class Proposed(Model):
    """From a cycle whose agent may plan: a task for the board."""

    cycle: str
    card: Card


MemberState = Literal["idle", "working", "waiting", "backing off", "limited", "stopped"]


class Tally(Model):
    """What one worker has done: a line of the last table (FEATURES D8)."""

    runs: int = 0
    """Turns of agents."""
    cycles: int = 0
    merges: int = 0
    claims: int = 0
    rejects: int = 0
    """Reviews that asked for changes."""
    errors: int = 0
    recycled: int = 0
    """Tasks that it gave back."""
    review_rounds: int = 0
    """Reviews with either verdict."""
    cost_usd: float = 0.0
    tokens: int = 0
    seconds: Seconds = Seconds()


class Member(Model):
    """One worker."""

    name: str
    kind: str
    """Name of its `WorkerSpec`; `planner`."""
    agent: str
    """As the UI names it."""
    account: str = ""
    state: MemberState = "idle"
    since: float = 0.0
    """When it came to this state; seconds since the epoch."""
    why: str = ""
    """Of waiting, backing off, limited or stopped."""
    cycle: str = ""
    """Workflow id of the task that it is at."""
    holds: list[str] = []
    until: float | None = None
    """Seconds since the epoch: nothing is begun before."""
    idle_since: float | None = None
    """Since when there was nothing for it to do."""
    errors: int = 0
    """In a row."""
    nothing: int = 0
    """Cycles in a row in which its agent found nothing to claim."""
    plans: bool = False
    """The cycle that it is at is a planner's."""
    tally: Tally = Tally()

    def waits(self) -> bool:
        """For an operator, with a plan: nobody else plans meanwhile. Another cycle is left to itself."""
        return self.plans and bool(self.cycle and self.why)


SwarmStage = Literal["opening", "running", "paused", "stopping", "waiting for you", "ended"]


class SwarmStatus(Model):
    """Answer of the query `swarm`."""

    swarm_id: str
    repo: str = ""
    target: str = ""
    stage: SwarmStage
    waiting_for: str = ""
    next_command: str = ""
    counts: dict[Place, int] = {}
    members: list[Member] = []
    cost_usd: float = 0.0
    started: float = 0.0
    ended: float | None = None
    notes: list[str] = []
    problems: list[str] = []
    """Signals that were ignored and files that were not taken, and why. The newest 20."""
    reason: str = ""
    """Why it ended."""


class BoardLine(Model):
    """One task of the board, as operators see it."""

    id: str
    title: str
    place: Place
    priority: int = 0
    after: list[str] = []
    """Those that are not complete, at most 20."""
    holder: str = ""
    """Workflow id of the task that does it."""
    worker: str = ""
    since: float = 0.0
    """When it came to its place; seconds since the epoch."""
    tries: int = 0
    why: str = ""
    sha: str = ""


class BoardPage(Model):
    """Answer of the query `board`, which takes {"place": "pending", "offset": 0}, or nothing."""

    counts: dict[Place, int]
    lines: list[BoardLine]
    """At most 200, the current ones first, then the blocked, the pending in the order of dispatch, the complete."""
    more: int = 0


class SwarmResult(Model):
    """Result of `SwarmWorkflow`: the last table."""

    reason: str
    counts: dict[Place, int]
    members: list[Member]
    open: list[BoardLine] = []
    """At most 200 of those that are not complete, with the reason of each."""
    cost_usd: float = 0.0
    tokens: int = 0
    seconds: Seconds = Seconds()
    """Where the time of all cycles went."""
    wall_seconds: float = 0.0


class SwarmState(Model):
    """All that a swarm carries over a continue-as-new."""

    opened: OpenedSwarm
    board: Board = Board()
    members: list[Member] = []
    retired: list[Member] = []
    """Whose kind was made smaller: for the last table."""
    upto: int = 0
    """Number of the newest card that is on the board."""
    cycles: int = 0
    """Begun so far."""
    started: float = 0.0
    paused: bool = False
    stopping: bool = False
    ends_now: bool = False
    """What waits for an operator is ended too, and waited for."""
    spec_met: bool = False
    """The last who planned had nothing to add, and nothing was open."""
    blocked_cycles: dict[str, str] = {}
    """Cycles that wait for an operator, or have done so, and whose worker has gone on: the member's name."""
    going_again: list[str] = []
    """Of these: those that wait no more, and run beside what their worker does now."""
    mirrored: int = 0
    mirror_due: bool = False
    mirror_at: float = 0.0
    """Seconds since the epoch: the board is not written before."""
    mirror_errors: int = 0
    """In a row."""
    problems: list[str] = []
    seen: list[str] = Field([], max_length=500)
    """Cycles whose end is in the tallies: it may be told twice."""
    took_in_at: float = 0.0
    completed_since_plan: int = 0
    planned_on: int = 0
    """Tasks on the board when the last plan was begun."""
    plan_over: bool = False
    """It has ended, and what it came to is to be looked at."""
    plan_dry: bool = False
    """The last who planned had nothing to add."""

    def waiting(self) -> list[str]:
        """Cycles that an operator is to do something about."""
        return sorted(self.blocked_cycles.keys() - set(self.going_again))


class SwarmStart(SwarmInput):
    """Input of `SwarmWorkflow`."""

    state: SwarmState | None = None
    """Filled in by the swarm itself, when it continues as new."""
