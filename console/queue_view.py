"""The merge queue as text: a header, who is in it, which chains are tested, how the last ones ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from workflows.contracts import MergeAnswer, QueuePlace, QueueStatus, QueueTest

LAST = 10


def queue_view(status: QueueStatus, now: float) -> RenderableType:
    """`now`: seconds since the epoch."""
    parts: list[RenderableType] = [Text(line) for line in _header(status)]
    places = [_place(number, place, now) for number, place in enumerate(status.places, 1)]
    parts += _table(("", "task", "title", "state", "priority", "waits", "expected", "why"), places)
    if not places:
        parts += [Text(""), Text("nobody waits")]
    parts += _table(("testing", "tip", "for", ""), [_test(test, now) for test in status.tests])
    parts += _table(("last", "", "reason"), [_answer(answer) for answer in reversed(status.last[-LAST:])])
    return Group(*parts)


def _header(status: QueueStatus) -> Iterator[str]:
    at = f" at {status.base[:12]}" if status.base else ""
    mode = f"{status.mode}: {status.mode_reason}" if status.mode_reason else status.mode
    yield f"{status.target.removeprefix('refs/heads/')}{at} in {status.repo}, {mode}"
    yield (
        f"{status.slots} slots, p̂ {status.p:.1%}, gates take {span(status.gate_seconds)}, "
        f"{status.landed} landed, {status.ejected} sent back"
    )
    if status.flaky:
        yield "flaky: " + ", ".join(f"{gate} ({count})" for gate, count in status.flaky.items())
    if status.trouble:
        yield f"in trouble, tried again: {status.trouble}"
    if status.behind:
        yield f"behind: {status.behind}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[RenderableType]:
    """With an empty line before it; nothing at all without rows."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column not in ("why", "reason", "title"))
    for row in rows:
        table.add_row(*(Text(" ".join(cell.split())) for cell in row))
    return [Text(""), table] if rows else []


def _place(number: int, place: QueuePlace, now: float) -> tuple[str, ...]:
    expected = "" if place.expected is None else f"in {span(max(place.expected - now, 0.0))}"
    waits = span(now - place.since)
    return str(number), place.task_id, place.title, place.state, str(place.priority), waits, expected, place.why


def _test(test: QueueTest, now: float) -> tuple[str, ...]:
    who = ", ".join(test.tasks) or "the target itself"
    return who, test.tip[:12], span(now - test.since), "confirming" if test.confirming else ""


def _answer(answer: MergeAnswer) -> tuple[str, ...]:
    landed = answer.kind == "landed"
    what = f"LANDED {(answer.sha or '')[:12]}" if landed else str(answer.code or answer.kind.upper())
    return answer.task_id or answer.op, what, answer.reason


def span(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3_600:.1f} h"
