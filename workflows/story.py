"""A task's own story in Markdown, for the web UI's current details. Pure: status in, text out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from workflows.contracts import (
    GateLine,
    LandStatus,
    MergeAnswer,
    Message,
    QueuePlace,
    QueueStatus,
    QueueTest,
    QuotaState,
    TaskStatus,
    TurnRecord,
)
from workflows.policy.answers import explain
from workflows.policy.quota import slots, why


def task_story(status: TaskStatus, turns: Sequence[TurnRecord]) -> str:
    lines = [f"### {_plain(status.title)}", "", f"**{status.outcome or status.stage}**"]
    if status.sha:
        lines[-1] += f" as `{status.sha[:12]}`"
    if status.blocked:
        lines += ["", f"Blocked: **{status.blocked.reason}**", "", *_quoted(status.blocked.text)]
    elif status.reason:
        lines += ["", *_quoted(status.reason)]
    if status.swarm:
        holds = _plain(", ".join(status.holds)) or "nothing"
        lines += ["", f"{_plain(status.worker)} of the swarm {_plain(status.swarm)}, holds {holds}"]
    if status.waiting_for:
        lines += ["", f"Waits for {_plain(status.waiting_for)}"]
    if status.next_command:
        lines += ["", "```", status.next_command, "```"]
    if status.question:
        lines += ["", "#### The agent asks", "", *_quoted(status.question)]
    if status.progress and not status.outcome:
        lines += ["", f"Its agent says: {_plain(status.progress)}"]
    if status.plan and not status.outcome:
        lines += ["", "#### Plan", "", *_quoted(status.plan)]
    kinds = (("Planned", status.planned), ("Touched", status.touched), ("**Not planned**", status.unplanned))
    for name, files in kinds if status.planned else ():
        if files:
            lines += ["", f"{name}: {_plain(', '.join(files[:_MOST_PLACES]))}"]
    lines += [
        "",
        f"{status.turns} turns · {status.review_rounds} review rounds · {status.gate_failures} red gates · "
        f"${status.cost_usd:.2f} · {status.tokens} tokens",
    ]
    lines += _places(status)
    if status.gates:
        lines += ["", "#### Gates", "", *map(_gate_line, status.gates)]
    if verdicts := [turn for turn in turns if turn.verdict]:
        lines += ["", "#### Verdicts", ""]
        lines += [
            f"- round {number}, turn {turn.turn}, {_plain(turn.agent)}: {(turn.verdict or '').replace('_', ' ')}"
            for number, turn in enumerate(verdicts, 1)
        ][-10:]
    if status.overlaps:
        lines += ["", "#### In conflict with", "", *(f"- {_plain(other)}" for other in status.overlaps)]
    if status.findings:
        lines += ["", "#### Policy", "", *(f"- {one.severity}: {_plain(one.told())}" for one in status.findings)]
    if status.salvage_ref:
        lines += ["", f"Saved work: `{status.salvage_ref}`"]
    if turns:
        lines += ["", "#### Turns", ""]
        lines += [
            f"- {turn.turn}: {turn.role}, {_plain(turn.agent)}: {turn.end}, {turn.seconds:.1f} s, "
            f"${turn.usage.cost_usd:.4f}"
            for turn in turns[-20:]
        ]
    if status.messages:
        lines += ["", "#### Messages", "", *map(_message_line, status.messages)]
    if status.proposals:
        lines += ["", "#### Proposed tasks", ""]
        lines += [f"- {_plain(one.title)}: {_plain(one.description[:200])}" for one in status.proposals]
    if status.problems:
        lines += ["", "#### Ignored", *(f"- {_plain(problem)}" for problem in status.problems)]
    return "\n".join(lines)


def _places(status: TaskStatus) -> list[str]:
    """Where the work and the log are."""
    if not status.run_folder:
        return []
    where = (
        [] if status.outcome else [f"Branch: {_code(status.branch or '')}", f"worktree: {_code(status.worktree or '')}"]
    )
    log = f"log: {_code(f'python starter.py log {status.task_id}')}"
    return ["", " · ".join([*where, log, f"run folder: {_code(status.run_folder)}"])]


def _gate_line(gate: GateLine) -> str:
    ended = "green" if gate.passed else "**red**"
    fault = f" ({_plain(gate.fault)})" if gate.fault else ""
    return f"- {_plain(gate.name)}: {ended}{fault}, {gate.seconds:.1f} s"


def _message_line(message: Message) -> str:
    state = message.state if message.turn is None else f"{message.state} in turn {message.turn}"
    line = f"- {message.id}, {_plain(message.sender)}, {state}: {_plain(message.text[:200])}"
    return f"{line} → {_plain(message.answer[:200])}" if message.answer else line


def queue_story(status: QueueStatus) -> str:
    lines = [f"### Merge queue of {status.target.removeprefix('refs/heads/')}", "", _queue_line(status)]
    if status.mode_reason:
        lines += ["", *_quoted(status.mode_reason)]
    if status.trouble:
        lines += ["", "**In trouble**, tried again:", "", *_quoted(status.trouble)]
    if status.behind:
        lines += ["", f"Behind: {_plain(status.behind)}"]
    if status.flaky:
        lines += ["", "Flaky: " + ", ".join(f"{_plain(gate)} ({count})" for gate, count in status.flaky.items())]
    if status.tests:
        lines += ["", "#### Tests", "", *map(_test_line, status.tests)]
    places = [_place_line(number, place) for number, place in enumerate(status.places[:_MOST_PLACES], 1)]
    lines += ["", "#### Places", "", *(places or ["Empty."])]
    if (more := max(len(status.places), status.waiting) - _MOST_PLACES) > 0:
        lines += ["", f"And {more} more."]
    if status.last:
        lines += ["", "#### Last", "", *map(_answer_line, reversed(status.last))]
    return "\n".join(lines)


_MOST_PLACES = 40


def _queue_line(status: QueueStatus) -> str:
    parts = [f"`{status.repo}`" + (f" at `{status.base[:12]}`" if status.base else "")]
    if status.mode != "open":
        parts.append(f"**{status.mode}**")
    parts += [f"{status.slots} slots", f"p̂ {status.p:.1%}", f"gates take {status.gate_seconds:.1f} s"]
    return " · ".join([*parts, f"{status.landed} landed", f"{status.ejected} sent back"])


def _test_line(test: QueueTest) -> str:
    who = ", ".join(f"`{task}`" for task in test.tasks) or "the target itself"
    return f"- `{test.tip[:12]}` since {_clock(test.since)}: {who}" + (", confirming red" if test.confirming else "")


def _place_line(number: int, place: QueuePlace) -> str:
    expected = f", expected {_clock(place.expected)}" if place.expected is not None else ""
    priority = f", priority {place.priority}" if place.priority else ""
    line = f"{number}. `{place.task_id}` {_plain(place.title[:60])}: **{place.state}** {_plain(place.why[:120])}"
    return f"{line.rstrip()} (since {_clock(place.since)}{priority}{expected})"


def _answer_line(answer: MergeAnswer) -> str:
    if answer.kind == "landed":
        return f"- `{answer.task_id or answer.op}` landed as `{(answer.sha or '')[:12]}`"
    what = f"**{answer.code or answer.kind}** {_plain(answer.reason[:200])}".rstrip()
    return f"- `{answer.task_id or answer.op}` {what}"


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC"


def land_story(status: LandStatus) -> str:
    lines = [
        f"### Land {_plain(status.branch)}",
        "",
        f"**{status.result.outcome if status.result else 'merge queue'}**",
    ]
    if status.result and status.result.sha:
        lines[-1] += f" as `{status.result.sha[:12]}`"
    if status.result and status.result.outcome == "sent-back":
        lines += ["", *_quoted(explain(status.result.code, status.result.reason, status.result.evidence))]
    if status.waiting_for:
        lines += ["", f"Waits for {_plain(status.waiting_for)}"]
    if status.queue:
        lines += ["", f"In `{status.queue}` as `{status.op}`"]
    if status.problems:
        lines += ["", "#### Ignored", *(f"- {_plain(problem)}" for problem in status.problems)]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text of others is shown as text: no markup of its own."""
    return "".join("\\" + char if char in "\\`*_[]<>#|!" else char for char in " ".join(text.splitlines()))


def _code(text: str) -> str:
    """A path or a command, which may hold anything."""
    return "`" + " ".join(text.replace("`", "'").split()) + "`"


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
