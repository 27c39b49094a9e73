"""Brings a checkout of the user's along when its branch moves. The user's own changes in it are sacred.

* Only files that differ between the old and the new commit are written. Every other one is not even touched.
* Where one of those is not as the old commit has it (changed, staged, deleted, or something untracked or ignored is
  in the way), nothing is done at all, and it is named. So it is while the user is in the middle of a merge or rebase.
* Git's own `index.lock` is held from before the look that counts until the branch has moved: no git of the user's
  comes in between. It is a symbolic link to the journal of the landing, so it can be told whose it is after any crash.
* Git works on a copy of the index. The user's index is replaced in one step, and is kept until the branch has moved:
  whatever a kill leaves half done can be undone exactly.

In the checkout's git directory, while it lasts: index.lock, mergewright-index (the copy), mergewright-index-before.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from activities.git.repository import Checkout, printable
from activities.git.run import Git, GitError, shadow

_IN_PROGRESS = {
    "MERGE_HEAD": "a merge",
    "CHERRY_PICK_HEAD": "a cherry-pick",
    "REVERT_HEAD": "a revert",
    "sequencer": "a cherry-pick or revert",
    "rebase-merge": "a rebase",
    "rebase-apply": "a rebase",
    "BISECT_LOG": "a bisect",
}
_GITLINK = "160000"
_NAMED = re.compile(r"(?m)^error: [^']*'(.+)'")
_FEW = 100
"""Up to so many paths are named to git; for more it is quicker to go through the whole index."""


class InTheWay(Exception):
    """Files of a checkout that a landing would have touched, or what else is going on there."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(", ".join(found))
        self.found = found


@dataclass(frozen=True)
class _Change:
    path: str
    old: tuple[str, str] | None
    """Mode and object; None: it is not there."""
    new: tuple[str, str] | None


@contextmanager
def moving(common_dir: Path, checkout: Checkout, old: str, new: str, *, journal: Path, holding: int) -> Iterator[Move]:
    """`journal`: names the landing in the lock. `holding`: a file descriptor that every git process is given."""
    with shadow(common_dir, work_tree=checkout.work_tree, own_dir=checkout.git_dir) as git:
        yield Move(git.holding(holding), checkout, old, new, journal)


@dataclass(frozen=True)
class Move:
    """One checkout on its way from the commit `old` to its descendant `new`.

    `blockers`, `bring`, and when the branch has moved `release`; or else `undo`.
    """

    git: Git
    """On the files of the checkout, with an index of its own."""
    checkout: Checkout
    old: str
    new: str
    journal: Path

    def blockers(self) -> list[str]:
        """Why the checkout cannot be brought along without losing something; nothing: it can. Changes nothing."""
        own = self.checkout.git_dir
        states = {f"{what} in progress" for name, what in _IN_PROGRESS.items() if (own / name).exists()}
        if os.path.lexists(self._lock) and not self._locked():
            states.add("index.lock (another git is at work, or was killed)")
        if not self._index.is_file():
            states.add("index (there is none)")
        if states:
            return sorted(states)
        shutil.copy2(self._index, self._private)
        try:
            found = {*map(_shown, self._files_in_the_way()), *self._filtered()}
            if not found:
                self._read_tree("-n")
        except GitError as error:
            if "sharedindex" in error.stderr:
                return ["index (it is split: git update-index --no-split-index)"]
            unmerged = {_shown(entry.partition("\t")[2]) for entry in self._listed("ls-files", "-z", "--unmerged")}
            found = unmerged or set(_NAMED.findall(error.stderr)) or {error.stderr[-300:].strip()}
        return sorted(found)

    def bring(self) -> None:
        """Index and files are those of `new`, and the index is locked. Raises InTheWay, GitError, OSError: `undo`."""
        self._take_lock()
        if found := self.blockers():
            raise InTheWay(found)
        _copy(self._index, self._before)
        _copy(self._index, self._next)
        self._read_tree(env={"GIT_INDEX_FILE": str(self._next)})
        self._next.replace(self._index)

    def release(self) -> None:
        """The branch has moved: the checkout is the user's again. A second run finds nothing to do."""
        for file in self._left():
            file.unlink(missing_ok=True)
        if self._locked():
            self._lock.unlink()

    def undo(self) -> None:
        """Puts back what `bring` did, wherever it was stopped; what somebody changed since then stays as it is.

        Only for when no git of ours can be alive any more. Nothing to undo is fine. Raises InTheWay when the user
        has removed our lock and another git holds it now.
        """
        if not self._locked():
            if not self._left():
                return
            self._take_lock()
            self._before.unlink(missing_ok=True)  # the lock was gone: the index may be another one by now
        if self._before.exists():
            self._before.replace(self._index)
        shutil.copy2(self._index, self._private)
        self._put_files_back()
        self.release()

    # --- what is in the way ------------------------------------------------------------------------------------

    def _files_in_the_way(self) -> Iterator[str]:
        index, differing = self._entries(), self._differing()
        for change in self._changes:
            entry = index.get(change.path)
            if entry not in (change.old, change.new) or (entry == change.old and change.path in differing):
                yield change.path
            elif entry != change.new:
                yield from self._obstacles(change)

    def _obstacles(self, change: _Change) -> Iterator[str]:
        """What git would remove in silence to make room: ignored files, links in the place of folders."""
        for parent in _parents(change.path):
            mode = _mode(self._file(parent))
            if mode and not stat.S_ISDIR(mode) and parent not in self._going:
                yield parent
        if change.old is None and (mode := _mode(self._file(change.path))):
            below = self._files_below(change.path) if stat.S_ISDIR(mode) else [change.path]
            yield from (path for path in below if path not in self._going)

    def _files_below(self, folder: str) -> Iterator[str]:
        for place, folders, names in os.walk(self._file(folder)):
            links = [name for name in folders if Path(place, name).is_symlink()]
            for name in (*names, *links):
                yield Path(place, name).relative_to(self.checkout.work_tree).as_posix()

    def _filtered(self) -> list[str]:
        """Files that only a filter such as LFS writes rightly; we run none."""
        folders = dict.fromkeys(folder for change in self._changes for folder in (*_parents(change.path), ""))
        names = [f"{self.new}:{folder}/.gitattributes".replace(":/", ":", 1) for folder in folders]
        texts = self.git.run("cat-file", "--batch", "-z", stdin=_nul_ended(names)).stdout
        with suppress(FileNotFoundError):
            texts += (self.git.git_dir / "info" / "attributes").read_bytes()
        if b"filter" not in texts:
            return []
        env = {"GIT_INDEX_FILE": str(self.git.git_dir / "index-new")}
        self.git("read-tree", self.new, env=env)
        written = _nul_ended([change.path for change in self._changes if change.new and change.new[0] != _GITLINK])
        told = self.git.run("check-attr", "--cached", "-z", "--stdin", "filter", stdin=written, env=env)
        fields = _fields(told.stdout)
        return [
            f"{_shown(path)} (filter={_shown(value)})"
            for path, value in zip(fields[0::3], fields[2::3], strict=True)
            if value not in ("unspecified", "unset", "set")
        ]

    def _read_tree(self, *options: str, env: dict[str, str] | None = None) -> None:
        try:
            self.git("read-tree", *options, "-m", "-u", self.old, self.new, env=env)
        except GitError as error:
            if "not uptodate" not in error.stderr:
                raise
            # It takes a file for changed that was only touched. To look at all files takes time, so not at first.
            self.git.run("update-index", "-q", "--refresh", ok=(0, 1), env=env)
            self.git("read-tree", *options, "-m", "-u", self.old, self.new, env=env)

    # --- putting back ------------------------------------------------------------------------------------------

    def _put_files_back(self) -> None:
        index, differing = self._entries(), self._differing()
        touched = [
            change
            for change in self._changes
            if index.get(change.path) == change.old
            and (change.path in differing or (change.old is None and _mode(self._file(change.path))))
        ]
        if not touched:
            return
        with tempfile.TemporaryDirectory(prefix="mergewright-git-") as made:
            self._write_new(Path(made), {change.path for change in touched if _mode(self._file(change.path))})
            ours = [change for change in touched if _is_ours(change, self._file(change.path), Path(made, change.path))]
        for change in ours:
            self._remove(change.path)
        back = [change.path for change in touched if change.old and self._is_free(change.path)]
        self.git("checkout-index", "-q", "-z", "--stdin", stdin=_nul_ended(back))

    def _write_new(self, folder: Path, wanted: set[str]) -> None:
        """Files as git writes them for `new`: with its attributes, line ends and all."""
        entries = [
            entry
            for entry in self._listed("ls-tree", "-r", "-z", "--full-tree", self.new)
            if (path := entry.partition("\t")[2]) in wanted or PurePosixPath(path).name == ".gitattributes"
        ]
        index = self.git.git_dir / "index-new"
        index.unlink(missing_ok=True)
        git = replace(self.git, env={"GIT_WORK_TREE": str(folder), "GIT_INDEX_FILE": str(index)})
        git("update-index", "-z", "--index-info", stdin=_nul_ended(entries))
        tree = git("write-tree")
        index.unlink()
        git("read-tree", "--reset", "-u", tree)

    def _is_free(self, path: str) -> bool:
        """Nothing is there, nor in the place of a folder above."""
        above = [_mode(self._file(parent)) for parent in _parents(path)]
        return not _mode(self._file(path)) and all(stat.S_ISDIR(mode) for mode in above if mode)

    def _remove(self, path: str) -> None:
        """The file, and the folders that are empty without it."""
        file = self._file(path)
        with suppress(OSError):
            if stat.S_ISDIR(_mode(file)):
                file.rmdir()  # a submodule's
            else:
                file.unlink()
        with suppress(OSError):
            for parent in _parents(path):
                self._file(parent).rmdir()

    # --- the index and its lock --------------------------------------------------------------------------------

    @cached_property
    def _index(self) -> Path:
        return self.checkout.index.resolve()

    @property
    def _lock(self) -> Path:
        return self._index.with_name(f"{self._index.name}.lock")

    @property
    def _before(self) -> Path:
        return self._index.with_name("mergewright-index-before")

    @property
    def _next(self) -> Path:
        return self._index.with_name("mergewright-index")

    def _left(self) -> list[Path]:
        return list(self._index.parent.glob("mergewright-index*"))

    @property
    def _private(self) -> Path:
        return self.git.git_dir / "index"

    def _take_lock(self) -> None:
        try:
            self._lock.symlink_to(self.journal)
        except FileExistsError:
            raise InTheWay(["index.lock (another git is at work)"]) from None

    def _locked(self) -> bool:
        try:
            return self._lock.readlink() == self.journal
        except OSError:  # there is none, or it is no link
            return False

    # --- what git knows ----------------------------------------------------------------------------------------

    @cached_property
    def _changes(self) -> list[_Change]:
        listed = iter(self._listed("diff-tree", "-r", "-z", "--raw", "--no-renames", self.old, self.new))
        changes = []
        for facts in listed:
            old_mode, new_mode, old, new, _ = facts[1:].split(" ")
            entries = [(mode, sha) if int(mode) else None for mode, sha in ((old_mode, old), (new_mode, new))]
            changes.append(_Change(next(listed), *entries))
        return changes

    @cached_property
    def _going(self) -> set[str]:
        return {change.path for change in self._changes if change.new is None}

    def _entries(self) -> dict[str, tuple[str, str]]:
        """Mode and object of the changed files in the index; an unmerged one has neither."""
        entries = {}
        for entry in self._listed("ls-files", "-z", "--stage", *self._named):
            facts, _, path = entry.partition("\t")
            mode, sha, stage = facts.split(" ")
            entries[path] = (mode, sha) if stage == "0" else ("", "")
        return entries

    def _differing(self) -> set[str]:
        """Changed files whose content in the checkout is not that of the index; a missing one is among them."""
        submodules = {change.path for change in self._changes if _kinds(change) == {_GITLINK}}
        return set(self._listed("ls-files", "-z", "--modified", *self._named)) - submodules

    @cached_property
    def _named(self) -> list[str]:
        paths = [change.path for change in self._changes]
        return ["--", *paths] if len(paths) <= _FEW else []

    def _listed(self, *args: str) -> list[str]:
        return _fields(self.git.run("--literal-pathspecs", *args).stdout)

    def _file(self, path: str) -> Path:
        return self.checkout.work_tree / path


def _kinds(change: _Change) -> set[str]:
    return {entry[0] for entry in (change.old, change.new) if entry}


def _is_ours(change: _Change, file: Path, like: Path) -> bool:
    """It is what git writes for `new`, or the beginning of that: git was killed inside of write(2)."""
    mode, wanted = _mode(file), _mode(like)
    if change.new and change.new[0] == _GITLINK:
        return stat.S_ISDIR(mode)
    if stat.S_IFMT(mode) != stat.S_IFMT(wanted):
        return False
    if stat.S_ISLNK(mode):
        return file.readlink() == like.readlink()
    if not stat.S_ISREG(mode):
        return False
    content, whole = file.read_bytes(), like.read_bytes()
    return content == whole[: len(content)] and (len(content) < len(whole) or not (mode ^ wanted) & stat.S_IXUSR)


def _copy(source: Path, target: Path) -> None:
    """Whole or not at all. The time goes with it: git tells by it which files may have changed since."""
    made = target.with_name(f"{target.name}.new")
    shutil.copy2(source, made)
    made.replace(target)


def _mode(file: Path) -> int:
    """0: there is nothing, or cannot be: a name is too long, a folder above is a file."""
    try:
        return file.lstat().st_mode
    except OSError:
        return 0


def _parents(path: str) -> list[str]:
    """The folders above, the nearest first."""
    return [str(parent) for parent in PurePosixPath(path).parents][:-1]


def _fields(output: bytes) -> list[str]:
    return [os.fsdecode(field) for field in output.split(b"\0")[:-1]]


def _nul_ended(items: list[str]) -> bytes:
    return b"".join(os.fsencode(item) + b"\0" for item in items)


def _shown(path: str) -> str:
    return printable(os.fsencode(path))
