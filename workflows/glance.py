"""What visibility shows of a task: typed search attributes to find it by, and a glance in the memo to show it by.

Search attributes are not encrypted, so no text that may be private is in them; the memo is (`service/codec.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict
from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributeUpdate

with workflow.unsafe.imports_passed_through():
    from activities.attributes import (
        BLOCKED,
        COST,
        LABELS,
        OUTCOME,
        REPOSITORY,
        RUNTIME,
        STAGE,
        TARGET,
        keyword,
    )
    from activities.contracts import Prepared
    from activities.settings import TaskInput
    from workflows.contracts import BlockedReason, LandStatus, Stage, TaskStatus

MEMO = "glance"
LONGEST_TEXT = 160

_STAGES = {
    Stage.PREPARE: "Preparing",
    Stage.PLAN: "Planning",
    Stage.WORK: "Working",
    Stage.REVIEW: "Reviewing",
    Stage.RESOLVE: "Resolving",
    Stage.LIMITED: "Limited",
    Stage.SETTLE: "Settling",
}


class Glance(BaseModel):
    """A task in a line, as `status`, `list` and `watch` show it. Read leniently: the workers may be newer."""

    model_config = ConfigDict(frozen=True)

    title: str = ""
    stage: str = Stage.PREPARE.value
    since: float = 0.0
    """When the stage began, in seconds since the epoch."""
    repo: str = ""
    target: str = ""
    agent: str = ""
    turns: int = 0
    cost_usd: float = 0.0
    paused: bool = False
    waiting_for: str = ""
    next_command: str = ""
    blocked: str = ""
    why: str = ""
    """First line of why it is blocked, or of why it ended as it did."""
    said: str = ""
    """First line of what an agent said last."""
    outcome: str = ""
    sha: str = ""


Values = dict[SearchAttributeKey[Any], Any]


def glance(status: TaskStatus, task: TaskInput | None, prepared: Prepared | None) -> Glance:
    return Glance(
        title=line(status.title),
        stage=status.stage.value,
        repo=prepared.ref.repo if prepared else task.repo if task else "",
        target=prepared.ref.target.removeprefix("refs/heads/") if prepared else "",
        agent=status.agent,
        turns=status.turns,
        cost_usd=round(status.cost_usd, 4),
        paused=status.paused,
        waiting_for=line(status.waiting_for),
        next_command=status.next_command,
        blocked=status.blocked.reason.value if status.blocked else "",
        why=line(status.blocked.text if status.blocked else status.reason),
        said=line(status.said),
        outcome=status.outcome or "",
        sha=status.sha or "",
    )


def values(status: TaskStatus, seen: Glance, task: TaskInput | None, prepared: Prepared | None) -> Values:
    """Of the search attributes; None: it has none."""
    settings = prepared.settings if prepared else task
    return {
        STAGE: stage_keyword(status.stage),
        REPOSITORY: keyword(seen.repo) or None,
        TARGET: keyword(seen.target) or None,
        RUNTIME: status.agent.partition(" ")[0] or None,
        BLOCKED: blocked_keyword(status.blocked.reason) if status.blocked else None,
        OUTCOME: status.outcome,
        LABELS: [keyword(label) for label in settings.labels] or None if settings else None,
        COST: seen.cost_usd,
    }


def landing(status: LandStatus) -> tuple[Glance, Values]:
    """Of a branch without a task."""
    result = status.result
    stage = Stage.ENDED if result else Stage.QUEUE
    seen = Glance(
        title=line(f"land {status.branch}"),
        stage=stage.value,
        repo=status.repo,
        target=status.target or "",
        waiting_for=line(status.waiting_for),
        why=line(result.reason) if result else "",
        outcome=result.outcome if result else "",
        sha=result.sha or "" if result else "",
    )
    attributes: Values = {
        STAGE: stage_keyword(stage),
        REPOSITORY: keyword(seen.repo) or None,
        TARGET: keyword(seen.target) or None,
        OUTCOME: seen.outcome or None,
    }
    return seen, attributes


def stage_keyword(stage: Stage) -> str:
    """`AwaitingApproval`, `MergeQueue`, `Blocked` …"""
    return _STAGES.get(stage) or _words(stage.value)


def blocked_keyword(reason: BlockedReason) -> str:
    """`GatesRed`, `Budget`, `Login` …: the reason's name, which is shorter than its words."""
    return _words(reason.name.replace("_", " "))


def _words(text: str) -> str:
    return "".join(word.capitalize() for word in text.split())


def line(text: str) -> str:
    """The first line of a text that has words, cut."""
    found = next((" ".join(each.split()) for each in text.splitlines() if each.strip()), "")
    return found if len(found) <= LONGEST_TEXT else found[: LONGEST_TEXT - 1] + "…"


class Board:
    """Where a workflow shows itself: what has changed, once for all that happens in one go.

    A change of what is shown, or of when it changes, is a change of the workflow's commands: see `workflow.patched`.
    """

    def __init__(self, look: Callable[[], tuple[Glance, Values]]) -> None:
        self._look = look
        self.registered: bool | None = None
        """Whether the search attributes are. None: nothing is shown: no worker that knows of this has said so."""
        self.changed = False
        self._shown = Glance()
        self._set: dict[str, Any] = {}

    def open(self) -> None:
        """From now on it shows what changes."""
        self._keeping = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        """Runs beside the task. It wakes when all else in an activation has come to rest, so it shows no stage that was
        left at once: each change is an event of the history."""
        while True:
            await workflow.wait_condition(lambda: self.changed and self.registered is not None)
            self.show()

    def show(self) -> None:
        self.changed = False
        if self.registered is None:
            return
        seen, values = self._look()
        since = self._shown.since if seen.stage == self._shown.stage else workflow.time()
        seen = seen.model_copy(update={"since": since})
        if seen != self._shown:
            self._shown = seen
            workflow.upsert_memo({MEMO: seen.model_dump(exclude_defaults=True)})
        if self.registered and (updates := self._updates(values)):
            workflow.upsert_search_attributes(updates)

    def _updates(self, values: Values) -> list[SearchAttributeUpdate[Any]]:
        updates: list[SearchAttributeUpdate[Any]] = []
        for key, value in values.items():
            if value != self._set.get(key.name):
                self._set[key.name] = value
                updates.append(key.value_unset() if value is None else key.value_set(value))
        return updates
