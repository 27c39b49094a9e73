"""Qwen Code's flags, output and log; all were recorded from the real CLI."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.agents import runtime
from activities.agents.base import Report, judged
from activities.agents.qwen import QwenReader
from activities.contracts import Usage
from activities.settings import AgentSpec
from tests.agents.turns import SAMPLES, a_turn, damaged, exit_codes, play

QWEN = runtime("qwen")
AGENT = AgentSpec(runtime="qwen", model="qwen3-coder-plus", max_turns=7)
NOW = datetime(2026, 11, 21, 10, 30, tzinfo=UTC)
STDERR = "Reached max session turns for this session. Increase the number of turns in settings.json.\n"

LOG = """\
2026-11-21T10:30:12.911Z [ERROR] [OPENAI_ERROR] OpenAI API Error: {error} {{
  statusCode: 429,
2026-11-21T10:30:12.915Z [WARN] [RETRY] Attempt 1 failed with status {status}. Retrying {how}... {{
"""
BROKEN = "2026-11-21T10:31:30.121Z [WARN] [QWEN_CODE_CHAT] Invalid stream [NO_FINISH_REASON] (retry 1/4). Waiting 2s"


def a_reader(**changes: object) -> QwenReader:
    return QwenReader(a_turn(AGENT, **changes), since=NOW)


def judge(sample: str, exit_code: int | None = 1, stderr: str = "", **changes: object) -> Report:
    return play(a_reader(**changes), f"qwen/{sample}", exit_code, stderr)


def lines(sample: str) -> list[str]:
    return (SAMPLES / "qwen" / f"{sample}.jsonl").read_text().splitlines()


def test_cold_start(tmp_path: Path) -> None:
    launch = QWEN.launch(a_turn(AGENT, folder=tmp_path))
    assert launch.argv[:4] == ["qwen", "-o", "stream-json", "--yolo"]
    assert dict(zip(launch.argv[4::2], launch.argv[5::2], strict=True)) == {
        "--session-id": "0b1e7c9a-3f3e-4c43-9d39-1f4c4d7b8a11",
        "--max-session-turns": "7",
        "-m": "qwen3-coder-plus",
        "--append-system-prompt": "Stay in the worktree.",
    }
    assert launch.stdin == "Do the task."
    defaults = json.loads(Path(launch.env["QWEN_CODE_SYSTEM_DEFAULTS_PATH"]).read_text())
    assert defaults["memory"]["enableManagedAutoMemory"] is False


def test_resume_has_the_old_session_and_no_new_one(tmp_path: Path) -> None:
    argv = QWEN.launch(a_turn(AGENT, session="old", folder=tmp_path)).argv
    assert argv[argv.index("--resume") + 1] == "old"
    assert "--session-id" not in argv


def test_the_operator_s_own_defaults_stay() -> None:
    turn = a_turn(AGENT, env={"QWEN_CODE_SYSTEM_DEFAULTS_PATH": "/etc/ours.json"})
    assert "QWEN_CODE_SYSTEM_DEFAULTS_PATH" not in QWEN.launch(turn).env


def test_a_prompt_names_no_files_and_no_commands(tmp_path: Path) -> None:
    launch = QWEN.launch(a_turn(AGENT, prompt="/stats for @hello", folder=tmp_path))
    assert not launch.stdin.startswith("/")
    assert " @hello" not in launch.stdin


def test_instructions_too_long_for_an_argument_go_before_the_prompt(tmp_path: Path) -> None:
    long = "é" * 60_000
    launch = QWEN.launch(a_turn(AGENT, system=long, folder=tmp_path))
    assert "--append-system-prompt" not in launch.argv
    assert launch.stdin == f"{long}\n\nDo the task."


def test_a_missing_cli_is_told_with_its_remedy(tmp_path: Path) -> None:
    problem = QWEN.problem(AGENT, {"PATH": str(tmp_path)})
    assert problem is not None
    assert "npm install" in problem


@pytest.mark.parametrize(("version", "old"), [("v20.19.2", True), ("v24.1.0", False), ("what?", False)])
def test_a_node_that_is_too_old_is_told(version: str, old: bool, tmp_path: Path) -> None:
    for name, text in (("node", f"echo '{version}'"), ("qwen", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    problem = QWEN.problem(AGENT, {"PATH": str(tmp_path)})
    assert bool(problem) == old
    assert not problem or "needs Node 22" in problem


def test_a_turn_that_went_well() -> None:
    report = judge("happy", 0)
    assert (report.end, report.reason) == ("done", "")
    assert report.text == "All done.\nCOMPLETE_AND_READY_FOR_MERGE\n"
    assert report.session
    assert report.usage.model_copy(update={"cost_usd": 0}) == Usage(
        input_tokens=300, cached_tokens=40, output_tokens=60
    )
    assert report.usage.cost_usd > 0  # of the price list


def test_what_it_says_does_and_uses_is_followed() -> None:
    reader = a_reader()
    seen = []
    for line in lines("happy"):
        reader.feed(line)
        seen.append((reader.last, reader.usage.input_tokens, reader.finished))
    assert ("I look.", 100, False) in seen
    assert ("run_shell_command git status --short", 200, False) in seen
    assert seen[-1] == ("All done. COMPLETE_AND_READY_FOR_MERGE", 300, True)
    assert reader.usage.cost_usd > 0
    assert reader.model == "qwen3-coder-plus"


def test_usage_of_a_resumed_turn_is_the_difference() -> None:
    first = judge("happy", 0)
    report = judge("resumed", 0, session=first.session, previous=first.cumulative)
    assert report.session == first.session
    assert (report.usage.input_tokens, report.usage.cached_tokens, report.usage.output_tokens) == (100, 0, 20)
    assert report.cumulative["input_tokens"] == 400


def test_a_failed_turn_leaves_the_sums_as_they_were() -> None:
    previous = {"input_tokens": 300.0, "cached_tokens": 40.0, "output_tokens": 60.0}
    report = judge("401", session="s", previous=previous)
    assert report.usage.tokens == 0
    assert {name: report.cumulative[name] for name in previous} == previous


def test_a_model_that_the_price_list_does_not_know_has_no_price() -> None:
    reader = QwenReader(a_turn(AGENT), since=NOW)
    used = {"input_tokens": 7, "output_tokens": 1}
    reader.feed(json.dumps({"type": "assistant", "message": {"model": "ours-7b", "usage": used}}))
    assert reader.usage.unpriced_tokens == 8


@pytest.mark.parametrize(
    ("sample", "end", "reason"),
    [
        ("401", "login", "401 so the test wants"),
        ("no-login", "login", "No auth type is selected"),
        ("context", "context_full", "maximum context length is 200000"),
        ("drop", "limited", "stream ended without a finish reason"),
    ],
)
def test_ends(sample: str, end: str, reason: str) -> None:
    report = judge(sample)
    assert report.end == end
    assert reason in report.reason
    assert report.session


def test_most_turns_have_no_result() -> None:
    report = judge("max-turns", 53, STDERR)
    assert report.end == "max_turns"
    assert "max session turns" in report.reason
    assert report.session


def test_a_session_that_is_not_there() -> None:
    report = a_reader(session="x").report(1, "No saved session found with ID x. Run `qwen --resume`\n")
    assert (report.end, report.session) == ("lost_session", None)


@pytest.mark.parametrize(
    ("error", "status", "how", "end", "seconds"),
    [
        ("429 so the test wants", 429, "with backoff in 2s", "limited", None),
        ("429 so the test wants", 429, "after explicit delay of 3600000ms", "limited", 3_600),
        ("429 You exceeded your current quota: platform.openai.com", 429, "with backoff in 2s", "credit", None),
        ("500 so the test wants", 500, "with backoff in 2s", "limited", None),
    ],
)
def test_a_failed_request_that_it_tries_again(
    error: str, status: int, how: str, end: str, seconds: float | None
) -> None:
    reader = a_reader()
    for line in LOG.format(error=error, status=status, how=how).splitlines():
        reader.feed_log(line)
    known = judged(reader.retrying)
    assert (known.end, known.retry_after_seconds) == (end, seconds)
    assert reader.report(None, "").end == end
    for line in lines("happy"):
        reader.feed(line)
    assert reader.retrying == ""


def test_a_broken_answer_is_no_progress() -> None:
    reader = a_reader()
    reader.feed_log(BROKEN)
    for line in lines("drop")[:4]:
        reader.feed(line)
    assert judged(reader.retrying).end == "limited"


def test_the_log_of_earlier_turns_does_not_count() -> None:
    reader = QwenReader(a_turn(AGENT, session="s"), since=datetime(2026, 11, 21, 10, 40, tzinfo=UTC))
    reader.feed_log(BROKEN)
    assert reader.retrying == ""


@pytest.mark.parametrize(
    ("env", "log"),
    [
        ({"HOME": "/home/u"}, "/home/u/.qwen/debug/s.txt"),
        ({"HOME": "/home/u", "QWEN_HOME": "/q"}, "/q/debug/s.txt"),
        ({"QWEN_HOME": "/q", "QWEN_RUNTIME_DIR": "/r"}, "/r/debug/s.txt"),
    ],
)
def test_where_the_log_is(env: dict[str, str], log: str) -> None:
    assert a_reader(session="s", env=env).log == Path(log)


def test_killed_in_the_middle_its_use_is_that_of_its_messages() -> None:
    report = judge("max-turns", -9, session="s", previous={"input_tokens": 100.0})
    assert (report.end, report.reason) == ("failed", "killed by SIGKILL")
    assert report.usage.input_tokens == 100
    assert (report.cumulative["input_tokens"], report.cumulative["estimated_input_tokens"]) == (100, 100)


def test_exit_0_is_no_proof() -> None:
    assert a_reader().report(0, "").end == "unreadable"


logged = st.builds(LOG.format, error=st.text(), status=st.text(), how=st.text())


@given(damaged("qwen"), st.lists(st.text() | logged), exit_codes, st.text())
def test_no_output_makes_the_reader_raise(
    output: list[str], log: list[str], exit_code: int | None, stderr: str
) -> None:
    reader = a_reader(session="s")
    for line in output:
        reader.feed(line)
    for line in log:
        reader.feed_log(line)
    assert reader.report(exit_code, stderr).end
