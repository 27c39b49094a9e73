"""The end of a worktree, whatever is left of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from activities.contracts import TaskRef
from activities.git.repository import open_repository
from activities.git.worktree import create
from activities.home import Home
from activities.settle import settle
from activities.site import task_branch
from tests.git.repos import git, make_repo


def test_published_work_is_saved_when_the_folder_is_gone_and_a_second_run_finishes_the_first(tmp_path: Path) -> None:
    repo, home = make_repo(tmp_path / "repo"), Home(tmp_path / "home")
    ref = TaskRef(task_id="lost", key="lost.1", repo=str(repo), target="refs/heads/main")
    base = git(repo, "rev-parse", "main")
    worktree = create(
        open_repository(str(repo)), home.worktree(ref.key), ref.key, task_branch(ref.task_id), base, ref.target
    )
    (worktree.path / "work.txt").write_text("precious\n")
    worktree.commit_all("work")
    shutil.rmtree(worktree.path)

    settled = settle(home, ref, "abandoned")
    assert settled.salvage_ref is not None
    assert git(repo, "show", f"{settled.salvage_ref}:work.txt") == "precious"

    git(repo, "update-ref", f"refs/mergewright/base/{ref.key}", base)  # as a kill in the middle would leave it
    assert settle(home, ref, "abandoned") == settled
    assert settle(home, ref, "abandoned") == settled
    assert git(repo, "for-each-ref", "--format=%(refname)", "refs/mergewright") == settled.salvage_ref
