"""How much of the disk is used, and whether there is room for one more worktree."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from activities.config import Disk
from activities.home import Home
from activities.runs import Run, known_runs

GB = 10**9


class DiskFull(Exception):
    """One line: what is short, and the remedy. It passes by itself, or when somebody makes room."""


def used(path: Path) -> int:
    """Bytes on the disk of a file or folder; what cannot be read, or is gone meanwhile, counts nothing."""
    if path.is_symlink() or not path.is_dir():
        return _blocks(path)
    found, folders = 0, [str(path)]
    while folders:  # no recursion: what agents and gates leave may be deep
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    found += _blocks(entry)
    return found


def share(home: Home, runs: Iterable[Run], common_dir: Path) -> int:
    """Bytes that the data folder holds for one repository: worktrees, run folders, slots."""
    keys = [run.key for run in runs if run.common_dir == common_dir]
    return used(home.repository(common_dir)) + sum(used(home.worktree(key)) + used(home.run(key)) for key in keys)


def check_room(home: Home, disk: Disk, common_dir: Path) -> None:
    """Before a worktree is made. Raises DiskFull."""
    config = home.root / "config.toml"
    free = shutil.disk_usage(home.root).free
    if free < disk.floor_gb * GB:
        raise DiskFull(
            f"only {free / GB:.1f} GB are free for {home.root}, and {disk.floor_gb:g} are to stay free: "
            f"free some space (`starter.py clean`), or lower [disk] floor_gb in {config}"
        )
    if disk.cap_gb is None:
        return
    held = share(home, known_runs(home).values(), common_dir)
    if held > disk.cap_gb * GB:
        raise DiskFull(
            f"{common_dir} has {held / GB:.1f} GB in {home.root}, and may have "
            f"{disk.cap_gb:g}: let tasks end, or raise [disk] cap_gb in {config}"
        )


def _blocks(entry: os.DirEntry[str] | Path) -> int:
    try:
        return os.lstat(entry).st_blocks * 512
    except OSError:
        return 0
