"""The worktree that most tests start with, and how they look at it."""

from __future__ import annotations

from pathlib import Path

from activities.git.repository import Repository
from activities.git.worktree import Worktree, create
from tests.git.repos import git, run_git

FILES = {"README.md": "hello\n", "src/app.py": "print(1)\n", "src/lib.py": "x = 1\n", ".gitignore": "*.log\n"}
MAIN = "refs/heads/main"


def new(repository: Repository, place: Path, key: str = "t.1") -> Worktree:
    return create(repository, place / key, key, f"mergewright/{key}", repository.tip(MAIN), MAIN)


def status(worktree: Worktree) -> str:
    return git(worktree.path, "status", "--porcelain")


def tree(worktree: Worktree, commit: str) -> list[str]:
    """Read from the user's repository: what is not there does not count."""
    listed = git(worktree.repository.path, "ls-tree", "-r", "-z", "--name-only", commit)
    return listed.rstrip("\0").split("\0")


def content(worktree: Worktree, commit: str, path: str) -> bytes:
    return run_git(worktree.repository.path, "cat-file", "blob", f"{commit}:{path}").stdout
