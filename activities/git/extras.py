"""Files that are in no commit and that the work needs all the same: copied or linked from the user's checkout.

Which files those are, git itself says: untracked in the checkout, and matched by patterns as in .gitignore. What was
put into a task's worktree is noted in a file beside it, where no agent writes, so that it stays out of commits.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from activities.git.repository import Repository
from activities.git.run import shadow

MADE = ""
"""Mark of what a command has made: it is never work, whatever becomes of it."""


@dataclass(frozen=True)
class Extra:
    """One file or folder to be put into a tree."""

    path: str
    source: Path
    link: bool
    """A link to it is put there, not a copy."""

    def mark(self) -> str:
        return str(self.source) if self.link else _mark(self.source)


def find(repository: Repository, copy: Sequence[str], link: Sequence[str]) -> list[Extra]:
    """What the patterns mean in the user's checkout; nothing in a bare repository.

    A symbolic link that leads out of the checkout, or into its git directory, is left out, and so is a repository of
    its own to be copied. What is below something linked comes with it.
    """
    top = repository.work_tree
    if top is None:
        return []
    links = {path.rstrip("/"): True for path in _untracked(repository, link, folders=True)}
    copies = {path: False for path in _untracked(repository, copy) if not path.endswith("/")}
    found = [Extra(path, top / path, linked) for path, linked in {**copies, **links}.items() if "\n" not in path]
    own = [extra for extra in found if not any(str(above) in links for above in Path(extra.path).parents)]
    return [extra for extra in own if _is_in(extra.source.resolve(), top, repository.common_dir)]


def targets(found: Iterable[Extra]) -> tuple[Path, ...]:
    """Where the links among them lead: what is written there by way of the tree."""
    return tuple(extra.source.resolve() for extra in found if extra.link)


def _is_in(path: Path, top: Path, common_dir: Path) -> bool:
    return path.is_relative_to(top) and not any(path.is_relative_to(git) for git in (top / ".git", common_dir))


def put(extra: Extra, tree: Path) -> None:
    """Whole or not at all. What is there already stays, so a second run does nothing."""
    place = _free(tree, extra.path)
    if place is None:
        return
    made = tree.with_name(f".{tree.name}.new")
    made.unlink(missing_ok=True)
    try:
        if extra.link:
            made.symlink_to(extra.source)
        else:
            shutil.copy2(extra.source, made, follow_symlinks=False)
    except FileNotFoundError:
        return  # gone since it was found
    place.parent.mkdir(parents=True, exist_ok=True)
    made.replace(place)


@dataclass(frozen=True)
class Note:
    """What lies in the worktree and is no work, each with a mark that tells whether it has been changed since."""

    file: Path

    def add(self, marks: Mapping[str, str]) -> None:
        made = self.file.with_name(f"{self.file.name}.new")
        made.write_text(json.dumps({**self.marks(), **marks}))
        made.replace(self.file)

    def marks(self) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads(self.file.read_text())
        except FileNotFoundError:
            return {}
        return found

    def names(self, path: str) -> bool:
        """It, or a folder above it, is noted."""
        noted = {name.rstrip("/") for name in self.marks()}
        return not noted.isdisjoint([path, *map(str, Path(path).parents)])

    def lines(self, changed_in: Path | None = None) -> bytes:
        """For an exclude file. With a worktree `changed_in`, those are left out that were changed there."""
        names = [
            name
            for name, mark in self.marks().items()
            if changed_in is None or mark == MADE or _mark(changed_in / name) == mark
        ]
        return exclude_lines(names)


def exclude_lines(paths: Iterable[str]) -> bytes:
    """Each of exactly these paths, with all that is below it; a line cannot say a name with a line break."""
    escaped = (re.sub(r"[\\*?\[\]]| $", r"\\\g<0>", path.rstrip("/")) for path in paths if "\n" not in path)
    return b"".join(os.fsencode(f"/{path}\n") for path in escaped)


def _untracked(repository: Repository, patterns: Sequence[str], *, folders: bool = False) -> list[str]:
    """With `folders`, a folder that is matched itself stands for all that is in it, and ends with a slash."""
    if not patterns:
        return []
    index = repository.git_dir / "index"
    with shadow(repository.common_dir, work_tree=repository.work_tree, index=index, own_dir=repository.git_dir) as git:
        file = git.git_dir / "patterns"
        file.write_text("".join(f"{pattern}\n" for pattern in patterns))
        whole = ["--directory"] if folders else []
        listed = git("ls-files", "-z", "--others", "--ignored", f"--exclude-from={file}", *whole)
    found = [path for path in listed.split("\0") if path]
    if not folders:
        return found
    spec = GitIgnoreSpec.from_lines(patterns)  # git names also a folder in which all is matched, and all that is in it
    whole_ones = {path for path in found if path.endswith("/") and spec.match_file(path)}
    return [path for path in found if path in whole_ones or not path.endswith("/")]


def _free(tree: Path, path: str) -> Path | None:
    """Where it goes; None: something is there, or the way there leads through a link or a file."""
    for folder in list(Path(path).parents)[:-1]:
        above = tree / folder
        if above.is_symlink() or (above.exists() and not above.is_dir()):
            return None
    return None if os.path.lexists(tree / path) else tree / path


def _mark(file: Path) -> str:
    try:
        if file.is_symlink():
            return str(file.readlink())
        found = file.lstat()
    except OSError:
        return "gone"
    return f"{found.st_size} {found.st_mtime_ns} {found.st_mode:o}"
