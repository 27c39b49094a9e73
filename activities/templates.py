"""Tasks that come again: `[templates.NAME]` in the `mergewright.toml` on the target branch holds fields of a task."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from activities.protected import SETTINGS_FILE
from activities.settings import TaskInput, explain
from activities.site import invalid

_MERGED = ("limits", "delivery")
"""Tables that are put together field by field, as those of the repository's settings."""


def from_template(task: TaskInput, file: bytes | None) -> TaskInput:
    """The task with its template's fields where it gives none. Raises InvalidTask, in one line."""
    name = task.template
    try:
        templates = tomllib.loads((file or b"").decode()).get("templates", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        invalid(SETTINGS_FILE, f"is not TOML: {error}")
    if not isinstance(templates, Mapping) or not isinstance(templates.get(name), Mapping):
        there = ", ".join(templates) if isinstance(templates, Mapping) and templates else "none"
        invalid("template", f"{SETTINGS_FILE} on the target branch has no [templates.{name}]; there are: {there}")
    fields = dict(templates[name])
    if foreign := fields.keys() & {"repo", "template"}:
        invalid(SETTINGS_FILE, f"templates.{name}.{min(foreign)}: is not for a template to say")
    own: dict[str, Any] = task.model_dump(exclude_unset=True, exclude={"template"})
    if not task.title:
        own.pop("title", None)
    for table in _MERGED:
        if isinstance(own.get(table), Mapping) and isinstance(fields.get(table), Mapping):
            own[table] = {**fields[table], **own[table]}
    try:
        return TaskInput.model_validate({**fields, **own})
    except ValidationError as error:
        invalid(SETTINGS_FILE, f"templates.{name}: {explain(error)}")
