"""A task that has ended without landing begins again (FEATURES A22), with what there is of its earlier run."""

from __future__ import annotations

from pathlib import Path

from activities.contracts import Earlier, TaskRef
from activities.git import salvaged, turns
from activities.git.worktree import Worktree
from activities.home import Home, task_key
from activities.plan_files import planned
from activities.settings import Continues
from activities.site import read_json, write_atomically


def take_up(home: Home, worktree: Worktree, ref: TaskRef, continues: Continues) -> Earlier:
    """Puts the earlier run's saved work into the worktree. Before the first turn; a second run does the same again.

    The run folder may have been cleaned up, or lie on another host: then it is the newest salvage of the task.
    """
    before = home.run(task_key(ref.task_id, continues.run))
    saved = salvaged.listing(worktree.repository, ref.task_id)
    settled = read_json(before / "settled.json")
    if settled:
        saved = [one for one in saved if one.ref == settled.get("salvage_ref")]
    if saved:
        turns.put(worktree, saved[0].commit)
    ends = {
        role: sorted(before.glob(f"turns/*-{role}/final.md")) for role in ("planner", "executor", "fixer", "resolver")
    }
    worked = sorted((path for role in ("executor", "fixer", "resolver") for path in ends[role]), key=_turn)
    plan = _copied(ends["planner"][-1], home.run(ref.key) / "plan.md") if worked and ends["planner"] else ""
    return Earlier(
        salvage_ref=saved[0].ref if saved else None,
        summary=_copied(worked[-1], home.run(ref.key) / "earlier.md") if worked else "",
        plan=plan,
        planned=planned(Path(plan).read_text()) if plan else [],
    )


def _turn(final: Path) -> str:
    return final.parent.name


def _copied(path: Path, to: Path) -> str:
    """The janitor removes the earlier run's folder some day."""
    write_atomically(to, path.read_bytes())
    return str(to)
