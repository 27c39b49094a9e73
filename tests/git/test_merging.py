from __future__ import annotations

from pathlib import Path

import pytest

from activities.git.merging import abort_merge, start_merge, unresolved
from activities.git.repository import Repository, open_repository
from activities.git.worktree import Worktree, create
from tests.git.repos import commit, git, make_repo, run_git, write
from tests.git.worktrees import MAIN

LINES = "".join(f"line {number}\n" for number in range(20))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    files: dict[str, bytes | str | None] = {
        "both.txt": LINES,
        "logo.bin": b"\0\1\2",
        "gone.txt": "gone\n",
        "moved.txt": LINES,
        ".gitignore": "*.log\n",
    }
    return open_repository(str(make_repo(tmp_path / "repo", files)))


@pytest.fixture
def worktree(repository: Repository, tmp_path: Path) -> Worktree:
    return create(repository, tmp_path / "w" / "t.1", "t.1", "mergewright/t", repository.tip(MAIN), MAIN)


def status(worktree: Worktree) -> str:
    return git(worktree.path, "status", "--porcelain")


def conflict(worktree: Worktree) -> tuple[str, str]:
    """Ours and theirs, in conflict in every way but renames."""
    theirs = commit(
        worktree.repository.path,
        {"both.txt": LINES.replace("line 3", "theirs"), "logo.bin": b"\0theirs", "gone.txt": "theirs\n", "new": "new"},
    )
    write(worktree.path, {"both.txt": LINES.replace("line 3", "ours"), "logo.bin": b"\0ours", "gone.txt": None})
    return worktree.commit_all("ours"), theirs


def test_a_clean_merge_is_made_and_published(worktree: Worktree, repository: Repository) -> None:
    theirs = commit(repository.path, {"both.txt": LINES.replace("line 3", "theirs"), "new": "new"})
    write(worktree.path, {"both.txt": LINES.replace("line 15", "ours"), "x.log": "ignored"})
    ours = worktree.commit_all("ours")
    assert start_merge(worktree, theirs, "Merge main\n") == []
    head = worktree.head()
    assert git(repository.path, "rev-parse", f"{head}^@") == f"{ours}\n{theirs}"
    assert git(repository.path, "show", "-s", "--format=%B", head) == "Merge main"
    merged = (worktree.path / "both.txt").read_text()
    assert "theirs" in merged and "ours" in merged and (worktree.path / "new").exists()
    assert status(worktree) == ""
    assert worktree.published() == head == git(worktree.path, "rev-parse", "HEAD")
    assert start_merge(worktree, theirs, "Merge main\n") == []
    assert worktree.head() == head
    assert unresolved(worktree) == []


def test_the_same_merge_is_the_same_commit(worktree: Worktree, repository: Repository) -> None:
    theirs = commit(repository.path, {"new": "new"})
    write(worktree.path, {"mine": "mine"})
    git(worktree.path, "add", "mine")
    run_git(worktree.path, "commit", "-q", "-m", "ours", env={"GIT_COMMITTER_DATE": "2100000000 +0000"})
    ours = worktree.commit_all("ours")
    start_merge(worktree, theirs, "Merge main")
    first = worktree.head()
    assert git(repository.path, "show", "-s", "--format=%at %ct", first) == "2100000000 2100000000"
    worktree.put_back(ours)
    start_merge(worktree, theirs, "Merge main")
    assert worktree.head() == first


def test_a_conflict_is_an_ordinary_merge_in_progress(worktree: Worktree) -> None:
    ours, theirs = conflict(worktree)
    assert start_merge(worktree, theirs, "Merge main") == ["both.txt", "gone.txt", "logo.bin"]
    assert worktree.head() == ours
    assert git(worktree.path, "rev-parse", "MERGE_HEAD") == theirs
    assert status(worktree).split("\n") == ["UU both.txt", "DU gone.txt", "UU logo.bin", "A  new"]
    assert "<<<<<<< HEAD\nours\n=======\ntheirs\n>>>>>>> MERGE_HEAD\n" in (worktree.path / "both.txt").read_text()
    assert "You have unmerged paths" in git(worktree.path, "status")
    assert git(worktree.path, "diff", "--name-only", "--diff-filter=U").split() == ["both.txt", "gone.txt", "logo.bin"]
    assert git(worktree.path, "show", ":3:both.txt") == LINES.replace("line 3", "theirs").rstrip("\n")
    assert unresolved(worktree) == ["both.txt", "gone.txt", "logo.bin"]
    assert not worktree.is_clean()
    # the agent's own git concludes it
    write(worktree.path, {"both.txt": "both\n", "gone.txt": None, "logo.bin": b"\0both"})
    git(worktree.path, "add", "-A")
    git(worktree.path, "commit", "-q", "--no-edit")
    assert git(worktree.path, "show", "-s", "--format=%s") == "Merge main"
    assert git(worktree.path, "rev-parse", "HEAD^@") == f"{ours}\n{theirs}"
    assert unresolved(worktree) == []


def test_a_second_run_finds_the_merge_of_the_first(worktree: Worktree) -> None:
    _, theirs = conflict(worktree)
    first = start_merge(worktree, theirs, "Merge main")
    write(worktree.path, {"both.txt": "half resolved\n", "logo.bin": b"\0both"})
    git(worktree.path, "add", "logo.bin")
    before = status(worktree)
    assert start_merge(worktree, theirs, "Merge main") == first
    assert status(worktree) == before
    assert (worktree.path / "both.txt").read_text() == "half resolved\n"


def test_edits_alone_resolve_and_commit_all_concludes(worktree: Worktree, repository: Repository) -> None:
    ours, theirs = conflict(worktree)
    start_merge(worktree, theirs, "Merge main")
    write(worktree.path, {"both.txt": LINES.replace("line 3", "both"), "logo.bin": b"\0both"})
    assert unresolved(worktree) == ["gone.txt"]  # kept or deleted: nobody has said
    git(worktree.path, "add", "gone.txt")
    assert unresolved(worktree) == []
    head = worktree.commit_all("resolved")
    assert git(repository.path, "rev-parse", f"{head}^@") == f"{ours}\n{theirs}"
    assert repository.read_file(head, "gone.txt") == b"theirs\n"
    assert status(worktree) == ""
    assert unresolved(worktree) == []


def test_markers_that_were_committed_are_still_told(worktree: Worktree) -> None:
    _, theirs = conflict(worktree)
    start_merge(worktree, theirs, "Merge main")
    git(worktree.path, "add", "-A")
    git(worktree.path, "commit", "-q", "--no-edit")
    assert unresolved(worktree) == ["both.txt"]


def test_what_only_looks_like_a_conflict_is_none(worktree: Worktree, repository: Repository) -> None:
    page = "How a conflict looks\n====================\n<<<<<<< HEAD\na\n=======\nb\n>>>>>>> main\n"
    write(worktree.path, {"doc.txt": page, "title.txt": "Title\n=======\n"})
    worktree.commit_all("a page")
    base = worktree.published()
    git(repository.path, "merge", "-q", "--ff-only", base)
    theirs = commit(repository.path, {"doc.txt": page + "theirs\n", "title.txt": "Theirs\n=======\n"})
    write(worktree.path, {"doc.txt": page + "ours\n", "title.txt": "Ours\n=======\n"})
    worktree.commit_all("ours")
    assert start_merge(worktree, theirs, "Merge main") == ["doc.txt", "title.txt"]
    write(worktree.path, {"doc.txt": page + "ours\ntheirs\n"})
    assert unresolved(worktree) == ["title.txt"]
    write(worktree.path, {"title.txt": "Both\n=======\n"})
    assert unresolved(worktree) == []


def test_an_agent_s_own_merge_is_looked_at_too(worktree: Worktree) -> None:
    conflict(worktree)
    worktree.refresh()
    assert run_git(worktree.path, "merge", "origin/main", check=False).returncode == 1
    assert unresolved(worktree) == ["both.txt", "gone.txt", "logo.bin"]
    write(worktree.path, {"both.txt": "both\n"})
    git(worktree.path, "add", "gone.txt", "logo.bin")
    assert unresolved(worktree) == []


def test_a_rebase_of_the_agent_s_own_is_looked_at_too(worktree: Worktree, repository: Repository) -> None:
    commit(repository.path, {"both.txt": LINES.replace("line 3", "theirs")})
    commit(worktree.path, {"both.txt": LINES.replace("line 3", "ours")})
    worktree.refresh()
    assert run_git(worktree.path, "rebase", "origin/main", check=False).returncode == 1
    assert unresolved(worktree) == ["both.txt"]
    write(worktree.path, {"both.txt": LINES})
    assert unresolved(worktree) == []
    git(worktree.path, "add", "both.txt")
    git(worktree.path, "rebase", "--continue")
    assert worktree.commit_all("x") == git(worktree.path, "rev-parse", worktree.branch)


def test_put_back_ends_a_rebase(worktree: Worktree) -> None:
    ours, _ = conflict(worktree)
    worktree.refresh()
    assert run_git(worktree.path, "rebase", "origin/main", check=False).returncode == 1
    worktree.put_back(ours)
    assert git(worktree.path, "status").startswith(f"On branch {worktree.branch}\nnothing to commit")


def test_renames_folders_and_links_in_conflict(worktree: Worktree, repository: Repository) -> None:
    (repository.path / "moved.txt").rename(repository.path / "there.txt")
    (repository.path / "thing").symlink_to("both.txt")
    theirs = commit(repository.path, {"place": "a file\n"})
    (worktree.path / "moved.txt").rename(worktree.path / "elsewhere.txt")
    write(worktree.path, {"place/x": "in a folder\n", "thing": "a file\n"})
    ours = worktree.commit_all("ours")
    found = start_merge(worktree, theirs, "Merge main")
    assert {"moved.txt", "there.txt", "elsewhere.txt"} <= set(found)
    assert any(path.startswith("place") for path in found) and any(path.startswith("thing") for path in found)
    assert git(worktree.path, "rev-parse", "MERGE_HEAD", "HEAD") == f"{theirs}\n{ours}"
    assert unresolved(worktree)
    abort_merge(worktree)
    assert status(worktree) == ""


def test_abort_goes_back(worktree: Worktree) -> None:
    ours, theirs = conflict(worktree)
    start_merge(worktree, theirs, "Merge main")
    write(worktree.path, {"both.txt": "half\n", "extra": "x"})
    abort_merge(worktree)
    assert status(worktree) == ""
    assert worktree.head() == ours
    assert not (worktree.path / ".git" / "MERGE_HEAD").exists()
    assert not (worktree.path / "extra").exists()
    assert unresolved(worktree) == []
    assert start_merge(worktree, theirs, "Merge main") == ["both.txt", "gone.txt", "logo.bin"]


def test_uncommitted_work_is_never_merged_over(worktree: Worktree) -> None:
    _, theirs = conflict(worktree)
    write(worktree.path, {"both.txt": "not yet committed\n"})
    with pytest.raises(ValueError, match="uncommitted"):
        start_merge(worktree, theirs, "Merge main")
    assert (worktree.path / "both.txt").read_text() == "not yet committed\n"


@pytest.mark.parametrize("torn", [{"both.txt": "line 0\nli"}, {"both.txt": LINES, "new": "n"}, {"logo.bin": None}])
def test_a_merge_that_was_killed_half_way_is_done_again(
    worktree: Worktree, repository: Repository, torn: dict[str, str | None]
) -> None:
    ours, theirs = conflict(worktree)
    whole = start_merge(worktree, theirs, "Merge main")
    after = {str(file): file.read_bytes() for file in worktree.path.glob("*") if file.is_file()}
    abort_merge(worktree)
    # as a kill leaves it: the files in between, everything else as before
    git(repository.path, "update-ref", "refs/mergewright/reset/t.1", ours)
    write(worktree.path, torn)
    (worktree.path / ".git" / "index.lock").write_text("")
    assert start_merge(worktree, theirs, "Merge main") == whole
    assert {str(file): file.read_bytes() for file in worktree.path.glob("*") if file.is_file()} == after
    assert status(worktree).split("\n") == ["UU both.txt", "DU gone.txt", "UU logo.bin", "A  new"]


def test_a_merge_that_cannot_be_brought_into_the_worktree(worktree: Worktree, repository: Repository) -> None:
    ours, theirs = conflict(worktree)
    write(worktree.path, {".git/MERGE_MSG/is/a/folder": "x"})
    with pytest.raises(OSError):
        start_merge(worktree, theirs, "Merge main")
    assert (worktree.head(), status(worktree)) == (ours, "")
    assert git(repository.path, "for-each-ref", "refs/mergewright/reset") == ""


def test_a_target_that_does_not_exist_changes_nothing(worktree: Worktree, repository: Repository) -> None:
    ours, _ = conflict(worktree)
    with pytest.raises(Exception, match="exit"):
        start_merge(worktree, "1" * 40, "Merge nothing")
    assert (worktree.head(), status(worktree)) == (ours, "")
    assert git(repository.path, "for-each-ref", "refs/mergewright/reset") == ""
