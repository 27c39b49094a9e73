"""What `salvage.save` has kept: listed, looked into, had back, dropped. No checkout of the user's is ever touched."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from activities.git.repository import Repository, RepositoryProblem, printable
from activities.git.run import Git, GitError, shadow
from activities.git.salvage import REFS, STAGED, branch_of
from activities.home import safe_name


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


@dataclass(frozen=True)
class Contents:
    """What one salvage holds. Commits are told as `<sha> <subject>`, files as `<status letter> <path>`."""

    salvage: Salvage
    commits: list[str]
    """Of the work, the newest first."""
    uncommitted: list[str]
    """How the files differed from the newest commit: A was untracked, or staged."""
    staged: list[str]
    """How the index differed from the newest commit, where it was not the files' state."""
    others: list[str] = field(default_factory=list)
    """Further commits that are kept: other branches, stashes, a merge in progress, what was amended away."""
    ignored: list[str] = field(default_factory=list)
    """Names of what is not kept."""


def listing(repository: Repository, task_id: str | None = None) -> list[Salvage]:
    """The newest first; of one task, or of all."""
    return all_of(repository, task_id)[0]


def all_of(repository: Repository, task_id: str | None = None) -> tuple[list[Salvage], list[str]]:
    """As `listing`; and the refs beside them that somebody else has made."""
    folder = REFS if task_id is None else f"{REFS}/{safe_name(task_id)}"
    form = "%(refname)%00%(objectname)%00%(committerdate:unix)%00%(contents:subject)%00%(contents:body)%00"
    with repository.git() as git:
        fields = git("for-each-ref", "--sort=-version:refname", f"--format={form}", folder).split("\0")
    found, foreign = [], []
    for ref, commit, when, subject, body in zip(*(iter(fields),) * 5, strict=False):
        says, ref = _says(body), ref.strip()
        task, files = says.get("Task-Id", ""), says.get("Salvaged-Files", "")
        if not (when and files.isdecimal() and re.fullmatch(rf"{REFS}/{re.escape(safe_name(task))}/\d+", ref)):
            foreign.append(ref)
            continue
        found.append(
            Salvage(
                ref=ref,
                commit=commit,
                task=task,
                outcome=says.get("Task-Outcome", ""),
                when=datetime.fromtimestamp(int(when), UTC),
                files=int(files),
                subject=subject,
            )
        )
    return sorted(found, key=lambda one: one.when, reverse=True), foreign


def find(repository: Repository, name: str) -> list[Salvage]:
    """By its ref, or all of a task by the task's id; the newest first. Raises RepositoryProblem: there is none."""
    found = [one for one in listing(repository) if name in (one.ref, one.task, one.ref.removeprefix(f"{REFS}/"))]
    if not found:
        raise RepositoryProblem(f"{repository.path} has no salvage {name!r}: `salvage list` names them")
    return found


def contents(repository: Repository, salvage: Salvage) -> Contents:
    with repository.git() as git:
        head, *more = git("rev-parse", f"{salvage.commit}^@").splitlines()
        body = git("show", "-s", "--format=%b", salvage.commit)
        base = _says(body).get("Task-Base")
        told = {sha: git("show", "-s", "--format=%h %s", sha) for sha in more}
        staged = [sha for sha, says in told.items() if says.endswith(f" {STAGED}")]
        return Contents(
            salvage=salvage,
            commits=git("log", "--format=%h %s", head, *([f"^{base}"] if base else ["-1"])).splitlines(),
            uncommitted=_changes(git, head, salvage.commit),
            staged=_changes(git, head, staged[0]) if staged else [],
            others=[says for sha, says in told.items() if sha not in staged],
            ignored=re.findall(r"^    (?!python |git )(.+)$", body, re.MULTILINE),
        )


def restore(repository: Repository, name: str, branch: str | None = None) -> str:
    """Makes a branch of the newest salvage of `name` and returns the branch's name. A second run returns it again.

    Raises RepositoryProblem: no such salvage, or something else has the branch's name.
    """
    salvage = find(repository, name)[0]
    branch = branch or branch_of(salvage.ref)
    with repository.git() as git:
        if not git.ok("check-ref-format", "--branch", branch):
            raise RepositoryProblem(f"{branch!r} is no name for a branch: give another")
        try:
            git.update_refs(f"create refs/heads/{branch} {salvage.commit}")
        except GitError:
            if not git.ok("merge-base", "--is-ancestor", salvage.commit, f"refs/heads/{branch}"):
                raise RepositoryProblem(
                    f"{repository.path} cannot have a branch {branch}: another is in the way; "
                    f"take a name of your own: git branch <name> {salvage.ref}"
                ) from None
    return branch


def unpack(repository: Repository, name: str, folder: Path) -> Path:
    """Writes the files of the newest salvage of `name` into a new folder, and returns it: whole, or not at all.

    Raises RepositoryProblem: no such salvage, or the folder exists.
    """
    salvage = find(repository, name)[0]
    if os.path.lexists(folder):
        raise RepositoryProblem(f"{folder} exists: name a folder that does not")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        made.chmod(0o755)
        with shadow(repository.common_dir, work_tree=made, ours=True) as git:
            git("read-tree", "--reset", "-u", salvage.commit)
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return folder


def drop(repository: Repository, salvages: Sequence[Salvage]) -> None:
    """Deletes the refs: all, or GitError and none. Until git prunes them their commits are still there."""
    with repository.git() as git:
        git.update_refs(*(f"delete {one.ref} {one.commit}" for one in salvages))


def _changes(git: Git, before: str, after: str) -> list[str]:
    fields = git.run("diff-tree", "-r", "-z", "--name-status", "--no-renames", before, after).stdout.split(b"\0")
    return [f"{kind.decode()} {printable(path)}" for kind, path in zip(fields[::2], fields[1::2], strict=False)]


def _says(body: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in body.splitlines() if ": " in line)
