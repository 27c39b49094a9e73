"""A swarm's own story in Markdown, for the web UI's current details. Pure: status in, text out."""

from __future__ import annotations

from collections.abc import Sequence

from workflows.policy.board import Place
from workflows.story import _code, _plain, _quoted
from workflows.swarm_contracts import BoardLine, Member, SwarmStatus

LONGEST = 10_000
"""Bytes of the whole: nobody reads more, and the web UI asks for it again and again."""
_SOME = 120
"""Characters of a text of others."""
_PLACES: tuple[Place, ...] = ("pending", "current", "blocked", "complete")
_TOLD: tuple[Place, ...] = ("blocked", "current", "pending")


def swarm_story(status: SwarmStatus, lines: Sequence[BoardLine] = ()) -> str:
    """`lines`: of the board, of which those that are not complete are told."""
    parts = [*_head(status), *_waits(status), *_commands(status)]
    ends = _problems(status)
    left = LONGEST - _size(parts) - _size(ends)
    members = _fitting(_member_list(status.members), 2 * left // 3, "worker")
    left -= _size(members)
    for place in _TOLD:
        rows = [_line(task) for task in lines if task.place == place]
        shown = _fitting(["", f"#### {place.capitalize()}", "", *rows], left, "task") if rows else []
        left -= _size(shown)
        members += shown
    return "\n".join([*parts, *members, *ends])


def _size(lines: Sequence[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def _fitting(lines: list[str], budget: int, what: str) -> list[str]:
    """As many of the rows, which follow three lines, as there is room for; the rest is counted. Nothing, where there
    is not even room for one."""
    head, rows = lines[:3], lines[3:]
    used = _size(head) + _size([f"\n\nAnd {len(rows)} more {what}s."])
    kept = 0
    for row in rows:
        used += _size([row])
        if used > budget:
            break
        kept += 1
    more = len(rows) - kept
    told = ["", f"And {more} more {what}{'s' if more > 1 else ''}."] if more else []
    return [*head, *rows[:kept], *told] if kept else []


def _head(status: SwarmStatus) -> list[str]:
    target = f" to {_short(status.target.removeprefix('refs/heads/'))}" if status.target else ""
    why = f": {_short(status.reason)}" if status.reason else ""
    counts = " · ".join(f"{status.counts.get(place, 0)} {place}" for place in _PLACES)
    return [
        f"### Swarm of {_short(status.repo.rpartition('/')[2])}{target}",
        "",
        f"**{status.stage}**{why}",
        "",
        f"{counts} · ${status.cost_usd:.2f}",
    ]


def _waits(status: SwarmStatus) -> list[str]:
    lines = ["", f"Waits for {_short(status.waiting_for)}"] if status.waiting_for else []
    return [*lines, "", *_quoted(status.next_command[:1_000])] if status.next_command else lines


def _commands(status: SwarmStatus) -> list[str]:
    if status.stage == "ended":
        if not any(status.counts.get(place) for place in _TOLD):
            return []
        commands = [f"python starter.py {verb} {status.swarm_id}" for verb in ("tasks", "swarm --continue")]
        return ["", f"What it left open: {_code(commands[0])}, and to go on with it: {_code(commands[1])}"]
    verb = "resume" if status.stage == "paused" else "pause"
    commands = [f"python starter.py {name} {status.swarm_id}" for name in ("view", "tasks", verb, "stop")]
    return ["", " · ".join(map(_code, commands))]


def _member_list(members: Sequence[Member]) -> list[str]:
    """No table: the web UI sets its columns without a blank between them."""
    rows = [_member(member) for member in sorted(members, key=lambda one: one.state == "stopped")]
    return ["", "#### Workers", "", *rows] if rows else []


def _member(member: Member) -> str:
    what = "makes tasks" if member.plans else ", ".join(member.holds)
    doing = ": ".join(filter(None, [member.state, what or member.cycle, member.why]))
    tally = member.tally
    done = f"{tally.merges} of {tally.cycles} cycles landed, {tally.errors} errors, ${tally.cost_usd:.2f}"
    return f"- {_short(member.name)}, {_short(member.agent)}: {_short(doing)} · {done}"


def _line(task: BoardLine) -> str:
    # What waits for a person is moved on by its id.
    at = (task.place == "blocked" and task.holder) or task.worker
    who = f", {_short(at)}" if at and task.place != "pending" else ""
    why = _short("; ".join(filter(None, [task.why, waits_for(task)])))
    return f"- {_short(task.id)}{who}: {_short(task.title)}" + (f" ({why})" if why else "")


def waits_for(task: BoardLine) -> str:
    """Unless that is why it stands still, and is said already."""
    told = task.place != "pending" or task.why.startswith("waits for")
    return f"waits for {', '.join(task.after)}" if task.after and not told else ""


def _problems(status: SwarmStatus) -> list[str]:
    notes = [f"- {_short(note)}" for note in status.notes[:5]]
    problems = [f"- {_short(problem)}" for problem in status.problems[-5:]]
    return [
        *(["", "#### Notes", "", *notes] if notes else []),
        *(["", "#### Ignored", "", *problems] if problems else []),
    ]


def _short(text: str) -> str:
    return _plain(text if len(text) <= _SOME else f"{text[: _SOME - 1]}…")
