"""A task's own story in Markdown, for the web UI's current details. Pure: status in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from workflows.contracts import QueueStatus, QuotaState, TaskStatus, TurnRecord
from workflows.policy.quota import slots, why


def task_story(status: TaskStatus, turns: Sequence[TurnRecord]) -> str:
    lines = [f"### {_plain(status.title)}", "", f"**{status.outcome or status.stage}**"]
    if status.sha:
        lines[-1] += f" as `{status.sha[:12]}`"
    if status.blocked:
        lines += ["", f"Blocked: **{status.blocked.reason}**", "", *_quoted(status.blocked.text)]
    elif status.reason:
        lines += ["", *_quoted(status.reason)]
    if status.waiting_for:
        lines += ["", f"Waits for {_plain(status.waiting_for)}"]
    if status.next_command:
        lines += ["", "```", status.next_command, "```"]
    if status.plan and not status.outcome:
        lines += ["", "#### Plan", "", *_quoted(status.plan)]
    lines += [
        "",
        f"{status.turns} turns · {status.review_rounds} review rounds · {status.gate_failures} red gates · "
        f"${status.cost_usd:.2f} · {status.tokens} tokens",
    ]
    if status.salvage_ref:
        lines += ["", f"Saved work: `{status.salvage_ref}`"]
    if turns:
        lines += ["", "#### Turns", ""]
        lines += [
            f"- {turn.turn}: {turn.role}, {_plain(turn.agent)}: {turn.end}, {turn.seconds:.1f} s, "
            f"${turn.usage.cost_usd:.4f}"
            for turn in turns[-20:]
        ]
    if status.problems:
        lines += ["", "#### Ignored", *(f"- {_plain(problem)}" for problem in status.problems)]
    return "\n".join(lines)


def queue_story(status: QueueStatus) -> str:
    lines = [
        f"### Merge queue of {status.target.removeprefix('refs/heads/')}",
        "",
        f"`{status.repo}`{' · **paused**' if status.paused else ''} · {status.landed} landed "
        f"· {status.ejected} sent back",
        "",
    ]
    lines += [
        f"{place}. `{entry.candidate.ref.task_id}` {_plain(entry.candidate.title)}: **{entry.state}** "
        f"{_plain(entry.reason)}"
        for place, entry in enumerate(status.entries, 1)
    ] or ["Empty."]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text of others is shown as text: no markup of its own."""
    return "".join("\\" + char if char in "\\`*_[]<>#|!" else char for char in " ".join(text.splitlines()))


def _quoted(text: str) -> list[str]:
    return ["~~~", *text.replace("~~~", "~ ~ ~").splitlines(), "~~~"]


def quota_story(state: QuotaState, now: float, workflow_id: str) -> str:
    text, until = why(state, now)
    most = slots(state)
    lines = [
        f"### {_plain(state.name)}",
        "",
        f"{len(state.leases)} of {most or 'any number of'} slots · {len(state.waiting)} wait · "
        f"{state.refusals} refusals",
    ]
    if state.config.max_cost_usd_per_day is not None:
        cap = state.config.max_cost_usd_per_day * state.days_granted
        lines[-1] += f" · ${state.spent_today:.2f} of today's ${cap:.2f}"
    parked = state.parked_until is not None and state.parked_until > now
    if state.waiting or parked or state.held:
        when = f" until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M:%S} UTC" if until else ""
        lines += ["", f"**{_plain(text.strip())}**{when}"]
    if parked or state.held:
        verb = "release" if state.held else "wake"
        lines += ["", "```", f"temporal workflow signal -w '{workflow_id}' --name {verb}", "```"]
    for title, leases in (("Turns", state.leases), ("Waiting", state.waiting)):
        if leases:
            shown = [f"- `{lease.request.holder}` {_plain(lease.request.what)}" for lease in leases[:50]]
            more = [f"- and {len(leases) - 50} more"] if len(leases) > 50 else []
            lines += ["", f"#### {title}", "", *shown, *more]
    return "\n".join(lines)
