"""Work that would be lost with a worktree, kept under `refs/mergewright/salvage/<task>/<n>`.

A salvage is one commit in the user's repository. Its tree is everything that lay in the worktree, but for ignored
files; its first parent is the head of the work; further parents are what else only the clone had: what was staged,
other branches, stashes, a merge in progress. The worktree is not touched by saving it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from activities.git.clone import Clone, WorktreeBroken, brought
from activities.git.repository import Repository, RepositoryProblem
from activities.git.run import IDENTITY, Git, GitError
from activities.git.snapshot import snapshot
from activities.git.worktree import Worktree
from activities.home import safe_name

_REFS = "refs/mergewright/salvage"


@dataclass(frozen=True)
class Saved:
    ref: str
    commit: str
    files: int
    """How many files it changes."""


@dataclass(frozen=True)
class Salvage:
    ref: str
    commit: str
    task: str
    """The task's id."""
    outcome: str
    """How the task stood when this was saved."""
    when: datetime
    files: int
    subject: str


def save(worktree: Worktree, *, task_id: str, outcome: str, kept: str | None = None) -> Saved | None:
    """Saves what is in the worktree and nowhere else. None: there is nothing.

    Committed work needs no saving when it is contained in the target or in `kept`: the head that has landed, or one
    that stays published. A second run with the same state returns the first one's ref. A worktree whose `.git` is
    broken gives its files, one that is gone what was published.
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
        committed = _beyond(git, head, safe)
        if tree == _tree(git, head) and parents == [head] and not committed:
            return None
        begun = _fork(git, head, target or base) if committed else head
        files = len(git("diff-tree", "-r", "-z", "--name-only", begun, tree).split("\0")) - 1
        return _keep(git, task_id, outcome, tree, parents, files)


def _only_there(clone: Clone, git: Git, source: Git, head: str, tree: str, safe: list[str]) -> list[str]:
    """What no other commit contains, brought over; what cannot be, being corrupt, is left."""
    found: list[str] = []
    for sha in _others(clone, source, head, tree):
        if _beyond(source, sha, [head, *found, *safe]) and brought(git, source, sha):
            found.append(sha)
    return found


def _others(clone: Clone, source: Git, head: str, tree: str) -> Iterator[str]:
    """What the clone has besides its head and its files: commits in the order in which they become parents."""
    if clone.copy_index(source.git_dir / "index"):
        with suppress(GitError):
            staged = _staged_tree(source)
            if staged not in (tree, _tree(source, head)):
                yield _commit(
                    source, staged, [head], "What was staged", date=source("show", "-s", "--format=%ct", head)
                )
    yield from source("for-each-ref", "--format=%(objectname)", "refs/heads", "refs/stash").splitlines()
    older = source.run("log", "-g", "--format=%H", "refs/stash", ok=(0, 128)).stdout.decode()
    yield from older.splitlines()
    yield from clone.merge_heads()
    yield from clone.worktree_heads()


def _staged_tree(source: Git) -> str:
    """Of the index; a file in conflict is left out: its versions are those of the commits that are merged."""
    unmerged = source.run("ls-files", "-z", "--unmerged").stdout.split(b"\0")
    paths = b"\0".join({line.partition(b"\t")[2] for line in unmerged if line})
    source.run("update-index", "--force-remove", "-z", "--stdin", stdin=paths)
    return source("write-tree")


def _keep(git: Git, task_id: str, outcome: str, tree: str, parents: list[str], files: int) -> Saved:
    folder = f"{_REFS}/{safe_name(task_id)}"
    while True:
        numbers = [int(ref.rpartition("/")[2]) for ref in git("for-each-ref", "--format=%(refname)", folder).split()]
        last = f"{folder}/{max(numbers, default=0)}"
        if numbers and git("show", "-s", "--format=%T %P", last).split() == [tree, *parents]:
            return Saved(last, git("rev-parse", last), files)
        ref = f"{folder}/{max(numbers, default=0) + 1}"
        commit = _commit(git, tree, parents, _message(task_id, outcome, ref, files))
        try:
            git.update_refs(f"create {ref} {commit}")
            return Saved(ref, commit, files)
        except GitError:
            if not git.ok("show-ref", "--verify", "-q", ref):  # else another attempt took the number: look again
                raise


def _message(task_id: str, outcome: str, ref: str, files: int) -> str:
    task_id, outcome = " ".join(task_id.split()), " ".join(outcome.split())
    return f"""\
Saved work of task {task_id} ({outcome})

What was uncommitted or not merged when its worktree was taken away. To get it back as a branch:

    python starter.py salvage restore {ref}
    git branch {_branch(ref)} {ref}

Task-Id: {task_id}
Task-Outcome: {outcome}
Salvaged-Files: {files}
"""


def listing(repository: Repository, task_id: str | None = None) -> list[Salvage]:
    """The newest first; of one task, or of all."""
    folder = _REFS if task_id is None else f"{_REFS}/{safe_name(task_id)}"
    form = "%(refname)%00%(objectname)%00%(committerdate:unix)%00%(contents:subject)%00%(contents:body)%00"
    with repository.git() as git:
        fields = git("for-each-ref", "--sort=-committerdate", "--sort=-refname", f"--format={form}", folder).split("\0")
    found = []
    for ref, commit, when, subject, body in zip(*(iter(fields),) * 5, strict=False):
        says = dict(line.split(": ", 1) for line in body.splitlines() if ": " in line)
        found.append(
            Salvage(
                ref=ref.strip(),
                commit=commit,
                task=says.get("Task-Id", ""),
                outcome=says.get("Task-Outcome", ""),
                when=datetime.fromtimestamp(int(when), UTC),
                files=int(says.get("Salvaged-Files", 0)),
                subject=subject,
            )
        )
    return found


def restore(repository: Repository, ref: str) -> str:
    """Makes a branch of a salvage and returns its name; no checkout is touched. A second run returns it again.

    Raises RepositoryProblem: no such salvage, or something else has the branch's name.
    """
    branch = _branch(ref)
    with repository.git() as git:
        done = git.run("rev-parse", "-q", "--verify", "--end-of-options", f"{ref}^{{commit}}", ok=(0, 1, 128))
        commit = done.stdout.decode().strip()
        if not commit or not ref.startswith(f"{_REFS}/"):
            raise RepositoryProblem(f"{repository.path} has no salvage {ref!r}: `salvage list` names them")
        try:
            git.update_refs(f"create refs/heads/{branch} {commit}")
        except GitError:
            if not git.ok("merge-base", "--is-ancestor", commit, f"refs/heads/{branch}"):
                raise RepositoryProblem(
                    f"{repository.path} cannot have a branch {branch}: another is in the way; "
                    f"take a name of your own: git branch <name> {ref}"
                ) from None
    return branch


def _branch(ref: str) -> str:
    return f"salvage/{ref.removeprefix(f'{_REFS}/').replace('/', '-')}"


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
