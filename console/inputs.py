"""A task's input from flags and from a TOML or JSON file: checked here, so that a mistake is told before it starts."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError

from activities.settings import TaskInput, explain

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
"""In capitals: the gate `test` has a name, `CI=1` is an assignment of the shell."""


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
    """Flags win over the file, tables field by field. Without `repo` it is the checkout of the current folder."""
    given = read_file(file) if file is not None else {}
    for name, value in flags.items():
        if value in (None, [], ""):
            continue
        if isinstance(value, dict) and isinstance(there := given.get(name), dict):
            value = {**there, **value}
        given[name] = value
    given["repo"] = str(Path(given.get("repo") or here()).resolve())
    try:
        return TaskInput.model_validate(given)
    except ValidationError as error:
        raise typer.BadParameter(explain(error)) from None


def payload(task: TaskInput) -> dict[str, Any]:
    """What is sent: only what was given, so that the repository's own settings fill in the rest."""
    return task.model_dump(mode="json", exclude_unset=True)


def gate(text: str) -> dict[str, str]:
    """`name=command`; without a name it is the command's program. `CI=1 pytest` sets a variable for pytest.

    Raises typer.BadParameter for what holds no command.
    """
    name, separator, command = text.partition("=")
    if separator and _NAME.fullmatch(name) and not _VARIABLE.fullmatch(name):
        return {"name": name, "command": command}
    try:
        words = shlex.split(text)
    except ValueError:  # the shell may understand more; if not, the task is refused with its words
        words = text.split()
    program = next((word for word in words if not _VARIABLE.fullmatch(word.partition("=")[0])), None)
    if program is None:
        raise typer.BadParameter(f"{text!r} holds no command: give name=command", param_hint="--gate")
    return {"name": re.sub(r"[^A-Za-z0-9._-]", "", Path(program).name) or "gate", "command": text}


def here() -> str:
    found = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "."
