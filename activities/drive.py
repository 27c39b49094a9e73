"""Runs one agent CLI for one turn, and ends it where it would not end by itself or must go on no longer.

A CLI is ended, with all that it started, when

* it has told its result and does not exit (10 s),
* it was silent, or did nothing but try the same again, for too long: CLIs sleep through a retry-after of an hour, or
  back off for ever, with and without a word. A wait that long is the quota's, which holds no slot meanwhile. One
  failure that states no wait is not enough: the silence after it may be a long answer,
* what the turn may use is used up: looked at with each message, so at most one request more is paid,
* it goes on in another session than it was told to: it would work without its memory,
* the turn's time is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from activities import process
from activities.agents.base import Reader, Report, Runtime, Turn, judged
from activities.agents.resets import stated_wait
from activities.sandbox import UNLIMITED, Limits, Sandbox

RETRY_SECONDS = 90.0
"""Claude Code's retries, as we limit them, take 20 s; Codex's of a 500 take 24 s (research: agent-clis)."""
_CHUNK = 2**20
LOG_LINE_LIMIT = 2**20
"""Bytes of a line of a log that are looked at; the rest of a longer line is left out."""


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
    sandbox: Sandbox | None = None,
    limits: Limits = UNLIMITED,
) -> tuple[Report, float]:
    """The CLI's report and its seconds. `turn.folder` gets `stdout.log` and `stderr.log`.

    Raises what `process.run` does, but a CLI that cannot be started is a report.
    """
    reader, launch = runtime.reader(turn), runtime.launch(turn)
    watch = _Watch(reader, caps, on_progress)
    on_progress(reader)
    stderr = turn.folder / "stderr.log"
    for file in launch.write:  # a sandbox shows what is there
        file.touch()
    command = process.Command(
        argv=launch.argv,
        cwd=cwd,
        env={**turn.env, **launch.env, **turn.agent.env},
        stdin=launch.stdin.encode("utf-8", "replace"),
        sandbox=sandbox and replace(sandbox, write=(*sandbox.write, *launch.write)),
        limits=limits,
    )
    walls = [caps.wall_seconds] if caps.agent_seconds is None else [caps.wall_seconds, caps.agent_seconds]
    try:
        ended = await process.run(
            command,
            stdout=turn.folder / "stdout.log",
            stderr=stderr,
            lock=lock,
            wall_seconds=min(walls),
            idle_seconds=caps.idle_seconds,
            on_line=watch.line,
            finished=lambda: reader.finished,
            stop=watch.stop,
        )
    except process.CannotStart as problem:
        return Report("failed", reason=str(problem)), 0.0
    await watch.read_rest()
    report = reader.report(ended.exit_code, _end_of(stderr))
    report.model = report.model or reader.model
    if report.end == "done":
        return report, ended.seconds
    match ended.by:
        case "limit":
            report.end, report.limit = "failed", ended.limit
            report.reason = f"ended, as it used more than it may: {ended.limit}"
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
        self._retries = 0
        self._first_failure = self._newest_failure = 0.0
        """Of those without a success between them."""
        self._why = ""
        self._log = Lines(self._log_line)

    def line(self, line: str) -> None:
        self._reader.feed(line)
        self._note_failures()
        self._on_progress(self._reader)

    def _log_line(self, line: str) -> None:
        self._reader.feed_log(line)
        self._note_failures()

    def _note_failures(self) -> None:
        reader, now = self._reader, time.monotonic()
        if not reader.retrying:
            self._first_failure = 0.0
        elif reader.retries != self._retries:
            self._first_failure = self._first_failure or now
            self._newest_failure = now
        self._retries = reader.retries

    def stop(self) -> bool:
        if not self._why and not self._reader.finished:
            self._read_log()
            self._why = self._reason()
        return bool(self._why)

    def _reason(self) -> str:
        reader, caps = self._reader, self._caps
        if reader.turn.session and reader.session and reader.session != reader.turn.session:
            return "session"
        used = reader.usage
        if caps.cost_usd is not None and used.cost_usd >= caps.cost_usd:
            return "budget"
        if caps.tokens is not None and used.tokens >= caps.tokens:
            return "budget"
        return "retries" if reader.retrying and self._only_retries() else ""

    def _only_retries(self) -> bool:
        """It has failed again and again, or sleeps: not if it may have been at work since its newest failure."""
        enough = self._caps.retry_seconds
        if self._newest_failure - self._first_failure >= enough:
            return True
        waits = stated_wait(self._reader.retrying, datetime.now().astimezone()) or 0.0
        return (self._reader.pauses or waits >= enough) and time.monotonic() - self._newest_failure >= enough

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

    def _read_log(self) -> bool:
        """Some of what is new in the file that the CLI writes beside its output; True: there may be more."""
        path = self._reader.log
        return path is not None and path.exists() and self._log.read(path)

    async def read_rest(self) -> None:
        """All that is new in it, also a last line without its end."""
        for _ in iter(self._read_log, False):
            await asyncio.sleep(0)
        self._log.finish()


class Lines:
    """Lines of a growing file, a piece of the file at a time. Takes time linear in its size, also if it is one line."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._read = 0
        self._line: list[bytes] = []
        self._room = LOG_LINE_LIMIT

    def read(self, path: Path) -> bool:
        """True: there may be more."""
        with path.open("rb") as file:
            file.seek(self._read)
            chunk = file.read(_CHUNK)
        self._read += len(chunk)
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            self._add(piece)
            self._hand_over()
        self._add(rest)
        return len(chunk) == _CHUNK

    def finish(self) -> None:
        if self._line:
            self._hand_over()

    def _add(self, piece: bytes) -> None:
        kept = piece[: self._room]
        self._room -= len(kept)
        if kept:
            self._line.append(kept)

    def _hand_over(self) -> None:
        line = b"".join(self._line).decode("utf-8", "replace")
        self._line, self._room = [], LOG_LINE_LIMIT
        self._on_line(line)


def _end_of(path: Path, limit: int = 20_000) -> str:
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - limit, 0))
        return file.read().decode("utf-8", "replace")
