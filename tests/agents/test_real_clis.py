"""The real CLIs from npm, driven as the worker drives them, against a scripted model server.

What is asserted here is what the adapters rely on: after an upgrade of a CLI these say what has changed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from activities.agents.signals import executor_signal
from tests.agents.desk import AGENTS, Desk
from tests.models import Step, bash, edit, say, script, use, write

pytestmark = pytest.mark.agents

DONE = "All done.\nCOMPLETE_AND_READY_FOR_MERGE\n"


@pytest.fixture
def desk(agent: str, tmp_path: Path) -> Desk:
    return Desk(AGENTS[agent], tmp_path)


both = pytest.mark.parametrize("agent", list(AGENTS))
claude = pytest.mark.parametrize("agent", ["claude-code"])


@both
def test_edits_commits_and_says_so(desk: Desk) -> None:
    steps = script(
        use(edit("hello.txt", "hello world", "hello brave world")),
        use(write("new.txt", "new\n")),
        use(bash("git add -A && git commit -qm 'work of the agent'")),
        say(DONE),
    )
    report = desk.turn(steps, prompt="Be brave.", system="STANDING-ORDER-77")
    assert (report.end, report.reason) == ("done", "")
    assert executor_signal(report.text) == ("complete", "")
    assert report.session
    assert desk.git("log", "--format=%s") == "work of the agent\nfirst"
    assert desk.git("status", "--porcelain") == ""
    assert (desk.repo / "hello.txt").read_text() == "hello brave world\nline two\n"
    assert (desk.repo / "new.txt").read_text() == "new\n"
    request = desk.server.requests[0]
    assert request.prompt == "Be brave."
    assert "STANDING-ORDER-77" in request.system
    assert "run_in_background" not in json.dumps(request.body["tools"])
    assert any("hello.txt" in shown for shown in desk.shown)
    assert len(desk.server.requests) == 4
    assert (report.usage.input_tokens, report.usage.output_tokens) == (400, 80)
    assert report.usage.cost_usd > 0


@both
def test_resume_goes_on_in_the_session_and_counts_its_own_use(desk: Desk) -> None:
    first = desk.turn([say("one")], prompt="The first thing.")
    desk.turn([say("else")], prompt="Somebody else, here too.")
    second = desk.turn([say("two")], prompt="The second.", session=first.session, previous=first.cumulative)
    assert (second.end, second.text) == ("done", "two")
    assert second.session == first.session
    assert "The first thing." in json.dumps(desk.server.requests[0].body)
    assert "Somebody else" not in json.dumps(desk.server.requests[0].body)
    assert (second.usage.input_tokens, second.usage.output_tokens) == (100, 20)
    assert second.usage.cost_usd == pytest.approx(first.usage.cost_usd)


@both
def test_a_session_that_does_not_exist_is_lost_and_costs_nothing(desk: Desk) -> None:
    report = desk.turn([], session="99999999-2222-4333-8444-555555555555")
    assert (report.end, report.session) == ("lost_session", None)
    assert desk.server.requests == []


@both
def test_a_broken_session_is_lost(desk: Desk) -> None:
    first = desk.turn([say("one")])
    [file] = [path for path in desk.home.rglob("*.jsonl") if str(first.session) in path.name]
    file.write_text("{{{\n")
    assert desk.turn([], session=first.session).end == "lost_session"


@both
def test_a_usage_limit_says_when_it_ends(desk: Desk) -> None:
    if desk.agent.runtime == "claude-code":  # only a subscription has one
        desk.env = {"ANTHROPIC_API_KEY": "", "CLAUDE_CODE_OAUTH_TOKEN": "DUMMY_OAUTH_TOKEN"}
    report = desk.turn(lambda _: Step(fault="usage_limit", resets_in=5_000))
    assert report.end == "limited"
    assert "limit" in report.reason
    assert report.retry_after_seconds is not None
    assert 4_000 < report.retry_after_seconds <= 5_060  # Codex tells the minute only
    desk.env = {}
    assert desk.turn([say("on")], session=report.session).text == "on"


@both
def test_no_login(desk: Desk) -> None:
    desk.env = {"ANTHROPIC_API_KEY": "", "OPENAI_API_KEY": ""}
    report = desk.turn([])
    assert report.end == "login"


@both
def test_long_instructions_reach_the_model(desk: Desk) -> None:
    report = desk.turn([say("read")], system="a rule\n" * 30_000 + "THE-LAST-RULE", prompt="Do it.")
    assert report.text == "read"
    assert "THE-LAST-RULE" in desk.server.requests[0].prompt
    assert desk.server.requests[0].prompt.endswith("Do it.")


@claude
def test_most_turns_are_no_failure_and_resumable(desk: Desk) -> None:
    desk.agent = desk.agent.model_copy(update={"max_turns": 1})
    steps = script(use(bash("echo one > one.txt")), say(DONE))
    report = desk.turn(steps)
    assert (report.end, report.reason) == ("max_turns", "Reached maximum number of turns (1)")
    assert (desk.repo / "one.txt").exists()
    resumed = desk.turn([say(DONE)], session=report.session, previous=report.cumulative)
    assert (resumed.end, resumed.usage.input_tokens) == ("done", 100)


@claude
def test_a_budget_that_is_used_up(desk: Desk) -> None:
    report = desk.turn(lambda _: use(bash("true")), budget_usd=0.000001)
    assert report.end == "budget"
    assert report.usage.cost_usd > 0


@claude
def test_a_reused_session_id_fails_with_the_reason(desk: Desk) -> None:
    first = desk.turn([say("one")])
    assert first.session
    report = desk.turn([], new_session=first.session)
    assert report.end == "failed"
    assert "already in use" in report.reason
