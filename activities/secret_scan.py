"""Finds secrets in lines of text, with the plugins of detect-secrets, in this process and without a network.

Its plugins are asked directly, not by its `scan_*` functions: these read files and global settings, and may try out
what they find at its provider.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

WINDOW, OVERLAP = 2_000, 300
"""Characters of a line that are looked at together, for some patterns take time by the square of them. No pattern of
the default plugins needs more than the overlap to match."""


@dataclass(frozen=True)
class Secret:
    kind: str
    fingerprint: str
    """Of its line, kind and file: 16 hex digits, which tell nothing of it."""
    line: int
    claimed: bool
    """The line, or the one before it, has a comment that it is none."""


@lru_cache(maxsize=1)
def _known() -> Mapping[str, type[Any]]:
    """By name. Imported when it is needed: it takes a third of a second."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    plugins: list[type[Any]] = list(get_mapping_from_secret_type_to_class().values())
    return {plugin.__name__: plugin for plugin in plugins}


def unknown(detectors: Iterable[str]) -> str:
    """One line about the first that does not exist; empty: all do."""
    for name in detectors:
        if name not in _known():
            return f"there is no {name!r} in detect-secrets, but {', '.join(sorted(_known()))}"
    return ""


@lru_cache(maxsize=16)
def _plugins(detectors: tuple[str, ...]) -> list[Any]:
    return [_known()[name]() for name in detectors]


def scan(path: str, lines: Sequence[str], added: Iterable[int], detectors: Sequence[str]) -> Iterator[Secret]:
    """In the `added` lines of a file, by their index."""
    plugins = _plugins(tuple(detectors))
    for index in added:
        line = lines[index]
        kinds = {
            secret.type
            for part in _windows(line)
            for plugin in plugins
            for secret in plugin.analyze_line(filename=path, line=part, line_number=index + 1)
            if not _is_placeholder(secret.secret_value)
        }
        if kinds:
            claimed = _is_claimed(path, line, lines[index - 1] if index else "")
            yield from (Secret(kind, _fingerprint(kind, path, line), index + 1, claimed) for kind in sorted(kinds))


def _windows(line: str) -> Iterator[str]:
    for start in range(0, max(len(line) - OVERLAP, 1), WINDOW - OVERLAP):
        yield line[start : start + WINDOW]


def _is_placeholder(value: str) -> bool:
    """As detect-secrets knows them; and AWS writes EXAMPLE into the keys of its documentation."""
    from detect_secrets.filters import heuristic

    return (
        "EXAMPLE" in value
        or heuristic.is_sequential_string(value)
        or heuristic.is_templated_secret(value)
        or heuristic.is_prefixed_with_dollar_sign(value)
        or heuristic.is_not_alphanumeric_string(value)
    )


def _is_claimed(path: str, line: str, before: str) -> bool:
    from detect_secrets.filters.allowlist import is_line_allowlisted
    from detect_secrets.util.code_snippet import CodeSnippet

    return is_line_allowlisted(path, line.rstrip("\r"), CodeSnippet([before.rstrip("\r"), line], 0, 1))


def _fingerprint(kind: str, path: str, line: str) -> str:
    """By the line: of some tokens the plugins give no more than the prefix."""
    return hashlib.sha256("\0".join((kind, path, line.strip())).encode("utf-8", "replace")).hexdigest()[:16]
