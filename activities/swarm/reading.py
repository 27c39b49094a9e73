"""Tasks that others wrote, as cards of the board: task files, lists of tasks, a forge's issues, all in JSON.

Whatever is not taken is named with the reason; nothing is cut, so no agent works by half of a description.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from activities.agents.base import one_line
from activities.settings import explain
from activities.swarm.contracts import Card, Refused, Source
from activities.swarm.json_files import NotJson, parsed

MAX_ENTRIES = 5_000
"""Of one list."""
DESCRIPTION = 32_000
TITLE = 100
"""Of a task that has none: its description's first line, up to here."""

_KEYS = frozenset(
    "id title summary description acceptance labels tags files target_files targets after depends_on dependencies"
    " blocked_by priority difficulty".split()
)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_WORDS = {"critical": 100, "urgent": 100, "highest": 100, "high": 90, "medium": 0, "normal": 0}
_WORDS |= {"low": -90, "lowest": -100}
"""Medium is what nobody has judged."""
_LABEL = re.compile(rf"(?:prio(?:rity)?[\s:/_-]*)(p?\d|{'|'.join(_WORDS)})|(p\d)", re.IGNORECASE)
_AFTER = re.compile(
    r"\b(?:depends\s+(?:up)?on|blocked\s+by|requires)\b[\s:*_]*((?:#\d+(?:\s*,?\s*(?:and|&)?\s*)?)+)", re.IGNORECASE
)


class _Unfit(ValueError):
    """One line: the field, and what it must be."""


def cards_of(data: bytes, name: str, source: Source = "file") -> tuple[list[Card], list[Refused]]:
    """The cards of one file, in its order; `source` is that of all but issues.

    A file is one task, a list of tasks, or a list of issues as `gh issue list --json`, GitHub's, Gitea's and Forgejo's
    API give it; there, closed ones and pull requests are left out, and what is waited for counts only if it is in the
    list, which is of the open ones. Never raises.
    """
    if name.lower().endswith(".edn"):
        return [], [_refused(name, "EDN is not read: write the task as JSON, with the same keys")]
    try:
        found = parsed(data)
    except NotJson as problem:
        return [], [_refused(name, str(problem))]
    if isinstance(found, dict):
        return _cards([found], name, source, alone=True)
    if isinstance(found, list):
        if len(found) > MAX_ENTRIES:
            return [], [_refused(name, f"is a list of more than {MAX_ENTRIES:,}: divide it")]
        return _cards(found, name, source, alone=False)
    return [], [_refused(name, "must be a task, or a list of tasks or issues: a JSON object or array")]


def _cards(entries: list[Any], name: str, source: Source, *, alone: bool) -> tuple[list[Card], list[Refused]]:
    cards, refused = dict[str, Card](), list[Refused]()
    issues = {entry["number"] for entry in entries if _is_issue(entry) and _open(entry)}
    for place, entry in enumerate(entries):
        where = name if alone else _place(entry, name, place)
        if _is_issue(entry) and not _open(entry):
            continue
        try:
            if not isinstance(entry, dict):
                raise _Unfit("must be a JSON object")
            card = _issue(entry, issues) if _is_issue(entry) else _task(entry, name, source, alone=alone)
            if card.id in cards:
                raise _Unfit(f"id: {card.id} is in the list twice: give the second another")
            cards[card.id] = card
        except _Unfit as problem:
            refused.append(_refused(where, str(problem)))
        except ValidationError as error:
            refused.append(_refused(where, explain(error)))
    return list(cards.values()), refused


def _place(entry: Any, name: str, place: int) -> str:
    if _is_issue(entry):
        return f"{name}: issue-{entry['number']}"
    known = entry.get("id") if isinstance(entry, dict) else None
    return f"{name}: {known}" if isinstance(known, str) and known else f"{name}[{place}]"


def _refused(name: str, why: str) -> Refused:
    return Refused(id=one_line(name.encode("utf-8", "replace").decode(), 200), why=one_line(why))


# --- tasks ------------------------------------------------------------------------------------------


def _task(entry: Mapping[str, Any], name: str, source: Source, *, alone: bool) -> Card:
    if _KEYS.isdisjoint(entry):  # what a tool has written, most likely, and no task
        raise _Unfit("title: required, but not given")
    described = _text(entry, "description")
    card_id = _word(entry.get("id"), "id") if entry.get("id") is not None else _named_by(name, alone=alone)
    first = next((line.strip(" #") for line in described.splitlines() if line.strip(" #")), "")
    title = " ".join((_text(entry, "summary") or _text(entry, "title")).split())
    after = _texts(entry, "after", "depends_on", "dependencies", "blocked_by")
    return _card(
        id=card_id,
        title=title or one_line(first, TITLE) or card_id,
        description=described,
        acceptance=_texts(entry, "acceptance"),
        files=_texts(entry, "files", "target_files", "targets"),
        difficulty=_text(entry, "difficulty"),
        priority=_priority(entry.get("priority")),
        after=[_word(text, "after") for text in after],
        labels=_texts(entry, "labels", "tags"),
        source=source,
        path=name if source == "file" else "",
    )


def _card(**fields: Any) -> Card:
    if len(fields["description"]) > DESCRIPTION:
        raise _Unfit(f"description: is longer than {DESCRIPTION:,} characters: put it in a file, and name that here")
    if fields["id"] in fields["after"]:
        raise _Unfit("after: it waits for itself: leave that out")
    return Card.model_validate(fields)


def _named_by(name: str, *, alone: bool) -> str:
    stem = posixpath.splitext(posixpath.basename(name))[0]
    made = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-")[:100]
    if not alone or not made:
        raise _Unfit("id: required, but not given")
    return made


def _word(value: Any, field: str) -> str:
    word = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(word, str) or not _ID.fullmatch(word):
        raise _Unfit(f"{field}: must be one word of letters, digits, `.`, `_` and `-`, of at most 100 characters")
    return word


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _Unfit(f"{key}: must be text")
    return value.replace("\r\n", "\n").strip()


def _texts(entry: Mapping[str, Any], *keys: str) -> list[str]:
    """Of all these keys, each once; one text stands for a list of it, a number for its digits."""
    found = list[str]()
    for key in keys:
        value = entry.get(key)
        items = value if isinstance(value, list) else [] if value is None else [value]
        for item in items:
            if not isinstance(item, str | int) or isinstance(item, bool):
                raise _Unfit(f"{key}: must be a list of texts")
            found.append(str(item).strip())
    return list(dict.fromkeys(filter(None, found)))


def _priority(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, int | float) and not isinstance(value, bool) and value == int(value):
        return int(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _WORDS:
            return _WORDS[word]
        if re.fullmatch(r"p[0-9]", word):
            return _level(word)
        if re.fullmatch(r"[+-]?[0-9]{1,4}", word):
            return int(word)
    raise _Unfit("priority: must be a whole number (higher is sooner), P0 to P9, high, medium or low")


def _level(word: str) -> int:
    """`P1` is 90, `P2` 80 …"""
    return 100 - 10 * int(word[-1])


# --- issues -----------------------------------------------------------------------------------------


def _is_issue(entry: Any) -> bool:
    return isinstance(entry, dict) and type(entry.get("number")) is int and "title" in entry


def _open(entry: Mapping[str, Any]) -> bool:
    """And no pull request."""
    closed = str(entry.get("state", "")).lower() not in ("", "open", "opened")
    return not closed and not entry.get("pull_request") and not entry.get("isPullRequest")


def _issue(entry: Mapping[str, Any], issues: Iterable[int]) -> Card:
    body, labels = _text(entry, "body"), _labels(entry.get("labels"))
    waits = [int(number) for found in _AFTER.findall(body) for number in re.findall(r"#(\d{1,9})", found)]
    priorities = [_priority_of(found[1] or found[2]) for label in labels if (found := _LABEL.fullmatch(label))]
    return _card(
        id=f"issue-{entry['number']}",
        title=" ".join(_text(entry, "title").split()),
        description=body,
        priority=max(priorities, default=0),
        after=[f"issue-{number}" for number in dict.fromkeys(waits) if number in issues],
        labels=labels[:20],
        source="issues",
    )


def _priority_of(word: str) -> int:
    return _WORDS[word.lower()] if word.lower() in _WORDS else _level(word)


def _labels(value: Any) -> list[str]:
    names = [item.get("name") if isinstance(item, dict) else item for item in value] if isinstance(value, list) else []
    return list(dict.fromkeys(name.strip() for name in names if isinstance(name, str) and 0 < len(name.strip()) <= 100))
