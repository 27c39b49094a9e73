"""Runtime `codex`: OpenAI's `codex exec --json`. Measured with 0.169.0.

* An error is text only (`turn.failed`); an `error` event alone may be a retry that goes on to succeed.
* `turn.completed.usage` is the sum over the thread, resumed turns included: a turn's share is the difference to the
  last report. There is no cost in it, and no price list here: the cost of a Codex turn is 0.
* It has no turn or budget limit of its own.
* A thread name that it does not know starts a new thread without a word, so the thread's id is compared.
* Its own sandbox keeps `.git` read-only, so that the agent could not commit; it is switched off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from activities.agents.base import (
    Launch,
    Report,
    Turn,
    json_object,
    last_words,
    missing,
    number,
    one_line,
    spent,
    standing,
    usage,
    without_result,
)
from activities.contracts import TurnEnd
from activities.settings import AgentSpec

_ENDS: list[tuple[TurnEnd, re.Pattern[str]]] = [
    (
        "login",
        re.compile(
            r"\b401 Unauthorized|\b403 Forbidden|Missing environment variable|Quota exceeded|log ?in again|"
            r"sign in again|not logged in|codex login",
            re.IGNORECASE,
        ),
    ),
    (
        "limited",
        re.compile(
            r"429 Too Many Requests|hit your usage limit|rate limit|status 529|is at capacity|overloaded",
            re.IGNORECASE,
        ),
    ),
]
"""By what the message says, the first that fits; anything else failed."""

_AGAIN_IN = re.compile(r"try again in ((?:\d{1,9}(?:\.\d+)?(?:ms|s|m|h|d)\s*)+)", re.IGNORECASE)
_AGAIN_AT = re.compile(
    r"try again at (?:(?P<date>[A-Z][a-z]{2} \d{1,2})(?:st|nd|rd|th), (?P<year>\d{4}) )?(?P<clock>\d{1,2}:\d{2} [AP]M)"
)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class Codex:
    name = "codex"
    install = "npm install -g @openai/codex"
    login = "run `codex login` on the worker's host, or set CODEX_API_KEY, and check the account's plan and billing"
    environment: tuple[str, ...] = ("OPENAI_", "CODEX_")

    def problem(self, agent: AgentSpec, env: Mapping[str, str]) -> str | None:  # noqa: ARG002 (any spec will do)
        return missing("codex", env, self.install)

    def launch(self, turn: Turn) -> Launch:
        system, stdin = standing(turn)
        argv = "codex exec --json --dangerously-bypass-approvals-and-sandbox".split()
        if turn.agent.model:
            argv += ["-m", turn.agent.model]
        if turn.agent.reasoning:
            argv += ["-c", f"model_reasoning_effort={_toml(turn.agent.reasoning)}"]
        if system:
            argv += ["-c", f"developer_instructions={_toml(system)}"]
        if turn.session:
            argv += ["resume", turn.session]
        return Launch([*argv, "-"], stdin=stdin)

    def reader(self, turn: Turn) -> CodexReader:
        return CodexReader(turn)


class CodexReader:
    def __init__(self, turn: Turn, now: Callable[[], datetime] = datetime.now) -> None:
        self.session: str | None = None
        self.finished = False
        self.last = ""
        self._wanted = turn.session
        self._previous = turn.previous if turn.session else {}
        self._now = now
        self._said = ""
        self._failure = ""
        self._retrying = ""
        self._usage: dict[str, Any] | None = None

    def feed(self, line: str) -> None:
        event = json_object(line)
        match event:
            case {"type": "thread.started", "thread_id": str(thread)}:
                self.session = thread
                self.finished = self._is_other_thread()
            case {"type": "item.started" | "item.completed", "item": dict(item)}:
                self._retrying = ""
                self._item(item)
            case {"type": "error", "message": str(message)}:
                self._retrying = message
                self.last = one_line(message, 200)
            case {"type": "turn.failed", "error": {"message": str(message)}}:
                self._failure = message or "turn.failed"
                self.finished = True
            case {"type": "turn.completed"}:
                self._usage = event["usage"] if isinstance(event.get("usage"), dict) else {}
                self.finished = True

    def _item(self, item: dict[str, Any]) -> None:
        match item:
            case {"type": "agent_message", "text": str(text)}:
                self._said = text
                self.last = one_line(text, 200)
            case {"type": "command_execution", "command": str(command)}:
                self.last = one_line(f"$ {command}", 200)
            case {"type": "file_change", "changes": list(changes)}:
                paths = [str(change.get("path")) for change in changes if isinstance(change, dict)]
                self.last = one_line(f"edit {' '.join(paths)}", 200)

    def report(self, exit_code: int | None, stderr: str) -> Report:
        report = self._judge(exit_code, stderr)
        report.session = None if report.end == "lost_session" else self.session
        report.text = self._said
        report.cumulative = self._cumulative() or self._previous
        report.usage = usage(spent(report.cumulative, self._previous))
        return report

    def _judge(self, exit_code: int | None, stderr: str) -> Report:
        if self._is_other_thread():
            return Report("lost_session", reason=f"codex started another thread than {self._wanted}")
        if self._usage is not None:
            return Report("done")
        if self._failure:
            return self._failed(self._failure)
        if self._wanted and "thread/resume failed" in stderr:
            return Report("lost_session", reason=last_words(stderr))
        if exit_code is None and (waiting := self._failed(self._retrying)).end == "limited":
            return waiting  # it sleeps through any retry-after, an hour's too, and says nothing meanwhile
        return without_result(exit_code, stderr)

    def _failed(self, message: str) -> Report:
        end: TurnEnd = next((end for end, pattern in _ENDS if pattern.search(message)), "failed")
        reason = one_line(message, 400)
        if end == "login":
            reason = f"{reason}: {Codex.login}"
        wait = stated_wait(message, self._now()) if end == "limited" else None
        return Report(end, reason=reason, retry_after_seconds=wait)

    def _is_other_thread(self) -> bool:
        return self._wanted is not None and self.session is not None and self.session != self._wanted

    def _cumulative(self) -> dict[str, float]:
        counted = self._usage
        if not counted:
            return {}
        return {
            "input_tokens": number(counted.get("input_tokens")),
            "cached_tokens": number(counted.get("cached_input_tokens")),
            "output_tokens": number(counted.get("output_tokens")),
        }


def stated_wait(message: str, now: datetime) -> float | None:
    """Seconds until the time that a limit's message names; None when it names none.

    `now` is naive local time, as what Codex prints: a clock time for today (`7:44 AM`), else with its date
    (`Nov 22nd, 2026 7:03 AM`). The minute is rounded down, so the wait goes to its end. A clock time that has passed
    is tomorrow's, but for one that passed while the message was on its way.
    """
    if found := _AGAIN_IN.search(message):
        parts = re.findall(r"([\d.]+)(ms|s|m|h|d)", found[1].lower())
        return sum(float(amount) * _SECONDS[unit] for amount, unit in parts)
    if not (found := _AGAIN_AT.search(message)):
        return None
    day = f"{found['date']} {found['year']}" if found["date"] else now.strftime("%b %d %Y")
    try:
        then = datetime.strptime(f"{day} {found['clock']}", "%b %d %Y %I:%M %p") + timedelta(minutes=1)
        if not found["date"] and then < now - timedelta(minutes=10):
            then += timedelta(days=1)
        return max(0.0, then.timestamp() - now.timestamp())
    except (ValueError, OverflowError):  # no such day or time
        return None


def _toml(text: str) -> str:
    """A TOML basic string. JSON's differs from it in that it lets a DEL through."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
