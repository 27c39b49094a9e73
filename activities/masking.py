"""Secrets that were given are not told: not in logs, transcripts, prompts, nor in what goes into a history.

Against accidents: an agent prints its environment, a CLI says the key that was refused. An agent that wants to tell a
secret writes it backwards; what stops that is said in docs/security.md.

What a worker process has given to anybody it knows to its end (`learn`), and replaces it in all that it writes by
`***NAME***`. In files that others write while we read them the mask has the length of the secret: they are masked in
place. Values of less than 8 characters are left alone, for they would destroy text; so are names of files.
"""

from __future__ import annotations

import json
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

SHORTEST = 8
_PIECE = 2**20
"""Longer than any value: Linux takes no variable of more than 128 KiB, and JSON makes at most six times of that."""
_TOKEN = 16
"""Characters of a part of a URL that is taken for a token; what is shorter may be a name."""
_SECRET_NAME = re.compile(
    r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|_PWD|CREDENTIALS?|COOKIE|AUTH|PAT)(_|$)", re.IGNORECASE
)
_IN_URL = re.compile(r"://[^/:@\s]*:([^/@\s]+)@")


class Masks:
    """What must not be told, by the text that it may appear as."""

    def __init__(self) -> None:
        self._names: dict[bytes, str] = {}
        self._pattern: re.Pattern[bytes] | None = None
        self._learning = threading.Lock()

    def learn(self, given: Mapping[str, str], *, all_of_it: bool = False) -> None:
        """Values of variables whose names look like secrets, and passwords in URLs. `all_of_it`: all are secrets."""
        found = {}
        for name, value in given.items():
            secrets = _IN_URL.findall(value)
            if (all_of_it or _SECRET_NAME.search(name)) and not _is_path(value):
                secrets.append(value.strip())
            found.update({written: name for secret in secrets for written in _written(secret)})
        with self._learning:
            if found.keys() - self._names.keys():
                self._names = {**found, **self._names}
                # The longest first: where one holds another, all of it is masked.
                longest = sorted(self._names, key=len, reverse=True)
                self._pattern = re.compile(b"|".join(map(re.escape, longest)))

    def learn_url(self, name: str, url: str) -> None:
        """One that is a secret, with each part of it that looks like a token: services' answers name these alone."""
        parts = [part for part in re.split(r"[/:@?&=#,\s]+", url) if len(part) >= _TOKEN and "." not in part]
        for secret in (url, *parts):
            self.learn({name: secret}, all_of_it=True)

    def __bool__(self) -> bool:
        return self._pattern is not None

    def text(self, text: str) -> str:
        if self._pattern is None:
            return text
        content = text.encode("utf-8", "surrogatepass")
        masked = self._pattern.sub(lambda found: _mask(self._names[found[0]]), content)
        return text if masked == content else masked.decode("utf-8", "surrogatepass")

    def in_place(self, content: bytes, *, whole: bool) -> bytes:
        """Masked, of the same length; what may be the beginning of a secret is left out, unless it is the `whole`."""
        pattern, names = self._pattern, self._names
        if pattern is None:
            return content
        masked = bytearray(content)
        end = len(content) if whole else len(content) - _begun(content, names)
        for found in pattern.finditer(content):
            first, past = found.span()
            if first >= end:  # it may become a longer one
                break
            masked[first:past] = _mask(names[found[0]])[: past - first].ljust(past - first, b"*")
            if past > end:
                end = len(content) - _begun(content[past:], names)
        return bytes(masked[:end])

    def follow(self, fd: int, done: int, *, whole: bool = False) -> bytes:
        """The next piece of a file, masked there too. Empty: nothing is new, or it may be the beginning of a secret."""
        content = os.pread(fd, _PIECE, done)
        masked = self.in_place(content, whole=whole and len(content) < _PIECE)
        if masked != content[: len(masked)]:
            os.pwrite(fd, masked, done)
        return masked

    def file(self, path: Path) -> None:
        """A plain file that is complete. Through no link: whoever works in its folder could have made one."""
        if not self:
            return
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return
        try:
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                done = 0
                while piece := self.follow(fd, done, whole=True):
                    done += len(piece)
        finally:
            os.close(fd)


MASKS = Masks()
"""Of this process."""


def _mask(name: str) -> bytes:
    return f"***{name}***".encode()


def _written(secret: str) -> Iterator[bytes]:
    """How it may stand in an output: as it is, and as a string of JSON."""
    if len(secret) >= SHORTEST:
        for text in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
            yield text.encode("utf-8", "surrogateescape")


def _is_path(value: str) -> bool:
    """`…_KEY` may name a file; to mask its name would hide where it is, and nothing else."""
    with suppress(OSError, ValueError):
        return value.startswith("/") and Path(value).exists()
    return False


def _begun(content: bytes, names: Mapping[bytes, str]) -> int:
    """How many bytes at the end may be the beginning of a secret; a secret that is there as a whole is none."""
    most = 0
    for secret in names:
        for size in range(min(len(secret) - 1, len(content)), most, -1):
            if secret.startswith(content[-size:]):
                most = size
                break
    return most
