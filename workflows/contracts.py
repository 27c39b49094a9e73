"""What operators send and read, and what workflows say to each other.

`TaskInput` and its parts are declared where activities can read them too, and belong to this contract.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from activities.contracts import Candidate, Conflict, GateResult, TurnEnd, Usage
from activities.settings import AgentSpec, GateSpec, Limits, Model, Role, TaskInput

__all__ = [
    "AgentSpec",
    "Blocked",
    "BlockedReason",
    "GateSpec",
    "Limits",
    "MergeAnswer",
    "Outcome",
    "QueueEntry",
    "QueueNote",
    "QueueState",
    "QueueStatus",
    "Seconds",
    "Stage",
    "TaskInput",
    "TaskResult",
    "TaskStatus",
    "TurnRecord",
]

Outcome = Literal["merged", "no-changes", "rejected", "abandoned", "cancelled", "failed"]


class Stage(StrEnum):
    PREPARE = "prepare"
    PLAN = "plan"
    APPROVAL = "awaiting approval"
    WORK = "work"
    GATES = "gates"
    REVIEW = "review"
    RESOLVE = "resolve"
    QUEUE = "merge queue"
    LIMITED = "rate limited"
    PAUSED = "paused"
    BLOCKED = "blocked"
    SETTLE = "settle"
    ENDED = "ended"


class BlockedReason(StrEnum):
    """Why a task waits for a person. Each stop names its evidence and the command that moves it on."""

    STUCK = "stuck"
    NEEDS_FOLLOWUP = "needs follow-up"
    GATES_RED = "gates red"
    REVIEW_ROUNDS = "review rounds used up"
    NO_VERDICT = "no reviewer gave a verdict"
    MERGE_ATTEMPTS = "merge attempts used up"
    LOGIN = "login missing"
    AGENT_FAILED = "agent failed"
    BUDGET = "budget used up"
    PLAN_TIMEOUT = "plan not approved in time"
    INFRASTRUCTURE = "our own trouble"


class Blocked(Model):
    reason: BlockedReason
    text: str
    """The evidence, in a line or a short tail."""


class Seconds(Model):
    """Where the time went. Activities measure their own part; `own` is what is left over: us."""

    agent: float = 0.0
    review: float = 0.0
    fix: float = 0.0
    resolve: float = 0.0
    gates: float = 0.0
    queue: float = 0.0
    waiting: float = 0.0
    """For operators, for rate limits, and for a free agent slot."""
    own: float = 0.0
    total: float = 0.0


class TurnRecord(Model):
    """One turn of one agent, as the status and the costs show it."""

    turn: int
    role: Role
    agent: str
    end: TurnEnd
    usage: Usage
    seconds: float


class TaskResult(Model):
    outcome: Outcome
    sha: str | None = None
    """The commit on the target branch that brought the work in."""
    reason: str = ""
    branch: str | None = None
    """The branch that the task worked on, in its worktree."""
    salvage_ref: str | None = None
    """Where work that did not land is kept, in the repository: `git branch rescued <ref>` gets it back."""
    turns: int = 0
    review_rounds: int = 0
    cost_usd: float = 0.0
    tokens: int = 0
    seconds: Seconds = Seconds()


class TaskStatus(Model):
    """Answer of the query `status`: what is going on, what it waits for, what moves it on."""

    task_id: str
    title: str
    stage: Stage
    waiting_for: str = ""
    next_command: str = ""
    blocked: Blocked | None = None
    paused: bool = False
    said: str = ""
    """The last lines that an agent said."""
    plan: str = ""
    """Beginning of the plan; the query `plan` has all of it."""
    worktree: str | None = None
    branch: str | None = None
    salvage_ref: str | None = None
    turns: int = 0
    review_rounds: int = 0
    gate_failures: int = 0
    merge_attempts: int = 0
    cost_usd: float = 0.0
    tokens: int = 0
    seconds: Seconds = Seconds()
    undelivered_messages: list[str] = []
    problems: list[str] = []
    """Signals that were ignored, and why."""
    outcome: Outcome | None = None
    sha: str | None = None
    reason: str = ""


# --- the merge queue -------------------------------------------------------------------------------


class MergeAnswer(Model):
    """How one candidate ended, from the merge queue to its task."""

    op: str
    kind: Literal["landed", "noop", "conflict", "stale", "gate_red", "withdrawn", "failed"]
    sha: str | None = None
    base: str | None = None
    conflict: Conflict | None = None
    gates: list[GateResult] = []
    reason: str = ""


class QueueNote(Model):
    """Something about a candidate that waits, for its task's status."""

    op: str
    text: str


class QueueEntry(Model):
    candidate: Candidate
    state: Literal["waiting", "building", "gates", "landing", "held"] = "waiting"
    reason: str = ""
    not_before: float = 0.0
    """Held until then: seconds since the epoch."""
    holds: int = 0


class QueueState(Model):
    """All that a merge queue carries over a continue-as-new."""

    repo: str
    target: str
    entries: list[QueueEntry] = []
    recent: list[MergeAnswer] = Field(default=[], max_length=200)
    landed: int = 0
    ejected: int = 0
    paused: bool = False


class QueueStatus(Model):
    """Answer of the merge queue's query `queue`."""

    repo: str
    target: str
    paused: bool
    entries: list[QueueEntry]
    landed: int
    ejected: int
    last: list[MergeAnswer]
