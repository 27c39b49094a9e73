"""Task files as they are on the target: read from git, never from a checkout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from activities.git.repository import printable
from activities.git.run import Git
from activities.swarm.contracts import Card, Refused

Reader = Callable[[bytes, str], tuple[list[Card], list[Refused]]]
"""The cards of a file, from its content and its path, and what is wrong with it."""

PENDING = "tasks/pending"
MOST_BYTES = 2**20
"""Of one file."""


@dataclass(frozen=True)
class Found:
    raw: bytes
    """Its path."""
    blob: str
    cards: list[Card] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    @property
    def path(self) -> str:
        """For people and payloads."""
        return printable(self.raw)


def files_in(git: Git, commit: str, read: Reader, folder: str = PENDING) -> list[Found]:
    """Those right in the folder, in the order of their names: `*.json`, and `*.edn`, which `read` refuses."""
    listed = git.run("--literal-pathspecs", "ls-tree", "-z", "-l", "--full-tree", commit, "--", f"{folder}/").stdout
    found = []
    for entry in filter(None, listed.split(b"\0")):
        facts, _, raw = entry.partition(b"\t")
        mode, _, blob, size = facts.decode().split()
        if not raw.endswith((b".json", b".edn")) or mode not in ("100644", "100755"):
            continue
        path = printable(raw)
        if int(size) > MOST_BYTES:
            why = f"it has {int(size)} bytes, and a file of tasks may have {MOST_BYTES}"
            found.append(Found(raw, blob, refused=[Refused(id=path, why=why)]))
            continue
        cards, refused = read(git.objects.read(blob) or b"", path)
        cards = [card.model_copy(update={"path": path, "source": "file"}) for card in cards]
        found.append(Found(raw, blob, cards, refused))
    return found
