"""What a `mergewright.toml` says besides the settings of tasks: the merge queue, the policy, and what its gates are."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from pathspec import GitIgnoreSpec
from pydantic import ValidationError
from temporalio.exceptions import ApplicationError

from activities.secret_scan import unknown
from activities.settings import DETECTORS, INVALID_TASK, GateSpec, Model, Policy, QueueSettings, explain
from activities.site import invalid

M = TypeVar("M", bound=Model)

SETTINGS_FILE = "mergewright.toml"
INCLUDE_FILE = ".worktreeinclude"
"""Patterns of untracked files that worktrees get a copy of: of secrets, for one."""


def queue_settings(file: bytes | None) -> QueueSettings:
    """The table `[queue]` of a `mergewright.toml`. Raises InvalidTask, in one line."""
    settings = _table(file, "queue", QueueSettings)
    _check_globs("queue.protected", settings.protected)
    return settings


def policy_settings(file: bytes | None) -> Policy:
    """The table `[policy]` of a `mergewright.toml`. Raises InvalidTask, in one line."""
    policy = _table(file, "policy", Policy)
    for field in ("allow", "deny", "binaries", "hooks"):
        _check_globs(f"policy.{field}", getattr(policy, field))
    for rule, globs in policy.exempt.items():
        _check_globs(f"policy.exempt.{rule}", globs)
    if policy.detectors != DETECTORS and (problem := unknown(policy.detectors)):
        invalid(SETTINGS_FILE, f"policy.detectors: {problem}")
    return policy


@contextmanager
def for_a_task() -> Iterator[None]:
    """What is wrong on the target by now is not its fault: it waits for a person to mend that, and does not fail."""
    try:
        yield
    except ApplicationError as error:
        if error.type != INVALID_TASK:
            raise
        raise ApplicationError(error.message, type="BadSettings", non_retryable=True) from None


def _table(file: bytes | None, name: str, model: type[M]) -> M:
    try:
        found = tomllib.loads((file or b"").decode()).get(name, {})
        if not isinstance(found, Mapping):
            invalid(SETTINGS_FILE, f"{name}: must be a table, [{name}]")
        return model.model_validate(found)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        invalid(SETTINGS_FILE, f"is not TOML: {error}")
    except ValidationError as error:
        invalid(SETTINGS_FILE, f"{name}.{explain(error)}")


def _check_globs(field: str, globs: list[str]) -> None:
    try:
        GitIgnoreSpec.from_lines(globs)
    except ValueError as error:
        invalid(SETTINGS_FILE, f"{field}: {error}")


def gate_digests(file: bytes | None) -> list[str]:
    """Of the gates in a `mergewright.toml`; what is not right there is told where tasks begin."""
    try:
        found = tomllib.loads((file or b"").decode()).get("gates", [])
        return [GateSpec.model_validate(gate).digest() for gate in found]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError, TypeError):
        return []
