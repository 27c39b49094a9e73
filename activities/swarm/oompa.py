"""oompa's own `oompa.json`, of all its versions, as the fields of our `SwarmSettings`.

What oompa ignores is ignored here too, and told; a value of a wrong type, which oompa would take for something else, is
an error. What a key means, and what holds without it, is as oompa has it: a worker can plan unless it says otherwise,
chooses its tasks itself, and goes on for ten cycles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from activities.agents import runtime_names
from activities.settings import explain
from activities.site import invalid
from activities.swarm.json_files import NotJson, parsed
from activities.swarm.prompt_files import bundled_name
from activities.swarm.settings import Prompts

MAX_CYCLE = 10
REASONING = frozenset(("minimal", "low", "medium", "high", "max", "xhigh"))
"""What may stand behind a model's last colon; all else there is a part of its name, as in `vendor/model:free`."""
_HARNESSES = {"claude": "claude-code"}
_DEFAULT_HARNESS = "codex"


def _agent(text: Any) -> dict[str, str]:
    """An AgentSpec's fields of `harness:model[:reasoning]`, or of a model of codex alone."""
    if not isinstance(text, str):
        raise ValueError('must be text, such as "claude:opus"')
    name, _, model = text.partition(":")
    name = _HARNESSES.get(name, re.sub(r"^gemini\d+$", "gemini", name))  # one binary for each account, in oompa
    if name not in runtime_names() or name == "command":
        rest = text.rpartition(":")[2]
        if ":" in text and "/" not in name and rest not in REASONING:
            raise ValueError(
                f"unknown harness {name!r}: write claude, codex, gemini, opencode or qwen before the colon"
            )
        name, model = _DEFAULT_HARNESS, text
    model, colon, reasoning = model.rpartition(":")
    if not colon or reasoning not in REASONING:
        model, reasoning = model + colon + reasoning, ""
    given = {"runtime": name, "model": model, "reasoning": reasoning}
    return {field: value for field, value in given.items() if value}


Model = Annotated[dict[str, str], BeforeValidator(_agent)]
Seconds = Annotated[float, Field(ge=0, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Cycles = Annotated[int, Field(ge=1, strict=True)]
Switch = Annotated[bool, Field(strict=True)]


class _Entry(BaseModel):
    """JSON's null is as good as no key. What is unknown is kept, so that it can be told."""

    model_config = ConfigDict(extra="allow")


class _Reviewer(_Entry):
    model: Model
    prompt: Prompts | None = None


def _short(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


Reviewer = Annotated[_Reviewer, BeforeValidator(_short)]


class _Reviewed(_Entry):
    """Where several of the keys are given, the first counts."""

    needs_review: Switch | None = None
    reviewers: list[Reviewer] | None = None
    review_models: list[Reviewer] | None = None
    reviewer: Reviewer | None = None
    review_model: Reviewer | None = None

    def named(self) -> list[_Reviewer]:
        for many in (self.reviewers, self.review_models):
            if many is not None:
                return many
        return [one for one in (self.reviewer, self.review_model) if one is not None][:1]


class _Worker(_Reviewed):
    model: Model
    prompt: Prompts | None = None
    count: Count | None = None
    can_plan: Switch | None = None
    max_cycle: Cycles | None = None
    max_cycles: Cycles | None = None
    iterations: Cycles | None = None
    runs: Cycles | None = None
    wait_between: Seconds | None = None
    max_wait_for_tasks: Seconds | None = None
    max_working_resumes: Count | None = None
    max_resumes: Count | None = None
    max_needs_followups: Count | None = None

    def cycles(self) -> int:
        return self.max_cycle or self.max_cycles or self.iterations or self.runs or MAX_CYCLE


class _Planner(_Entry):
    model: Model
    prompt: Prompts | None = None
    max_pending: Cycles | None = None
    max_cycle: Cycles | None = None
    wait_between: Seconds | None = None


class _Oompa(_Reviewed):
    workers: list[_Worker] = []
    planner: _Planner | None = None


def fields(data: bytes, name: str) -> tuple[dict[str, Any], list[str]]:
    """Fields of SwarmSettings, and notes. Raises InvalidTask in one line that names the file and the key."""
    try:
        found = parsed(data)
    except NotJson as problem:
        invalid(name, str(problem))
    if not isinstance(found, dict):
        invalid(name, "must be a JSON object with `workers`")
    try:
        read = _Oompa.model_validate(found)
    except ValidationError as error:
        invalid(name, explain(error))
    workers, planner, notes = list(read.workers), read.planner, list[str]()
    if unknown := sorted(_unknown(read)):
        notes.append(f"{name}: these mean nothing here: {', '.join(unknown[:20])}" + (" …" * (len(unknown) > 20)))
    if numbered := sorted({alias.decode() for alias in re.findall(rb'"(gemini\d+):', data)}):
        notes.append(f"{name}: {', '.join(numbered)}: all is gemini here; accounts are named in swarm.toml")
    found = {}
    if planner is not None:
        found["planner"] = _planner(planner)
    elif (place := _plans_only(workers)) is not None:
        found["planner"] = _as_planner(workers.pop(place))
        notes.append(f"{name}: workers.{place} has the planner's prompt: it is the swarm's planner, and writes no code")
    found["workers"] = [_worker(worker) for worker in workers]
    if read.needs_review is False:
        found["reviewers"] = []
    elif named := read.named():
        found["reviewers"] = [_reviewer(reviewer) for reviewer in named]
    return found, notes


def _unknown(entry: _Entry, path: str = "") -> Iterator[str]:
    yield from (f"{path}{' '.join(key.split())[:60]}" for key in entry.model_extra or ())
    for key in type(entry).model_fields:
        value = getattr(entry, key)
        if isinstance(value, _Entry):
            yield from _unknown(value, f"{path}{key}.")
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, _Entry):
                    yield from _unknown(item, f"{path}{key}.{index}.")


def _given(**values: Any) -> dict[str, Any]:
    return {field: value for field, value in values.items() if value is not None}


def _plans_only(workers: list[_Worker]) -> int | None:
    """The one worker among others that has the planner's prompt: what oompa's guide calls its planner."""
    found = [
        place
        for place, worker in enumerate(workers)
        if worker.can_plan is not False and any(bundled_name(path) == "planner" for path in worker.prompt or ())
    ]
    return found[0] if len(found) == 1 and len(workers) > 1 and workers[found[0]].count in (1, None) else None


def _as_planner(worker: _Worker) -> dict[str, Any]:
    return _given(
        agent=worker.model, prompts=worker.prompt, max_cycle=worker.cycles(), wait_between=worker.wait_between
    )


def _planner(planner: _Planner) -> dict[str, Any]:
    return _given(
        agent=planner.model,
        prompts=planner.prompt,
        max_pending=planner.max_pending,
        max_cycle=planner.max_cycle,
        wait_between=planner.wait_between,
    )


def _reviewer(reviewer: _Reviewer) -> dict[str, Any]:
    return {**_given(prompts=reviewer.prompt), **reviewer.model}


def _worker(worker: _Worker) -> dict[str, Any]:
    reviewers = [] if worker.needs_review is False else [_reviewer(reviewer) for reviewer in worker.named()] or None
    resumes = worker.max_resumes if worker.max_working_resumes is None else worker.max_working_resumes
    return _given(
        agent=worker.model,
        prompts=worker.prompt,
        count=worker.count,
        can_plan=worker.can_plan is not False,
        claims=True,
        max_cycle=worker.cycles(),
        wait_between=worker.wait_between,
        max_wait_for_tasks=worker.max_wait_for_tasks,
        max_working_resumes=resumes,
        max_needs_followups=worker.max_needs_followups,
        reviewers=reviewers,
    )
