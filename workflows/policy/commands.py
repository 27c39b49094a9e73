"""Which operator's command makes sense now.

The same rule serves signals (a refusal is shown in the status) and updates (a refusal is the answer). A refusal says
what to do instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Verb = Literal[
    "approve_plan", "reject_plan", "send_message", "pause", "resume", "continue_task", "compact", "abandon",
    "raise_budget", "rewind",
]  # fmt: skip

MAX_TEXT = 16_000
"""Characters of a message or feedback: what is longer belongs into a file of the repository."""


@dataclass(frozen=True)
class Situation:
    ended: bool
    blocked: bool
    paused: bool
    plan: str | None
    """Hash of the plan that waits for approval."""


def refusal(now: Situation, verb: Verb, text: str) -> str | None:
    """None: the command is taken. Else one line that says why not."""
    if now.ended:
        return "the task has ended"
    if len(text) > MAX_TEXT:
        return f"the text has {len(text)} characters, at most {MAX_TEXT} are taken: put it into a file and name that"
    match verb:
        case "approve_plan" | "reject_plan" if now.plan is None:
            return "no plan waits for approval"
        case "approve_plan" if text and now.plan is not None and not (len(text) >= 7 and now.plan.startswith(text)):
            return f"the plan has changed: it is {now.plan[:12]} now; read it with the query `plan`"
        case "send_message" if not text.strip():
            return "send_message needs a text: --input '\"what to tell the agent\"'"
        case "pause" if now.paused:
            return "the task is paused already; `resume` goes on"
        case "resume" if not now.paused:
            return "the task is not paused" + ("; it is blocked: `continue_task` goes on" if now.blocked else "")
        case "continue_task" if not now.blocked:
            return "the task is not blocked; `send_message` reaches the agent at its next turn"
    return None


def rewind_refusal(now: Situation, turn: Any, there: list[int]) -> str | None:
    """As `refusal`; `there`: the turns that can be gone back to. An agent that works is not interrupted."""
    if now.ended:
        return "the task has ended"
    if not isinstance(turn, int) or isinstance(turn, bool):
        return "rewind takes the number of a turn: --input 3"
    if not (now.paused or now.blocked):
        return "the task is neither paused nor blocked: `pause` it first"
    if turn not in there:
        return f"nothing is kept of turn {turn}; there is of: {', '.join(map(str, there)) or 'none'}"
    return None
