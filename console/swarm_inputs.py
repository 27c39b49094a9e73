"""A swarm's input from flags and a file, and cards from a file or flags: checked here, so that a mistake is told
before anything is sent."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from temporalio.exceptions import ApplicationError

from activities.settings import explain
from activities.swarm.contracts import Card, Refused
from activities.swarm.given import fields_of
from activities.swarm.reading import cards_of
from activities.swarm.settings import SwarmInput, WorkerSpec
from console import inputs

FILES = ("swarm.toml", "oompa.json", "oompa/oompa.json")
"""Of a repository's working tree, the first that is there."""
MOST_CARDS = 20
MOST_BYTES = 60_000
"""Of one update: Temporal keeps each in the swarm's history."""


def swarm_input(
    file: Path | None, flags: dict[str, Any], before: dict[str, Any] | None
) -> tuple[SwarmInput, list[str]]:
    """Flags win over the file; `before`, the input of the swarm that is gone on with, stands for the file where none
    is given. With it: notes for the person who starts it. Raises typer.BadParameter."""
    repo = Path(flags.get("repo") or (before or {}).get("repo") or inputs.here()).resolve()
    notes: list[str] = []
    given = {name: value for name, value in (before or {}).items() if name in SwarmInput.model_fields}
    if file is None and before is None:
        file = next((repo / name for name in FILES if (repo / name).is_file()), None)
        notes += [f"as {file} says"] if file is not None else []
    if file is not None:
        given, more = read(file)
        notes += more
    given |= {name: value for name, value in flags.items() if value not in (None, "")}
    given["repo"] = str(repo)
    try:
        return SwarmInput.model_validate(given), notes
    except ValidationError as error:
        raise typer.BadParameter(explain(error)) from None


def read(file: Path) -> tuple[dict[str, Any], list[str]]:
    """A swarm.toml's or an oompa.json's fields, and notes. Raises typer.BadParameter."""
    try:
        return fields_of(str(file), file.read_bytes())
    except (OSError, ValueError, ApplicationError) as error:
        raise _unreadable(file, error) from None


def payload(given: SwarmInput) -> dict[str, Any]:
    """What is sent: only what was given, so that the repository's file and the defaults fill in the rest."""
    return given.model_dump(mode="json", exclude_unset=True)


def _unreadable(file: Path, error: Exception) -> typer.BadParameter:
    told = " ".join(str(getattr(error, "strerror", None) or getattr(error, "message", error)).split())
    return typer.BadParameter(told if told.startswith(str(file)) else f"{file}: {told}", param_hint="FILE")


def worker(text: str) -> WorkerSpec:
    """A JSON object with a worker's fields, or only its agent. Raises typer.BadParameter."""
    try:
        given = json.loads(text) if text.lstrip().startswith("{") else {"agent": text}
        return WorkerSpec.model_validate(given)
    except ValidationError as error:
        raise typer.BadParameter(explain(error), param_hint="--add") from None
    except ValueError as error:
        raise typer.BadParameter(f"no JSON: {error}", param_hint="--add") from None


def kind_and_count(text: str) -> dict[str, Any]:
    """`worker-1=3`. Raises typer.BadParameter."""
    kind, _, count = text.rpartition("=")
    if not kind or not re.fullmatch(r"\d{1,4}", count):
        raise typer.BadParameter(f"{text!r}: give worker-1=3", param_hint="--count")
    return {"kind": kind, "count": int(count)}


def cards(file: Path | None, fields: dict[str, Any]) -> tuple[list[Card], list[Refused]]:
    """Those of a file, or the one of the flags. Raises typer.BadParameter."""
    fields = {name: value for name, value in fields.items() if value not in (None, "", [])}
    if (file is None) == (not fields):
        raise typer.BadParameter("give a FILE with tasks, or a --title; not both")
    if file is None:
        return [_card(fields)], []
    try:
        return cards_of(file.read_bytes(), str(file), "operator")
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None


def _card(fields: dict[str, Any]) -> Card:
    """Its id, where none is given, is made of what it says: the same task twice is one."""
    if "title" not in fields:
        raise typer.BadParameter("required without a FILE", param_hint="--title")
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:6]
    words = re.sub(r"[^a-z0-9]+", "-", fields["title"].lower()).strip("-")[:40].strip("-") or "task"
    try:
        return Card.model_validate({"id": f"{words}-{digest}"} | fields)
    except ValidationError as error:
        raise typer.BadParameter(explain(error)) from None


def batches(cards: Sequence[Card]) -> Iterator[list[dict[str, Any]]]:
    """As many at once as one update takes."""
    batch: list[dict[str, Any]] = []
    size = 0
    for card in cards:
        given = card.model_dump(mode="json", exclude_defaults=True)
        length = len(json.dumps(given))
        if batch and (len(batch) == MOST_CARDS or size + length > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(given)
        size += length
    if batch:
        yield batch
