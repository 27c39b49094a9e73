"""What activities take and return.

Payloads carry paths, shas and short tails; bulk (diffs, prompts, transcripts, gate logs) lies in the
task's run folder. Everything here is small by construction: texts are cut where they are made, with
`tail()`, and say where the rest is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

TAIL = 3_000
"""Characters of an output's end that travel in a payload (FEATURES A11)."""


INVALID_TASK = "InvalidTask"
"""Failure type: the input, the repository or the host is not as the task needs it. Never tried again."""


def explain(error: ValidationError) -> str:
    """A refused input in one line: every field with what is wrong with it, and no value of it."""
    words = {"extra_forbidden": "unknown field", "missing": "required, but not given"}
    found = error.errors(include_url=False, include_input=False, include_context=False)
    said = "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'input'}: "
        f"{words.get(item['type'], item['msg'].removeprefix('Value error, '))}"
        for item in found
    )
    return " ".join(said.split())  # the name of an unknown field may hold anything


def tail(text: str, limit: int = TAIL) -> str:
    """The end of `text`, at most `limit` characters; a cut is marked."""
    return text if len(text) <= limit else "…" + text[len(text) - limit + 1 :]


class Model(BaseModel):
    """Base of every contract: immutable, and a field that it does not know is refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- what an operator configures -----------------------------------------------------------------

YEAR_SECONDS = 365 * 86_400
"""No time limit is longer: a timer could not hold a much longer one, and the task would hang."""

Role = Literal["planner", "executor", "reviewer", "fixer", "resolver"]
Strategy = Literal["merge", "squash", "rebase", "ff-only"]


def _short_agent(value: Any) -> Any:
    """`"codex:gpt-5.5:medium"` is `{"runtime": "codex", "model": "gpt-5.5", "reasoning": "medium"}`."""
    if not isinstance(value, str):
        return value
    parts = value.split(":")
    if len(parts) > 3:
        raise ValueError("the short form of an agent is runtime[:model[:reasoning]]")
    if not parts[0]:
        raise ValueError("the short form of an agent begins with its runtime")
    return {name: part for name, part in zip(("runtime", "model", "reasoning"), parts, strict=False) if part}


class AgentSpec(Model):
    """One agent: which CLI, which model, and how long a turn of it may take."""

    runtime: str = "claude-code"
    model: str | None = None
    reasoning: str | None = None
    command: list[str] = []
    """argv of the `command` runtime; the prompt comes on its standard input."""
    max_turns: int = Field(50, ge=1, strict=True)
    turn_timeout_minutes: float = Field(60, gt=0, le=YEAR_SECONDS / 60)
    idle_timeout_minutes: float = Field(15, gt=0, le=YEAR_SECONDS / 60)
    env: dict[str, str] = {}
    prompts: list[str] = []
    """Extra instructions: paths of text files, relative to the repository, read from the target branch."""

    @model_validator(mode="after")
    def _command_runtime(self) -> AgentSpec:
        if self.runtime == "command" and not self.command:
            raise ValueError('the runtime "command" needs `command`, an argv such as ["./agent.sh"]')
        if self.command and self.runtime != "command":
            raise ValueError('`command` belongs to the runtime "command" only')
        return self

    def label(self) -> str:
        """How commits and the UI name this agent: `codex (gpt-5.5)`."""
        return f"{self.runtime} ({self.model})" if self.model else self.runtime


Agent = Annotated[AgentSpec, BeforeValidator(_short_agent)]


class GateSpec(Model):
    """A shell command that must exit 0 on the commit that lands."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    command: str = Field(min_length=1)
    timeout_seconds: float = Field(600, gt=0, le=YEAR_SECONDS)


class Limits(Model):
    """When to stop trying. Counts start again when an operator continues a blocked task."""

    max_working_resumes: int = Field(5, ge=0, strict=True)
    max_needs_followups: int = Field(1, ge=0, strict=True)
    max_review_rounds: int = Field(5, ge=1, strict=True)
    max_gate_failures: int = Field(5, ge=1, strict=True)
    max_merge_attempts: int = Field(5, ge=1, strict=True)
    max_cost_usd: float | None = Field(None, gt=0)
    max_agent_minutes: float | None = Field(None, gt=0)


class Delivery(Model):
    """How finished work reaches the target branch."""

    kind: Literal["merge"] = "merge"
    strategy: Strategy = "merge"


class TaskSettings(Model):
    """What the repository's `mergewright.toml` may set; the task's own input wins over it."""

    acceptance: list[str] = []
    files: list[str] = []
    target: str | None = None
    """Branch to land on; none: the repository's current default branch."""
    agent: Agent = AgentSpec()
    reviewers: list[Agent] = []
    resolver: Agent | None = None
    """Who resolves conflicts; none: the agent itself, in its own session."""
    gates: list[GateSpec] = []
    interactive: bool = Field(False, strict=True)
    limits: Limits = Limits()
    delivery: Delivery = Delivery()
    on_blocked: Literal["wait", "fail"] = "wait"
    plan_timeout_hours: float = Field(48, gt=0, le=YEAR_SECONDS / 3_600)
    """How long a plan waits for its approval before the task is blocked."""

    @field_validator("gates")
    @classmethod
    def _distinct_gates(cls, gates: list[GateSpec]) -> list[GateSpec]:
        names = [gate.name for gate in gates]
        if len(set(names)) < len(names):
            raise ValueError("two gates have the same name")
        return gates


class TaskInput(TaskSettings):
    """Input of `TaskWorkflow`: one JSON object, only `repo` and `title` are required."""

    repo: str = Field(min_length=1)
    title: str
    description: str = ""

    @field_validator("title")
    @classmethod
    def _one_line(cls, title: str) -> str:
        if len(title.strip().splitlines()) != 1:
            raise ValueError("must be one line; put the rest into `description`")
        return title.strip()

    @field_validator("repo")
    @classmethod
    def _absolute(cls, repo: str) -> str:
        if not repo.startswith("/"):
            raise ValueError("must be an absolute path on the worker's host")
        return repo


# --- what travels between workflow and activities ------------------------------------------------


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


Ask = Literal[
    "plan",  # write a plan, no code
    "revise_plan",  # the operator sent the plan back
    "start",  # do the task
    "resume",  # go on, you did not say whether you are done
    "nudge",  # last chance to wrap up
    "followup",  # you said NEEDS_FOLLOWUP; once more
    "gate_red",  # a gate failed
    "review",  # judge this diff
    "fix",  # the reviewer asked for changes
    "resolve",  # merge conflict with the target
    "continue",  # an operator continues a blocked task
]


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
    messages: list[str] = []
    """What operators said since the last turn."""
    plan: str = ""
    """File of the approved plan."""
    detail: str = ""
    """Short text that the ask needs: the reason of a follow-up, the operator's feedback."""
    evidence: list[str] = []
    """Files of the run folder that the ask is about: gate logs, reviews, a diff."""
    commit: str | None = None
    """The exact sha that a reviewer judges, or a planner reads: the tree is put back to it after the turn."""
    budget_usd: float | None = None
    """What this turn may cost, for runtimes that can stop by themselves."""


class Usage(Model):
    """What one turn used. Differences, never cumulative figures of a session."""

    cost_usd: float = 0.0
    input_tokens: int = 0
    cached_tokens: int = 0
    """The part of the input that came from the provider's cache."""
    output_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            cost_usd=self.cost_usd + other.cost_usd,
            input_tokens=self.input_tokens + other.input_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
        )


TurnEnd = Literal[
    "done",  # the agent ended its turn; `signal` or `verdict` say with what
    "max_turns",  # the CLI stopped at its own turn or budget limit; the session goes on
    "limited",  # rate or usage limit; `retry_after_seconds` where it was stated
    "login",  # not logged in, key refused, out of credit: a person must act
    "lost_session",  # the session to resume does not exist (any more): start cold
    "timeout",  # wall or idle time-out
    "failed",  # anything else; `reason` is the evidence
]


class TurnResult(Model):
    end: TurnEnd
    signal: Literal["complete", "needs_followup"] | None = None
    verdict: Literal["approved", "needs_changes"] | None = None
    reason: str = ""
    """Why it ended so, in one line: of the follow-up, of the limit, of the failure."""
    session: str | None = None
    said: str = ""
    """The end of the agent's final text; of a planner, the beginning of the plan."""
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


class CollectInput(Model):
    """Commit what the agent left, and look at what there is."""

    ref: TaskRef
    message: str
    """Subject of the commit of what the agent left uncommitted."""


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


class GateResult(Model):
    name: str
    passed: bool
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


class Candidate(Model):
    """One piece of work that wants to land. Its id is the idempotency key of the landing."""

    op: str
    """sha256(repository, target, task, head, strategy), 16 hex digits."""
    ref: TaskRef
    head: str
    strategy: Strategy
    title: str
    agent: str
    reviewers: list[str]
    author: str
    """`Name <mail>`, of the task's commits."""
    date: int
    """Seconds since the epoch: every commit of the landing carries this date, so the same inputs give the same sha."""
    gates: list[GateSpec] = []
    host: str
    """Of the repository: the merge queue's work runs there."""
    answer_to: str
    """Workflow that is told how it ended."""


class SubmitInput(Model):
    ref: TaskRef
    head: str
    strategy: Strategy
    title: str
    agent: str
    reviewers: list[str]
    gates: list[GateSpec]
    host: str
    date: int
    """Seconds since the epoch: of the commits that the landing makes."""


class Submitted(Model):
    op: str
    queue: str
    """Workflow id of the merge queue."""


class Conflict(Model):
    """Why a head does not merge: every path with the kinds of its conflicts."""

    files: list[str]
    messages: list[str]


class BuildInput(Model):
    candidate: Candidate


class Built(Model):
    """A commit that would land, or why there is none."""

    kind: Literal["built", "conflict", "noop", "stale", "landed"]
    """`noop`: nothing left to land. `stale`: ff-only, and the target has moved. `landed`: an earlier run did it."""
    base: str
    tip: str | None = None
    tree: str | None = None
    conflict: Conflict | None = None


class LandInput(Model):
    candidate: Candidate
    base: str
    tip: str


class Landed(Model):
    kind: Literal["landed", "lost_race", "blocked"]
    sha: str
    """Where the target is now."""
    checkout: str | None = None
    """The worktree that blocks."""
    in_the_way: list[str] = []
    """Files of the user's checkout that the landing would have touched; or what else is going on there."""
    reason: str = ""


class SettleInput(Model):
    ref: TaskRef
    outcome: str
    landed_head: str | None = None
    """The head whose work is on the target; what goes beyond it is saved."""
    ops: list[str] = []
    """Candidates that the task submitted: what the repository pinned for them is let go."""


class Settled(Model):
    salvage_ref: str | None = None
    salvaged_files: int = 0


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
