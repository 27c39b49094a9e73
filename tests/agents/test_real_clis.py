"""The real CLIs from npm, driven as the worker drives them, against a scripted model server.

What is asserted here is what the adapters rely on: after an upgrade of a CLI these say what has changed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from activities.agents import runtime
from activities.agents.signals import executor_signal
from activities.drive import Caps
from tests.agents.desk import AGENTS, CLIS, Desk, path
from tests.models import Request, Step, bash, edit, refuse, say, script, use, write

pytestmark = pytest.mark.agents

DONE = "All done.\nCOMPLETE_AND_READY_FOR_MERGE\n"


@pytest.fixture
def desk(agent: str, tmp_path: Path) -> Desk:
    return Desk(AGENTS[agent], tmp_path)


both = pytest.mark.parametrize("agent", list(AGENTS))
REST = ["gemini", "opencode", "qwen"]
pair = pytest.mark.parametrize("agent", ["claude-code", "codex"])
"""For what `test_real_ends` shows of the others."""
claude = pytest.mark.parametrize("agent", ["claude-code"])
gemini = pytest.mark.parametrize("agent", ["gemini"])
with_session_file = pytest.mark.parametrize("agent", [name for name in AGENTS if name != "opencode"])
"""opencode has a database."""


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
    if desk.agent.runtime == "gemini":  # nothing can be added to its system prompt
        assert request.prompt == "STANDING-ORDER-77\n\nBe brave."
    else:
        assert request.prompt == "Be brave."
        assert "STANDING-ORDER-77" in request.system
    if desk.agent.runtime != "qwen":  # its sub-agents can; it waits for them
        assert "run_in_background" not in json.dumps(request.body["tools"])
    assert any("hello.txt" in shown for shown in desk.shown)
    assert len(desk.server.requests) == 4
    assert (report.usage.input_tokens, report.usage.output_tokens) == (400, 80)
    assert report.usage.cost_usd > 0


@pytest.mark.parametrize(
    "agent", ["claude-code", "codex", *(pytest.param(name, marks=pytest.mark.long) for name in REST)]
)
def test_its_model_s_host_is_enough(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    desk.only_the_model = True
    program = runtime(desk.agent.runtime).program
    wrapper = desk.repo / "bin" / program  # the model is on 127.0.0.1, which is the sandbox's own but for a proxy
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nNO_PROXY= no_proxy= exec {CLIS / program} "$@"\n')
    wrapper.chmod(0o755)
    desk.env = {"PATH": f"{wrapper.parent}:{path()}"}
    report = desk.turn(script(use(bash("curl -sS http://example.org/")), say(DONE)))
    assert (report.end, report.reason) == ("done", "")
    assert "example.org:80" in capfd.readouterr().out


@pair
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


@pair
def test_a_session_that_does_not_exist_is_lost_and_costs_nothing(desk: Desk) -> None:
    report = desk.turn([], session="99999999-2222-4333-8444-555555555555")
    assert (report.end, report.session) == ("lost_session", None)
    assert desk.server.requests == []


@with_session_file
def test_a_broken_session_is_lost(desk: Desk) -> None:
    first = desk.turn([say("one")])
    files = [path for path in desk.box.rglob("*.jsonl") if "usage" not in path.name]
    [file] = [path for path in files if str(first.session) in path.read_text()]
    file.write_text("{{{\n")
    assert desk.turn([], session=first.session).end == "lost_session"


@pair
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


@pair
def test_no_login(desk: Desk) -> None:
    desk.env = {"ANTHROPIC_API_KEY": "", "OPENAI_API_KEY": ""}
    report = desk.turn([])
    assert report.end == "login"


@both
def test_long_instructions_reach_the_model(desk: Desk) -> None:
    report = desk.turn([say("read")], system="a rule\n" * 30_000 + "THE-LAST-RULE", prompt="Do it.")
    assert report.text == "read"
    [request] = desk.server.requests
    assert "THE-LAST-RULE" in (request.system if desk.agent.runtime == "opencode" else request.prompt)
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


@pytest.mark.parametrize("agent", ["claude-code", "gemini", "qwen"])
def test_a_reused_session_id_fails_with_the_reason(desk: Desk) -> None:
    first = desk.turn([say("one")])
    assert first.session
    report = desk.turn([], new_session=first.session)
    assert report.end == "failed"
    assert "already " in report.reason


@pytest.mark.parametrize("agent", ["claude-code", "gemini", "qwen"])  # the others expand nothing
def test_at_signs_and_slashes_name_no_files_and_no_commands(desk: Desk) -> None:
    outside = desk.folder / "outside.txt"
    outside.write_text("SECRET-4711\n")
    prompt = f"/compact for somebody@hello.txt, @hello, @hello.txt, @{outside} and @@ -1 +1 @@"
    report = desk.turn([say("read")], system="", prompt=prompt)
    assert report.text == "read"
    [request] = desk.server.requests
    assert request.prompt.replace("\\@", "@").endswith(prompt)
    assert "line two" not in json.dumps(request.body)
    assert "SECRET-4711" not in json.dumps(request.body)


@pytest.mark.parametrize("agent", ["codex"])
def test_its_own_choice_of_a_model_has_a_price(desk: Desk) -> None:
    desk.agent = desk.agent.model_copy(update={"model": None})
    first = desk.turn([say("one")])
    second = desk.turn([say("two")], session=first.session, previous=first.cumulative)
    for report in (first, second):
        assert report.model
        assert report.usage.cost_usd > 0
        assert (report.usage.input_tokens, report.usage.unpriced_tokens) == (100, 0)


@claude
def test_a_long_answer_is_seen_to_arrive(desk: Desk) -> None:
    report = desk.turn([refuse(529), say("one word after the other"), say("never asked")])
    assert (report.end, report.text) == ("done", "one word after the other")
    assert (report.usage.input_tokens, report.usage.output_tokens) == (100, 20)
    [output] = (desk.folder / "turns").glob("*/stdout.log")
    kinds = [json.loads(line).get("event", {}).get("type") for line in output.read_text().splitlines()]
    assert "content_block_delta" in kinds


@gemini
def test_a_request_that_would_not_fit_is_a_full_context(desk: Desk) -> None:
    """It makes none, says nothing, and calls that a success."""
    reads = Step(calls=(bash("seq 3000"),), input_tokens=1_048_500)
    report = desk.turn(script(reads, say("never asked")))
    assert (report.end, len(desk.server.requests)) == ("context_full", 1)


@gemini
def test_a_broken_answer_counts_once(desk: Desk) -> None:
    """It asks again, and says both on its output."""
    report = desk.turn([Step(text="VERDICT: APPR", fault="drop"), say("VERDICT: NEEDS_CHANGES")])
    assert (report.end, report.text) == ("done", "VERDICT: NEEDS_CHANGES")
    assert report.usage.input_tokens == 200


@gemini
def test_a_failure_in_the_middle_leaves_a_session_to_go_on_with(desk: Desk) -> None:
    first = desk.turn([use(bash("echo half")), Step(fault="usage_limit")], prompt="The first thing.")
    assert first.end == "limited"
    second = desk.turn([say("on")], session=first.session)
    assert (second.text, second.session) == ("on", first.session)
    assert "The first thing." in json.dumps(desk.server.requests[0].body)


@pytest.mark.parametrize("agent", ["gemini", "opencode", "qwen"])
def test_a_session_of_another_directory_is_lost(desk: Desk) -> None:
    first = desk.turn([say("one")])
    desk.repo = desk.repo.rename(desk.folder / "elsewhere")
    assert desk.turn([], session=first.session).end == "lost_session"


@gemini
def test_its_user_s_own_limit_of_turns(desk: Desk) -> None:
    settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}, "model": {"maxSessionTurns": 1}}
    home = desk.folder / "limited"
    (home / ".gemini").mkdir(parents=True)
    (home / ".gemini" / "settings.json").write_text(json.dumps(settings))
    desk.env = {"HOME": str(home)}
    report = desk.turn(lambda _: use(bash("true")))
    assert (report.end, len(desk.server.requests)) == ("max_turns", 1)
    assert report.session


@both
def test_a_budget_ends_the_running_turn_at_its_next_message(desk: Desk) -> None:
    """Also where the CLI says nothing of its use in its output: then its own log tells."""
    desk.caps = Caps(wall_seconds=60, idle_seconds=30, tokens=120_000)

    def work(_: Request) -> Step:
        command = (
            f"python3 -c 'import time; time.sleep(1)  # {len(desk.server.requests)}'"  # the same each time is a loop
        )
        return replace(use(bash(command)), input_tokens=50_000)

    report = desk.turn(work)
    assert report.end == "budget", report
    assert report.usage.tokens >= 120_000
    assert report.session
    assert len(desk.server.requests) <= 9  # Gemini's telemetry comes up to five seconds late
