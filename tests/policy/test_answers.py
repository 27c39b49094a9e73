"""An ejection in words: the code, the evidence that there is, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from activities.contracts import GateResult
from activities.queue_contracts import Conflict, Evidence
from workflows.contracts import Code, MergeAnswer
from workflows.policy.answers import MEANING, evidence_of, explain_answer, land_result


def answer(kind: str, **more: Any) -> MergeAnswer:
    return MergeAnswer.model_validate({"op": "a", "kind": kind, **more})


def gate(name: str = "test", **more: Any) -> GateResult:
    fixed: dict[str, Any] = {"name": name, "passed": False, "exit_code": 1, "seconds": 12.34, "log": f"/run/{name}.log"}
    return GateResult(**(fixed | more))


def test_what_landed_or_was_taken_back_needs_one_line() -> None:
    assert explain_answer(answer("landed", sha="a" * 40)) == "LANDED as aaaaaaaaaaaa"
    assert explain_answer(answer("withdrawn")) == "WITHDRAWN"
    assert explain_answer(answer("withdrawn", reason="by an operator")) == "WITHDRAWN: by an operator"


def test_a_conflict() -> None:
    evidence = Evidence(
        base="b" * 40,
        files=["app.py", "b.py"],
        messages=["CONFLICT (content): Merge conflict in app.py\n"],
        landed_by=["task-7", "land-3"],
    )
    assert explain_answer(answer("conflict", code="CONFLICT", reason="with task-7", evidence=evidence)) == (
        "CONFLICT: it does not merge with the target\n"
        "  with task-7\n"
        "  files: app.py, b.py\n"
        "  CONFLICT (content): Merge conflict in app.py\n"
        "  landed meanwhile, and touch these files: task-7, land-3\n"
        "  base bbbbbbbbbbbb\n"
        "What to do: merge the target into the branch, resolve the conflict, and send it in again"
    )


def test_red_gates() -> None:
    evidence = Evidence(
        base="b" * 40,
        tip="c" * 40,
        gates=[gate("lint", passed=True, exit_code=0), gate(tail="one\nassert 1 == 2\n")],
        runs=2,
        fails_alone=True,
        landed_by=["task-7"],
    )
    assert explain_answer(answer("gate_red", code="SEMANTIC_CONFLICT", evidence=evidence)).splitlines() == [
        "SEMANTIC_CONFLICT: its gates were green, and are red with what has landed since",
        "  gate test: exit 1 after 12.3 s, log /run/test.log",
        "    | one",
        "    | assert 1 == 2",
        "  red 2 times on the same commit",
        "  by itself on the target it is red too",
        "  landed meanwhile: task-7",
        "  base bbbbbbbbbbbb, tip cccccccccccc",
        "What to do: merge the target into the branch, mend what no longer goes together, and send it in again",
    ]


def test_a_gate_that_took_too_long_and_one_of_a_known_kind() -> None:
    known = gate(exit_code=None, fault="no space", hint="make room")
    told = explain_answer(answer("gate_infra", code="GATE_INFRA", gates=[known]))
    assert "gate test: ended by the time-out after 12.3 s" in told
    assert "no space: make room" in told


def test_evidence_is_found_wherever_the_answer_has_it() -> None:
    conflict = Conflict(files=["a.py"], messages=["CONFLICT"])
    found = evidence_of(answer("conflict", base="b", conflict=conflict, gates=[gate()]))
    assert found == Evidence(base="b", files=["a.py"], messages=["CONFLICT"], gates=[gate()])
    stated = Evidence(base="c", files=["c.py"], messages=["m"], gates=[gate("lint")])
    assert evidence_of(answer("conflict", base="b", conflict=conflict, gates=[gate()], evidence=stated)) == stated


def test_many_files_and_a_long_log_are_cut() -> None:
    files = [f"f{number}.py" for number in range(500)]
    long = gate(tail="\n".join(map(str, range(500))))
    told = explain_answer(answer("conflict", code="CONFLICT", evidence=Evidence(files=files, gates=[long])))
    assert "and 480 more" in told
    assert "| 499" in told
    assert len(told) < 2_000


def test_our_own_trouble_has_no_code() -> None:
    told = explain_answer(answer("failed", reason="no space left on device"))
    assert told.startswith("FAILED: no space left on device\nWhat to do: ")


@pytest.mark.parametrize("code", Code)
def test_every_code_is_explained(code: Code) -> None:
    told = explain_answer(answer("gate_red", code=code))
    assert told == f"{code}: {MEANING[code][0]}\nWhat to do: {MEANING[code][1]}"


def test_the_readme_has_every_code() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert [code for code, told in MEANING.items() if f"| `{code}` | {told[0]} | {told[1]} |" not in readme] == []
    assert set(MEANING) == set(Code)


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("landed", "merged"),
        ("noop", "no-changes"),
        ("withdrawn", "withdrawn"),
        *((kind, "sent-back") for kind in ("conflict", "stale", "gate_red", "failed", "head_moved", "policy")),
    ],
)
def test_how_a_landing_ends(kind: str, outcome: str) -> None:
    assert land_result(answer(kind)).outcome == outcome


def test_a_landing_that_is_sent_back_keeps_the_evidence() -> None:
    result = land_result(answer("conflict", code="CONFLICT", reason="r", conflict=Conflict(files=["a"], messages=[])))
    assert (result.code, result.reason, result.evidence.files) == (Code.CONFLICT, "r", ["a"])
