"""What an agent CLI looks like to the rest: a runtime makes an argv, and a reader understands its output.

A runtime is one module here and one entry in `RUNTIMES` (see `__init__`). It knows its CLI's flags, environment and
output, and nothing of git, Temporal or prompts. No exit code is trusted alone: the reader judges the whole turn,
and what the CLI printed as its result outweighs how it exited.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from activities.contracts import TurnEnd, Usage
from activities.settings import AgentSpec, Role, tail

ARGUMENT_BYTES = 100_000
"""Longer texts do not go into an argv: Linux refuses a single argument of 128 KiB (MAX_ARG_STRLEN)."""


@dataclass(frozen=True)
class Turn:
    """What a runtime is asked to run."""

    agent: AgentSpec
    role: Role
    task_id: str
    number: int
    prompt: str
    system: str
    """Standing instructions: given as a system prompt where the CLI has one, else put before a cold start's prompt.

    They belong to the session: Claude Code and Codex go on with those of its first turn, so what is new in a
    resumed turn must be in the prompt."""
    session: str | None
    """Session to resume; none: start a new one."""
    new_session: str
    """A uuid that was never used before, for CLIs that let the caller choose the id of a new session."""
    folder: Path
    """The turn's run folder; a runtime may put files there."""
    budget_usd: float | None = None
    """What the turn may cost, for CLIs that can stop by themselves; checked after each request, so it overshoots."""
    previous: dict[str, float] = field(default_factory=dict)
    """`Report.cumulative` of the session's last turn that has ended; not used on a cold start."""


@dataclass(frozen=True)
class Launch:
    """A process to start in the worktree."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    """Added to the allow-listed part of the worker's environment; the agent's own `env` wins over it."""
    stdin: str = ""
    """Written and closed: a standard input left open makes some CLIs wait for ever."""


@dataclass
class Report:
    """What a turn came to, in the runtime's judgement."""

    end: TurnEnd
    text: str = ""
    """The agent's final text; for an end other than `done` the last that it said, which is no signal."""
    reason: str = ""
    """One line; for a person. Empty for `done`."""
    session: str | None = None
    """To resume; none: the CLI never had one, or it is lost."""
    retry_after_seconds: float | None = None
    """From now on; only where it was stated."""
    usage: Usage = field(default_factory=Usage)
    cumulative: dict[str, float] = field(default_factory=dict)
    """For the next turn's `Turn.previous`."""


class Reader(Protocol):
    """Follows one turn's standard output. No output, however odd, makes it raise."""

    session: str | None
    """Known as soon as the CLI has said it."""
    finished: bool
    """Nothing more of this turn is wanted: if the process does not exit now, it may be ended."""
    last: str
    """The newest thing said or done, one short line, for the live view."""

    def feed(self, line: str) -> None:
        """One line of standard output, without its line break."""

    def report(self, exit_code: int | None, stderr: str) -> Report:
        """Judge the turn. `exit_code` is negative for a signal, None when we ended it at a time-out."""


class Runtime(Protocol):
    """One agent CLI."""

    name: str
    install: str
    """How to get it, for the message when it is missing."""
    login: str
    """What a person does about an end of `login`; part of the report's reason."""
    environment: tuple[str, ...]
    """Prefixes of the worker's variables that are passed on, besides the common ones."""

    def problem(self, agent: AgentSpec, env: Mapping[str, str]) -> str | None:
        """Why no turn can start with this PATH: one line that names the remedy. Quick, local, None when all is well."""

    def launch(self, turn: Turn) -> Launch: ...

    def reader(self, turn: Turn) -> Reader: ...


# --- what the runtimes share ---------------------------------------------------------------------


def standing(turn: Turn, limit: int = ARGUMENT_BYTES) -> tuple[str, str]:
    """(system prompt for the argv, text for standard input); instructions over `limit` bytes go before the prompt."""
    system = turn.system.replace("\0", "")  # which no argument can hold
    if len(system.encode("utf-8", "replace")) <= limit:
        return system, turn.prompt
    return "", turn.prompt if turn.session else f"{system}\n\n{turn.prompt}"


def missing(program: str, env: Mapping[str, str], remedy: str) -> str | None:
    """One line when `program` is not on the PATH of `env`."""
    if shutil.which(program, path=env.get("PATH", "")):
        return None
    return f"{program} is not installed, or not on the worker's PATH: {remedy}"


def one_line(text: object, limit: int = 300) -> str:
    """`text` with every run of white space made one blank, at most `limit` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def last_words(stderr: str, limit: int = 400) -> str:
    """The end of what a process said, as one line: the cause of a failure comes last."""
    return tail(" ".join(stderr[-4 * limit :].split()), limit)


def json_object(line: str) -> dict[str, Any]:
    """The JSON object that a line is; empty for anything else, since CLIs print warnings among their events."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def number(value: object) -> float:
    """A figure of a CLI's output; 0 for what is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 0.0
    try:
        return float(value) if math.isfinite(value) else 0.0
    except OverflowError:
        return 0.0


def spent(cumulative: dict[str, float], previous: dict[str, float]) -> dict[str, float]:
    """What was added since `previous`. A counter that fell has started again: then all of it was."""
    if any(value < previous.get(key, 0.0) for key, value in cumulative.items()):
        previous = {}
    return {key: value - previous.get(key, 0.0) for key, value in cumulative.items()}


def usage(figures: dict[str, float]) -> Usage:
    return Usage(
        cost_usd=figures.get("cost_usd", 0.0),
        input_tokens=round(figures.get("input_tokens", 0.0)),
        cached_tokens=round(figures.get("cached_tokens", 0.0)),
        output_tokens=round(figures.get("output_tokens", 0.0)),
    )


def without_result(exit_code: int | None, stderr: str) -> Report:
    """The judgement of a process that is gone and has not said how its turn ended."""
    if exit_code is None:
        return Report("timeout", reason="ended at a time-out")
    by = -exit_code if exit_code < 0 else exit_code - 128  # a shell, or a CLI that caught it, says 128 + n
    if by in set(signal.Signals):
        return Report("failed", reason=f"killed by {signal.Signals(by).name}")
    said = last_words(stderr)
    return Report("failed", reason=f"exit {exit_code}" + (f": {said}" if said else " and no result"))
