"""The texts that agents get: one Markdown template each. A variable that is missing is an error.

system.md   standing instructions, by role
task.md     the task itself: only at the start of a session
ask/        what this one turn is for; all that a resumed session is told, with news.md before it
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    undefined=StrictUndefined,
    autoescape=False,  # plain text for agents, never HTML
    keep_trailing_newline=True,
)


def render(name: str, **values: Any) -> str:
    """`name` is the template's path without `.md`. Raises jinja2.UndefinedError for a value that it needs."""
    return _templates.get_template(f"{name}.md").render(**values).strip() + "\n"
