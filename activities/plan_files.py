"""What a plan says that it changes: its section "Files", read leniently, for it is written in many ways."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pathspec import GitIgnoreSpec

from activities.contracts import Finding
from activities.policy import Rules, matches

MOST = 500
"""Patterns; a plan that names more is not kept to."""

_HEADING = re.compile(r"^\s*(?:#{1,6}\s+\S|\*\*[^*]+\*\*\W*$|[A-Z][\w ]{0,40}:\s*$)")
_FILES = re.compile(
    r"^[\s#*_\d.)]*files\b(?: (?:to (?:be )?)?(?:change|changed|touch|touched|modify|edit|create)d?)?[\s*_:]*$", re.I
)
_ITEM = re.compile(r"^\s*(?:[-*+•]|\d+[.)])\s+")
_CODE = re.compile(r"`([^`]+)`")
_WORDS = frozenset({"none", "n/a", "-"})


def planned(plan: str) -> list[str]:
    """Patterns as in .gitignore; none: the plan has no such section, or names nothing in it."""
    found = list(dict.fromkeys(_patterns(_section(plan.splitlines()))))
    return found if len(found) <= MOST else []


def unplanned(patterns: Sequence[str], files: Iterable[str]) -> list[str]:
    """Of `files` those that no pattern names. Without patterns everything is planned."""
    return [file for file in files if not matches(patterns, file)] if patterns else []


def findings(rules: Rules, files: Iterable[str]) -> list[Finding]:
    """For the agent to mend, unless the target's policy says otherwise of the rule `plan`."""
    return [
        rules.finding("plan", "is not among the files of the plan", file) for file in files if rules.looks("plan", file)
    ]


def _section(lines: Sequence[str]) -> Iterator[str]:
    """Below the heading, to the next one."""
    inside = False
    for line in lines:
        if _FILES.match(line):
            inside = True
        elif inside and _HEADING.match(line):
            return
        elif inside:
            yield line


def _patterns(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        text = _ITEM.sub("", line).strip()
        code = _CODE.search(text)
        if not code and (len(text.split()) > 1 and not _ITEM.match(line)):
            continue  # a sentence
        name = code[1] if code else re.split(r"[\s:(,;]", text, maxsplit=1)[0].strip("*_'\"")
        name = name.strip().removeprefix("./")
        if not name or name.lower().rstrip(".") in _WORDS or name.startswith(("/", "!", "#", "..", "```")):
            continue
        try:
            GitIgnoreSpec.from_lines([name])
        except ValueError:
            continue
        yield name
