"""Claude Code's flags and output; the output was recorded from the real CLI."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.agents import runtime
from activities.agents.base import Report, spent, with_estimate
from activities.agents.claude_code import ClaudeReader
from activities.contracts import Usage
from activities.settings import AgentSpec
from tests.agents.turns import SAMPLES, a_turn, damaged, exit_codes, play

CLAUDE = runtime("claude-code")
AGENT = AgentSpec(model="sonnet", reasoning="high", max_turns=7)
NOW = 1795242593.0
"""An hour before the reset times in the samples."""


def judge(sample: str, exit_code: int | None = 1, stderr: str = "", **changes: object) -> Report:
    return play(ClaudeReader(a_turn(AGENT, **changes), now=lambda: NOW), f"claude/{sample}", exit_code, stderr)


def test_cold_start() -> None:
    launch = CLAUDE.launch(a_turn(AGENT, budget_usd=0.5))
    flags = dict(zip(launch.argv[7:-1:2], launch.argv[8::2], strict=True))
    assert launch.argv[:2] == ["claude", "-p"]
    assert launch.argv[6] == "--include-partial-messages"
    assert flags == {
        "--session-id": "0b1e7c9a-3f3e-4c43-9d39-1f4c4d7b8a11",
        "--max-turns": "7",
        "--model": "sonnet",
        "--effort": "high",
        "--max-budget-usd": "0.500000",
        "--append-system-prompt": "Stay in the worktree.",
        "--system-prompt-snapshot": "off",
    }
    assert launch.stdin == "Do the task."
    assert ("IS_SANDBOX" in launch.env) == (os.geteuid() == 0)


def test_resume_has_the_old_session_and_no_new_one() -> None:
    argv = CLAUDE.launch(a_turn(AGENT, session="old")).argv
    assert argv[argv.index("--resume") + 1] == "old"
    assert "--session-id" not in argv


def test_instructions_too_long_for_an_argument_go_before_the_prompt() -> None:
    long = "é" * 60_000
    cold, warm = (CLAUDE.launch(a_turn(AGENT, system=long, session=session)) for session in (None, "old"))
    assert "--append-system-prompt" not in cold.argv
    assert cold.stdin == f"{long}\n\nDo the task."
    assert warm.stdin == "Do the task."


@pytest.mark.parametrize("session", [None, "old"])
def test_no_word_of_the_prompt_is_a_file_or_a_command(session: str | None) -> None:
    stdin = CLAUDE.launch(a_turn(AGENT, prompt="/compact @/etc/passwd", session=session)).stdin
    assert stdin.endswith("\n/compact \\@/etc/passwd")
    assert CLAUDE.launch(a_turn(AGENT, prompt="/compact", session=session)).stdin == "\n/compact"


def test_a_missing_cli_is_told_with_its_remedy(tmp_path: Path) -> None:
    problem = CLAUDE.problem(AGENT, {"PATH": str(tmp_path)})
    assert problem is not None
    assert "npm install" in problem


def test_a_turn_that_went_well() -> None:
    report = judge("happy", 0)
    assert report.end == "done"
    assert report.text == "All done.\nCOMPLETE_AND_READY_FOR_MERGE\n"
    assert report.reason == ""
    assert report.session == "698234c7-4ec9-4c88-89ed-859836e91800"
    assert report.usage.cost_usd == pytest.approx(0.01435)
    assert report.usage.input_tokens == 1046 + 730 + 2980
    assert (report.usage.cached_tokens, report.usage.output_tokens) == (2980, 296)


def test_what_it_says_and_does_is_followed() -> None:
    reader = ClaudeReader(a_turn(AGENT))
    seen = []
    for line in (SAMPLES / "claude/happy.jsonl").read_text().splitlines():
        reader.feed(line)
        seen.append((reader.last, reader.finished))
    assert ("Bash git add -A && git commit -qm 'agent work' && git log --oneline | head -3", False) in seen
    assert seen[-1] == ("All done. COMPLETE_AND_READY_FOR_MERGE", True)


def test_the_final_text_is_the_agents_own() -> None:
    def says(text: str, **more: object) -> str:
        message = {"content": [{"type": "text", "text": text}], **more}
        return json.dumps({"type": "assistant", "message": message, "parent_tool_use_id": more.get("parent")})

    reader = ClaudeReader(a_turn(AGENT))
    for line in (says("mine"), says("a sub-agent's", parent="toolu_1"), says("API Error", model="<synthetic>")):
        reader.feed(line)
    assert reader.report(143, "").text == "mine"
    assert reader.last == "a sub-agent's"


def test_usage_of_a_resumed_turn_is_the_difference() -> None:
    first = judge("resumed", 0)
    second = judge("resumed-again", 0, session="x", previous=first.cumulative)
    assert first.usage.cost_usd == pytest.approx(0.0016)
    assert second.cumulative["cost_usd"] == pytest.approx(0.0024)
    assert second.usage.cost_usd == pytest.approx(0.0008)
    assert (second.usage.input_tokens, second.usage.output_tokens) == (100, 20)


def test_a_counter_that_fell_has_started_again() -> None:
    report = judge("resumed", 0, session="x", previous={"cost_usd": 5.0, "input_tokens": 9e6})
    assert report.usage.cost_usd == pytest.approx(0.0016)


def after_a_kill(told: float, own: int, total: float) -> Report:
    """Of a turn of `own` tokens, when the one before was estimated at $0.1 and 30,000 tokens, and `told` before that.

    300,000 tokens are a dollar throughout.
    """

    def line(**event: object) -> str:
        return json.dumps({"session_id": "s", **event})

    killed = ClaudeReader(a_turn(AGENT, session="s", previous={"cost_usd": told, "input_tokens": told * 300_000}))
    killed.feed(
        line(type="assistant", message={"id": "a", "model": "claude-sonnet-4-5", "usage": {"input_tokens": 30_000}})
    )
    previous = killed.report(-9, "").cumulative
    assert previous["cost_usd"] == told
    assert previous["estimated_cost_usd"] > 0
    previous["estimated_cost_usd"] = 0.1  # whatever the list says today
    reader = ClaudeReader(a_turn(AGENT, session="s", previous=previous))
    reader.feed(
        line(type="assistant", message={"id": "b", "model": "claude-sonnet-4-5", "usage": {"input_tokens": own}})
    )
    models = {"claude-sonnet": {"inputTokens": round(total * 300_000)}}
    reader.feed(line(type="result", subtype="success", total_cost_usd=total, modelUsage=models))
    report = reader.report(0, "")
    assert report.cumulative["cost_usd"] == total
    assert "estimated_cost_usd" not in report.cumulative
    return report


@pytest.mark.parametrize(
    ("own", "total", "cost"),
    [
        (1_320, 0.2044, 0.0044),  # the killed turn is lost from the sums
        (60_000, 0.4, 0.2),  # so it is although this turn was larger
        (1_320, 0.3044, 0.0044),  # it is in the sums
        (60_000, 0.5, 0.2),
        (1_320, 0.2952, 0.0),  # it is, but was cheaper than estimated
        (1_320, 0.0044, 0.0044),  # they were begun again
    ],
)
def test_a_killed_turn_counts_once(own: int, total: float, cost: float) -> None:
    report = after_a_kill(0.2, own, total)
    assert report.usage.cost_usd == pytest.approx(cost)


def test_estimates_of_several_killed_turns_add_up() -> None:
    once = with_estimate({"cost_usd": 1.0}, Usage(cost_usd=0.25, input_tokens=10))
    twice = with_estimate(once, Usage(cost_usd=0.5, input_tokens=20))
    assert twice == {"cost_usd": 1.0, "estimated_cost_usd": 0.75, "estimated_input_tokens": 30.0}
    assert spent({"cost_usd": 2.0, "input_tokens": 37.0}, twice) == {"cost_usd": 0.25, "input_tokens": 7.0}


def test_rounding_is_no_new_beginning() -> None:
    report = judge("resumed", 0, session="x", previous={"cost_usd": 0.0016001, "input_tokens": 200.0})
    assert (report.usage.cost_usd, report.usage.input_tokens) == (0, 0)
    assert report.cumulative["cost_usd"] == pytest.approx(0.0016)


def test_what_it_used_is_known_while_it_works() -> None:
    reader = ClaudeReader(a_turn(AGENT))
    seen = []
    for line in (SAMPLES / "claude/happy.jsonl").read_text().splitlines():
        reader.feed(line)
        seen.append(reader.usage.input_tokens)
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    assert seen[-1] == 1046 + 730 + 2980


def test_figures_of_another_session_do_not_count_on_a_cold_start() -> None:
    assert judge("resumed", 0, previous={"cost_usd": 0.001}).usage.cost_usd == pytest.approx(0.0016)


@pytest.mark.parametrize(
    ("sample", "end", "reason"),
    [
        ("max-turns", "max_turns", "Reached maximum number of turns (2)"),
        ("budget", "budget", "Reached maximum budget ($0.001)"),
        ("429", "limited", "This request would exceed your organization's rate limit"),
        ("429-subscription", "limited", "not your usage limit"),
        ("529", "limited", "529 Overloaded"),
        ("usage-limit", "limited", "You've hit your 5-hour limit"),
        ("401", "login", "Invalid API key"),
        ("403", "login", "Failed to authenticate"),
        ("no-login", "login", "Not logged in"),
        ("credit", "credit", "Credit balance is too low"),
        ("500", "limited", "API Error: 500"),
        ("drop", "limited", "Connection dropped"),
        ("context", "context_full", "Prompt is too long"),
        ("sigint", "failed", "ede_diagnostic"),
    ],
)
def test_ends(sample: str, end: str, reason: str) -> None:
    report = judge(sample)
    assert report.end == end
    assert reason in report.reason
    assert "\n" not in report.reason
    assert report.session


def test_a_limit_with_a_reset_time_says_how_long() -> None:
    assert judge("usage-limit").retry_after_seconds == 3600.0
    assert judge("429-subscription").retry_after_seconds is None
    assert judge("429").retry_after_seconds is None


@pytest.mark.parametrize(("status", "seconds"), [(429, 100.0), (None, 100.0), (500, None), (529, None)])
def test_the_reset_time_of_a_limit_is_not_that_of_another_fault(status: int | None, seconds: float | None) -> None:
    reader = ClaudeReader(a_turn(AGENT), now=lambda: NOW)
    info = {"status": "rejected", "resetsAt": NOW + 100}
    said = {"subtype": "success", "is_error": True, "result": "Overloaded", "api_error_status": status}
    reader.feed(json.dumps({"type": "rate_limit_event", "rate_limit_info": info}))
    reader.feed(json.dumps({"type": "result", **said}))
    report = reader.report(1, "")
    assert (report.end, report.retry_after_seconds) == ("limited", seconds)


def test_a_warning_before_a_limit_is_no_limit() -> None:
    report = judge("limit-warning", 0)
    assert (report.end, report.retry_after_seconds) == ("done", None)


def test_exit_0_is_no_proof() -> None:
    assert judge("sigint", 0).end == "failed"
    assert judge("sigterm", 0).end == "unreadable"


def test_a_limit_is_no_success_even_where_it_is_called_no_error() -> None:
    reader = ClaudeReader(a_turn(AGENT))
    reader.feed(json.dumps({"type": "result", "subtype": "error_max_turns", "is_error": False}))
    assert reader.report(0, "").end == "max_turns"


def test_the_result_outweighs_how_the_process_ended() -> None:
    """A background task keeps it alive after its result; then it is ended."""
    for exit_code in (None, -15, 143):
        report = judge("background-task", exit_code)
        assert (report.end, report.text) == ("done", "done COMPLETE")


@pytest.mark.parametrize(("exit_code", "reason"), [(143, "SIGTERM"), (-15, "SIGTERM"), (-9, "SIGKILL")])
def test_killed_in_the_middle(exit_code: int, reason: str) -> None:
    report = judge("sigterm", exit_code, session="s", previous={"cost_usd": 1.0})
    assert (report.end, report.reason) == ("failed", f"killed by {reason}")
    assert report.session == "99fcecd6-c6b0-4ec1-8ea0-2b61bb9112c1"
    used = Usage(input_tokens=100, output_tokens=1)  # of the one request that was answered; its price is the list's
    assert report.usage.model_copy(update={"cost_usd": 0.0}) == used
    assert 0 < report.usage.cost_usd < 0.01
    ours = {"cost_usd": report.usage.cost_usd, "input_tokens": 100, "output_tokens": 1}
    told = {"cost_usd": 1.0}
    assert report.cumulative == pytest.approx({**told, **{f"estimated_{name}": value for name, value in ours.items()}})


def test_a_time_out() -> None:
    assert judge("sigterm", None).end == "timeout"


@pytest.mark.parametrize(
    ("error", "status", "end"),
    [("rate_limit", 429, "limited"), ("authentication_failed", 401, "login"), ("unknown", None, "timeout")],
)
def test_a_time_out_while_it_tries_again_is_what_it_tried_again_for(error: str, status: int | None, end: str) -> None:
    reader = ClaudeReader(a_turn(AGENT))
    reader.feed(json.dumps({"type": "system", "subtype": "api_retry", "error_status": status, "error": error}))
    assert reader.report(None, "").end == end


def test_an_answer_that_arrives_ends_the_retries() -> None:
    def partial(**event: object) -> str:
        return json.dumps({"type": "stream_event", "event": event, "session_id": "s"})

    reader = ClaudeReader(a_turn(AGENT))
    retry = {"type": "system", "subtype": "api_retry", "error_status": 529, "error": "overloaded"}
    reader.feed(json.dumps({**retry, "retry_delay_ms": 570}))
    assert (reader.retrying, reader.retries) == ("retries: overloaded (529)", 1)
    reader.feed(json.dumps({**retry, "retry_delay_ms": 3_600_000}))
    assert (reader.retrying, reader.retries) == ("retries: overloaded (529); try again in 3600s", 2)
    reader.feed(partial(type="message_start", message={"id": "a", "usage": {"input_tokens": 7}}))
    assert reader.retrying
    reader.feed(partial(type="content_block_delta", delta={"type": "text_delta", "text": "Half"}))
    assert reader.retrying == ""
    assert (reader.last, reader.usage) == ("retries: overloaded (529); try again in 3600s", Usage())


def test_the_newest_figures_of_a_message_count() -> None:
    def used(message: str, tokens: int) -> str:
        counted = {"input_tokens": 100, "output_tokens": tokens}
        return json.dumps({"type": "assistant", "message": {"id": message, "model": "no-such", "usage": counted}})

    reader = ClaudeReader(a_turn(AGENT))
    for line in (used("a", 1), used("b", 5), used("a", 30), used("a", 30)):
        reader.feed(line)
    assert reader.usage == Usage(input_tokens=200, output_tokens=35, unpriced_tokens=235)


def test_a_refusal() -> None:
    reader = ClaudeReader(a_turn(AGENT))
    said = {"type": "result", "subtype": "success", "is_error": True, "stop_reason": "refusal", "result": "I cannot."}
    reader.feed(json.dumps(said))
    assert reader.report(1, "").end == "refused"


def test_a_session_that_is_not_there() -> None:
    assert judge("unknown-session", session="x").end == "lost_session"
    reader = ClaudeReader(a_turn(AGENT, session="x"))
    warnings = "some warning\n" * 100
    assert reader.report(1, warnings + "No conversation found with session ID: x\n").end == "lost_session"


def test_an_agent_that_talks_about_lost_sessions_has_not_lost_its_own() -> None:
    reader = ClaudeReader(a_turn(AGENT, session="x"))
    reader.feed(json.dumps({"type": "result", "subtype": "success", "result": "Fixed: No conversation found"}))
    assert reader.report(0, "").end == "done"


def test_bad_flags_fail_with_what_it_said() -> None:
    report = ClaudeReader(a_turn(AGENT)).report(1, "error: unknown option '--no-such-flag'\n")
    assert (report.end, report.reason) == ("failed", "exit 1: error: unknown option '--no-such-flag'")
    assert report.session is None


@given(damaged("claude"), exit_codes, st.text())
def test_no_output_makes_the_reader_raise(output: list[str], exit_code: int | None, stderr: str) -> None:
    reader = ClaudeReader(a_turn(AGENT, session="s"))
    for line in output:
        reader.feed(line)
    assert reader.report(exit_code, stderr).end
