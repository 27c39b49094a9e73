"""The turn loop: what comes after a turn of an agent that changes code.

Rules, and where they come from (FEATURES A3-A5, B3, B5-B9, B12):

* A signal counts, nothing else does: *complete* leads to verification, *needs follow-up* to one targeted prompt.
* A question parks the task until an operator answers, at no cost; after `max_questions` of them it is blocked.
* An agent that ends its turn without a signal, at its CLI's turn limit or at a time-out is resumed, at most
  `max_working_resumes` times; then it gets one nudge to wrap up; then it is stuck.
* A limit is waited for: until the stated time, else 30 s, 60 s, 120 s ... It uses up nothing. Where the wait is longer
  than `max_limit_wait_minutes`, or there is no credit, the next of `fallbacks` takes over; without one it waits.
* A turn that was ended because its share of the money was used up goes on in its session, and was a good one: whether
  the task may spend more is looked at before each turn.
* A session that cannot be resumed starts cold, and so does a CLI that died before it had one: at most five times in
  a row. A session that has become too long is summarised, and a new one starts from the summary.
* Other failures are tried again in the same session. Three in a row: the session is summarised once; three more: the
  next fallback, else it blocks. The same failure twice in a row: the next fallback at once, if there is one.
* A missing login and a second refusal in a row: the next fallback, else it blocks.
* A claim is answered by the swarm, and costs no resume; after `MAX_CLAIMS` in a row that got nothing it is stuck. An
  agent that finds nothing to claim ends its task.
* One good turn sets the failure counters back.

Invariants: counters of working turns never grow on a limit or a failure; the loop ends: every endless sequence of
turns that makes no signal leads to Block, unless it is limits alone or there is no end of the money.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from activities.contracts import Ask, TurnEnd, TurnResult
from activities.settings import Limits
from workflows.contracts import BlockedReason

MAX_COLD_STARTS = 5
MAX_FAILURES = 3
MAX_CLAIMS = 10
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
    questions: int = 0
    claims: int = 0
    """Without any task got."""
    cold_starts: int = 0
    failures: int = 0
    limits: int = 0
    last: TurnEnd = "done"
    """How the last turn failed; `done` when it did not."""
    compacted: bool = False
    """The session was summarised since the last good turn."""


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
    """The same turn again, this many seconds later; where the agent has an account, when its quota says so."""

    seconds: float
    stated: bool
    """The provider said when; else it is our back-off."""


@dataclass(frozen=True)
class Compact:
    """Summarise the session; a new one starts from the summary."""

    why: str


@dataclass(frozen=True)
class HandOver:
    """The next of `fallbacks` takes over, in a session of its own, on the same worktree."""

    why: str


@dataclass(frozen=True)
class Question:
    """Go on when an operator has answered."""


@dataclass(frozen=True)
class Claim:
    """Ask the swarm for tasks, and go on with what it answers."""


@dataclass(frozen=True)
class Nothing:
    """The agent finds nothing on the board that it would do."""


@dataclass(frozen=True)
class Block:
    reason: BlockedReason
    text: str


Decision = Verify | Again | Wait | Compact | HandOver | Question | Claim | Nothing | Block


def backoff(count: int, jitter: float) -> float:
    """Seconds before try `count` (from 0): 30, 60, 120 ... at most 900; `jitter` (0 to 1) adds up to a quarter."""
    return min(BACKOFF_SECONDS * 2.0 ** min(count, 10), MAX_BACKOFF_SECONDS) * (1 + jitter / 4)


def wait_for_limit(counters: Counters, result: TurnResult, jitter: float) -> tuple[Counters, Wait]:
    waited = replace(counters, limits=counters.limits + 1)
    if result.retry_after_seconds is not None:
        # A stated time is obeyed; a second or so later, so that tasks of one account do not all come at once.
        return waited, Wait(min(max(result.retry_after_seconds, 0.0), MAX_STATED_SECONDS) + jitter, stated=True)
    return waited, Wait(backoff(counters.limits, jitter), stated=False)


def too_long(counters: Counters, result: TurnResult, limits: Limits) -> bool:
    """Whether a fallback, if there is one, is better than to wait for this limit."""
    if result.end == "credit":
        return True
    wait = result.retry_after_seconds
    if wait is None:
        wait = sum(backoff(count, 0) for count in range(counters.limits + 1))
    return wait > limits.max_limit_wait_minutes * 60


def after_failure(counters: Counters, result: TurnResult, fallback: bool) -> tuple[Counters, Decision]:
    """For turns that ended as none that is good, and as no limit, of any role."""
    repeated = counters.last == result.end
    evidence = _evidence(result)
    now = replace(counters, last=result.end)

    def escalated(reason: BlockedReason) -> Decision:
        return HandOver(evidence) if fallback else Block(reason, evidence)

    match result.end:
        case "login":
            return now, escalated(BlockedReason.LOGIN)
        case "context_full" if not counters.compacted:
            return replace(now, compacted=True), Compact(evidence)
        case "context_full":
            return now, escalated(BlockedReason.AGENT_FAILED)
        case "refused" if not repeated:
            return now, Again("takeover", f"the model would not go on: {evidence}", cold=True)
        case "refused":
            return now, escalated(BlockedReason.REFUSED)
    cold = result.end == "lost_session" or result.session is None
    now = replace(now, failures=counters.failures + (not cold), cold_starts=counters.cold_starts + cold)
    if now.cold_starts > MAX_COLD_STARTS:
        return now, escalated(BlockedReason.AGENT_FAILED)
    if repeated and fallback and result.end != "lost_session":
        return now, HandOver(evidence)
    if now.failures >= MAX_FAILURES:
        if not counters.compacted:
            return replace(now, failures=0, compacted=True), Compact(evidence)
        return now, escalated(BlockedReason.AGENT_FAILED)
    return now, Again("resume", cold=cold)


def after_turn(
    counters: Counters, result: TurnResult, limits: Limits, jitter: float, fallback: bool = False
) -> tuple[Counters, Decision]:
    """What to do after a turn of a planner's, executor's, fixer's or resolver's. `fallback`: there is another agent."""
    if result.end in ("limited", "credit"):
        if fallback and too_long(counters, result, limits):
            return counters, HandOver(_evidence(result))
        return wait_for_limit(counters, result, jitter)
    if result.end not in ("done", "max_turns", "timeout", "budget"):
        return after_failure(counters, result, fallback)
    good = replace(counters, cold_starts=0, failures=0, limits=0, last="done", compacted=False)
    if result.end == "budget":
        return good, Again("resume", result.reason)
    if result.end == "done" and result.signal == "complete":
        return good, Verify()
    if result.end == "done" and result.signal == "needs_followup":
        if good.followups >= limits.max_needs_followups:
            return good, Block(BlockedReason.NEEDS_FOLLOWUP, _evidence(result))
        return replace(good, followups=good.followups + 1), Again("followup", result.reason)
    if result.end == "done" and result.signal == "needs_input":
        if good.questions >= limits.max_questions:
            return good, Block(BlockedReason.QUESTIONS, _evidence(result))
        return replace(good, questions=good.questions + 1), Question()
    if result.end == "done" and result.signal == "claim":
        if good.claims >= MAX_CLAIMS:
            text = f"{good.claims} claims in a row got no task; the last: {', '.join(result.claims)}"
            return good, Block(BlockedReason.STUCK, text)
        return replace(good, claims=good.claims + 1), Claim()
    if result.end == "done" and result.signal == "nothing":
        return good, Nothing()
    if good.resumes < limits.max_working_resumes:
        return replace(good, resumes=good.resumes + 1), Again("resume", result.reason)
    if not good.nudged:
        return replace(good, nudged=True), Again("nudge")
    last = _evidence(result)
    return good, Block(BlockedReason.STUCK, f"no signal after {good.resumes} resumes and a nudge; last: {last}")


def _evidence(result: TurnResult) -> str:
    """One line that is never empty: a bare NEEDS_FOLLOWUP, say, gives no reason."""
    return result.reason or next(iter(result.said.strip().splitlines()[-1:]), "nothing")
