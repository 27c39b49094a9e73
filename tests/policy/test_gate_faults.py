"""What is made of red gates: who must mend them, and what the next prompt says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.contracts import GateResult
from workflows.policy.gate_faults import broken, fault, told

REPEATED = "It is the same kind of failure as the last time: what was done did not help. Find the cause."


def red(name: str, fault: str = "", hint: str = "", **more: Any) -> GateResult:
    return GateResult(name=name, passed=False, fault=fault, hint=hint, exit_code=1, seconds=1.0, **more)


PLAIN = red("test")
LINT = red("lint", "formatting", "run the formatter")
TYPES = red("types", "type errors", "mend the types")
DISK = red("build", "no space left", "free some space", hard=True)
MEMORY = red("e2e", "out of memory", "give it more memory", hard=True)

gates = st.lists(st.sampled_from([PLAIN, LINT, TYPES, DISK, MEMORY]), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("given_gates", "why"),
    [
        ([], None),
        ([PLAIN, LINT], None),
        ([DISK], "build: no space left: free some space"),
        ([LINT, DISK, MEMORY], "build: no space left: free some space; e2e: out of memory: give it more memory"),
    ],
)
def test_what_nothing_in_the_worktree_can_mend_needs_a_person(given_gates: list[GateResult], why: str | None) -> None:
    assert broken(given_gates) == why


@pytest.mark.parametrize(
    ("given_gates", "kind"),
    [([], ""), ([PLAIN], ""), ([LINT], "lint: formatting"), ([PLAIN, TYPES, LINT], "types: type errors")],
)
def test_the_class_of_a_failure_is_the_first_known_one_with_its_gate(given_gates: list[GateResult], kind: str) -> None:
    assert fault(given_gates) == kind


def test_the_same_class_of_another_gate_is_another_failure() -> None:
    assert fault([red("lint", "formatting")]) != fault([red("style", "formatting")])


@pytest.mark.parametrize(
    ("given_gates", "text"),
    [
        ([PLAIN], "test"),
        ([PLAIN, LINT], "test, lint\n(formatting) run the formatter"),
        ([LINT, TYPES], "lint, types\n(formatting) run the formatter\n(type errors) mend the types"),
    ],
)
def test_the_agent_is_told_which_gates_and_what_such_a_failure_needs(given_gates: list[GateResult], text: str) -> None:
    assert told(given_gates, repeated=False) == text
    assert told(given_gates, repeated=True) == f"{text}\n{REPEATED}"


@given(gates)
def test_every_red_gate_and_every_hint_is_told(given_gates: list[GateResult]) -> None:
    text = told(given_gates, repeated=False)
    assert text.splitlines()[0].split(", ") == [gate.name for gate in given_gates]
    assert all(gate.hint in text for gate in given_gates)


@given(gates)
def test_one_gate_that_cannot_pass_is_enough(given_gates: list[GateResult]) -> None:
    why = broken(given_gates)
    assert (why is not None) == any(gate.hard for gate in given_gates)
    assert why is None or all(gate.name in why for gate in given_gates if gate.hard)
