"""A merge in a task's worktree, left for an agent to resolve just as `git merge` would leave it.

The merge is computed in the user's repository, so no merge driver or filter of anybody's runs; then the files are
brought over, with MERGE_HEAD and the conflict's three versions in the index. `refs/mergewright/merge/<key>` keeps
what was merged, and with it which files were in conflict, until the next merge.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass

from activities.git.clone import brought
from activities.git.repository import pin, printable
from activities.git.run import Git, GitError
from activities.git.snapshot import snapshot
from activities.git.sparse import skipped
from activities.git.worktree import Worktree

_MARKER = re.compile(rb"^(?:<{7,}|>{7,}) .*$", re.MULTILINE)
_OID = re.compile(rb"[0-9a-f]{40,64}")


@dataclass(frozen=True)
class _Merged:
    tree: str
    """With conflict markers where there is a conflict."""
    stages: bytes
    """The conflicts as `update-index --index-info -z` takes them."""
    conflicts: list[bytes]


def start_merge(worktree: Worktree, sha: str, message: str) -> list[str]:
    """Merges `sha`, a commit of the user's repository, into a worktree without uncommitted changes.

    Clean: the merge commit is made and published, nothing is returned; the same inputs give the same sha. Else the
    paths in conflict, and the worktree is in the middle of the merge. A second run finds the merge of the first one;
    one that was killed half-way is done again. Raises ValueError when something is uncommitted.
    """
    worktree.recover()
    try:
        return _start(worktree, sha, message)
    except BaseException:
        worktree.recover()
        raise


def _start(worktree: Worktree, sha: str, message: str) -> list[str]:
    with worktree.files() as git, worktree.clone.reading() as source:
        head = worktree.bring_head(git, source)
        if git.test("merge-base", "--is-ancestor", sha, head):
            return []
        merged = _merge(git, head, sha)
        if sha in worktree.clone.merge_heads():
            return [printable(path) for path in merged.conflicts]
        if snapshot(git, worktree.clone, head) != git("rev-parse", f"{head}^{{tree}}"):
            raise ValueError(f"{worktree.path} has uncommitted changes: commit_all comes before a merge")
        commit = _commit(worktree, git, merged.tree, head, sha, message)
        git.update_refs(f"update {pin('reset', worktree.key)} {head}")
        _bring_over(worktree, git, head, sha, merged, message, commit)
    return [printable(path) for path in merged.conflicts]


def _bring_over(worktree: Worktree, git: Git, head: str, sha: str, merged: _Merged, message: str, commit: str) -> None:
    """The files first, then what says that they are there."""
    git("read-tree", "-m", "-u", head, merged.tree)
    done = [f"delete {pin('reset', worktree.key)}"]
    if merged.conflicts:
        _show(git, merged.conflicts)
        git.run("update-index", "-z", "--index-info", stdin=merged.stages)
        worktree.clone.put_index(git.git_dir / "index")
        worktree.clone.put("MERGE_MODE", "")
        worktree.clone.put("MERGE_MSG", f"{message.rstrip()}\n")
        worktree.clone.put("MERGE_HEAD", f"{sha}\n")
        done.append(f"update {pin('merge', worktree.key)} {commit}")
    else:
        worktree.settle(git, commit)
        done += [f"update {pin('task', worktree.key)} {commit}", f"delete {pin('merge', worktree.key)}"]
    git.update_refs(*done)


def _show(git: Git, conflicts: list[bytes]) -> None:
    """Those that lie outside of a sparse worktree are put there too, as git does itself: somebody must see them."""
    hidden = b"\0".join(skipped(git).intersection(conflicts))
    if hidden:
        git.run("update-index", "--no-skip-worktree", "-z", "--stdin", stdin=hidden)
        git.run("checkout-index", "-q", "-z", "--stdin", stdin=hidden)


def abort_merge(worktree: Worktree) -> None:
    """Back to the head; what was resolved so far is lost unless `salvage.save` came first."""
    with worktree.repository.git() as git, worktree.clone.reading() as source:
        head = worktree.bring_head(git, source)
    worktree.put_back(head)


def unresolved(worktree: Worktree) -> list[str]:
    """Files of the merge in progress, or just concluded, that nobody has decided.

    A file with markers that neither side had; or a conflict that leaves no markers (binary, deleted on one side)
    whose file is as the merge left it, and was not added (`git add`, `git rm`) either. Of a rebase or pick of the
    agent's own: the files that git has in conflict, and that hold markers.
    """
    with worktree.files() as git, worktree.clone.reading() as source:
        pins = worktree.pins(git)
        head = worktree.bring_head(git, source)
        merges = [(head, sha) for sha in worktree.clone.merge_heads() if brought(git, source, sha)]
        if "merge" in pins:
            ours, theirs = git("rev-parse", f"{pins['merge']}^1", f"{pins['merge']}^2").split()
            merges = list(dict.fromkeys([(ours, theirs), *merges]))
        conflicts: dict[bytes, _Conflict] = {}
        for ours, theirs in merges:
            merged = _merge(git, ours, theirs)
            conflicts |= {path: _Conflict(git, path, (ours, theirs), merged.tree) for path in merged.conflicts}
        unmerged = _unmerged(worktree, git)
        conflicts = {path: _Conflict(git, path, (head,), None) for path in unmerged} | conflicts
        files = {path: worktree.path / os.fsdecode(path) for path in conflicts}
        now = {path: file.read_bytes() if file.is_file() else None for path, file in files.items()}
        found = [path for path, conflict in conflicts.items() if conflict.undecided(now[path], path in unmerged)]
    return sorted(map(printable, found))


@dataclass(frozen=True)
class _Conflict:
    git: Git
    path: bytes
    sides: tuple[str, ...]
    tree: str | None
    """In which the merge left the file."""

    def undecided(self, now: bytes | None, unmerged: bool) -> bool:
        if self._marked(now):
            return True
        if self.tree is None or not unmerged:
            return False
        left = _blob(self.git, self.tree, self.path)
        return now == left and not self._marked(left)

    def _marked(self, content: bytes | None) -> bool:
        """More markers than any side has by itself: a text about conflicts is not in conflict."""
        known = [Counter(_MARKER.findall(_blob(self.git, side, self.path) or b"")) for side in self.sides]
        markers = Counter(_MARKER.findall(content or b""))
        return any(count > max(side[line] for side in known) for line, count in markers.items())


def _unmerged(worktree: Worktree, git: Git) -> set[bytes]:
    """Paths that the clone's index still has in several versions."""
    if not worktree.clone.copy_index(git.git_dir / "index"):
        return set()
    try:
        listed = git.run("ls-files", "-z", "--unmerged").stdout
    except GitError:
        return set()
    return {line.partition(b"\t")[2] for line in listed.split(b"\0") if line}


def _blob(git: Git, tree: str, path: bytes) -> bytes | None:
    done = git.run("cat-file", "blob", f"{tree}:{os.fsdecode(path)}", ok=(0, 128))
    return done.stdout if done.returncode == 0 else None


def _merge(git: Git, ours: str, theirs: str) -> _Merged:
    # The names in the markers are those that git is given here.
    (git.git_dir / "HEAD").write_text(f"{ours}\n")
    (git.git_dir / "MERGE_HEAD").write_text(f"{theirs}\n")
    done = git.run("merge-tree", "--write-tree", "-z", "--no-messages", "HEAD", "MERGE_HEAD", ok=(0, 1))
    tree, _, rest = done.stdout.partition(b"\0")
    if not _OID.fullmatch(tree):
        raise GitError(["merge-tree", ours, theirs], done.returncode, done.stderr.decode("utf-8", "replace"))
    lines = [line for line in rest.split(b"\0") if line]
    paths = list(dict.fromkeys(line.partition(b"\t")[2] for line in lines))
    # A path is taken out of the index before its versions go in.
    out = b"".join(b"0 %s\t%s\0" % (b"0" * len(tree), path) for path in paths)
    return _Merged(tree.decode(), out + b"".join(line + b"\0" for line in lines), paths)


def _commit(worktree: Worktree, git: Git, tree: str, head: str, sha: str, message: str) -> str:
    """Its dates are those of the newer parent, so that a second run makes the same commit."""
    newest = max(map(int, git("show", "-s", "--format=%ct", head, sha).split()))
    date = dict.fromkeys(("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"), f"{newest} +0000")
    name, mail = worktree.repository.identity()
    who = {"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": mail}
    args = ["commit-tree", tree, "-p", head, "-p", sha, "-F", "-"]
    return git(*args, stdin=f"{message.rstrip()}\n".encode(), env={**date, **who})
