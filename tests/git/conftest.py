from __future__ import annotations

import os
from pathlib import Path

import pytest

from activities.git.repository import Repository, open_repository
from activities.git.worktree import Worktree
from tests.git.repos import make_repo
from tests.git.worktrees import FILES, new


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test depends on the git settings of whoever runs it."""
    home = tmp_path_factory.mktemp("home")
    for name in [*os.environ]:
        if name.startswith("GIT_") or name == "XDG_CONFIG_HOME":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return home


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return open_repository(str(make_repo(tmp_path / "repo", FILES)))


@pytest.fixture
def worktree(repository: Repository, tmp_path: Path) -> Worktree:
    return new(repository, tmp_path / "worktrees")


@pytest.fixture
def submodule(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "submodule", {"s": "1"})
