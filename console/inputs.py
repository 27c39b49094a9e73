"""A task's input from flags and from a TOML or JSON file: checked here, so that a mistake is told before it starts."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from activities.settings import TaskInput, explain


def read_file(path: Path) -> dict[str, Any]:
    """Raises typer.BadParameter, in one line, for a file that is not there or not what it should be."""
    try:
        text = path.read_text()
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{path}: must hold one object with the fields of a task")
    return found


def task_input(file: Path | None, flags: dict[str, Any]) -> TaskInput:
    """Flags win over the file. Without `repo` it is the checkout of the current folder."""
    given = read_file(file) if file is not None else {}
    given |= {name: value for name, value in flags.items() if value not in (None, [], "")}
    given["repo"] = str(Path(given.get("repo") or _here()).resolve())
    try:
        return TaskInput.model_validate(given)
    except ValidationError as error:
        raise typer.BadParameter(explain(error)) from None


def payload(task: TaskInput) -> dict[str, Any]:
    """What is sent: only what was given, so that the repository's own settings fill in the rest."""
    return task.model_dump(mode="json", exclude_unset=True)


def gate(text: str) -> dict[str, str]:
    """`name=command`; without a name the first word is one."""
    name, separator, command = text.partition("=")
    if separator and name.replace("-", "").replace("_", "").isalnum():
        return {"name": name, "command": command}
    first = "".join(char for char in Path(text.split(maxsplit=1)[0]).name if char.isalnum() or char in "._-")
    return {"name": first or "gate", "command": text}


def _here() -> str:
    found = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "."
