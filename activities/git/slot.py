"""Gate slots: warm checkouts in which the merge queue's gates run, each exactly one commit.

Switching a slot costs what differs, not a whole checkout. Whatever a former gate left is gone: tracked files are as
in the commit, everything else is deleted, ignored files too. The index that decides this lies beside the tree, where
no gate writes; the `.git` in the tree is made anew for every run, for the gate's own use (`git describe`,
`git status`), and never read by us.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from activities.git.clone import Clone, delete, make, unlink_way
from activities.git.extras import exclude_lines
from activities.git.repository import Repository
from activities.git.run import Git, GitError, shadow

log = structlog.get_logger()

_CONTENTS = ("tree", "index", "tmp", "box", "setup-box", ".tree.new", ".tree.copy")
"""Of a slot's folder, besides its locks."""


class NoSlotFree(Exception):
    """All slots are taken: more gates were started than there are slots."""


@dataclass(frozen=True)
class Slot:
    number: int
    folder: Path
    """Holds `tree`, `index` and `lock`; nothing in it but `tree` is for a gate."""
    lock: int
    """File descriptor: a process that inherits it keeps the slot taken for as long as it lives."""

    @property
    def tree(self) -> Path:
        return self.folder / "tree"

    @property
    def index(self) -> Path:
        return self.folder / "index"


@contextmanager
def take(slots: Path, count: int) -> Iterator[Slot]:
    """The first of the folders `slots/0` … `slots/<count - 1>` that nobody holds. Raises NoSlotFree at once."""
    for number in range(count):
        folder = slots / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            os.utime(lock)  # when it was used last
            yield Slot(number, folder, lock)
            return
        finally:
            os.close(lock)
    raise NoSlotFree(f"all {count} slots in {slots} are taken")


def checkout(slot: Slot, repository: Repository, commit: str, origin: tuple[str, str] | None = None) -> Path:
    """Makes the slot's tree exactly `commit`, and returns it. `origin`: full ref and sha of a branch that
    `origin/<branch>` shows in the tree, as it does in a task's worktree.

    To be called by who holds the slot, when no process of a former gate lives. A second run does the same again.
    """
    refs = {f"refs/remotes/origin/{origin[0].removeprefix('refs/heads/')}": origin[1]} if origin else {}
    slot.tree.mkdir(exist_ok=True)
    with shadow(repository.common_dir, work_tree=slot.tree, index=slot.index, ours=True) as git:
        git = git.holding(slot.lock)  # one that outlives a killed worker keeps the slot taken
        commit = git("rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}")
        try:
            _switch(slot, git, commit)
        except (GitError, OSError, RecursionError):  # the gate took away our right to tidy up: from nothing, then
            for name in ("tree", "index"):
                put_away(slot.folder / name)
            slot.tree.mkdir()
            _switch(slot, git, commit)
        make(slot.tree / ".git", repository, git, head=commit, refs=refs)
        shutil.copy2(slot.index, slot.tree / ".git" / "index")
    return slot.tree


def clear(folder: Path, unused_since: float) -> bool:
    """Empties a slot that nobody has used since then, in seconds since the epoch; True if there was something in it.

    The lock's file stays: who has just opened it must not hold another than the next one does.
    """
    with ExitStack() as stack:
        for name in ("lock", "gates.lock"):  # a gate's supervisor may live longer than the worker that had the slot
            with suppress(FileNotFoundError):
                lock = os.open(folder / name, os.O_RDWR | os.O_CLOEXEC)
                stack.callback(os.close, lock)
                if name == "lock" and os.fstat(lock).st_mtime > unused_since:
                    return False
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
        there = [folder / name for name in _CONTENTS if os.path.lexists(folder / name)]
        for path in there:
            put_away(path)
    return bool(there)


def keep_out(slot: Slot, repository: Repository, commit: str, names: Iterable[str], *, whole: bool) -> None:
    """After the slot was set up, before its gates: `git status` shows none of `names`. With `whole` it shows nothing:
    tracked files are as in the commit again, and whatever else lies there is left out too. Raises WorktreeBroken."""
    with shadow(repository.common_dir, work_tree=slot.tree, index=slot.index, ours=True) as git:
        git = git.holding(slot.lock)
        exclude = repository.excludes() + b"\n" + exclude_lines(names)
        if whole:
            git("read-tree", "--reset", "-u", commit)
            (git.git_dir / "info" / "exclude").write_bytes(exclude)
            others = git("ls-files", "-z", "--others", "--exclude-standard").split("\0")
            exclude += exclude_lines(filter(None, others))
    Clone(slot.tree / ".git", repository).put_excludes(exclude)


def put_away(path: Path) -> None:
    """Deletes it. What belongs to another user, as whom a gate ran a container, is moved aside for a person."""
    try:
        delete(path)
    except OSError as error:
        aside = path.with_name(f"{path.name}.left-{uuid.uuid4().hex[:8]}")
        path.rename(aside)
        log.warning("a gate left what we may not delete: delete it by hand", path=str(aside), error=str(error))


def _switch(slot: Slot, git: Git, commit: str) -> None:
    delete(slot.folder / "index.lock")
    for folder, folders, files in os.walk(slot.tree):
        for name in (*folders, *files):
            if name.lower() == ".git":  # `git clean` overlooks those below tracked folders
                delete(Path(folder, name))
        folders[:] = [name for name in folders if name.lower() != ".git"]
        for name in folders:
            _let_write(Path(folder, name))
    git("read-tree", "--reset", "-u", commit)
    for line in git.run("ls-files", "-z", "--stage").stdout.split(b"\0"):
        if line.startswith(b"160000 "):  # a submodule that a former gate filled
            name = os.fsdecode(line.partition(b"\t")[2])
            unlink_way(slot.tree, name)
            delete(slot.tree / name)
            (slot.tree / name).mkdir(parents=True)
    git("clean", "-q", "-ffdx")


def _let_write(folder: Path) -> None:
    mode = folder.lstat().st_mode
    if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
        folder.chmod(mode | stat.S_IRWXU)
