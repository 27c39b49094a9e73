"""What activities take and return.

Payloads carry paths, shas and short tails; bulk (diffs, prompts, transcripts, gate logs) lies in the
task's run folder. Everything here is small by construction: texts are cut where they are made, with
`tail()`, and say where the rest is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from activities.settings import (
    AgentSpec,
    GateSpec,
    Listed,
    Model,
    PolicyRule,
    Role,
    Strategy,
    TaskSettings,
)


class TaskRef(Model):
    """Names one run of one task, and where its things are."""

    task_id: str
    """The Temporal workflow id."""
    key: str
    """Folder name of this run: unique for each execution, safe in paths and refs."""
    repo: str
    """Real path of the repository."""
    target: str
    """Full ref name, `refs/heads/main`."""


class PrepareInput(Model):
    task_id: str
    run_id: str
    """First run id of the workflow's chain: a task started anew under an old id gets a new worktree."""
    task: dict[str, Any]
    """What the operator gave, without defaults: those of the repository come first."""


NoticeEvent = Literal["approval", "question", "blocked", "budget", "limit", "merged", "failed", "digest"]
"""What operators can be told of, wherever they are."""


class Earlier(Model):
    """What there is of the run that a task goes on with: its session has gone with its worktree."""

    salvage_ref: str | None = None
    """Its work, which is in the new worktree; none: nothing was saved."""
    summary: str = ""
    """File of the run folder: what its agent said last."""
    plan: str = ""
    """File of the run folder: its plan, when that was approved."""
    planned: list[str] = []


class Prepared(Model):
    """A task that can start: its settings complete, its worktree made, its host known."""

    ref: TaskRef
    host: str
    """Worktree-bound activities run on the task queues of this host."""
    worktree: str
    branch: str
    base: str
    """Sha of the target when the worktree was made."""
    settings: TaskSettings
    """Of each agent the account is the whole name, `vendor/name`, or none where it counts against nobody's limits."""
    run_folder: str = ""
    """Prompts, transcripts and logs of every turn, on that host."""
    day_purse: str = ""
    """The quota of the repository, where its daily spending is capped."""
    notes: list[str] = []
    """What a person and an agent must know of the worktree, one line each."""
    attributes: bool | None = None
    """Whether the search attributes are registered. None: by a worker that did not know of them, nor of the memo."""
    title: str = ""
    """Of the task, or of its template."""
    notify: list[NoticeEvent] = []
    """What the worker's configuration has somebody told of this repository."""
    earlier: Earlier | None = None


Ask = Literal[
    "plan",  # write a plan, no code
    "revise_plan",  # the operator sent the plan back
    "start",  # do the task
    "resume",  # go on, you did not say whether you are done
    "nudge",  # last chance to wrap up
    "followup",  # you said NEEDS_FOLLOWUP; once more
    "answer",  # you asked something, and it was answered
    "heard",  # you were done, but an operator had said something meanwhile
    "gate_red",  # a gate failed
    "review",  # judge this diff
    "review_on",  # go on judging: you were stopped
    "fix",  # the reviewer asked for changes
    "resolve",  # merge conflict with the target
    "continue",  # an operator continues a blocked task
    "takeover",  # go on from where an earlier session has left it
    "compact",  # write down what the next session must know
    "claimed",  # what came of your CLAIM
    "unclaimed",  # you were done, and hold no task of the board
]


READING: tuple[Role, ...] = ("reviewer", "compactor")
"""Roles that nobody talks to. What a reviewer was told by those whose work it judges would be worth nothing."""
OPERATOR = "operator"
OURSELVES = "mergewright"


class Message(Model):
    """What somebody told the agent of a task, and what came of it."""

    id: str = ""
    """`m3`, within the task."""
    sender: str = OPERATOR
    """`operator`, `mergewright`, or the id of the task whose agent it comes from."""
    text: str
    at: float = 0.0
    """Seconds since the epoch."""
    question: str = ""
    """What the agent had asked, where this is the answer."""
    state: Literal["waiting", "delivered"] = "waiting"
    turn: int | None = None
    """In which it was delivered."""
    answer: str = ""
    """The beginning of what the agent said at that turn's end, or what it replied."""
    replied: bool = False
    """It was its own reply to this message."""


class AgentCall(Model):
    """What an agent does by its tools while its turn runs: the worker tells the task so, by the signal `from_agent`."""

    turn: int
    kind: Literal["read", "reply", "ask", "progress", "propose"]
    text: str = Field("", max_length=4_000)
    title: str = Field("", max_length=200)
    """Of a proposal."""
    messages: list[str] = []
    """Ids: those that were read, or the one that is replied to."""


def _message(given: Any) -> Any:
    """Messages were plain texts once, and payloads in flight have some."""
    return {"text": given} if isinstance(given, str) else given


class TurnCaps(Model):
    """What one turn may use; none: as much as it likes. It is ended at its next message when a cap is met."""

    cost_usd: float | None = None
    tokens: int | None = None
    seconds: float | None = None


class Claimed(Model):
    """What came of an agent's CLAIM. What it got are cards on the disk."""

    got: list[str] = []
    refused: list[str] = []
    """`task-7: taken by worker-1.2`."""
    left: list[Listed] = []
    left_count: int = 0
    over: bool = False
    """The swarm has ended: nobody has tasks to give."""


class TurnInput(Model):
    """One turn of one agent. The prompt's text is made in the activity, from templates and the run folder."""

    ref: TaskRef
    turn: int
    """Number of this turn within the task, from 1."""
    role: Role
    agent: AgentSpec
    ask: Ask
    session: str | None = None
    """Resume this session; none: start a new one with the whole prompt."""
    messages: list[Annotated[Message, BeforeValidator(_message)]] = []
    """What operators and other agents said since the last turn."""
    plan: str = ""
    """File of the approved plan."""
    detail: str = ""
    """Short text that the ask needs: the reason of a follow-up, the operator's feedback."""
    evidence: list[str] = []
    """Files of the run folder that the ask is about: gate logs, reviews, a diff."""
    commit: str | None = None
    """The exact sha that a reviewer judges, or a planner reads: the tree is put back to it after the turn."""
    caps: TurnCaps = TurnCaps()
    red_gates: list[str] = []
    """Logs of the gates that were red when they ran last: they stay in the standing instructions (FEATURES A12)."""
    summary: str = ""
    """File that a new session starts from: what the earlier ones did."""
    overlaps: list[Overlap] = []
    """Tasks that were there first and change the same lines."""
    rewind: int | None = None
    """It begins with the worktree as it was after that turn."""
    holds: list[str] = []
    """Tasks of the swarm's board that it works on."""
    claimed: Claimed | None = None
    """What came of its last claim."""


class Usage(Model):
    """What one turn used. Differences, never cumulative figures of a session."""

    cost_usd: float = 0.0
    """As the CLI reports it, else by the price list (`prices.py`)."""
    input_tokens: int = 0
    """All of them, with those from the cache."""
    cached_tokens: int = 0
    """The part of the input that came from the provider's cache."""
    output_tokens: int = 0
    unpriced_tokens: int = 0
    """Tokens of a model whose price nobody knows: they are missing in `cost_usd`."""

    def __add__(self, other: Usage) -> Usage:
        added = {name: getattr(self, name) + getattr(other, name) for name in Usage.model_fields}
        return Usage(**{**added, "cost_usd": round(added["cost_usd"], 9)})  # 0.4 + 0.8 is 1.2

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


TurnEnd = Literal[
    "done",  # the agent ended its turn; `signal` or `verdict` say with what
    "max_turns",  # the CLI stopped at its own turn limit; the session goes on
    "budget",  # stopped because what it may cost is used up; the session goes on
    "limited",  # rate or usage limit, overloaded, no network; `retry_after_seconds` where it was stated
    "credit",  # the account has no money left
    "login",  # not logged in, or the key is refused: a person must act
    "lost_session",  # the session to resume does not exist (any more): start cold
    "context_full",  # the session has become too long for the model
    "refused",  # the model will not do it
    "stalled",  # no output, or nothing but retries of its own, for too long
    "timeout",  # the turn took too long
    "unreadable",  # exit 0, and no result that could be read
    "failed",  # anything else; `reason` is the evidence
]


class Escape(Model):
    """While a turn ran something changed what no turn may change: see `git.guard`."""

    changed: list[str]
    undone: list[str] = []
    kept: str = ""
    """Folder with what was there before it was undone."""


class TurnResult(Model):
    end: TurnEnd
    signal: Literal["complete", "needs_followup", "needs_input", "claim", "nothing"] | None = None
    verdict: Literal["approved", "needs_changes"] | None = None
    reason: str = ""
    """Why it ended so, in one line: of the follow-up, of the limit, of the failure; or what the agent asks."""
    session: str | None = None
    said: str = ""
    """The end of the agent's final text; of a planner, the beginning of the plan."""
    model: str = ""
    """What the CLI said that it used; else what was asked for."""
    digest: str = ""
    """sha256 of the whole final text."""
    retry_after_seconds: float | None = None
    usage: Usage = Usage()
    seconds: float = 0.0
    """Of the agent's process."""
    waited_seconds: float = 0.0
    """For a free slot."""
    text: str = ""
    """File with the final text; its folder has the prompt and the raw output."""
    escape: Escape | None = None
    notes: list[str] = []
    """What else has changed in the repository meanwhile; it may well have been the user."""
    told: list[str] | None = None
    """Ids of the messages that its prompt had; None: an older worker's."""
    files: list[str] = []
    """Of a planner: what its plan names in the section "Files"."""
    claims: list[str] = []
    """Ids that it wants to claim."""


class Overlap(Model):
    """Another task in flight whose work, as it is now, does not merge with that of this one."""

    task: str
    title: str
    files: list[str]
    """At most 20 of those in conflict."""
    earlier: bool
    """It was prepared before this one."""


class Finding(Model):
    """Something that the policy of the target does not let land, or not without a person's leave."""

    rule: PolicyRule
    severity: Literal["mend", "approve"]
    path: str = ""
    """Printable: whatever it holds, it is one word or line. Empty: it is about the whole change, or a commit."""
    line: int = 0
    text: str
    """What is wrong; of a secret never the secret."""
    remedy: str = ""

    def told(self) -> str:
        """`secret: app.py:3: GitHub Token`."""
        where = f"{self.path}:{self.line}" if self.line else self.path
        return ": ".join(filter(None, [self.rule, where, self.text]))


class CollectInput(Model):
    """Commit what the agent left, and look at what there is."""

    ref: TaskRef
    message: str
    """Subject of the commit of what the agent left uncommitted."""
    strategy: Strategy = "merge"
    """How it is to land: the single commits do not, where they are squashed."""
    planned: list[str] = []
    """What may change by the approved plan, patterns as in .gitignore; empty: anything."""
    plan_files: Literal["enforce", "advise"] = "enforce"
    """Whether the agent has to mend it where something else does."""
    task_files: Literal["free", "may", "none", "only"] = "free"
    """Whether it may change files of tasks: it is of no swarm; it may add some; it may not; it does nothing else."""
    max_new_tasks: int = 0
    """Of a planner; 0: any number."""


class Collected(Model):
    head: str
    base: str
    """Merge base with the target as it is now."""
    changed: bool
    """The work differs from its base in at least one file."""
    files: list[str]
    """At most 50 of the files that differ."""
    file_count: int
    merged_target: bool
    """The target's present tip is contained in the head."""
    unresolved: list[str] = []
    """Files that still hold conflict markers of a merge in progress."""
    overlaps: list[Overlap] = []
    """At most 50, those that were there first before the others."""
    findings: list[Finding] = []
    """At most 20 of the preflight's."""
    preflight: GateResult | None = None
    """Red, with the table of all findings as its log, where the agent must mend something."""
    unplanned: list[str] = []
    """At most 50 of the files that differ and that the plan does not name."""
    only_tasks: bool = False
    """Files of tasks are all that differs (FEATURES A8)."""


class GateResult(Model):
    name: str
    passed: bool
    fault: str = ""
    """Class of the failure, where its output is of a known kind (`faults.project`)."""
    hint: str = ""
    hard: bool = False
    """Nothing that an agent could mend in the worktree: a person must act."""
    exit_code: int | None
    """None: the time-out ended it."""
    seconds: float
    tail: str = ""
    log: str = ""


class GatesInput(Model):
    ref: TaskRef
    gates: list[GateSpec]
    commit: str
    """The exact sha they run on."""
    where: Literal["worktree", "slot"]
    """In the task's worktree, or in a clean checkout of the merge queue."""
    number: int = 0
    """Tells the logs of one task apart."""


class GatesResult(Model):
    passed: bool
    results: list[GateResult]
    seconds: float
    waited_seconds: float = 0.0
    """For a free slot."""


class SettleInput(Model):
    ref: TaskRef
    outcome: str
    landed_head: str | None = None
    """The head whose work is on the target; what goes beyond it is saved."""
    ops: list[str] = []
    """Candidates that the task submitted: what the repository pinned for them is let go."""
    cut_off: str = ""
    """Folder of a turn that was ended by cancelling or abandoning the task, `003-executor`."""
    swarm: str = ""
    swarm_key: str = ""
    claims: list[str] = []
    """Tasks of the swarm's board that are done, where the work is on the target."""
    sha: str = ""
    """The commit that brought it there."""


class Settled(Model):
    salvage_ref: str | None = None
    salvaged_files: int = 0
    usage: Usage = Usage()
    """Of the turn that was cut off."""


class UpdateBranchInput(Model):
    """Bring the task's branch up to date with the target."""

    ref: TaskRef
    strategy: Strategy
    message: str


class UpdatedBranch(Model):
    clean: bool
    """Nothing to resolve: the branch is up to date. Else the worktree holds the merge with its markers."""
    head: str
    target: str
    """Sha of the target that was merged in."""
    files: list[str] = []
    report: str = ""
    """File of the run folder: the conflict, both logs and the diffstat, for the resolver."""


class CheckAgentInput(Model):
    """Can this host run it? As `prepare` asks of the agents that the task begins with."""

    agent: AgentSpec
    ref: TaskRef


class QuotaConfig(Model):
    """What the worker's configuration says of an account, or a repository's settings of its day."""

    slots: int | None = None
    """Turns at once; none: any number."""
    max_cost_usd_per_day: float | None = None


class OpenQuotaInput(Model):
    quota: str
    max_cost_usd_per_day: float | None = None
    """Of a repository; an account's is in the worker's configuration."""


TASK_QUEUE = "mergewright"
"""The shared one, unless the workers say otherwise."""


def quota_id(name: str, task_queue: str) -> str:
    """Workflow id of a quota: of `anthropic/default`, or of `repository/app-1a2b3c4d`.

    Workers of another task queue have quotas of their own: a quota is served by the queue that it was started on, and
    would wait for ever for workers that are gone.
    """
    return f"quota/{name}" if task_queue == TASK_QUEUE else f"quota/{name}@{task_queue}"


class Notice(Model):
    """Something to tell operators, once."""

    event: NoticeEvent
    id: str
    """It is told once for each destination, whatever is killed or tried again. Safe in paths."""
    run: str = ""
    """Key of the task's run that the id belongs to, and whose folder has the journal; empty: of no single task."""
    repo: str = ""
    task_id: str = ""
    title: str = ""
    text: str
    """What has happened, or is wanted."""
    command: str = ""
    """That moves it on."""


class CleanUpInput(Model):
    host: str
    home: str = ""
    """The data folder on that host; empty: that of whichever worker takes it."""


class Removed(Model):
    what: str
    """`worktree`, `salvage`, `run`, `slot` …"""
    name: str
    why: str
    freed: int = 0
    """Bytes on the disk."""


class LeftAlone(Model):
    name: str
    why: str
    """Why it cannot be accounted for, and what a person can do."""


class CleanedUp(Model):
    """What one clean-up did; its lists are cut in the history, `janitor.json` in the data folder has all of them."""

    at: float = 0
    """Seconds since the epoch."""
    dry_run: bool = False
    removed: list[Removed] = []
    left: list[LeftAlone] = []
    removed_count: int = 0
    left_count: int = 0
    freed: int = 0
    used: int = 0
    """Bytes that the data folder has now."""
