"""Prompt files: a repository's own, with includes and placeholders, or one of ours by its name (FEATURES B16).

They are read from the target's tree in git, never from a disk, so nothing outside of the repository can be named.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Read = Callable[[str], bytes | None]
"""A file of the target by its path; None: there is none."""

FOLDER = Path(__file__).parent.parent / "prompts" / "workers"
BUNDLED = ("planner", "executor", "worker", "reviewer", "docs")
_ALSO = {"docs_architect": "docs", "docs-architect": "docs"}
MAX_DEPTH = 8
MAX_INCLUDES = 100
MAX_CHARACTERS = 200_000
"""Of one prompt, with all that it includes."""

_INCLUDE = re.compile(r'\s*(?:#oompa_directive:include_file\s+"([^"]*)"|\{\{\s*include\s([^{}]*)\}\})\s*')
"""A whole line, in oompa's form or in ours: `{{include style.md}}`."""
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")


@dataclass(frozen=True)
class Loaded:
    text: str
    notes: list[str]
    """What could not be included, one line each; the text says it in its place."""


def bundled_name(path: str) -> str | None:
    """Which of ours stands for it where the target has no such file: `planner`, `config/prompts/executor.md`."""
    stem, suffix = posixpath.splitext(posixpath.basename(path))
    name = _ALSO.get(stem.lower(), stem.lower())
    return name if name in BUNDLED and suffix in ("", ".md", ".txt") else None


def bundled(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text()


def explained() -> dict[str, str]:
    """Each of ours with its first line."""
    return {name: bundled(name).splitlines()[0] for name in BUNDLED}


def exists(read: Read, path: str) -> bool:
    return _file(read, path) is not None


def load(read: Read, path: str, values: Mapping[str, str]) -> Loaded | None:
    """The prompt with what it includes, known placeholders filled in. None: it is neither there nor one of ours."""
    found = _file(read, path)
    if found is None:
        return None
    name, text = found
    expansion = _Expansion(read)
    return Loaded(filled(expansion.expand(text, (name,)).strip(), values), expansion.notes)


def missing(path: str) -> str:
    return f"{path} is not in the target branch: commit it, or correct the path; ours are {', '.join(BUNDLED)}"


def told(read: Read, paths: Iterable[str], values: Mapping[str, str]) -> list[str]:
    """The texts of those that there are: one that has gone from the target since is left out."""
    return [loaded.text for path in paths if (loaded := load(read, path, values)) is not None]


def check(read: Read, paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Those that cannot be used, as `missing` says it; and notes of what the others cannot include."""
    problems, notes = list[str](), list[str]()
    for path in dict.fromkeys(paths):
        loaded = load(read, path, {})
        if loaded is None:
            problems.append(missing(path))
        else:
            notes += loaded.notes
    return problems, notes


def filled(text: str, values: Mapping[str, str]) -> str:
    """What is put in is not looked through again; braces that are none of ours stay."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1] or found[2], found[0]), text)


def values_of(task: Mapping[str, Any], task_id: str) -> dict[str, str]:
    """Placeholders, by the task as its run folder has it; those of a board only where it is a cycle of a swarm."""
    values = {
        "task_id": task_id,
        "summary": str(task.get("title", "")),
        "targets": ", ".join(task.get("files") or ["*"]),
    }
    swarm = task.get("swarm")
    if not swarm:
        return values
    counts = swarm["counts"]
    numbers = [f"{name}: {counts.get(place, 0)}" for place, name in _PLACES.items()]
    pending = [f"- {item['id']}: {item['title']}" for item in swarm["open"] if not item.get("place")]
    return values | {
        "task_id": ", ".join(swarm["claims"]) or task_id,
        "swarm": swarm["swarm"],
        "worker": swarm["worker"],
        "spec": swarm["spec"] or "the spec",
        "max_new_tasks": str(swarm["max_new_tasks"]),
        "task_status": ", ".join(numbers),
        "pending_tasks": "\n".join(pending) or "(none)",
        "TASK_ROOT": "tasks",
        "TASKS_ROOT": "tasks",
    }


_PLACES = {"pending": "Pending", "current": "In progress", "blocked": "Blocked", "complete": "Complete"}


def inside(path: str) -> str | None:
    """As git's tree names it; None: it is no file of the repository, whatever there is."""
    tidy = posixpath.normpath(path)
    outside = tidy in (".", "..") or tidy.startswith(("/", "../", "~")) or path.endswith("/")
    return None if outside or any(ord(character) < 32 for character in tidy) else tidy


def _file(read: Read, *paths: str) -> tuple[str, str] | None:
    """(name, text) of the first of `paths` that there is; else of ours that stands for the last."""
    last = paths[-1]
    ours = bundled_name(last)
    if ours == last:
        return ours, bundled(ours)
    for path in filter(None, map(inside, paths)):
        if (content := read(path)) is not None:
            return path, content.decode("utf-8-sig", "replace").replace("\r\n", "\n")
    return (ours, bundled(ours)) if ours else None


@dataclass
class _Expansion:
    read: Read
    notes: list[str] = field(default_factory=list)
    included: int = 0
    characters: int = 0

    def expand(self, text: str, within: tuple[str, ...]) -> str:
        """`within`: the files that led here, this one last."""
        lines = []
        for line in text.split("\n"):  # not splitlines: what it takes for a line's end besides must stay
            self.characters += len(line) + 1
            if self.characters > MAX_CHARACTERS:
                lines.append(self._told(f"{within[0]} is cut: it has more than {MAX_CHARACTERS:,} characters"))
                break
            directive = _INCLUDE.fullmatch(line) if "include" in line else None
            lines.append(self._include((directive[1] or directive[2] or "").strip(' "'), within) if directive else line)
        return "\n".join(lines)

    def _include(self, target: str, within: tuple[str, ...]) -> str:
        name = within[-1]
        beside = posixpath.join(posixpath.dirname(name), target)
        if not target or (inside(beside) is None and inside(target) is None):
            return self._told(f"{name} includes {target!r}, which is no file of the repository")
        found = _file(self.read, beside, target)
        if found is None:
            return self._told(f"{name} includes {target!r}, which is not on the target branch")
        path, text = found
        if path in within:
            return self._told(f"{name} includes {target!r}, which includes it in turn")
        self.included += 1
        if len(within) >= MAX_DEPTH or self.included > MAX_INCLUDES:
            return self._told(f"{name} includes {target!r}, which is left out: it would be too deep, or too many")
        return self.expand(text, (*within, path))

    def _told(self, what: str) -> str:
        if what not in self.notes and len(self.notes) < 20:
            self.notes.append(what)
        return f"(mergewright: {what})"
