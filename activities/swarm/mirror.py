"""The board as files of the target: one commit that moves tasks between `tasks/pending`, `current` and `complete`.

It is made of objects alone, in no checkout, and goes through the merge queue as a branch does (`LandRequest`); it is a
ref of ours that holds it, so no branch of the user's repository is made. What else lies in these folders stays.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from activities.git.repository import Repository
from activities.git.run import IDENTITY, Git
from activities.swarm.contracts import Card, Mirrored, MirrorInput
from activities.swarm.files_on_target import Found, Reader, files_in

REFS = "refs/mergewright/board/"
"""`<key of the swarm's run>/<number>` below it."""

PLACES = ("pending", "current", "complete")
MOST_CARDS = 200
"""Whose files one commit changes: what changes very many a policy of the target would send back."""
_OURS = ("claimed_by", "completed_by")


def mirror(repository: Repository, tip: str, cards: Sequence[Card], given: MirrorInput, read: Reader) -> Mirrored:
    """The commit on `tip` by which the cards' files are where `given` says. The same number again is the same commit.

    What an earlier number has left is let go of.
    """
    ref = f"{REFS}{given.ref.key}/{given.number}"
    if (made := repository.sha(ref)) is not None:
        return _mirrored(repository, ref, made)
    forget(repository, given.ref.key)
    with repository.git() as git:
        changes = _changes(git, tip, cards, given, read)
        head = _commit(git, tip, changes)
        if head is None:
            return Mirrored()
        git.update_refs(f"create {ref} {head}")
    return _mirrored(repository, ref, head)


def _mirrored(repository: Repository, ref: str, head: str) -> Mirrored:
    files = len(repository.changed_files(f"{head}^", head))
    return Mirrored(branch=ref, head=head, files=files, more=files >= MOST_CARDS)


def forget(repository: Repository, key: str) -> None:
    """What was made for this run of a swarm has landed, or never will."""
    with repository.git() as git:
        refs = git("for-each-ref", "--format=%(refname)", f"{REFS}{key}").split()
        git.update_refs(*(f"delete {ref}" for ref in refs))


def _changes(git: Git, tip: str, cards: Sequence[Card], given: MirrorInput, read: Reader) -> dict[bytes, bytes | None]:
    """Contents by path; None: the file goes. Of the first cards that are not as they should be, if they are many."""
    there = [file for place in PLACES for file in files_in(git, tip, read, f"tasks/{place}")]
    mine = {card.id for card in cards}
    ours = [file for file in there if file.cards and not file.refused and {one.id for one in file.cards} <= mine]
    others = {file.raw for file in there} - {file.raw for file in ours}
    changes: dict[bytes, bytes | None] = {file.raw: None for file in ours}
    # A file of several tasks is taken apart: they need not be in the same place.
    single = {file.cards[0].id: file for file in reversed(ours) if len(file.cards) == 1}
    count = 0
    for card in cards:
        own = single.get(card.id)
        if count >= MOST_CARDS:
            if own and changes[own.raw] is None:
                del changes[own.raw]
            continue
        before = _object(git, own) if own else {}
        written = as_object(card, before, given)
        path = _path(card, own, given, others | {path for path, content in changes.items() if content is not None})
        if own and path.rpartition(b"/")[2] != own.raw.rpartition(b"/")[2]:
            written.setdefault("id", card.id)  # the name may have told it so far
        if own and path == own.raw and written == before:
            del changes[path]  # to the byte as its author wrote it
        else:
            changes[path] = (json.dumps(written, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace")
            count += 1
    return changes


def _object(git: Git, file: Found) -> dict[str, Any]:
    try:
        found = json.loads(git.objects.read(file.blob) or b"")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _path(card: Card, own: Found | None, given: MirrorInput, others: Collection[bytes]) -> bytes:
    """Under the name that its file has, unless somebody else's has it there."""
    folder = f"tasks/{given.places[card.id]}/".encode()
    names = [own.raw.rpartition(b"/")[2]] if own else []
    for name in (*names, f"{card.id}.json".encode()):
        if folder + name not in others:
            return folder + name
    return folder + f"{card.id}.{given.ref.key}.json".encode()


def as_object(card: Card, before: Mapping[str, Any], given: MirrorInput) -> dict[str, Any]:
    """With the keys of oompa's task files. What its author wrote stays as it was, also what we do not know."""
    known = {
        "id": card.id,
        "summary": card.title,
        "description": card.description,
        "acceptance": card.acceptance,
        "files": card.files,
        "difficulty": card.difficulty,
        "priority": card.priority,
        "after": card.after,
        "labels": card.labels,
    }
    given_by = before or {key: value for key, value in known.items() if value not in ("", [], 0)}
    written = {key: value for key, value in given_by.items() if key not in _OURS}
    place = given.places[card.id]
    if place == "current" and (holder := given.holders.get(card.id)):
        written["claimed_by"] = holder
    if place == "complete" and (worker := given.done_by.get(card.id)):
        written["completed_by"] = worker
    return written


def _commit(git: Git, tip: str, changes: dict[bytes, bytes | None]) -> str | None:
    """The same for the same `tip` and changes; None: nothing is to change."""
    index = {"GIT_INDEX_FILE": str(git.git_dir / "index-board")}
    git("read-tree", tip, env=index)
    lines = []
    for path, content in sorted(changes.items()):
        mode, blob = ("0", "0" * len(tip)) if content is None else ("100644", _blob(git, content))
        lines.append(f"{mode} {blob}\t".encode() + path + b"\0")
    git.run("update-index", "-z", "--index-info", stdin=b"".join(lines), env=index)
    tree = git("write-tree", env=index)
    if tree == git.objects.tree(tip):
        return None
    when = git("log", "-1", "--format=%ct", tip) + " +0000"
    who = {"NAME": IDENTITY[0], "EMAIL": IDENTITY[1], "DATE": when}
    as_us = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in who.items()}
    return git("commit-tree", "-p", tip, tree, stdin=b"Board of tasks\n", env=as_us)


def _blob(git: Git, content: bytes) -> str:
    return git("hash-object", "-t", "blob", "-w", "--stdin", stdin=content)
