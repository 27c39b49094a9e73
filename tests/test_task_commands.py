"""The operator's commands, as they are typed: what they refuse before anything is sent, and that each shows how."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from console.task_commands import app

NAMES = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_an_example(name: str) -> None:
    said = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert said.exit_code == 0, said.output
    assert f"Example: starter.py {name}" in " ".join(said.output.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pause"], "name a task, or choose many with --query, --repo or --all"),
        (["pause", "task-42", "--all"], "name either a task"),
        (["set-priority", "task-42"], "give the task and a priority"),
        (["set-priority", "task-42", "high"], "no whole number from -1000 to 1000"),
        (["set-priority", "--all", "1001"], "no whole number from -1000 to 1000"),
        (["switch-agent", "task-42"], "give the task and an agent"),
        (["switch-agent", "task-42", "codex", "--all"], "name either a task"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_sent(words: list[str], told: str) -> None:
    said = CliRunner().invoke(app, words, env={"COLUMNS": "200", "TERM": "dumb"})
    assert said.exit_code == 2
    assert told in " ".join(said.output.split())
