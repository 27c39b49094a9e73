"""Codex's flags and output; the output was recorded from the real CLI."""

from __future__ import annotations

import itertools
import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.agents import runtime
from activities.agents.base import Report
from activities.agents.codex import CodexReader
from activities.contracts import Usage
from activities.settings import AgentSpec
from tests.agents.turns import SAMPLES, a_turn, damaged, exit_codes, play

CODEX = runtime("codex")
AGENT = AgentSpec(runtime="codex", model="gpt-5.5", reasoning="high")
THREAD = "01a1fca1-55b6-75e1-859e-a7a3238343a4"
"""Of the sample `resumed`."""


def judge(sample: str, exit_code: int | None = 1, stderr: str = "", **changes: object) -> Report:
    return play(CodexReader(a_turn(AGENT, **changes)), f"codex/{sample}", exit_code, stderr)


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
    assert (report.usage.input_tokens, report.usage.cached_tokens, report.usage.output_tokens) == (1046, 2980, 296)
    assert report.usage.cost_usd > 0  # by the price list: Codex tells none


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
    assert (report.usage.input_tokens, report.usage.output_tokens) == (100, 20)
    assert report.cumulative["input_tokens"] == 200


def test_tokens_of_a_model_without_a_price_are_counted_as_such() -> None:
    unknown = a_turn(AGENT.model_copy(update={"model": "no-such-model"}))
    assert play(CodexReader(unknown), "codex/resumed", 0).usage == Usage(
        input_tokens=200, output_tokens=40, unpriced_tokens=240
    )


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
        ("401", "login", "401 Unauthorized"),
        ("quota", "credit", "Quota exceeded"),
        ("no-login", "login", "Missing environment variable"),
        ("400", "failed", "bad request"),
        ("500", "limited", "high demand"),
        ("context", "context_full", "ran out of room in the model's context window"),
        ("drop", "limited", "stream disconnected"),
    ],
)
def test_ends(sample: str, end: str, reason: str) -> None:
    report = judge(sample)
    assert report.end == end
    assert reason in report.reason
    assert "Reconnecting" not in report.reason
    assert report.session


def test_a_limit_that_states_a_time_says_how_long() -> None:
    assert judge("rate-limit").retry_after_seconds == 1.5
    assert judge("429").retry_after_seconds is None
    wait = judge("usage-limit").retry_after_seconds  # "at 7:44 AM", of today or of tomorrow
    assert wait is not None
    assert 0 <= wait <= 86_460


def test_a_time_out_while_it_waits_for_a_limit_is_the_limit() -> None:
    assert judge("429-waits", None).end == "limited"
    assert judge("sigterm", None).end == "timeout"


def test_a_retry_that_went_well_leaves_no_trace() -> None:
    reader = CodexReader(a_turn(AGENT))
    reader.feed(json.dumps({"type": "error", "message": "Reconnecting... 1/5 (last status: 429 Too Many Requests)"}))
    reader.feed(json.dumps({"type": "item.started", "item": {"type": "command_execution", "command": "make"}}))
    assert reader.report(None, "").end == "timeout"


def test_another_thread_than_the_wanted_one_is_told() -> None:
    """It works without its memory: who drives it compares the two, and ends it."""
    reader = CodexReader(a_turn(AGENT, session="wanted"))
    reader.feed('{"type":"thread.started","thread_id":"other"}')
    assert reader.session == "other"


@pytest.mark.parametrize("why", ["no rollout found for thread id x (code -32600)", "failed to read thread: cut off"])
def test_a_session_that_is_not_there_or_broken(why: str) -> None:
    stderr = f"Error: thread/resume: thread/resume failed: {why}\n"
    assert CodexReader(a_turn(AGENT, session="x")).report(1, stderr).end == "lost_session"


@pytest.mark.parametrize(("exit_code", "reason"), [(-15, "SIGTERM"), (-9, "SIGKILL")])
def test_killed_in_the_middle(exit_code: int, reason: str) -> None:
    report = judge("sigterm", exit_code, session="s", previous={"input_tokens": 100.0})
    assert (report.end, report.reason) == ("failed", f"killed by {reason}")
    assert report.session
    assert report.usage == Usage()
    assert report.cumulative == {"input_tokens": 100.0}  # what was counted must not be counted again


def rollout(**tokens: int) -> str:
    """A line of the thread's own file; its figures are sums over the thread."""
    info = {"total_token_usage": {"cached_input_tokens": 0, "reasoning_output_tokens": 0, **tokens}}
    return json.dumps({"type": "event_msg", "payload": {"type": "token_count", "info": info}})


def test_use_of_a_killed_turn_is_known_from_the_rollout() -> None:
    reader = CodexReader(a_turn(AGENT, session=THREAD, previous={"input_tokens": 100.0, "output_tokens": 20.0}))
    reader.feed_log('{"type":"event_msg","payload":{"type":"token_count","info":null}}')
    reader.feed_log(rollout(input_tokens=300, output_tokens=25))
    reader.feed_log(rollout(input_tokens=700, output_tokens=50))
    assert (reader.usage.input_tokens, reader.usage.output_tokens) == (600, 30)  # while it works, for the caps
    report = reader.report(-9, "")
    assert (report.usage.input_tokens, report.usage.output_tokens) == (600, 30)
    assert report.usage.cost_usd > 0
    assert (report.cumulative["input_tokens"], report.cumulative["output_tokens"]) == (700, 50)


def test_the_model_that_it_chose_by_itself_is_known_from_the_rollout() -> None:
    reader = CodexReader(a_turn(AGENT.model_copy(update={"model": None})))
    reader.feed_log(rollout(input_tokens=700, output_tokens=50))
    assert reader.usage.unpriced_tokens == 750
    reader.feed_log(json.dumps({"type": "turn_context", "payload": {"model": "gpt-5.5", "cwd": "/src/app"}}))
    assert reader.model == "gpt-5.5"
    assert reader.usage.cost_usd > 0
    assert reader.report(0, "").usage.unpriced_tokens == 0


def test_what_the_rollout_has_of_earlier_turns_does_not_count() -> None:
    """They are read a piece at a time, so a sum of theirs would look like one that was begun again."""
    turn = a_turn(AGENT, session=THREAD, previous={"input_tokens": 500.0})
    reader = CodexReader(turn, since=datetime(2026, 11, 21, 10, 30, tzinfo=UTC))

    def stamped(at: str, line: str) -> str:
        return json.dumps({"timestamp": at, **json.loads(line)})

    reader.feed_log(stamped("2026-11-21T10:29:59.999Z", rollout(input_tokens=100)))
    assert reader.usage == Usage()
    reader.feed_log(stamped("2026-11-21T10:30:00.001Z", rollout(input_tokens=600)))
    assert reader.usage.input_tokens == 100


def test_the_rollout_is_found_by_its_thread(tmp_path: Path) -> None:
    reader = CodexReader(a_turn(AGENT, env={"CODEX_HOME": str(tmp_path)}))
    assert reader.log is None
    day = tmp_path / "sessions" / "2026" / "11" / "21"
    day.mkdir(parents=True)
    (day / "rollout-2026-11-21T06-45-00-other.jsonl").touch()
    wanted = day / f"rollout-2026-11-21T06-45-00-{THREAD}.jsonl"
    wanted.touch()
    reader.feed(json.dumps({"type": "thread.started", "thread_id": THREAD}))
    assert reader.log == wanted


def test_figures_that_are_none_count_nothing() -> None:
    for figure in ("NaN", "-Infinity", "null", '"7"', "true", "[]", "9" * 400):
        reader = CodexReader(a_turn(AGENT))
        reader.feed(f'{{"type":"turn.completed","usage":{{"input_tokens":{figure}}}}}')
        assert reader.report(0, "").usage == Usage()


def test_exit_0_is_no_proof() -> None:
    report = judge("sigterm", 0, "Reading additional input from stdin...")
    assert report.end == "unreadable"


def test_bad_flags_fail_with_what_it_said() -> None:
    report = CodexReader(a_turn(AGENT)).report(2, "error: unexpected argument '--max-turns' found\n")
    assert (report.end, report.reason) == ("failed", "exit 2: error: unexpected argument '--max-turns' found")
    assert report.session is None


@given(damaged("codex"), exit_codes, st.text())
def test_no_output_makes_the_reader_raise(output: list[str], exit_code: int | None, stderr: str) -> None:
    reader = CodexReader(a_turn(AGENT, session="s"))
    for line in output:
        reader.feed(line)
        reader.feed_log(line)
    assert reader.report(exit_code, stderr).end
