"""Files that Git LFS holds: no filter is ever run here, so what lies in a tree is the pointer to their content."""

from __future__ import annotations

from pathlib import Path

from activities.git.repository import Repository
from activities.git.run import shadow

_POINTER = b"version https://git-lfs.github.com/spec/"


def pointers(repository: Repository, tree: Path, commit: str) -> list[str]:
    """Those of `commit` that are checked out in `tree` as pointers."""
    with shadow(repository.common_dir, work_tree=tree, ours=True) as git:
        paths = git.run("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit).stdout
        if not any(path.rpartition(b"/")[2] == b".gitattributes" for path in paths.split(b"\0")):
            return []
        told = git("check-attr", "-z", "--stdin", "filter", stdin=paths).split("\0")
    filtered = [path for path, value in zip(told[::3], told[2::3], strict=False) if value == "lfs"]
    return [path for path in filtered if _is_pointer(tree / path)]


def _is_pointer(file: Path) -> bool:
    if file.is_symlink() or not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(_POINTER)) == _POINTER
