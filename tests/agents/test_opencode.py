"""opencode's flags, output and log; all were recorded from the real CLI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.agents import runtime
from activities.agents.base import Report, judged
from activities.agents.opencode import OpenCodeReader
from activities.contracts import Usage
from activities.settings import AgentSpec
from tests.agents.turns import SAMPLES, a_turn, damaged, exit_codes, play

OPENCODE = runtime("opencode")
AGENT = AgentSpec(runtime="opencode", model="test/deepseek-chat", reasoning="low")
SESSION = "ses_e024e4da4ffeWNSknmAd42DHhh"
"""Of the sample `happy`."""

LOG = "timestamp=2026-11-21T10:14:15.487Z level=INFO run=6721dd38 message="
FAILED = (
    'timestamp=2026-11-21T10:14:15.487Z level=ERROR run=6721dd38 message="stream error" providerID=test '
    f"modelID=deepseek-chat session.id={SESSION} small=false agent=build mode=primary "
    'error.error="AI_APICallError: {}"'
)
NO_MODEL = (
    "timestamp=2026-11-21T10:20:04.947Z level=ERROR run=6721dd38 message=failed "
    'cause="ProviderModelNotFoundError: Model not found: anthropic/claude-sonnet-4-5. Did you mean: {}?\\n    at x"'
)


def a_reader(**changes: object) -> OpenCodeReader:
    return OpenCodeReader(a_turn(AGENT, **changes))


def judge(sample: str, exit_code: int | None = 1, stderr: str = "", **changes: object) -> Report:
    return play(a_reader(**changes), f"opencode/{sample}", exit_code, stderr)


def lines(sample: str) -> list[str]:
    return (SAMPLES / "opencode" / f"{sample}.jsonl").read_text().splitlines()


def test_cold_start(tmp_path: Path) -> None:
    launch = OPENCODE.launch(a_turn(AGENT, folder=tmp_path))
    assert launch.argv == [
        *"opencode run --format json --auto --print-logs --log-level INFO --title".split(),
        *("task-42 executor", "-m", "test/deepseek-chat", "--variant", "low"),
    ]
    assert launch.stdin == "Do the task."
    [path] = json.loads(launch.env["OPENCODE_CONFIG_CONTENT"])["instructions"]
    assert Path(path).read_text() == "Stay in the worktree."


def test_resume(tmp_path: Path) -> None:
    argv = OPENCODE.launch(a_turn(AGENT, session=SESSION, folder=tmp_path)).argv
    assert argv[argv.index("-s") + 1] == SESSION
    assert "--title" not in argv


def test_the_configuration_of_the_environment_stays(tmp_path: Path) -> None:
    theirs = {"instructions": ["RULES.md"], "share": "disabled"}
    env = {"OPENCODE_CONFIG_CONTENT": json.dumps(theirs)}
    launch = OPENCODE.launch(a_turn(AGENT, folder=tmp_path, env=env))
    config = json.loads(launch.env["OPENCODE_CONFIG_CONTENT"])
    assert config == {"instructions": ["RULES.md", str(tmp_path / "instructions.md")], "share": "disabled"}


@pytest.mark.parametrize(("worker", "agent"), [("", "{}"), ('{"share": "disabled" /* quiet */}', None)])
def test_where_no_configuration_can_be_added_the_instructions_go_before_the_prompt(
    worker: str, agent: str | None
) -> None:
    name = "OPENCODE_CONFIG_CONTENT"
    spec = AGENT.model_copy(update={"env": {name: agent} if agent else {}})
    launch = OPENCODE.launch(a_turn(spec, env={name: worker} if worker else {}))
    assert "OPENCODE_CONFIG_CONTENT" not in launch.env
    assert launch.stdin == "Stay in the worktree.\n\nDo the task."


@pytest.mark.parametrize(
    ("model", "vendor"),
    [("anthropic/claude-sonnet-4-5", "anthropic"), ("openrouter/qwen/qwen3-max", "openrouter"), (None, "opencode")],
)
def test_the_provider_is_the_vendor(model: str | None, vendor: str) -> None:
    assert OPENCODE.vendor(AGENT.model_copy(update={"model": model})) == vendor


def test_a_missing_cli_is_told_with_its_remedy(tmp_path: Path) -> None:
    problem = OPENCODE.problem(AGENT, {"PATH": str(tmp_path)})
    assert problem is not None
    assert "npm install" in problem


def test_a_turn_that_went_well() -> None:
    report = judge("happy", 0)
    assert (report.end, report.reason) == ("done", "")
    assert report.text == "All done.\nCOMPLETE_AND_READY_FOR_MERGE\n"
    assert report.session == SESSION
    assert report.usage.model_copy(update={"cost_usd": 0}) == Usage(
        input_tokens=300, cached_tokens=40, output_tokens=60
    )
    assert report.usage.cost_usd > 0  # of the price list


def test_the_cost_that_it_tells_counts() -> None:
    reader = a_reader()
    tokens = {"input": 10, "output": 5, "reasoning": 2, "cache": {"read": 30, "write": 4}}
    reader.feed(json.dumps({"type": "step_finish", "part": {"reason": "stop", "tokens": tokens, "cost": 0.25}}))
    assert reader.usage == Usage(input_tokens=44, cached_tokens=30, output_tokens=7, cost_usd=0.25)


def test_what_it_says_and_does_is_followed() -> None:
    reader = a_reader()
    seen = []
    for line in lines("happy"):
        reader.feed(line)
        seen.append(reader.last)
    assert "edit hello.txt" in seen
    assert "bash git status --short" in seen
    assert seen[-1] == "All done. COMPLETE_AND_READY_FOR_MERGE"


def test_its_log_says_that_the_turn_is_over() -> None:
    """It may then be ended; that it was is no fault."""
    reader = a_reader()
    for line in lines("happy"):
        reader.feed(line)
    assert not reader.finished
    reader.feed_log(f'{LOG}"exiting loop" session.id=ses_of_a_subagent')
    assert not reader.finished
    reader.feed_log(f'{LOG}"exiting loop" session.id={SESSION}')
    assert reader.finished
    assert reader.report(None, "").end == "done"


def test_killed_after_a_step_it_is_not_done() -> None:
    """The summary of a compaction ends by `stop` too."""
    assert judge("happy", -9).reason == "killed by SIGKILL"


@pytest.mark.parametrize(
    ("sample", "end", "reason"),
    [
        ("401", "login", "so the test wants"),
        ("credit", "credit", "You exceeded your current quota"),
        ("drop", "limited", "connection closed in the middle of an answer, 5 times in a row"),
        ("context", "context_full", "maximum context length is 200000"),
    ],
)
def test_ends(sample: str, end: str, reason: str) -> None:
    report = judge(sample)
    assert report.end == end
    assert reason in report.reason
    assert report.session


@pytest.mark.parametrize("sample", ["drop", "context"])
def test_a_loop_without_an_end_is_ended(sample: str) -> None:
    reader = a_reader()
    finished = []
    for line in lines(sample):
        reader.feed(line)
        finished.append(reader.finished)
    assert not finished[2]  # a first time is none
    assert finished[-1]


def test_a_broken_answer_that_was_given_again_leaves_no_trace() -> None:
    reader = a_reader()
    for line in [*lines("drop")[:3], *lines("happy")]:
        reader.feed(line)
    assert reader.report(0, "").end == "done"


@pytest.mark.parametrize(
    ("message", "end", "seconds"),
    [
        ("so the test wants", "limited", None),  # without the status, that it tries again is all that is known
        ("You exceeded your current quota, see https://platform.openai.com/docs", "credit", None),
        ("Rate limit reached. Please try again in 5000s.", "limited", 5_000),
        ("Unable to connect. ECONNREFUSED", "limited", None),
    ],
)
def test_a_failed_request_that_it_tries_again(message: str, end: str, seconds: float | None) -> None:
    reader = a_reader()
    reader.feed_log(FAILED.format(message))
    assert message in reader.last
    known = judged(reader.retrying)
    assert (known.end, known.retry_after_seconds) == (end, seconds)
    assert reader.report(None, "").end == end
    reader.feed(lines("happy")[0])
    assert reader.retrying == ""


def test_it_is_known_to_pause_between_two_attempts() -> None:
    reader = a_reader()
    reader.feed_log(FAILED.format("Overloaded"))
    assert reader.pauses
    reader.feed_log(f"{LOG}stream providerID=test modelID=deepseek-chat session.id={SESSION} small=false agent=build")
    assert (reader.pauses, bool(reader.retrying)) == (False, True)


def test_a_sub_agent_that_gets_on_again_tries_nothing_again() -> None:
    """Of its steps the log alone tells."""
    reader = a_reader()
    reader.feed_log(FAILED.format("Overloaded").replace(SESSION, "ses_of_a_subagent"))
    assert (bool(reader.retrying), reader.retries) == (True, 1)
    reader.feed_log(f"{LOG}loop session.id=ses_of_a_subagent step=1")
    assert reader.retrying == ""


def test_the_log_names_the_session_and_the_model() -> None:
    """Where all requests fail, nothing else does."""
    reader = OpenCodeReader(a_turn(AgentSpec(runtime="opencode")))
    reader.feed_log(f"{LOG}loop session.id={SESSION} step=0")
    reader.feed_log(f"{LOG}stream providerID=test modelID=deepseek-chat session.id={SESSION} small=false agent=build")
    assert reader.model == "test/deepseek-chat"
    assert reader.report(-15, "").session == SESSION


def test_a_session_of_another_folder_is_lost() -> None:
    reader = a_reader(session=SESSION)
    reader.feed_log(f'{LOG}"creating instance" directory=/src/app')
    assert reader.session is None
    reader.feed_log(f'{LOG}"creating instance" directory="/src/the other"')
    assert reader.session != SESSION  # so it is ended before it does anything there
    report = reader.report(None, "")
    assert (report.end, report.session) == ("lost_session", None)
    assert "/src/the other" in report.reason


def test_a_folder_that_it_opens_later_is_no_matter() -> None:
    reader = a_reader(session=SESSION)
    for what in ('"creating instance" directory=/src/app', '"event connected"', '"creating instance" directory=/src'):
        reader.feed_log(LOG + what)
    assert reader.session is None


def test_a_session_that_is_not_there() -> None:
    report = a_reader(session=SESSION).report(1, f"{LOG}init\n\x1b[91m\x1b[1mError: \x1b[0mSession not found\n")
    assert (report.end, report.reason, report.session) == ("lost_session", "Error: Session not found", None)


@pytest.mark.parametrize(
    ("proposed", "end"), [("claude-sonnet-4-5, claude-opus-5-5", "login"), ("claude-opus-5-5", "failed")]
)
def test_a_provider_without_a_key_has_no_models(proposed: str, end: str) -> None:
    reader = a_reader()
    reader.feed_log(NO_MODEL.format(proposed))
    said = {"name": "UnknownError", "data": {"message": "Unexpected server error. Check server logs for details."}}
    reader.feed(json.dumps({"type": "error", "sessionID": SESSION, "error": said}))
    report = reader.report(1, "")
    assert report.end == end
    assert report.reason.startswith("Model not found: anthropic/claude-sonnet-4-5.")


@pytest.mark.parametrize(("why", "end"), [("content-filter", "refused"), ("length", "failed"), ("unknown", "failed")])
def test_an_answer_that_was_cut_is_not_done(why: str, end: str) -> None:
    reader = a_reader()
    reader.feed(json.dumps({"type": "step_finish", "part": {"reason": why}}))
    report = reader.report(0, "")
    assert report.end == end
    assert report.reason


def test_exit_0_is_no_proof() -> None:
    assert a_reader().report(0, LOG).end == "unreadable"


def test_its_log_is_no_reason() -> None:
    report = a_reader().report(1, f"{LOG}init\nerror: no such option\n")
    assert report.reason == "exit 1: error: no such option"


@given(damaged("opencode"), st.lists(st.text() | st.builds(FAILED.format, st.text())), exit_codes, st.text())
def test_no_output_makes_the_reader_raise(
    output: list[str], log: list[str], exit_code: int | None, stderr: str
) -> None:
    reader = a_reader(session="s")
    for line in output:
        reader.feed(line)
    for line in log:
        reader.feed_log(line)
    assert reader.report(exit_code, stderr).end
