"""Which command is taken when, and that a refusal says what to do instead."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.policy.commands import (
    MAX_TEXT,
    Situation,
    Verb,
    priority_refusal,
    refusal,
    rewind_refusal,
    switch_refusal,
)

PLAN = "3f5a9c0b7d21" + "e" * 52
VERBS: tuple[Verb, ...] = get_args(Verb)

verbs = st.sampled_from(VERBS)
texts = st.text() | st.sampled_from(["", PLAN, PLAN[:12], "x" * MAX_TEXT, "x" * (MAX_TEXT + 1)])
situations = st.builds(
    Situation,
    ended=st.booleans(),
    blocked=st.booleans(),
    paused=st.booleans(),
    plan=st.sampled_from([None, PLAN]),
    question=st.booleans(),
)
live = situations.filter(lambda now: not now.ended)


def at(
    *,
    ended: bool = False,
    blocked: bool = False,
    paused: bool = False,
    plan: str | None = None,
    question: bool = False,
) -> Situation:
    return Situation(ended=ended, blocked=blocked, paused=paused, plan=plan, question=question)


def refused(now: Situation, verb: Verb, text: str = "") -> str:
    why = refusal(now, verb, text)
    assert why is not None
    return why


TOO_LONG = "the text has 16001 characters, at most 16000 are taken: put it into a file and name that"
STALE = f"the plan has changed: it is {PLAN[:12]} now; read it with the query `plan`"


@pytest.mark.parametrize(
    ("now", "verb", "text", "why"),
    [
        (at(ended=True), "abandon", "", "the task has ended"),
        (at(ended=True), "compact", "", "the task has ended"),
        (at(), "approve_plan", "", "no plan waits for approval"),
        (at(), "approve_plan", PLAN, "no plan waits for approval"),
        (at(), "reject_plan", "", "no plan waits for approval"),
        (at(plan=PLAN), "approve_plan", "0123456789ab", STALE),
        (at(), "send_message", "", "send_message needs a text: --input '\"what to tell the agent\"'"),
        (at(), "send_message", "x" * 16_001, TOO_LONG),
        (at(), "answer", "yes", "the agent has asked nothing; `send_message` reaches it at its next turn"),
        (at(question=True), "answer", " ", "answer needs a text: --input '\"the answer\"'"),
        (at(question=True), "continue_task", "", "the agent has asked something: `answer` it, and the task goes on"),
        (at(paused=True), "pause", "", "the task is paused already; `resume` goes on"),
        (at(), "resume", "", "the task is not paused"),
        (at(blocked=True), "resume", "", "the task is not paused; it is blocked: `continue_task` goes on"),
        (at(), "continue_task", "", "the task is not blocked; `send_message` reaches the agent at its next turn"),
    ],
)
def test_a_refusal_says_what_to_do_instead(now: Situation, verb: Verb, text: str, why: str) -> None:
    assert refusal(now, verb, text) == why


@given(situations, verbs, texts)
def test_a_refusal_is_one_line(now: Situation, verb: Verb, text: str) -> None:
    why = refusal(now, verb, text)
    assert why is None or len(why.splitlines()) == 1


@given(situations, verbs, texts)
def test_after_its_end_a_task_takes_nothing(now: Situation, verb: Verb, text: str) -> None:
    assert (refusal(now, verb, text) == "the task has ended") == now.ended


@given(live)
def test_a_plan_is_judged_only_while_it_waits(now: Situation) -> None:
    for verb in ("approve_plan", "reject_plan"):
        expected = "no plan waits for approval" if now.plan is None else None
        assert refusal(now, verb, "") == expected


@given(live.filter(lambda now: now.plan is not None), st.integers(7, len(PLAN)))
def test_an_approval_may_name_the_hash_or_its_beginning(now: Situation, length: int) -> None:
    assert refusal(now, "approve_plan", PLAN[:length]) is None


@given(live.filter(lambda now: now.plan is not None), st.text(min_size=1, max_size=80))
def test_an_approval_of_another_plan_is_refused(now: Situation, text: str) -> None:
    why = refusal(now, "approve_plan", text)
    assert (why is None) == (len(text) >= 7 and PLAN.startswith(text))


@given(st.text())
def test_feedback_of_a_rejection_is_no_hash(text: str) -> None:
    assert refusal(at(plan=PLAN), "reject_plan", text) is None


@given(live, st.text(min_size=1, max_size=80))
def test_a_message_with_a_word_in_it_is_always_taken(now: Situation, text: str) -> None:
    assert (refusal(now, "send_message", text) is None) == bool(text.strip())


@given(live)
def test_either_pause_or_resume_is_taken(now: Situation) -> None:
    assert (refusal(now, "pause", "") is None) == (not now.paused)
    assert (refusal(now, "resume", "") is None) == now.paused


@given(live, st.text(max_size=80))
def test_only_a_blocked_task_is_continued(now: Situation, text: str) -> None:
    assert (refusal(now, "continue_task", text) is None) == now.blocked


@given(live, st.text(min_size=1, max_size=80))
def test_only_a_question_is_answered(now: Situation, text: str) -> None:
    assert (refusal(now, "answer", text) is None) == (now.question and bool(text.strip()))


@given(live, st.text(max_size=80))
def test_a_live_task_can_always_be_abandoned(now: Situation, text: str) -> None:
    assert refusal(now, "abandon", text) is None


@given(live, st.text(max_size=80))
def test_a_session_can_always_be_summarised(now: Situation, text: str) -> None:
    """Also while the task is paused or blocked: it is done before the next turn."""
    assert refusal(now, "compact", text) is None


def test_a_situation_is_a_value() -> None:
    with pytest.raises(FrozenInstanceError):
        at().paused = True  # type: ignore[misc]


@pytest.mark.parametrize("verb", VERBS)
def test_a_long_text_is_refused_with_a_remedy_and_not_repeated(verb: Verb) -> None:
    paused = verb == "resume"
    plan = PLAN if verb in ("reject_plan", "revise") else None
    now = at(blocked=True, paused=paused, plan=plan, question=verb == "answer")
    why = refused(now, verb, "y" * (MAX_TEXT + 1))
    assert str(MAX_TEXT) in why
    assert str(MAX_TEXT + 1) in why
    assert "file" in why
    assert "yyy" not in why
    if verb not in ("approve_plan", "approve_landing"):
        assert refusal(now, verb, "y" * MAX_TEXT) is None


@pytest.mark.parametrize(
    ("now", "turn", "there", "why"),
    [
        (at(ended=True), 1, [1], "the task has ended"),
        (at(), 1, [1], "the task is neither paused nor blocked: `pause` it first"),
        (at(paused=True), "1", [1], "rewind takes the number of a turn: --input 3"),
        (at(blocked=True), True, [1], "rewind takes the number of a turn: --input 3"),
        (at(blocked=True), None, [1], "rewind takes the number of a turn: --input 3"),
        (at(paused=True), 2, [1, 3], "nothing is kept of turn 2; there is of: 1, 3"),
        (at(blocked=True), 2, [], "nothing is kept of turn 2; there is of: none"),
        (at(paused=True), 1, [1, 3], None),
        (at(blocked=True), 3, [1, 3], None),
    ],
)
def test_a_task_goes_back_only_while_it_stands_still(now: Situation, turn: object, there: list[int], why: str) -> None:
    assert rewind_refusal(now, turn, there) == why


SHA = "9f" * 20
CHANGED = f"the work has changed: it is {SHA[:12]} now; look at it, then approve that"
NO_LIST = "no list of files is kept to: it may change what the target's policy allows"
JUST = Situation(ended=False, blocked=False, paused=False, plan=None)


@pytest.mark.parametrize(
    ("changed", "verb", "text", "why"),
    [
        ({}, "approve_landing", "", "no landing waits for approval"),
        ({"plan": PLAN}, "approve_landing", "", "no landing waits for approval; a plan does: `approve_plan`"),
        ({"landing": SHA}, "approve_plan", "", "no plan waits for approval; the landing does: `approve_landing`"),
        ({"landing": SHA}, "approve_landing", PLAN, CHANGED),
        ({"landing": SHA}, "approve_landing", SHA[:7], None),
        ({"landing": SHA}, "approve_landing", "", None),
        ({}, "revise", "x", "nothing waits for approval; `send_message` reaches the agent at its next turn"),
        ({"plan": PLAN}, "revise", " ", "revise needs a text: --input '\"what to change\"'"),
        ({"landing": SHA}, "revise", "x", None),
        ({}, "allow_files", "", "allow_files needs paths or patterns as in .gitignore: --input '\"src/b.py docs/\"'"),
        ({"listed": False}, "allow_files", "a", NO_LIST),
        ({}, "allow_files", "a " * 51, "allow_files takes at most 50 patterns at once: name a folder, `docs/`"),
        ({}, "allow_files", "a docs/", None),
        ({"no_retry": "it waits"}, "retry_stage", "", "it waits"),
        ({}, "retry_stage", "", None),
    ],
)
def test_decisions_are_bound_to_what_there_is(changed: dict[str, Any], verb: Verb, text: str, why: str | None) -> None:
    assert refusal(replace(JUST, **changed), verb, text) == why


@given(live, verbs, texts)
def test_a_task_that_is_being_ended_takes_nothing_but_how(now: Situation, verb: Verb, text: str) -> None:
    why = refusal(replace(now, ending=True), verb, text)
    if verb in ("abandon", "cancel"):
        assert why == refusal(now, verb, text)
    else:
        assert why == "the task is being ended by an operator"


@pytest.mark.parametrize("priority", [None, "5", 5.0, True, 1001, -1001])
def test_a_priority_is_a_whole_number_that_the_queue_takes(priority: Any) -> None:
    assert priority_refusal(JUST, priority) == "set_priority takes a whole number from -1000 to 1000: --input 10"
    assert priority_refusal(JUST, -1000) is None
    assert priority_refusal(replace(JUST, ended=True), 5) == "the task has ended"


@pytest.mark.parametrize(
    ("agent", "why"),
    [
        (None, "switch_agent takes an agent: --input '\"codex:gpt-5.5\"'"),
        (5, "switch_agent takes an agent: --input '\"codex:gpt-5.5\"'"),
        ({"modle": "x"}, "switch_agent: modle: unknown field"),
        ("a:b:c:d", "switch_agent: input: the short form of an agent is runtime[:model[:reasoning]]"),
        ("codex:gpt-5.5", None),
        ({"runtime": "codex"}, None),
    ],
)
def test_an_agent_is_named_as_in_a_task(agent: Any, why: str | None) -> None:
    assert switch_refusal(JUST, agent) == why
    assert switch_refusal(replace(JUST, prepared=False), agent) == "the task is not prepared yet: try again when it is"
