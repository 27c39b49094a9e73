"""What an operator gives a swarm: its input, or the repository's `swarm.toml`. `oompa.json` is read by `oompa`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from activities.settings import YEAR_SECONDS, Agent, AgentSpec, Model

MAX_MEMBERS = 200
"""Workers of one swarm."""


def _many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Prompts = Annotated[list[str], BeforeValidator(_many)]
"""Files of the repository, on the target; or one of ours by its name: planner, executor, worker, reviewer, docs."""


class WorkerSpec(Model):
    """Some workers of one kind: an agent, what it is told, and how long it goes on."""

    name: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,40}$")
    """Empty: `worker-1`, by its place in the list. Its members are `worker-1.1`, `worker-1.2` …"""
    agent: Agent = AgentSpec()
    fallbacks: list[Agent] = []
    prompts: Prompts = []
    """Put together; none: `executor`, or `worker` where it can plan."""
    count: int = Field(1, ge=0, le=MAX_MEMBERS, strict=True)
    can_plan: bool = Field(False, strict=True)
    """It may add tasks to the board, and plans where nobody else does."""
    claims: bool = Field(False, strict=True)
    """Its agent chooses its tasks itself, with CLAIM(id, …). Else each cycle begins with the best task of the board."""
    max_cycle: int = Field(1_000_000, ge=1, strict=True)
    """Cycles of each member: one is from a claim to its end."""
    wait_between: float = Field(0, ge=0, le=YEAR_SECONDS)
    """Seconds between two cycles."""
    max_wait_for_tasks: float = Field(600, ge=0, le=YEAR_SECONDS)
    """Seconds without a task that it could do, and nobody who makes one; then it stops."""
    max_working_resumes: int | None = Field(None, ge=0, strict=True)
    max_needs_followups: int | None = Field(None, ge=0, strict=True)
    reviewers: list[Agent] | None = None
    """Before those of the swarm; []: nobody reviews what it does."""


class PlannerSpec(Model):
    """Makes tasks of the spec."""

    agent: Agent = AgentSpec()
    fallbacks: list[Agent] = []
    prompts: Prompts = []
    """None: `planner`."""
    max_pending: int = Field(10, ge=1, le=1_000, strict=True)
    """It plans while fewer tasks are pending, and is told how many it may add."""
    max_cycle: int = Field(1_000, ge=1, strict=True)
    wait_between: float = Field(0, ge=0, le=YEAR_SECONDS)


class SwarmSettings(Model):
    """What a repository's `swarm.toml` may say; the swarm's own input wins over it."""

    target: str | None = None
    spec: str = "spec.md"
    """File of the repository that says what is wanted, on the target. Without it nobody plans."""
    workers: list[WorkerSpec] = Field([], max_length=50)
    """None: two of the first agent CLI that is installed."""
    planner: PlannerSpec | None = None
    reviewers: list[Agent] | None = None
    """Of all workers. None: as `mergewright.toml` says."""
    task: dict[str, Any] = {}
    """Fields of every task, as in `mergewright.toml`: gates, limits, delivery, resolver …"""
    mirror: bool = Field(False, strict=True)
    """The board is written to `tasks/` on the target."""
    max_tries: int = Field(2, ge=1, le=100, strict=True)
    """Of one task, by whomever; then it is blocked."""
    max_claims: int = Field(5, ge=1, le=100, strict=True)
    """That one cycle may hold."""
    error_backoff_seconds: float = Field(60, gt=0, le=YEAR_SECONDS)
    """After a worker's first error in a row; twice as long after each further one."""
    max_errors: int = Field(5, ge=1, le=100, strict=True)
    """In a row; then the worker stops (FEATURES D7)."""
    max_cost_usd: float | None = Field(None, gt=0)
    """Of all its tasks; then no cycle is begun any more."""
    on_blocked: Literal["wait", "fail"] = "wait"
    """wait: a blocked task waits for an operator, while its worker goes on with another. fail: it ends, and whoever is
    free tries it again."""

    @field_validator("workers", mode="before")
    @classmethod
    def _several(cls, workers: Any) -> Any:
        if isinstance(workers, dict):
            raise ValueError("must be a list: in TOML [[workers]], once for each kind")
        return workers

    @field_validator("workers")
    @classmethod
    def _members(cls, workers: list[WorkerSpec]) -> list[WorkerSpec]:
        if (members := sum(worker.count for worker in workers)) > MAX_MEMBERS:
            raise ValueError(f"{members} in all: at most {MAX_MEMBERS} (`count`)")
        names = [worker.name for worker in workers if worker.name]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two have the name {twice}: give each its own, or one `count`")
        return workers


class SwarmInput(SwarmSettings):
    """Input of `SwarmWorkflow`: one JSON object, only `repo` is required."""

    repo: str = Field(min_length=1)
    file: str | None = None
    """Of the repository, on the target: `swarm.toml` or `oompa.json`. None: whichever is there; the input's own fields
    win over it."""
    continues: str = Field("", max_length=200)
    """Workflow id of an earlier swarm of the repository that is over: what it left open is on the board again."""

    @field_validator("repo")
    @classmethod
    def _absolute(cls, repo: str) -> str:
        if not repo.startswith("/"):
            raise ValueError("must be an absolute path on the worker's host")
        return repo
