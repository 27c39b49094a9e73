"""What is checked of a swarm's settings before it begins, against the host and the target (see `prepare`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from activities.config import Config
from activities.git.repository import Repository
from activities.prepare import agents_of, check_agent, check_gate, check_prompts, named
from activities.settings import AgentSpec, TaskInput, TaskSettings
from activities.swarm import prompt_files
from activities.swarm.settings import PlannerSpec, SwarmSettings, WorkerSpec


def as_task(repo: str, target: str | None, task: Mapping[str, Any]) -> TaskInput:
    of_target = {} if target is None else {"target": target}
    return TaskInput.model_validate({**task, "repo": repo, "title": "a task of a swarm", **of_target})


def check_task(settings: TaskSettings, config: Config, repository: Repository, base: str) -> None:
    """What all cycles have in common; their own agents are the workers'."""
    for index, gate in enumerate(settings.gates):
        check_gate(f"task.gates.{index}.command", gate)
    for field, agent in agents_of(settings).items():
        if field != "agent" and not field.startswith("fallbacks."):
            check_agent(f"task.{field}", agent, config)
            check_prompts(f"task.{field}.prompts", agent.prompts, repository, base)


def _makers(settings: SwarmSettings) -> dict[str, WorkerSpec | PlannerSpec]:
    makers: dict[str, WorkerSpec | PlannerSpec] = {f"workers.{at}": one for at, one in enumerate(settings.workers)}
    return makers | ({"planner": settings.planner} if settings.planner else {})


def agents_in(settings: SwarmSettings) -> dict[str, AgentSpec]:
    """Every agent of a swarm, by its field."""
    found: dict[str, AgentSpec] = {}
    for field, one in _makers(settings).items():
        found[f"{field}.agent"] = one.agent
        found |= {f"{field}.fallbacks.{at}": agent for at, agent in enumerate(one.fallbacks)}
        if isinstance(one, WorkerSpec):
            found |= {f"{field}.reviewers.{at}": agent for at, agent in enumerate(one.reviewers or [])}
    return found | {f"reviewers.{at}": agent for at, agent in enumerate(settings.reviewers or [])}


def check_agents(settings: SwarmSettings, config: Config, repository: Repository, base: str) -> list[str]:
    """Returns what prompts cannot include, for a person to know. Raises InvalidTask."""
    notes = list[str]()
    for field, agent in agents_in(settings).items():
        check_agent(field, agent, config)
        check_prompts(f"{field}.prompts", agent.prompts, repository, base)
    for field, one in _makers(settings).items():
        check_prompts(f"{field}.prompts", one.prompts, repository, base)
        notes += prompt_files.check(partial(repository.read_file, base), one.prompts)[1]
    return list(dict.fromkeys(notes))


def with_accounts(settings: SwarmSettings) -> SwarmSettings:
    """With the whole name of each agent's account."""

    def of(agents: Sequence[AgentSpec] | None) -> list[AgentSpec] | None:
        return None if agents is None else [named(agent) for agent in agents]

    def worker(one: WorkerSpec) -> WorkerSpec:
        changed = {"agent": named(one.agent), "fallbacks": of(one.fallbacks), "reviewers": of(one.reviewers)}
        return one.model_copy(update=changed)

    planner = settings.planner
    if planner:
        planner = planner.model_copy(update={"agent": named(planner.agent), "fallbacks": of(planner.fallbacks)})
    workers = [worker(one) for one in settings.workers]
    return settings.model_copy(update={"workers": workers, "planner": planner, "reviewers": of(settings.reviewers)})
