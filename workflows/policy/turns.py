"""The turn loop: what comes after a turn of an agent that changes code.

Rules, and where they come from (FEATURES A3-A5, B3, B5, B7, B8):

* A signal counts, nothing else does: *complete* leads to verification, *needs follow-up* to one targeted prompt.
* An agent that ends its turn without a signal, at its CLI's turn limit or at a time-out is resumed, at most
  `max_working_resumes` times; then it gets one nudge to wrap up; then it is stuck.
* A limit is waited for: until the stated time, else 30 s, 60 s, 120 s ... It uses up nothing.
* A session that cannot be resumed starts cold, and so does a CLI that died before it had one: at most five times in
  a row, then it blocks. Neither uses up a try of the next rule.
* Other failures are tried again in the same session; three in a row block.
* One good turn sets the failure counters back.

Invariants: counters of working turns never grow on a limit or a failure; the loop ends: every endless sequence of
turns that makes no signal leads to Block, unless it is limits alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from activities.contracts import Ask, TurnResult
from activities.settings import Limits
from workflows.contracts import BlockedReason

MAX_COLD_STARTS = 5
MAX_FAILURES = 3
BACKOFF_SECONDS = 30.0
MAX_BACKOFF_SECONDS = 900.0
MAX_STATED_SECONDS = 8 * 86_400.0
"""A little more than the longest window of a provider's limits, a week. A CLI may state anything (a reset in
milliseconds would be the year 50,000, which no timer can hold); coming too early costs one refused turn."""


@dataclass(frozen=True)
class Counters:
    resumes: int = 0
    nudged: bool = False
    followups: int = 0
    cold_starts: int = 0
    failures: int = 0
    limits: int = 0


@dataclass(frozen=True)
class Verify:
    """The agent says that it is done: look at the evidence."""


@dataclass(frozen=True)
class Again:
    """Another turn."""

    ask: Ask
    detail: str = ""
    cold: bool = False
    """In a new session, with what was asked last: the old one is of no use."""


@dataclass(frozen=True)
class Wait:
    """The same turn again, this many seconds later."""

    seconds: float
    stated: bool
    """The provider said when; else it is our back-off."""


@dataclass(frozen=True)
class Block:
    reason: BlockedReason
    text: str


Decision = Verify | Again | Wait | Block


def backoff(count: int, jitter: float) -> float:
    """Seconds before try `count` (from 0): 30, 60, 120 ... at most 900; `jitter` (0 to 1) adds up to a quarter."""
    return min(BACKOFF_SECONDS * 2.0 ** min(count, 10), MAX_BACKOFF_SECONDS) * (1 + jitter / 4)


def wait_for_limit(counters: Counters, result: TurnResult, jitter: float) -> tuple[Counters, Wait]:
    waited = replace(counters, limits=counters.limits + 1)
    if result.retry_after_seconds is not None:
        # A stated time is obeyed; a second or so later, so that tasks of one account do not all come at once.
        return waited, Wait(min(max(result.retry_after_seconds, 0.0), MAX_STATED_SECONDS) + jitter, stated=True)
    return waited, Wait(backoff(counters.limits, jitter), stated=False)


def after_failure(counters: Counters, result: TurnResult) -> tuple[Counters, Again | Block]:
    """For turns that ended as `lost_session`, `login` or `failed`, of any role."""
    if result.end == "login":
        return counters, Block(BlockedReason.LOGIN, _evidence(result))
    cold = result.end == "lost_session" or result.session is None
    now = replace(counters, failures=counters.failures + (not cold), cold_starts=counters.cold_starts + cold)
    if now.failures >= MAX_FAILURES or now.cold_starts > MAX_COLD_STARTS:
        return now, Block(BlockedReason.AGENT_FAILED, _evidence(result))
    return now, Again("resume", cold=cold)


def after_turn(counters: Counters, result: TurnResult, limits: Limits, jitter: float) -> tuple[Counters, Decision]:
    """What to do after a turn of a planner's, executor's, fixer's or resolver's."""
    if result.end == "limited":
        return wait_for_limit(counters, result, jitter)
    if result.end in ("login", "lost_session", "failed"):
        return after_failure(counters, result)
    good = replace(counters, cold_starts=0, failures=0, limits=0)
    if result.end == "done" and result.signal == "complete":
        return good, Verify()
    if result.end == "done" and result.signal == "needs_followup":
        if good.followups >= limits.max_needs_followups:
            return good, Block(BlockedReason.NEEDS_FOLLOWUP, _evidence(result))
        return replace(good, followups=good.followups + 1), Again("followup", result.reason)
    if good.resumes < limits.max_working_resumes:
        return replace(good, resumes=good.resumes + 1), Again("resume", result.reason)
    if not good.nudged:
        return replace(good, nudged=True), Again("nudge")
    last = _evidence(result)
    return good, Block(BlockedReason.STUCK, f"no signal after {good.resumes} resumes and a nudge; last: {last}")


def _evidence(result: TurnResult) -> str:
    """One line that is never empty: a bare NEEDS_FOLLOWUP, say, gives no reason."""
    return result.reason or next(iter(result.said.strip().splitlines()[-1:]), "nothing")
