"""The Gemini CLI's flags, output and telemetry; both were recorded from the real CLI."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.agents import runtime
from activities.agents.base import Report
from activities.agents.gemini import GeminiReader
from activities.contracts import Usage
from activities.settings import AgentSpec
from tests.agents.turns import SAMPLES, a_turn, damaged, exit_codes, play

GEMINI = runtime("gemini")
AGENT = AgentSpec(runtime="gemini", model="gemini-2.5-pro")
LOST = """\
Error resuming session: Invalid session identifier "99999999-2222-4333-8444-555555555555".
  Searched for sessions in /home/somebody/.gemini/tmp/app/chats.
"""


def judge(sample: str, exit_code: int | None = 1, stderr: str = "", **changes: object) -> Report:
    return play(GeminiReader(a_turn(AGENT, **changes)), f"gemini/{sample}", exit_code, stderr)


def telemetry(sample: str) -> list[str]:
    return (SAMPLES / "gemini" / f"{sample}.telemetry").read_text().splitlines()


def test_cold_start(tmp_path: Path) -> None:
    launch = GEMINI.launch(a_turn(AGENT, folder=tmp_path))
    assert launch.argv == [
        *"gemini -o stream-json --yolo --skip-trust -m gemini-2.5-pro".split(),
        *("--session-id", "0b1e7c9a-3f3e-4c43-9d39-1f4c4d7b8a11"),
    ]
    assert launch.stdin == "Stay in the worktree.\n\nDo the task."
    assert launch.env["GEMINI_TELEMETRY_OUTFILE"] == str(tmp_path / "telemetry.log")
    assert GEMINI.reader(a_turn(AGENT, folder=tmp_path)).log == tmp_path / "telemetry.log"


def test_the_telemetry_of_an_earlier_attempt_does_not_count(tmp_path: Path) -> None:
    turn = a_turn(AGENT, folder=tmp_path)
    (tmp_path / "telemetry.log").write_text("\n".join(telemetry("happy")))
    GEMINI.launch(turn)
    assert not (tmp_path / "telemetry.log").exists()


def test_resume_has_the_old_session_and_no_instructions() -> None:
    launch = GEMINI.launch(a_turn(AGENT, session="old"))
    assert launch.argv[-2:] == ["--resume", "old"]
    assert "--session-id" not in launch.argv
    assert launch.stdin == "Do the task."


def test_no_model_is_the_cli_s_own_choice() -> None:
    assert "-m" not in GEMINI.launch(a_turn(AgentSpec(runtime="gemini"))).argv


def test_a_missing_cli_is_told_with_its_remedy(tmp_path: Path) -> None:
    problem = GEMINI.problem(AGENT, {"PATH": str(tmp_path)})
    assert problem is not None
    assert "npm install" in problem


COMMAND = re.compile(r'(?<!\\)@(?:(?:"[^"]*")|(?:\\.|[^ \t\n\r,;!?()\[\]{}.]|\.(?!$|[ \t\n\r])))+')
"""What the CLI takes for the name of a file, in its own words."""


@given(st.text(alphabet='@\\a./" \n(', max_size=20))
def test_no_prompt_names_a_file_or_a_command(prompt: str) -> None:
    stdin = GEMINI.launch(a_turn(AGENT, prompt=prompt, system="")).stdin
    assert not COMMAND.search(stdin)
    assert not stdin.startswith("/")
    assert stdin.replace("\\@", "@").endswith(prompt.replace("\\@", "@"))


def test_a_prompt_without_them_is_left_alone() -> None:
    assert GEMINI.launch(a_turn(AGENT, prompt="a / b @ c", system="")).stdin == "a / b @ c"


def test_a_turn_that_went_well() -> None:
    report = judge("happy", 0)
    assert (report.end, report.reason) == ("done", "")
    assert report.text == "All done.\nCOMPLETE_AND_READY_FOR_MERGE\n"
    assert report.session == "3cbbc9da-609f-4432-978f-9fba746d187a"
    assert (report.usage.input_tokens, report.usage.cached_tokens, report.usage.output_tokens) == (1300, 600, 80)
    assert report.usage.cost_usd > 0
    assert report.usage.unpriced_tokens == 0


def test_what_it_says_and_does_is_followed() -> None:
    reader = GeminiReader(a_turn(AGENT))
    seen = []
    for line in (SAMPLES / "gemini/happy.jsonl").read_text().splitlines():
        reader.feed(line)
        seen.append((reader.last, reader.finished))
    assert ("replace hello.txt", False) in seen
    assert ("$ git add -A && git commit -qm work", False) in seen
    assert seen[-1] == ("All done. COMPLETE_AND_READY_FOR_MERGE", True)


def test_its_telemetry_tells_the_same_use_while_it_works() -> None:
    reader, seen = GeminiReader(a_turn(AGENT)), []
    for line in telemetry("happy"):
        reader.feed_log(line)
        seen.append(reader.usage.tokens)
    assert sorted(set(seen)) == [0, 120, 240, 1260, 1380]
    assert reader.usage == judge("happy", 0).usage


def test_the_use_of_a_resumed_turn_is_its_own() -> None:
    report = judge("resumed", 0, session="3cbbc9da-609f-4432-978f-9fba746d187a", previous={"input_tokens": 1300.0})
    assert report.usage.input_tokens == 100
    assert report.cumulative == {}


def test_thoughts_are_paid_like_output() -> None:
    told = {"total_tokens": 1_500, "input_tokens": 1_000, "output_tokens": 100, "cached": 0}
    reader = GeminiReader(a_turn(AGENT))
    reader.feed(json.dumps({"type": "result", "status": "success", "stats": {"models": {"gemini-2.5-pro": told}}}))
    assert reader.report(0, "").usage.output_tokens == 500


def test_each_model_has_its_price() -> None:
    told = {"total_tokens": 1_000_000, "input_tokens": 1_000_000}
    costs = []
    for models in ({"gemini-2.5-pro": told}, {"gemini-2.5-pro": told, "gemini-2.5-flash": told}, {"unheard-of": told}):
        reader = GeminiReader(a_turn(AGENT))
        reader.feed(json.dumps({"type": "result", "status": "success", "stats": {"models": models}}))
        costs.append(reader.report(0, "").usage)
    assert 0 < costs[0].cost_usd < costs[1].cost_usd < 2 * costs[0].cost_usd
    assert costs[2] == Usage(input_tokens=1_000_000, unpriced_tokens=1_000_000)


@pytest.mark.parametrize(
    ("sample", "exit_code", "end", "reason"),
    [
        ("429-an-hour", 173, "limited", "Suggested retry after 3600s"),
        ("usage-limit", 173, "limited", "exhausted your daily quota"),
        ("401", 145, "login", "UNAUTHENTICATED"),
        ("400", 144, "failed", "INVALID_ARGUMENT"),
        ("context", 144, "context_full", "input token count"),
        ("drop", 0, "limited", "without a finish reason"),
        ("would-not-fit", 0, "context_full", "without a word"),
        ("max-turns", 53, "max_turns", "max session turns"),
    ],
)
def test_ends(sample: str, exit_code: int, end: str, reason: str) -> None:
    report = judge(sample, exit_code)
    assert report.end == end
    assert reason in report.reason


@pytest.mark.parametrize(
    ("tokens", "end"), [([200_000, 3_000], "unreadable"), ([3_000, 200_000], "context_full"), ([], "context_full")]
)
def test_an_end_without_a_word(tokens: list[int], end: str) -> None:
    """An empty answer, or a request that was not made; the first, when the resumed session is too long."""
    reader = GeminiReader(a_turn(AGENT))
    for count in tokens:
        told = {"event.name": "gemini_cli.api_response", "input_token_count": count, "model": "gemini-2.5-pro"}
        for line in json.dumps({"attributes": told}, indent=2).splitlines():
            reader.feed_log(line)
    models = {"gemini-2.5-pro": {"input_tokens": sum(tokens), "total_tokens": sum(tokens)}} if tokens else {}
    reader.feed(json.dumps({"type": "result", "status": "success", "stats": {"models": models}}))
    assert reader.report(0, "").end == end


def test_the_status_is_also_told_by_its_telemetry() -> None:
    reader = GeminiReader(a_turn(AGENT))
    for line in telemetry("500-retries"):
        reader.feed_log(line)
    reader.feed('{"type":"result","status":"error","error":{"message":"[API Error: sorry]"}}')
    assert reader.report(None, "").end == "limited"


def test_a_limit_that_states_a_time_says_how_long() -> None:
    assert judge("429-an-hour", 173).retry_after_seconds == 3_600
    assert judge("usage-limit", 173).retry_after_seconds is None


def test_its_own_retries_are_seen_and_forgotten() -> None:
    reader = GeminiReader(a_turn(AGENT))
    play(reader, "gemini/500-retries", None)
    assert reader.retrying == ""
    for line in telemetry("500-retries"):
        reader.feed_log(line)
    assert "status 500" in reader.retrying
    assert reader.report(None, "").end == "limited"
    reader.feed('{"type":"tool_use","tool_name":"glob","parameters":{}}')
    assert reader.retrying == ""
    assert reader.report(None, "").end == "timeout"


def test_a_failure_that_it_gets_on_without_is_no_retry() -> None:
    def record(name: str, role: str) -> list[str]:
        told = {"event.name": f"gemini_cli.{name}", "role": role, "status_code": 500, "error": "no"}
        return json.dumps({"attributes": told}, indent=2).splitlines()

    reader, seen = GeminiReader(a_turn(AGENT)), []
    for name, role in (
        ("api_request", "utility_router"),
        ("api_error", "utility_router"),
        ("api_request", "utility_router"),
        ("api_request", "main"),
        ("api_error", "main"),
        ("api_request", "main"),
        ("api_response", "main"),
    ):
        for line in record(name, role):
            reader.feed_log(line)
        seen.append(bool(reader.retrying))
    assert seen == [False, True, True, False, True, True, False]


def test_what_was_said_of_a_broken_answer_does_not_count() -> None:
    reader = GeminiReader(a_turn(AGENT))
    play(reader, "gemini/begun-again", None)
    assert reader.report(0, "").text == "VERDICT: APPRVERDICT: NEEDS_CHANGES"
    for line in telemetry("begun-again"):
        reader.feed_log(line)
    assert reader.report(0, "").text == "VERDICT: NEEDS_CHANGES"


def test_a_session_whose_first_request_failed_is_not_kept() -> None:
    assert judge("usage-limit", 173).session is None
    assert judge("usage-limit", 173, session="old").session


@pytest.mark.parametrize("stderr", [LOST, "Error resuming session: No previous sessions found for this project.\n"])
def test_a_session_that_is_not_there(stderr: str) -> None:
    report = GeminiReader(a_turn(AGENT, session="x")).report(42, stderr)
    assert (report.end, report.session) == ("lost_session", None)


def test_other_bad_input_is_a_failure() -> None:
    stderr = 'Error starting session: Session ID "x" already exists. Use --resume to resume it.\n'
    report = GeminiReader(a_turn(AGENT)).report(42, stderr)
    assert (report.end, report.reason) == ("failed", f"exit 42: {stderr.strip()}")


@pytest.mark.parametrize(
    "stderr",
    [
        "Invalid auth method selected.\n",
        "Please set an Auth method in your /home/somebody/.gemini/settings.json or specify one of …\n",
        "When using Gemini API, you must specify the GEMINI_API_KEY environment variable.\n",
    ],
)
def test_no_login(stderr: str) -> None:
    report = GeminiReader(a_turn(AGENT)).report(41, stderr)
    assert (report.end, report.reason) == ("login", stderr.strip())


def test_a_signal_makes_it_exit_0() -> None:
    lines = (SAMPLES / "gemini/happy.jsonl").read_text().splitlines()[:4]
    reader = GeminiReader(a_turn(AGENT))
    for line in lines:
        reader.feed(line)
    report = reader.report(0, "")
    assert (report.end, report.reason) == ("failed", "ended by a signal: exit 0 and no result")
    assert report.session
    assert reader.report(-9, "").reason == "killed by SIGKILL"


def test_exit_0_is_no_proof() -> None:
    assert GeminiReader(a_turn(AGENT)).report(0, "").end == "unreadable"


def test_a_blocked_answer_is_a_refusal() -> None:
    reader = GeminiReader(a_turn(AGENT))
    reader.feed('{"type":"error","message":"The model response was blocked due to safety settings."}')
    reader.feed('{"type":"result","status":"error"}')
    assert reader.report(0, "").end == "refused"


def test_figures_that_are_none_count_nothing() -> None:
    for figure in ("NaN", "-Infinity", "null", '"7"', "true", "[]", "9" * 400):
        reader = GeminiReader(a_turn(AGENT))
        reader.feed(f'{{"type":"result","stats":{{"models":{{"m":{{"input_tokens":{figure}}}}}}}}}')
        assert reader.report(0, "").usage == Usage()


@given(damaged("gemini"), exit_codes, st.text())
def test_no_output_makes_the_reader_raise(output: list[str], exit_code: int | None, stderr: str) -> None:
    reader = GeminiReader(a_turn(AGENT, session="s"))
    for line in output:
        reader.feed(line)
    assert reader.report(exit_code, stderr).end


record_lines = st.sampled_from([line for sample in ("happy", "500-retries") for line in telemetry(sample)])
odd_values = st.sampled_from(['"x"', "null", "[]", "-1e999", "true", "9" * 400])


@given(st.lists(record_lines | st.text(max_size=5), max_size=30), odd_values)
def test_no_telemetry_makes_the_reader_raise(lines: list[str], odd: str) -> None:
    reader = GeminiReader(a_turn(AGENT))
    records = [re.sub(r"(count|code)\": [^,\n]+", rf'\1": {odd}', line) for line in telemetry("happy")]
    for line in [*lines, *records, *lines]:
        reader.feed_log(line)
    assert reader.report(None, "").end
