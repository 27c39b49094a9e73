"""What an agent's final text claims: an executor's signal, a reviewer's verdict. Pure.

Rules:
* A signal counts only alone on its line, in capitals as it is spelt. White space around it does not matter, nor
  does emphasis or code markup that opens and closes round the whole of it (`**VERDICT: APPROVED**`).
* Nothing in a code block (fenced, or indented by four blanks or a tab) or in a quotation counts: agents quote their
  instructions and the files they judge. A fence that is never closed goes on to the end, as in Markdown.
* The last of several executor signals counts: an agent may think better of it.
* A question, `NEEDS_INPUT <question>`, is a signal of every agent but a reviewer.
* `CLAIM(id, …)` is a signal of those who may claim tasks of a board, `NOTHING_TO_CLAIM` of those among them who hold
  none. Several claims in one text add up. Whoever says that the work is done claims nothing more.
* `__DONE__` is no signal, but for the planner of a swarm.
* Contradicting verdicts are `needs_changes`: an approval must be beyond doubt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

COMPLETE = "COMPLETE_AND_READY_FOR_MERGE"
NEEDS_FOLLOWUP = "NEEDS_FOLLOWUP"
NEEDS_INPUT = "NEEDS_INPUT"
NOTHING = "NOTHING_TO_CLAIM"
DONE = "__DONE__"
MAX_CLAIMED = 100
"""Ids in one text; so long each may be."""

ExecutorSignal = Literal["complete", "needs_followup", "needs_input", "claim", "nothing"]
Verdict = Literal["approved", "needs_changes"]

_VERDICTS: dict[str, Verdict] = {
    "VERDICT: APPROVED": "approved",
    "VERDICT: NEEDS_CHANGES": "needs_changes",
    "VERDICT: REJECTED": "needs_changes",
}
_FENCE = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})(?P<info>.*)")
_WITH_TEXT: list[tuple[re.Pattern[str], ExecutorSignal]] = [
    (re.compile(rf"{NEEDS_FOLLOWUP}(?:$|[\s:—-]+(?P<text>.*))"), "needs_followup"),
    (re.compile(rf"{NEEDS_INPUT}(?:$|[\s:—-]+(?P<text>.*))"), "needs_input"),
]
_CLAIM = re.compile(r"CLAIM ?\((?P<ids>.*)\)")
_NOTHING = re.compile(rf"{NOTHING}(?:$|[\s:—-]+(?P<text>.*))")


@dataclass(frozen=True)
class Place:
    """What an agent may say besides, as a worker of a swarm."""

    may_claim: bool = False
    holds: bool = False
    """At least one task of the board."""
    plans: bool = False


NOWHERE = Place()


def executor_signal(text: str, place: Place = NOWHERE) -> tuple[ExecutorSignal, str] | None:
    """The signal, and why there is to be a follow-up, or what is asked; None when the text has no signal."""
    found: tuple[ExecutorSignal, str] | None = None
    for line in _spoken(text):
        if line == COMPLETE or (place.plans and line == DONE):
            found = ("complete", "")
        elif place.may_claim and _ids(line) and (found is None or found[0] != "complete"):
            found = ("claim", "")
        elif place.may_claim and not place.holds and (match := _NOTHING.fullmatch(line)):
            found = ("nothing", (match["text"] or "").strip())
        for pattern, signal in _WITH_TEXT:
            if match := pattern.fullmatch(line):
                found = (signal, (match["text"] or "").strip())
    return found


def planner_signal(text: str) -> tuple[ExecutorSignal, str] | None:
    """Only a question: else the text is the plan."""
    found = executor_signal(text)
    return found if found and found[0] == "needs_input" else None


def claimed(text: str) -> list[str]:
    """What an agent whose signal is a claim wants: each id once."""
    found = dict.fromkeys(name for line in _spoken(text) for name in _ids(line))
    return list(found)[:MAX_CLAIMED]


def _ids(line: str) -> list[str]:
    match = _CLAIM.fullmatch(line)
    names = re.split(r"[\s,;]+", match["ids"]) if match else []
    return [bare[:MAX_CLAIMED] for name in names if (bare := name.strip("\"'`"))]


def executor_problem(text: str, place: Place = NOWHERE) -> str | None:
    """What to tell an agent that ended with something that is no signal of its (FEATURES A6); None when all is well."""
    if executor_signal(text, place):
        return None
    lines = set(_spoken(text))
    if DONE in lines:
        return f"{DONE} is not a signal: say {_valid(place)}, alone on a line"
    if place.may_claim and any(_CLAIM.fullmatch(line) for line in lines):
        return "your CLAIM names no task: CLAIM(id, id), alone on a line"
    if place.holds and any(_CLAIM.fullmatch(line) or _NOTHING.fullmatch(line) for line in lines):
        return f"you have your tasks already: do them, and say {COMPLETE} or {NEEDS_FOLLOWUP} <why>, alone on a line"
    return None


def _valid(place: Place) -> str:
    claims = [] if not place.may_claim else ["CLAIM(id, …)"] if place.holds else ["CLAIM(id, …)", NOTHING]
    return " or ".join([", ".join([*claims, COMPLETE]), f"{NEEDS_FOLLOWUP} <why>"])


def verdict(text: str) -> Verdict | None:
    """A reviewer's judgement; None when there is none. The bare word APPROVED is none."""
    given = {_VERDICTS[line] for line in _spoken(text) if line in _VERDICTS}
    if not given:
        return None
    return "approved" if given == {"approved"} else "needs_changes"


def _spoken(text: str) -> Iterator[str]:
    """The lines that the agent says itself, stripped of white space and of markup round the whole line."""
    fence = ""
    for line in text.expandtabs(4).split("\n"):
        if match := _FENCE.fullmatch(line.rstrip()):
            if not fence:
                if match["fence"][0] == "~" or "`" not in match["info"]:
                    fence = match["fence"]
                    continue
            elif match["fence"].startswith(fence) and not match["info"].strip():
                fence = ""
                continue
        if fence or line.startswith("    ") or line.lstrip().startswith(">"):
            continue
        yield _bare(line.strip())


def _bare(line: str) -> str:
    """Without the markup that opens at its first character and closes at its last."""
    while len(line) > 2 and line[0] in "*`" and line[0] == line[-1]:
        line = line[1:-1]
    return line
