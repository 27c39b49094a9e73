"""A swarm's settings: what the operator gave, over the repository's `swarm.toml` or `oompa.json`, over defaults.

Pure but for the look at which agent CLIs are installed. Each problem is one line that names the file and the field.
"""

from __future__ import annotations

import posixpath
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from activities.agents import RUNTIMES
from activities.process import base_environment
from activities.settings import AgentSpec, TaskSettings, explain
from activities.site import invalid
from activities.swarm import oompa
from activities.swarm.prompt_files import Read, inside
from activities.swarm.settings import PlannerSpec, SwarmSettings, WorkerSpec

FILES = ("swarm.toml", "oompa.json", "oompa/oompa.json")
"""The first of them that is on the target counts."""
PREFERRED = ("claude-code", "codex", "gemini", "opencode", "qwen")
_NOT_SETTINGS = frozenset(("repo", "file", "continues"))
_TABLES = frozenset(("planner", "task", "limits", "delivery"))
_ELSEWHERE = {"agent": "workers.agent", "fallbacks": "workers.fallbacks", "reviewers": "reviewers", "target": "target"}
"""Fields of a task that the swarm says itself."""


def chosen(read: Read, named: str | None) -> tuple[str, bytes | None, list[str]]:
    """The swarm's file: its name, its content (None: there is none), notes. Raises InvalidTask for `named`."""
    if named is not None:
        path = inside(named)
        if path is None or (content := read(path)) is None:
            invalid("file", f"{named} is not on the target branch: commit it, or correct the path")
        return path, content, []
    there = [(name, content) for name in FILES if (content := read(name)) is not None]
    if not there:
        return "", None, []
    name, content = there[0]
    return name, content, [f"{other} is not read: {name} is there" for other, _ in there[1:]]


def fields_of(name: str, data: bytes) -> tuple[dict[str, Any], list[str]]:
    """Fields of SwarmSettings that the file gives, all of them good, and notes. Raises InvalidTask."""
    ending = posixpath.splitext(name)[1].lower()
    if ending == ".json":
        found, notes = oompa.fields(data, name)
    elif ending == ".toml":
        found, notes = _toml(data, name), []
    else:
        invalid("file", f"{name}: must be a .toml as swarm.toml, or a .json as oompa.json")
    _settings(found, name)
    return found, notes


def complete(
    given: Mapping[str, Any],
    name: str,
    data: bytes | None,
    *,
    spec_there: Callable[[str], bool],
    installed: Sequence[str],
    reviewed: bool = False,
) -> tuple[SwarmSettings, list[str]]:
    """The settings with every name and prompt filled in, and what a person should know of them. Raises InvalidTask.

    `given`: the operator's input, without defaults. `name`, `data`: of the file, as `chosen` found it. `spec_there`:
    whether the target has a file. `installed`: runtimes, as `installed_agents` finds them. `reviewed`: the
    repository's `mergewright.toml` names reviewers, so none is chosen.
    """
    fields, notes = ({}, []) if data is None else fields_of(name, data)
    own = {key: value for key, value in given.items() if key not in _NOT_SETTINGS}
    settings = _settings(_merged(fields, own), "input")
    spec_path = inside(settings.spec)
    spec = spec_path is not None and spec_there(spec_path)
    if not settings.workers:
        settings, chosen_notes = _with_workers(settings, spec, installed, reviewed)
        notes = [*notes, *chosen_notes]
    elif not spec and (settings.planner is not None or "spec" in settings.model_fields_set):
        notes = [*notes, f"nobody plans: {settings.spec} is not on the target branch; commit it, or name it in `spec`"]
    return _filled_in(settings if spec else settings.model_copy(update={"spec": ""})), notes


def installed_agents() -> list[str]:
    """Runtimes whose program is on the worker's PATH, the preferred first."""
    path = base_environment().get("PATH")
    return [name for name in PREFERRED if shutil.which(RUNTIMES[name].program, path=path)]


def _toml(data: bytes, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        invalid(name, " ".join(f"is not TOML: {error}".split()))
    except (RecursionError, ValueError):  # a number of thousands of digits
        invalid(name, "is not TOML: nested too deeply, or a number is too long")


def _settings(fields: Mapping[str, Any], where: str) -> SwarmSettings:
    try:
        settings = SwarmSettings.model_validate(fields)
    except ValidationError as error:
        invalid(where, explain(error))
    for index, worker in enumerate(settings.workers):
        if worker.name == "planner":
            invalid(where, f"workers.{index}.name: the planner has this name: choose another")
    for field in settings.task:
        if field in _ELSEWHERE:
            invalid(where, f"task.{field}: is not of the single task: say it in `{_ELSEWHERE[field]}`")
    try:
        TaskSettings.model_validate(settings.task)
    except ValidationError as error:
        invalid(where, f"task: {explain(error)}")
    return settings


def _merged(file: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Of `_TABLES` each field by itself; lists, and agents too, as a whole."""
    merged = {**file, **own}
    for field in _TABLES & own.keys() & file.keys():
        if isinstance(own[field], Mapping) and isinstance(file[field], Mapping):
            merged[field] = _merged(file[field], own[field])
    return merged


def _with_workers(
    settings: SwarmSettings, spec: bool, installed: Sequence[str], reviewed: bool
) -> tuple[SwarmSettings, list[str]]:
    if not installed:
        remedy = RUNTIMES[PREFERRED[0]].install
        invalid("workers", f"none are named, and no agent CLI is installed: {remedy}, or name workers in {FILES[0]}")
    agent = AgentSpec(runtime=installed[0])
    chosen: dict[str, Any] = {"workers": [WorkerSpec(agent=agent, count=2)]}
    who = ["two executors"]
    if settings.reviewers is None and not reviewed:
        chosen["reviewers"] = [agent]
        who.append("one reviewer")
    if settings.planner is None and spec:
        chosen["planner"] = PlannerSpec(agent=agent)
        who.append(f"a planner, who reads {settings.spec}")
    notes = [f"no workers are named, so there are of {agent.runtime}: {', '.join(who)}"]
    if not spec:
        notes.append(f"nobody plans: {settings.spec} is not on the target branch")
    return settings.model_copy(update=chosen), notes


def _filled_in(settings: SwarmSettings) -> SwarmSettings:
    taken = {worker.name for worker in settings.workers}
    workers = []
    for place, worker in enumerate(settings.workers, start=1):
        name, number = worker.name, place
        while not name or (not worker.name and name in taken):
            name, number = f"worker-{number}", number + 1
        taken.add(name)
        told = _told(worker, "worker" if worker.can_plan else "executor")
        workers.append(told.model_copy(update={"name": name, "reviewers": _reviewers(worker.reviewers)}))
    update = {
        "workers": workers,
        "planner": settings.planner and _told(settings.planner, "planner"),
        "reviewers": _reviewers(settings.reviewers),
    }
    return settings.model_copy(update=update)


Spec = TypeVar("Spec", WorkerSpec, PlannerSpec)


def _told(spec: Spec, default: str) -> Spec:
    """All prompts are in `prompts` then, and none in the agent's own."""
    prompts = [*spec.prompts, *spec.agent.prompts] or [default]
    return spec.model_copy(update={"prompts": prompts, "agent": spec.agent.model_copy(update={"prompts": []})})


def _reviewers(reviewers: list[AgentSpec] | None) -> list[AgentSpec] | None:
    return reviewers and [
        reviewer.model_copy(update={"prompts": reviewer.prompts or ["reviewer"]}) for reviewer in reviewers
    ]
