"""The `.git` of a shared clone: made by us, then in the hands of an agent or a gate.

It borrows the objects of the user's repository (`objects/info/alternates`), so making one takes milliseconds. Once
somebody else could write in it, nothing in it is believed or run: git only ever *reads* it, through a shadow with
the settings of the user's repository; what comes from it is fetched with every hash recomputed; and the few plain
files that we write into it go neither through a symbolic link nor into a lock that a killed git has left.

All this is for the time between turns, when no process of the agent lives.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from activities.git.extras import Note
from activities.git.repository import Repository
from activities.git.run import Git, shadow
from activities.git.sparse import Cone, patterns_of

NO_PUSH = "/mergewright-lands-this-work-itself/do-not-push"
"""Where `git push` of an agent goes: nowhere, and git's error names it."""

# What git keeps of a merge, pick or revert in progress, and `git commit` clears away; and of longer undertakings.
_IN_PROGRESS = "MERGE_HEAD MERGE_MSG MERGE_MODE MERGE_RR AUTO_MERGE SQUASH_MSG CHERRY_PICK_HEAD REVERT_HEAD".split()
_UNDERTAKINGS = "rebase-merge rebase-apply sequencer REBASE_HEAD BISECT_LOG BISECT_START BISECT_NAMES".split()
_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_MOST_EARLIER = 500
# What `git check-ref-format` refuses.
_UNSOUND = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|$)|[./]$")


class WorktreeBroken(Exception):
    """The `.git` of a worktree cannot be used: its owner destroyed it or made it a trap."""


@dataclass(frozen=True)
class Clone:
    git_dir: Path
    repository: Repository
    """Whose objects it borrows."""
    note: Note | None = None
    """Of what lies in the worktree and is no work."""
    cone: Cone | None = None
    """What the worktree was made to hold; none: everything."""

    @property
    def index(self) -> Path:
        return self.git_dir / "index"

    def excludes(self, *, unless_changed: bool = False) -> bytes:
        """Lines of an exclude file: what the user ignores, and what set-up has put there; not what of that was changed,
        with `unless_changed`."""
        if self.note is None:
            return self.repository.excludes()
        return self.repository.excludes() + b"\n" + self.note.lines(self.git_dir.parent if unless_changed else None)

    def check(self) -> None:
        """Before any use. Mends what it can: lends the objects again, removes locks of killed processes.

        Raises WorktreeBroken: there is no git directory, or one that would lead us elsewhere.
        """
        for part in (".", "refs", "objects"):
            if not _is_directory(self.git_dir / part):
                raise WorktreeBroken(f"{self.git_dir / part} is gone, or no directory")
        for part in ("refs", "objects"):
            try:
                _check_plain(self.git_dir / part)
            except RecursionError:
                raise WorktreeBroken(f"{self.git_dir / part} is too deep") from None
        if (self.git_dir / "packed-refs").exists() and not stat.S_ISREG(_mode(self.git_dir / "packed-refs")):
            raise WorktreeBroken(f"{self.git_dir / 'packed-refs'} is no plain file")
        for lock in (*self.git_dir.glob("*.lock"), *(self.git_dir / "refs").rglob("*.lock")):
            delete(lock)
        lent = f"{self.repository.common_dir}/objects\n"
        alternates = self.git_dir / "objects" / "info" / "alternates"
        if not alternates.is_file() or alternates.read_text(errors="replace") != lent:
            try:
                self.put("objects/info/alternates", lent)
            except OSError as error:
                raise WorktreeBroken(f"{alternates} cannot be written: {error.strerror}") from None

    def sparse(self) -> bytes | None:
        """What the worktree holds now, for `shadow`; None: everything, always."""
        return patterns_of(self.git_dir, self.cone) if self.cone else None

    @contextmanager
    def reading(self) -> Iterator[Git]:
        """A git that sees its refs and objects, and writes nothing into it: new objects go with the shadow."""
        self.check()
        with shadow(self.repository.common_dir) as git:
            for name in ("refs", "packed-refs", "logs/refs"):
                (git.git_dir / name).unlink(missing_ok=True)
                if (self.git_dir / name).exists():
                    (git.git_dir / name).symlink_to(self.git_dir / name)
            (git.git_dir / "objects").unlink()
            (git.git_dir / "objects" / "info").mkdir(parents=True)
            lenders = f"{self.git_dir}/objects\n{self.repository.common_dir}/objects\n"
            (git.git_dir / "objects" / "info" / "alternates").write_text(lenders)
            with (git.git_dir / "config").open("a") as config:  # for upload-pack, which gets none of our flags
                config.write("[core]\ncommitGraph = false\nmultiPackIndex = false\n")
            yield git

    def head(self) -> str | None:
        """What HEAD says: the full ref of a branch or a sha; None when it says nothing sound."""
        said = self._read("HEAD").strip().removeprefix("ref: ")
        sound = _SHA.fullmatch(said) or (said.startswith("refs/heads/") and not _UNSOUND.search(said))
        return said if sound else None

    def merge_heads(self) -> list[str]:
        return [line for line in self._read("MERGE_HEAD").split("\n") if _SHA.fullmatch(line)]

    def worktree_heads(self) -> list[str]:
        """Where linked worktrees of the clone itself are detached."""
        heads = [self._read(f"worktrees/{own.name}/HEAD").strip() for own in self.git_dir.glob("worktrees/*")]
        return [sha for sha in heads if _SHA.fullmatch(sha)]

    def earlier_heads(self) -> list[str]:
        """Where HEAD has been by its owner's commands, the newest first: also what was amended or reset away."""
        lines = self._read("logs/HEAD").splitlines()[-_MOST_EARLIER:]
        heads = [line.split(" ", 2)[1] for line in reversed(lines) if line.count(" ") > 1]
        return [sha for sha in dict.fromkeys(heads) if _SHA.fullmatch(sha)]

    def put(self, name: str, content: str | bytes) -> None:
        """Writes a file in one step; a second run writes the same."""
        path = self.git_dir / name
        lock = path.with_name(path.name + ".lock")  # a name that git takes for no ref, and `check` sweeps away
        delete(lock)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)
        lock.replace(path)

    def put_excludes(self, lines: bytes) -> None:
        """After commands that could do as they like in here. Raises WorktreeBroken as `check` does."""
        self.check()
        if not _is_directory(self.git_dir / "info"):
            delete(self.git_dir / "info")  # perhaps a link
        self.put("info/exclude", lines)

    def put_index(self, index: Path) -> None:
        lock = self.git_dir / "index.lock"
        delete(lock)
        shutil.copy2(index, lock)  # its time tells git which files changed after it was written
        lock.replace(self.index)

    def copy_index(self, to: Path) -> bool:
        """The index as its owner left it; False when there is none to read."""
        if not _is_directory(self.git_dir) or not stat.S_ISREG(_mode(self.index)):
            return False
        shutil.copy2(self.index, to)
        return True

    def move_head(self, sha: str, branch: str) -> None:
        """Moves whatever HEAD is on to `sha`; a HEAD that says nothing sound is put on `branch`."""
        head = self.head()
        if head is not None and _SHA.fullmatch(head):
            self.put("HEAD", f"{sha}\n")
            return
        try:
            self.put(head or branch, f"{sha}\n")
        except OSError:  # other branches lie below that name
            self.put("HEAD", f"{sha}\n")
        else:
            self.put("HEAD", f"ref: {head or branch}\n")

    def conclude(self, *, abandon: bool = False) -> None:
        """No merge is in progress any more; with `abandon`, no rebase or bisection either."""
        for name in (*_IN_PROGRESS, *(_UNDERTAKINGS if abandon else ())):
            delete(self.git_dir / name)

    def _read(self, name: str) -> str:
        path = self.git_dir / name
        return path.read_text("utf-8", "surrogateescape") if stat.S_ISREG(_mode(path)) else ""


def brought(into: Git, source: Git, sha: str) -> bool:
    """Copies a commit with all that it needs; no ref moves. What is there already is checked to be whole.

    False: something is missing, is not what its name says, or is malformed.
    """
    quiet = ["--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance"]
    args = ("fetch", *quiet, "--refmap=", str(source.git_dir), sha)
    return into.ok(*args) or into.ok(*args)  # a user's own gc may come between


def make(git_dir: Path, repository: Repository, git: Git, *, head: str, refs: Mapping[str, str]) -> Clone:
    """A new `.git` without an index. `git` is a shadow of the repository for the work tree that it is for."""
    for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        (git_dir / name).mkdir(parents=True)
    clone = Clone(git_dir, repository)
    name, mail = repository.identity()
    settings = {
        "user": {"name": name, "email": mail},
        "commit": {"gpgSign": "false"},
        'remote "origin"': {
            "url": str(repository.path),
            "pushurl": NO_PUSH,
            "fetch": "+refs/heads/*:refs/remotes/origin/*",
        },
    }
    config = [(git.git_dir / "config").read_text()]
    for section, values in settings.items():
        config += [f"[{section}]\n", *(f"{key} = {_quoted(value)}\n" for key, value in values.items())]
    clone.put("config", "".join(config))
    clone.put("info/exclude", repository.excludes())
    clone.put("objects/info/alternates", f"{repository.common_dir}/objects\n")
    clone.put("packed-refs", git.run("for-each-ref", "--format=%(objectname) %(refname)", "refs/tags").stdout)
    for ref, sha in refs.items():
        clone.put(ref, f"{sha}\n")
    if (shallow := repository.common_dir / "shallow").is_file():
        clone.put("shallow", shallow.read_bytes())
    clone.put("HEAD", f"{head}\n")
    return clone


def unlink_way(tree: Path, path: str) -> None:
    """Takes links away that are on the way to `path`: what a command has left must not lead out of the tree."""
    for folder in reversed(list(Path(path).parents)[:-1]):
        if (tree / folder).is_symlink():
            (tree / folder).unlink()


def delete(path: Path) -> None:
    """A file, a link or a whole folder, whatever its permissions; what is not there is none to delete."""
    if not _is_directory(path):
        path.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        open_up(path)
        shutil.rmtree(path)
    except RecursionError:  # deeper than Python goes
        subprocess.run(["rm", "-rf", "--", str(path)], check=False, stderr=subprocess.DEVNULL)
        if os.path.lexists(path):
            raise OSError(errno.ENOTEMPTY, "it is too deep to be deleted", str(path)) from None


def open_up(path: Path) -> None:
    """Makes all below `path` readable, and its folders writable, for us."""
    path.chmod(path.stat().st_mode | stat.S_IRWXU)
    folders = [str(path)]
    while folders:  # no recursion: they may be deep. A folder opens before it is entered
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                mode = entry.stat(follow_symlinks=False).st_mode
                needed = stat.S_IRWXU if stat.S_ISDIR(mode) else stat.S_IRUSR
                if not stat.S_ISLNK(mode) and mode & needed != needed:
                    with suppress(PermissionError):  # it is another user's
                        Path(entry.path).chmod(mode | needed)
                if stat.S_ISDIR(mode):
                    folders.append(entry.path)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _check_plain(folder: Path) -> None:
    """A link would lead us elsewhere, a pipe would keep us waiting."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _check_plain(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False):
                raise WorktreeBroken(f"{entry.path} is neither a folder nor a plain file")


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _is_directory(path: Path) -> bool:
    return stat.S_ISDIR(_mode(path))
