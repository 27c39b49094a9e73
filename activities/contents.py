"""What the policy finds by reading: secrets and conflict markers in the files of a change, secrets in its messages.

A small text is compared with what it was, line by line. What is large or binary is read in pieces, for secrets alone:
those that an earlier version has too are nothing new.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from activities import secret_scan
from activities.contracts import Finding
from activities.git import change
from activities.git.change import Commit, Entry
from activities.git.repository import printable
from activities.git.run import Git
from activities.policy import Rules
from activities.secret_scan import Secret

SMALL_BYTES = 8 * 2**20
LARGE_BYTES = 64 * 2**20
"""Of larger files and of binary ones, so much of one change is read: some ten seconds. More waits for a person."""
AT_ONCE_BYTES = 32 * 2**20
"""Of files in memory together."""
LONGEST_PATH = 4_096
_START_BYTES = 8_000
"""A file with a zero byte in these is binary, as it is for git."""

Contents = Mapping[str, bytes]
"""By blob."""


class Reader:
    """The files of a change, a few megabytes at a time."""

    def __init__(self, git: Git, entries: Sequence[Entry]) -> None:
        self.git = git
        self.entries = list({(entry.path, entry.new): entry for entry in reversed(entries)}.values())[::-1]
        """The first of each version: those of the whole change before those of its commits."""
        kept = [entry for entry in self.entries if not entry.is_gone and entry.mode != change.SUBMODULE]
        self.sizes = change.sizes(git, {blob for entry in kept for blob in (entry.new, *entry.olds)})
        before = {blob for entry in self.entries if not entry.commit for blob in entry.olds}
        there = (entry for entry in self.entries if entry.mode in change.FILES and entry.new in self.sizes)
        self.new = [entry for entry in there if entry.new not in before]
        """Versions of files whose content was in none before."""

    def links(self) -> Iterator[tuple[str, str]]:
        """Symbolic links and where they point to. What is too long to be a path leads nowhere that is known."""
        there = [entry for entry in self.entries if entry.mode == change.LINK and not entry.commit]
        short = {entry.new for entry in there if self.sizes.get(entry.new, LONGEST_PATH) < LONGEST_PATH}
        found = change.contents(self.git, short)
        return ((entry.path, printable(found.get(entry.new, b"/..."))) for entry in there)

    def versions(self) -> Iterator[tuple[Entry, Contents]]:
        """Those that are new; and what is small of each and of what it was."""
        for some in self._portions():
            found = change.contents(self.git, {blob for entry in some for blob in self._small(entry)})
            yield from ((entry, found) for entry in some)

    def pieces(self, blob: str, small: Contents) -> Iterator[bytes]:
        return iter([small[blob]]) if blob in small else self.git.objects.pieces(blob)

    def is_binary(self, blob: str, small: Contents) -> bool:
        start, *_ = (piece[:_START_BYTES] for piece in self.pieces(blob, small))
        return b"\0" in start

    def _small(self, entry: Entry) -> list[str]:
        return [blob for blob in (entry.new, *entry.olds) if self.sizes.get(blob, SMALL_BYTES) < SMALL_BYTES]

    def _portions(self) -> Iterator[list[Entry]]:
        some, together = list[Entry](), 0
        for entry in self.new:
            size = sum(self.sizes[blob] for blob in self._small(entry))
            if some and together + size > AT_ONCE_BYTES:
                yield some
                some, together = [], 0
            some.append(entry)
            together += size
        if some:
            yield some


def by_content(rules: Rules, reader: Reader) -> Iterator[Finding]:
    if not rules.on("secret", "markers", "binary"):
        return
    told, room = set[str](), LARGE_BYTES
    for entry, small in reader.versions():
        path, size = entry.path, reader.sizes[entry.new]
        looks = rules.looks("secret", path)
        binary = (entry.new in small or bool(entry.commit)) and reader.is_binary(entry.new, small)
        if binary and entry.commit and rules.forbids_binary(path):
            yield rules.finding("binary", f"binary file of {size} bytes{entry.where()}", path)
        if entry.new in small and not binary:
            lines, added = _added(entry, small)
            if not entry.commit and rules.looks("markers", path) and (line := _marker(lines, added)):
                yield rules.finding("markers", "conflict markers", path, line)
            found = secret_scan.scan(path, lines, added, rules.policy.detectors) if looks else iter(())
        elif not looks:
            continue
        elif size > room:
            unread = rules.finding("secret", f"too large to be looked through: {size} bytes{entry.where()}", path)
            yield unread.model_copy(update={"severity": "approve"})
            continue
        else:
            room -= size
            found = _in_pieces(rules, reader, entry, small)
        yield from _secrets(rules, found, told, path, entry.where())


def by_message(rules: Rules, commits: Iterable[Commit], *, whole: bool) -> Iterator[Finding]:
    """`whole`: the commits land. Else they are squashed, and only the first line of each is kept, but of merges."""
    if not rules.on("secret"):
        return
    told = set[str]()
    for commit in commits:
        if commit.is_merge and not whole:
            continue
        lines = (commit.message if whole else commit.subject).split("\n")
        found = secret_scan.scan("", lines, range(len(lines)), rules.policy.detectors)
        where = f" in the message of commit {commit.sha[:10]}"
        yield from _secrets(rules, (replace(one, line=0) for one in found), told, "", where)


def _secrets(rules: Rules, found: Iterable[Secret], told: set[str], path: str, where: str) -> Iterator[Finding]:
    """Each once."""
    for secret in found:
        if secret.fingerprint in told or secret.fingerprint in rules.policy.not_secret:
            continue
        told.add(secret.fingerprint)
        if secret.claimed and rules.policy.secret_pragma == "allow":
            continue
        claim = ", said to be none" if secret.claimed else ""
        finding = rules.finding(
            "secret", f"{secret.kind}{where}{claim}, fingerprint {secret.fingerprint}", path, secret.line
        )
        yield finding.model_copy(update={"severity": "approve"}) if secret.claimed else finding


def _in_pieces(rules: Rules, reader: Reader, entry: Entry, small: Contents) -> Iterator[Secret]:
    """Those of the version that none of the former ones has."""

    def scan(blob: str) -> Iterator[Secret]:
        return secret_scan.scan_pieces(entry.path, reader.pieces(blob, small), rules.policy.detectors)

    if found := list(scan(entry.new)):
        known = {secret.fingerprint for old in entry.olds for secret in scan(old)}
        yield from (secret for secret in found if secret.fingerprint not in known)


def _added(entry: Entry, small: Contents) -> tuple[list[str], list[int]]:
    """The lines of a version, and which of them are in none of those that it was."""
    known = {line for old in entry.olds if old in small for line in small[old].split(b"\n")}
    lines = small[entry.new].split(b"\n")
    added = [index for index, line in enumerate(lines) if line not in known]
    return [line.decode("utf-8", "replace") for line in lines], added


def _marker(lines: Sequence[str], added: Sequence[int]) -> int:
    """Number of the line where a conflict begins that also ends in what was added; 0: there is none."""
    begin = next((index for index in added if lines[index].startswith("<<<<<<< ")), None)
    ends = any(lines[index].startswith(">>>>>>> ") for index in added)
    return 0 if begin is None or not ends else begin + 1
