"""The rules of a policy that need no more than the list of what changes: pure, and cheap."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import PurePosixPath

from pathspec import GitIgnoreSpec

from activities.contracts import Finding
from activities.faults.policy import RULES
from activities.git.change import FILES, LINK, SUBMODULE, Commit, Entry
from activities.protected import INCLUDE_FILE, SETTINGS_FILE
from activities.settings import Policy, PolicyRule

DAY_SECONDS = 86_400
MOST_CHARACTERS = 500
"""Of a path or a text in a finding."""


@dataclass(frozen=True)
class Rules:
    policy: Policy
    protected: Sequence[str]
    target: str
    """The branch's short name."""

    def digest(self) -> str:
        return hashlib.sha256(f"{self.policy.model_dump_json()}\0{self.protected}".encode()).hexdigest()

    def on(self, *rules: PolicyRule) -> bool:
        """Any of these."""
        return any(rule not in self.policy.off for rule in rules)

    def looks(self, rule: PolicyRule, path: str) -> bool:
        return self.on(rule) and not matches(self.policy.exempt.get(rule, ()), path)

    def forbids_binary(self, path: str) -> bool:
        return self.looks("binary", path) and not matches(self.policy.binaries, path)

    def finding(self, rule: PolicyRule, text: str, path: str = "", line: int = 0) -> Finding:
        severity = "approve" if rule in self.policy.approve else RULES[rule].severity
        return Finding(
            rule=rule,
            severity=severity,
            path=_cut(visible(path)),
            line=line,
            text=_cut(visible(text)),
            remedy=RULES[rule].remedy.format(target=self.target),
        )


def visible(text: str) -> str:
    """In one line: what would move a cursor, break a line or turn the direction of writing is written as its escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _cut(text: str) -> str:
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]}…{text[-half:]}"


@lru_cache(maxsize=64)
def _spec(patterns: tuple[str, ...]) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines(patterns)


def matches(patterns: Iterable[str], path: str) -> bool:
    return _spec(tuple(patterns)).match_file(path)


def by_path(rules: Rules, entries: Iterable[Entry]) -> Iterator[Finding]:
    policy = rules.policy
    for entry in entries:
        path = entry.path
        # What a link or a submodule stands for is a folder to whoever follows it: `.husky/` means `.husky` too.
        name = f"{path}/" if entry.mode in (LINK, SUBMODULE) else path
        if rules.looks("deny", path) and matches(policy.deny, name):
            yield rules.finding("deny", "must not change", path)
        if policy.allow and rules.looks("allow", path) and not matches(policy.allow, name):
            yield rules.finding("allow", "is not among what may change", path)
        if path in (SETTINGS_FILE, INCLUDE_FILE) or (rules.looks("protected", path) and matches(rules.protected, name)):
            yield rules.finding("protected", "decides how others' work is tested", path)
        elif rules.looks("hook", path) and matches(policy.hooks, name):
            yield rules.finding("hook", "runs on the machines of others", path)
        if SUBMODULE in (entry.old_mode, entry.mode) and rules.looks("submodule", path):
            yield rules.finding("submodule", _move(entry), path)


def _move(entry: Entry) -> str:
    old = entry.olds[0][:10] if entry.old_mode == SUBMODULE else "nothing"
    new = entry.new[:10] if entry.mode == SUBMODULE else "nothing"
    return f"submodule moves from {old} to {new}"


def by_amount(rules: Rules, lines: Mapping[str, int | None]) -> Iterator[Finding]:
    policy = rules.policy
    count = sum(number or 0 for path, number in lines.items() if rules.looks("lines", path))
    if count > policy.max_lines:
        yield rules.finding("lines", f"{count} changed lines, at most {policy.max_lines}")
    files = sum(rules.looks("files", path) for path in lines)
    if files > policy.max_files:
        yield rules.finding("files", f"{files} changed files, at most {policy.max_files}")


def by_size(
    rules: Rules, entries: Iterable[Entry], sizes: Mapping[str, int], lines: Mapping[str, int | None]
) -> Iterator[Finding]:
    """`lines`: see `change.changed`; of what only a single commit has the content says whether it is binary."""
    most = rules.policy.max_file_kb
    for entry in entries:
        if entry.mode not in FILES:
            continue
        size = sizes.get(entry.new, 0)
        was = max((sizes.get(old, 0) for old in entry.olds), default=0)
        if was <= most * 1_024 < size and rules.looks("size", entry.path):
            yield rules.finding("size", f"{size / 1_024:.0f} KB{entry.where()}, at most {most}", entry.path)
        binary = not entry.commit and lines.get(entry.path, 0) is None
        if binary and rules.forbids_binary(entry.path):
            yield rules.finding("binary", f"binary file of {size} bytes", entry.path)


def by_commit(rules: Rules, commits: Iterable[Commit], ours: Collection[str], now: float) -> Iterator[Finding]:
    """`ours`: mail addresses of who commits for the repository; `now` in seconds since the epoch."""
    policy = rules.policy
    for commit in commits:
        name = f"commit {commit.sha[:10]}"
        for mail in dict.fromkeys((commit.author, commit.committer)):
            if policy.authors and rules.on("author") and mail not in ours and not _is_one_of(mail, policy.authors):
                yield rules.finding("author", f"{name} is by {mail}")
        if rules.on("date") and max(commit.dates) > now + DAY_SECONDS:
            yield rules.finding("date", f"{name} is dated into the future")
        if commit.is_merge or not rules.on("message"):
            continue
        if not re.match(policy.subject, commit.subject):
            yield rules.finding("message", f"{name}: {commit.subject[:80]!r} does not match {policy.subject}")
        if 0 < policy.max_subject < len(commit.subject):
            yield rules.finding("message", f"{name}: {len(commit.subject)} characters, at most {policy.max_subject}")


def _is_one_of(mail: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(mail.lower(), pattern.lower()) for pattern in patterns)


def by_link(rules: Rules, links: Iterable[tuple[str, str]]) -> Iterator[Finding]:
    for path, to in links:
        if leaves(path, to) and rules.looks("link", path):
            yield rules.finding("link", f"points out of the tree, to {to}", path)


def leaves(path: str, link: str) -> bool:
    """Also where `..` comes after a name, which may itself be a link."""
    parts = PurePosixPath(link).parts
    up = next((count for count, part in enumerate(parts) if part != ".."), len(parts))
    return link.startswith("/") or up > len(PurePosixPath(path).parts) - 1 or ".." in parts[up:]


def by_twin(rules: Rules, there: Collection[str], new: Collection[str]) -> Iterator[Finding]:
    """`there`: all paths of the tree; `new`: those that the change adds."""
    for name, other in twins(there, new):
        if rules.looks("case", name):
            yield rules.finding("case", f"differs only in case from {other}", name)


def twins(there: Collection[str], new: Collection[str]) -> list[tuple[str, str]]:
    """Each new file or folder with another one of the same letters."""
    old = _names(path for path in there if path not in new)
    alike: dict[str, list[str]] = {}
    for name in sorted(old | _names(new)):
        alike.setdefault(name.lower(), []).append(name)
    return [
        (name, next(other for other in some if other != name))
        for some in alike.values()
        if len(some) > 1
        for name in some
        if name not in old
    ]


def _names(paths: Iterable[str]) -> set[str]:
    """With every folder that they are in."""
    names = set(paths)
    folders = names
    while folders:
        folders = {path.rpartition("/")[0] for path in folders} - {""} - names
        names |= folders
    return names
