"""The contract of the `command` runtime, against real processes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from activities.agents import RUNTIMES, UnknownRuntime, runtime
from activities.agents.base import Report, Turn
from activities.settings import AgentSpec
from tests.agents.turns import a_turn

COMMAND = runtime("command")


def take(turn: Turn) -> Report:
    launch, reader = COMMAND.launch(turn), COMMAND.reader(turn)
    env = {"PATH": os.environ["PATH"], **launch.env}
    done = subprocess.run(launch.argv, env=env, input=launch.stdin, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        reader.feed(line)
    return reader.report(done.returncode, done.stderr)


def shell(script: str, **changes: object) -> Report:
    return take(a_turn(AgentSpec(runtime="command", command=["sh", "-c", script]), **changes))


def test_the_program_is_told_who_it_is() -> None:
    script = 'import os, json; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith("MERGEWRIGHT_")}))'
    agent = AgentSpec(runtime="command", command=["python3", "-c", script])
    cold = take(a_turn(agent, role="reviewer"))
    assert json.loads(cold.text) == {
        "MERGEWRIGHT_TASK": "task-42",
        "MERGEWRIGHT_ROLE": "reviewer",
        "MERGEWRIGHT_SESSION": "0b1e7c9a-3f3e-4c43-9d39-1f4c4d7b8a11",
        "MERGEWRIGHT_TURN": "3",
    }
    warm = take(a_turn(agent, session=cold.session, new_session="another", number=4))
    assert json.loads(warm.text)["MERGEWRIGHT_SESSION"] == cold.session
    assert warm.session == cold.session


def test_standing_instructions_come_before_the_prompt_of_a_cold_start_only() -> None:
    assert shell("cat").text == "Stay in the worktree.\n\nDo the task."
    assert shell("cat", session="s").text == "Do the task."


def test_standard_output_is_the_final_text() -> None:
    report = shell("echo one; echo; echo two; echo noise >&2")
    assert (report.end, report.text, report.reason) == ("done", "one\n\ntwo", "")


@pytest.mark.parametrize(
    ("script", "end", "reason", "seconds"),
    [
        ("exit 75", "limited", "exit 75", None),
        ("echo 'Retry-After: 12' >&2; exit 75", "limited", "Retry-After: 12", 12.0),
        ("echo busy >&2; echo 'retry-after: 0.5' >&2; exit 75", "limited", "busy retry-after: 0.5", 0.5),
        ("echo 'no retry-after: 12 here' >&2; exit 75", "limited", "no retry-after: 12 here", None),
        ("echo 'who are you?' >&2; exit 77", "login", "who are you?: log the agent's program in", None),
        ("echo half; echo 'out of ideas' >&2; exit 3", "failed", "exit 3: out of ideas", None),
        ("exit 1", "failed", "exit 1 and no result", None),
        ("echo 'retry-after: 12' >&2; exit 1", "failed", "exit 1: retry-after: 12", None),
        ("kill -9 $$", "failed", "killed by SIGKILL", None),
        ("echo 'FAILED test_rate_limit' >&2; exit 1", "failed", "exit 1: FAILED test_rate_limit", None),
        ("echo '401 Unauthorized' >&2; exit 2", "failed", "exit 2: 401 Unauthorized", None),
    ],
)
def test_exit_codes(script: str, end: str, reason: str, seconds: float | None) -> None:
    report = shell(script)
    assert (report.end, report.reason, report.retry_after_seconds) == (end, reason, seconds)


def test_of_a_long_standard_error_the_end_is_told() -> None:
    reason = shell("for i in $(seq 1000); do echo line $i >&2; done; echo the cause >&2; exit 1").reason
    assert reason.startswith("exit 1: …")
    assert reason.endswith("line 1000 the cause")


def test_of_a_long_output_the_end_is_the_text() -> None:
    reader = COMMAND.reader(a_turn(AgentSpec(runtime="command", command=["x"])))
    for number in range(50):
        reader.feed(f"{number} " + "x" * 100_000)
    reader.feed("COMPLETE_AND_READY_FOR_MERGE")
    text = reader.report(0, "").text
    first, second, *_, last = text.split("\n")
    assert (first, second[:3], last) == ("(the beginning was cut off)", "30 ", "COMPLETE_AND_READY_FOR_MERGE")
    reader.feed("y" * 3_000_000)
    text = reader.report(0, "").text
    assert text.startswith("(the beginning was cut off)\nyyy")
    assert len(text) < 2_100_000


def test_a_time_out_keeps_what_was_said() -> None:
    reader = COMMAND.reader(a_turn(AgentSpec(runtime="command", command=["x"])))
    reader.feed("half")
    report = reader.report(None, "")
    assert (report.end, report.text) == ("timeout", "half")


def test_a_missing_program_is_told_with_its_remedy(tmp_path: Path) -> None:
    def problem(program: str) -> str | None:
        return COMMAND.problem(AgentSpec(runtime="command", command=[program]), {"PATH": str(tmp_path)})

    there = tmp_path / "agent"
    there.write_text("#!/bin/sh\n")
    assert "not executable" in (problem("agent") or "")
    assert "not executable" in (problem(str(there)) or "")
    there.chmod(there.stat().st_mode | stat.S_IXUSR)
    assert problem("agent") is None
    assert problem(str(there)) is None
    assert problem("./relative/to/the/worktree") is None
    assert "no-such-program" in (problem("no-such-program") or "")
    assert str(tmp_path) in (problem(str(tmp_path / "no")) or "")


def test_an_unknown_runtime_names_the_known_ones() -> None:
    with pytest.raises(UnknownRuntime, match=r"unknown runtime 'basic': there are .*codex"):
        runtime("basic")
    assert all(RUNTIMES[name].name == name for name in RUNTIMES)
