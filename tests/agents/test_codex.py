"""Codex's flags and output; the output was recorded from the real CLI."""

from __future__ import annotations

import itertools
import json
import tomllib
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.agents import runtime
from activities.agents.base import Report
from activities.agents.codex import CodexReader, stated_wait
from activities.contracts import Usage
from activities.settings import AgentSpec
from tests.agents.turns import SAMPLES, a_turn, damaged, exit_codes, play

CODEX = runtime("codex")
AGENT = AgentSpec(runtime="codex", model="gpt-5.5", reasoning="high")
NOW = datetime(2026, 11, 21, 6, 45)
THREAD = "01a1fca1-55b6-75e1-859e-a7a3238343a4"
"""Of the sample `resumed`."""


def judge(sample: str, exit_code: int | None = 1, stderr: str = "", **changes: object) -> Report:
    return play(CodexReader(a_turn(AGENT, **changes), now=lambda: NOW), f"codex/{sample}", exit_code, stderr)


def settings(argv: list[str]) -> dict[str, object]:
    """The `-c` flags as Codex reads them."""
    return tomllib.loads("\n".join(value for flag, value in itertools.pairwise(argv) if flag == "-c"))


def test_cold_start() -> None:
    launch = CODEX.launch(a_turn(AGENT))
    assert launch.argv[:3] == ["codex", "exec", "--json"]
    assert launch.argv[launch.argv.index("-m") + 1] == "gpt-5.5"
    assert settings(launch.argv) == {
        "model_reasoning_effort": "high",
        "developer_instructions": "Stay in the worktree.",
    }
    assert "resume" not in launch.argv
    assert launch.argv[-1] == "-"
    assert launch.stdin == "Do the task."


def test_resume() -> None:
    assert CODEX.launch(a_turn(AGENT, session=THREAD)).argv[-3:] == ["resume", THREAD, "-"]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_instructions_survive_the_command_line(text: str) -> None:
    argv = CODEX.launch(a_turn(AGENT, system=text)).argv
    assert settings(argv).get("developer_instructions", "") == text.replace("\0", "")


def test_a_missing_cli_is_told_with_its_remedy(tmp_path: Path) -> None:
    problem = CODEX.problem(AGENT, {"PATH": str(tmp_path)})
    assert problem is not None
    assert "npm install" in problem


def test_a_turn_that_went_well() -> None:
    report = judge("happy", 0, "Reading additional input from stdin...\n")
    assert (report.end, report.reason) == ("done", "")
    assert report.text == "All done.\nCOMPLETE_AND_READY_FOR_MERGE\n"
    assert report.session == "01a1fca0-cea7-7ce1-a97d-14e4c9e405d3"
    assert report.usage == Usage(input_tokens=1046, cached_tokens=2980, output_tokens=296)


def test_what_it_says_and_does_is_followed() -> None:
    reader = CodexReader(a_turn(AGENT))
    seen = []
    for line in (SAMPLES / "codex/happy.jsonl").read_text().splitlines():
        reader.feed(line)
        seen.append((reader.last, reader.finished))
    assert ("$ /bin/bash -lc 'cat hello.txt'", False) in seen
    assert seen[-1] == ("All done. COMPLETE_AND_READY_FOR_MERGE", True)


def test_edits_are_followed() -> None:
    reader = CodexReader(a_turn(AGENT))
    reader.feed((SAMPLES / "codex/edit.jsonl").read_text())
    assert reader.last == "edit /src/app/hello.txt"


def test_usage_of_a_resumed_turn_is_the_difference() -> None:
    report = judge("resumed", 0, session=THREAD, previous={"input_tokens": 100.0, "output_tokens": 20.0})
    assert report.usage == Usage(input_tokens=100, output_tokens=20)
    assert report.cumulative["input_tokens"] == 200


def test_figures_of_another_thread_do_not_count_on_a_cold_start() -> None:
    assert judge("resumed", 0, previous={"input_tokens": 100.0}).usage.input_tokens == 200


@pytest.mark.parametrize(
    ("sample", "end", "reason"),
    [
        ("429", "limited", "429 Too Many Requests"),
        ("529", "limited", "529"),
        ("usage-limit", "limited", "hit your usage limit"),
        ("rate-limit", "limited", "rate limit exceeded"),
        ("capacity", "limited", "Selected model is at capacity"),
        ("401", "login", "codex login"),
        ("quota", "login", "Quota exceeded"),
        ("no-login", "login", "Missing environment variable"),
        ("400", "failed", "bad request"),
        ("500", "failed", "high demand"),
        ("context", "failed", "ran out of room in the model's context window"),
        ("drop", "failed", "stream disconnected"),
    ],
)
def test_ends(sample: str, end: str, reason: str) -> None:
    report = judge(sample)
    assert report.end == end
    assert reason in report.reason
    assert "Reconnecting" not in report.reason
    assert report.session


def test_a_limit_that_states_a_time_says_how_long() -> None:
    assert judge("usage-limit").retry_after_seconds == 3600  # to the end of 7:44
    assert judge("rate-limit").retry_after_seconds == 1.5
    assert judge("429").retry_after_seconds is None


@pytest.mark.parametrize(
    ("message", "now", "seconds"),
    [
        ("or try again at 7:44 AM.", datetime(2026, 11, 21, 7, 43), 120),
        ("or try again at 7:44 AM.", datetime(2026, 11, 21, 7, 44, 30), 30),
        ("or try again at 7:44 AM.", datetime(2026, 11, 21, 7, 45, 5), 0),
        ("or try again at 7:44 AM.", datetime(2026, 11, 21, 23, 45), 8 * 3600),
        ("or try again at 12:05 AM.", datetime(2026, 11, 21, 23, 59), 7 * 60),
        ("or try again at 12:05 PM.", datetime(2026, 11, 21, 11, 59), 7 * 60),
        ("or try again at Nov 22nd, 2026 7:03 AM.", datetime(2026, 11, 21, 7, 4), 24 * 3600),
        ("or try again at Jan 1st, 2027 12:00 AM.", datetime(2026, 12, 31, 23, 59), 120),
        ("or try again at Nov 20th, 2026 7:03 AM.", datetime(2026, 11, 21, 7, 4), 0),
        ("or try again at Nov 99th, 2026 7:03 AM.", datetime(2026, 11, 21, 7, 4), None),
        ("or try again at 27:03 AM.", datetime(2026, 11, 21, 7, 4), None),
        ("Please try again in 20ms.", NOW, 0.02),
        ("Please try again in 1h2m3.5s.", NOW, 3723.5),
        ("Try again in 3 days.", NOW, None),
        ("Try again later.", NOW, None),
    ],
)
def test_stated_wait(message: str, now: datetime, seconds: float | None) -> None:
    assert stated_wait(message, now) == (None if seconds is None else pytest.approx(seconds))


def test_a_time_out_while_it_waits_for_a_limit_is_the_limit() -> None:
    assert judge("429-waits", None).end == "limited"
    assert judge("sigterm", None).end == "timeout"


def test_a_retry_that_went_well_leaves_no_trace() -> None:
    reader = CodexReader(a_turn(AGENT))
    reader.feed(json.dumps({"type": "error", "message": "Reconnecting... 1/5 (last status: 429 Too Many Requests)"}))
    reader.feed(json.dumps({"type": "item.started", "item": {"type": "command_execution", "command": "make"}}))
    assert reader.report(None, "").end == "timeout"


def test_another_thread_than_the_wanted_one_is_a_lost_session() -> None:
    reader = CodexReader(a_turn(AGENT, session="wanted"))
    reader.feed('{"type":"thread.started","thread_id":"other"}')
    assert reader.finished  # it works without its memory: away with it
    assert reader.report(0, "").end == "lost_session"


@pytest.mark.parametrize("why", ["no rollout found for thread id x (code -32600)", "failed to read thread: cut off"])
def test_a_session_that_is_not_there_or_broken(why: str) -> None:
    stderr = f"Error: thread/resume: thread/resume failed: {why}\n"
    assert CodexReader(a_turn(AGENT, session="x")).report(1, stderr).end == "lost_session"


@pytest.mark.parametrize(("exit_code", "reason"), [(-15, "SIGTERM"), (-9, "SIGKILL")])
def test_killed_in_the_middle(exit_code: int, reason: str) -> None:
    report = judge("sigterm", exit_code, previous={"input_tokens": 100.0})
    assert (report.end, report.reason) == ("failed", f"killed by {reason}")
    assert report.session
    assert report.usage == Usage()


def test_figures_that_are_none_count_nothing() -> None:
    for figure in ("NaN", "-Infinity", "null", '"7"', "true", "[]", "9" * 400):
        reader = CodexReader(a_turn(AGENT))
        reader.feed(f'{{"type":"turn.completed","usage":{{"input_tokens":{figure}}}}}')
        assert reader.report(0, "").usage == Usage()


def test_exit_0_is_no_proof() -> None:
    report = judge("sigterm", 0, "Reading additional input from stdin...")
    assert report.end == "failed"


def test_bad_flags_fail_with_what_it_said() -> None:
    report = CodexReader(a_turn(AGENT)).report(2, "error: unexpected argument '--max-turns' found\n")
    assert (report.end, report.reason) == ("failed", "exit 2: error: unexpected argument '--max-turns' found")
    assert report.session is None


@given(damaged("codex"), exit_codes, st.text())
def test_no_output_makes_the_reader_raise(output: list[str], exit_code: int | None, stderr: str) -> None:
    reader = CodexReader(a_turn(AGENT, session="s"))
    for line in output:
        reader.feed(line)
    assert reader.report(exit_code, stderr).end
