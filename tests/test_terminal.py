"""What others say reaches the operator's terminal, its log and its tables as text."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import pytest
from rich.console import RenderableType
from rich.live import Live

from console.follow import _cells, _print_changes, _table
from console.queue_view import queue_view
from console.terminal import Terminal
from service.logs import _as_text
from tests.policy.test_story import place, queue_status, status
from workflows.contracts import Blocked, BlockedReason, MergeAnswer

NASTY = "\x1b]0;owned\x07\x1b]52;c;aWQ=\x1b\\\x1b[2J\x9b31m[red]\u202e\rend"


def shown(renderable: RenderableType, live: bool = False) -> str:
    file = io.StringIO()
    terminal = Terminal(file=file, force_terminal=True, width=300, color_system="truecolor", legacy_windows=False)
    if live:
        with Live(renderable, console=terminal, auto_refresh=False):
            pass
    else:
        terminal.print(renderable)
    return file.getvalue()


STATUSES = [
    status(said=NASTY),
    status(waiting_for=NASTY),
    status(blocked=Blocked(reason=BlockedReason.STUCK, text=NASTY)),
    status(outcome="rejected", reason=NASTY),
]
ANSWER = MergeAnswer(op="op", task_id="t", kind="gate_red", reason=NASTY)


@pytest.mark.parametrize(
    "made",
    [
        *(lambda one=one: _table(["task-42"], {"task-42": one}) for one in STATUSES),
        lambda: queue_view(queue_status(places=[place("a", title=NASTY, why=NASTY)], last=[ANSWER]), time.time()),
        lambda: queue_view(queue_status(mode_reason=NASTY, trouble=NASTY, behind=NASTY), time.time()),
    ],
)
@pytest.mark.parametrize("live", [False, True])
def test_no_escape_sequence_but_our_own_reaches_the_terminal(made: Callable[[], RenderableType], live: bool) -> None:
    text = shown(made(), live)
    assert "end" in text
    for bad in ("\x1b]", "\x07", "\x9b", "\x1b[2J", "\u202e"):
        assert bad not in text


def test_our_own_colours_are_shown() -> None:
    assert "\x1b[32m" in shown(_table(["task-42"], {"task-42": status(outcome="merged")}))
    assert "[red]" in shown(_cells(status(said="[red]"))[-1])


def test_a_change_in_the_live_view_of_a_pipe_is_text() -> None:
    file = io.StringIO()
    _print_changes(Terminal(file=file), {"task-42": status(waiting_for=NASTY)}, {})
    assert "\x1b" not in file.getvalue()
    assert "end" in file.getvalue()


def test_a_log_line_is_text() -> None:
    """A renderer for terminals quotes only what has blanks in it."""
    assert _as_text(None, "", {"reason": NASTY, "turn": 1}) == {"reason": "[red]end", "turn": 1}
