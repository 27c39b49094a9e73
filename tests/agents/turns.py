"""Turns to hand to a runtime, and recorded output of the real CLIs to hand to its reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from activities.agents.base import Reader, Report, Turn
from activities.settings import AgentSpec

SAMPLES = Path(__file__).parent / "samples"
"""What the CLIs really printed on standard output, cut down to what is read; `<cli>/<case>.jsonl`."""


def a_turn(agent: AgentSpec, **changes: Any) -> Turn:
    given: dict[str, Any] = {
        "agent": agent,
        "role": "executor",
        "task_id": "task-42",
        "number": 3,
        "prompt": "Do the task.",
        "system": "Stay in the worktree.",
        "session": None,
        "new_session": "0b1e7c9a-3f3e-4c43-9d39-1f4c4d7b8a11",
        "folder": Path("/nonexistent"),
    }
    return Turn(**{**given, **changes})


def play(reader: Reader, sample: str, exit_code: int | None, stderr: str = "") -> Report:
    """Feeds the sample to the reader, and has it judge the turn."""
    for line in (SAMPLES / f"{sample}.jsonl").read_text().splitlines():
        reader.feed(line)
    return reader.report(exit_code, stderr)


exit_codes = st.none() | st.integers(-64, 255)


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = plain | st.just(10**400) | st.lists(plain, max_size=2) | st.dictionaries(st.text(max_size=3), plain)


@st.composite
def damaged(draw: st.DrawFn, cli: str) -> list[str]:
    """Recorded lines in any order, with any part of them replaced by anything; and lines that are no JSON."""
    recorded = sorted({line for path in (SAMPLES / cli).glob("*.jsonl") for line in path.read_text().splitlines()})
    lines = draw(st.lists(st.sampled_from(recorded), max_size=4))
    for index, line in enumerate(lines):
        event = node = json.loads(line)
        while True:
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            if not (isinstance(node[key], dict | list) and node[key] and draw(st.booleans())):
                break
            node = node[key]
        node[key] = draw(anything)
        lines[index] = json.dumps(event)
    return lines + draw(st.lists(st.text(), max_size=1))
