"""Gates that have passed, by tree and command: no tree is tested twice.

Red results are not kept: whoever sends the same work in again wants to know anew, the machine may be another by now.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from activities.site import read_json, write_atomically

MOST_KEPT = 2_000
"""Trees of one repository. The oldest half goes when there are more."""

Where = Literal["worktree", "slot"]


@dataclass(frozen=True)
class Results:
    folder: Path

    def green(self, tree: str, *, precheck: bool) -> list[str]:
        """Digests of the gates that passed on `tree`. `precheck`: also in a task's own worktree, beside files that
        are in no commit."""
        found = read_json(self._file(tree))
        return sorted(digest for digest, where in found.items() if precheck or where == "slot")

    def keep(self, tree: str, digests: Iterable[str], where: Where) -> None:
        """A result from a slot outweighs one from a worktree. Two at once may lose one: it is then tested again."""
        file = self._file(tree)
        known = read_json(file)
        added = {digest: where for digest in digests if known.get(digest) not in ("slot", where)}
        if added:
            write_atomically(file, json.dumps({**known, **added}))
            self._tidy()

    def _file(self, tree: str) -> Path:
        return self.folder / f"{tree}.json"

    def _tidy(self) -> None:
        files = list(self.folder.glob("*.json"))
        if len(files) > MOST_KEPT:
            files.sort(key=lambda file: file.stat().st_mtime)
            for file in files[: MOST_KEPT // 2]:
                file.unlink(missing_ok=True)
