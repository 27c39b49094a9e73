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

from activities.git.objects import GITLINK, Change, Objects
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
_REFUSED = re.compile(r"(?m)^error: (?:Entry|Updating|Untracked working tree file|Submodule|cannot stat) '(.+?)'")
"""What `read-tree` says of files when it has looked at all of them, and has touched none."""
_FEW = 100
"""Up to so many paths are named to git; for more it is quicker to go through the whole index."""


class InTheWay(Exception):
    """Files of a checkout that a landing would have touched, or what else is going on there."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(", ".join(found))
        self.found = found


@dataclass(frozen=True)
class Way:
    """From the commit `old` to its descendant `new`: the same for all checkouts."""

    old: str
    new: str
    objects: Objects

    @cached_property
    def changes(self) -> list[Change]:
        return self.objects.changes(self.old, self.new)

    @cached_property
    def going(self) -> set[str]:
        return {change.path for change in self.changes if change.new is None}

    @cached_property
    def attributes(self) -> bytes:
        """All that `.gitattributes` say of the changed files in `new`."""
        folders = dict.fromkeys(folder for change in self.changes for folder in (*_parents(change.path), ""))
        names = [f"{folder}/.gitattributes".removeprefix("/") for folder in folders]
        return b"\n".join(self.objects.read(f"{self.new}:{name}") or b"" for name in names)


@contextmanager
def moving(common_dir: Path, checkout: Checkout, way: Way, *, journal: Path, holding: int) -> Iterator[Move]:
    """`journal`: names the landing in the lock. `holding`: a file descriptor that every git process is given."""
    with shadow(common_dir, work_tree=checkout.work_tree, own_dir=checkout.git_dir) as git:
        yield Move(git.holding(holding), checkout, way, journal)


@dataclass(frozen=True)
class Move:
    """One checkout on its way.

    `blockers`, `bring`, and when the branch has moved `release`; or else `undo`.
    """

    git: Git
    """On the files of the checkout, with an index of its own."""
    checkout: Checkout
    way: Way
    journal: Path

    def blockers(self) -> list[str]:
        """Why the checkout cannot be brought along without losing something; nothing: it can. Changes nothing.

        That the index would let it through is left to `bring`, where git looks before it begins.
        """
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
            return sorted({*map(_shown, self._files_in_the_way()), *self._filtered()})
        except GitError as error:
            if found := self._refused(error):
                return found
            raise

    def bring(self) -> None:
        """Index and files are those of `new`, and the index is locked. Raises InTheWay, GitError, OSError: `undo`."""
        self._take_lock()
        if found := self.blockers():
            raise InTheWay(found)
        _copy(self._index, self._before)
        _copy(self._index, self._next)
        try:
            self._read_tree({"GIT_INDEX_FILE": str(self._next)})
        except GitError as error:
            if found := self._refused(error):
                raise InTheWay(found) from error
            raise
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
        index, differing = self._listing()
        for change in self.way.changes:
            entry = index.get(change.path)
            if entry not in (change.old, change.new) or (entry == change.old and change.path in differing):
                yield change.path
            elif entry != change.new:
                yield from self._obstacles(change)

    def _obstacles(self, change: Change) -> Iterator[str]:
        """What git would remove in silence to make room: ignored files, links in the place of folders."""
        for parent in _parents(change.path):
            mode = _mode(self._file(parent))
            if mode and not stat.S_ISDIR(mode) and parent not in self.way.going:
                yield parent
        if change.old is None and (mode := _mode(self._file(change.path))):
            below = self._files_below(change.path) if stat.S_ISDIR(mode) else [change.path]
            yield from (path for path in below if path not in self.way.going)

    def _files_below(self, folder: str) -> Iterator[str]:
        for place, folders, names in os.walk(self._file(folder)):
            links = [name for name in folders if Path(place, name).is_symlink()]
            for name in (*names, *links):
                yield Path(place, name).relative_to(self.checkout.work_tree).as_posix()

    def _filtered(self) -> list[str]:
        """Files that only a filter such as LFS writes rightly; we run none."""
        texts = self.way.attributes
        with suppress(FileNotFoundError):
            texts += (self.git.git_dir / "info" / "attributes").read_bytes()
        if b"filter" not in texts:
            return []
        env = {"GIT_INDEX_FILE": str(self.git.git_dir / "index-new")}
        self.git("read-tree", self.way.new, env=env)
        written = _nul_ended([change.path for change in self.way.changes if change.new and change.new[0] != GITLINK])
        told = self.git.run("check-attr", "--cached", "-z", "--stdin", "filter", stdin=written, env=env)
        fields = _fields(told.stdout)
        return [
            f"{_shown(path)} (filter={_shown(value)})"
            for path, value in zip(fields[0::3], fields[2::3], strict=True)
            if value not in ("unspecified", "unset", "set")
        ]

    def _refused(self, error: GitError) -> list[str]:
        """What git has found in the way; nothing: it is trouble of another kind."""
        if "sharedindex" in error.stderr:
            return ["index (it is split: git update-index --no-split-index)"]
        unmerged = {_shown(entry.partition("\t")[2]) for entry in self._listed("ls-files", "-z", "--unmerged")}
        return sorted(unmerged or set(_REFUSED.findall(error.stderr)))

    def _read_tree(self, env: dict[str, str]) -> None:
        args = ("read-tree", "-m", "-u", self.way.old, self.way.new)
        try:
            self.git(*args, env=env)
        except GitError as error:
            if "not uptodate" not in error.stderr:
                raise
            # It takes a file for changed that was only touched. To look at all files takes time, so not at first.
            self.git.run("update-index", "-q", "--refresh", ok=(0, 1), env=env)
            self.git(*args, env=env)

    # --- putting back ------------------------------------------------------------------------------------------

    def _put_files_back(self) -> None:
        index, differing = self._listing()
        touched = [
            change
            for change in self.way.changes
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
            for entry in self._listed("ls-tree", "-r", "-z", "--full-tree", self.way.new)
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

    def _listing(self) -> tuple[dict[str, tuple[str, str]], set[str]]:
        """Of the changed files: mode and object in the index (an unmerged one has neither), and those whose content
        in the checkout is not that of the index (a missing one is among them)."""
        submodules = {change.path for change in self.way.changes if _kinds(change) == {GITLINK}}
        entries, differing = dict[str, tuple[str, str]](), set[str]()
        for line in self._listed("ls-files", "-z", "-t", "--cached", "--modified", "--stage", *self._named):
            facts, _, path = line.partition("\t")
            tag, mode, sha, stage = facts.split(" ")
            if tag == "C":
                differing.add(path)
            entries[path] = (mode, sha) if stage == "0" else ("", "")
        return entries, differing - submodules

    @cached_property
    def _named(self) -> list[str]:
        paths = [change.path for change in self.way.changes]
        return ["--", *paths] if len(paths) <= _FEW else []

    def _listed(self, *args: str) -> list[str]:
        return _fields(self.git.run("--literal-pathspecs", *args).stdout)

    def _file(self, path: str) -> Path:
        return self.checkout.work_tree / path


def _kinds(change: Change) -> set[str]:
    return {entry[0] for entry in (change.old, change.new) if entry}


def _is_ours(change: Change, file: Path, like: Path) -> bool:
    """It is what git writes for `new`, or the beginning of that: git was killed inside of write(2)."""
    mode, wanted = _mode(file), _mode(like)
    if change.new and change.new[0] == GITLINK:
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
