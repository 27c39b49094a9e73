"""The agent CLIs that we can drive. A new one is a module here, a line below, and a test.

Nothing in this package knows Temporal or git.
"""

from __future__ import annotations

from activities.agents.base import Runtime
from activities.agents.claude_code import ClaudeCode
from activities.agents.codex import Codex
from activities.agents.command import Command
from activities.agents.gemini import Gemini
from activities.agents.opencode import OpenCode
from activities.agents.qwen import Qwen

RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime for runtime in (ClaudeCode(), Codex(), Command(), Gemini(), OpenCode(), Qwen())
}


class UnknownRuntime(ValueError):
    """No such runtime; the message names those that there are."""

    def __init__(self, name: str) -> None:
        super().__init__(f"unknown runtime {name!r}: there are {', '.join(sorted(RUNTIMES))}")


def runtime(name: str) -> Runtime:
    """Raises UnknownRuntime."""
    try:
        return RUNTIMES[name]
    except KeyError:
        raise UnknownRuntime(name) from None
