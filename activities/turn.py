"""One turn of one agent: its prompt, its process, its judgement, and what is kept of it.

The turn's folder is its memory. `result.json` there: the turn is over, and a second run returns it. Without it an
earlier attempt was interrupted: `session` is the session that this one goes on in, `usage.json` what has been used
already, and `stdout.1.log` and the like are what was said then.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities import boxes, fence, mcp_server, overuse, ports, process
from activities.agent_tools import Tools
from activities.agents import runtime, signals
from activities.agents.base import Reader, Report, Runtime, Turn, with_estimate
from activities.config import BadConfig, Config, agent_environment, load
from activities.contracts import Escape, TurnCaps, TurnInput, TurnResult, Usage
from activities.cycles import member, place_of
from activities.drive import Caps, drive
from activities.git import guard, turns
from activities.git.clone import WorktreeBroken
from activities.git.history import subjects
from activities.git.run import GitError
from activities.git.salvage import save
from activities.git.worktree import Worktree
from activities.home import Home
from activities.masking import MASKS
from activities.plan_files import planned
from activities.prompting import compose
from activities.sandbox import Limits, Sandbox
from activities.settings import NOTHING_KEPT, AgentSpec, tail
from activities.setup import linked, ready
from activities.site import (
    Site,
    blocking,
    progress,
    read_json,
    write_atomically,
    write_model,
)

log = structlog.get_logger()

PLAN_CHARACTERS = 16_000
WORKERS = ("executor", "fixer", "resolver")
"""Roles that change code, and say with a signal how they ended."""
SAID_CHARACTERS = 2_000
QUESTION_CHARACTERS = 2_000
NOTE_SECONDS = 1.0
"""How often the use of a running turn is noted: at most that much of it is lost with the worker."""
SMALLEST_CAP_USD = 0.01
"""Of a turn that is taken up again, whatever is left: it may say where it is. No CLI takes a budget of 0."""


class TurnActivities:
    def __init__(self, site: Site) -> None:
        self.site = site

    @activity.defn
    async def take_turn(self, given: TurnInput) -> TurnResult:
        """Run it again and it goes on where it was: the result is returned, or the session is resumed."""
        with self.site.slots.turn(given.ref.task_id):
            return await self._take(given)

    async def _take(self, given: TurnInput) -> TurnResult:
        info = activity.info()
        folder = self.site.home.turn(given.ref.key, given.turn, given.role)
        if (folder / "result.json").exists():
            return TurnResult.model_validate_json((folder / "result.json").read_text())
        (await fence.take(self.site.home.worktree_lock(given.ref.key))).close()  # no zombie writes in it any more
        worktree = await ready(self.site.home, given.ref)
        started = await blocking(_begin, self.site.home, given, worktree, folder)
        waited = info.started_time - info.current_attempt_scheduled_time
        return await self._run(given, started, waited)

    async def _run(self, given: TurnInput, started: _Started, waited: timedelta) -> TurnResult:
        agent, folder = given.agent, started.folder
        shown = progress()
        shown.update(turn=given.turn, role=given.role, agent=agent.label(), session=started.turn.session)
        meter = _Meter(folder / "usage.json", started.carried)
        noted = ""
        warned = False

        def follow(reader: Reader) -> None:
            nonlocal noted, warned
            meter.reader = reader
            used = meter.used
            last = MASKS.text(reader.retrying or reader.last)
            shown.update(last=last, cost_usd=round(used.cost_usd, 4), tokens=used.tokens)
            if reader.session and reader.session != noted and started.turn.session in (None, reader.session):
                # As soon as it is known: should we die now, the next attempt resumes it.
                noted = shown["session"] = reader.session
                write_atomically(folder / "session", noted)
            if not warned and _nearly_used_up(given.caps, used):
                warned = True
                log.warning("80 % of what the turn may use is used", task=given.ref.task_id, turn=given.turn,
                            cost_usd=used.cost_usd, tokens=used.tokens)  # fmt: skip

        bounds = Caps(
            wall_seconds=agent.turn_timeout_minutes * 60,
            idle_seconds=agent.idle_timeout_minutes * 60,
            agent_seconds=started.caps.seconds,
            cost_usd=started.caps.cost_usd,
            tokens=started.caps.tokens,
        )
        lock = self.site.home.worktree_lock(given.ref.key)
        noting = asyncio.create_task(meter.note_often())
        tools = Tools(self.site, given, activity.info().workflow_run_id or "")
        try:
            async with mcp_server.serving(tools, folder) if started.turn.mcp else nullcontext():
                report, seconds = await drive(
                    started.runtime,
                    started.turn,
                    started.worktree.path,
                    bounds,
                    lock,
                    follow,
                    started.sandbox,
                    started.limits,
                )
        except (process.Busy, process.Interrupted) as problem:
            raise ApplicationError(str(problem), type=type(problem).__name__) from problem
        except asyncio.CancelledError:  # perhaps there is no other attempt
            await blocking(_look_after, given, started)
            raise
        finally:
            noting.cancel()
            meter.note(meter.used)
        report.text, report.reason = MASKS.text(report.text), MASKS.text(report.reason)
        report.usage = started.carried + report.usage
        meter.note(report.usage)
        if report.end in ("login", "credit"):
            report.reason = f"{report.reason}: {started.runtime.login}"
        result = await blocking(_finish, self.site.home, given, started, report)
        result = result.model_copy(update={"seconds": seconds, "waited_seconds": waited.total_seconds()})
        write_model(folder / "result.json", result)
        said = {"task": given.ref.task_id, "turn": given.turn, "role": given.role, "attempt": activity.info().attempt}
        log.info("turn ended", **said, end=result.end, reason=result.reason)
        return result


class _Meter:
    """Keeps the turn's use so far in a file, that of earlier attempts with it: it outlives this worker."""

    def __init__(self, path: Path, carried: Usage) -> None:
        self.reader: Reader | None = None
        self._path = path
        self._carried = self._noted = carried

    @property
    def used(self) -> Usage:
        return self._carried + self.reader.usage if self.reader else self._carried

    async def note_often(self) -> None:
        """Some CLIs tell their use in files beside their output, so no line of output says that there is news."""
        while True:
            await asyncio.sleep(NOTE_SECONDS)
            self.note(self.used)

    def note(self, used: Usage) -> None:
        if used != self._noted:
            self._noted = used
            write_model(self._path, used)


def _nearly_used_up(caps: TurnCaps, used: Usage) -> bool:
    money = caps.cost_usd is not None and used.cost_usd >= 0.8 * caps.cost_usd
    return money or (caps.tokens is not None and used.tokens >= 0.8 * caps.tokens)


@dataclass(frozen=True)
class _Started:
    folder: Path
    worktree: Worktree
    runtime: Runtime
    turn: Turn
    carried: Usage
    """What earlier attempts at the turn have used."""
    caps: TurnCaps
    """What this attempt may use: less than the turn, if something was used."""
    sandbox: Sandbox | None
    limits: Limits
    before: guard.Guarded | None
    """The user's repository, before the first attempt; in a sandbox nothing of it can be written."""


def _begin(home: Home, given: TurnInput, worktree: Worktree, folder: Path) -> _Started:
    ref = given.ref
    folder.mkdir(parents=True, exist_ok=True)
    config = _config(home)
    if given.commit is not None:
        worktree.put_back(given.commit)
    if given.rewind is not None:
        try:
            _rewind(worktree, given.rewind, given.turn, folder / "rewound")
        except turns.NothingKept as problem:
            raise ApplicationError(str(problem), type=NOTHING_KEPT) from None
    noted = folder / "session"
    interrupted = noted.exists()
    session = noted.read_text() if interrupted else given.session
    carried = Usage.model_validate(read_json(folder / "usage.json"))
    caps = _caps_left(given.caps, carried)
    found = runtime(given.agent.runtime)
    agent, environment = _environment(config, found, given.agent)
    MASKS.learn({**environment, **agent.env})
    _keep_logs(folder)
    commits = _news(home, given, worktree, session)
    has_tools = config.mcp.enabled and found.takes_tools(agent, environment)
    prompt = compose(home, given, worktree, commits, interrupted, has_tools)
    # Who can read the transcript. What is in `env` may be secret.
    write_atomically(folder / "agent.json", given.agent.model_dump_json(indent=1, exclude={"env"}))
    write_atomically(folder / "prompt.md", prompt.text)
    write_atomically(folder / "system.md", prompt.system)
    box = home.box(ref.key, given.role)
    own = {"TMPDIR": str(boxes.temporary_of(box)), **ports.environment(home, str(worktree.path))}
    environment = {**environment, **own, **agent.env}
    sandbox = None
    if _has_sandbox(config):
        sandbox = boxes.make(
            config.sandbox,
            box,
            environment,
            data=home.root,
            write=[worktree.path, *linked(home, ref.key)],
            read=[home.run(ref.key), *boxes.of_repository(worktree.repository), mcp_server.BRIDGE],
            keeps=found.keeps,
            network=config.sandbox.network_of_agents(),
        )
    turn = Turn(
        agent=agent,
        role=given.role,
        task_id=ref.task_id,
        number=given.turn,
        prompt=prompt.text,
        system=prompt.system,
        session=session,
        new_session=str(uuid.uuid4()),
        folder=folder,
        budget_usd=caps.cost_usd,
        env=environment,
        # The session's sums hold the interrupted attempts too, which are counted already.
        previous=with_estimate(_figures_before(home, given, folder, session), carried),
        mcp=tuple(mcp_server.program(folder)) if config.mcp.enabled else (),
        outside=sandbox.outside if sandbox else lambda path: path,
    )
    before = None if sandbox else _look_before(folder, worktree)
    limits = overuse.with_room(config.sandbox.limits.limits(), overuse.noted(home.overuse(ref.key, given.role)))
    return _Started(folder, worktree, found, turn, carried, caps, sandbox, limits, before)


def _look_before(folder: Path, worktree: Worktree) -> guard.Guarded:
    """Written down: should we be killed, the next attempt finds what this one did."""
    noted = folder / "guarded.json"
    if noted.exists():
        return guard.Guarded.model_validate_json(noted.read_bytes())
    before = guard.look(worktree.repository, worktree.path / ".git")
    write_model(noted, before)
    return before


def _look_after(given: TurnInput, started: _Started) -> guard.Difference:
    """What happened to the user's repository meanwhile. What must not be is undone where that loses nothing, and noted:
    a turn that was ended from outside is perhaps taken up again, and told then."""
    if started.before is None:
        return guard.Difference()
    repository, folder = started.worktree.repository, started.folder
    after = guard.look(repository, started.worktree.path / ".git")
    found = guard.compare(repository, started.before, after)
    if found.escaped:
        kept = folder / "escaped"
        undone = guard.put_back(repository, started.before, after, kept)
        escape = Escape(changed=list(map(MASKS.text, found.escaped)), undone=undone, kept=str(kept))
        write_model(folder / "escape.json", escape)
        log.warning("a turn changed what no turn may change", task=given.ref.task_id, turn=given.turn,
                    role=given.role, changed=found.escaped, undone=undone, kept=str(kept))  # fmt: skip
    return found


def _environment(config: Config, found: Runtime, agent: AgentSpec) -> tuple[AgentSpec, dict[str, str]]:
    """The agent with its `env` filled in, and what it gets of the worker's environment."""
    try:
        account = config.account(agent.account or "")
        given = agent_environment(found, account, os.environ, config.keys())
        return agent.model_copy(update={"env": config.filled_in(agent.env, os.environ)}), given
    except BadConfig as problem:
        raise ApplicationError(str(problem), type="BadConfig") from problem


def _rewind(worktree: Worktree, to: int, turn: int, record: Path) -> None:
    """Once: what an interrupted attempt has done since stays. Again, when an operator wants another turn meanwhile."""
    done = record.read_text().split() if record.exists() else []
    if done[-1:] != [str(to)]:
        again = f"-{len(done)}" if done else ""
        turns.rewind(worktree, to, f"{turn}-before{again}")
        write_atomically(record, " ".join([*done, str(to)]))


def _caps_left(caps: TurnCaps, carried: Usage) -> TurnCaps:
    cost, tokens = caps.cost_usd, caps.tokens
    if cost is not None and carried.cost_usd:
        cost = max(cost - carried.cost_usd, min(cost, SMALLEST_CAP_USD))
    if tokens is not None:
        tokens = max(tokens - carried.tokens, 1)
    return caps.model_copy(update={"cost_usd": cost, "tokens": tokens})


def _keep_logs(folder: Path) -> None:
    """Those of the attempt before, which the CLI's next process would begin anew."""
    names = ("stdout", "stderr")
    number = next(n for n in itertools.count(1) if not any((folder / f"{name}.{n}.log").exists() for name in names))
    for name in names:
        if (log_file := folder / f"{name}.log").exists():
            MASKS.file(log_file)  # the worker may have been killed before it had read all of it
            log_file.rename(folder / f"{name}.{number}.log")


def _config(home: Home) -> Config:
    try:
        return load(home.root)
    except BadConfig as problem:
        raise ApplicationError(str(problem), type="BadConfig") from problem


def _has_sandbox(config: Config) -> bool:
    try:
        return boxes.wanted(config.sandbox)
    except BadConfig as problem:
        raise ApplicationError(str(problem), type="BadConfig") from problem


def _news(home: Home, given: TurnInput, worktree: Worktree, session: str | None) -> list[str]:
    """Commits that the target got since the agent's last turn (FEATURES A18); its `origin/<target>` now has them."""
    seen = home.run(given.ref.key) / "target"
    now = worktree.refresh()
    before = seen.read_text() if seen.exists() else now
    if given.role != "reviewer":
        write_atomically(seen, now)
    return subjects(worktree.repository, before, now, 20) if before != now and session else []


def _finish(home: Home, given: TurnInput, started: _Started, report: Report) -> TurnResult:
    """Judge the final text by the role, keep it, and put the tree back where the role must not change it."""
    for kept in started.folder.iterdir():  # what a CLI writes beside its output
        MASKS.file(kept)
    meanwhile = _look_after(given, started)
    (started.folder / "guarded.json").unlink(missing_ok=True)
    escape = read_json(started.folder / "escape.json")
    text = started.folder / "final.md"
    write_atomically(text, report.text.encode("utf-8", "replace"))
    # A resumed CLI that died before it said its session has not lost it; one that was told so has.
    session = report.session or (started.turn.session if report.end != "lost_session" else None)
    if report.session:
        figures = report.cumulative or started.turn.previous
        before = _figures_before(home, given, started.folder, report.session)
        sums = {"turn": started.folder.name, "figures": figures, "before": before}
        write_atomically(_figures(home, given, report.session), json.dumps(sums))
    if given.commit is not None:
        save(started.worktree, task_id=given.ref.task_id, outcome=f"written by the {given.role}", kept=given.commit)
        started.worktree.put_back(given.commit)
    notes = [*meanwhile.notes, *(["it was " + report.reason] if report.limit else [])]
    if given.role != "compactor":  # it has no part in what fills the disk, and the next agent must be told
        tree = started.worktree.path
        folders = {**(started.sandbox.instead if started.sandbox else {}), tree: tree}
        overuse.note(home.overuse(given.ref.key, given.role), report.limit, folders)
    worker = given.role in WORKERS
    if worker:
        _keep_for_rewind(started.worktree, given)
    plan = given.role == "planner"
    signal, reason = None, report.reason
    if plan and report.end == "done":
        signal = signals.planner_signal(report.text)
        reason = signal[1] if signal else reason
    if worker and report.end == "done":
        place = place_of(member(home, given.ref.key), given.holds)
        signal = signals.executor_signal(report.text, place)
        reason = signal[1] if signal else signals.executor_problem(report.text, place) or reason
    judged = given.role == "reviewer" and report.end == "done"
    said = report.text.strip()
    return TurnResult(
        end=report.end,
        signal=signal[0] if signal else None,
        verdict=signals.verdict(report.text) if judged else None,
        reason=reason[:QUESTION_CHARACTERS] if signal and signal[0] == "needs_input" else tail(reason, 500),
        session=session,
        said=said[:PLAN_CHARACTERS] if plan else tail(said, SAID_CHARACTERS),
        digest=hashlib.sha256(report.text.encode("utf-8", "replace")).hexdigest(),
        model=report.model or given.agent.model or "",
        retry_after_seconds=report.retry_after_seconds,
        usage=report.usage,
        text=str(text),
        escape=Escape.model_validate(escape) if escape else None,
        notes=[tail(MASKS.text(line), 300) for line in notes],
        files=planned(report.text) if plan else [],
        claims=signals.claimed(report.text) if signal and signal[0] == "claim" else [],
        told=[message.id for message in given.messages],
    )


def _keep_for_rewind(worktree: Worktree, given: TurnInput) -> None:
    """No turn fails for the lack of it."""
    try:
        turns.keep(worktree, str(given.turn))
    except (WorktreeBroken, GitError, OSError) as problem:
        log.warning(
            "there will be no rewind to this turn", task=given.ref.task_id, turn=given.turn, reason=str(problem)
        )


def _figures(home: Home, given: TurnInput, session: str) -> Path:
    """Cumulative figures of a session: the CLIs count over resumes, and a turn's use is the difference."""
    name = hashlib.sha256(session.encode()).hexdigest()[:16]
    return home.run(given.ref.key) / "sessions" / f"{name}.json"


def _figures_before(home: Home, given: TurnInput, folder: Path, session: str | None) -> dict[str, float]:
    """Those before this turn, also when an attempt at it has written its own and was then interrupted."""
    kept = read_json(_figures(home, given, session)) if session else {}
    before: dict[str, float] = kept.get("before" if kept.get("turn") == folder.name else "figures", {})
    return before
