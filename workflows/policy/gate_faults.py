"""What is made of red gates: what the next prompt says of them, and when a person is needed.

* A failure that nothing in the worktree can mend (no space, no memory, a missing program) goes to a person at once.
* A known class of failure gives the agent a hint. The same class twice in a row says so, and escalates: see `task.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from activities.contracts import GateResult
from workflows.contracts import GateLine


def lines(results: Sequence[GateResult]) -> list[GateLine]:
    """What the status shows of a run."""
    return [
        GateLine(name=gate.name, passed=gate.passed, fault=gate.fault, seconds=round(gate.seconds, 3))
        for gate in results
    ]


def broken(red: Sequence[GateResult]) -> str | None:
    """Why a person is needed; None: an agent may mend it."""
    hard = [gate for gate in red if gate.hard]
    return "; ".join(f"{gate.name}: {gate.fault}: {gate.hint}" for gate in hard) or None


def fault(red: Sequence[GateResult]) -> str:
    """The class of the failure, with the gate; empty where it is unknown."""
    return next((f"{gate.name}: {gate.fault}" for gate in red if gate.fault), "")


def told(red: Sequence[GateResult], repeated: bool) -> str:
    """For the agent: which gates, and what such a failure usually needs."""
    lines = [", ".join(gate.name for gate in red)]
    lines += [f"({gate.fault}) {gate.hint}" for gate in red if gate.hint]
    if repeated:
        lines.append("It is the same kind of failure as the last time: what was done did not help. Find the cause.")
    return "\n".join(lines)
