"""What happened between two commits, for prompts and reports."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from activities.git.repository import Repository
from activities.git.run import Git


def subjects(repository: Repository, base: str, head: str, limit: int = 50) -> list[str]:
    """`<short sha> <subject>` of the newest commits of base..head, newest first."""
    with repository.git() as git:
        return git("log", f"--max-count={limit}", "--format=%h %s", f"{base}..{head}", "--").splitlines()


def have_landed(git: Git, base: str, tasks: Sequence[str]) -> list[str]:
    """Those of `tasks` whose work a landing brought into `base`."""
    return [
        task
        for task in tasks
        if any(
            f"Task-Id: {task}" in body.split("\n")[1:]  # a subject is the task's own
            for body in git("log", "-z", "--first-parent", "-F", f"--grep=Task-Id: {task}", "--format=%B", base).split(
                "\0"
            )
        )
    ]


def landed_between(git: Git, since: str, base: str, paths: Sequence[str] = (), limit: int = 20) -> list[str]:
    """Tasks that landed in since..base, newest first; only those that changed one of `paths`, where any are given.

    What came in otherwise is named by its commit: `<short sha> <subject>`.
    """
    form = "%x00%h %s%x00%(trailers:key=Task-Id,valueonly,separator=%x2C)"
    log = git(
        "--literal-pathspecs", "log", "-m", "--first-parent", f"--format={form}", f"{since}..{base}", "--", *paths
    )
    fields = [field.strip() for field in log.split("\0")[1:]]
    named = [task.split(",")[-1] or commit for commit, task in zip(fields[::2], fields[1::2], strict=True)]
    return list(dict.fromkeys(named))[:limit]


def landed_since(git: Git, since: str, base: str, tasks: Collection[str]) -> dict[str, str]:
    """By task, the newest commit by which a landing brought its work into `base`, that is not in `since`."""
    if not tasks:
        return {}
    known = [f"^{since}"] if since and git.objects.has(since) else []
    log = git("log", "-z", "--first-parent", "-F", "--grep=Task-Id: ", "--format=%H%n%B", base, *known)
    found: dict[str, str] = {}
    for entry in filter(None, log.split("\0")):
        sha, _subject, *lines = [*entry.split("\n"), ""]
        for line in lines:
            task = line.removeprefix("Task-Id: ")
            if task != line and task in tasks:
                found.setdefault(task, sha)
    return found
