"""The worktree as it was after each turn, under `refs/mergewright/turn/<key>/<n>`: what `rewind` goes back to.

Such a commit's tree is everything that lay in the worktree, but for ignored files; its parent is the head. They go with
the worktree; what they hold of work that has not landed is in its salvage then.
"""

from __future__ import annotations

from activities.git.repository import RepositoryProblem, pin
from activities.git.run import IDENTITY
from activities.git.snapshot import snapshot
from activities.git.worktree import Worktree, turn_refs


class NothingKept(RepositoryProblem):
    """Of the turn that is asked for; the message names those that there are."""


def keep(worktree: Worktree, name: str, *, everything: bool = True) -> str:
    """Keeps what is there now, as `name`, and returns the commit. A second run keeps what is there then.

    `everything`: see `snapshot`. Raises WorktreeBroken.
    """
    with worktree.files() as git, worktree.clone.reading() as source:
        head = worktree.bring_head(git, source)
        tree = snapshot(git, worktree.clone, head, everything=everything)
        who = {"GIT_AUTHOR_NAME": IDENTITY[0], "GIT_AUTHOR_EMAIL": IDENTITY[1]}
        commit = git("commit-tree", tree, "-p", head, "-m", f"The worktree after turn {name}", env=who)
        git.update_refs(f"update {turn_refs(worktree.key)}/{name} {commit}")
        return commit


def kept(worktree: Worktree) -> dict[str, str]:
    """Commits by name, in the order of the turns."""
    folder = turn_refs(worktree.key)
    with worktree.repository.git() as git:
        lines = git("for-each-ref", "--sort=version:refname", "--format=%(refname) %(objectname)", folder).splitlines()
    return {ref.rpartition("/")[2]: sha for ref, sha in map(str.split, lines)}


def rewind(worktree: Worktree, turn: int, before: str) -> None:
    """Makes files and branch what they were after `turn`; ignored files stay, and no merge is in progress any more.

    What is there is kept as `before` first; by a second run, after one that was killed, no more: that would find what
    the first one has put there. What was uncommitted then is staged now. Raises NothingKept.
    """
    found = kept(worktree)
    if (commit := found.get(str(turn))) is None:
        there = ", ".join(name for name in found if name.isdigit()) or "none"
        raise NothingKept(f"nothing is kept of turn {turn}; there is of: {there}")
    if before not in found:
        keep(worktree, before)
    put(worktree, commit)


def put(worktree: Worktree, commit: str) -> None:
    """Makes files what `commit` is, a turn's or a salvage, and the branch what its first parent is."""
    head = put_back(worktree, commit)
    with worktree.repository.git() as git:
        changes = [f"update {pin('task', worktree.key)} {head}"]
        if "merge" in worktree.pins(git):
            changes.append(f"delete {pin('merge', worktree.key)}")
        git.update_refs(*changes)


def put_back(worktree: Worktree, commit: str) -> str:
    """Makes the files those of `commit`, which `keep` has made, and the branch what it was then; that is returned."""
    head = worktree.repository.tip(f"{commit}^1")
    worktree.put_back(commit, at=head)
    return head
