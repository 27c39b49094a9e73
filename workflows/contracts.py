"""What operators send and read, and what workflows say to each other.

`TaskInput` and its parts are declared where activities can read them too, and belong to this contract.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from activities.contracts import Finding, GateResult, Message, QuotaConfig, TurnEnd, Usage
from activities.queue_contracts import Conflict, Evidence, QueueEntry
from activities.settings import AgentSpec, GateSpec, Limits, Model, Role, TaskInput
from workflows.policy.speculation import Odds

__all__ = [
    "AgentSpec",
    "Blocked",
    "BlockedReason",
    "Code",
    "GateSpec",
    "LandResult",
    "LandStatus",
    "Limits",
    "MergeAnswer",
    "Message",
    "Outcome",
    "Priority",
    "Proposal",
    "QueueEntry",
    "QueueMode",
    "QueueNote",
    "QueuePlace",
    "QueueState",
    "QueueStatus",
    "QueueTest",
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
    QUESTION = "awaiting answer"
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
    QUESTIONS = "questions used up"
    GATES_RED = "gates red"
    REVIEW_ROUNDS = "review rounds used up"
    NO_VERDICT = "no reviewer gave a verdict"
    MERGE_ATTEMPTS = "merge attempts used up"
    LOGIN = "login missing"
    REFUSED = "the model will not do it"
    AGENT_FAILED = "agent failed"
    GATES_BROKEN = "gates cannot pass on this machine"
    BUDGET = "budget used up"
    PLAN_TIMEOUT = "plan not approved in time"
    LANDING_TIMEOUT = "landing not approved in time"
    POLICY = "needs a person's leave to land"
    PUSH_REJECTED = "the remote does not take it"
    ESCAPE = "changed what no turn may change"
    SETUP = "the worktree cannot be set up"
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
    runtime: str = ""
    model: str = ""
    account: str = ""
    end: TurnEnd
    verdict: Literal["approved", "needs_changes"] | None = None
    """Of a reviewer."""
    usage: Usage
    seconds: float
    attempts: int = 1
    """More than one: the worker was lost, and the turn was taken up again."""
    ended: float = 0.0
    """Seconds since the epoch."""


class CostLine(Model):
    """What the turns of one agent used together."""

    runtime: str
    model: str
    turns: int
    attempts: int
    usage: Usage
    seconds: float


class GateLine(Model):
    """One gate's last run, on the task's own work."""

    name: str
    passed: bool
    fault: str = ""
    seconds: float = 0.0


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


class Proposal(Model):
    """A task that an agent thinks should be done; nobody does it unless an operator starts it."""

    turn: int
    title: str
    description: str


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
    plan_hash: str = ""
    landing: str | None = None
    """Sha of the work that waits for approval to land."""
    planned: list[str] = []
    """What the plan says that it changes, and what an operator has allowed besides: patterns as in .gitignore."""
    touched: list[str] = []
    """At most 50 of the files that the work changes."""
    unplanned: list[str] = []
    """At most 50 of those that the plan does not name."""
    priority: int | None = None
    """In the merge queue, where an operator has set it."""
    worktree: str | None = None
    branch: str | None = None
    salvage_ref: str | None = None
    turns: int = 0
    review_rounds: int = 0
    gate_failures: int = 0
    merge_attempts: int = 0
    cost_usd: float = 0.0
    tokens: int = 0
    usage: Usage = Usage()
    costs: list[CostLine] = []
    """By runtime and model."""
    warnings: list[str] = []
    """Of budgets that are nearly used up, or cannot be watched."""
    agent: str = ""
    """Who has the task now: the first, or one of the fallbacks."""
    run_folder: str | None = None
    """On the worker's host: prompts, transcripts and logs of every turn."""
    seconds: Seconds = Seconds()
    undelivered_messages: list[str] = []
    messages: list[Message] = []
    """The newest, delivered or not, with the agent's answers; long texts are cut."""
    question: str = ""
    """What the agent has asked, and nobody has answered."""
    progress: str = ""
    """What the agent reported last of its running turn."""
    proposals: list[Proposal] = []
    """At most 20."""
    repo: str = ""
    labels: list[str] = []
    overlaps: list[str] = []
    """Tasks in flight that change the same lines: `task-7 (Add login): src/app.py, src/b.py`."""
    gates: list[GateLine] = []
    """As they ran last in the worktree; the merge queue runs them on what lands."""
    findings: list[Finding] = []
    """At most 20 that the policy of the target has of the work: the agent mends them, or an operator is asked."""
    problems: list[str] = []
    """Signals that were ignored, and why."""
    swarm: str = ""
    """Whose worker it is: workflow id."""
    worker: str = ""
    holds: list[str] = []
    """Tasks of the swarm's board that it works on."""
    outcome: Outcome | None = None
    sha: str | None = None
    reason: str = ""


# --- the merge queue -------------------------------------------------------------------------------


class Code(StrEnum):
    """Why a candidate was sent back, or why a queue waits. Each comes with its evidence."""

    CONFLICT = "CONFLICT"
    """It does not merge with the target."""
    GATE_RED = "GATE_RED"
    """Its gates are red on the target, twice, and the target is green without it."""
    SEMANTIC_CONFLICT = "SEMANTIC_CONFLICT"
    """As GATE_RED, and its own gates were green before others landed."""
    GATE_INFRA = "GATE_INFRA"
    """The gates could not be run, or cannot pass on this machine."""
    MAIN_RED = "MAIN_RED"
    """The target itself is red: nobody in the queue is to blame."""
    CAS_LOST = "CAS_LOST"
    """Somebody pushed to the target meanwhile. Costs nobody anything."""
    HEAD_MOVED = "HEAD_MOVED"
    """The branch is not any more where it was when it was sent in."""
    CHECKOUT_BLOCKED = "CHECKOUT_BLOCKED"
    """Changes of the user's in a checkout of the target are in the way."""
    POLICY = "POLICY"
    """The policy of the target does not let it land."""
    PUSH_REJECTED = "PUSH_REJECTED"
    """The remote does not take it."""
    NOOP = "NOOP"
    """The target has all of it already."""


class MergeAnswer(Model):
    """How one candidate ended, from the merge queue to its task."""

    op: str
    kind: Literal[
        "landed", "noop", "conflict", "stale", "gate_red", "withdrawn", "failed", "gate_infra", "head_moved", "policy",
        "push_rejected",
    ]  # fmt: skip
    sha: str | None = None
    base: str | None = None
    conflict: Conflict | None = None
    gates: list[GateResult] = []
    reason: str = ""
    task_id: str = ""
    submission: str = ""
    code: Code | None = None
    """None: it landed, or was taken back."""
    evidence: Evidence = Evidence()
    at: float = 0.0
    """Seconds since the epoch."""


class QueueNote(Model):
    """Something about a candidate that waits, for its task's status."""

    op: str
    text: str
    wants_leave: bool = False
    """It waits for an operator's `allow`."""


QueueMode = Literal["open", "paused", "draining", "frozen"]
"""paused: nothing is tested and nothing lands. draining: who is in goes on, newcomers wait. frozen: the target is
red, so nobody is judged; only what comes after the freeze is tested, for one of them may mend it."""


class QueueState(Model):
    """All that a merge queue carries over a continue-as-new."""

    repo: str
    target: str
    host: str = ""
    """Where the repository is, and so the queue's work is done."""
    entries: list[QueueEntry] = []
    recent: list[MergeAnswer] = Field(default=[], max_length=200)
    landed: int = 0
    ejected: int = 0
    mode: QueueMode = "open"
    mode_reason: str = ""
    mode_since: int = 0
    """Number of the first candidate that came after the queue was drained or frozen."""
    frozen_on: str = ""
    """Sha of the red target: when the target moves, the freeze is over. Empty: an operator froze it."""
    drained: int | None = None
    """`mode_since` of a queue that was draining before its target was found red: it goes on so."""
    arrivals: int = 0
    odds: Odds = Odds()
    gate_seconds: float = 0.0
    """Of a run of the gates, lately."""
    flaky: dict[str, int] = {}
    """Gates that were red and then green on the same commit, and how often."""
    green: list[str] = []
    """Digests of the gates that are green on `green_on`, a tip of the target."""
    green_on: str = ""
    behind: str = ""
    """Why the local branch or a checkout did not come along with the last landing."""
    trouble: str = ""
    """Why chains can be neither built nor landed: of the repository, its remote or its settings. Tried again."""


class QueuePlace(Model):
    """One candidate as operators see it."""

    op: str
    task_id: str
    title: str
    state: Literal["waiting", "testing", "held", "approval", "landing"]
    why: str = ""
    priority: int = 0
    since: float
    expected: float | None = None
    """When it has probably landed: seconds since the epoch, an estimate."""


class QueueTest(Model):
    """One chain whose gates run."""

    tasks: list[str]
    """None: the target itself is tested."""
    tip: str
    since: float
    confirming: bool = False


class QueueStatus(Model):
    """Answer of the merge queue's query `queue`."""

    repo: str
    target: str
    base: str = ""
    mode: QueueMode = "open"
    mode_reason: str = ""
    slots: int = 1
    p: float
    """Estimated share of candidates that are sent back."""
    gate_seconds: float = 0.0
    places: list[QueuePlace] = []
    """In the order in which they should land."""
    waiting: int = 0
    """All of them."""
    tests: list[QueueTest] = []
    landed: int = 0
    ejected: int = 0
    flaky: dict[str, int] = {}
    behind: str = ""
    trouble: str = ""
    last: list[MergeAnswer] = []


class Priority(Model):
    """Argument of the merge queue's update `set_priority`."""

    task: str
    """Its id, or the op of its candidate."""
    priority: int = Field(ge=-1000, le=1000, strict=True)


# --- a branch that goes through the merge queue without a task -----------------------------------------


class LandResult(Model):
    outcome: Literal["merged", "no-changes", "sent-back", "withdrawn"]
    sha: str | None = None
    """The commit on the target that brought the branch in."""
    code: Code | None = None
    """Of `sent-back`; none where it was our own trouble."""
    reason: str = ""
    evidence: Evidence = Evidence()


class LandStatus(Model):
    """Answer of the query `status` of a `LandWorkflow`."""

    task_id: str
    repo: str = ""
    branch: str = ""
    target: str | None = None
    queue: str = ""
    """Workflow id of the merge queue; empty: it is not sent in yet."""
    op: str = ""
    waiting_for: str = ""
    problems: list[str] = []
    """Signals that were ignored, and why."""
    result: LandResult | None = None


# --- quotas ----------------------------------------------------------------------------------------


class Refusal(Model):
    """A limit that outlasted the CLI's own retries, or an account without credit."""

    kind: Literal["limited", "credit"]
    reason: str
    retry_after_seconds: float | None = None
    """From now on; only where it was stated."""


class LeaseRequest(Model):
    """A task asks whether it may take a turn. Asked again, it is the same request."""

    lease: str
    """Unique for each turn and attempt."""
    holder: str
    """Workflow id of the task."""
    what: str
    """For the operator: `executor turn 3`."""


class LeaseGrant(Model):
    quota: str
    lease: str
    cap_usd: float | None = None
    """What the turn may cost, of the day's money that is left."""


class LeaseNote(Model):
    """Why a request waits."""

    quota: str
    lease: str
    text: str
    until: float | None = None
    """Seconds since the epoch; none: unknown."""
    trouble: str = ""
    """Names the incident, the same for all who wait and for as long as it lasts; empty: it is only crowded."""


class LeasePing(Model):
    """Do you still hold, or wait for, this?"""

    quota: str
    lease: str


class LeaseReturn(Model):
    lease: str
    usage: Usage = Usage()
    worked: bool = True
    """The model answered: proof that the account is well."""
    refused: Refusal | None = None


class Lease(Model):
    request: LeaseRequest
    since: float
    cap_usd: float | None = None


class QuotaState(Model):
    """All that a quota carries over a continue-as-new, and what its query answers."""

    name: str
    """`anthropic/default`, or `repository/app-1a2b3c4d`."""
    config: QuotaConfig = QuotaConfig()
    slots_override: int | None = None
    """Set by an operator: outweighs the configuration."""
    held: bool = False
    """By an operator."""
    parked_until: float | None = None
    """Seconds since the epoch."""
    parked_since: float = 0.0
    limited_since: float = 0.0
    """The first refusal since the model last answered."""
    parked_for: str = ""
    strikes: int = 0
    """Refusals without a stated time since the model last answered: they lengthen the back-off."""
    refusals: int = 0
    recovering: bool = False
    """After a park: one goes first, to see whether it is over."""
    staggering: bool = False
    """After that: those who waited start one by one."""
    next_grant_at: float = 0.0
    leases: list[Lease] = []
    waiting: list[Lease] = []
    day: int = 0
    """Days since the epoch, UTC."""
    spent_today: float = 0.0
    days_granted: int = 1
    """How often today's money was granted: an operator's `wake` grants it once more."""
