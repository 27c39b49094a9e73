"""Swarms as text: all of them in a table, one with its members, its board, and the last table (FEATURES D8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from activities.plain import plain
from console.queue_view import span
from console.swarm_look import SeenSwarm
from workflows.contracts import Seconds
from workflows.swarm_contracts import BoardLine, Member, Place, SwarmResult, SwarmStatus
from workflows.swarm_story import waits_for

PLACES: tuple[Place, ...] = ("pending", "current", "blocked", "complete")
COLOURS = {
    "working": "green",
    "running": "green",
    "complete": "green",
    "backing off": "yellow",
    "limited": "yellow",
    "paused": "yellow",
    "stopping": "yellow",
    "blocked": "red",
    "waiting for you": "red",
    "terminated": "red",
    "timed out": "red",
    "failed": "red",
}
RIGHT = {"runs", "cycles", "merges", "claims", "errors", "re-\njects", "re-\ncycled", "review\nrounds", "time", "cost",
         "for", "tries", "priority"}  # fmt: skip
MOST_FIRST = 36
"""Of a first column's characters that are never folded."""
NAMES = 5
"""Of tasks in a sentence."""


def line(text: str) -> str:
    """What others wrote, as text in one line."""
    return " ".join(plain(text).split())


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], folds: Sequence[str] = ()) -> Table:
    """Of columns that are as wide as what is in them; those that may be long are folded where it is narrow, not cut."""
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    rows = list(rows)
    for number, column in enumerate(columns):
        right = "right" if column in RIGHT else "left"
        # The first is what commands take: it is folded last.
        least = min(max((len(line(row[0])) for row in rows), default=0), MOST_FIRST) if number == 0 else None
        made.add_column(column, justify=right, no_wrap=column not in folds, overflow="fold", min_width=least)  # type: ignore[arg-type]
    for row in rows:
        made.add_row(*(Text(line(cell), COLOURS.get(cell, "")) for cell in row))
    return made


# --- all of them -----------------------------------------------------------------------------------


def swarms_view(swarms: Sequence[SeenSwarm], now: float) -> RenderableType:
    """`now`: seconds since the epoch."""
    columns = ("swarm", "stage", "for", "complete", "blocked", "at work", "cost", "repository")
    shown: list[RenderableType] = [
        table(columns, [_swarm(swarm, now) for swarm in swarms], folds=("swarm", "repository"))
    ]
    lines = [told for swarm in swarms for told in told_of(swarm)]
    return Group(*shown, *([Text("")] if lines else []), *map(Text, lines))


def _swarm(swarm: SeenSwarm, now: float) -> tuple[str, ...]:
    counts, members = swarm.counts, swarm.members
    at_work = sum(member.state == "working" for member in members)
    return (
        swarm.swarm_id,
        swarm.stage,
        span(max((swarm.ended or now) - swarm.started, 0.0)),
        f"{counts.get('complete', 0)} of {sum(counts.values())}" if counts else "",
        str(counts.get("blocked", 0)) if counts else "",
        f"{at_work} of {len(members)}" if swarm.running and members else "",
        "" if swarm.cost_usd is None else f"${swarm.cost_usd:.2f}",
        swarm.repo,
    )


def told_of(swarm: SeenSwarm) -> Iterator[str]:
    """What a person should do about it; nothing, where nothing is to be done."""
    name = swarm.swarm_id
    if swarm.running and swarm.status is None:
        yield f"{name} does not answer: does a worker run? starter.py doctor"
    elif swarm.running and swarm.status is not None:
        yield from _waits(swarm.status)
    elif swarm.dead:
        yield f"{name} has {_ENDED.get(swarm.state, swarm.state)}{_anew(swarm)}"
    if not swarm.running and swarm.cycles:
        blocked = sum(cycle.needs_a_person for cycle in swarm.cycles)
        wait = f", {blocked} of them wait for you" if blocked else ""
        yield f"{name}: {_tasks([cycle.task_id for cycle in swarm.cycles])} still {_run(swarm.cycles)}{wait}"
        yield f"    save their work and free what they hold: starter.py requeue {name}"


def _anew(swarm: SeenSwarm) -> str:
    """One that failed was refused, and has begun nothing that another could go on with."""
    if swarm.state == "failed":
        return f": {line(swarm.why)}; mend that, and start it again"
    return f"; go on: starter.py swarm --continue {swarm.swarm_id}"


_ENDED = {"terminated": "been terminated", "timed out": "timed out", "failed": "failed", "canceled": "been cancelled"}


def _tasks(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return ", ".join(map(line, names[:NAMES])) + more


def _run(tasks: Sequence[object]) -> str:
    return "runs" if len(tasks) == 1 else "run"


def _waits(status: SwarmStatus) -> Iterator[str]:
    if status.stage == "waiting for you" or status.next_command:
        yield f"{status.swarm_id} waits for {line(status.waiting_for) or 'you'}"
        if status.next_command:
            yield f"    {line(status.next_command)}"


# --- one -------------------------------------------------------------------------------------------


def status_view(status: SwarmStatus, now: float) -> RenderableType:
    """Who does what, the board in figures, what waits for a person. `now`: seconds since the epoch."""
    columns = ("worker", "agent", "state", "for", "cycles", "merges", "cost", "task, or why")
    members = sorted(status.members, key=lambda member: member.state == "stopped")
    parts: list[RenderableType] = [*map(Text, [*_header(status, now), *_waits(status)]), Text("")]
    parts.append(table(columns, [_member(member, now) for member in members], folds=("agent", columns[-1])))
    if not members:
        parts[-1] = Text("no workers yet")
    told = [f"note: {line(note)}" for note in status.notes]
    told += [f"problem: {line(problem)}" for problem in status.problems[-5:]]
    return Group(*parts, *([Text("")] if told else []), *map(Text, told))


def _header(status: SwarmStatus, now: float) -> Iterator[str]:
    target = f" of {status.target.removeprefix('refs/heads/')}" if status.target else ""
    yield f"{status.swarm_id}{target} in {line(status.repo)}: {status.stage}{_because(status.reason)}"
    since = f", {span(max((status.ended or now) - status.started, 0.0))}" if status.started else ""
    yield f"{counts_line(status.counts)}; ${status.cost_usd:.2f}{since}"


def counts_line(counts: Mapping[Place, int]) -> str:
    return ", ".join(f"{counts.get(place, 0)} {place}" for place in PLACES)


def _because(reason: str) -> str:
    return f", {line(reason)}" if reason else ""


def _member(member: Member, now: float) -> tuple[str, ...]:
    since = member.since or member.idle_since
    due = f"{span(member.until - now)} more" if member.until is not None and member.until > now else ""
    return (
        member.name,
        member.agent,
        member.state,
        due or (span(max(now - since, 0.0)) if since else ""),
        str(member.tally.cycles),
        str(member.tally.merges),
        f"${member.tally.cost_usd:.2f}",
        doing(member),
    )


def doing(member: Member) -> str:
    """What it has in hand, by which task of Temporal; else why it does nothing."""
    what = "makes tasks" if member.plans else ", ".join(member.holds)
    at = f"{what} ({member.cycle})" if member.cycle and what else member.cycle or what
    return ": ".join(filter(None, [at, line(member.why)]))


class SwarmChanges:
    """Lines for what has changed since the last look, for who does not look at a terminal."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}

    def lines(self, status: SwarmStatus) -> Iterator[str]:
        now = {"": f"{status.stage}{_because(status.reason)}: {counts_line(status.counts)}"}
        now |= {
            member.name: ": ".join(filter(None, [f"{member.name} {member.state}", doing(member)]))
            for member in status.members
        }
        now |= {"waits": "; ".join(told.strip() for told in _waits(status))}
        for name, text in now.items():
            if text and self.told.get(name) != text:
                yield line(text)
        self.told = now


# --- its board -------------------------------------------------------------------------------------


def board_view(lines: Sequence[BoardLine], now: float) -> RenderableType:
    columns = ("task", "place", "priority", "for", "tries", "worker", "title, and what keeps it")
    return table(columns, [_task(task, now) for task in lines], folds=("task", columns[-1]))


def _task(task: BoardLine, now: float) -> tuple[str, ...]:
    since = span(max(now - task.since, 0.0)) if task.since else ""
    return (
        task.id,
        task.place,
        str(task.priority),
        since,
        str(task.tries or ""),
        task.worker,
        "; ".join(filter(None, [line(task.title), kept(task)])),
    )


def kept(task: BoardLine) -> str:
    """Why it is not complete, or the commit that completed it."""
    if task.place == "complete":
        return f"landed as {task.sha[:12]}" if task.sha else ""
    return "; ".join(filter(None, [line(task.why), waits_for(task)]))


# --- the end ---------------------------------------------------------------------------------------


def result_view(swarm_id: str, result: SwarmResult) -> RenderableType:
    """The last table per worker, how each ended, where the time went, and what is open."""
    columns = ("worker", "runs", "cycles", "merges", "claims", "re-\njects", "errors", "re-\ncycled", "review\nrounds",
               "time", "cost")  # fmt: skip
    lines = [
        f"{swarm_id} has ended{_because(result.reason)}",
        f"{counts_line(result.counts)}; ${result.cost_usd:.2f}, {result.tokens:,} tokens, {span(result.wall_seconds)}",
        "",
    ]
    parts: list[RenderableType] = [*map(Text, lines)]
    if result.members:
        parts += [table(columns, map(_last, result.members), folds=("worker",)), Text("")]
    parts += [Text(told) for told in _endings(result.members)]
    if where := where_time_went(result.seconds):
        parts.append(Text(f"the time of all tasks, {span(result.seconds.total)}: {where}"))
    if result.open:
        parts += [Text(""), table(("open", "", "why"), [_open(task) for task in result.open], folds=("open", "why"))]
    left = sum(result.counts.get(place, 0) for place in PLACES if place != "complete") - len(result.open)
    parts += [Text(f"and {left} more: starter.py tasks {swarm_id}")] if left > 0 else []
    parts += [Text(f"\ngo on with them: starter.py swarm --continue {swarm_id}")] if not is_done(result) else []
    return Group(*parts)


def _last(member: Member) -> tuple[str, ...]:
    tally = member.tally
    figures = (tally.runs, tally.cycles, tally.merges, tally.claims, tally.rejects, tally.errors, tally.recycled,
               tally.review_rounds)  # fmt: skip
    return member.name, *map(str, figures), span(tally.seconds.total), f"${tally.cost_usd:.2f}"


def _endings(members: Sequence[Member]) -> Iterator[str]:
    """Those of one agent that ended alike in one line."""
    alike: dict[tuple[str, str], list[str]] = {}
    for member in members:
        stopped = member.state == "stopped"
        how = f"stopped{_because(member.why)}" if stopped else "there until the end"
        alike.setdefault((member.agent, how), []).append(member.name)
    for (agent, how), names in alike.items():
        yield f"{', '.join(names)} ({line(agent)}): {how}"


def where_time_went(seconds: Seconds) -> str:
    """`agent 62 %, gates 20 %, …`, the most first."""
    parts = {name: value for name, value in seconds.model_dump().items() if name != "total"}
    whole = sum(parts.values())
    shares = sorted(((value / whole, name) for name, value in parts.items()), reverse=True) if whole > 0 else []
    return ", ".join(f"{name} {share:.0%}" for share, name in shares if share >= 0.005)


def _open(task: BoardLine) -> tuple[str, str, str]:
    return task.id, task.place, kept(task) or line(task.title)


def is_done(result: SwarmResult) -> bool:
    return not any(result.counts.get(place, 0) for place in PLACES if place != "complete")
