"""What one turn's agent is told: composed from templates, the run folder, and the task's worktree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporalio.exceptions import ApplicationError

from activities.contracts import TurnInput
from activities.cycles import prompt_values
from activities.git.worktree import Worktree
from activities.home import Home
from activities.masking import MASKS
from activities.overuse import noted
from activities.policy_told import told
from activities.preflight import rules_on, ruling
from activities.prompts import render
from activities.settings import Strategy
from activities.site import read_json, short_ref
from activities.swarm import prompt_files

EVIDENCE_BYTES = 3_000
"""Of a gate's log, its end (FEATURES A11); the file is named beside it."""
REVIEW_BYTES = 20_000
SUMMARY_BYTES = 6_000
"""Of each turn's final text, for whoever summarises them."""
_LIMITS = {"gate_red": EVIDENCE_BYTES, "compact": SUMMARY_BYTES}
DIFF_BYTES = 60_000
"""A longer diff is given as a file: what a reviewer judges is never cut."""


@dataclass(frozen=True)
class Prompt:
    system: str
    text: str


@dataclass(frozen=True)
class _Evidence:
    path: str
    text: str
    cut: bool


def compose(
    home: Home, given: TurnInput, worktree: Worktree, commits: list[str], interrupted: bool, mcp: bool
) -> Prompt:
    """The whole task for a new session; only what is new for a resumed one (FEATURES B4).

    `commits`: what the target got since the last turn. `interrupted`: this very turn was begun once already. `mcp`: the
    agent has our tools.
    """
    task = read_json(home.run(given.ref.key) / "task.json")
    target = short_ref(given.ref.target)
    plan = Path(given.plan).read_text() if given.plan else ""
    # By the session that was asked for: one that an interrupted attempt began may have broken off before it read
    # anything. So may the session of a first turn.
    whole = given.session is None or given.ask in ("start", "plan")
    values: dict[str, Any] = {
        "ask": given.ask,
        "whole": whole,
        "role": given.role,
        "task_id": given.ref.task_id,
        "target": target,
        "title": task["title"],
        "description": task["description"],
        "acceptance": task["acceptance"],
        "files": task["files"],
        "gates": task["gates"],
        "policy": _policy(given, worktree, task["delivery"]["strategy"]),
        "plan": plan,
        "notes": read_json(home.run(given.ref.key) / "setup.json").get("notes", []),
        "detail": given.detail,
        "commit": given.commit or "",
        "evidence": [_evidence(Path(path), _LIMITS.get(given.ask, REVIEW_BYTES)) for path in given.evidence],
        "red_gates": [_evidence(Path(path), EVIDENCE_BYTES) for path in given.red_gates],
        "summary": Path(given.summary).read_text() if given.summary else "",
        "messages": given.messages,
        "mcp": mcp,
        "commits": commits,
        "overlaps": given.overlaps,
        "prompts": _extra(given, worktree, task),
        **_diff(home, given, worktree),
        "claimed": given.claimed,
        **prompt_values(home, given.ref.key, given.holds, given.claimed.got if given.claimed else []),
    }
    asked = render(f"ask/{given.ask}", **values)
    if interrupted:
        asked = render("ask/interrupted", asked=asked)
    parts = [render("task", **values)] if whole else []
    if given.messages or commits or given.overlaps:
        parts.append(render("news", **values))
    if over := noted(home.overuse(given.ref.key, given.role)):
        parts.append(render("overuse", over=over))
    if parts:
        parts.append("## Now\n")
    return Prompt(MASKS.text(render("system", **values)), MASKS.text("\n".join([*parts, asked])))


def _evidence(path: Path, limit: int) -> _Evidence:
    content = path.read_bytes() if path.exists() else b"(the file is gone)"
    return _Evidence(str(path), content[-limit:].decode("utf-8", "replace").strip(), len(content) > limit)


def _extra(given: TurnInput, worktree: Worktree, task: dict[str, Any]) -> list[str]:
    """The agent's own prompt files, as they are on the target now, and those of ours that it names."""
    if not given.agent.prompts:
        return []
    repository = worktree.repository
    tip = repository.tip(given.ref.target)
    values = prompt_files.values_of(task, given.ref.task_id)
    return prompt_files.told(lambda path: repository.read_file(tip, path), given.agent.prompts, values)


def _policy(given: TurnInput, worktree: Worktree, strategy: Strategy) -> list[str]:
    """Of the target as it is now. What is wrong with its settings is told when the work is collected."""
    if given.role == "reviewer":
        return []
    repository, target = worktree.repository, given.ref.target
    try:
        return told(rules_on(repository, target, ruling(repository, target)), strategy)
    except ApplicationError:
        return []


def _diff(home: Home, given: TurnInput, worktree: Worktree) -> dict[str, str]:
    if given.role != "reviewer" or given.commit is None:
        return {"diff": "", "diff_file": ""}
    repository = worktree.repository
    target = repository.tip(given.ref.target)
    diff = repository.diff(repository.merge_base(target, given.commit) or target, given.commit)
    file = home.turn(given.ref.key, given.turn, given.role) / "diff.patch"
    file.write_bytes(diff)
    MASKS.file(file)
    if len(diff) > DIFF_BYTES:
        return {"diff": "", "diff_file": str(file)}
    return {"diff": diff.decode("utf-8", "replace"), "diff_file": ""}
