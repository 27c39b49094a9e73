"""What an agent CLI looks like to the rest: a runtime makes an argv, and a reader understands its output.

A runtime is one module here and one entry in `RUNTIMES` (see `__init__`). It knows its CLI's flags, environment and
output, and nothing of git, Temporal or prompts. No exit code is trusted alone: the reader judges the whole turn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from activities.contracts import AgentSpec, Role, TurnEnd, Usage


@dataclass(frozen=True)
class Turn:
    """What a runtime is asked to run."""

    agent: AgentSpec
    role: Role
    task_id: str
    number: int
    prompt: str
    system: str
    """Standing instructions: given as a system prompt where the CLI has one, else put before the prompt."""
    session: str | None
    """Session to resume; none: start a new one."""
    new_session: str
    """A uuid for the new session, for CLIs that let the caller choose."""
    folder: Path
    """The turn's run folder; a runtime may put files there."""
    budget_usd: float | None = None
    previous: dict[str, float] = field(default_factory=dict)
    """Cumulative figures of the session after its last turn, as this runtime's reader gave them."""


@dataclass(frozen=True)
class Launch:
    """A process to start in the worktree."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    """Added to the allow-listed part of the worker's environment."""
    stdin: str = ""


@dataclass
class Report:
    """What a turn came to, in the runtime's judgement."""

    end: TurnEnd
    text: str = ""
    """The agent's final text."""
    reason: str = ""
    """One line; for a person."""
    session: str | None = None
    retry_after_seconds: float | None = None
    usage: Usage = field(default_factory=Usage)
    cumulative: dict[str, float] = field(default_factory=dict)
    """For the next turn's `Turn.previous`."""


class Reader(Protocol):
    """Follows one turn's standard output."""

    session: str | None
    """Known as soon as the CLI has said it."""
    finished: bool
    """The CLI has printed its result: if it does not exit now, it may be ended."""
    last: str
    """The newest thing said or done, one short line, for the live view."""

    def feed(self, line: str) -> None:
        """One line of standard output, without its line break."""

    def report(self, exit_code: int | None, stderr: str) -> Report:
        """Judge the turn. `exit_code` is negative for a signal, None when we ended it at a time-out."""


class Runtime(Protocol):
    name: str
    binary: str | None
    """The program that must be installed; none: the agent's own `command`."""
    install: str
    """How to get it, for the message when it is missing."""
    login: str
    """How to log in, for the message when a login is missing."""
    environment: tuple[str, ...]
    """Prefixes of the worker's variables that are passed on, besides the common ones."""

    def launch(self, turn: Turn) -> Launch: ...

    def reader(self, turn: Turn) -> Reader: ...
