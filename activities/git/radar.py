"""Which work in flight is in conflict: pairs of heads, merged in memory long before the merge queue would try."""

from __future__ import annotations

from collections.abc import Mapping

from activities.git.repository import Repository, pin, printable

_TASKS = pin("task", "")


def in_flight(repository: Repository, target: str) -> dict[str, str]:
    """The work that tasks have brought over and `target`, a commit, does not contain: heads by the worktrees' keys."""
    with repository.git() as git:
        listed = git("for-each-ref", "--format=%(objectname) %(refname)", f"--no-merged={target}", _TASKS)
    return {ref.removeprefix(_TASKS): head for head, ref in (line.split(" ", 1) for line in listed.splitlines())}


def conflicts(repository: Repository, head: str, others: Mapping[str, str]) -> dict[str, list[str]]:
    """Those of `others`, commits by any name, that do not merge with `head`; with the paths in conflict, printable.

    Where there is no history in common that is every path that differs. One process does all of them, each in a
    fraction of a millisecond.
    """
    pairs = "".join(f"{head} {other}\n" for other in others.values())
    options = ("--stdin", "--name-only", "--no-messages", "--allow-unrelated-histories")
    with repository.git() as git:
        # What the merges make is of no use to anybody: it goes with this folder, and not into the repository.
        made = git.git_dir / "made"
        made.mkdir()
        lenders = {"GIT_OBJECT_DIRECTORY": str(made), "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(git.git_dir / "objects")}
        fields = iter(git.run("merge-tree", *options, stdin=pairs.encode(), env=lenders).stdout.split(b"\0"))
    found = {}
    for name in others:  # for each: 1 or 0 (in conflict), the tree, the paths, and an empty field
        clean, _tree = next(fields), next(fields)
        paths = [printable(path) for path in iter(lambda: next(fields), b"")]
        if clean != b"1":
            found[name] = paths
    return found
