"""The merge queue as `starter.py queue` prints it: plain text with everything that the queue knows."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import starter
from console.queue_view import queue_view, span
from workflows.contracts import Code, MergeAnswer, QueuePlace, QueueStatus, QueueTest

NOW = 1_000_000.0


def printed(**more: Any) -> list[str]:
    fixed: dict[str, Any] = {"repo": "/src/app", "target": "refs/heads/main", "p": 0.05, "slots": 4}
    status = QueueStatus(**(fixed | {"landed": 3, "ejected": 1, "gate_seconds": 30.0} | more))
    out = io.StringIO()
    Console(file=out, width=200).print(queue_view(status, NOW))
    return [" ".join(line.split()) for line in out.getvalue().splitlines() if line.strip()]


def test_an_empty_queue() -> None:
    assert printed(base="b" * 40) == [
        "main at bbbbbbbbbbbb in /src/app, open",
        "4 slots, p̂ 5.0%, gates take 30 s, 3 landed, 1 sent back",
        "nobody waits",
    ]


def test_who_waits_what_is_tested_and_how_the_last_ones_ended() -> None:
    held = QueuePlace(
        op="a", task_id="task-a", title="Fix [login]", state="held", why="app.py\nis in the way", priority=5,
        since=NOW - 600, expected=NOW + 90,
    )  # fmt: skip
    waits = QueuePlace(op="b", task_id="land-1", title="Docs", state="waiting", since=NOW - 3, expected=NOW - 9)
    tests = [
        QueueTest(tasks=["task-a", "land-1"], tip="c" * 40, since=NOW - 12),
        QueueTest(tasks=[], tip="d" * 40, since=NOW - 1, confirming=True),
    ]
    last = [MergeAnswer(op=str(n), task_id=f"task-{n}", kind="landed", sha=str(n % 10) * 40) for n in range(1, 15)] + [
        MergeAnswer(op="x", task_id="task-x", kind="conflict", code=Code.CONFLICT, reason="in app.py")
    ]
    more = {"mode": "frozen", "mode_reason": "main is red", "behind": "app.py", "flaky": {"unit": 2}}
    lines = printed(places=[held, waits], tests=tests, last=last, **more)
    assert lines[0] == "main in /src/app, frozen: main is red"
    assert lines[2:] == [
        "flaky: unit (2)",
        "behind: app.py",
        "task title state priority waits expected why",
        "1 task-a Fix [login] held 5 10 min in 90 s app.py is in the way",
        "2 land-1 Docs waiting 0 3 s in 0 s",
        "testing tip for",
        "task-a, land-1 cccccccccccc 12 s",
        "the target itself dddddddddddd 1 s confirming",
        "last reason",
        "task-x CONFLICT in app.py",
        *(f"task-{n} LANDED {str(n % 10) * 12}" for n in range(14, 5, -1)),
    ]


@pytest.mark.parametrize(("seconds", "told"), [(0, "0 s"), (99, "99 s"), (600, "10 min"), (9_000, "2.5 h")])
def test_spans(seconds: float, told: str) -> None:
    assert span(seconds) == told


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["queue", "/nowhere"], "/nowhere does not exist"),
        (["queue", "--repo", "/nowhere"], "/nowhere does not exist"),
        (["queue", "--watch", "/nowhere", "--target", "main"], "/nowhere does not exist"),
        (["queue", "show", "/nowhere"], "/nowhere does not exist"),
        (["queue", "pause", "--repo", "/nowhere"], "/nowhere does not exist"),
        (["queue", "priority", "task-1", "5000"], "1000"),
        (["queue", "freeze"], "reason"),
        (["land", "feature", "--strategy", "octopus"], "strategy"),
        (["land", "feature", "--gate", "CI=1"], "holds no command"),
    ],
)
def test_the_folder_may_stand_where_a_command_stands(args: list[str], told: str) -> None:
    done = CliRunner().invoke(starter.app, args)
    assert done.exit_code != 0
    assert told in " ".join(done.output.split())
