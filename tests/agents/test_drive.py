"""When a CLI is ended that would not end by itself, or must not go on: with programs that print what Codex prints."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from activities.agents import runtime
from activities.agents.base import Report
from activities.drive import LOG_LINE_LIMIT, Caps, Lines, drive
from activities.sandbox import UNLIMITED, Limits
from activities.settings import AgentSpec
from tests.agents.turns import a_turn

AGENT = AgentSpec(runtime="codex", model="gpt-5.5")
THREAD = '{"type":"thread.started","thread_id":"t-1"}'
RETRY = '{"type":"error","message":"Reconnecting... 1/5 (last status: 429 Too Many Requests, retry after 3600s)"}'
COMPLETED = '{"type":"turn.completed","usage":{"input_tokens":10,"cached_input_tokens":0,"output_tokens":5}}'


def go(
    tmp_path: Path, script: str, caps: Caps | None = None, limits: Limits = UNLIMITED, **changes: Any
) -> tuple[Report, float]:
    """One turn with `script` in the place of codex."""
    program = tmp_path / "bin" / "codex"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    env = {"PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    turn = a_turn(AGENT, folder=tmp_path, env=env, **changes)
    caps = caps or Caps(wall_seconds=60, idle_seconds=30, retry_seconds=1)
    return asyncio.run(drive(runtime("codex"), turn, tmp_path, caps, tmp_path / "lock", limits=limits))


def say(*lines: str) -> str:
    return "; ".join(f"echo '{line}'" for line in lines)


def test_another_session_than_the_wanted_one_is_ended_at_once(tmp_path: Path) -> None:
    report, seconds = go(tmp_path, f"{say(THREAD)}; sleep 60", session="t-0")
    assert (report.end, report.session) == ("lost_session", None)
    assert "another session than t-0" in report.reason
    assert seconds < 30


def test_a_cli_that_is_over_a_limit_has_failed_for_that(tmp_path: Path) -> None:
    report, _ = go(tmp_path, f"{say(THREAD)}; yes >&2", limits=Limits(output=1_000_000))
    assert (report.end, report.session) == ("failed", "t-1")
    assert report.reason.startswith("ended, as it used more than it may: output: 1")


def test_a_cli_that_only_tries_again_is_limited(tmp_path: Path) -> None:
    report, seconds = go(tmp_path, f"{say(THREAD, RETRY)}; sleep 60")
    assert report.end == "limited"
    assert "429 Too Many Requests" in report.reason
    assert report.session == "t-1"
    assert seconds < 30


def test_a_retry_of_something_unknown_is_a_stall(tmp_path: Path) -> None:
    report, _ = go(tmp_path, f"{say(THREAD, RETRY.replace('429 Too Many Requests', '418 Teapot'))}; sleep 60")
    assert report.end == "stalled"
    assert "418 Teapot" in report.reason


def test_one_that_gets_on_again_goes_on(tmp_path: Path) -> None:
    item = '{"type":"item.completed","item":{"type":"agent_message","text":"done"}}'
    report, _ = go(tmp_path, f"{say(THREAD, RETRY, item)}; sleep 2; {say(COMPLETED)}")
    assert (report.end, report.text) == ("done", "done")


@pytest.mark.long
def test_the_silence_after_one_failure_may_be_a_long_answer(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    once = RETRY.replace(", retry after 3600s", "")
    item = '{"type":"item.completed","item":{"type":"agent_message","text":"done"}}'
    report, _ = go(tmp_path / "a", f"{say(THREAD, once, once)}; sleep 4; {say(item, COMPLETED)}")
    assert (report.end, report.text) == ("done", "done")
    report, _ = go(tmp_path / "b", f"{say(THREAD, once)}; sleep 60", Caps(60, idle_seconds=4, retry_seconds=1))
    assert (report.end, "429" in report.reason) == ("limited", True)  # by its being idle


def test_failure_after_failure_is_ended(tmp_path: Path) -> None:
    once = RETRY.replace(", retry after 3600s", "")
    report, seconds = go(tmp_path, f"{say(THREAD)}; while sleep 0.4; do {say(once)}; done")
    assert (report.end, "nothing but retries for 1 s" in report.reason) == ("limited", True)
    assert seconds < 30


def test_failures_with_a_success_between_them_are_no_series(tmp_path: Path) -> None:
    item = '{"type":"item.completed","item":{"type":"agent_message","text":"done"}}'
    once = RETRY.replace(", retry after 3600s", "")
    works = f"for i in 1 2 3 4; do {say(once, item, once)}; sleep 0.6; {say(item)}; done"
    script = f"{say(THREAD)}; {works}; {say(COMPLETED)}"
    assert go(tmp_path, script)[0].end == "done"


def test_silence_is_a_stall_and_the_end_of_the_time_a_time_out(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()
    silent = f"{say(THREAD)}; sleep 60"
    report, _ = go(tmp_path / "a", silent, Caps(wall_seconds=60, idle_seconds=1))
    assert (report.end, report.session) == ("stalled", "t-1")
    report, _ = go(tmp_path / "b", silent, Caps(wall_seconds=1, idle_seconds=60))
    assert report.end == "timeout"
    report, _ = go(tmp_path / "c", silent, Caps(wall_seconds=60, idle_seconds=60, agent_seconds=1))
    assert report.end == "budget"


@pytest.mark.parametrize("caps", [{"cost_usd": 0.5}, {"tokens": 100_000}])
def test_the_budget_is_looked_at_while_it_works(tmp_path: Path, caps: dict[str, Any]) -> None:
    """Codex says nothing of its use meanwhile, but writes it into its own log."""
    counted = {"type": "token_count", "info": {"total_token_usage": {"input_tokens": 900_000, "output_tokens": 10}}}
    entry = json.dumps({"type": "event_msg", "payload": counted})
    rollouts = tmp_path / ".codex" / "sessions" / "2026" / "11" / "21"
    log = rollouts / "rollout-2026-11-21T00-00-00-t-1.jsonl"
    script = f"mkdir -p {rollouts}; {say(THREAD)}; sleep 1; echo '{entry}' >> {log}; sleep 60"
    report, seconds = go(tmp_path, script, Caps(wall_seconds=60, idle_seconds=60, **caps))
    assert report.end == "budget"
    assert report.usage.input_tokens == 900_000
    assert report.usage.cost_usd > 0.5
    assert report.cumulative["input_tokens"] == 900_000
    assert seconds < 30


def test_the_log_of_a_program_is_read_to_its_very_end(tmp_path: Path) -> None:
    """Progress that goes back to its line's beginning is one endless line. The last line has no end."""
    progress = r"yes 'progress 5%' | head -c 9000000 | tr '\n' '\r' >&2"
    noisy = f"echo said; {progress}; printf '\\nusage: %s' '{json.dumps({'input_tokens': 12})}' >&2"
    turn = a_turn(AgentSpec(runtime="command", command=["sh", "-c", noisy]), folder=tmp_path, env=dict(os.environ))
    caps = Caps(wall_seconds=60, idle_seconds=60)
    report, _ = asyncio.run(drive(runtime("command"), turn, tmp_path, caps, tmp_path / "lock"))
    assert (report.end, report.text, report.usage.input_tokens) == ("done", "said", 12)


def test_a_log_is_read_in_pieces_and_of_a_long_line_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "log"
    seen: list[str] = []
    lines = Lines(seen.append)
    long = "x" * (2 * LOG_LINE_LIMIT)
    path.write_text(f"one\n\n{long}\nfour")
    more = [lines.read(path)]
    assert (more, seen) == ([True], ["one", ""])
    more += [lines.read(path), lines.read(path)]
    assert (more[1:], seen[2:]) == ([True, False], ["x" * LOG_LINE_LIMIT])
    with path.open("a") as file:
        file.write("th\n")
    assert (lines.read(path), seen[3:]) == (False, ["fourth"])
    lines.finish()
    assert len(seen) == 4


@pytest.mark.long
def test_a_result_counts_although_the_program_does_not_exit(tmp_path: Path) -> None:
    report, seconds = go(tmp_path, f"{say(THREAD, COMPLETED)}; sleep 60")
    assert report.end == "done"
    assert seconds < 40


def test_a_program_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    turn = a_turn(AGENT, folder=tmp_path, env={"PATH": ""})
    caps = Caps(wall_seconds=60, idle_seconds=60)
    report, _ = asyncio.run(drive(runtime("codex"), turn, tmp_path, caps, tmp_path / "lock"))
    assert report.end == "failed"
    assert "cannot start codex" in report.reason
