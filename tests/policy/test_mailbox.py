"""What is told is delivered once, kept for sessions that start later, and bounded."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from activities.contracts import OPERATOR, Message, TurnInput
from activities.settings import explain
from workflows.policy.mailbox import (
    ANSWER_TEXT,
    KEPT,
    MAX_FROM_TASKS,
    MAX_WAITING,
    MAX_WAITING_TEXT,
    SHOWN_TEXT,
    Mailbox,
    saying,
)


def box(*texts: str, sender: str = OPERATOR) -> Mailbox:
    made = Mailbox()
    for text in texts:
        made.post(text, sender, 1.0)
    return made


def ids(messages: list[Message]) -> list[str]:
    return [message.id for message in messages]


def test_a_message_waits_is_delivered_and_answered() -> None:
    mail = box("one", "two")
    assert ids(mail.for_turn(new_session=False)) == ["m1", "m2"]
    mail.deliver(["m1", "m9"], 3)
    mail.said(3, "  Done it. And more.\n")
    first, second = mail.shown()
    assert (first.state, first.turn, first.answer) == ("delivered", 3, "Done it. And more.")
    assert (second.state, second.turn, second.answer) == ("waiting", None, "")
    assert ids(mail.for_turn(new_session=False)) == ["m2"]
    assert ids(mail.for_turn(new_session=True)) == ["m1", "m2"]


def test_an_explicit_reply_outweighs_what_was_said_at_the_turn_s_end() -> None:
    mail = box("one", "two")
    mail.deliver(["m1", "m2"], 1)
    assert mail.reply("m1", "No.")
    assert not mail.reply("m7", "What?")
    mail.said(1, "All done.")
    assert [each.answer for each in mail.shown()] == ["No.", "All done."]


def test_what_was_delivered_in_one_turn_is_not_answered_by_another() -> None:
    mail = box("one")
    mail.deliver(["m1"], 1)
    mail.said(1, "first")
    mail.deliver(["m1"], 2)
    mail.said(2, "second")
    assert [(each.turn, each.answer) for each in mail.shown()] == [(1, "first")]


def test_an_operator_is_heard_though_others_talk_much() -> None:
    mail = box(*["hello"] * MAX_FROM_TASKS, sender="task-7")
    assert mail.refusal("again", "task-8") == "20 messages of other tasks wait for its next turn already"
    assert mail.refusal("stop", OPERATOR) is None


def test_what_waits_is_bounded() -> None:
    full = "50 messages wait for the agent's next turn already: more is taken after it"
    assert box(*["x"] * MAX_WAITING).refusal("x") == full
    assert box("x" * (MAX_WAITING_TEXT - 1)).refusal("x") is None
    assert box("x" * MAX_WAITING_TEXT).refusal("x") is not None


@given(st.lists(st.tuples(st.sampled_from(["post", "deliver", "said"]), st.integers(1, 60)), max_size=120))
def test_nothing_that_waits_is_forgotten(steps: list[tuple[str, int]]) -> None:
    mail, posted, delivered = Mailbox(), 0, set()
    for step, number in steps:
        if step == "post":
            posted += 1
            mail.post("x" * 600, OPERATOR, 0.0)
        elif step == "deliver":
            mail.deliver([f"m{number}"], number)
            delivered |= {number} if number <= posted else set()
        else:
            mail.said(number, "y" * 600)
    assert ids(mail.waiting()) == [f"m{number}" for number in range(1, posted + 1) if number not in delivered]
    assert len(mail.for_turn(new_session=True)) - len(mail.waiting()) == min(len(delivered), KEPT)
    assert len(mail.shown()) <= KEPT
    assert all(len(each.text) <= SHOWN_TEXT and len(each.answer) <= ANSWER_TEXT for each in mail.shown())


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"text": "x", "when": "now"}, "when: unknown field"),
        ({"now": True}, "text: required, but not given"),
        ({"text": "x", "now": "yes"}, "now: Input should be a valid boolean"),
        ({"text": "x", "from": ""}, "from: String should have at least 1 character"),
    ],
)
def test_what_is_no_message_is_told_so(given: Any, why: str) -> None:
    with pytest.raises(ValidationError) as caught:
        saying(given)
    assert explain(caught.value) == why


def test_a_message_is_a_text_or_more() -> None:
    assert (saying("x").text, saying("x").now, saying("x").sender) == ("x", False, OPERATOR)
    said = saying({"text": "x", "now": True, "from": "task-7"})
    assert (said.text, said.now, said.sender) == ("x", True, "task-7")


def test_a_turn_that_is_under_way_has_plain_texts() -> None:
    ref = {"task_id": "t", "key": "t.1", "repo": "/r", "target": "refs/heads/main"}
    made = TurnInput.model_validate(
        {"ref": ref, "turn": 1, "role": "executor", "agent": {}, "ask": "start", "messages": ["keep it"]}
    )
    assert made.messages == [Message(text="keep it")]


def test_what_nobody_has_had_can_be_taken_back() -> None:
    mail = box("put back", "put back", sender="mergewright")
    mail.deliver(["m1"], 1)
    mail.take_back("put back", OPERATOR)
    mail.take_back("put back", "mergewright")
    assert ids(mail.shown()) == ["m1"]
