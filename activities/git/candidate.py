"""Builds the commit that would land: a pure function of its inputs and of the objects they name.

Nothing is checked out and no ref is read. Every retry gives the same sha, so a landing that was killed is found
again by asking whether that sha is an ancestor of the target. Every commit made here carries the trailers
`Task-Id`, `Merge-Op`, `Agent` and a `Reviewed-by` for each reviewer; the first two are the record of what landed,
so a line of an agent's own message that looks like one of them is quoted.

Strategies:

merge    one commit with two parents, always.
squash   one commit on the target.
rebase   every commit of the task again on top of the target, with its author and message.
ff-only  as rebase, and only while the target is contained in the head; the commits are written anew to carry the
         trailers, their trees stay as they are.

rebase and ff-only leave out commits that change nothing, and land a range that holds merge commits as one squashed
commit: the resolution in such a merge cannot be told apart and applied elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from activities.git.repository import printable
from activities.git.run import IDENTITY, Git, GitError
from activities.queue_contracts import Built, Candidate, Conflict
from activities.settings import Strategy, tail

SOURCES = "refs/mergewright/source/"
"""`<op>` below it: the head that was sent in."""

_FORMER = "refs/mergewright/candidate/"
"""Left by a version that pinned each candidate's tip by its own; chains are pinned now."""

_OURS = ("Task-Id", "Merge-Op", "Agent", "Reviewed-by")
# Also the scissors line of `git commit -v`: git reads no trailers below it.
_FORGED = re.compile(rf"(?im)^(?=(?:{'|'.join(_OURS)})[ \t]*[:=]|# -+ >8 -)")
_TRAILER = re.compile(r"[A-Za-z0-9-]+[ \t]*:|[ \t]+\S|\(cherry picked from commit ")
_OID = re.compile(rb"[0-9a-f]{40,64}")
_MOST_LISTED = 50


class _Strange(Exception):
    """The merge would change files that the task did not touch."""

    def __init__(self, paths: set[str]) -> None:
        self.paths = sorted(printable(os.fsencode(path)) for path in paths)


class _Conflicts(Exception):
    def __init__(self, conflict: Conflict) -> None:
        self.conflict = conflict


def repository_id(common_dir: Path) -> str:
    """By the real path of the git directory: the same for every checkout of a repository."""
    return hashlib.sha256(os.fsencode(common_dir.resolve())).hexdigest()[:16]


def op_id(common_dir: Path, target: str, task_id: str, head: str, strategy: Strategy) -> str:
    """The idempotency key of a landing: the same head of the same task, sent again, is the same landing."""
    parts = [repository_id(common_dir), target, task_id, head, strategy]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def unpin(git: Git, *ops: str) -> None:
    """Lets go of the heads: they have landed, or never will. What is not pinned is no error."""
    git.update_refs(*(f"delete {place}{op}" for op in ops for place in (SOURCES, _FORMER)))


def build(git: Git, candidate: Candidate, base: str, known: Mapping[str, str] | None = None) -> Built:
    """The commit that brings `candidate` onto `base`, both by their sha.

    `known`: what `landed` says of it, where that was asked already. Raises GitError or Unreadable when an object is
    missing.
    """
    head = candidate.head
    forks = git.run("merge-base", "--all", base, head, ok=(0, 1)).stdout.decode().split()
    if not forks:
        nothing = Conflict(files=[], messages=["the task's branch has no history in common with the target"])
        return Built(kind="conflict", base=base, conflict=nothing)
    if made := (landed(git, [candidate], base) if known is None else known).get(candidate.op):
        return Built(kind="landed", base=base, tip=made)
    if head in forks:
        return Built(kind="noop", base=base)
    if candidate.strategy == "ff-only" and base not in forks:
        return Built(kind="stale", base=base)
    try:
        tip = _tip(git, candidate, base, forks)
    except _Conflicts as found:
        return Built(kind="conflict", base=base, conflict=found.conflict)
    except _Strange as found:
        reason = f"the merge would change files that the task did not touch: {', '.join(found.paths[:10])}"
        return Built(kind="policy", base=base, paths=found.paths[:_MOST_LISTED], reason=reason)
    if tip is None:
        return Built(kind="noop", base=base)
    return Built(kind="built", base=base, tip=tip[0], tree=tip[1])


def landed(git: Git, candidates: Sequence[Candidate], base: str) -> dict[str, str]:
    """The commits by which earlier runs landed some of these on `base`, by op: the newest, where there are several."""
    ops = {f"Merge-Op: {candidate.op}": candidate.op for candidate in candidates}
    if not ops:
        return {}
    heads = dict.fromkeys(candidate.head for candidate in candidates)
    # A head landed after it was made, so what all of them contain need not be looked at.
    common = git.run("merge-base", "--octopus", base, *heads, ok=(0, 1)).stdout.decode().split()
    # Read as plain lines, not with %(trailers): what counts as a trailer depends on git and on the text around it.
    grep = ("-F", "--grep=Merge-Op: ", "--format=%H%n%B")
    log = git("log", "-z", "--first-parent", *grep, base, *(f"^{commit}" for commit in common))
    found: dict[str, str] = {}
    for entry in filter(None, log.split("\0")):
        sha, _subject, *lines = [*entry.split("\n"), ""]
        for line in ops.keys() & set(lines):
            found.setdefault(ops[line], sha)
    return found


def _tip(git: Git, candidate: Candidate, base: str, forks: Sequence[str]) -> tuple[str, str] | None:
    """The last of the new commits and its tree; None when nothing changes."""
    if candidate.strategy in ("rebase", "ff-only"):
        log = git("log", "--reverse", "--topo-order", "--format=%H %T %P", candidate.head, f"^{base}")
        steps = [tuple(line.split()) for line in log.split("\n")]
        if all(len(step) == 3 for step in steps):
            return _replay(git, candidate, base, steps)
    tree = _merge(git, base, candidate.head)
    changed = _paths(git, base, tree)
    if not changed:
        return None
    _conserve(git, base, changed, forks, candidate.head)
    if candidate.strategy == "merge":
        parents, text = [base, candidate.head], f"Merge task '{one_line(candidate.title)}'"
    else:
        parents, text = [base], _squashed(git, candidate, base)
    author = f"{_person(candidate.author)} {candidate.date} +0000"
    return _commit(git, candidate, tree, parents, author, text), tree


def _replay(git: Git, candidate: Candidate, base: str, steps: Sequence[tuple[str, ...]]) -> tuple[str, str] | None:
    """Each (commit, tree, parent) again, the first one on `base`: a rebase without a checkout."""
    current = base
    current_tree, parent_tree = git.objects.tree(base), git.objects.tree(steps[0][2])
    for commit, commit_tree, parent in steps:
        author, message = _read_commit(git, commit)
        tree = commit_tree
        if current_tree != parent_tree:
            # `current` as if it were a child of `parent`: then `parent` is the merge base, as a cherry-pick wants it.
            beside = _commit(git, candidate, current_tree, [parent], author, "")
            tree = _merge(git, beside, commit)
        parent_tree = commit_tree
        if tree == current_tree:
            continue
        _conserve(git, current, _paths(git, current, tree), [parent], commit)
        current = _commit(git, candidate, tree, [current], author, message or candidate.title)
        current_tree = tree
    return None if current == base else (current, current_tree)


def _merge(git: Git, ours: str, theirs: str) -> str:
    """The merged tree. Raises _Conflicts."""
    done = git.run("merge-tree", "--write-tree", "-z", "--messages", ours, theirs, ok=(0, 1))
    fields = done.stdout.split(b"\0")
    if not _OID.fullmatch(fields[0]):  # exit 1 is also what git gives for a commit that it does not find
        raise GitError(("merge-tree", ours, theirs), done.returncode, done.stderr.decode("utf-8", "replace"))
    if done.returncode == 0:
        return fields[0].decode()
    raise _Conflicts(_conflict(fields[1:]))


def _conflict(fields: list[bytes]) -> Conflict:
    """From (`mode oid stage TAB path`)*, an empty field, (count, that many paths, kind, text)*."""
    texts = [printable(field) for field in fields]
    end = texts.index("")
    entries = [(*facts.split(" "), path) for facts, _, path in (text.partition("\t") for text in texts[:end])]
    files = dict.fromkeys(path for *_, path in entries)
    stages = [f"{stage} {mode} {sha} {tail(one_line(path), 500)}" for mode, sha, stage, path in entries]
    messages, rest = [], iter(texts[end + 1 :])
    for count in filter(None, rest):
        for _ in range(int(count)):
            next(rest)
        kind, text = next(rest), next(rest).strip()
        if kind != "Auto-merging":
            messages.append(tail(text, 500))
    return Conflict(
        files=list(files)[:_MOST_LISTED], messages=_at_most(messages, "conflicts"), stages=_at_most(stages, "stages")
    )


def _conserve(git: Git, base: str, changed: set[str], forks: Sequence[str], head: str) -> None:
    """What changes on `base`, the task changed between a fork and `head`; or the target renamed what it changed."""
    touched = set().union(*(_paths(git, fork, head) for fork in forks))
    strange = changed - touched
    if not strange:
        return
    for fork in forks:
        strange -= {new for old, new in _renames(git, fork, base) if old in touched}
    if strange:
        raise _Strange(strange)


def _paths(git: Git, old: str, new: str) -> set[str]:
    return {change.path for change in git.objects.changes(old, new)}


def _renames(git: Git, old: str, new: str) -> list[tuple[str, str]]:
    # The limit is that of git's own merges.
    listed = git("diff-tree", "-r", "-z", "--name-status", "-M", "-l7000", "--diff-filter=R", old, new)
    fields = iter(filter(None, listed.split("\0")))
    return [(path, next(fields)) for _score in fields if (path := next(fields))]


def _read_commit(git: Git, sha: str) -> tuple[str, str]:
    """Author line (name, mail, time) and message."""
    raw = git.objects.read(sha) or b""
    head, _, body = raw.partition(b"\n\n")
    headers = dict(line.split(b" ", 1) for line in head.split(b"\n") if not line.startswith(b" ") and b" " in line)
    encoding = headers.get(b"encoding", b"utf-8").decode("ascii", "replace")
    return _decoded(headers[b"author"], encoding).replace("\n", " "), _decoded(body, encoding)


def _decoded(raw: bytes, encoding: str) -> str:
    """As the commit says, where that can be done and written as UTF-8: whatever it says, nobody else's work waits."""
    try:
        text = raw.decode(encoding, "surrogateescape")
        text.encode("utf-8", "surrogateescape")
    except (LookupError, ValueError):
        text = raw.decode("utf-8", "surrogateescape")
    return text.replace("\0", "")  # before anybody looks at where its lines begin


def _commit(git: Git, candidate: Candidate, tree: str, parents: list[str], author: str, text: str) -> str:
    """As an object of our own making, not by commit-tree: an author is kept to the byte, whatever it is."""
    lines = [
        f"tree {tree}",
        *(f"parent {parent}" for parent in parents),
        f"author {author}",
        f"committer {IDENTITY[0]} <{IDENTITY[1]}> {candidate.date} +0000",
        "",
        _with_trailers(text, candidate),
    ]
    raw = "\n".join(lines).replace("\0", "").encode("utf-8", "surrogateescape")
    return git("hash-object", "-t", "commit", "-w", "--stdin", stdin=raw)


def _with_trailers(text: str, candidate: Candidate) -> str:
    """`text` and our trailers: in its own block of trailers where it ends with one, else in a new one."""
    subject, newline, body = text.strip("\n").partition("\n")
    text = (subject + newline + _FORGED.sub("> ", body)).rstrip()
    last = text.rpartition("\n\n")[2] if "\n\n" in text else ""
    block = all(_TRAILER.match(line) for line in last.split("\n"))
    values = [candidate.ref.task_id, candidate.op, candidate.agent, *candidate.reviewers]
    keys = [*_OURS[:3], *[_OURS[3]] * len(candidate.reviewers)]
    trailers = [f"{key}: {one_line(value)}" for key, value in zip(keys, values, strict=True)]
    return "\n".join([text + ("" if block else "\n"), *trailers, ""])


def _squashed(git: Git, candidate: Candidate, base: str) -> str:
    title = one_line(candidate.title)
    log = git("log", "--reverse", "--topo-order", "--no-merges", "--format=* %s", candidate.head, f"^{base}")
    subjects = log.split("\n") if log else []
    return title if subjects in ([], [f"* {title}"]) else "\n".join([title, "", *_at_most(subjects, "commits")])


def _at_most(items: list[str], what: str) -> list[str]:
    more = len(items) - _MOST_LISTED
    return items if more <= 0 else [*items[:_MOST_LISTED], f"… and {more} more {what}"]


def one_line(text: str) -> str:
    """Without line breaks and other control characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _person(author: str) -> str:
    """`Name <mail>` such as git accepts it."""
    name, _, mail = author.partition("<")
    name, mail = (re.sub(r"[<>\n\0]", "", part).strip() for part in (name, mail))
    return f"{name or 'unknown'} <{mail}>"
