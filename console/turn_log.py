"""What the agents of a task were told, said and did: the folders of its turns, read afterwards or while they grow.

All of it was written by agents and their tools, so nothing but plain text of it reaches the terminal: escape sequences
and control characters are left out, and no markup is looked for.
"""

from __future__ import annotations

import asyncio
import codecs
import io
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol, cast

from pydantic import ValidationError
from rich.console import Console
from temporalio.client import Client, WorkflowFailureError, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from activities.agents import UnknownRuntime, runtime
from activities.agents.base import Reader, Turn, one_line
from activities.contracts import TurnResult, Usage
from activities.home import Home, safe_name
from activities.plain import plain
from activities.settings import AgentSpec, Role
from activities.transcript import LINE_LIMIT
from workflows.contracts import TaskResult, TaskStatus

POLL_SECONDS = 0.5
PROMPT_LINES = 20
GATE_TAIL_BYTES = 3_000
QUERY_TIMEOUT = timedelta(seconds=5)
"""A worker that is away does not answer at all; the data folder is looked into then."""
RECONNECT_SECONDS = 2.0
_CHUNK = 2**20
_MARK = 4_096
"""Bytes before the place where a file is read on, which tell whether it is still the same text."""

_FOLDER = re.compile(r"(\d+)-(\w+)")
_OLDER = re.compile(r"stdout\.(\d+)\.log")


class NoLog(Exception):
    """There is nothing to show here; one line that says why, and where to look."""


@dataclass(frozen=True)
class Wanted:
    """What of a task is to be shown."""

    turn: int | None = None
    """None: the list of all, and the last."""
    raw: bool = False
    follow: bool = False
    prompt: bool = False
    """All of the prompt, not its first lines."""
    gates: bool = False
    """The logs of the gates, and nothing else."""


async def show(client: Client | None, home: Home, task_id: str, console: Console, wanted: Wanted) -> None:
    """Raises NoLog. `client`: None when there is no server; then `home` alone is looked into."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # agents say what the terminal's encoding may not have
    ended = asyncio.ensure_future(_end(client, task_id)) if wanted.follow else None
    try:
        status = await _prepared(client, task_id, ended)
        live = status is not None and status.outcome is None
        log = TaskLog(_folder(home, task_id, status), console, wanted, live)
        if wanted.gates:
            log.gates()
        elif ended is None:
            await log.show()
        else:
            await log.follow(ended)
    finally:
        if ended is not None:
            ended.cancel()


# --- where the turns are ---------------------------------------------------------------------------


async def _status(client: Client | None, task_id: str) -> TaskStatus | None:
    if client is None:
        return None
    handle = client.get_workflow_handle(task_id)
    try:
        found: TaskStatus = await handle.query("status", result_type=TaskStatus, rpc_timeout=QUERY_TIMEOUT)
        return found
    except (RPCError, WorkflowQueryFailedError):
        return None  # an old task that the server has forgotten, or no worker to answer


async def _prepared(client: Client | None, task_id: str, ended: asyncio.Future[str] | None) -> TaskStatus | None:
    """The status, which names the run folder; a task that is being followed is waited for until it has one."""
    while (status := await _status(client, task_id)) is not None and not status.run_folder:
        if ended is None or ended.done():
            raise NoLog(f"task {task_id} has no turns: it is at {status.stage}")
        await asyncio.sleep(POLL_SECONDS)
    return status


def _folder(home: Home, task_id: str, status: TaskStatus | None) -> Path:
    """Of the run that the server tells of, else of the newest run under that id in the data folder."""
    if status is not None and status.run_folder:
        there = Path(status.run_folder)
        for folder in (there, home.run(there.name)):  # a container's data folder may be mounted elsewhere here
            if folder.is_dir():
                return folder
        raise NoLog(f"the turns of {task_id} are in {there}: read them on the worker's host, or give --home")
    runs = home.root / "runs"
    found = [folder for folder in runs.glob(f"{safe_name(task_id)}.*") if (folder / "task.json").exists()]
    if not found:
        raise NoLog(f"no turns of {task_id}: no server tells where they are, and {runs} has none (see --home)")
    return max(found, key=lambda folder: (folder / "task.json").stat().st_mtime)


async def _end(client: Client | None, task_id: str) -> str:
    """Waits until the task has ended, and says how. For ever where no server can tell."""
    while client is not None:
        try:
            result: TaskResult = await client.get_workflow_handle(task_id, result_type=TaskResult).result()
            return result.outcome
        except WorkflowFailureError as error:
            return str(getattr(error.cause, "message", error.cause))
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return "the server does not know it"
            await asyncio.sleep(RECONNECT_SECONDS)
    never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    return await never


# --- one turn --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TurnFolder:
    path: Path
    number: int
    role: str

    @property
    def result(self) -> TurnResult | None:
        """None: the turn is not over."""
        path = self.path / "result.json"
        try:
            return TurnResult.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            return TurnResult(end="unreadable", reason=f"not of this version: {path}")

    @property
    def agent(self) -> AgentSpec | None:
        """None: the turn was taken by a version that did not store it, or by one whose agents we do not know."""
        try:
            return AgentSpec.model_validate_json((self.path / "agent.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    @property
    def used(self) -> Usage | None:
        """So far, with what earlier attempts used; None: nothing was noted."""
        try:
            return Usage.model_validate_json((self.path / "usage.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def interrupted_logs(self) -> list[Path]:
        """Transcripts of earlier attempts at the turn, the first one first."""
        found = (_OLDER.fullmatch(path.name) for path in self.path.iterdir())
        return [self.path / old[0] for old in sorted(filter(None, found), key=lambda old: int(old[1]))]

    def label(self) -> str:
        agent, result = self.agent, self.result
        model = result.model if result else ""
        if agent is None:
            return model
        return agent.model_copy(update={"model": model or agent.model}).label()

    def reader(self) -> Reader | None:
        """Understands the turn's output; None: nobody does."""
        if (agent := self.agent) is None:
            return None
        turn = Turn(
            agent=agent,
            role=cast(Role, self.role),
            task_id="",
            number=self.number,
            prompt="",
            system="",
            session=None,
            new_session="",
            folder=self.path,
        )
        try:
            return runtime(agent.runtime).reader(turn)
        except UnknownRuntime:
            return None


def turns_of(run: Path) -> list[TurnFolder]:
    """Those that have begun, in order."""
    found = []
    for path in run.glob("turns/*"):
        if (named := _FOLDER.fullmatch(path.name)) and (path / "prompt.md").exists():
            found.append(TurnFolder(path, int(named[1]), named[2]))
    return sorted(found, key=lambda turn: (turn.number, turn.role))


# --- its output ------------------------------------------------------------------------------------


class _Growing:
    """A file that another process writes: each look hands over what is new in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._mark = b""
        self._inode: int | None = None
        self.begun = 1
        """How often it was begun: a turn that was interrupted is taken up again with an empty transcript."""

    def chunks(self) -> Iterator[bytes]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            inode = os.fstat(file.fileno()).st_ino
            file.seek(self._read - len(self._mark))
            if file.read(len(self._mark)) != self._mark or self._inode not in (None, inode):
                self.begun += 1
                self._read, self._mark = 0, b""
                file.seek(0)
            self._inode = inode
            while chunk := file.read(_CHUNK):
                self._read += len(chunk)
                self._mark = chunk[-_MARK:]
                yield chunk


class _Transcript(Protocol):
    async def more(self) -> None:
        """Show what is new. Lets go between the parts of a long one, so that Ctrl-C is heard."""

    async def finish(self) -> None:
        """Show the rest: the turn is over, or is not waited for."""


class _Raw:
    """Standard output, then standard error, as they are."""

    def __init__(self, turn: TurnFolder, console: Console) -> None:
        self._turn = turn
        self._console = console
        self._file = _Growing(turn.path / "stdout.log")
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._last = "\n"

    async def more(self) -> None:
        for chunk in self._file.chunks():
            self._write(self._decoder.decode(chunk))
            await asyncio.sleep(0)

    async def finish(self) -> None:
        await self.more()
        self._write(self._decoder.decode(b"", final=True))
        if self._last != "\n":
            self._write("\n")
        errors = self._turn.path / "stderr.log"
        if errors.exists() and (text := errors.read_text("utf-8", "replace")):
            self._write(f"-- {errors}\n{text}" + ("" if text.endswith("\n") else "\n"))

    def _write(self, text: str) -> None:
        self._last = text[-1:] or self._last
        _write(self._console, text)


class _Told:
    """What the agent said and did, in order, as the reader of its runtime understands it."""

    def __init__(self, turn: TurnFolder, console: Console) -> None:
        self._turn = turn
        self._console = console
        self._file = _Growing(turn.path / "stdout.log")
        self._begun = 1
        self._line = bytearray()
        self._reader = turn.reader()

    @property
    def usage(self) -> Usage:
        return self._reader.usage if self._reader else Usage()

    async def more(self) -> None:
        for chunk in self._file.chunks():
            if self._begun != self._file.begun:
                self._begun = self._file.begun
                self._line.clear()
                self._reader = self._turn.reader()
                _say(self._console, "-- the turn was interrupted, and is taken up again", "yellow")
            for index, piece in enumerate(chunk.split(b"\n")):
                if index:
                    self._hand_over()
                self._line += piece[: LINE_LIMIT - len(self._line)]
            await asyncio.sleep(0)

    async def finish(self) -> None:
        await self.more()
        if self._line:
            self._hand_over()

    def _hand_over(self) -> None:
        line = self._line.decode("utf-8", "replace")
        self._line.clear()
        reader = self._reader
        if reader is None:
            _say(self._console, line)
            return
        last, retrying = reader.last, reader.retrying
        reader.feed(line)
        if reader.last != last:
            _say(self._console, reader.last, "yellow" if reader.retrying else "")
        if reader.retrying not in ("", retrying) and one_line(reader.retrying, 200) != reader.last:
            _say(self._console, f"tries again: {one_line(reader.retrying)}", "yellow")


def _say(console: Console, text: str, style: str = "") -> None:
    """As it is: neither wrapped nor cut, no markup, no emoji codes; the style only on a terminal."""
    if style and console.is_terminal:
        console.out(plain(text), style=style, highlight=False)
    else:
        _write(console, f"{text}\n")


def _write(console: Console, text: str) -> None:
    """Past what the console does with texts: it would expand tabs, and take ten times as long."""
    try:
        console.file.write(plain(text))
        console.file.flush()
    except BrokenPipeError:
        console.on_broken_pipe()


# --- a task's turns ----------------------------------------------------------------------------------


class TaskLog:
    def __init__(self, run: Path, console: Console, wanted: Wanted, live: bool) -> None:
        self.run = run
        self.console = console
        self.wanted = wanted
        self.live = live
        """The task goes on, as far as is known."""

    async def show(self) -> None:
        found = turns_of(self.run)
        chosen = self._chosen(found)
        if not found:
            raise NoLog(f"no turn has begun yet: there is none in {self.run}")
        for index, turn in enumerate(chosen):
            transcript = self._begin(turn, first=index == 0)
            await self._finish(turn, transcript, running=self.live and turn == found[-1])

    async def follow(self, ended: asyncio.Future[str]) -> None:
        """Shows the chosen turn and all that come after it, until the task has ended."""
        chosen = self._chosen(turns_of(self.run))
        first = chosen[0].number if chosen else 0
        seen: list[TurnFolder] = []
        while True:
            over = ended.done()  # asked before the turns are looked for: then there comes no other
            for turn in turns_of(self.run):
                if turn.number >= first and turn not in seen:
                    await self._follow(turn, ended, first=not seen)
                    seen.append(turn)
            if over:
                break
            await asyncio.sleep(POLL_SECONDS)
        if not self.wanted.raw:
            self._say(f"the task has ended: {ended.result()}", "bold")

    async def _follow(self, turn: TurnFolder, ended: asyncio.Future[str], first: bool) -> None:
        transcript = self._begin(turn, first)
        # Asked before the transcript is read: what it holds then is all.
        while not (ended.done() or turn.result or turns_of(self.run)[-1].number > turn.number):
            await transcript.more()
            await asyncio.sleep(POLL_SECONDS)
        await self._finish(turn, transcript, running=False)

    def _chosen(self, found: list[TurnFolder]) -> list[TurnFolder]:
        """Of `--turn`; without, the list of all is shown, and the last is chosen."""
        number = self.wanted.turn
        if number is None:
            if found and not self.wanted.raw:
                self._list(found)
            return found[-1:]
        chosen = [turn for turn in found if turn.number == number]
        if not chosen:
            there = ", ".join(str(turn.number) for turn in found) or "none yet"
            raise NoLog(f"no turn {number}; there are: {there}")
        return chosen

    # --- output --------------------------------------------------------------------------------------

    def _say(self, text: str, style: str = "") -> None:
        _say(self.console, text, style)

    def _list(self, found: list[TurnFolder]) -> None:
        rows = [("turn", "role", "agent", "end", "cost", "tokens", "seconds", "reason")]
        for turn in found:
            name = (str(turn.number), turn.role, turn.label())
            if (result := turn.result) is None:
                rows.append((*name, self._state(running=self.live and turn == found[-1]), "", "", "", ""))
                continue
            used = (f"${result.usage.cost_usd:.4f}", str(result.usage.tokens), f"{result.seconds:.1f}")
            rows.append((*name, _ended(result), *used, one_line(result.reason, 500)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for index, row in enumerate(rows):
            cells = [
                cell.rjust(width) if column in (0, 4, 5, 6) else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self._say("  ".join(cells).rstrip(), "" if index else "dim")
        self._say("")

    def _state(self, running: bool) -> str:
        return "running" if running else "no result"

    def _begin(self, turn: TurnFolder, first: bool) -> _Transcript:
        """All that is there before the transcript."""
        if self.wanted.raw:
            if not first:
                self._say(f"== {turn.path}")
            return _Raw(turn, self.console)
        label = turn.label()
        self._say(f"== turn {turn.number}: {turn.role}" + (f", {label}" if label else ""), "bold")
        self._part("prompt")
        prompt = turn.path / "prompt.md"
        lines = prompt.read_text("utf-8", "replace").rstrip("\n").split("\n")
        shown = len(lines) if self.wanted.prompt else PROMPT_LINES
        self._say("\n".join(lines[:shown]), "dim")
        if lines[shown:]:
            self._say(f"… ({len(lines) - shown} more lines: {prompt})", "dim")
        for log in turn.interrupted_logs():
            self._say(f"-- an earlier attempt was interrupted: {log}", "yellow")
        self._part("transcript")
        return _Told(turn, self.console)

    async def _finish(self, turn: TurnFolder, transcript: _Transcript, running: bool) -> None:
        await transcript.finish()
        if not isinstance(transcript, _Told):
            return
        result = turn.result
        if result is None:
            used = turn.used or transcript.usage
            self._part(self._state(running))
            if used.tokens or used.cost_usd:
                self._say(f"so far: ${used.cost_usd:.4f}, {used.tokens} tokens")
        else:
            final = turn.path / "final.md"
            self._part("final text")
            self._say(final.read_text("utf-8", "replace").rstrip("\n") if final.exists() else "")
            self._part("result")
            used = result.usage
            session = f"; session {result.session}" if result.session else ""
            figures = f"${used.cost_usd:.4f}, {used.tokens} tokens, {result.seconds:.1f} s"
            self._say(f"{_ended(result)}; {figures}{session}", "green" if result.end == "done" else "red")
            if result.reason:
                self._say(f"reason: {one_line(result.reason, 500)}")
        self._say(f"folder: {turn.path}")
        self._say("")

    def _part(self, name: str) -> None:
        self._say(f"-- {name}", "cyan")

    def gates(self) -> None:
        """Each log's path and end, in the order in which they were written."""
        logs = sorted(self.run.glob("gates/*/*.log"), key=lambda log: log.stat().st_mtime)
        if not logs:
            raise NoLog(f"no gate has run yet: there is no log in {self.run / 'gates'}")
        for log in logs:
            size = log.stat().st_size
            with log.open("rb") as file:
                file.seek(max(size - GATE_TAIL_BYTES, 0))
                text = file.read().decode("utf-8", "replace").rstrip("\n")
            self._say(f"== {log.stem}: {log}", "bold")
            self._say(("…" if size > GATE_TAIL_BYTES else "") + text)
            self._say("")


def _ended(result: TurnResult) -> str:
    said = result.signal or result.verdict
    return f"{result.end}, {said.replace('_', ' ')}" if said else result.end
