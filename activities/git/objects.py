"""Reads objects and refs through one `git cat-file` that stays.

An answer takes a tenth of a millisecond; a process of its own for each question takes four.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

GITLINK = "160000"


class Unreadable(OSError):
    """Git did not answer, or lacks an object that must be there."""


@dataclass(frozen=True)
class Change:
    """A path that differs between two trees."""

    path: str
    """Bytes that are no UTF-8 survive as surrogates."""
    old: tuple[str, str] | None
    """Mode and object; None: it is not there."""
    new: tuple[str, str] | None


class Objects:
    """Git is started at the first question. To be used by one thread at a time, and closed.

    It only reads: should it outlive a killed worker for a moment, it is in nobody's way.
    """

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # a question that was not read is still to be flushed
                    pipe.close()  # type: ignore[union-attr]
            process.wait()

    def commit(self, name: str) -> str | None:
        """The commit that `name`, a ref or a sha, stands for; None when there is none."""
        found = self._info(f"{name}^{{commit}}")
        return found[0] if found else None

    def has(self, sha: str) -> bool:
        return self._info(sha) is not None

    def tree(self, commit: str) -> str:
        """Raises Unreadable."""
        found = self._info(f"{commit}^{{tree}}")
        if found is None:
            raise Unreadable(f"{commit} has no tree")
        return found[0]

    def read(self, name: str) -> bytes | None:
        """Content of an object: `<sha>`, `<commit>:<path>`; None when there is none."""
        found = self._ask("contents", name)
        if found is None:
            return None
        content = self._exactly(int(found[2]))
        self._exactly(1)
        return content

    def pieces(self, sha: str, size: int = 2**20) -> Iterator[bytes]:
        """Content of an object that may be too large for the memory: to be read to its end before the next question.

        Raises Unreadable.
        """
        found = self._ask("contents", sha)
        if found is None:
            raise Unreadable(f"{sha} is missing")
        whole = int(found[2])
        for at in range(0, whole, size):
            yield self._exactly(min(size, whole - at))
        self._exactly(1)

    def folder(self, tree: str) -> dict[str, tuple[str, str]]:
        """What a tree holds, by name: mode and object. Raises Unreadable."""
        return {os.fsdecode(name): entry for name, entry in self._entries(tree).items()}

    def changes(self, old: str, new: str) -> list[Change]:
        """Every file that differs between two commits or trees, in the order of paths; a renamed one is two.

        Only folders that differ are read. Raises Unreadable.
        """
        found = self._differences(self.tree(old), self.tree(new))
        return [Change(os.fsdecode(path), *entries) for path, *entries in sorted(found)]

    def _differences(self, old: str, new: str) -> Iterator[tuple[bytes, _Entry, _Entry]]:
        pairs: list[tuple[str | None, str | None, bytes]] = [(old, new, b"")]
        while pairs:  # no recursion: an agent's tree may be deeper than Python goes
            was_tree, now_tree, above = pairs.pop()
            before, after = (self._entries(tree) if tree else {} for tree in (was_tree, now_tree))
            for name in before.keys() | after.keys():
                was, now = before.get(name), after.get(name)
                if was == now:
                    continue
                path = above + name
                folders = [entry[1] if entry and entry[0] == _FOLDER else None for entry in (was, now)]
                if any(folders):
                    pairs.append((folders[0], folders[1], path + b"/"))
                files = [entry if entry and entry[0] != _FOLDER else None for entry in (was, now)]
                if any(files):
                    yield path, files[0], files[1]

    def _entries(self, tree: str) -> dict[bytes, tuple[str, str]]:
        content = self.read(tree)
        if content is None:
            raise Unreadable(f"the tree {tree} is missing")
        size, at, found = len(tree) // 2, 0, {}
        while at < len(content):
            end = content.index(b"\0", at)
            mode, _, name = content[at:end].partition(b" ")
            at = end + 1 + size
            found[name] = _mode(int(mode, 8)), content[end + 1 : at].hex()
        return found

    def _info(self, name: str) -> list[str] | None:
        return self._ask("info", name)

    def _ask(self, command: str, name: str) -> list[str] | None:
        """`<sha> <type> <size>` in parts; None: there is nothing of that name."""
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(f"{command} {name}\0".encode("utf-8", "surrogateescape"))
            self._process.stdin.flush()
            line = self._process.stdout.readline().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise Unreadable(f"git cat-file has ended: {error}") from error
        if not line:
            raise Unreadable(f"git cat-file has ended while it was asked for {name}")
        parts, (first, *more) = line.rsplit(None, 2), name.split("\n")
        # The name of what is missing may be a sha too.
        if _SHA.fullmatch(parts[0]) and parts[-1].isdigit() and line != f"{first}\n":
            return parts
        # The name is repeated, with its line breaks, and that it is missing.
        for _ in more:
            self._process.stdout.readline()
        return None

    def _exactly(self, size: int) -> bytes:
        assert self._process
        assert self._process.stdout
        content = self._process.stdout.read(size)
        if len(content) < size:
            raise Unreadable("git cat-file has ended in the middle of an object")
        return content


_Entry = tuple[str, str] | None
_FOLDER = "040000"
_SHA = re.compile(r"[0-9a-f]{40,64}")


def _mode(mode: int) -> str:
    """As git shows it: old versions wrote modes that mean the same as others."""
    if stat.S_ISREG(mode):
        return "100755" if mode & stat.S_IXUSR else "100644"
    kinds = {stat.S_IFDIR: _FOLDER, stat.S_IFLNK: "120000"}
    return kinds.get(stat.S_IFMT(mode), GITLINK)
