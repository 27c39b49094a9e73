"""One turn of one agent: its prompt, its process, its judgement, and what is kept of it.

The turn's folder is its memory. `result.json` there: the turn is over, and a second run returns it. `session` there
without a result: an earlier attempt was interrupted, and this one goes on in the same session.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities import fence, process
from activities.agents import runtime, signals
from activities.agents.base import Reader, Report, Runtime, Turn
from activities.contracts import TurnInput, TurnResult
from activities.git.history import subjects
from activities.git.salvage import save
from activities.git.worktree import Worktree
from activities.home import Home
from activities.prompting import compose
from activities.settings import tail
from activities.site import (
    Site,
    blocking,
    progress,
    read_json,
    worktree_of,
    write_atomically,
    write_model,
)

log = structlog.get_logger()

PLAN_CHARACTERS = 16_000
SAID_CHARACTERS = 2_000


class TurnActivities:
    def __init__(self, site: Site) -> None:
        self.site = site

    @activity.defn
    async def take_turn(self, given: TurnInput) -> TurnResult:
        """Run it again and it goes on where it was: the result is returned, or the session is resumed."""
        info = activity.info()
        folder = self.site.home.turn(given.ref.key, given.turn, given.role)
        if (folder / "result.json").exists():
            return TurnResult.model_validate_json((folder / "result.json").read_text())
        (await fence.take(self.site.home.worktree_lock(given.ref.key))).close()  # no zombie writes in it any more
        started = await blocking(_begin, self.site.home, given, folder)
        waited = info.started_time - info.current_attempt_scheduled_time
        return await self._run(given, started, waited)

    async def _run(self, given: TurnInput, started: _Started, waited: timedelta) -> TurnResult:
        agent, folder, turn = given.agent, started.folder, started.turn
        reader = started.runtime.reader(turn)
        launch = started.runtime.launch(turn)
        shown = progress()
        shown.update(turn=given.turn, role=given.role, agent=agent.label(), session=given.session)

        noted = _note_session(folder, reader)

        def follow(line: str) -> None:
            nonlocal noted
            reader.feed(line)
            shown["last"] = reader.last
            if not noted and reader.session:
                noted, shown["session"] = _note_session(folder, reader), reader.session

        environment = {**process.base_environment(started.runtime.environment), "TMPDIR": str(started.temporary)}
        command = process.Command(
            argv=launch.argv,
            cwd=started.worktree.path,
            env={**environment, **launch.env, **agent.env},
            stdin=launch.stdin.encode("utf-8", "replace"),
        )
        stderr = folder / "stderr.log"
        try:
            ended = await process.run(
                command,
                stdout=folder / "stdout.log",
                stderr=stderr,
                lock=self.site.home.worktree_lock(given.ref.key),
                wall_seconds=agent.turn_timeout_minutes * 60,
                idle_seconds=agent.idle_timeout_minutes * 60,
                on_line=follow,
                finished=lambda: reader.finished,
            )
        except process.CannotStart as problem:
            report, seconds = Report("failed", reason=str(problem)), 0.0
        except (process.Busy, process.Interrupted) as problem:
            raise ApplicationError(str(problem), type=type(problem).__name__) from problem
        else:
            report, seconds = reader.report(ended.exit_code, _end_of(stderr)), ended.seconds
            if report.end == "timeout":  # else the CLI had said before how its turn ended
                report.reason = _overdue(given, ended.by)
        result = await blocking(_finish, self.site.home, given, started, report)
        result = result.model_copy(update={"seconds": seconds, "waited_seconds": waited.total_seconds()})
        write_model(folder / "result.json", result)
        log.info("turn ended", role=given.role, turn=given.turn, end=result.end, reason=result.reason)
        return result


@dataclass(frozen=True)
class _Started:
    folder: Path
    temporary: Path
    worktree: Worktree
    runtime: Runtime
    turn: Turn


def _begin(home: Home, given: TurnInput, folder: Path) -> _Started:
    ref = given.ref
    folder.mkdir(parents=True, exist_ok=True)
    temporary = home.run(ref.key) / "tmp"
    temporary.mkdir(exist_ok=True)
    worktree = worktree_of(home, ref)
    if given.commit is not None:
        worktree.put_back(given.commit)
    noted = folder / "session"
    interrupted = noted.exists()
    if interrupted:
        given = given.model_copy(update={"session": noted.read_text()})
    commits = _news(home, given, worktree)
    prompt = compose(home, given, worktree, commits, interrupted)
    write_atomically(folder / "prompt.md", prompt.text)
    write_atomically(folder / "system.md", prompt.system)
    turn = Turn(
        agent=given.agent,
        role=given.role,
        task_id=ref.task_id,
        number=given.turn,
        prompt=prompt.text,
        system=prompt.system,
        session=given.session,
        new_session=str(uuid.uuid4()),
        folder=folder,
        budget_usd=given.budget_usd,
        previous=read_json(_figures(home, given, given.session)) if given.session else {},
    )
    return _Started(folder, temporary, worktree, runtime(given.agent.runtime), turn)


def _news(home: Home, given: TurnInput, worktree: Worktree) -> list[str]:
    """Commits that the target got since the agent's last turn (FEATURES A18); its `origin/<target>` now has them."""
    seen = home.run(given.ref.key) / "target"
    now = worktree.refresh()
    before = seen.read_text() if seen.exists() else now
    if given.role != "reviewer":
        write_atomically(seen, now)
    return subjects(worktree.repository, before, now, 20) if before != now and given.session else []


def _finish(home: Home, given: TurnInput, started: _Started, report: Report) -> TurnResult:
    """Judge the final text by the role, keep it, and put the tree back where the role must not change it."""
    text = started.folder / "final.md"
    write_atomically(text, report.text.encode("utf-8", "replace"))
    # A resumed CLI that died before it said its session has not lost it; one that was told so has.
    session = report.session or (started.turn.session if report.end != "lost_session" else None)
    if report.session:
        figures = json.dumps(report.cumulative or started.turn.previous)
        write_atomically(_figures(home, given, report.session), figures)
    if given.commit is not None:
        save(started.worktree, task_id=given.ref.task_id, outcome=f"written by the {given.role}", kept=given.commit)
        started.worktree.put_back(given.commit)
    worker = given.role in ("executor", "fixer", "resolver")
    signal = signals.executor_signal(report.text) if worker and report.end == "done" else None
    reason = report.reason
    if worker and report.end == "done":
        reason = signal[1] if signal else signals.executor_problem(report.text) or reason
    judged = given.role == "reviewer" and report.end == "done"
    plan = given.role == "planner"
    said = report.text.strip()
    return TurnResult(
        end=report.end,
        signal=signal[0] if signal else None,
        verdict=signals.verdict(report.text) if judged else None,
        reason=tail(reason, 500),
        session=session,
        said=said[:PLAN_CHARACTERS] if plan else tail(said, SAID_CHARACTERS),
        digest=hashlib.sha256(report.text.encode("utf-8", "replace")).hexdigest(),
        retry_after_seconds=report.retry_after_seconds,
        usage=report.usage,
        text=str(text),
    )


def _note_session(folder: Path, reader: Reader) -> bool:
    """Written as soon as it is known: should we die now, the next attempt resumes it."""
    if reader.session:
        write_atomically(folder / "session", reader.session)
    return bool(reader.session)


def _figures(home: Home, given: TurnInput, session: str | None) -> Path:
    """Cumulative figures of a session: the CLIs count over resumes, and a turn's use is the difference."""
    name = hashlib.sha256((session or "").encode()).hexdigest()[:16]
    return home.run(given.ref.key) / "sessions" / f"{name}.json"


def _end_of(path: Path, limit: int = 20_000) -> str:
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - limit, 0))
        return file.read().decode("utf-8", "replace")


def _overdue(given: TurnInput, by: str) -> str:
    if by == "idle":
        return f"no output for {given.agent.idle_timeout_minutes:g} minutes"
    return f"it took more than {given.agent.turn_timeout_minutes:g} minutes"
