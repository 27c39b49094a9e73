"""Work that would be lost with a worktree, kept under `refs/mergewright/salvage/<task>/<n>`.

A salvage is one commit in the user's repository. Its tree is everything that lay in the worktree, but for ignored
files, which its message lists; its first parent is the head of the work; further parents are what else only the
clone had: what was staged, other branches, stashes, a merge in progress, commits that were amended or reset away.
The worktree is not touched by saving it. How a salvage is had back: `salvaged`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import PurePath

from activities.git.clone import Clone, WorktreeBroken, brought
from activities.git.repository import printable
from activities.git.run import IDENTITY, Git, GitError
from activities.git.snapshot import snapshot
from activities.git.worktree import Worktree
from activities.home import safe_name

REFS = "refs/mergewright/salvage"
STAGED = "What was staged"
"""Subject of the commit that holds the index, where it differs from the files."""
MOST_IGNORED = 100
"""Names in a salvage's message."""


@dataclass(frozen=True)
class Saved:
    ref: str
    commit: str
    files: int
    """How many files it changes."""


def save(
    worktree: Worktree, *, task_id: str, outcome: str, kept: str | None = None, also: Sequence[str] = ()
) -> Saved | None:
    """Saves what is in the worktree and nowhere else. None: there is nothing.

    Committed work needs no saving when it is contained in the target or in `kept`: the head that has landed, or one
    that stays published. A second run with the same state returns the first one's ref. A worktree whose `.git` is
    broken gives its files, one that is gone what was published. `also`: commits of the repository that are about to
    lose their refs; those with files that nothing else has are saved.
    """
    with ExitStack() as stack:
        there = worktree.path.is_dir()
        git = stack.enter_context(worktree.files() if there else worktree.repository.git())
        source = None
        with suppress(WorktreeBroken):
            source = stack.enter_context(worktree.clone.reading())
        head = worktree.bring_head(git, source) if source is not None else worktree.published()
        tree = snapshot(git, worktree.clone, head, everything=True) if there else _tree(git, head)
        target = git.run("rev-parse", "-q", "--verify", worktree.target, ok=(0, 1)).stdout.decode().strip()
        base = worktree.base()
        safe = [sha for sha in (base, target, kept) if sha]
        parents = [head]
        if source is not None:
            parents += _only_there(worktree.clone, git, source, head, tree, safe)
        parents += _unlike(git, also, parents, tree, safe)
        committed = _beyond(git, head, safe)
        if tree == _tree(git, head) and parents == [head] and not committed:
            return None
        begun = _fork(git, head, target or base) if committed else head
        files = len(git("diff-tree", "-r", "-z", "--name-only", begun, tree).split("\0")) - 1
        ignored = _ignored(git) if there else []
        return _keep(git, _Report(task_id, outcome, base, files, ignored), tree, parents)


@dataclass(frozen=True)
class _Report:
    """What a salvage's message tells."""

    task_id: str
    outcome: str
    base: str
    files: int
    ignored: list[str]


def _ignored(git: Git) -> list[str]:
    """Files and folders that are left out, and what repositories inside of the worktree have besides their files.

    `git` has made the snapshot.
    """
    listed = git.run("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory").stdout
    saved = git.run("ls-files", "-z").stdout.split(b"\0")
    lowest = {PurePath(os.fsdecode(path.rpartition(b"/")[0])) for path in saved}
    folders = {folder for one in lowest for folder in (one, *one.parents) if folder.name}
    dirs = [folder / ".git" for folder in sorted(folders)]
    inside = [os.fsencode(path) for path in dirs if os.path.lexists(git.env["GIT_WORK_TREE"] / path)]
    return [printable(path).replace("\n", "\\n") for path in [*inside, *listed.split(b"\0")] if path]


def _only_there(clone: Clone, git: Git, source: Git, head: str, tree: str, safe: list[str]) -> list[str]:
    """What no other commit contains, brought over; what cannot be, being corrupt, is left."""
    found: list[str] = []
    for sha in [*_others(clone, source, head, tree), *_left_behind(clone, source, tree, [head, *safe])]:
        if _beyond(source, sha, [head, *found, *safe]) and brought(git, source, sha):
            found.append(sha)
    return found


def _others(clone: Clone, source: Git, head: str, tree: str) -> Iterator[str]:
    """What the clone has besides its head and its files: commits in the order in which they become parents."""
    if clone.copy_index(source.git_dir / "index"):
        with suppress(GitError):
            staged = _staged_tree(source)
            if staged not in (tree, _tree(source, head)):
                yield _commit(source, staged, [head], STAGED, date=source("show", "-s", "--format=%ct", head))
    yield from source("for-each-ref", "--format=%(objectname)", "refs/heads", "refs/stash").splitlines()
    older = source.run("log", "-g", "--format=%H", "refs/stash", ok=(0, 128)).stdout.decode()
    yield from older.splitlines()
    yield from clone.merge_heads()
    yield from clone.worktree_heads()


def _left_behind(clone: Clone, source: Git, tree: str, kept: list[str]) -> list[str]:
    """Commits that HEAD was on and that no ref has any more, the newest first; not those with just these files."""
    earlier = clone.earlier_heads()
    if not earlier:
        return []
    asked = "\n".join([*earlier, *(f"^{sha}" for sha in kept)]).encode()
    form = ("--no-commit-header", "--format=%H %T")
    done = source.run("rev-list", "--ignore-missing", *form, "--stdin", stdin=asked, ok=range(256))
    beyond = dict(line.split() for line in done.stdout.decode().splitlines())
    known = {tree, _tree(source, kept[0])}
    return [sha for sha in earlier if beyond.get(sha, tree) not in known]


def _unlike(git: Git, commits: Sequence[str], saved: list[str], tree: str, safe: list[str]) -> list[str]:
    """Those of `commits` whose tree is none of a commit that is saved anyway."""
    if not commits:
        return []
    known = {tree, *git("log", "--format=%T", *saved, *(f"^{sha}" for sha in safe)).split(), _tree(git, saved[0])}
    trees = {_tree(git, sha): sha for sha in commits}
    return [sha for found, sha in trees.items() if found not in known]


def _staged_tree(source: Git) -> str:
    """Of the index; a file in conflict is left out: its versions are those of the commits that are merged."""
    unmerged = source.run("ls-files", "-z", "--unmerged").stdout.split(b"\0")
    paths = b"\0".join({line.partition(b"\t")[2] for line in unmerged if line})
    source.run("update-index", "--force-remove", "-z", "--stdin", stdin=paths)
    return source("write-tree")


def _keep(git: Git, report: _Report, tree: str, parents: list[str]) -> Saved:
    folder = f"{REFS}/{safe_name(report.task_id)}"
    while True:
        names = [ref.rpartition("/")[2] for ref in git("for-each-ref", "--format=%(refname)", folder).split()]
        numbers = [int(name) for name in names if name.isdecimal()]  # another may have put something there
        last = f"{folder}/{max(numbers, default=0)}"
        if numbers and git("show", "-s", "--format=%T %P", last).split() == [tree, *parents]:
            return Saved(last, git("rev-parse", last), report.files)
        ref = f"{folder}/{max(numbers, default=0) + 1}"
        commit = _commit(git, tree, parents, _message(report, ref))
        try:
            git.update_refs(f"create {ref} {commit}")
            return Saved(ref, commit, report.files)
        except GitError:
            if not git.ok("show-ref", "--verify", "-q", ref):  # else another attempt took the number: look again
                raise


def _message(report: _Report, ref: str) -> str:
    task_id, outcome = " ".join(report.task_id.split()), " ".join(report.outcome.split())
    names = [*report.ignored[:MOST_IGNORED], *(["…"] if len(report.ignored) > MOST_IGNORED else [])]
    ignored = "".join(f"    {name}\n" for name in names)
    left_out = f"Ignored files and folders, which are not in it ({len(report.ignored)}):\n\n{ignored}\n"
    return f"""\
Saved work of task {task_id} ({outcome})

What was uncommitted or not merged when its worktree was taken away. To get it back as a branch:

    python starter.py salvage restore {ref}
    git branch {branch_of(ref)} {ref}

{left_out if report.ignored else ""}\
Task-Id: {task_id}
Task-Outcome: {outcome}
Task-Base: {report.base}
Salvaged-Files: {report.files}
"""


def branch_of(ref: str) -> str:
    """The branch that a salvage becomes."""
    return f"salvage/{ref.removeprefix(f'{REFS}/').replace('/', '-')}"


def _beyond(git: Git, sha: str, safe: list[str]) -> bool:
    """`sha` brings a commit that none of `safe` has; not so, when it is no whole commit."""
    done = git.run("rev-list", "--count", "--end-of-options", sha, *(f"^{one}" for one in safe), ok=range(256))
    return done.returncode == 0 and int(done.stdout) > 0


def _fork(git: Git, head: str, target: str) -> str:
    return git.run("merge-base", target, head, ok=(0, 1)).stdout.decode().strip() or target


def _tree(git: Git, commit: str) -> str:
    return git("rev-parse", f"{commit}^{{tree}}")


def _commit(git: Git, tree: str, parents: list[str], message: str, date: str | None = None) -> str:
    dates = {f"GIT_{who}_DATE": f"{date} +0000" for who in ("AUTHOR", "COMMITTER") if date}
    who = {"GIT_AUTHOR_NAME": IDENTITY[0], "GIT_AUTHOR_EMAIL": IDENTITY[1]}
    each = [part for parent in parents for part in ("-p", parent)]
    return git("commit-tree", tree, *each, "-F", "-", stdin=message.encode(), env={**who, **dates})
