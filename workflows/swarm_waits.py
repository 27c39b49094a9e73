"""What an operator should do about a swarm, and the command that does it. Pure."""

from __future__ import annotations

from collections.abc import Collection

from workflows.policy.board import Board
from workflows.swarm_contracts import Member, SwarmState

_SOME = 5
_WHY = 60
"""Characters of a reason, of which there are several in one line."""


def what_to_do(name: str, state: SwarmState, members: Collection[Member], board: Board, plans: bool) -> tuple[str, str]:
    """`waiting_for` and `next_command`, empty where nothing is to be done; the most urgent only. `name`: of the swarm;
    `plans`: somebody will make tasks."""
    planning = {one.cycle: one.why for one in members if one.waits()}
    if parked := sorted({*state.waiting(), *planning}):
        why = {item.holder: item.why for item in board.items.values() if item.holder} | planning
        told = [f"{cycle} ({_cut(why[cycle])})" if why.get(cycle) else cycle for cycle in parked]
        return f"you: {len(parked)} blocked, {_some(told)}", f"starter.py status {parked[0]}"
    if state.paused:
        return "you: it is paused", f"starter.py resume {name}"
    if state.stopping:
        return "", ""
    settings = state.opened.settings
    if not any(worker.count for worker in settings.workers):
        kind = settings.workers[0].name if settings.workers else "worker-1"
        return "you: it has no workers", f"starter.py workers {name} --count {kind}=1"
    if failed := [one.name for one in members if one.state == "stopped" and one.errors >= settings.max_errors]:
        return f"you: errors have stopped {_some(failed)}; mend that, then", f"starter.py resume {name}"
    if left := [task for task, item in board.items.items() if item.place == "blocked" and not item.holder]:
        return f"you: {len(left)} given up, {_some(left)}", f"starter.py requeue {name}"
    if not board.items and state.took_in_at and not plans:
        return "tasks: there are none", f'starter.py add {name} --title "…"'
    return "", ""


def _cut(why: str) -> str:
    why = " ".join(why.split())
    return why if len(why) <= _WHY else f"{why[: _WHY - 1]}…"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SOME} more" if len(names) > _SOME else ""
    return ", ".join(names[:_SOME]) + more
