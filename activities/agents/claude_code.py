"""Runtime `claude-code`: Anthropic's `claude -p` with its stream of JSON events. Measured with 2.1.329.

* The last event, `result`, tells how the turn ended. An API error is a `result` with subtype `success` and
  `is_error`; the turn and budget limits are subtypes of their own and carry no text.
* Each `assistant` event carries the tokens of its request, one event for each block of one message: what the turn
  has cost so far is known at each message. The sum of the last event outweighs it.
* `total_cost_usd` and `modelUsage` are sums over the session, resumed turns and turns ended by SIGTERM included (one
  ended by SIGKILL is lost from them), so a turn's share is the difference to the last report.
* Tools of MCP servers are deferred, found by a search only, unless the server's entry has `alwaysLoad`.
* `@path` at the beginning of a word of the prompt adds that file, also one outside of the worktree, and a slash at the
  prompt's beginning is a command: see `literal`.
* The process may outlive its `result` when a background task of the agent's lives on; such tasks are switched off.
* Its own retries after 429, 5xx and 401 are cut to about 20 s: longer waits are the workflow's, which hold no slot.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from activities.agents.base import (
    Abilities,
    Keeps,
    Launch,
    Reader,
    Report,
    Turn,
    json_object,
    judged,
    last_words,
    literal,
    mcp_servers,
    missing,
    number,
    one_line,
    spent,
    standing,
    usage,
    with_estimate,
    without_result,
)
from activities.contracts import Usage
from activities.settings import AgentSpec

_LONG_WAIT = 60.0
"""Seconds before its next attempt that the server must have asked for: its own pauses are shorter."""
_NO_SESSION = ("No conversation found", "requires a valid session ID")


class ClaudeCode:
    name = "claude-code"
    program = "claude"
    install = "npm install -g @anthropic-ai/claude-code"
    login = "log in with `claude` on the worker's host, or set ANTHROPIC_API_KEY, and check the account's credit"
    abilities = Abilities(
        session="ours",
        max_turns=True,
        budget=True,
        live="messages",
        cost="reported",
        system="system prompt",
        reasoning=True,
    )
    environment: tuple[str, ...] = ("ANTHROPIC_", "CLAUDE_")
    """Of a cloud that serves the models (AWS_*, GOOGLE_*), the agent's own `env` must name what it may have."""
    key = "ANTHROPIC_API_KEY"
    outranking: tuple[str, ...] = (
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "CLAUDE_CODE_USE_BEDROCK",
        "CLAUDE_CODE_USE_VERTEX",
        "CLAUDE_CODE_USE_FOUNDRY",
        "CLAUDE_CODE_USE_MANTLE",
        "CLAUDE_CODE_USE_ANTHROPIC_AWS",
        "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD",
        "ANTHROPIC_CUSTOM_HEADERS",
    )

    logins: tuple[str, ...] = ("CLAUDE_CODE_OAUTH_TOKEN",)
    keeps: tuple[Keeps, ...] = (
        Keeps(
            ("$CLAUDE_CONFIG_DIR", "~/.claude"),
            login=(".credentials.json",),
            settings=(
                "settings.json", "CLAUDE.md", "agents", "commands", "hooks", "output-styles", "plugins", "rules",
                "skills",
            ),
        ),
        Keeps(("$CLAUDE_CONFIG_DIR", "~"), copied=(".claude.json",)),
    )  # fmt: skip

    def takes_tools(self, agent: AgentSpec, env: Mapping[str, str]) -> bool:  # noqa: ARG002
        return True

    def vendor(self, agent: AgentSpec) -> str:  # noqa: ARG002
        return "anthropic"

    def problem(self, agent: AgentSpec, env: Mapping[str, str]) -> str | None:  # noqa: ARG002 (any spec will do)
        return missing(self.program, env, self.install)

    def launch(self, turn: Turn) -> Launch:
        system, stdin = standing(turn)
        argv = "claude -p --output-format stream-json --verbose --dangerously-skip-permissions".split()
        argv += ["--include-partial-messages"]  # so that a long answer is no silence
        argv += ["--resume", turn.session] if turn.session else ["--session-id", turn.new_session]
        argv += ["--max-turns", str(turn.agent.max_turns)]
        if turn.agent.model:
            argv += ["--model", turn.agent.model]
        if turn.agent.reasoning:
            argv += ["--effort", turn.agent.reasoning]
        if turn.budget_usd is not None:
            argv += ["--max-budget-usd", f"{turn.budget_usd:.6f}"]
        if turn.mcp:
            argv += ["--mcp-config", mcp_servers(turn, alwaysLoad=True)]
        if system:
            # The snapshot is the first turn's system prompt, which a resumed session would go on with.
            argv += ["--append-system-prompt", system, "--system-prompt-snapshot", "off"]
        env = {
            "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
            "CLAUDE_CODE_MAX_RETRIES": "5",
            "DISABLE_AUTOUPDATER": "1",
        }
        if os.geteuid() == 0:  # else it refuses to skip permissions
            env["IS_SANDBOX"] = "1"
        return Launch(argv, env, literal(stdin))

    def reader(self, turn: Turn) -> ClaudeReader:
        return ClaudeReader(turn)


RUNTIME = ClaudeCode()


class ClaudeReader(Reader):
    def __init__(self, turn: Turn, now: Callable[[], float] = time.time) -> None:
        super().__init__(turn)
        self._now = now
        self._said = ""
        self._result: dict[str, Any] = {}
        self._resets_at: float | None = None
        self._messages: dict[str, Usage] = {}
        """What each request used, by the id of its message."""
        self._sum = Usage()
        """Of all of them."""

    def feed(self, line: str) -> None:
        event = json_object(line)
        if isinstance(session := event.get("session_id"), str):
            self.session = session
        match event.get("type"):
            case "assistant":
                self._assistant(event)
            case "user":  # a tool has run
                self.retrying = ""
            case "stream_event" if _dict(event, "event").get("type") == "content_block_delta":  # an answer arrives
                self.retrying = ""
            case "rate_limit_event":
                info = _dict(event, "rate_limit_info")
                rejected = info.get("status") == "rejected"
                self._resets_at = number(info.get("resetsAt")) or None if rejected else None
            case "system" if event.get("subtype") == "api_retry":
                self._retry(event)
            case "result":
                self._result = event
                self.finished = True

    def _assistant(self, event: dict[str, Any]) -> None:
        message = _dict(event, "message")
        if message.get("model") == "<synthetic>":  # an API error in the agent's mouth
            return
        self.retrying = ""
        self._add(str(message.get("id")), self._used(message))
        content = message.get("content")
        for block in content if isinstance(content, list) else []:
            match block:
                case {"type": "text", "text": str(text)} if text.strip():
                    self.last = one_line(text, 200)
                    if event.get("parent_tool_use_id") is None:
                        self._said = text
                case {"type": "tool_use", "name": str(name), "input": dict(arguments)}:
                    shown = next((value for value in arguments.values() if isinstance(value, str)), "")
                    self.last = one_line(f"{name} {shown}", 200)

    def _retry(self, event: dict[str, Any]) -> None:
        wait = number(event.get("retry_delay_ms")) / 1_000
        asked = f"; try again in {wait:.0f}s" if wait >= _LONG_WAIT else ""
        self.last = one_line(f"retries: {event.get('error')} ({event.get('error_status')}){asked}")
        self.tries_again(self.last)

    def _add(self, message: str, used: Usage) -> None:
        """The newest figures of a message take the place of its older ones."""
        added = self._sum + used
        if old := self._messages.get(message):
            figures = {name: getattr(added, name) - getattr(old, name) for name in Usage.model_fields}
            added = Usage(**{**figures, "cost_usd": max(round(figures["cost_usd"], 9), 0.0)})
        self._messages[message], self._sum = used, added

    def _used(self, message: dict[str, Any]) -> Usage:
        """Of one request. The output's tokens are those so far."""
        counted = _dict(message, "usage")

        def total(*keys: str) -> float:
            return sum(number(counted.get(key)) for key in keys)

        figures = {
            "input_tokens": total("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"),
            "cached_tokens": total("cache_read_input_tokens"),
            "output_tokens": total("output_tokens"),
        }
        model = message.get("model")
        return self._priced(figures, model if isinstance(model, str) else None)

    def _priced(self, figures: dict[str, float], model: str | None) -> Usage:
        """By the price list, where the cost is not among the figures."""
        return usage(figures, "anthropic", model)

    @property
    def usage(self) -> Usage:
        return self._sum

    def report(self, exit_code: int | None, stderr: str) -> Report:
        report = self._judge(exit_code, stderr)
        report.session = None if report.end == "lost_session" else self.session
        report.text = report.text or self._said
        counted = self._cumulative()
        report.cumulative = counted or with_estimate(self.previous, self.usage)
        report.usage = self._priced(spent(counted, self.previous, self.usage), self.model) if counted else self.usage
        return report

    def _judge(self, exit_code: int | None, stderr: str) -> Report:
        result = self._result
        if result.get("subtype") == "success" and not result.get("is_error"):
            return Report("done", text=str(result.get("result") or ""))
        errors = result.get("errors")
        said = result.get("result") or "; ".join(map(str, errors if isinstance(errors, list) else []))
        reason = one_line(said or result.get("subtype"), 400) if result else last_words(stderr)
        if self.turn.session and any(text in reason for text in _NO_SESSION):
            return Report("lost_session", reason=reason)
        match result.get("subtype"):
            case None:
                return without_result(exit_code, stderr, self.retrying)
            case "error_max_turns":
                return Report("max_turns", reason=reason)
            case "error_max_budget_usd":
                return Report("budget", reason=reason)
        status = number(result.get("api_error_status"))
        report = judged(reason, status)
        if report.end == "failed" and result.get("stop_reason") == "refusal":
            report.end = "refused"
        if report.end == "limited" and self._resets_at and status in (0, 429):  # a 500 is not that limit's
            report.retry_after_seconds = max(0.0, self._resets_at - self._now())
        return report

    def _cumulative(self) -> dict[str, float]:
        """Empty when nothing was counted, as before the first request of a session."""
        models = [model for model in _dict(self._result, "modelUsage").values() if isinstance(model, dict)]
        if not models:
            return {}

        def total(*keys: str) -> float:
            return sum(number(model.get(key)) for model in models for key in keys)

        return {
            "cost_usd": number(self._result.get("total_cost_usd")),
            "input_tokens": total("inputTokens", "cacheCreationInputTokens", "cacheReadInputTokens"),
            "cached_tokens": total("cacheReadInputTokens"),
            "output_tokens": total("outputTokens"),
        }


def _dict(event: dict[str, Any], key: str) -> dict[str, Any]:
    value = event.get(key)
    return value if isinstance(value, dict) else {}
