"""What only a person lets through: paths that decide how others' work is tested, and links that leave the tree."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import PurePosixPath

from pathspec import GitIgnoreSpec
from pydantic import ValidationError

from activities.git.repository import Repository
from activities.settings import GateSpec, QueueSettings, explain
from activities.site import invalid

SETTINGS_FILE = "mergewright.toml"


def queue_settings(file: bytes | None) -> QueueSettings:
    """The table `[queue]` of a `mergewright.toml`. Raises InvalidTask, in one line."""
    try:
        found = tomllib.loads((file or b"").decode()).get("queue", {})
        if not isinstance(found, Mapping):
            invalid(SETTINGS_FILE, "queue: must be a table, [queue]")
        settings = QueueSettings.model_validate(found)
        GitIgnoreSpec.from_lines(settings.protected)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        invalid(SETTINGS_FILE, f"is not TOML: {error}")
    except ValidationError as error:
        invalid(SETTINGS_FILE, f"queue.{explain(error)}")
    except ValueError as error:
        invalid(SETTINGS_FILE, f"queue.protected: {error}")
    return settings


def gate_digests(file: bytes | None) -> list[str]:
    """Of the gates in a `mergewright.toml`; what is not right there is told where tasks begin."""
    try:
        found = tomllib.loads((file or b"").decode()).get("gates", [])
        return [GateSpec.model_validate(gate).digest() for gate in found]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError, TypeError):
        return []


def protected_paths(repository: Repository, settings: QueueSettings, base: str, head: str) -> list[str]:
    """Of what `head` changes since it left `base`: the protected paths, and symbolic links that point outside."""
    fork = repository.merge_base(base, head)
    if fork is None:
        return []
    spec = GitIgnoreSpec.from_lines([*settings.protected, f"/{SETTINGS_FILE}"])
    found = {path for path in repository.changed_files(fork, head) if spec.match_file(path)}
    found |= {path for path, link in repository.new_links(fork, head) if _leaves(path, link)}
    return sorted(found)[:_MOST_NAMED]


_MOST_NAMED = 50


def _leaves(path: str, link: str) -> bool:
    if link.startswith("/"):
        return True
    depth = len(PurePosixPath(path).parts) - 1
    for part in PurePosixPath(link).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False
