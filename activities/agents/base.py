"""What an agent CLI looks like to the rest: a runtime makes an argv, and a reader understands its output.

A runtime is one module here and one entry in `RUNTIMES` (see `__init__`). It knows its CLI's flags, environment and
output, and nothing of git, Temporal or prompts. No exit code is trusted alone: the reader judges the whole turn,
and what the CLI printed as its result outweighs how it exited.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from activities.agents.prices import price
from activities.agents.resets import stated_wait
from activities.contracts import TurnEnd, Usage
from activities.faults.agent import end_of
from activities.settings import AgentSpec, Role, tail

ARGUMENT_BYTES = 100_000
"""Longer texts do not go into an argv: Linux refuses a single argument of 128 KiB (MAX_ARG_STRLEN)."""


@dataclass(frozen=True)
class Keeps:
    """A folder in which a CLI keeps things. In a sandbox a task has an empty one of its own in this place, where its
    sessions, logs and caches are; of the user's own it holds these files and folders, and no others."""

    folder: tuple[str, ...]
    """The first of these that is known: `$VARIABLE`, `$VARIABLE/name`, `~/name`."""
    login: tuple[str, ...] = ()
    """The CLI renews them, so they are the user's own files, writable."""
    settings: tuple[str, ...] = ()
    """Read-only: a later session of the user's must not find other settings than the user's."""
    copied: tuple[str, ...] = ()
    """Files that the CLI writes as often as it reads them: each task has a copy."""


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
    env: Mapping[str, str] = field(default_factory=dict)
    """What the CLI will run with, but for `Launch.env`: where its own files are."""
    mcp: tuple[str, ...] = ()
    """argv of the program that speaks MCP with mergewright on its standard input and output; empty: there is none."""
    outside: Callable[[Path], Path] = lambda path: path
    """Where a file really is that the CLI sees at a path: it may run in a sandbox."""


@dataclass(frozen=True)
class Launch:
    """A process to start in the worktree."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    """Added to the allow-listed part of the worker's environment; the agent's own `env` wins over it."""
    stdin: str = ""
    """Written and closed: a standard input left open makes some CLIs wait for ever."""
    write: tuple[Path, ...] = ()
    """Files of the turn's folder that the CLI writes."""


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
    model: str = ""
    usage: Usage = field(default_factory=Usage)
    cumulative: dict[str, float] = field(default_factory=dict)
    """For the next turn's `Turn.previous`."""
    limit: str = ""
    """Of the host's, for which we ended it, and by how much; its name comes first."""


class Reader:
    """Follows one turn's standard output. No output, however odd, makes it raise."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.session: str | None = None
        """Known as soon as the CLI has said it."""
        self.finished = False
        """Nothing more of this turn is wanted: if the process does not exit now, it may be ended."""
        self.last = ""
        """The newest thing said or done, one short line, for the live view."""
        self.model = turn.agent.model or ""
        """What the CLI says that it uses, as soon as it does."""
        self.retrying = ""
        """What the CLI is trying again by itself, as it said it; empty while it gets on. Some do so for hours."""
        self.retries = 0
        """How many failures it has told that it gets over by itself."""
        self.pauses = False
        """It is known to wait before its next attempt. Of most CLIs that is not known: they may be at work."""
        self.previous = turn.previous if turn.session else {}
        """Cumulative figures of the session before this turn."""

    @property
    def usage(self) -> Usage:
        """Of this turn so far, as far as the CLI tells it while it works."""
        return Usage()

    @property
    def log(self) -> Path | None:
        """A file that the CLI writes beside its output, as soon as it is known which: its lines go to `feed_log`."""
        return None

    def feed(self, line: str) -> None:
        """One line of standard output, without its line break."""
        raise NotImplementedError

    def feed_log(self, line: str) -> None:
        """One line of `log`."""

    def tries_again(self, said: str) -> None:
        """The CLI has told one more failure, and tries again."""
        self.retrying = said
        self.retries += 1

    def report(self, exit_code: int | None, stderr: str) -> Report:
        """Judge the turn. `exit_code` is negative for a signal, None when we ended it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Abilities:
    """What a CLI can do and tell; the documentation's table is made of it."""

    session: Literal["ours", "its own", "none"]
    """Who chooses the id of a new session; `none`: it cannot resume."""
    max_turns: bool
    """It stops by itself at `max_turns`."""
    budget: bool
    """It stops by itself at a sum of money; we stop any other whose use is known while it works."""
    live: Literal["messages", "session log", "telemetry", "none"]
    """Where its use is seen while it works."""
    cost: Literal["reported", "price list", "none"]
    system: Literal["system prompt", "prompt"]
    """Where the standing instructions go."""
    reasoning: bool
    """`reasoning` of the agent is passed on."""


class Runtime(Protocol):
    """One agent CLI."""

    name: str
    program: str
    """What is looked for in the PATH; empty: the agent's own `command`."""
    install: str
    """How to get it, for the message when it is missing."""
    login: str
    """What a person does about an end of `login`; part of the report's reason."""
    abilities: Abilities
    environment: tuple[str, ...]
    """Prefixes of the worker's variables that are passed on, besides the common ones."""
    key: str
    """The variable that the CLI takes an API key from; empty when it takes none."""
    outranking: tuple[str, ...]
    """Variables with which the CLI would not use its own login: keys, tokens, other providers. The billing mode
    `subscription` takes them all away, `key` all but the one key."""

    keeps: tuple[Keeps, ...]
    """What the CLI needs of the user's home, besides itself."""
    logins: tuple[str, ...]
    """Variables that hold a subscription's own login: `key` takes these away as well."""

    def takes_tools(self, agent: AgentSpec, env: Mapping[str, str]) -> bool:
        """Whether the agent gets `Turn.mcp` as tools, in this environment of a turn."""

    def vendor(self, agent: AgentSpec) -> str:
        """Whose limits a turn counts against; empty: nobody's."""

    def problem(self, agent: AgentSpec, env: Mapping[str, str]) -> str | None:
        """Why no turn can start with this PATH: one line that names the remedy. Quick, local, None when all is well."""

    def launch(self, turn: Turn) -> Launch: ...

    def reader(self, turn: Turn) -> Reader: ...


MCP_SERVER = "mergewright"
"""What the CLIs call it."""


def mcp_servers(turn: Turn, **more: Any) -> str:
    """As Claude Code and those after it take it; `more`: what the CLI must know of it besides."""
    command, *arguments = turn.mcp
    return json.dumps({"mcpServers": {MCP_SERVER: {"command": command, "args": arguments, **more}}})


# --- what the runtimes share ---------------------------------------------------------------------


def standing(turn: Turn, limit: int = ARGUMENT_BYTES) -> tuple[str, str]:
    """(system prompt for the argv, text for standard input); instructions over `limit` bytes go before the prompt."""
    system = turn.system.replace("\0", "")  # which no argument can hold
    if len(system.encode("utf-8", "replace")) <= limit:
        return system, turn.prompt
    return "", turn.prompt if turn.session else f"{system}\n\n{turn.prompt}"


def literal(prompt: str) -> str:
    r"""The prompt with no word that a CLI takes for a command of its own.

    Some add the file that `@word` names, or any file with `word` in its name; a decorator or an address would do. An
    escaped `\@` they pass on as it is, so that must be explained. A slash at the beginning is a command.
    """
    escaped = re.sub(r"(?<!\\)@(?=\S)|(?<=@)@", r"\\@", prompt)
    if escaped != prompt:
        escaped = f"(In this message, `\\@` stands for an at sign.)\n\n{escaped}"
    return f"\n{escaped}" if escaped.startswith("/") else escaped


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


_ESTIMATED = "estimated_"
_FALLEN = 0.999
"""Of what was told last: less may be rounding."""


def spent(
    cumulative: Mapping[str, float], previous: Mapping[str, float], seen: Usage | None = None
) -> dict[str, float]:
    """This turn's share of the sums over the session that its CLI has told.

    `previous` has the sums told last and, apart, our estimates of turns that were ended since. The CLI may have counted
    those turns or not; `seen`, this turn's use as it was followed, decides: of the two the likelier share is the one
    whose input is nearer to it. A sum below the one told last was begun again: then all of it is this turn's.
    """
    if any(value < _FALLEN * previous.get(key, 0.0) for key, value in cumulative.items()):
        return dict(cumulative)
    added = {key: max(value - previous.get(key, 0.0), 0.0) for key, value in cumulative.items()}
    own = float(seen.input_tokens) if seen else 0.0
    if added.get("input_tokens", 0.0) - own < previous.get(f"{_ESTIMATED}input_tokens", 0.0) / 2:
        return added
    return {key: max(value - previous.get(_ESTIMATED + key, 0.0), 0.0) for key, value in added.items()}


def with_estimate(previous: Mapping[str, float], used: Usage) -> dict[str, float]:
    """`previous` after a turn that was ended before its CLI told its sums: the next turn must not count it again."""
    counted = {name: float(getattr(used, name)) for name in ("input_tokens", "cached_tokens", "output_tokens")}
    if not used.unpriced_tokens:
        counted["cost_usd"] = used.cost_usd
    estimated = {_ESTIMATED + name: value for name, value in counted.items() if value}
    return {**previous, **{name: previous.get(name, 0.0) + value for name, value in estimated.items()}}


def usage(figures: Mapping[str, float], vendor: str = "", model: str | None = None) -> Usage:
    """`figures` may hold `cost_usd`; without it the price list is asked about the vendor's `model`."""
    counted = Usage(
        input_tokens=round(figures.get("input_tokens", 0.0)),
        cached_tokens=round(figures.get("cached_tokens", 0.0)),
        output_tokens=round(figures.get("output_tokens", 0.0)),
    )
    cost = figures["cost_usd"] if "cost_usd" in figures else price(counted, vendor, model)
    if cost is None:
        return counted.model_copy(update={"unpriced_tokens": counted.tokens})
    return counted.model_copy(update={"cost_usd": cost})


def judged(text: str, status: float = 0) -> Report:
    """A CLI's message of failure, by the one table of faults; with the time that it states."""
    end = end_of(text, round(status))
    wait = stated_wait(text, datetime.now().astimezone()) if end in ("limited", "credit") else None
    return Report(end, reason=one_line(text, 400), retry_after_seconds=wait)


def without_result(exit_code: int | None, stderr: str, retrying: str = "", *, by_table: bool = True) -> Report:
    """The judgement of a process that is gone and has not said how its turn ended.

    `retrying`: what it was trying again when we ended it, perhaps for hours: that is how the turn ended.
    `by_table`: its standard error tells faults of agents, and not of what the agent worked on.
    """
    if exit_code is None:
        waited = judged(retrying)
        if waited.end != "failed":
            return waited
        return Report("timeout", reason=one_line(retrying, 400) or "ended at a time-out")
    by = -exit_code if exit_code < 0 else exit_code - 128  # a shell, or a CLI that caught it, says 128 + n
    if by in set(signal.Signals):
        return Report("failed", reason=f"killed by {signal.Signals(by).name}")
    said = last_words(stderr)
    if exit_code == 0:
        return Report("unreadable", reason="exit 0" + (f": {said}" if said else "") + ", and no result")
    known = judged(said) if by_table else Report("failed")
    if known.end == "failed":
        known.reason = f"exit {exit_code}" + (f": {said}" if said else " and no result")
    return known
