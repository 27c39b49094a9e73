"""Tasks in flight that change the same lines: known when work is committed, not when the merge queue sends it back."""

from __future__ import annotations

import structlog

from activities.contracts import Overlap, TaskRef
from activities.git.candidate import one_line
from activities.git.radar import conflicts, in_flight
from activities.git.repository import Repository
from activities.home import Home
from activities.site import read_json, write_model

MOST_TASKS = 50
MOST_FILES = 20

log = structlog.get_logger()


def note_ref(home: Home, ref: TaskRef) -> None:
    """Where the task's things are. The file's time says since when: a second run leaves it as it is."""
    path = home.run(ref.key) / "ref.json"
    if read_json(path) != ref.model_dump(mode="json"):
        write_model(path, ref)


def overlaps(home: Home, repository: Repository, ref: TaskRef, head: str, target: str) -> list[Overlap]:
    """Of the tasks for the same branch, those whose work does not merge with `head`; the oldest first.

    `target`: sha of that branch. It only warns: trouble is logged, and then there are none.
    """
    try:
        return _overlaps(home, repository, ref, head, target)
    except Exception as problem:
        log.warning("overlaps are not known", task=ref.task_id, problem=str(problem))
        return []


def _overlaps(home: Home, repository: Repository, ref: TaskRef, head: str, target: str) -> list[Overlap]:
    heads = in_flight(repository, target)
    heads.pop(ref.key, None)
    # A settled task's worktree is gone.
    refs = [_ref(home, key) for key in heads if home.worktree(key).is_dir()]
    others = {other.key: other for other in refs if other is not None and other.target == ref.target}
    if not others or repository.contains(head, target):
        return []
    found = conflicts(repository, head, {key: heads[key] for key in others})
    ages = {key: _age(home, key) for key in [*found, ref.key]}
    return [
        Overlap(
            task=others[key].task_id,
            title=one_line(str(read_json(home.run(key) / "task.json").get("title", "")))[:100],
            files=[one_line(file) for file in found[key][:MOST_FILES]],
            earlier=ages[key] < ages[ref.key],
        )
        for key in sorted(found, key=ages.__getitem__)[:MOST_TASKS]
    ]


def _ref(home: Home, key: str) -> TaskRef | None:
    """None for work that was begun under another data folder, and has no run here."""
    found = read_json(home.run(key) / "ref.json")
    return TaskRef.model_validate(found) if found else None


def _age(home: Home, key: str) -> tuple[int, str]:
    """When it was prepared; by its key, should two be of one moment."""
    return (home.run(key) / "ref.json").stat().st_mtime_ns, key
