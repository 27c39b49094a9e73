"""What becomes of a swarm's worker after a cycle. Pure.

* An error is a cycle that failed, was terminated, or waits for an operator. After the n-th in a row a worker pauses
  `error_backoff_seconds` x 2^(n-1); after `max_errors` it stops (FEATURES D7). Work that landed ends the row.
* A cycle whose agent found nothing to claim is followed by such a pause too; after `max_errors` of them in a row the
  worker stops, unless others are at work, who may make something for it to do.
* `max_cycle` cycles, and it has done its share. `wait_between` is waited for before each further one.
* A worker for whom there has been nothing to do for `max_wait_for_tasks` stops.
"""

from __future__ import annotations

from activities.swarm.settings import PlannerSpec, SwarmSettings, WorkerSpec
from workflows.contracts import Seconds, TaskResult
from workflows.swarm_contracts import Member, Tally

MAX_BACKOFF = 6 * 3_600.0
"""Seconds."""


def is_error(outcome: str) -> bool:
    return outcome in ("failed", "terminated")


def after_error(member: Member, why: str, settings: SwarmSettings, now: float) -> Member:
    errors = member.errors + 1
    tally = member.tally.model_copy(update={"errors": member.tally.errors + 1})
    member = member.model_copy(update={"errors": errors, "tally": tally})
    if errors >= settings.max_errors:
        text = f"{errors} errors in a row, the last: {_line(why)}"
        return member.model_copy(update={"state": "stopped", "why": text, "until": None})
    until = now + _pause(settings, errors)
    return member.model_copy(update={"state": "backing off", "why": _line(why), "until": until})


def after_nothing(member: Member, settings: SwarmSettings, now: float, others_may_help: bool) -> Member:
    """Its agent chose nothing of what is there: not at once again. `member`: as it is `freed`."""
    count = member.nothing + 1
    member = member.model_copy(update={"nothing": count})
    if member.state == "stopped":
        return member
    if count >= settings.max_errors and not others_may_help:
        text = f"its agent found nothing to claim, {count} times in a row"
        return member.model_copy(update={"state": "stopped", "why": text, "until": None})
    until = max(member.until or 0.0, now + _pause(settings, count))
    return member.model_copy(update={"until": until, "why": "its agent found nothing to claim"})


def _pause(settings: SwarmSettings, count: int) -> float:
    """Seconds, after so many in a row."""
    return min(settings.error_backoff_seconds * 2.0 ** min(count - 1, 30), MAX_BACKOFF)


def revived(member: Member, kind: WorkerSpec | PlannerSpec | None) -> Member:
    """An operator has mended what stopped it."""
    if member.state not in ("stopped", "backing off") or kind is None or member.tally.cycles >= kind.max_cycle:
        return member
    return member.model_copy(
        update={"state": "idle", "why": "", "errors": 0, "nothing": 0, "until": None, "idle_since": None}
    )


def freed(member: Member, kind: WorkerSpec | PlannerSpec | None, now: float) -> Member:
    """Its cycle is over, or goes on without it."""
    cycles = member.tally.cycles + 1
    tally = member.tally.model_copy(update={"cycles": cycles})
    member = member.model_copy(update={"cycle": "", "holds": [], "plans": False, "tally": tally, "idle_since": None})
    if member.state == "stopped" or kind is None:
        return member
    if cycles >= kind.max_cycle:
        return member.model_copy(update={"state": "stopped", "why": f"has done its {cycles} cycles", "until": None})
    if member.state == "backing off":
        return member
    until = now + kind.wait_between if kind.wait_between else None
    return member.model_copy(update={"state": "idle", "why": "", "until": until})


def tallied(
    member: Member, outcome: str, result: TaskResult | None, *, claims: int, recycled: int, approvals: int
) -> Member:
    """With what a cycle has come to, which may have gone on without its worker."""
    before = member.tally
    found = result or TaskResult(outcome="failed")
    tally = before.model_copy(
        update={
            "runs": before.runs + found.turns,
            "merges": before.merges + (outcome in ("merged", "planned")),
            "claims": before.claims + claims,
            "rejects": before.rejects + found.review_rounds,
            "recycled": before.recycled + recycled,
            "review_rounds": before.review_rounds + found.review_rounds + approvals,
            "cost_usd": round(before.cost_usd + found.cost_usd, 6),
            "tokens": before.tokens + found.tokens,
            "seconds": added(before.seconds, found.seconds),
        }
    )
    return member.model_copy(update={"tally": tally})


def added(one: Seconds, other: Seconds) -> Seconds:
    return Seconds(**{name: round(getattr(one, name) + getattr(other, name), 3) for name in Seconds.model_fields})


def waits(member: Member, kind: WorkerSpec | PlannerSpec | None, why: str, now: float, others_may_help: bool) -> Member:
    """There is nothing for it to do. `others_may_help`: somebody makes tasks, or a person is waited for; such time does
    not count."""
    since = now if member.idle_since is None or others_may_help else member.idle_since
    member = member.model_copy(update={"state": "waiting", "why": why, "idle_since": since})
    if isinstance(kind, WorkerSpec) and now - since >= kind.max_wait_for_tasks:
        text = f"there was nothing for it to do for {kind.max_wait_for_tasks:g} s"
        return member.model_copy(update={"state": "stopped", "why": text})
    return member


def total(members: list[Member]) -> Tally:
    summed = Tally()
    for tally in (member.tally for member in members):
        fields = {
            name: getattr(summed, name) + getattr(tally, name) for name in Tally.model_fields if name != "seconds"
        }
        summed = Tally(
            **{**fields, "cost_usd": round(fields["cost_usd"], 6)}, seconds=added(summed.seconds, tally.seconds)
        )
    return summed


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
