"""Which operator's command makes sense now.

The same rule serves signals (a refusal is shown in the status) and updates (a refusal is the answer). A refusal says
what to do instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from activities.settings import Agent, AgentSpec, explain

Verb = Literal[
    "approve_plan", "reject_plan", "send_message", "pause", "resume", "continue_task", "compact", "abandon",
    "raise_budget", "rewind", "revise", "approve_landing", "allow_files", "cancel", "retry_stage", "switch_agent",
    "set_priority", "answer",
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
    landing: str | None = None
    """Sha of the work that waits for approval to land."""
    ending: bool = False
    """An operator has ended it, and what runs is being stopped."""
    no_retry: str = ""
    """Why the stage cannot begin anew now; empty: it can."""
    listed: bool = True
    """There is a plan with a list of files, which is kept to."""
    prepared: bool = True
    question: bool = False
    """The agent has asked something, and nobody has answered."""


PRIORITIES = range(-1000, 1001)
MAX_PATTERNS = 50


def refusal(now: Situation, verb: Verb, text: str) -> str | None:
    """None: the command is taken. Else one line that says why not."""
    if now.ended:
        return "the task has ended"
    if now.ending and verb not in ("abandon", "cancel"):
        return "the task is being ended by an operator"
    if len(text) > MAX_TEXT:
        return f"the text has {len(text)} characters, at most {MAX_TEXT} are taken: put it into a file and name that"
    match verb:
        case "approve_plan" | "reject_plan" if now.plan is None:
            return "no plan waits for approval" + ("; the landing does: `approve_landing`" if now.landing else "")
        case "approve_plan" if text and now.plan is not None and not (len(text) >= 7 and now.plan.startswith(text)):
            return f"the plan has changed: it is {now.plan[:12]} now; read it with the query `plan`"
        case "approve_landing" if now.landing is None:
            return "no landing waits for approval" + ("; a plan does: `approve_plan`" if now.plan else "")
        case "approve_landing" if text and not (len(text) >= 7 and (now.landing or "").startswith(text)):
            return f"the work has changed: it is {(now.landing or '')[:12]} now; look at it, then approve that"
        case "revise" if now.plan is None and now.landing is None:
            return "nothing waits for approval; `send_message` reaches the agent at its next turn"
        case "revise" if not text.strip():
            return "revise needs a text: --input '\"what to change\"'"
        case "allow_files" if not text.strip():
            return "allow_files needs paths or patterns as in .gitignore: --input '\"src/b.py docs/\"'"
        case "allow_files" if not now.listed:
            return "no list of files is kept to: it may change what the target's policy allows"
        case "allow_files" if len(text.split()) > MAX_PATTERNS:
            return f"allow_files takes at most {MAX_PATTERNS} patterns at once: name a folder, `docs/`"
        case "retry_stage" if now.no_retry:
            return now.no_retry
        case "send_message" if not text.strip():
            return "send_message needs a text: --input '\"what to tell the agent\"'"
        case "answer" if not now.question:
            return "the agent has asked nothing; `send_message` reaches it at its next turn"
        case "answer" if not text.strip():
            return "answer needs a text: --input '\"the answer\"'"
        case "continue_task" if now.question and not now.blocked:
            return "the agent has asked something: `answer` it, and the task goes on"
        case "pause" if now.paused:
            return "the task is paused already; `resume` goes on"
        case "resume" if not now.paused:
            return "the task is not paused" + ("; it is blocked: `continue_task` goes on" if now.blocked else "")
        case "continue_task" if not now.blocked:
            return "the task is not blocked; `send_message` reaches the agent at its next turn"
    return None


def priority_refusal(now: Situation, priority: Any) -> str | None:
    if why := refusal(now, "set_priority", ""):
        return why
    if not isinstance(priority, int) or isinstance(priority, bool) or priority not in PRIORITIES:
        return f"set_priority takes a whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}: --input 10"
    return None


def agent(given: Any) -> AgentSpec:
    """`"codex:gpt-5.5"`, or an object. Raises pydantic.ValidationError."""
    return _AGENT.validate_python(given)


_AGENT: TypeAdapter[AgentSpec] = TypeAdapter(Agent)


def switch_refusal(now: Situation, given: Any) -> str | None:
    """As far as can be told without a look at the host."""
    if why := refusal(now, "switch_agent", ""):
        return why
    if not now.prepared:
        return "the task is not prepared yet: try again when it is"
    if not given or not isinstance(given, str | dict):
        return "switch_agent takes an agent: --input '\"codex:gpt-5.5\"'"
    try:
        agent(given)
    except ValidationError as error:
        return f"switch_agent: {explain(error)}"
    return None


def rewind_refusal(now: Situation, turn: Any, there: list[int]) -> str | None:
    """As `refusal`; `there`: the turns that can be gone back to. An agent that works is not interrupted."""
    if now.ended:
        return "the task has ended"
    if now.ending:
        return "the task is being ended by an operator"
    if not isinstance(turn, int) or isinstance(turn, bool):
        return "rewind takes the number of a turn: --input 3"
    if not (now.paused or now.blocked):
        return "the task is neither paused nor blocked: `pause` it first"
    if turn not in there:
        return f"nothing is kept of turn {turn}; there is of: {', '.join(map(str, there)) or 'none'}"
    return None
