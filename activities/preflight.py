"""What the policy of the target says of a change: its findings, for the agent to mend or for an operator to allow.

Looked at when a task's work is collected, again when a head is handed to the merge queue, and where that is not what
would land, once more (`last_look`). The rules are read from the target, never from the change itself; `[policy]` is
`settings.Policy`, what each rule is for `faults.policy`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from activities.contents import Reader, by_content, by_message
from activities.contracts import Finding, GateResult
from activities.faults.policy import RULES
from activities.git import change
from activities.git.change import Entry
from activities.git.landing import base_known
from activities.git.repository import Repository
from activities.git.run import IDENTITY, Git
from activities.policy import Rules, by_amount, by_commit, by_link, by_path, by_size, by_twin
from activities.protected import SETTINGS_FILE, policy_settings, queue_settings
from activities.settings import QueueSettings, Strategy
from activities.site import short_ref, write_atomically

TABLE_BYTES = 2_900
"""All of it is to be seen in the prompt, as the end of a gate's log (`prompting.EVIDENCE_BYTES`)."""
MOST_SHOWN = 20
CELL = 160

_HINT = "The policy of the target branch does not let your change land. Mend each finding of the table."


@lru_cache(maxsize=256)
def settings_on(repository: Repository, commit: str) -> QueueSettings:
    """What `mergewright.toml` says there of the queue. Raises InvalidTask."""
    return queue_settings(repository.read_file(commit, SETTINGS_FILE))


def ruling(repository: Repository, target: str) -> str:
    """The commit whose rules count: the one that the next chain will be built on, as far as it is known without asking
    a remote. Raises InvalidTask."""
    now = repository.tip(target)
    return base_known(repository, target, now, settings_on(repository, now).push)


@lru_cache(maxsize=256)
def rules_on(repository: Repository, target: str, commit: str) -> Rules:
    """As the `mergewright.toml` of `commit` says, where `target` is. Raises InvalidTask."""
    return rules_in(repository.read_file(commit, SETTINGS_FILE), target)


@lru_cache(maxsize=64)
def rules_in(file: bytes | None, target: str) -> Rules:
    """As a `mergewright.toml` on `target` says. Raises InvalidTask."""
    return Rules(policy_settings(file), queue_settings(file).protected, short_ref(target))


@dataclass(frozen=True)
class Looked:
    found: list[Finding]
    """What must be mended first."""
    digest: str
    """Of the rules and of all that changes: where it is the same, nothing else would be found in it."""


def preflight(repository: Repository, base: str, head: str, strategy: Strategy, rules: Rules) -> list[Finding]:
    return look(repository, base, head, strategy, rules).found


def look(
    repository: Repository, base: str, head: str, strategy: Strategy, rules: Rules, *, tree: str | None = None
) -> Looked:
    """At what `head` would change on `base`, the target; `tree`: what comes out, where that was built already.

    What is in the history stays there: secrets, large and binary files are looked for in every commit that would land,
    secrets also in its message. The other rules for files look at what comes out.
    """
    fork = repository.merge_base(base, head)
    if fork is None:
        return Looked([], "")
    ours = {repository.identity()[1], IDENTITY[1]} if rules.policy.authors else set()
    with repository.git() as git:
        before, after = (base, tree) if tree else _outcome(git, base, fork, head)
        entries, lines = change.changed(git, before, after)
        messages = change.commits(git, base, head)
        commits = messages if strategy != "squash" else []
        single = change.steps(git, commits) if len(commits) > 1 and rules.on("secret", "size", "binary") else []
        reader = Reader(git, [*entries, *single])
        found = [
            *by_path(rules, entries),
            *by_amount(rules, lines),
            *by_size(rules, [*entries, *(one for one in reader.new if one.commit)], reader.sizes, lines),
            *by_commit(rules, commits, ours, time.time()),
            *by_link(rules, reader.links()),
            *_twins(git, rules, base, before, after, entries),
            *by_content(rules, reader),
            *by_message(rules, messages, whole=strategy != "squash"),
        ]
    order = {rule: place for place, rule in enumerate(RULES)}
    found.sort(key=lambda one: (one.severity != "mend", order[one.rule], one.path, one.line, one.text))
    return Looked(found, digest(rules, ((entry.path, entry.mode, entry.new) for entry in entries)))


def digest(rules: Rules, changed: Iterable[tuple[str, str, str]]) -> str:
    """`changed`: each path with the mode and the object that it gets; zeros, where it goes."""
    made = hashlib.sha256(rules.digest().encode())
    for path, mode, new in sorted(changed):
        made.update(os.fsencode(f"{mode} {new} {path}\0"))
    return made.hexdigest()


def _outcome(git: Git, base: str, fork: str, head: str) -> tuple[str, str]:
    """Between which two trees that lies which would land.

    What the target did meanwhile has a say in it: a file that it has renamed changes under its new name; and of two
    merges of the same histories each may undo what the other one took. Where they do not merge nothing lands as it is.
    """
    merged = change.merged(git, base, head) if base != fork else None
    return (base, merged) if merged else (fork, head)


def to_mend(found: Iterable[Finding]) -> list[Finding]:
    return [one for one in found if one.severity == "mend"]


def for_leave(found: Iterable[Finding]) -> list[str]:
    """What an operator is asked to allow: protected paths by their name alone, others with their rule."""
    asked = (one for one in found if one.severity == "approve")
    named = (one.path if one.rule == "protected" else f"{one.path or one.text} ({one.rule})" for one in asked)
    return list(dict.fromkeys(named))[:_MOST_NAMED]


_MOST_NAMED = 50


def asked_for(found: Iterable[Finding]) -> str:
    """Digest of all that an operator is asked to allow, of which not everything may be named; empty: nothing."""
    asked = sorted({f"{one.rule}\0{one.path}\0{one.text}" for one in found if one.severity == "approve"})
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()[:16] if asked else ""


def refusals(found: Iterable[Finding]) -> list[str]:
    """For a person: each in one line, with what to do."""
    return [f"{one.told()}. {one.remedy}" for one in to_mend(found)][:MOST_SHOWN]


def as_gate(found: Sequence[Finding], log: Path, seconds: float) -> GateResult | None:
    """As a red gate, whose log is the table; None: there is nothing to mend."""
    mend = to_mend(found)
    if not mend:
        return None
    write_atomically(log, table(mend))
    fault = ", ".join(dict.fromkeys(one.rule for one in mend))
    return GateResult(name="policy", passed=False, fault=fault, hint=_HINT, exit_code=1, seconds=seconds, log=str(log))


def table(found: Sequence[Finding]) -> str:
    """In Markdown: a line for each finding, and one for each rule; what does not fit is counted."""
    remedies = list(dict.fromkeys(f"{one.rule}: {one.remedy}" for one in found))
    room = TABLE_BYTES - len("\n".join(remedies).encode())
    lines = ["| rule | where | what |", "| --- | --- | --- |"]
    for count, one in enumerate(found):
        where = f"{one.path}:{one.line}" if one.line else one.path
        row = f"| {one.rule} | {_cell(where)} | {_cell(one.text)} |"
        if len("\n".join([*lines, row]).encode()) > room - 40:
            lines.append(f"and {len(found) - count} more")
            break
        lines.append(row)
    return "\n".join([*lines, "", *remedies, ""])


def _cell(text: str) -> str:
    cut = text if len(text) <= CELL else f"{text[: CELL // 2]}…{text[-CELL // 2 :]}"
    return cut.replace("|", "\\|").replace("`", "\\`")


def _twins(git: Git, rules: Rules, base: str, before: str, after: str, entries: Sequence[Entry]) -> Iterator[Finding]:
    """In the tree that comes out when the target stays where it is."""
    new = {entry.path for entry in entries if entry.is_new}
    if not new or not rules.on("case"):
        return iter(())
    there = change.paths(git, after)
    if before != base:
        there |= change.paths(git, base) - {entry.path for entry in entries if entry.is_gone}
    return by_twin(rules, there, new)
