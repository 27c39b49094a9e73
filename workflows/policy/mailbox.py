"""What the agent of a task was told, by whom, and what it answered. Pure.

A message waits until a turn that came to something has had it. The newest that were delivered are kept: a session that
starts later knows nothing of what the one before was told.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import Field

from activities.contracts import OPERATOR, Message
from activities.settings import Model

KEPT = 20
"""Delivered messages that are remembered."""
MAX_WAITING = 50
MAX_WAITING_TEXT = 160_000
"""Characters of all that waits: it goes with the next turn, in one payload."""
MAX_FROM_TASKS = 20
"""Of the waiting ones, from other agents: so these cannot keep an operator's out."""
SHOWN_TEXT = 500
ANSWER_TEXT = 500


class Saying(Model):
    """Input of `send_message`: a text, or this."""

    text: str
    now: bool = Field(False, strict=True)
    """The running turn is ended, and goes on with the message at once."""
    sender: str = Field(OPERATOR, alias="from", min_length=1, max_length=500)


def saying(given: Any) -> Saying:
    """Raises ValidationError."""
    return Saying.model_validate({"text": given or ""} if given is None or isinstance(given, str) else given)


class Mailbox:
    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._count = 0

    def post(self, text: str, sender: str, at: float, question: str = "") -> None:
        self._count += 1
        message = Message(id=f"m{self._count}", sender=sender, text=text, at=at, question=question)
        self._messages.append(message)

    def refusal(self, text: str, sender: str = OPERATOR) -> str | None:
        """Why no more is taken just now."""
        waiting = self.waiting()
        if len(waiting) >= MAX_WAITING or sum(len(each.text) for each in waiting) + len(text) > MAX_WAITING_TEXT:
            return f"{len(waiting)} messages wait for the agent's next turn already: more is taken after it"
        if sender != OPERATOR and sum(each.sender != OPERATOR for each in waiting) >= MAX_FROM_TASKS:
            return f"{MAX_FROM_TASKS} messages of other tasks wait for its next turn already"
        return None

    def take_back(self, text: str, sender: str) -> None:
        """Where nobody has had it yet."""
        self._messages = [
            each for each in self._messages if (each.text, each.sender, each.state) != (text, sender, "waiting")
        ]

    def waiting(self) -> list[Message]:
        return [each for each in self._messages if each.state == "waiting"]

    def for_turn(self, new_session: bool, turn: int | None = None) -> list[Message]:
        """With what an earlier attempt at this very turn has read: its session may not have kept it."""
        return [
            each
            for each in self._messages
            if new_session or each.state == "waiting" or (turn is not None and each.turn == turn)
        ]

    def deliver(self, ids: Collection[str], turn: int) -> None:
        """An id that is not known, or delivered already, is left as it is."""
        self._messages = [
            each.model_copy(update={"state": "delivered", "turn": turn})
            if each.id in ids and each.state == "waiting"
            else each
            for each in self._messages
        ]
        delivered = [each.id for each in self._messages if each.state == "delivered"]
        forgotten = set(delivered[:-KEPT])
        self._messages = [each for each in self._messages if each.id not in forgotten]

    def said(self, turn: int, text: str) -> None:
        """What the agent said at the end of a turn answers what was delivered in it, but for what it replied to."""
        answer = text.strip()[:ANSWER_TEXT]
        self._messages = [
            each.model_copy(update={"answer": answer}) if each.turn == turn and not each.replied else each
            for each in self._messages
        ]

    def reply(self, id: str, text: str) -> bool:
        """False: there is no such message."""
        update = {"answer": text[:ANSWER_TEXT], "replied": True}
        there = any(each.id == id for each in self._messages)
        self._messages = [each.model_copy(update=update) if each.id == id else each for each in self._messages]
        return there

    def shown(self) -> list[Message]:
        return [
            each.model_copy(update={"text": _cut(each.text), "question": _cut(each.question)})
            for each in self._messages[-KEPT:]
        ]


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1] + "…"
