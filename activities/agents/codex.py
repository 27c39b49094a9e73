"""Runtime `codex`: OpenAI's `codex exec --json`. Measured with 0.169.0.

* An error is text only (`turn.failed`); an `error` event alone may be a retry that goes on to succeed.
* `turn.completed.usage` is the sum over the thread, resumed turns included: a turn's share is the difference to the
  last report. There is no cost in it: that is of the price list.
* While it works it tells neither its use nor its model; the thread's rollout, a file under its home, tells the use
  after each request, and the model at each turn's beginning.
* It has no turn or budget limit of its own.
* A thread name that it does not know starts a new thread without a word, so the thread's id is compared.
* It begins a turn before its MCP servers are there, unless they are `required`; their tools are found by a search.
* Its own sandbox keeps `.git` read-only, so that the agent could not commit; it is switched off.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from activities.agents.base import (
    MCP_SERVER,
    Abilities,
    Keeps,
    Launch,
    Reader,
    Report,
    Turn,
    json_object,
    judged,
    last_words,
    missing,
    number,
    one_line,
    spent,
    standing,
    usage,
    without_result,
)
from activities.contracts import Usage
from activities.settings import AgentSpec


class Codex:
    name = "codex"
    program = "codex"
    install = "npm install -g @openai/codex"
    login = "run `codex login` on the worker's host, or set CODEX_API_KEY, and check the account's plan and billing"
    abilities = Abilities(
        session="its own",
        max_turns=False,
        budget=False,
        live="session log",
        cost="price list",
        system="system prompt",
        reasoning=True,
    )
    environment: tuple[str, ...] = ("OPENAI_", "CODEX_")
    key = "CODEX_API_KEY"
    outranking: tuple[str, ...] = ("CODEX_API_KEY", "CODEX_ACCESS_TOKEN", "OPENAI_API_KEY")

    logins: tuple[str, ...] = ()
    keeps: tuple[Keeps, ...] = (
        Keeps(
            ("$CODEX_HOME", "~/.codex"),
            login=("auth.json",),
            settings=("config.toml", "AGENTS.md", "AGENTS.override.md", "prompts", "rules", "skills"),
        ),
    )

    def takes_tools(self, agent: AgentSpec, env: Mapping[str, str]) -> bool:  # noqa: ARG002
        return True

    def vendor(self, agent: AgentSpec) -> str:  # noqa: ARG002
        return "openai"

    def problem(self, agent: AgentSpec, env: Mapping[str, str]) -> str | None:  # noqa: ARG002 (any spec will do)
        return missing(self.program, env, self.install)

    def launch(self, turn: Turn) -> Launch:
        system, stdin = standing(turn)
        argv = "codex exec --json --dangerously-bypass-approvals-and-sandbox".split()
        if turn.agent.model:
            argv += ["-m", turn.agent.model]
        if turn.agent.reasoning:
            argv += ["-c", f"model_reasoning_effort={_toml(turn.agent.reasoning)}"]
        if system:
            argv += ["-c", f"developer_instructions={_toml(system)}"]
        if turn.mcp:
            command, *arguments = turn.mcp
            argv += ["-c", f"mcp_servers.{MCP_SERVER}.command={_toml(command)}"]
            argv += ["-c", f"mcp_servers.{MCP_SERVER}.required=true"]
            argv += ["-c", f"mcp_servers.{MCP_SERVER}.startup_timeout_sec=60"]
            argv += ["-c", f"mcp_servers.{MCP_SERVER}.args=[{', '.join(map(_toml, arguments))}]"]
        if turn.session:
            argv += ["resume", turn.session]
        return Launch([*argv, "-"], stdin=stdin)

    def reader(self, turn: Turn) -> CodexReader:
        return CodexReader(turn)


RUNTIME = Codex()


class CodexReader(Reader):
    def __init__(self, turn: Turn, since: datetime | None = None) -> None:
        super().__init__(turn)
        self._since = (since or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S")
        """A thread's rollout has its earlier turns in it."""
        self._said = ""
        self._failure = ""
        self._figures: dict[str, float] = {}
        self._completed = False
        self._log: Path | None = None

    @property
    def log(self) -> Path | None:
        """The thread's rollout: `token_count` there tells the use after each request."""
        if self._log is None and self.session:
            home = Path(self.turn.env.get("CODEX_HOME") or Path(self.turn.env.get("HOME", "/")) / ".codex")
            home = self.turn.outside(home)
            self._log = next(home.glob(f"sessions/*/*/*/rollout-*{glob.escape(self.session)}.jsonl"), None)
        return self._log

    def feed_log(self, line: str) -> None:
        event = json_object(line)
        if isinstance(at := event.get("timestamp"), str) and at < self._since:
            return
        match event:
            case {
                "type": "event_msg",
                "payload": {"type": "token_count", "info": {"total_token_usage": dict(counted)}},
            }:
                self._count(counted)
            case {"type": "turn_context", "payload": {"model": str(model)}} if model:
                self.model = model

    def feed(self, line: str) -> None:
        event = json_object(line)
        match event:
            case {"type": "thread.started", "thread_id": str(thread)}:
                self.session = thread
            case {"type": "item.started" | "item.completed", "item": dict(item)}:
                self.retrying = ""
                self._item(item)
            case {"type": "error", "message": str(message)}:
                self.tries_again(message)
                self.last = one_line(message, 200)
            case {"type": "turn.failed", "error": {"message": str(message)}}:
                self._failure = message or "turn.failed"
                self.finished = True
            case {"type": "turn.completed"}:
                self._count(event.get("usage"))
                self._completed = self.finished = True

    def _item(self, item: dict[str, Any]) -> None:
        match item:
            case {"type": "agent_message", "text": str(text)}:
                self._said = text
                self.last = one_line(text, 200)
            case {"type": "command_execution", "command": str(command)}:
                self.last = one_line(f"$ {command}", 200)
            case {"type": "mcp_tool_call", "tool": str(tool)}:
                self.last = one_line(f"{item.get('server')} {tool}", 200)
            case {"type": "file_change", "changes": list(changes)}:
                paths = [str(change.get("path")) for change in changes if isinstance(change, dict)]
                self.last = one_line(f"edit {' '.join(paths)}", 200)

    @property
    def usage(self) -> Usage:
        return usage(spent(self._figures, self.previous), "openai", self.model)

    def report(self, exit_code: int | None, stderr: str) -> Report:
        report = self._judge(exit_code, stderr)
        report.session = None if report.end == "lost_session" else self.session
        report.text = self._said
        report.cumulative = self._figures or self.previous
        report.usage = self.usage
        return report

    def _judge(self, exit_code: int | None, stderr: str) -> Report:
        if self._completed:
            return Report("done")
        if self._failure:
            return judged(self._failure)
        if self.turn.session and "thread/resume failed" in stderr:
            return Report("lost_session", reason=last_words(stderr))
        return without_result(exit_code, stderr, self.retrying)

    def _count(self, counted: object) -> None:
        """Sums over the thread; the last that were told count."""
        if isinstance(counted, dict) and counted:
            self._figures = {
                "input_tokens": number(counted.get("input_tokens")),
                "cached_tokens": number(counted.get("cached_input_tokens")),
                "output_tokens": number(counted.get("output_tokens")),
            }


def _toml(text: str) -> str:
    """A TOML basic string. JSON's differs from it in that it lets a DEL through."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
