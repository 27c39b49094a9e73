"""Runtime `command`: any program that follows a small contract of its own.

The argv runs in the worktree with the prompt on standard input and `MERGEWRIGHT_TASK`, `MERGEWRIGHT_ROLE`,
`MERGEWRIGHT_SESSION` (the same on resume) and `MERGEWRIGHT_TURN` in its environment. Its standard output is the
final text. Exit 0 ended the turn; 75 is a rate limit (`retry-after: N` on a line of standard error gives seconds);
77 is a missing login; anything else is a failure. A line `usage: {"cost_usd": 0.02, "input_tokens": 900,
"cached_tokens": 500, "output_tokens": 70}` of standard error says what was used since the last such line: a program
that writes one after each request is stopped where its budget ends.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from activities.agents.base import (
    Abilities,
    Keeps,
    Launch,
    Reader,
    Report,
    Turn,
    json_object,
    last_words,
    number,
    one_line,
    standing,
    usage,
    without_result,
)
from activities.contracts import Usage
from activities.settings import AgentSpec

_USAGE = re.compile(r"\s*usage:\s*(\{.*\})\s*$", re.IGNORECASE)
_TOKENS = ("input_tokens", "cached_tokens", "output_tokens")
_TEXT_LIMIT = 2 * 2**20
"""Characters of its output that are kept for the final text; the end, where the signal is."""
_RETRY_AFTER = re.compile(r"^\s*retry-after:\s*(\d+(?:\.\d+)?)\s*$", re.IGNORECASE | re.MULTILINE)


class Command:
    name = "command"
    program = ""
    install = "put it where `command` says, and make it executable"
    login = "log the agent's program in"
    abilities = Abilities(
        session="ours",
        max_turns=False,
        budget=False,
        live="messages",
        cost="reported",
        system="prompt",
        reasoning=False,
    )
    environment: tuple[str, ...] = ()
    key = ""
    outranking: tuple[str, ...] = ()

    logins: tuple[str, ...] = ()
    keeps: tuple[Keeps, ...] = ()

    def takes_tools(self, agent: AgentSpec, env: Mapping[str, str]) -> bool:  # noqa: ARG002
        return False

    def vendor(self, agent: AgentSpec) -> str:
        """Nobody's limits, unless the agent names an account."""
        return "command" if agent.account else ""

    def problem(self, agent: AgentSpec, env: Mapping[str, str]) -> str | None:
        """A path relative to the worktree cannot be checked before there is one: that is no problem yet."""
        program = agent.command[0]
        if "/" in program:
            if not Path(program).is_absolute() or os.access(program, os.X_OK):
                return None
        elif shutil.which(program, path=env.get("PATH", "")):
            return None
        return f"agent command {program} is missing or not executable: {self.install}"

    def launch(self, turn: Turn) -> Launch:
        _, stdin = standing(turn, limit=0)
        env = {
            "MERGEWRIGHT_TASK": turn.task_id,
            "MERGEWRIGHT_ROLE": turn.role,
            "MERGEWRIGHT_SESSION": _session(turn),
            "MERGEWRIGHT_TURN": str(turn.number),
        }
        if turn.mcp:
            env["MERGEWRIGHT_MCP_SOCKET"], env["MERGEWRIGHT_MCP"] = turn.mcp[-1], shlex.join(turn.mcp)
        return Launch(list(turn.agent.command), env, stdin)

    def reader(self, turn: Turn) -> CommandReader:
        return CommandReader(turn)


RUNTIME = Command()


class CommandReader(Reader):
    def __init__(self, turn: Turn) -> None:
        super().__init__(turn)
        self.session = _session(turn)
        self._lines: deque[str] = deque()
        self._room = _TEXT_LIMIT
        self._cut = False
        self._used = Usage()

    @property
    def usage(self) -> Usage:
        return self._used

    @property
    def log(self) -> Path | None:
        return self.turn.folder / "stderr.log"

    def feed_log(self, line: str) -> None:
        if found := _USAGE.match(line):
            told = json_object(found[1])
            self._used += usage({name: max(number(told.get(name)), 0.0) for name in ("cost_usd", *_TOKENS)})

    def feed(self, line: str) -> None:
        self.last = one_line(line[:4_000], 200) or self.last
        kept = line[-_TEXT_LIMIT:]
        self._lines.append(kept)
        self._room -= len(kept) + 1
        self._cut = self._cut or len(kept) < len(line)
        while self._room < 0 and len(self._lines) > 1:
            self._room += len(self._lines.popleft()) + 1
            self._cut = True

    def report(self, exit_code: int | None, stderr: str) -> Report:
        report = self._judge(exit_code, stderr)
        report.text = "\n".join(["(the beginning was cut off)", *self._lines] if self._cut else self._lines)
        report.session = self.session
        report.usage = self._used
        return report

    def _judge(self, exit_code: int | None, stderr: str) -> Report:
        stderr = "\n".join(line for line in stderr.splitlines() if not _USAGE.match(line))
        said = last_words(stderr) or f"exit {exit_code}"
        match exit_code:
            case 0:
                return Report("done")
            case os.EX_TEMPFAIL:
                stated = _RETRY_AFTER.findall(stderr)
                return Report("limited", reason=said, retry_after_seconds=float(stated[-1]) if stated else None)
            case os.EX_NOPERM:
                return Report("login", reason=f"{said}: {Command.login}")
            case _:
                return without_result(exit_code, stderr, by_table=False)  # a failed test may be named for a rate limit


def _session(turn: Turn) -> str:
    return turn.session or turn.new_session
