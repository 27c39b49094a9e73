"""Every real CLI in every trouble: it ends as docs/runtimes.md says, within its time-out, with no process left."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from activities.agents.base import Report
from tests.agents.desk import AGENTS, Desk
from tests.models import Step, bash, refuse, say, script, use

pytestmark = pytest.mark.agents

TABLE = Path(__file__).parents[2] / "docs" / "runtimes.md"
DONE = "All done.\nCOMPLETE_AND_READY_FOR_MERGE\n"
LEFT_BEHIND = "(setsid sh -c 'sleep 300; echo late' >/dev/null 2>&1 &) ; echo started"


def happy(desk: Desk) -> Report:
    report = desk.turn(script(use(bash("echo new > new.txt")), say(DONE)))
    assert (desk.repo / "new.txt").read_text() == "new\n"
    assert report.session
    return report


def resume(desk: Desk) -> Report:
    first = desk.turn(script(say("one")), prompt="The first thing.")
    second = desk.turn(script(say(DONE)), prompt="The second.", session=first.session, previous=first.cumulative)
    assert "The first thing." in str(desk.server.requests[0].body)
    assert second.session == first.session
    assert 0 < second.usage.input_tokens <= 2 * first.usage.input_tokens  # its own, not the sum
    return second


def unknown_session(desk: Desk) -> Report:
    report = desk.turn(
        script(say(DONE)), session=UNKNOWN.get(desk.agent.runtime, "99999999-2222-4333-8444-555555555555")
    )
    assert report.session is None
    return report


UNKNOWN: dict[str, str] = {}
"""Where a session's id is no UUID."""


def max_turns(desk: Desk) -> Report:
    desk.agent = desk.agent.model_copy(update={"max_turns": 1})
    report = desk.turn(lambda _: use(bash("true")))
    assert report.session
    assert desk.turn(script(say(DONE)), session=report.session, previous=report.cumulative).end == "done"
    return report


def usage_limit(desk: Desk) -> Report:
    desk.env |= SUBSCRIPTION.get(desk.agent.runtime, {})
    return desk.turn(lambda _: Step(fault="usage_limit", resets_in=5_000))


SUBSCRIPTION = {"claude-code": {"ANTHROPIC_API_KEY": "", "CLAUDE_CODE_OAUTH_TOKEN": "DUMMY_OAUTH_TOKEN"}}
"""Only a subscription has a usage limit there."""


def fault(step: Step) -> Callable[[Desk], Report]:
    return lambda desk: desk.turn(lambda _: step)


def killed(number: int) -> Callable[[Desk], Report]:
    def run(desk: Desk) -> Report:
        def kill() -> None:
            desk.server.wait_for(2)
            desk.kill(number)

        report = desk.turn(script(use(bash("echo half > half.txt")), Step(fault="hang")), kill, prompt="Work.")
        assert (desk.repo / "half.txt").read_text() == "half\n"
        assert report.session
        resumed = desk.turn(script(say(DONE)), prompt="Go on.", session=report.session, previous=report.cumulative)
        assert (resumed.end, resumed.session) == ("done", report.session)
        assert "Work." in str(desk.server.requests[0].body)
        return report

    return run


CASES: dict[str, Callable[[Desk], Report]] = {
    "happy path": happy,
    "resume": resume,
    "unknown session": unknown_session,
    "max turns": max_turns,
    "429": fault(refuse(429)),
    "429 with retry-after": fault(refuse(429, retry_after=3_600)),
    "usage limit": usage_limit,
    "out of credit": fault(Step(fault="credit")),
    "401": fault(refuse(401)),
    "500": fault(refuse(500)),
    "stall before headers": fault(Step(fault="hang")),
    "stall in mid-stream": fault(Step(text="Half of", fault="stall")),
    "drop": fault(Step(text="Half of", fault="drop")),
    "context full": fault(Step(fault="context")),
    "killed by TERM": killed(signal.SIGTERM),
    "killed by KILL": killed(signal.SIGKILL),
    "background process left behind": lambda desk: desk.turn(script(use(bash(LEFT_BEHIND)), say(DONE))),
}


OTHERS = {"codex", "gemini", "opencode", "qwen"}
"""In troubles where all do the same these are tried by `make test-agents ALL=1` only."""
ALIKE = {
    "happy path",  # test_real_clis.py has one, as has what is left behind
    "resume",  # as after a kill
    "429",  # as 500: the CLI's own retries are ended
    "stall in mid-stream",  # as with the other two: silence is ended
    "usage limit",  # as a retry-after: the wait is stated
    "stall before headers",  # as in mid-stream: nothing comes
    "max turns",  # test_real_clis.py has one of each that can
    "context full",  # as 500, by another text: the samples have all of them
    "out of credit",  # as 401, by another text
    "drop",  # as a stall in mid-stream: the answer is not whole
    "killed by TERM",
    "killed by KILL",  # the supervisor's work, which is the same for every program
    "background process left behind",
}
"""Troubles in which our code does the same as in another."""


def table() -> dict[tuple[str, str], str]:
    """(runtime, case) and how it ends, as documented."""
    text = TABLE.read_text().partition("<!-- ends -->\n")[2].partition("<!-- /ends -->")[0]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {(name, row[0]): end for row in rows for name, end in zip(head[1:], row[1:], strict=True)}


def test_every_runtime_is_tried_in_every_trouble() -> None:
    assert set(table()) == {(name, case) for name in AGENTS for case in CASES}


def tried(name: str, case: str, end: str) -> Any:
    marks = [pytest.mark.long] if name in OTHERS and case in ALIKE else []
    return pytest.param(name, case, end, id=f"{name}-{case}".replace(" ", "_"), marks=marks)


@pytest.mark.parametrize(("name", "case", "end"), [tried(*key, end) for key, end in table().items() if end != "-"])
def test_it_ends_as_documented(name: str, case: str, end: str, tmp_path: Path) -> None:
    desk = Desk(AGENTS[name], tmp_path)
    started = time.monotonic()
    report = CASES[case](desk)
    assert report.end == end, report
    assert bool(report.reason) == (end != "done")
    assert time.monotonic() - started < 2 * desk.caps.wall_seconds
    assert desk.processes() == []
