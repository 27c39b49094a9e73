"""What an agent's final text claims: an executor's signal, a reviewer's verdict. Pure.

Rules:
* A signal counts only alone on its line, in capitals as it is spelt. White space around it does not matter, nor
  does emphasis or code markup that opens and closes round the whole of it (`**VERDICT: APPROVED**`).
* Nothing in a code block (fenced, or indented by four blanks or a tab) or in a quotation counts: agents quote their
  instructions and the files they judge. A fence that is never closed goes on to the end, as in Markdown.
* The last of several executor signals counts: an agent may think better of it.
* A question, `NEEDS_INPUT <question>`, is a signal of every agent but a reviewer.
* Contradicting verdicts are `needs_changes`: an approval must be beyond doubt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

COMPLETE = "COMPLETE_AND_READY_FOR_MERGE"
NEEDS_FOLLOWUP = "NEEDS_FOLLOWUP"
NEEDS_INPUT = "NEEDS_INPUT"

ExecutorSignal = Literal["complete", "needs_followup", "needs_input"]
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


def executor_signal(text: str) -> tuple[ExecutorSignal, str] | None:
    """The signal, and why there is to be a follow-up, or what is asked; None when the text has no signal."""
    found: tuple[ExecutorSignal, str] | None = None
    for line in _spoken(text):
        if line == COMPLETE:
            found = ("complete", "")
        for pattern, signal in _WITH_TEXT:
            if match := pattern.fullmatch(line):
                found = (signal, (match["text"] or "").strip())
    return found


def planner_signal(text: str) -> tuple[ExecutorSignal, str] | None:
    """Only a question: else the text is the plan."""
    found = executor_signal(text)
    return found if found and found[0] == "needs_input" else None


def executor_problem(text: str) -> str | None:
    """What to tell an agent that ended with `__DONE__` instead of a signal (FEATURES A6); None when all is well."""
    if executor_signal(text) or "__DONE__" not in _spoken(text):
        return None
    return f"__DONE__ is not a signal: say {COMPLETE} or {NEEDS_FOLLOWUP} <why>, alone on a line"


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
