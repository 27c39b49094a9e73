"""Make a task ready: check all that can be checked before money is spent, then make its worktree."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from pydantic import ValidationError
from temporalio import activity
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError

from activities.again import take_up
from activities.agents import UnknownRuntime, runtime
from activities.config import BadConfig, Config, account_of, agent_environment, load
from activities.contracts import CheckAgentInput, OpenQuotaInput, Prepared, PrepareInput, QuotaConfig, TaskRef, quota_id
from activities.disk import DiskFull, check_room
from activities.git.repository import Repository, RepositoryProblem, open_repository
from activities.git.run import UnsupportedRepository
from activities.git.worktree import Worktree, create
from activities.home import repository_id, safe_name, task_key
from activities.masking import MASKS
from activities.notify import never_prepared, told
from activities.overlaps import note_ref
from activities.process import base_environment
from activities.protected import SETTINGS_FILE, policy_settings, queue_settings
from activities.server import Server, note_server, noted_server, server_of
from activities.settings import (
    INVALID_TASK,
    NO_ROOM,
    SETUP_FAILED,
    AgentSpec,
    GateSpec,
    TaskInput,
    TaskSettings,
    explain,
)
from activities.settle import settle
from activities.setup import check_sparse, set_up_worktree, worktree_settings
from activities.site import Site, blocking, invalid, read_json, task_branch, write_atomically
from activities.swarm import prompt_files
from activities.templates import from_template

REPOSITORY_QUOTA = "repository/"
_ENVIRONMENTS: dict[str, Any] = {
    **{field: {"env"} for field in ("agent", "resolver", "compactor")},
    **{field: {"__all__": {"env"}} for field in ("fallbacks", "reviewers")},
}
"""Of all agents of a task."""


class PrepareActivities:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.telling: set[asyncio.Task[None]] = set()

    @activity.defn
    async def prepare(self, given: PrepareInput) -> Prepared:
        """A second run finds the worktree of the first. Raises InvalidTask, in one line, for what a user must mend."""
        registered = self.site.attributes.is_set()
        try:
            return await self._ready(given, registered)
        except ApplicationError as error:
            if error.type in (SETUP_FAILED, INVALID_TASK):
                self._tell(given, error)
            if error.type == INVALID_TASK:
                raise
            # With this, so that a task that has to wait here is seen too.
            raise ApplicationError(
                error.message, registered, type=error.type, non_retryable=error.non_retryable
            ) from None

    def _tell(self, given: PrepareInput, error: ApplicationError) -> None:
        """The workflow does not know yet who wants to be told. Nobody waits for it."""
        notice = never_prepared(given, error.message, failed=error.type == INVALID_TASK)
        telling = asyncio.create_task(asyncio.to_thread(told, self.site.home, notice))
        self.telling.add(telling)
        telling.add_done_callback(self.telling.discard)

    async def _ready(self, given: PrepareInput, registered: bool) -> Prepared:
        prepared, worktree = await blocking(self._prepare, given, await server_of(self.site.client))
        notes = await self._set_up(prepared, worktree)
        prepared = prepared.model_copy(update={"notes": notes, "attributes": registered})
        if continues := TaskInput.model_validate(given.task).continues:
            earlier = await blocking(take_up, self.site.home, worktree, prepared.ref, continues)
            prepared = prepared.model_copy(update={"earlier": earlier})
        settings = prepared.settings
        for account in sorted({agent.account for agent in agents_of(settings).values() if agent.account}):
            await self.open_quota(OpenQuotaInput(quota=account))
        if prepared.day_purse:
            cap = settings.limits.max_cost_usd_per_day
            await self.open_quota(OpenQuotaInput(quota=prepared.day_purse, max_cost_usd_per_day=cap))
        return prepared

    @activity.defn
    async def open_quota(self, given: OpenQuotaInput) -> None:
        """Start the quota's workflow if it does not run, and tell it what the configuration says now."""
        name = given.quota
        if name.startswith(REPOSITORY_QUOTA):
            config = QuotaConfig(max_cost_usd_per_day=given.max_cost_usd_per_day)
        else:
            account = self._config().account(name)
            config = QuotaConfig(slots=account.slots, max_cost_usd_per_day=account.max_cost_usd_per_day)
        await self.site.client.start_workflow(
            "QuotaWorkflow",
            {"name": name},
            id=quota_id(name, self.site.task_queue),
            task_queue=self.site.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="configure",
            start_signal_args=[config],
            static_summary=f"quota of {name}",
        )

    @activity.defn
    async def check_agent(self, given: CheckAgentInput) -> AgentSpec:
        """With the whole name of its account, whose quota runs then. Raises InvalidTask, in one line."""
        agent = await blocking(self._check_agent, given)
        if agent.account:
            await self.open_quota(OpenQuotaInput(quota=agent.account))
        return agent

    def _check_agent(self, given: CheckAgentInput) -> AgentSpec:
        repository = open_repository(given.ref.repo)
        settings = TaskSettings(agent=given.agent)
        return self._check_agents(settings, repository, repository.tip(given.ref.target)).agent

    async def _set_up(self, prepared: Prepared, worktree: Worktree) -> list[str]:
        """One that cannot be made ready is taken away, so that the next attempt begins with what is mended."""
        try:
            settings = await blocking(worktree_settings, worktree.repository, prepared.base)
            return await set_up_worktree(self.site.home, worktree, prepared.base, settings)
        except ApplicationError as error:
            if error.type in (SETUP_FAILED, INVALID_TASK):
                await blocking(settle, self.site.home, prepared.ref, "not set up", None)
                (self.site.home.run(prepared.ref.key) / "settled.json").unlink(missing_ok=True)
            raise

    def _config(self) -> Config:
        return configured(self.site)

    def _prepare(self, given: PrepareInput, server: Server) -> tuple[Prepared, Worktree]:
        task = TaskInput.model_validate(given.task)
        try:
            repository = open_repository(task.repo)
            self.site.claim(repository)
        except (RepositoryProblem, UnsupportedRepository) as problem:
            invalid("repo", str(problem))
        if task.template is not None:
            tip = repository.tip(_target(repository, task.target))
            task = from_template(task, repository.read_file(tip, SETTINGS_FILE))
        target, base, settings = target_and_settings(repository, task)
        settings = self._check_agents(settings, repository, base)
        for index, gate in enumerate(settings.gates):
            check_gate(f"gates.{index}.command", gate)

        key = task_key(given.task_id, given.run_id)
        place, sparse = self.site.home.worktree(key), list[str]()
        if not place.exists():
            sparse = check_sparse(repository, base, task, worktree_settings(repository, base))
        ref = TaskRef(task_id=given.task_id, key=key, repo=str(repository.path), target=target)
        self._clear_earlier_runs(ref, server)
        self._check_room(repository, key)
        note_server(self.site.home, key, server)
        note_ref(self.site.home, ref)  # first: whatever a kill leaves of the rest can be told whose it is
        worktree = create(repository, place, key, task_branch(given.task_id), base, target, sparse)
        complete = task.model_copy(update=dict(settings))
        # What is in `env` may be secret, and nobody reads it there.
        kept = complete.model_dump_json(indent=1, exclude=_ENVIRONMENTS)
        write_atomically(self.site.home.run(key) / "task.json", kept)
        prepared = Prepared(
            ref=ref,
            host=self.site.host,
            worktree=str(worktree.path),
            branch=worktree.branch,
            base=worktree.base(),
            settings=settings,
            run_folder=str(self.site.home.run(key)),
            day_purse=self._day_purse(settings, repository),
            title=task.title,
            notify=self._config().wanted(ref.repo),
        )
        return prepared, worktree

    def _check_room(self, repository: Repository, key: str) -> None:
        if self.site.home.worktree(key).exists():
            return
        try:
            check_room(self.site.home, self._config().disk, repository.common_dir)
        except DiskFull as problem:
            raise ApplicationError(str(problem), type=NO_ROOM, non_retryable=True) from None

    def _day_purse(self, settings: TaskSettings, repository: Repository) -> str:
        if settings.limits.max_cost_usd_per_day is None:
            return ""
        return f"{REPOSITORY_QUOTA}{safe_name(repository.path.name)}-{repository_id(repository.common_dir)[:8]}"

    def _check_agents(self, settings: TaskSettings, repository: Repository, base: str) -> TaskSettings:
        """With the whole name of each agent's account."""
        config = self._config()
        for field, agent in agents_of(settings).items():
            check_agent(field, agent, config)
            check_prompts(f"{field}.prompts", agent.prompts, repository, base)

        return settings.model_copy(
            update={
                "agent": named(settings.agent),
                "fallbacks": [named(agent) for agent in settings.fallbacks],
                "reviewers": [named(agent) for agent in settings.reviewers],
                "resolver": settings.resolver and named(settings.resolver),
                "compactor": settings.compactor and named(settings.compactor),
            }
        )

    def _clear_earlier_runs(self, ref: TaskRef, server: Server) -> None:
        """A workflow id has one live run on a server: worktrees of others are stale. Their work is saved first."""
        for stale in (self.site.home.root / "worktrees").glob(f"{safe_name(ref.task_id)}.*"):
            key = stale.name
            theirs = noted_server(self.site.home, key) or server
            if stale.is_dir() and key != ref.key and theirs.id == server.id:
                known = read_json(self.site.home.run(key) / "ref.json")  # it may have been for another repository
                earlier = TaskRef.model_validate(known) if known else ref.model_copy(update={"key": key})
                with suppress(RepositoryProblem):  # that is gone: the janitor tells of the worktree
                    settle(self.site.home, earlier, "replaced by a new run", None)


def configured(site: Site) -> Config:
    """Raises InvalidTask."""
    try:
        return load(site.home.root)
    except BadConfig as problem:
        raise ApplicationError(str(problem), type=INVALID_TASK, non_retryable=True) from None


def target_and_settings(repository: Repository, task: TaskInput) -> tuple[str, str, TaskSettings]:
    """The target's full ref, its tip, and the settings. Raises InvalidTask."""
    target = _target(repository, task.target)
    base = repository.tip(target)
    settings = complete_settings(task, repository.read_file(base, SETTINGS_FILE))
    if settings.target is not None and task.target is None:
        target = _target(repository, settings.target)
        base = repository.tip(target)
    return target, base, settings


def _target(repository: Repository, name: str | None) -> str:
    try:
        return repository.default_branch() if name is None else repository.branch(name)
    except RepositoryProblem as problem:
        invalid("target", str(problem))


def complete_settings(task: TaskInput, file: bytes | None) -> TaskSettings:
    """The repository's settings with the task's own on top. Objects are merged per field, lists are replaced."""
    own = task.model_dump(exclude_unset=True, include=set(TaskSettings.model_fields))
    try:
        defaults = tomllib.loads((file or b"").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        invalid(SETTINGS_FILE, f"is not TOML: {error}")
    for check in (queue_settings, policy_settings):
        check(file)
    for name in ("queue", "policy", "worktree", "templates"):
        defaults.pop(name, None)  # not the task's affair
    for name in ("limits", "delivery"):
        if isinstance(own.get(name), Mapping) and isinstance(defaults.get(name), Mapping):
            own[name] = {**defaults[name], **own[name]}
    merged: dict[str, Any] = {**defaults, **own}
    try:
        return TaskSettings.model_validate(merged)
    except ValidationError as error:
        invalid(SETTINGS_FILE, explain(error))


def agents_of(settings: TaskSettings) -> dict[str, AgentSpec]:
    """Every agent of a task, by its field."""
    named = {"agent": settings.agent, "resolver": settings.resolver, "compactor": settings.compactor}
    named |= {f"fallbacks.{index}": agent for index, agent in enumerate(settings.fallbacks)}
    named |= {f"reviewers.{index}": agent for index, agent in enumerate(settings.reviewers)}
    return {field: agent for field, agent in named.items() if agent is not None}


def check_agent(field: str, agent: AgentSpec, config: Config) -> None:
    try:
        found = runtime(agent.runtime)
    except UnknownRuntime as unknown:
        invalid(f"{field}.runtime", str(unknown))
    account = account_of(found, agent)
    if "/" in (agent.account or "") and not account.startswith(f"{found.vendor(agent)}/"):
        invalid(f"{field}.account", f"{agent.account} is no account of {found.vendor(agent) or 'no vendor'}")
    try:
        given = agent_environment(found, config.account(account), os.environ, config.keys())
    except BadConfig as bad:
        invalid(f"{field}.account", str(bad))
    try:
        environment = {**given, **config.filled_in(agent.env, os.environ)}
    except BadConfig as bad:
        invalid(field, str(bad))
    MASKS.learn(environment)
    if problem := found.problem(agent, environment):
        invalid(field, problem)


def check_prompts(field: str, prompts: Sequence[str], repository: Repository, base: str) -> None:
    for path in prompts:
        if not prompt_files.exists(partial(repository.read_file, base), path):
            invalid(field, prompt_files.missing(path))


def named(agent: AgentSpec) -> AgentSpec:
    """With the whole name of its account; of a runtime that is known."""
    return agent.model_copy(update={"account": account_of(runtime(agent.runtime), agent) or None})


def check_gate(field: str, gate: GateSpec) -> None:
    """Whether the command's program exists on this host. What a shell must first expand, or what lies in the
    repository, is not judged: the agent may write it."""
    try:
        words = shlex.split(gate.command)
    except ValueError as error:
        invalid(field, f"the shell cannot read it: {error}")
    program = next((word for word in words if "=" not in word), "")
    if not program or any(char in program for char in "$`;|&<>(){}*?[]!\\~") or program in _SHELL_WORDS:
        return
    if "/" in program:
        if program.startswith("/") and not shutil.which(program):
            invalid(field, f"{program} is not an executable file on this host")
        return
    if not shutil.which(program, path=base_environment().get("PATH")):
        invalid(field, f"{program}: command not found on this host; install it or correct the gate {gate.name!r}")


_SHELL_WORDS = frozenset(
    "if for while until case test [ [[ cd exit true false echo printf export set unset exec eval source . : time "
    "command type ulimit umask trap wait read shift return local".split()
)
