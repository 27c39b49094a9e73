"""What an operator configures: a task's input, and what a repository's `mergewright.toml` may set."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pathspec import GitIgnoreSpec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

TAIL = 3_000
"""Characters of an output's end that travel in a payload (FEATURES A11)."""


INVALID_TASK = "InvalidTask"
"""Failure type: the input, the repository or the host is not as the task needs it. Never tried again."""
NO_ROOM = "NoRoom"
"""Failure type: the disk is too full. The task waits, and looks again."""
SETUP_FAILED = "SetupFailed"
NOTHING_KEPT = "NothingKept"
"""The type of the error of a turn that cannot begin with an earlier worktree: it is not there."""
"""Failure type: a worktree cannot be made ready, for what a person must mend. The message has the evidence."""


def explain(error: ValidationError) -> str:
    """A refused input in one line: every field with what is wrong with it, and no value of it."""
    words = {"extra_forbidden": "unknown field", "missing": "required, but not given"}
    words |= {"model_type": "must be an object with fields (in TOML a table)", "list_type": "must be a list"}
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


YEAR_SECONDS = 365 * 86_400
"""No time limit is longer: a timer could not hold a much longer one, and the task would hang."""

Role = Literal["planner", "executor", "reviewer", "fixer", "resolver", "compactor"]
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
    account: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?$")
    """An account of the worker's configuration, `work` or `anthropic/work`; none: the vendor's default one."""
    command: list[str] = []
    """argv of the `command` runtime; the prompt comes on its standard input."""
    max_turns: int = Field(50, ge=1, strict=True)
    """Of the CLI's own turns in one turn of ours."""
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
    network: Literal["none"] | None = None
    """`none`: it needs none, so it has none where the worker has a sandbox. Else what the worker gives to gates."""

    def digest(self) -> str:
        """Names what is run, not what it is called: a result is remembered by it and by the tree."""
        how = f"{self.command}\0network={self.network}" if self.network else self.command
        return hashlib.sha256(how.encode()).hexdigest()[:16]


class Limits(Model):
    """When to stop trying. Counts start again when an operator continues a blocked task."""

    max_working_resumes: int = Field(5, ge=0, strict=True)
    max_needs_followups: int = Field(1, ge=0, strict=True)
    max_questions: int = Field(10, ge=0, strict=True)
    """Of an agent to the operators, by NEEDS_INPUT or by its tool, in one stretch of work."""
    max_review_rounds: int = Field(5, ge=1, strict=True)
    max_gate_failures: int = Field(5, ge=1, strict=True)
    max_merge_attempts: int = Field(5, ge=1, strict=True)
    max_cost_usd: float | None = Field(None, gt=0)
    max_tokens: int | None = Field(None, gt=0, strict=True)
    """Input and output, with what came from the provider's cache."""
    max_agent_minutes: float | None = Field(None, gt=0)
    max_fixup_turns: int = Field(20, ge=1, strict=True)
    """Of a CLI's own turns in one fix-up of a red gate or a review (FEATURES B11); then what there is is looked at."""
    max_fixup_cost_usd: float = Field(1.0, gt=0, allow_inf_nan=False)
    max_limit_wait_minutes: float = Field(10, ge=0, le=YEAR_SECONDS / 60)
    """How long a limit is waited for before the next of `fallbacks` takes over; without one it is waited for."""
    max_cost_usd_per_day: float | None = Field(None, gt=0)
    """Of all tasks of the repository; a day begins at midnight UTC."""


class Delivery(Model):
    """How finished work reaches the target branch."""

    kind: Literal["merge"] = "merge"
    strategy: Strategy = "merge"
    priority: int = Field(0, ge=-1000, le=1000, strict=True)
    """In the merge queue: higher lands sooner. Whoever waits gains a level each half hour, so nobody starves."""
    after: list[str] = []
    """Tasks (their ids) that must have landed before this one lands."""


class TaskSettings(Model):
    """What the repository's `mergewright.toml` may set; the task's own input wins over it."""

    acceptance: list[str] = []
    files: list[str] = []
    labels: list[Annotated[str, Field(min_length=1, max_length=100)]] = Field([], max_length=20)
    """Words to find and to address tasks by."""
    target: str | None = None
    """Branch to land on; none: the repository's current default branch."""
    agent: Agent = AgentSpec()
    fallbacks: list[Agent] = []
    """Who takes over, in this order, when the agent is limited, out of credit, logged out or broken."""
    compactor: Agent | None = None
    """Who summarises a session that has become too long or has failed too often; none: the agent itself."""
    reviewers: list[Agent] = []
    resolver: Agent | None = None
    """Who resolves conflicts; none: the agent itself, in its own session."""
    gates: list[GateSpec] = []
    interactive: bool = Field(False, strict=True)
    limits: Limits = Limits()
    delivery: Delivery = Delivery()
    on_blocked: Literal["wait", "fail"] = "wait"
    plan_timeout_hours: float = Field(48, gt=0, le=YEAR_SECONDS / 3_600)
    """How long a plan, or a landing, waits for its approval before the task is blocked."""
    plan_files: Literal["enforce", "advise"] = "enforce"
    """What a plan's section "Files" is: nothing else may change; or what else changes is only shown."""
    approve_landing: bool = Field(False, strict=True)
    """After gates and review the commit waits for an operator, and exactly that one lands."""

    @field_validator("gates")
    @classmethod
    def _distinct_gates(cls, gates: list[GateSpec]) -> list[GateSpec]:
        names = [gate.name for gate in gates]
        if len(set(names)) < len(names):
            raise ValueError("two gates have the same name")
        return gates


PROTECTED = [
    "mergewright.toml",
    "/swarm.toml",
    "/oompa.json",
    ".worktreeinclude",
    ".gitattributes",
    ".gitmodules",
    ".github/workflows/",
    ".github/actions/",
    ".gitlab-ci.yml",
    ".circleci/",
    "Jenkinsfile",
    "azure-pipelines.yml",
]
"""What decides how others' work is tested, or what git does with it: a person looks at a change of it first."""

Checkout = Literal["hold", "park", "bare"]


class QueueSettings(Model):
    """The merge queue of one branch: `[queue]` in the `mergewright.toml` on that branch."""

    gate_slots: int | None = Field(None, ge=1, le=64, strict=True)
    """Chains tested at once; none: as many as the worker has (`worker.py --gate-slots`)."""
    strict_each: bool = Field(False, strict=True)
    """Test and land every change by itself. Else those that passed together land together, tested as one."""
    checkout: Checkout = "hold"
    """When changes of the user's are in the way in a checkout of the branch. hold: the landing waits for them. park:
    it goes to `mergewright/<branch>`, and the branch follows when it can. bare: the branch moves, and the checkout is
    left as it is: only for checkouts that nobody works in."""
    push: str = ""
    """Name of a remote: what lands is pushed there first, and the branch there is what counts."""
    protected: list[str] = PROTECTED
    """Paths (as in .gitignore) whose change waits for an operator's `allow`."""
    precheck: bool = Field(True, strict=True)
    """A task's own green gates count when the very same tree is to land."""


PolicyRule = Literal[
    "deny", "allow", "plan", "lines", "files", "size", "binary", "secret", "markers", "case", "author", "date",
    "message", "protected", "hook", "submodule", "link",
]  # fmt: skip
"""What each is for, and what to do about it: `faults.policy`."""

BINARIES = [f"*.{ending}" for ending in "png jpg jpeg gif webp ico pdf woff woff2 ttf otf".split()]

EXEMPT: dict[PolicyRule, list[str]] = {"lines": ["*.lock", "package-lock.json", "pnpm-lock.yaml", "go.sum"]}

HOOKS = [
    *(".husky/", ".githooks/", ".hooks/", ".pre-commit-config.yaml", ".pre-commit-hooks.yaml"),
    *("lefthook.yml", ".lefthook.yml", "lefthook-local.yml", ".overcommit.yml", ".lintstagedrc*"),
    *(
        ".claude/settings.json",
        ".claude/hooks/",
        ".mcp.json",
        ".codex/",
        ".gemini/settings.json",
        ".qwen/settings.json",
    ),
    *("opencode.json", ".opencode/plugin/"),
]
"""What git, or an agent's CLI, runs on the machines of those who check the branch out."""

DETECTORS = [
    *("AWSKeyDetector", "AzureStorageKeyDetector", "DiscordBotTokenDetector", "GitHubTokenDetector"),
    *("GitLabTokenDetector", "MailchimpDetector", "NpmDetector", "OpenAIDetector", "PrivateKeyDetector"),
    *("PypiTokenDetector", "SendGridDetector", "SlackDetector", "SquareOAuthDetector", "StripeDetector"),
    *("TelegramBotTokenDetector", "TwilioKeyDetector"),
]
"""Those of detect-secrets that know a secret by its form. High entropy, URLs with a password, and words such as `token`
are not among them: they are wrong too often."""


class Policy(Model):
    """What may land on a branch: `[policy]` in the `mergewright.toml` on that branch. Paths are as in .gitignore."""

    off: list[PolicyRule] = []
    """Not looked at. A change of `mergewright.toml` or `.worktreeinclude` always waits for a person."""
    approve: list[PolicyRule] = []
    """An operator may let it land; the agent is not asked to mend it."""
    exempt: dict[PolicyRule, list[str]] = EXEMPT
    """Paths that a rule does not look at, and does not count; for rules that are not named, the default stays."""
    allow: list[str] = []
    """Nothing else may change; empty: everything may."""
    deny: list[str] = []
    max_lines: int = Field(10_000, ge=1, strict=True)
    """Added and deleted."""
    max_files: int = Field(500, ge=1, strict=True)
    max_file_kb: int = Field(1_024, ge=1, strict=True)
    binaries: list[str] = BINARIES
    """Binary files that may change."""
    hooks: list[str] = HOOKS
    """Their change waits for an operator, as that of `protected` in `[queue]`."""
    detectors: list[str] = DETECTORS
    """Plugins of detect-secrets."""
    not_secret: list[str] = []
    """Fingerprints, as findings name them."""
    secret_pragma: Literal["approve", "allow"] = "approve"
    """A line with `pragma: allowlist secret` waits for an operator, or lands."""
    authors: list[str] = []
    """Mail addresses, `*@example.org`; empty: any. Who commits for the repository always may."""
    subject: str = ""
    """A regular expression that the first line of each commit's message must match; merges need not."""
    max_subject: int = Field(0, ge=0, strict=True)
    """Characters of it; 0: any number."""

    @field_validator("exempt")
    @classmethod
    def _with_defaults(cls, exempt: dict[PolicyRule, list[str]]) -> dict[PolicyRule, list[str]]:
        return {**EXEMPT, **exempt}

    @field_validator("subject")
    @classmethod
    def _is_pattern(cls, subject: str) -> str:
        try:
            re.compile(subject)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return subject


TEMPLATE_NAME = r"^[A-Za-z0-9._-]+$"
MOST_SETUP_SECONDS = 3_000
"""Less than `prepare` may take."""


class SetupCache(Model):
    """What a set-up command makes, kept for as long as what it is made of stays the same."""

    key: list[str] = Field(min_length=1)
    """The files that it depends on: patterns as in .gitignore, of tracked files."""
    paths: list[str] = Field(min_length=1)
    """What it makes: files and folders, relative to the top."""
    command: str = ""
    """The set-up command that makes it; may be left out where there is only one."""

    @field_validator("paths")
    @classmethod
    def _inside(cls, paths: list[str]) -> list[str]:
        for path in paths:
            parts = PurePosixPath(path).parts
            if not parts or path.startswith("/") or ".." in parts or parts[0] == ".git" or "\n" in path:
                raise ValueError(f"{path!r} is no path inside of the worktree")
        return [str(PurePosixPath(path)) for path in paths]


def _is_folder(folder: str) -> str:
    if str(PurePosixPath(folder)) != folder or not set(folder.split("/")).isdisjoint(("", ".", "..", ".git")):
        raise ValueError(f"{folder!r} must be a folder as git names it, services/api")
    if any(ord(character) < 32 for character in folder):
        raise ValueError(f"{folder!r} has a character that no line of a file can hold")
    return folder


Folders = list[Annotated[str, AfterValidator(_is_folder)]]


class WorktreeSettings(Model):
    """What a worktree needs besides the commit: `[worktree]` in the `mergewright.toml` on the target branch. The merge
    queue's gates get the same."""

    copy_: list[str] = Field([], alias="copy")
    """Untracked files of the user's checkout, copied: patterns as in .gitignore."""
    link: list[str] = []
    """The same, linked: what writes there writes in the user's checkout."""
    setup: list[str] = []
    """Shell commands, before the first turn and before gates in a slot. May be run again after a kill."""
    teardown: list[str] = []
    """Shell commands, at the end, whatever it is. One that fails is logged."""
    timeout_seconds: float = Field(900, gt=0, le=MOST_SETUP_SECONDS)
    """Of the set-up commands together, and of the tear-down."""
    cache: list[SetupCache] = []
    ports: int = Field(0, ge=0, le=1_000, strict=True)
    """So many ports of its own, as MERGEWRIGHT_PORT_BASE and MERGEWRIGHT_PORT_0 …"""
    sparse: Folders = []
    """A task's worktree holds these folders, and what lies at the top and in the folders above them; none: everything.
    Gates run on everything all the same."""
    submodules: bool = Field(False, strict=True)
    """They are checked out, as far as the user has their commits; else they stay empty."""

    @model_validator(mode="after")
    def _one_command_each(self) -> WorktreeSettings:
        if not all(self.setup) or not all(self.teardown):
            raise ValueError("setup, teardown: a command is empty")
        names = [entry.command or (self.setup[0] if len(self.setup) == 1 else "") for entry in self.cache]
        if not set(names) <= set(self.setup):
            raise ValueError("cache: name in `command` the set-up command that makes the paths")
        if len(set(names)) < len(names):
            raise ValueError("cache: two entries for one command; put their keys and paths together")
        for pattern in (*self.copy_, *self.link, *(pattern for entry in self.cache for pattern in entry.key)):
            GitIgnoreSpec.from_lines([pattern])  # a ValueError that names it
        return self

    def cache_of(self, command: str) -> SetupCache | None:
        return next((entry for entry in self.cache if entry.command in ("", command)), None)


class Continues(Model):
    """An earlier run of the same task, which has ended without landing."""

    run: str = Field(min_length=12, max_length=100, pattern=r"^[A-Za-z0-9-]+$")
    """Its run id, as Temporal shows it; of several that continued each other as new, the first one's."""
    text: str = ""
    """For the agent."""


CardId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""Of a task of a swarm's board: one word, for CLAIM(id, …), file names and signals."""


class Listed(Model):
    """A task of a board, as an agent is shown it."""

    id: str
    title: str
    priority: int = 0
    files: list[str] = []
    place: str = ""
    """Empty: it is pending."""


class Membership(Model):
    """The task is a worker's cycle: what it does is on the board of a swarm. Filled in by the swarm's workflow."""

    swarm: str
    """Workflow id."""
    key: str
    """Folder of the swarm's run, under `swarms/` in the data folder: the cards are there."""
    worker: str
    """The member's name, `worker-1.2`."""
    cycle: int
    plans: bool = False
    """A planner's cycle: it makes tasks of the spec, and nothing else."""
    can_plan: bool = False
    """It may add tasks to the board besides."""
    claims: list[CardId] = []
    """What it begins with."""
    may_claim: bool = False
    """Its agent may CLAIM what else it wants."""
    open: list[Listed] = Field([], max_length=50)
    """What could be claimed when it began, the best first; for a planner, all that was not complete."""
    counts: dict[str, int] = {}
    """Of the board, by place."""
    spec: str = ""
    max_new_tasks: int = 0


class TaskInput(TaskSettings):
    """Input of `TaskWorkflow`: one JSON object, only `repo` and `title` are required."""

    repo: str = Field(min_length=1)
    template: str | None = Field(None, pattern=TEMPLATE_NAME)
    """Of `[templates]` in the `mergewright.toml` on the target branch: its fields where the task gives none."""
    title: str = Field("", validate_default=True)
    description: str = ""
    sparse: Folders | None = None
    """What its worktree holds, instead of what `[worktree]` says; []: everything."""
    continues: Continues | None = None
    """Its saved work is what the task begins with: `starter.py continue` fills it in."""
    swarm: Membership | None = None
    """Of whose board it works on tasks."""

    @field_validator("title")
    @classmethod
    def _one_line(cls, title: str, info: ValidationInfo) -> str:
        if not title:
            if info.data.get("template"):
                return ""  # the template has one
            raise PydanticCustomError("missing", "Field required")
        if len(title.strip().splitlines()) != 1:
            raise ValueError("must be one line; put the rest into `description`")
        return title.strip()

    @field_validator("repo")
    @classmethod
    def _absolute(cls, repo: str) -> str:
        if not repo.startswith("/"):
            raise ValueError("must be an absolute path on the worker's host")
        return repo
