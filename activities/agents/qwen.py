"""Runtime `qwen`: Alibaba's Qwen Code, `qwen -o stream-json`. Measured with 0.24.4.

* Its events are Claude Code's. A failure is a `result` with the text in `error`; a limit of its own (exit 53 for the
  turns) has no `result`, and its reason is on standard error.
* `usage` of a `result` is the sum over the session, resumed turns included; `input_tokens` has the cached ones in it.
  There is no cost in it: that is of the price list.
* A failed request is tried again for minutes, or after the hour that the server asks for, without a word. Its debug
  log says each attempt, so it is switched on: ~/.qwen/debug, 15 kB and more for each session.
* Unless told otherwise it asks a model, after a turn, what is worth remembering, and sends statistics of use.
* Sessions belong to a folder: elsewhere their ids are unknown.
* Tools of MCP servers are deferred, found by a search only, unless the server's entry has `alwaysLoadTools`.
* `@name` in a prompt adds the file of that name to it, and a slash at the beginning is a command.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from activities.agents.base import (
    Abilities,
    Keeps,
    Launch,
    Report,
    Turn,
    judged,
    last_words,
    literal,
    mcp_servers,
    missing,
    number,
    one_line,
    standing,
    usage,
    without_result,
)
from activities.agents.claude_code import ClaudeReader
from activities.contracts import Usage
from activities.settings import AgentSpec

_MAX_TURNS = 53
"""Its exit code."""
_NODE = 22
_DEFAULTS = Path("/etc/qwen-code/system-defaults.json")
_LOGGED = re.compile(r"(?P<at>\d{4}-\d\d-\d\dT[\d:.]+Z) \[(?:WARN|ERROR)\] \[(?P<by>\w+)\] (?P<text>.*)")
_DELAY = re.compile(r"explicit delay of (\d{1,12})ms")


class Qwen:
    name = "qwen"
    program = "qwen"
    install = "npm install -g @qwen-code/qwen-code (it needs Node 22)"
    login = "choose a provider with `qwen` and its /auth on the worker's host, or set OPENAI_API_KEY"
    abilities = Abilities(
        session="ours",
        max_turns=True,
        budget=False,
        live="messages",
        cost="price list",
        system="system prompt",
        reasoning=False,
    )
    environment: tuple[str, ...] = ("QWEN_", "OPENAI_", "DASHSCOPE_", "BAILIAN_")
    key = "OPENAI_API_KEY"
    outranking: tuple[str, ...] = (
        "OPENAI_API_KEY",
        "DASHSCOPE_API_KEY",
        "BAILIAN_CODING_PLAN_API_KEY",
        "BAILIAN_TOKEN_PLAN_API_KEY",
        "QWEN_DEFAULT_AUTH_TYPE",
    )

    logins: tuple[str, ...] = ()
    keeps: tuple[Keeps, ...] = (
        Keeps(
            ("$QWEN_HOME", "~/.qwen"),
            login=("oauth_creds.json",),
            settings=("settings.json", ".env", "QWEN.md", "agents", "commands", "extensions", "skills"),
        ),
        Keeps(("$QWEN_RUNTIME_DIR",)),
    )

    def takes_tools(self, agent: AgentSpec, env: Mapping[str, str]) -> bool:  # noqa: ARG002
        return True

    def vendor(self, agent: AgentSpec) -> str:  # noqa: ARG002
        return "qwen"

    def problem(self, agent: AgentSpec, env: Mapping[str, str]) -> str | None:  # noqa: ARG002 (any spec will do)
        node = shutil.which("node", path=env.get("PATH", ""))
        if node and 0 < (major := _major(node)) < _NODE:
            return f"qwen needs Node {_NODE} or newer, {node} is {major}: put a newer one first on the worker's PATH"
        return missing(self.program, env, self.install)

    def launch(self, turn: Turn) -> Launch:
        system, stdin = standing(turn)
        argv = "qwen -o stream-json --yolo".split()
        argv += ["--resume", turn.session] if turn.session else ["--session-id", turn.new_session]
        argv += ["--max-session-turns", str(turn.agent.max_turns)]
        if turn.agent.model:
            argv += ["-m", turn.agent.model]
        if turn.mcp:
            argv += ["--mcp-config", mcp_servers(turn, alwaysLoadTools=True)]
        if system:
            argv += ["--append-system-prompt", system]
        env = {
            "QWEN_CODE_NO_RELAUNCH": "1",  # else a signal ends a wrapper, and not the agent
            "QWEN_CODE_SUPPRESS_YOLO_WARNING": "1",
            "QWEN_DEBUG_LOG_FILE": "1",
        }
        if "QWEN_CODE_SYSTEM_DEFAULTS_PATH" not in turn.env and not _DEFAULTS.exists():
            env["QWEN_CODE_SYSTEM_DEFAULTS_PATH"] = str(_defaults(turn))
        return Launch(argv, env, literal(stdin))

    def reader(self, turn: Turn) -> QwenReader:
        return QwenReader(turn)


RUNTIME = Qwen()


class QwenReader(ClaudeReader):
    def __init__(self, turn: Turn, since: datetime | None = None) -> None:
        super().__init__(turn)
        self._since = (since or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S")
        """A session's log has its earlier turns in it."""
        self._api_error = ""

    @property
    def log(self) -> Path | None:
        env = {**self.turn.env, **self.turn.agent.env}
        home = env.get("QWEN_RUNTIME_DIR") or env.get("QWEN_HOME") or Path(env.get("HOME", "/")) / ".qwen"
        return self.turn.outside(Path(home)) / "debug" / f"{self.turn.session or self.turn.new_session}.txt"

    def feed_log(self, line: str) -> None:
        found = _LOGGED.match(line)
        if not found or found["at"] < self._since:
            return
        text = found["text"].removesuffix("{").strip()
        match found["by"]:
            case "OPENAI_ERROR":
                self._api_error = text
            case "RETRY" if text.startswith("Attempt"):
                delay = _DELAY.search(text)
                again = f"; try again in {int(delay[1]) // 1_000}s" if delay else ""
                self.last = one_line(f"{self._api_error} ({text}){again}", 400)
                self.tries_again(self.last)
            case "QWEN_CODE_CHAT" if "retry" in text:
                self.last = one_line(text, 400)
                self.tries_again(self.last)

    def _assistant(self, event: dict[str, Any]) -> None:
        retrying = self.retrying
        super()._assistant(event)
        message = event.get("message")
        if isinstance(message, dict) and not self._used(message).tokens:  # an answer that broke off, or an error
            self.retrying = retrying

    def _used(self, message: dict[str, Any]) -> Usage:
        """Of one request; of a message's events the last has it."""
        self.model = str(message.get("model") or self.model)
        return self._priced(_figures(message.get("usage")), self.model)

    def _priced(self, figures: dict[str, float], model: str | None) -> Usage:
        """Alibaba is not in the price list; OpenRouter asks the same for its models."""
        if model and model.startswith(("qwen", "qwq")):
            return usage(figures, "openrouter", f"qwen/{model}")
        return usage(figures, model=model)

    def _judge(self, exit_code: int | None, stderr: str) -> Report:
        result = self._result
        if result.get("subtype") == "success" and not result.get("is_error"):
            return Report("done", text=str(result.get("result") or ""))
        if result:
            error = result.get("error")
            return judged(str(error.get("message") if isinstance(error, dict) else result.get("subtype")))
        if self.turn.session and "No saved session found" in stderr:
            return Report("lost_session", reason=last_words(stderr))
        if exit_code == _MAX_TURNS:
            return Report("max_turns", reason=last_words(stderr) or f"exit {exit_code}")
        return without_result(exit_code, stderr, self.retrying)

    def _cumulative(self) -> dict[str, float]:
        """Empty when nothing was counted, as in a turn whose first request failed."""
        figures = _figures(self._result.get("usage"))
        return figures if any(figures.values()) else {}


def _figures(counted: object) -> dict[str, float]:
    counted = counted if isinstance(counted, dict) else {}
    return {
        "input_tokens": number(counted.get("input_tokens")),
        "cached_tokens": number(counted.get("cache_read_input_tokens")),
        "output_tokens": number(counted.get("output_tokens")),
    }


def _defaults(turn: Turn) -> Path:
    """Settings that the user's own outweigh: no requests behind our back."""
    path = turn.folder / "qwen-defaults.json"
    memory = {"enableManagedAutoMemory": False, "enableManagedAutoDream": False}
    path.write_text(json.dumps({"memory": memory, "privacy": {"usageStatisticsEnabled": False}}))
    return path


@cache
def _major(node: str) -> int:
    """Node's major version; 0 when it does not tell."""
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.match(r"v(\d+)\.", said)
    return int(match[1]) if match else 0
