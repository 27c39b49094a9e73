"""A worktree that holds only some folders of its commit: git's sparse checkout in cone mode.

Which folders it was made with is noted beside the worktree, where no agent writes. The clone in it is a sparse one for
its agent too, who may widen it, or have all of it (`git sparse-checkout add`, `disable`). We go by what its clone says
then, read as plain files: that decides which files are written there, and nothing else. That a file which is not there
is no deletion, its index says (skip-worktree); see `snapshot` for where it does not.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from activities.git.run import Git, own_config

_MOST_BYTES = 2**20
"""Of a file of the clone; a longer one is not read."""
ALL = b"/*\n"
_NO_TIMES = re.compile(rb"  ctime: 0:0\n  mtime: 0:0\n")
_SHOWN = re.compile(rb"([^\0]+)\0((?:  [^\n]*\n)*)")


@dataclass(frozen=True)
class Cone:
    folders: tuple[str, ...]
    """With all that is below them. Besides these a worktree has what lies at the top and in the folders above."""

    def holds(self, path: str) -> bool:
        folder = str(PurePosixPath(path).parent)
        above = any(own.startswith(f"{folder}/") for own in self.folders)
        return folder == "." or above or any(f"{folder}/".startswith(f"{own}/") for own in self.folders)

    def patterns(self) -> bytes:
        """As `git sparse-checkout set` writes them."""
        whole = {own for own in self.folders if not any(own.startswith(f"{other}/") for other in self.folders)}
        above = {str(parent) for own in whole for parent in list(PurePosixPath(own).parents)[:-1]}
        lines = ["/*", "!/*/"]
        for folder in sorted(whole | above):
            escaped = re.sub(r"[\\*?\[]", r"\\\g<0>", folder)
            lines += [f"/{escaped}/", *([f"!/{escaped}/*/"] if folder in above else [])]
        return os.fsencode("".join(f"{line}\n" for line in lines))


def patterns_of(git_dir: Path, cone: Cone) -> bytes:
    """What the clone's owner wants to have in the worktree by now; what cannot be told is as it was made."""
    configs = [git_dir / name for name in ("config", "config.worktree") if os.path.lexists(git_dir / name)]
    if not all(map(_is_plain, configs)) or (git_dir / "info").is_symlink():
        return cone.patterns()
    said = dict(own_config(git_dir, git_dir)).get("core.sparsecheckout", "true").lower()
    if said not in ("true", "yes", "on", "1"):
        return ALL
    file = git_dir / "info" / "sparse-checkout"
    return file.read_bytes() if _is_plain(file) else cone.patterns()


def skip_outside(git: Git, cone: Cone) -> None:
    """In a new index: what is outside of the cone is not missed. What of it is there, git sees all the same."""
    listed = git.run("ls-files", "-z").stdout.split(b"\0")
    skip(git, (path for path in listed if path and not cone.holds(os.fsdecode(path))))


def skip(git: Git, paths: Iterable[bytes]) -> None:
    if listed := b"\0".join(paths):
        git.run("update-index", "--skip-worktree", "-z", "--stdin", stdin=listed)


def skipped(git: Git) -> set[bytes]:
    """Those that the index leaves out on purpose."""
    lines = git.run("ls-files", "-z", "-t").stdout.split(b"\0")
    return {line[2:] for line in lines if line.startswith(b"S ")}


def once_there(git: Git) -> set[bytes]:
    """Those that the index has seen as files: git notes their times then."""
    listed = git.run("ls-files", "-z", "--debug").stdout
    return {path for path, facts in _SHOWN.findall(listed) if facts and not _NO_TIMES.match(facts)}


def _is_plain(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size <= _MOST_BYTES
