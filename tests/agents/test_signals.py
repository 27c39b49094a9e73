"""Only a signal alone on its line, in the agent's own words, is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.agents.signals import MAX_CLAIMED, Place, claimed, executor_problem, executor_signal, verdict

COMPLETE = "COMPLETE_AND_READY_FOR_MERGE"
LINES = [
    COMPLETE,
    "NEEDS_FOLLOWUP more time",
    "NEEDS_INPUT which?",
    "VERDICT: APPROVED",
    "VERDICT: NEEDS_CHANGES",
    "VERDICT: REJECTED",
]

lines = st.sampled_from(LINES)
prose = st.text().filter(lambda text: not any(word in text for word in ("COMPLETE", "NEEDS", "VERDICT", "`", "~")))


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        (f"All done.\n{COMPLETE}\n", ("complete", "")),
        (f"  {COMPLETE}  \r\n", ("complete", "")),
        (f"**{COMPLETE}**", ("complete", "")),
        (f"**`{COMPLETE}`**", ("complete", "")),
        ("NEEDS_FOLLOWUP the API is missing", ("needs_followup", "the API is missing")),
        ("NEEDS_FOLLOWUP: the API is missing", ("needs_followup", "the API is missing")),
        ("NEEDS_FOLLOWUP", ("needs_followup", "")),
        ("NEEDS_INPUT Old or new?", ("needs_input", "Old or new?")),
        ("**NEEDS_INPUT: Old or new?**", ("needs_input", "Old or new?")),
        ("NEEDS_INPUT", ("needs_input", "")),
        (f"NEEDS_INPUT which?\nnever mind\n{COMPLETE}", ("complete", "")),
        ("```\nNEEDS_INPUT which?\n```", None),
        ("I say NEEDS_INPUT which? when I must", None),
        (f"{COMPLETE}\nno, wait\nNEEDS_FOLLOWUP a test is red", ("needs_followup", "a test is red")),
        (f"NEEDS_FOLLOWUP a test is red\nfixed it\n{COMPLETE}", ("complete", "")),
        (f"```\ncode\n```\n{COMPLETE}", ("complete", "")),
        (f"```{COMPLETE}```", ("complete", "")),
        ("", None),
        (f"I say {COMPLETE} when I am done", None),
        (f"{COMPLETE}.", None),
        (f"- {COMPLETE}", None),
        (f"* {COMPLETE}", None),
        (COMPLETE.lower(), None),
        ("NEEDS_FOLLOWUPS are fine", None),
        (f"> {COMPLETE}", None),
        (f"    {COMPLETE}", None),
        (f"\t{COMPLETE}", None),
        (f"```\n{COMPLETE}\n```", None),
        (f"~~~ text\n{COMPLETE}\n~~~", None),
        (f"````\n```\n{COMPLETE}\n````", None),
        (f"```\nnever closed\n{COMPLETE}", None),
        (f"```\n``` python\n{COMPLETE}\n```", None),
        (f"``` no `fence\n{COMPLETE}", ("complete", "")),
        ("APPROVED", None),
    ],
)
def test_executor_signal(text: str, signal: tuple[str, str] | None) -> None:
    assert executor_signal(text) == signal


def test_done_is_no_signal_and_the_valid_ones_are_named() -> None:
    problem = executor_problem("I am done.\n__DONE__\n")
    assert problem is not None
    assert COMPLETE in problem
    assert "NEEDS_FOLLOWUP" in problem
    assert executor_signal("__DONE__") is None


FREE, BUSY = Place(may_claim=True), Place(may_claim=True, holds=True)
GIVEN, PLANNER = Place(holds=True), Place(plans=True)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("CLAIM(task-1, task_2.b)", ["task-1", "task_2.b"]),
        ("I take two.\n`CLAIM(a b)`", ["a", "b"]),
        ("**CLAIM (a,b,)**", ["a", "b"]),
        ("CLAIM(a)\nCLAIM(b, a)", ["a", "b"]),
        ("CLAIM(\"a\", 'b')", ["a", "b"]),
        ("NEEDS_FOLLOWUP I need a task\nCLAIM(a)", ["a"]),
        ("```\nCLAIM(a)\n```", None),
        ("> CLAIM(a)", None),
        ("Say CLAIM(a)", None),
        ("CLAIM()", None),
        ("CLAIM( , )", None),
        ("claim(a)", None),
        (f"CLAIM(a)\n{COMPLETE}", None),
        (f"{COMPLETE}\nCLAIM(a)", None),
        ("CLAIM(a)\nNEEDS_INPUT which?", None),
    ],
)
def test_claim(text: str, ids: list[str] | None) -> None:
    signal = executor_signal(text, FREE)
    assert (signal == ("claim", "")) is (ids is not None)
    assert ids is None or claimed(text) == ids


def test_nobody_claims_without_end_or_without_leave() -> None:
    many = claimed(f"CLAIM({', '.join(map(str, range(999)))}, {'x' * 999})")
    assert len(many) == MAX_CLAIMED
    for place in (Place(), GIVEN, PLANNER):
        assert executor_signal("CLAIM(a)", place) is None
    assert executor_signal("CLAIM(a)", BUSY) == ("claim", "")
    assert "have your tasks already" in (executor_problem("CLAIM(a)", GIVEN) or "")
    assert "names no task" in (executor_problem("CLAIM()", FREE) or "")


def test_only_who_holds_nothing_finds_nothing_to_claim() -> None:
    assert executor_signal("NOTHING_TO_CLAIM", FREE) == ("nothing", "")
    assert executor_signal("NOTHING_TO_CLAIM: needs a Mac", FREE) == ("nothing", "needs a Mac")
    assert executor_signal("NOTHING_TO_CLAIM", BUSY) is None
    assert "have your tasks already" in (executor_problem("NOTHING_TO_CLAIM", BUSY) or "")


def test_done_is_the_signal_of_a_swarms_planner_alone() -> None:
    assert executor_signal("__DONE__", PLANNER) == ("complete", "")
    assert executor_signal("__DONE__", FREE) is None
    assert "CLAIM(id, …), NOTHING_TO_CLAIM, COMPLETE" in (executor_problem("__DONE__", FREE) or "")
    assert "NOTHING" not in (executor_problem("__DONE__", BUSY) or "")


@pytest.mark.parametrize("text", ["", "I never say __DONE__ here", f"__DONE__\n{COMPLETE}", "```\n__DONE__\n```"])
def test_no_problem_without_done_or_with_a_signal(text: str) -> None:
    assert executor_problem(text) is None


@pytest.mark.parametrize(
    ("text", "judged"),
    [
        ("Good.\nVERDICT: APPROVED", "approved"),
        ("**VERDICT: APPROVED**", "approved"),
        ("VERDICT: APPROVED\nVERDICT: APPROVED", "approved"),
        ("VERDICT: NEEDS_CHANGES", "needs_changes"),
        ("VERDICT: REJECTED", "needs_changes"),
        ("VERDICT: APPROVED\nhm\nVERDICT: NEEDS_CHANGES", "needs_changes"),
        ("VERDICT: NEEDS_CHANGES\nhm\nVERDICT: APPROVED", "needs_changes"),
        ("APPROVED", None),
        ("I would say VERDICT: APPROVED", None),
        ("VERDICT: APPROVED or VERDICT: NEEDS_CHANGES", None),
        ("VERDICT: APPROVED?", None),
        ("verdict: approved", None),
        ("+VERDICT: APPROVED", None),
        ("> VERDICT: APPROVED", None),
        ("```diff\nVERDICT: APPROVED\n```", None),
        ("", None),
    ],
)
def test_verdict(text: str, judged: str | None) -> None:
    assert verdict(text) == judged


@given(st.lists(prose), st.lists(prose), lines)
def test_a_signal_on_its_own_line_is_found_in_any_prose(before: list[str], after: list[str], line: str) -> None:
    text = "\n".join([*before, line, *after])
    assert executor_signal(text) is not None or verdict(text) is not None


@given(st.lists(prose), lines, st.sampled_from(["```", "~~~", "`````", "```python", "~~~~ diff"]))
def test_nothing_in_a_fence_is_a_signal(inside: list[str], line: str, fence: str) -> None:
    text = "\n".join([fence, *inside, line, fence.rstrip(" abcdefghijklmnopqrstuvwxyz")])
    assert executor_signal(text) is None
    assert verdict(text) is None


@given(prose, lines, st.sampled_from(["> ", "    ", "\t", "x ", "- ", "# ", "1. "]))
def test_nothing_quoted_or_listed_is_a_signal(before: str, line: str, prefix: str) -> None:
    text = f"{before}\n{prefix}{line}"
    assert executor_signal(text) is None
    assert verdict(text) is None


@given(st.lists(st.sampled_from([*LINES, "prose", "APPROVED"])))
def test_one_demand_for_changes_outweighs_every_approval(said: list[str]) -> None:
    judged = verdict("\n".join(said))
    if any(line in said for line in ("VERDICT: NEEDS_CHANGES", "VERDICT: REJECTED")):
        assert judged == "needs_changes"
    else:
        assert judged == ("approved" if "VERDICT: APPROVED" in said else None)
