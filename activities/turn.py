"""One turn of one agent: its prompt, its process, its judgement, and what is kept of it.

The turn's folder is its memory. `result.json` there: the turn is over, and a second run returns it. `session` there
without a result: an earlier attempt was interrupted, and this one goes on in the same session.
"""

from __future__ import annotations

import hashlib
import json
import os
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
from activities.config import BadConfig, Config, agent_environment, load
from activities.contracts import TurnCaps, TurnInput, TurnResult, Usage
from activities.drive import Caps, drive
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
WORKERS = ("executor", "fixer", "resolver")
"""Roles that change code, and say with a signal how they ended."""
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
        agent, folder, caps = given.agent, started.folder, given.caps
        shown = progress()
        shown.update(turn=given.turn, role=given.role, agent=agent.label(), session=given.session)
        noted = ""
        warned = False

        def follow(reader: Reader) -> None:
            nonlocal noted, warned
            used = reader.usage
            shown.update(last=reader.retrying or reader.last, cost_usd=round(used.cost_usd, 4), tokens=used.tokens)
            if reader.session and reader.session != noted and given.session in (None, reader.session):
                # As soon as it is known: should we die now, the next attempt resumes it.
                noted = shown["session"] = reader.session
                write_atomically(folder / "session", noted)
            if not warned and _nearly_used_up(caps, used):
                warned = True
                log.warning("80 % of what the turn may use is used", task=given.ref.task_id, turn=given.turn,
                            cost_usd=used.cost_usd, tokens=used.tokens)  # fmt: skip

        bounds = Caps(
            wall_seconds=agent.turn_timeout_minutes * 60,
            idle_seconds=agent.idle_timeout_minutes * 60,
            agent_seconds=caps.seconds,
            cost_usd=caps.cost_usd,
            tokens=caps.tokens,
        )
        lock = self.site.home.worktree_lock(given.ref.key)
        try:
            report, seconds = await drive(started.runtime, started.turn, started.worktree.path, bounds, lock, follow)
        except (process.Busy, process.Interrupted) as problem:
            raise ApplicationError(str(problem), type=type(problem).__name__) from problem
        if report.end in ("login", "credit"):
            report.reason = f"{report.reason}: {started.runtime.login}"
        result = await blocking(_finish, self.site.home, given, started, report)
        result = result.model_copy(update={"seconds": seconds, "waited_seconds": waited.total_seconds()})
        write_model(folder / "result.json", result)
        log.info("turn ended", role=given.role, turn=given.turn, end=result.end, reason=result.reason)
        return result


def _nearly_used_up(caps: TurnCaps, used: Usage) -> bool:
    money = caps.cost_usd is not None and used.cost_usd >= 0.8 * caps.cost_usd
    return money or (caps.tokens is not None and used.tokens >= 0.8 * caps.tokens)


@dataclass(frozen=True)
class _Started:
    folder: Path
    worktree: Worktree
    runtime: Runtime
    turn: Turn


def _begin(home: Home, given: TurnInput, folder: Path) -> _Started:
    ref = given.ref
    folder.mkdir(parents=True, exist_ok=True)
    temporary = home.run(ref.key) / "tmp"
    temporary.mkdir(exist_ok=True)
    config = _config(home)
    worktree = worktree_of(home, ref)
    if given.commit is not None:
        worktree.put_back(given.commit)
    noted = folder / "session"
    interrupted = noted.exists()
    if interrupted:
        given = given.model_copy(update={"session": noted.read_text()})
    commits = _news(home, given, worktree)
    prompt = compose(home, given, worktree, commits, interrupted)
    write_model(folder / "agent.json", given.agent)  # who can read the transcript
    write_atomically(folder / "prompt.md", prompt.text)
    write_atomically(folder / "system.md", prompt.system)
    found = runtime(given.agent.runtime)
    environment = agent_environment(found, config.account(given.agent.account or ""), os.environ, config.keys())
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
        budget_usd=given.caps.cost_usd,
        env={**environment, "TMPDIR": str(temporary), **given.agent.env},
        previous=read_json(_figures(home, given, given.session)) if given.session else {},
    )
    return _Started(folder, worktree, found, turn)


def _config(home: Home) -> Config:
    try:
        return load(home.root)
    except BadConfig as problem:
        raise ApplicationError(str(problem), type="BadConfig") from problem


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
    worker = given.role in WORKERS
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
        model=report.model or given.agent.model or "",
        retry_after_seconds=report.retry_after_seconds,
        usage=report.usage,
        text=str(text),
    )


def _figures(home: Home, given: TurnInput, session: str | None) -> Path:
    """Cumulative figures of a session: the CLIs count over resumes, and a turn's use is the difference."""
    name = hashlib.sha256((session or "").encode()).hexdigest()[:16]
    return home.run(given.ref.key) / "sessions" / f"{name}.json"
