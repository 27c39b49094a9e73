"""Submodules, checked out from what the user has of them: nothing is fetched, and no configuration of theirs is run.

Each is a shared clone, as the worktree itself is: an agent may commit in it, and what the user has does not change.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from activities.git.clone import delete, make, unlink_way
from activities.git.repository import Repository
from activities.git.run import Git, read_config, shadow
from activities.git.sparse import Cone

_LINK = "160000"


class SubmoduleMissing(Exception):
    """One line: what the user does not have, and the remedy."""


def fill(
    repository: Repository, tree: Path, commit: str, below: str = "", wanted: Callable[[str], bool] = lambda _: True
) -> None:
    """Checks out every submodule of `commit` in `tree` whose path is `wanted`, with theirs. What lay there is gone.

    To be called when nobody writes in `tree`. Raises SubmoduleMissing.
    """
    with repository.git() as git:
        found, names = _links(git, commit), _names(git, commit)
    for path, sha in found.items():
        if not wanted(path):
            continue
        inner = _repository(repository, names.get(path), f"{below}{path}")
        place = tree / path
        unlink_way(tree, path)
        delete(place)
        place.mkdir(parents=True)
        with shadow(inner.common_dir, work_tree=place, index=place / ".git" / "index", ours=True) as git:
            if not git.ok("cat-file", "-e", f"{sha}^{{tree}}"):
                raise SubmoduleMissing(_missing(f"{below}{path}", f"has no commit {sha}"))
            make(place / ".git", inner, git, head=sha, refs={})
            git("read-tree", "--reset", "-u", sha)
        fill(inner, place, sha, f"{below}{path}/")


def links(repository: Repository, commit: str, cone: Cone | None = None) -> dict[str, str]:
    """The submodules of `commit`, without theirs, with the commits they are at; of a sparse tree in its `cone`."""
    with repository.git() as git:
        return {path: sha for path, sha in _links(git, commit).items() if cone is None or cone.holds(path)}


def follow(repository: Repository, tree: Path, commit: str, moved: Collection[str], gone: Collection[str]) -> None:
    """Brings some to where `commit` has them, and takes those away that it has no more. Else as `fill`."""
    for path in gone:
        unlink_way(tree, path)
        if (tree / path / ".git").is_dir() and not (tree / path).is_symlink():
            _take_away(repository, tree, commit, path)
    fill(repository, tree, commit, wanted=lambda path: path in moved)


def _take_away(repository: Repository, tree: Path, commit: str, path: str) -> None:
    """But for the files that `commit` has in its place."""
    with repository.git() as git:
        listed = git("--literal-pathspecs", "ls-tree", "-r", "-z", "--name-only", commit, "--", f"{path}/")
    files = {tree / name for name in listed.split("\0") if name}
    above = {folder for file in files for folder in file.parents}
    left = [tree / path]
    while left:
        place = left.pop()
        if place in above and place.is_dir() and not place.is_symlink():
            left += place.iterdir()
        elif place not in files:
            delete(place)


def _links(git: Git, commit: str) -> dict[str, str]:
    lines = [line.partition("\t") for line in git("ls-tree", "-r", "-z", "--full-tree", commit).split("\0") if line]
    return {path: facts.split()[2] for facts, _, path in lines if facts.startswith(_LINK)}


def _names(git: Git, commit: str) -> dict[str, str]:
    """By path, as .gitmodules of the commit says; read as data."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(git.objects.read(f"{commit}:.gitmodules") or b"")
        file.flush()
        entries = read_config(Path(file.name))
    fields = [(*key.removeprefix("submodule.").rpartition("."), value) for key, value in entries]
    return {value: name for name, _, field, value in fields if field == "path"}


def _repository(repository: Repository, name: str | None, path: str) -> Repository:
    if not name:
        raise SubmoduleMissing(f"submodule {path}: .gitmodules does not name it: correct it on the target branch")
    modules = (repository.common_dir / "modules").resolve()
    common_dir = (modules / name).resolve()
    if not common_dir.is_relative_to(modules) or not (common_dir / "objects").is_dir():
        raise SubmoduleMissing(_missing(path, "is not there"))
    return Repository(path=common_dir, git_dir=common_dir, common_dir=common_dir, work_tree=None)


def _missing(path: str, what: str) -> str:
    return f"submodule {path} {what} in your repository: git submodule update --init --recursive"
