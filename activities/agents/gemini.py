"""Runtime `gemini`: Google's `gemini -o stream-json`. Measured with 0.61.0.

* `result` tells how the turn ended, and its exit code after a failure is the HTTP status modulo 256. Told to stop by a
  signal it exits 0 without a `result`.
* It tries a failed request ten times, which takes four minutes, or as many waits of up to five minutes as the server
  asks for, and says nothing of it on standard output. The number can be set in its settings only. So that we see it,
  and the tokens of each request, it writes its telemetry (no prompts; up to 5 s late; 100 kB for each request) to the
  turn's folder, and nowhere else.
* The tokens are the process's own, not the session's: nothing is to be subtracted after a resume. `output_tokens`
  leaves out the thoughts, which are paid like output: the total less the input has them.
* A request that would not fit into the model's context is not made: the turn ends with success and without a word. It
  compresses its history by itself at half of the context, so that seldom happens.
* Sessions belong to a directory: from another one, a session is not found. One whose first request failed is not kept.
* It has no flag for a limit of turns, but a setting. We cannot hand it settings of our own: it skips a system settings
  file unless root owns it and all folders above. A limit of the user's own (`model.maxSessionTurns`) is reported.
* `security.auth.selectedType` of the user's `~/.gemini/settings.json` outranks every variable: an account that is
  billed by key needs `gemini-api-key` there, or none. With GOOGLE_GEMINI_BASE_URL it must be there.
* `@name` in a prompt makes it look for a file of that name, and put the file into the prompt: see `literal`.
* Its shell tool hides the user's and the system's git configuration and switches off hooks: the agent can commit where
  the repository's own configuration has an identity, as our worktrees' has.
* `--skip-trust` trusts the worktree: its `.gemini/settings.json`, `GEMINI.md` and `.env` count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
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
    missing,
    number,
    one_line,
    standing,
    usage,
    without_result,
)
from activities.contracts import Usage
from activities.settings import AgentSpec

_LOGIN, _INPUT, _MAX_TURNS = 41, 42, 53
"""Its exit codes."""
_LARGE = 100_000
"""Tokens of a request after which the next may be too long for a model."""
_STATUS = re.compile(r'"code": ?(\d{3})\b')


class Gemini:
    name = "gemini"
    program = "gemini"
    install = "npm install -g @google/gemini-cli"
    login = "log in with `gemini` on the worker's host, or set GEMINI_API_KEY, and check the account's billing"
    abilities = Abilities(
        session="ours",
        max_turns=False,
        budget=False,
        live="telemetry",
        cost="price list",
        system="prompt",
        reasoning=False,
    )
    environment: tuple[str, ...] = (
        "GEMINI_",
        "GOOGLE_GEMINI_",
        "GOOGLE_GENAI_",
        "GOOGLE_CLOUD_PROJECT",
        "GOOGLE_CLOUD_LOCATION",
    )
    """Of a cloud's credentials (GOOGLE_API_KEY, GOOGLE_APPLICATION_CREDENTIALS), the agent's own `env` must name what
    it may have."""
    key = "GEMINI_API_KEY"
    outranking: tuple[str, ...] = (
        "GEMINI_API_KEY",
        "GOOGLE_API_KEY",
        "GOOGLE_GENAI_USE_GCA",  # with it, an account's key would not be used
        "GOOGLE_GENAI_USE_VERTEXAI",
        "GOOGLE_CLOUD_ACCESS_TOKEN",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GEMINI_CLI_USE_COMPUTE_ADC",
        "CLOUD_SHELL",
    )

    logins: tuple[str, ...] = ()
    keeps: tuple[Keeps, ...] = (
        Keeps(
            ("$GEMINI_CLI_HOME/.gemini", "~/.gemini"),
            login=("oauth_creds.json", "google_accounts.json", "gemini-credentials.json"),
            settings=("settings.json", ".env", "GEMINI.md", "agents", "commands", "extensions", "policies", "skills"),
            copied=("installation_id",),
        ),
    )

    def takes_tools(self, agent: AgentSpec, env: Mapping[str, str]) -> bool:  # noqa: ARG002
        return False

    def vendor(self, agent: AgentSpec) -> str:  # noqa: ARG002
        return "google"

    def problem(self, agent: AgentSpec, env: Mapping[str, str]) -> str | None:  # noqa: ARG002 (any spec will do)
        return missing(self.program, env, self.install)

    def launch(self, turn: Turn) -> Launch:
        _, prompt = standing(turn, limit=0)  # GEMINI_SYSTEM_MD would replace its whole system prompt
        argv = "gemini -o stream-json --yolo --skip-trust".split()
        if turn.agent.model:
            argv += ["-m", turn.agent.model]
        argv += ["--resume", turn.session] if turn.session else ["--session-id", turn.new_session]
        _telemetry(turn).unlink(missing_ok=True)  # of a first attempt at this turn: the CLI would append to it
        env = {
            "GEMINI_CLI_NO_RELAUNCH": "true",  # else signals reach a wrapper that ignores them
            "GEMINI_TELEMETRY_ENABLED": "true",
            "GEMINI_TELEMETRY_TARGET": "local",
            "GEMINI_TELEMETRY_OUTFILE": str(_telemetry(turn)),
            "GEMINI_TELEMETRY_LOG_PROMPTS": "false",
        }
        return Launch(argv, env, literal(prompt), write=(_telemetry(turn),))

    def reader(self, turn: Turn) -> GeminiReader:
        return GeminiReader(turn)


RUNTIME = Gemini()


class GeminiReader(Reader):
    def __init__(self, turn: Turn) -> None:
        super().__init__(turn)
        self._said: list[tuple[str, str]] = []
        """(time, text) of what it said last, in pieces."""
        self._silent = True
        """It has said nothing since its last tool call."""
        self._answered = False
        """The model has: a new session is kept from then on."""
        self._begun_again = ""
        """When a broken answer was last asked for once more: what was said of it before counts no longer."""
        self._error = ""
        self._status = 0.0
        self._failing: object = None
        """What for the last request was that failed."""
        self._result: dict[str, Any] = {}
        self._used = Usage()
        self._input = 0
        """Tokens of the last request."""
        self._record: list[str] = []

    # --- standard output -------------------------------------------------------------------------

    def feed(self, line: str) -> None:
        event = json_object(line)
        match event:
            case {"type": "init", "session_id": str(session)}:
                self.session = session
                self.model = str(event.get("model") or self.model)
            case {"type": "message", "role": "assistant", "content": str(text)}:
                self._answered = True
                if self._silent:
                    self._said, self._silent = [], not text.strip()
                self._said.append((str(event.get("timestamp")), text))
                self.last = one_line(self._text(), 200) or self.last
                self.retrying = ""
            case {"type": "tool_use", "tool_name": str(name), "parameters": dict(arguments)}:
                self._answered = self._silent = True
                self.last = one_line(_call(name, arguments), 200)
                self.retrying = ""
            case {"type": "error", "message": str(message)}:
                self._error = message
                self.last = one_line(message, 200)
            case {"type": "result"}:
                self._result = event
                self.finished = True

    def _text(self) -> str:
        return "".join(text for time, text in self._said if time > self._begun_again)

    # --- telemetry -------------------------------------------------------------------------------

    @property
    def log(self) -> Path | None:
        return _telemetry(self.turn)

    def feed_log(self, line: str) -> None:
        """Records are objects over many lines; only their own braces stand at the beginning of one."""
        if line.startswith("{"):
            self._record = []
        self._record.append(line)
        if line.startswith("}"):
            if any('"gemini_cli.' in line for line in self._record):
                self._event(json_object("\n".join(self._record)))
            self._record = []

    def _event(self, record: dict[str, Any]) -> None:
        match record.get("attributes"):
            case {"event.name": "gemini_cli.api_response", **told}:
                used = _used(told)
                self._used += used
                self._input = used.input_tokens
                self.retrying = ""
            case {"event.name": "gemini_cli.api_request", **told} if told.get("role") != self._failing:
                self.retrying = ""  # it gets on without what failed: a routing, a summary
            case {"event.name": "gemini_cli.api_error", **told}:
                self._failing = told.get("role")
                self._status = number(told.get("status_code"))
                self.tries_again(f"{told.get('error')}" + (f" (status {self._status:.0f})" if self._status else ""))
                self.last = one_line(f"retries: {self.retrying}", 200)
            case {"event.name": "gemini_cli.chat.content_retry", "event.timestamp": str(time)}:
                self._begun_again = time

    # --- judgement -------------------------------------------------------------------------------

    @property
    def usage(self) -> Usage:
        return self._used

    def report(self, exit_code: int | None, stderr: str) -> Report:
        report = self._judge(exit_code, stderr)
        kept = report.end != "lost_session" and (self._answered or self.turn.session)
        report.session = self.session if kept else None
        report.text = self._text()
        report.usage = self._total() or self.usage
        return report

    def _judge(self, exit_code: int | None, stderr: str) -> Report:
        match self._result:
            case {"status": "success"} if self._silent and not self._error:
                return self._without_a_word()
            case {"status": "success"}:
                return Report("done")
            case {"error": {"type": "FatalTurnLimitedError", "message": str(message)}}:
                return Report("max_turns", reason=one_line(message))
            case {"error": {"message": str(message)}}:
                return judged(message, self._http_status(exit_code, message))
            case {"type": _}:
                return judged(self._error or "it ended with an error, and says nothing of it")
        if exit_code == _LOGIN:
            return Report("login", reason=last_words(stderr) or f"exit {_LOGIN}")
        if exit_code == _INPUT and self.turn.session and "Error resuming session" in stderr:
            return Report("lost_session", reason=last_words(stderr))
        if exit_code == _MAX_TURNS:
            return Report("max_turns", reason=last_words(stderr) or f"exit {_MAX_TURNS}")
        if exit_code == 0 and self.session:
            return Report("failed", reason="ended by a signal: exit 0 and no result")
        return without_result(exit_code, stderr, self.retrying)

    def _without_a_word(self) -> Report:
        """Of a success: an empty answer, unless a request was not made because it was too long, perhaps the first."""
        total = self._total() or self._used
        if total.tokens and (self._input or total.input_tokens) <= _LARGE:
            return Report("unreadable", reason="it stopped without a word")
        return Report("context_full", reason="it stopped without a word: its next request was too long")

    def _http_status(self, exit_code: int | None, message: str) -> float:
        """Of the failure that ended the turn, as far as anything tells it; else 0."""
        if found := _STATUS.search(message):
            return float(found[1])
        if exit_code is not None and 144 <= exit_code <= 255:  # 400 to 511; a signal's are lower
            return exit_code + 256
        return self._status

    def _total(self) -> Usage | None:
        """Of the whole turn, as the result tells it; each model has its price."""
        match self._result.get("stats"):
            case {"models": dict(models)} if models:
                return sum((_counted(name, told) for name, told in models.items()), Usage())
        return None


def _telemetry(turn: Turn) -> Path:
    return turn.folder / "telemetry.log"


def _call(name: str, arguments: dict[str, Any]) -> str:
    match arguments:
        case {"command": str(command)}:
            return f"$ {command}"
        case {"file_path": str(path)}:
            return f"{name} {path}"
    return f"{name} {next((value for value in arguments.values() if isinstance(value, str)), '')}"


def _used(told: Mapping[Any, Any]) -> Usage:
    """Of one request."""
    figures = {
        "input_tokens": number(told.get("input_token_count")) + number(told.get("tool_token_count")),
        "cached_tokens": number(told.get("cached_content_token_count")),
        "output_tokens": number(told.get("output_token_count")) + number(told.get("thoughts_token_count")),
    }
    model = told.get("model")
    return usage(figures, "google", model if isinstance(model, str) else None)


def _counted(model: str, told: object) -> Usage:
    """Of one model, in the result."""
    told = told if isinstance(told, dict) else {}
    given = number(told.get("input_tokens"))
    figures = {
        "input_tokens": given,
        "cached_tokens": number(told.get("cached")),
        "output_tokens": max(number(told.get("total_tokens")) - given, number(told.get("output_tokens"))),
    }
    return usage(figures, "google", model)
