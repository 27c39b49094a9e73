"""Submodules of a task's worktree follow where its target moves them, offline as at set-up."""

from __future__ import annotations

import json

import structlog

from activities.contracts import TaskRef
from activities.git import submodules
from activities.git.merging import start_merge
from activities.git.salvage import save
from activities.git.worktree import Worktree
from activities.home import Home
from activities.place import failed
from activities.settings import WorktreeSettings
from activities.site import read_json, write_atomically

log = structlog.get_logger()


def merge_in(home: Home, ref: TaskRef, worktree: Worktree, target: str, message: str) -> list[str]:
    """`start_merge` of the commit `target`, with the submodules that are checked out.

    What was changed in those that move is saved first; what an agent has moved by itself stays where it is. The run's
    `setup.json` says what was brought where, so a second run does what is left. Raises ApplicationError, of the type
    SETUP_FAILED, for a commit that the user does not have.
    """
    note = home.run(ref.key) / "setup.json"
    noted = read_json(note)
    if not WorktreeSettings.model_validate(noted.get("settings", {})).submodules:
        return start_merge(worktree, target, message)
    repository, cone = worktree.repository, worktree.cone
    there = noted.get("submodules") or submodules.links(repository, worktree.base(), cone)
    theirs = submodules.links(repository, target, cone)
    merged = repository.contains(target, worktree.published()) or target in worktree.clone.merge_heads()
    if there != theirs and not merged:
        saved = save(worktree, task_id=ref.task_id, outcome="before its submodules moved", kept=worktree.published())
        if saved:
            log.info("what was changed in submodules is saved", task=ref.task_id, salvage_ref=saved.ref)
    conflicts = start_merge(worktree, target, message)
    with repository.git() as git:
        work = worktree.pins(git)["merge"] if conflicts else worktree.published()
    now = submodules.links(repository, work, cone)
    moved = {path: sha for path, sha in theirs.items() if now.get(path) == sha != there.get(path)}
    gone = there.keys() - now.keys() - theirs.keys()
    try:
        submodules.follow(repository, worktree.path, work, moved, gone)
    except submodules.SubmoduleMissing as missing:
        failed(str(missing))
    kept = {path: sha for path, sha in there.items() if path not in gone}
    write_atomically(note, json.dumps({**noted, "submodules": {**kept, **moved}}))
    return conflicts
