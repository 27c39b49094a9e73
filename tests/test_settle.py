"""The end of a worktree, whatever is left of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

from temporalio.client import Client

from activities.contracts import TaskRef
from activities.git.repository import open_repository
from activities.git.worktree import create
from activities.home import Home
from activities.overlaps import note_ref
from activities.prepare import PrepareActivities
from activities.server import Server, note_server
from activities.settle import settle
from activities.site import Site, task_branch
from tests.git.repos import commit, git, make_repo


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


def test_files_are_saved_where_the_repository_was_made_anew_or_its_refs_were_removed(tmp_path: Path) -> None:
    repo, home = make_repo(tmp_path / "repo"), Home(tmp_path / "home")
    ref = TaskRef(task_id="lost", key="lost.1", repo=str(repo), target="refs/heads/main")
    base = git(repo, "rev-parse", "main")
    worktree = create(
        open_repository(str(repo)), home.worktree(ref.key), ref.key, task_branch(ref.task_id), base, ref.target
    )
    commit(worktree.path, {"committed.txt": "precious\n"})
    (worktree.path / "work.txt").write_text("precious too\n")
    shutil.rmtree(repo)
    make_repo(repo, {"other": "history\n"})

    settled = settle(home, ref, "abandoned")
    assert settled.salvage_ref is not None
    assert git(repo, "show", f"{settled.salvage_ref}:committed.txt") == "precious"
    assert git(repo, "show", f"{settled.salvage_ref}:work.txt") == "precious too"
    assert not worktree.path.exists()


def test_a_new_run_for_another_repository_saves_the_earlier_one_where_it_belongs(tmp_path: Path) -> None:
    wrong, right, home = make_repo(tmp_path / "wrong"), make_repo(tmp_path / "right"), Home(tmp_path / "home")
    ref = TaskRef(task_id="task", key="task.1", repo=str(wrong), target="refs/heads/main")
    note_ref(home, ref)
    base = git(wrong, "rev-parse", "main")
    worktree = create(
        open_repository(str(wrong)), home.worktree(ref.key), ref.key, task_branch(ref.task_id), base, ref.target
    )
    (worktree.path / "work.txt").write_text("precious\n")

    site = Site(home, "here", "queue", cast("Client", None))
    again = ref.model_copy(update={"key": "task.2", "repo": str(right)})
    here, elsewhere = Server(id="here", name="here"), Server(id="elsewhere", name="elsewhere")
    note_server(home, ref.key, here)
    PrepareActivities(site)._clear_earlier_runs(again, elsewhere)
    assert worktree.path.exists()  # a task of the same id, which runs on another server
    PrepareActivities(site)._clear_earlier_runs(again, here)
    [salvage] = git(wrong, "for-each-ref", "--format=%(refname)", "refs/mergewright").splitlines()
    assert git(wrong, "show", f"{salvage}:work.txt") == "precious"
    assert not worktree.path.exists()
