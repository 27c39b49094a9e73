"""Runs one agent CLI for one turn, and ends it where it would not end by itself or must go on no longer.

A CLI is ended, with all that it started, when

* it has told its result and does not exit (10 s),
* it was silent, or did nothing but try the same again, for too long: CLIs sleep through a retry-after of an hour, or
  back off for ever, with and without a word. A wait that long is the quota's, which holds no slot meanwhile,
* what the turn may use is used up: looked at with each message, so at most one request more is paid,
* it goes on in another session than it was told to: it would work without its memory,
* the turn's time is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from activities import process
from activities.agents.base import Reader, Report, Runtime, Turn, judged

RETRY_SECONDS = 90.0
"""Claude Code's retries, as we limit them, take 20 s; Codex's of a 500 take 24 s (research: agent-clis)."""
_CHUNK = 2**20


@dataclass(frozen=True)
class Caps:
    """What one turn may use; None: as much as it likes."""

    wall_seconds: float
    idle_seconds: float
    agent_seconds: float | None = None
    """Of the task's `max_agent_minutes`: reached before `wall_seconds` it is the budget's end, not a time-out."""
    cost_usd: float | None = None
    tokens: int | None = None
    retry_seconds: float = RETRY_SECONDS


async def drive(
    runtime: Runtime,
    turn: Turn,
    cwd: Path,
    caps: Caps,
    lock: Path,
    on_progress: Callable[[Reader], None] = lambda _: None,
) -> tuple[Report, float]:
    """The CLI's report and its seconds. `turn.folder` gets `stdout.log` and `stderr.log`.

    Raises what `process.run` does, but a CLI that cannot be started is a report.
    """
    reader, launch = runtime.reader(turn), runtime.launch(turn)
    watch = _Watch(reader, caps, on_progress)
    on_progress(reader)
    stderr = turn.folder / "stderr.log"
    command = process.Command(
        argv=launch.argv,
        cwd=cwd,
        env={**turn.env, **launch.env, **turn.agent.env},
        stdin=launch.stdin.encode("utf-8", "replace"),
    )
    limits = [caps.wall_seconds] if caps.agent_seconds is None else [caps.wall_seconds, caps.agent_seconds]
    try:
        ended = await process.run(
            command,
            stdout=turn.folder / "stdout.log",
            stderr=stderr,
            lock=lock,
            wall_seconds=min(limits),
            idle_seconds=caps.idle_seconds,
            on_line=watch.line,
            finished=lambda: reader.finished,
            stop=watch.stop,
        )
    except process.CannotStart as problem:
        return Report("failed", reason=str(problem)), 0.0
    watch.read_log()
    report = reader.report(ended.exit_code, _end_of(stderr))
    report.model = report.model or reader.model
    if report.end == "done":
        return report, ended.seconds
    match ended.by:
        case "stopped":
            watch.judge(report)
        case "wall" if caps.agent_seconds is not None and caps.agent_seconds <= caps.wall_seconds:
            report.end, report.reason = "budget", f"stopped: {caps.agent_seconds / 60:.1f} minutes were left"
        case "wall" if report.end == "timeout":
            report.reason = f"it took more than {caps.wall_seconds / 60:g} minutes"
        case "idle" if report.end == "timeout":
            report.end, report.reason = "stalled", f"no output for {caps.idle_seconds / 60:g} minutes"
    return report, ended.seconds


class _Watch:
    """Feeds the reader, and says when its CLI must be ended."""

    def __init__(self, reader: Reader, caps: Caps, on_progress: Callable[[Reader], None]) -> None:
        self._reader = reader
        self._caps = caps
        self._on_progress = on_progress
        self._retrying_since: float | None = None
        self._why = ""
        self._log_read = 0
        self._log_rest = b""

    def line(self, line: str) -> None:
        self._reader.feed(line)
        self._on_progress(self._reader)

    def stop(self) -> bool:
        if not self._why and not self._reader.finished:
            self.read_log()
            self._why = self._reason()
        return bool(self._why)

    def _reason(self) -> str:
        reader, caps, now = self._reader, self._caps, time.monotonic()
        if reader.turn.session and reader.session and reader.session != reader.turn.session:
            return "session"
        used = reader.usage
        if caps.cost_usd is not None and used.cost_usd >= caps.cost_usd:
            return "budget"
        if caps.tokens is not None and used.tokens >= caps.tokens:
            return "budget"
        if not reader.retrying:
            self._retrying_since = None
        elif self._retrying_since is None:
            self._retrying_since = now
        elif now - self._retrying_since >= caps.retry_seconds:
            return "retries"
        return ""

    def judge(self, report: Report) -> None:
        """Of a CLI that was stopped: why, and that outweighs what it may have said itself."""
        reader, caps = self._reader, self._caps
        match self._why:
            case "session":
                report.end, report.session = "lost_session", None
                report.reason = f"it went on in another session than {reader.turn.session}"
            case "budget" if caps.cost_usd is not None and report.usage.cost_usd >= caps.cost_usd:
                report.end = "budget"
                report.reason = f"stopped: ${report.usage.cost_usd:.4f} spent, ${caps.cost_usd:.4f} were left"
            case "budget":
                report.end = "budget"
                report.reason = f"stopped: {report.usage.tokens} tokens used, {caps.tokens} were left"
            case "retries":
                known = judged(reader.retrying)
                report.end = "stalled" if known.end == "failed" else known.end
                report.retry_after_seconds = known.retry_after_seconds
                report.reason = f"nothing but retries for {caps.retry_seconds:g} s: {known.reason}"

    def read_log(self) -> None:
        """What is new in the file that the CLI writes beside its output."""
        path = self._reader.log
        if path is None or not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._log_read)
            while chunk := file.read(_CHUNK):
                self._log_read += len(chunk)
                *lines, self._log_rest = (self._log_rest + chunk).split(b"\n")
                for line in lines:
                    self._reader.feed_log(line.decode("utf-8", "replace"))


def _end_of(path: Path, limit: int = 20_000) -> str:
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - limit, 0))
        return file.read().decode("utf-8", "replace")
