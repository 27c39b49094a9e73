"""What the model server says, in terms that are the same for every API."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Json = dict[str, Any]
Call = tuple[str, ...]


def bash(command: str) -> Call:
    return ("bash", command)


def write(path: str, content: str) -> Call:
    return ("write", path, content)


def edit(path: str, old: str, new: str) -> Call:
    """`old` is a whole line."""
    return ("edit", path, old, new)


def call(tool: str, **arguments: Any) -> Call:
    """A tool of an MCP server, which each CLI gives a longer name."""
    return ("call", tool, json.dumps(arguments))


@dataclass(frozen=True)
class Step:
    """One answer: text and tool calls, or a fault."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    input_tokens: int = 100
    output_tokens: int = 20
    cached_tokens: int = 0
    """Of the input."""
    fault: Literal["", "status", "usage_limit", "credit", "context", "hang", "stall", "drop"] = ""
    """`hang` never answers, `stall` stops in the middle of the answer, `drop` closes the connection there."""
    status: int = 500
    message: str = "so the test wants"
    retry_after: int | None = None
    resets_in: int = 3600


def say(text: str) -> Step:
    return Step(text)


def use(*calls: Call) -> Step:
    return Step(calls=calls)


def refuse(status: int, retry_after: int | None = None) -> Step:
    return Step(fault="status", status=status, retry_after=retry_after)


@dataclass
class Request:
    """What a CLI asked, in terms that are the same for every API."""

    path: str
    headers: dict[str, str]
    body: Json
    tools: set[str]
    system: str
    prompt: str
    """What the user said last."""
    answered: int
    """Results of tool calls since then."""
    step: Step = field(default_factory=lambda: say("ok"))

    def called(self, call: Call) -> tuple[str, Json] | None:
        """Name and arguments of a `call`; None for any other. The client's name for a tool ends with its own."""
        if call[0] != "call":
            return None
        _, tool, arguments = call
        return next((name for name in sorted(self.tools) if name.endswith(tool)), tool), json.loads(arguments)


Scenario = Sequence[Step] | Callable[[Request], Step]


def script(*steps: Step) -> Callable[[Request], Step]:
    """The same steps for every prompt: the n-th after n tool results. Each step but the last makes one call."""
    return lambda request: steps[min(request.answered, len(steps) - 1)]


class Api(Protocol):
    """One vendor's way to ask a model."""

    @staticmethod
    def serves(path: str) -> bool: ...

    @staticmethod
    def streams(path: str, body: Json) -> bool:
        """Whether the answer is wanted as server-sent events."""

    @staticmethod
    def read(path: str, headers: dict[str, str], body: Json) -> Request: ...

    @staticmethod
    def error(step: Step) -> tuple[int, dict[str, str], Json]:
        """Status, headers and body of a fault."""

    @staticmethod
    def answer(step: Step, request: Request) -> Json: ...

    @staticmethod
    def events(answer: Json) -> Iterator[str]:
        """The answer as server-sent events, each whole."""


def event(data: Json, name: str = "") -> str:
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n"


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
