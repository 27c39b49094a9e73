"""Outputs of real tools that ended red, and the class that each has; those of no class stay unknown."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.faults.project import FAULTS, ProjectFault, classify

FOLDER = Path(__file__).parent / "project"
SAMPLES: list[dict[str, Any]] = tomllib.loads((FOLDER / "index.toml").read_text())["sample"]


def slug(name: str) -> str:
    return re.sub(r"[^a-z]+", "-", name.lower())


def text_of(sample: dict[str, Any]) -> str:
    return (FOLDER / sample["file"]).read_text()


def found(fault: ProjectFault | None) -> str:
    return slug(fault.name) if fault else "unknown"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["file"])
def test_each_sample_has_its_class_and_no_other(sample: dict[str, Any]) -> None:
    assert found(classify(text_of(sample), sample["exit"])) == Path(sample["file"]).parent.name


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["file"])
def test_line_breaks_of_another_system_and_colours_change_nothing(sample: dict[str, Any]) -> None:
    text = text_of(sample)
    coloured = "".join(f"\x1b[1;31m{line}\x1b[0m\r\n" for line in text.split("\n"))
    assert found(classify(coloured, sample["exit"])) == Path(sample["file"]).parent.name


def test_every_row_has_a_sample_and_every_file_is_in_the_index() -> None:
    told = {slug(row.name) for row in FAULTS if not row.limit}  # of a limit of ours no output tells
    assert {Path(sample["file"]).parent.name for sample in SAMPLES} == told | {"unknown"}
    assert sorted(sample["file"] for sample in SAMPLES) == sorted(
        path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("*/*.txt")
    )
    assert sum("unknown" in sample["file"] for sample in SAMPLES) >= 8


@pytest.mark.parametrize("limit", ["memory", "processes", "output", "disk"])
def test_a_limit_outweighs_what_was_printed(limit: str) -> None:
    assert found(classify("Killed", None, limit)) == f"limit-{limit}"


def test_names_are_unique_and_hints_are_short() -> None:
    assert len({slug(row.name) for row in FAULTS}) == len(FAULTS)
    for row in FAULTS:
        assert 20 < len(row.hint) <= 300, row.name
        assert row.hint.endswith("."), row.name


def test_only_what_no_agent_can_mend_is_hard() -> None:
    assert {row.name for row in FAULTS if row.hard} == {
        "gate: command not found",
        "machine: disk full",
        "machine: docker",
        "machine: no network",
        "machine: out of memory",
        "machine: permission denied",
    }


@pytest.mark.parametrize(
    ("exit_code", "name"),
    [
        (None, "time-out"),
        (124, "time-out"),
        (137, "machine: out of memory"),
        (-9, "machine: out of memory"),
        (139, "c: crash"),
        (126, "shell: not executable"),
        (127, "shell: command not found"),
        (-15, None),
        (1, None),
    ],
)
def test_an_exit_code_may_tell_where_the_output_does_not(exit_code: int | None, name: str | None) -> None:
    fault = classify("working ...\n", exit_code)
    assert (fault.name if fault else None) == name


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["file"])
def test_a_green_gate_has_no_fault_and_a_time_out_is_one(sample: dict[str, Any]) -> None:
    assert classify(text_of(sample), 0) is None
    timed_out = classify(text_of(sample), None)
    assert timed_out
    assert timed_out.name == "time-out"


@pytest.mark.parametrize(
    "line",
    [
        "test_no_space_left_on_device PASSED",
        "tests/test_disk.py::test_message[No space left on device] PASSED [ 50%]",
        '    raise OSError(28, "No space left on device")',
        '{"level": "info", "error": "No space left on device", "attempt": 1}',
        "0 failed, 12 passed",
        "Tests:       0 failed, 12 passed, 12 total",
        "Tests run: 12, Failures: 0, Errors: 0, Skipped: 0",
        "error: 0, warning: 2",
        "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured",
        "100% tests passed, 0 tests failed out of 12",
        "Found 0 errors.",
        "✖ 3 problems (0 errors, 3 warnings)",
        "ok      example.com/app 0.004s",
        "compiling error.c, linker.c, undefined.c",
        "Downloading error-chain v0.12.4",
        "INFO connection refused, will retry: Network is unreachable; connected",
        "checked: command not found in PATH is told to the user",
        "Killed 3 stale jobs",
        "MainThread: SyntaxError handling enabled",
        "docs: ModuleNotFoundError: how to mend it",
        "WARNING: 2 files would be skipped",
        "\u2139 fail 0",
        "0 failing",
        " Tests  12 passed (12)",
        "[warn] listen EADDRINUSE: address already in use :::3000, trying 3001",
        "curl: (7) Failed to connect to localhost port 8080: Connection refused",
        "ERROR timeout",
        "Failed: 3",
        "mutant 12: Killed",
        "+ <<<<<<< HEAD",
        "/bin/sh: 1: pytsst: not found",  # and the gate went on
    ],
)
def test_a_line_of_a_green_part_is_no_fault(line: str) -> None:
    assert classify(f"starting\n{line}\n" + "checked\n" * 6 + "rule 17 is broken\n", 1) is None


LINES = {line for sample in SAMPLES for line in text_of(sample).splitlines()}
PIECES = st.sampled_from([*sorted(LINES), "\x1b[31m", "\r", "\x1b]0;", "\0", "'"])


@given(st.lists(PIECES | st.text(max_size=40), max_size=12).map("\n".join), st.none() | st.integers(-64, 255))
def test_no_output_makes_it_raise(output: str, exit_code: int | None) -> None:
    fault = classify(output, exit_code)
    assert fault is None or fault in FAULTS


STARTS = [
    "", "Traceback (most recent call last):\n", "SyntaxError: ", "# app\n", "error: ", "app.py:1:1: ", "FAILED ",
    "make: *** ", "#[deny(clippy::", "E   ", "Diff in ", "/bin/sh: 1: ", "\x1b]",
]  # fmt: skip


@pytest.mark.parametrize("piece", ["a", "(", "\n ", "\n", " ", "1", "a ", "a:", "/", ": ", "E ", "\x1b[", "\r"])
def test_it_gets_through_200_kb_of_anything(piece: str) -> None:
    """A pattern that tries every split of a repetition would take hours: the suite's own time limit is the judge."""
    repeated = piece * (200_000 // len(piece))
    assert classify(repeated, 1) is None
    for start in STARTS:
        classify(start + repeated[:50_000], 1)
        classify(start * (20_000 // max(len(start), 1)) + repeated[:20_000], 1)
