"""Finds secrets in lines of text, with the plugins of detect-secrets, in this process and without a network.

Its plugins are asked directly, not by its `scan_*` functions: these read files and global settings, and may try out
what they find at its provider.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain as joined
from typing import Any

WINDOW, OVERLAP = 2_000, 300
"""Characters of a line that are looked at together, for some patterns take time by the square of them. No pattern of
the default plugins needs more than the overlap to match."""

_SPACES = re.compile(r"[ \t]{2,}")
"""The patterns for pragmas take time by the square of these, and of a line; they hold the whole process meanwhile."""
_MORE = {
    "Anthropic API Key": re.compile(r"sk-ant-[a-z0-9]{2,10}-[A-Za-z0-9_-]{40,}"),
    "GitHub Token": re.compile(r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    "Google API Key": re.compile(r"AIza[A-Za-z0-9_-]{35}"),
}
"""What detect-secrets 1.5 does not know yet: among them the keys of agents that we run."""


@dataclass(frozen=True)
class Secret:
    kind: str
    fingerprint: str
    """Of the secret, its kind and its file: 16 hex digits, which tell nothing of it."""
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
    added = list(added)
    text = "\n".join(part for index in added for part in _windows(lines[index]))
    plugins = [plugin for plugin in _plugins(tuple(detectors)) if _may_find(plugin, text)]
    if not plugins and not any(regex.search(text) for regex in _MORE.values()):
        return
    for index in added:
        line = lines[index]
        found: dict[str, set[str]] = {}
        for part in _windows(line):
            for kind, value in (*_by_plugins(plugins, path, part), *_by_patterns(part)):
                found.setdefault(kind, set()).add(value)
        if found:
            claimed = _is_claimed(path, line, lines[index - 1] if index else "")
            for kind, values in sorted(found.items()):
                yield Secret(kind, _fingerprint(kind, path, *sorted(values)), index + 1, claimed)


def scan_pieces(path: str, pieces: Iterable[bytes], detectors: Sequence[str]) -> Iterator[Secret]:
    """In all of a file, however large, and whatever it holds: what is no text is looked through as if it were some.

    Of a secret in a binary file the line is not told.
    """
    decoder: codecs.IncrementalDecoder | None = None
    rest, before, is_text = "", 0, True
    for piece in joined(pieces, [b""]):
        if decoder is None:
            wide = piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            is_text = wide or b"\0" not in piece
            decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8")("replace")
        text = rest + decoder.decode(piece, final=not piece)
        *lines, rest = text.split("\n")
        if len(rest) > WINDOW or not piece:
            lines.append(rest)
            rest = rest[-OVERLAP:]
        for found in scan(path, lines, range(len(lines)), detectors):
            yield replace(found, line=before + found.line if is_text else 0)
        before += text.count("\n")


def _may_find(plugin: Any, text: str) -> bool:
    """Of all lines at once, which takes a fraction of the time; most files have nothing for any plugin."""
    patterns = getattr(plugin, "denylist", None)
    return patterns is None or any(regex.search(text) for regex in patterns)


def _by_plugins(plugins: Iterable[Any], path: str, text: str) -> Iterator[tuple[str, str]]:
    for plugin in plugins:
        values = {one.secret_value for one in plugin.analyze_line(filename=path, line=text)}
        if not all(map(_is_placeholder, values)):
            # Of some tokens a plugin gives no more than the prefix.
            whole = {match.group() for regex in getattr(plugin, "denylist", ()) for match in regex.finditer(text)}
            yield from ((plugin.secret_type, value) for value in whole or values)


def _by_patterns(text: str) -> Iterator[tuple[str, str]]:
    return ((kind, match.group()) for kind, regex in _MORE.items() for match in regex.finditer(text))


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

    line, before = (_SPACES.sub(" ", text.rstrip("\r"))[-WINDOW:] for text in (line, before))
    return is_line_allowlisted(path, line, CodeSnippet([before, line], 0, 1))


def _fingerprint(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:16]
