"""What a plan says that it changes: its section "Files", read leniently, for it is written in many ways."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from pathspec import GitIgnoreSpec

from activities.contracts import Finding
from activities.policy import Rules, matches

MOST = 200
"""Patterns; a plan that names more is not kept to."""
LONGEST = 200
"""Characters of one."""

_HEADING = re.compile(r"^\s*(?:#{1,6}\s+\S|\*\*[^*]+\*\*\W*$)")
_TITLE = re.compile(r"^[A-Z][\w ]{0,40}:\s*$")
"""A heading where the section's own is of this form."""
_FILES = re.compile(
    r"^[\s#*_\d.)]*files\b(?: (?:to (?:be )?)?(?:change|changed|touch|touched|modify|edit|create)d?)?[\s*_:]*$", re.I
)
_ITEM = re.compile(r"^\s*(?:[-*+•]|\d+[.)])\s+")
_BOLD = re.compile(r"^\*\*(.+?)\*\*")
_CODE = re.compile(r"`([^`]+)`")
_SEVERAL = re.compile(r"(?:`[^`]+`(?:\s*,\s*|\s+and\s+)?)+")
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
    inside: re.Pattern[str] | None = None
    for line in lines:
        if _FILES.match(line):
            inside = _HEADING if _HEADING.match(line) else _TITLE
        elif inside and (inside.match(line) or _HEADING.match(line)):
            return
        elif inside:
            yield line


def _patterns(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        text = _BOLD.sub(r"\1", _ITEM.sub("", line).strip())
        if begun := _SEVERAL.match(text):
            names = _CODE.findall(begun[0])
        elif _ITEM.match(line) or (len(text.split()) == 1 and not text.endswith(":")):
            names = re.split(r"[\s:(,;]", text, maxsplit=1)[:1]
        else:
            continue  # a sentence
        yield from filter(_is_pattern, (name.strip("'\" ").removeprefix("./") for name in names))


def _is_pattern(name: str) -> bool:
    if (
        not name
        or len(name) > LONGEST
        or name.lower().rstrip(".") in _WORDS
        or name.startswith(("/", "!", "#", "..", "`"))
    ):
        return False
    try:
        GitIgnoreSpec.from_lines([name])
    except ValueError:
        return False
    return True
