"""What a head changes, read for the policy in a handful of git processes, however much it is."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from activities.git.repository import printable
from activities.git.run import Git

FILES = ("100644", "100755")
LINK, SUBMODULE = "120000", "160000"


@dataclass(frozen=True)
class Entry:
    """One path that differs."""

    path: str
    """Bytes that are no UTF-8 survive as surrogates: two paths are never one."""
    old_mode: str
    mode: str
    """All zeros: it is not there."""
    olds: tuple[str, ...]
    """Blobs (or commits, of a submodule) that it was; of a merge, in each of the parents."""
    new: str
    commit: str = ""
    """The commit that changes it; empty: the whole change does."""

    @property
    def is_new(self) -> bool:
        return not self.olds

    @property
    def is_gone(self) -> bool:
        return not self.new.strip("0")

    def where(self) -> str:
        return f" in commit {self.commit[:10]}" if self.commit else ""


@dataclass(frozen=True)
class Commit:
    sha: str
    is_merge: bool
    author: str
    """Mail."""
    committer: str
    dates: tuple[int, int]
    """Of author and committer, in seconds since the epoch."""
    subject: str
    message: str
    """All of it, the subject included."""


def changed(git: Git, fork: str, head: str) -> tuple[list[Entry], dict[str, int | None]]:
    """Every path that differs, and how many lines were added and deleted there; None: it is binary."""
    # Without a work tree no .gitattributes is read, so none can declare a file binary to hide it, or text.
    options = ("-r", "-z", "--raw", "--numstat", "--no-renames", "--no-abbrev", "--no-ext-diff", "--no-textconv")
    fields = iter(git.run("diff-tree", *options, fork, head).stdout.split(b"\0"))
    entries, lines = [], {}
    for field in filter(None, fields):
        if field.startswith(b":"):
            entries.append(_entry(field, next(fields)))
        else:
            added, deleted, path = field.split(b"\t", 2)
            lines[os.fsdecode(path)] = None if added == b"-" else int(added) + int(deleted)
    return entries, lines


def merged(git: Git, base: str, head: str) -> str | None:
    """The tree of both; None: they do not merge."""
    done = git.run("merge-tree", "--write-tree", "--no-messages", base, head, ok=(0, 1))
    return done.stdout.decode().strip() if done.returncode == 0 else None


def steps(git: Git, commits: Iterable[Commit]) -> list[Entry]:
    """What each of the commits changes; a merge: only what it has from none of its parents."""
    shas = "".join(f"{commit.sha}\n" for commit in commits).encode()
    options = ("--stdin", "-r", "-z", "-c", "--root", "--raw", "--no-renames", "--no-abbrev")
    fields = iter(git.run("diff-tree", *options, stdin=shas).stdout.split(b"\0"))
    entries, commit = [], ""
    for field in filter(None, fields):
        if field.startswith(b":"):
            entries.append(_entry(field, next(fields), commit))
        else:
            commit = field.decode().strip()
    return entries


def _entry(facts: bytes, path: bytes, commit: str = "") -> Entry:
    """From `:mode mode blob blob status`; a merge has a colon, a mode and a blob more for each parent more."""
    parents = len(facts) - len(facts.lstrip(b":"))
    words = facts.lstrip(b":").decode().split(" ")
    olds = tuple(blob for blob in words[parents + 1 : 2 * parents + 1] if blob.strip("0"))
    return Entry(os.fsdecode(path), words[0], words[parents], olds, words[2 * parents + 1], commit)


def commits(git: Git, base: str, head: str) -> list[Commit]:
    """Those of `head` that are not in `base`, the newest first."""
    form = "%x00".join(("%H", "%P", "%ae", "%ce", "%at", "%ct", "%s", "%B"))
    log = git.run("log", "-z", f"--format={form}", f"{base}..{head}", "--").stdout
    fields = [printable(field) for field in log.split(b"\0")]
    return [
        Commit(sha, " " in parents, author, committer, (_seconds(at), _seconds(ct)), subject, message)
        for sha, parents, author, committer, at, ct, subject, message in zip(*[iter(fields)] * 8, strict=False)
    ]


def _seconds(text: str) -> int:
    return int(text) if text.lstrip("-").isdigit() else 0


def paths(git: Git, commit: str) -> set[str]:
    return set(
        map(os.fsdecode, filter(None, git.run("ls-tree", "-r", "-z", "--name-only", commit).stdout.split(b"\0")))
    )


def sizes(git: Git, blobs: Collection[str]) -> dict[str, int]:
    """In bytes."""
    if not blobs:
        return {}
    told = git("cat-file", "--batch-check=%(objectname) %(objectsize)", stdin="".join(f"{b}\n" for b in blobs).encode())
    return {blob: int(size) for blob, size in map(str.split, told.splitlines()) if size.isdigit()}


def contents(git: Git, blobs: Collection[str]) -> dict[str, bytes]:
    """All at once in memory: see `sizes`."""
    if not blobs:
        return {}
    out = git.run("cat-file", "--batch", stdin="".join(f"{blob}\n" for blob in blobs).encode()).stdout
    return dict(_objects(out))


def _objects(out: bytes) -> Iterator[tuple[str, bytes]]:
    """From (`blob type size LF content LF`)*."""
    at = 0
    while at < len(out):
        end = out.index(b"\n", at)
        blob, _, size = out[at:end].decode().split(" ")
        at = end + 1 + int(size) + 1
        yield blob, out[end + 1 : at - 1]
