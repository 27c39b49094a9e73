from __future__ import annotations

from pathlib import Path

import pytest

from activities.git.repository import Repository, open_repository
from tests.git.landings import FILES
from tests.git.repos import make_repo


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo", FILES)


@pytest.fixture
def repository(repo: Path) -> Repository:
    return open_repository(str(repo))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home"
