"""Text of others as text: without what a terminal takes for a command, or what changes the order of reading."""

from __future__ import annotations

import re

_CONTROLS = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b\]|\x9d)[^\x00-\x1f\x7f-\x9f]*(?:\x07|\x1b\\|\x9c)"  # OSC: titles, links, the clipboard
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def plain(text: str) -> str:
    """`text` without escape sequences and control characters, but for line feeds and tabs."""
    return _CONTROLS.sub("", text)
