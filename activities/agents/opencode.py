"""Runtime `opencode`: `opencode run --format json`. Measured with 1.18.33.

* There is no event for the end of a turn. Its last `step_finish` has the reason `stop`, and its log says that it leaves
  its loop; a step of the reason `unknown` is an answer that broke off, and is asked for again at once, for ever.
* Each `step_finish` has the tokens and the cost of one request, by opencode's own prices. Those of sub-agents are not
  told anywhere.
* 429 and 5xx it tries again up to 5 times, 60 to 75 s in all, and sleeps through any `retry-after`. Of that nothing is
  in its output; its log, which we have on standard error, says each failed request, without the status.
* A full context it compacts, and asks again, for ever where that is of no use.
* A session belongs to the folder that it was made in. Resumed elsewhere it works there, and never prints a word.
* `instructions` of its configuration name files that are read at each turn, and are joined with the user's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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
    standing,
    usage,
    without_result,
)
from activities.contracts import Usage
from activities.settings import AgentSpec

_CONFIG = "OPENCODE_CONFIG_CONTENT"
_BROKEN_ANSWERS = 5
"""So many in a row that broke off are the end: each costs its input, and they come without a pause."""
_OVERFLOWS = 2
"""The context was full, was compacted, and is full again before anything was done."""
_FIELD = re.compile(r'([\w.]+)=("(?:[^"\\]|\\.)*"|\S*)')
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_UNKNOWN_MODEL = re.compile(r"Model not found: [^/\s]+/(?P<model>\S+?)\.(?: Did you mean: (?P<known>[^?]*)\?)?")


class OpenCode:
    name = "opencode"
    program = "opencode"
    install = "npm install -g opencode-ai"
    login = "run `opencode auth login` on the worker's host, or set the provider's key, as ANTHROPIC_API_KEY"
    abilities = Abilities(
        session="its own",
        max_turns=False,
        budget=False,
        live="messages",
        cost="reported",
        system="system prompt",
        reasoning=True,
    )
    environment: tuple[str, ...] = (
        "OPENCODE_",
        "ANTHROPIC_",
        "OPENAI_",
        "GEMINI_API_KEY",
        "GOOGLE_GENERATIVE_AI_API_KEY",
        "OPENROUTER_API_KEY",
        "DEEPSEEK_API_KEY",
        "MISTRAL_API_KEY",
        "GROQ_API_KEY",
        "XAI_API_KEY",
        "MOONSHOT_API_KEY",
        "ZHIPU_API_KEY",
        "DASHSCOPE_API_KEY",
    )
    """Of the many providers that it knows the best known; the agent's own `env` names what any other needs."""
    key = "OPENCODE_API_KEY"
    """Of opencode's own models. Any other provider takes a variable of its own, which the agent's `env` may hold."""
    outranking: tuple[str, ...] = (
        "OPENCODE_API_KEY",
        "OPENCODE_AUTH_CONTENT",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "OPENAI_API_KEY",
        "GEMINI_API_KEY",
        "GOOGLE_GENERATIVE_AI_API_KEY",
        "OPENROUTER_API_KEY",
        "DEEPSEEK_API_KEY",
        "MISTRAL_API_KEY",
        "GROQ_API_KEY",
        "XAI_API_KEY",
        "MOONSHOT_API_KEY",
        "ZHIPU_API_KEY",
        "DASHSCOPE_API_KEY",
    )

    logins: tuple[str, ...] = ()
    keeps: tuple[Keeps, ...] = (
        Keeps(("$XDG_DATA_HOME/opencode", "~/.local/share/opencode"), login=("auth.json", "mcp-auth.json")),
        Keeps(
            ("$XDG_CONFIG_HOME/opencode", "~/.config/opencode"),
            settings=(
                "opencode.json", "opencode.jsonc", "config.json", "AGENTS.md", "agent", "agents", "command", "commands",
                "mode", "modes", "plugin", "plugins", "skill", "skills", "tool", "tools",
            ),
        ),
        Keeps(("$XDG_STATE_HOME/opencode",)),
        Keeps(("$XDG_CACHE_HOME/opencode",)),
    )  # fmt: skip

    def takes_tools(self, agent: AgentSpec, env: Mapping[str, str]) -> bool:
        """The agent's own configuration would outweigh ours; one with comments cannot be joined with it."""
        return _CONFIG not in agent.env and _joins(env)

    def vendor(self, agent: AgentSpec) -> str:
        """The provider, which the model begins with."""
        provider, slash, _ = (agent.model or "").partition("/")
        return provider if slash and provider else "opencode"

    def problem(self, agent: AgentSpec, env: Mapping[str, str]) -> str | None:  # noqa: ARG002 (any spec will do)
        return missing(self.program, env, self.install)

    def launch(self, turn: Turn) -> Launch:
        argv = "opencode run --format json --auto --print-logs --log-level INFO".split()
        if turn.session:
            argv += ["-s", turn.session]
        else:  # a title of ours spares the request that asks a model for one
            argv += ["--title", f"{turn.task_id} {turn.role}"]
        if turn.agent.model:
            argv += ["-m", turn.agent.model]
        if turn.agent.reasoning:
            argv += ["--variant", turn.agent.reasoning]
        env = {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1"}
        if not self.takes_tools(turn.agent, turn.env):
            return Launch(argv, env, standing(turn, limit=0)[1] if turn.system else turn.prompt)
        config = json_object(turn.env.get(_CONFIG, "{}"))
        if turn.system:
            config = _with_instructions(config, turn)
        if turn.mcp:
            ours = {MCP_SERVER: {"type": "local", "command": list(turn.mcp), "enabled": True}}
            config = {**config, "mcp": {**_dict(config, "mcp"), **ours}}
        if turn.system or turn.mcp:
            env[_CONFIG] = json.dumps(config)
        return Launch(argv, env, turn.prompt)

    def reader(self, turn: Turn) -> OpenCodeReader:
        return OpenCodeReader(turn)


RUNTIME = OpenCode()


class OpenCodeReader(Reader):
    def __init__(self, turn: Turn) -> None:
        super().__init__(turn)
        self._said = ""
        self._ended_by = ""
        """Reason of the last step."""
        self._left_loop = False
        self._failure: Report | None = None
        """What it said and has not got over."""
        self._broken = self._overflows = 0
        self._folder = ""
        """Where it was started, and so where a new session belongs."""
        self._listens = False
        self._unknown_model = ""
        self._used = Usage()

    @property
    def log(self) -> Path | None:
        return self.turn.folder / "stderr.log"

    @property
    def usage(self) -> Usage:
        return self._used

    def feed(self, line: str) -> None:
        event = json_object(line)
        if isinstance(session := event.get("sessionID"), str) and self.session is None:
            self.session = session
        match event:
            case {"type": "step_start"}:
                self.retrying = ""
            case {"type": "text", "part": {"text": str(text)}} if text.strip():
                self._said = text
                self.last = one_line(text, 200)
            case {"type": "tool_use", "part": dict(part)}:
                self._gets_on()
                self.last = _shown(part)
            case {"type": "step_finish", "part": dict(part)}:
                self._step(part)
            case {"type": "error", "error": dict(error)}:
                self._error(error)

    def _gets_on(self) -> None:
        self.retrying, self._failure = "", None
        self._broken = self._overflows = 0

    def _step(self, part: dict[str, Any]) -> None:
        self.retrying, self._ended_by = "", str(part.get("reason"))
        self._used += self._cost(part)
        self._failure = None
        self._broken = self._broken + 1 if self._ended_by == "unknown" else 0
        if self._broken >= _BROKEN_ANSWERS:
            self._failure = judged(f"connection closed in the middle of an answer, {self._broken} times in a row")
            self.finished = True

    def _cost(self, part: dict[str, Any]) -> Usage:
        tokens = _dict(part, "tokens")
        cache = _dict(tokens, "cache")
        cached, cost = number(cache.get("read")), number(part.get("cost"))
        figures = {
            "input_tokens": number(tokens.get("input")) + cached + number(cache.get("write")),
            "cached_tokens": cached,
            "output_tokens": number(tokens.get("output")) + number(tokens.get("reasoning")),
        }
        if cost > 0:  # it has no price of a model that the user's configuration has added
            figures["cost_usd"] = cost
        vendor, _, model = self.model.partition("/")
        return usage(figures, vendor, model)

    def _error(self, error: dict[str, Any]) -> None:
        data = _dict(error, "data")
        said = str(data.get("message") or error.get("name"))
        body = one_line(data.get("responseBody", ""), 2_000)
        self._failure = judged(f"{said} {body}", number(data.get("statusCode")))
        self._failure.reason = one_line(said, 400)
        self.last = one_line(said, 200)
        if error.get("name") == "ContextOverflowError":
            self._failure.end = "context_full"
            self._overflows += 1
            self.finished = self._overflows >= _OVERFLOWS

    def feed_log(self, line: str) -> None:
        fields = {name: _plain(value) for name, value in _FIELD.findall(line)}
        message = fields.get("message")
        if message == "creating instance" and not self._listens:
            self._starts_in(fields.get("directory", ""))
        elif message == "event connected":
            self._listens = True
        elif message == "loop":  # a next step, perhaps of a sub-agent, whose steps are told nowhere else
            self.retrying = ""
            self.session = self.session or fields.get("session.id")  # where all requests fail, nothing else names it
        elif message == "stream error" and fields.get("small") != "true":
            self.last = one_line(fields.get("error.error", "a request failed"), 200)
            # It says no status. What it tries again are lost connections, 408, 409, 429 and 5xx.
            self.tries_again(f"rate limit, or a fault of the server: {self.last}")
            self.pauses = True
        elif message == "stream" and fields.get("agent") and fields.get("small") == "false":
            self.pauses = False
            self.model = f"{fields.get('providerID', '')}/{fields.get('modelID', '')}"
        elif message == "exiting loop" and fields.get("session.id") == self.session:
            self._left_loop = self.finished = True
        if match := _UNKNOWN_MODEL.search(line):
            self._unknown_model = match[0]

    def _starts_in(self, folder: str) -> None:
        """A second folder before it listens to its events is that of a resumed session; it will work there."""
        if self._folder and folder != self._folder and self.turn.session:
            self.session = f"one of {folder}"  # another than was asked for: it is ended at once
            self._failure = Report("lost_session", reason=f"the session belongs to {folder}")
        self._folder = self._folder or folder

    def report(self, exit_code: int | None, stderr: str) -> Report:
        report = self._judge(exit_code, stderr)
        report.session = None if report.end == "lost_session" else self.session
        report.text = self._said
        report.usage = self._used
        return report

    def _judge(self, exit_code: int | None, stderr: str) -> Report:
        said = "\n".join(line for line in _COLOURS.sub("", stderr).splitlines() if not line.startswith("timestamp="))
        if self.turn.session and "Session not found" in said:
            return Report("lost_session", reason=last_words(said))
        if self._failure:
            return self._without_model() or self._failure
        if self._ended_by == "stop" and (exit_code == 0 or self._left_loop):
            return Report("done")
        if self._ended_by not in ("", "stop", "tool-calls") and exit_code == 0:
            return judged(f"the last answer ended by {self._ended_by.replace('-', '_')}")
        return without_result(exit_code, said, self.retrying)

    def _without_model(self) -> Report | None:
        """A provider whose key is missing has no models; its log then proposes the very model that was asked for."""
        if match := _UNKNOWN_MODEL.search(self._unknown_model):
            known = match["model"] in (match["known"] or "").split(", ")
            return Report("login" if known else "failed", reason=one_line(match[0], 400))
        return None


def _joins(env: Mapping[str, str]) -> bool:
    """Whether the configuration that the environment has can be added to."""
    given = env.get(_CONFIG, "{}")
    return bool(json_object(given)) or given.strip() == "{}"


def _with_instructions(config: dict[str, Any], turn: Turn) -> dict[str, Any]:
    """The configuration with the name of a file, in which the standing instructions are."""
    path = turn.folder / "instructions.md"
    path.write_text(turn.system, encoding="utf-8", errors="replace")
    given = config.get("instructions")
    return {**config, "instructions": [*(given if isinstance(given, list) else []), str(path)]}


def _shown(part: dict[str, Any]) -> str:
    """A tool and what it was given."""
    state = _dict(part, "state")
    shown = next((value for value in _dict(state, "input").values() if isinstance(value, str)), "")
    return one_line(f"{part.get('tool')} {shown}", 200)


def _plain(value: str) -> str:
    """A field of the log without its quotes."""
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _dict(event: dict[str, Any], key: str) -> dict[str, Any]:
    value = event.get(key)
    return value if isinstance(value, dict) else {}
