"""What lies in a worktree, as a tree object.

The tree is written into the user's repository, from the files themselves: the worktree's own `.git` lends its index
at most, as a list of names. No filter, hook or configuration of the agent's has a say in it.

It comes to what `git add -A` does, but for repositories inside of the worktree: git would run a `git status` in
them, with their configuration, and record a bare link to what nobody else has.

* A submodule stays at the commit that HEAD or the index names for it.
* Another repository (an agent ran `git init`, or a scaffold did) gives its files as ordinary ones; its own
  history stays behind.
* A linked worktree of the clone itself is left out.

A name that git refuses (`git~1`, `.git `) is in no tree.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from activities.git.clone import Clone, WorktreeBroken, open_up
from activities.git.run import Git, GitError, UnsupportedRepository, shadow
from activities.git.sparse import ALL, once_there, skip, skipped

_GITLINK = b"160000"


@dataclass(frozen=True)
class _Staged:
    """Where the clone's index differs from HEAD."""

    mode: bytes
    sha: bytes
    kind: bytes
    """A, D, M, T, or U for unmerged."""
    path: bytes
    skipped: bool = False
    """It is not to be among the files, so the index alone says what it is: where a merge has changed it, for one."""


def snapshot(git: Git, clone: Clone, head: str, *, everything: bool = False) -> str:
    """The tree of the files as they are now; `git`'s own index is then that tree, with the files' times.

    `git` is a shadow of the user's repository with the worktree and no index yet; `head` is in that repository.
    What the index of the clone leaves out on purpose (deleted with `--cached`, assumed unchanged, sparse) is left
    out. With `everything`, for a salvage, it is not, and neither are submodules and linked worktrees that hold work,
    and what set-up has put there is only left out when it is as it was.
    A file that cannot be converted as its attributes ask is taken as it is.

    What a sparse worktree was not made to hold is only gone when it was there once: not every tool that writes an index
    keeps the marks of what is left out, and no index may be left at all.
    """
    (git.git_dir / "info" / "exclude").write_bytes(clone.excludes(unless_changed=everything))
    staged = _staged(git, clone, head)
    git("read-tree", "--reset", head)
    taking = _Taking(git, clone, staged, everything)
    taking.follow_index()
    try:
        taking.take()
    except GitError:
        open_up(taking.top)  # an agent took away our right to read a file
        taking.take(again=True)
    return git("write-tree")


@dataclass(frozen=True)
class _Taking:
    git: Git
    clone: Clone
    staged: list[_Staged]
    everything: bool

    @property
    def top(self) -> Path:
        return Path(self.git.env["GIT_WORK_TREE"])

    def follow_index(self) -> None:
        """What only the clone's index says: a file no longer tracked, a submodule added or moved."""
        if not self.everything:
            self._update([entry.path for entry in self.staged if entry.kind == b"D"], "--force-remove")
        if links := [entry for entry in self.staged if entry.mode == _GITLINK]:
            lines = b"".join(b"160000 %s 0\t%s\0" % (entry.sha, entry.path) for entry in links)
            self.git.run("update-index", "-z", "--replace", "--index-info", stdin=lines)
        if kept := [entry for entry in self.staged if entry.skipped and self._bring(entry.sha)]:
            lines = b"".join(b"%s %s 0\t%s\0" % (entry.mode, entry.sha, entry.path) for entry in kept)
            self.git.run("update-index", "-z", "--replace", "--index-info", stdin=lines)
            skip(self.git, [entry.path for entry in kept])

    def _bring(self, blob: bytes) -> bool:
        """It is in the user's repository then; one that a merge of the agent's own has made was not."""
        sha = blob.decode()
        if self.git.objects.has(sha):
            return True
        try:
            with self.clone.reading() as source:
                content = source.objects.read(sha)
        except WorktreeBroken:
            return False
        return content is not None and self.git("hash-object", "-w", "--stdin", stdin=content) == sha

    def _never_there(self, gone: set[bytes]) -> set[bytes]:
        """Of what is not there, what nobody has ever had there; it is marked as left out."""
        cone = self.clone.cone
        names = {path: os.fsdecode(path) for path in gone} if cone else {}
        outside = {path for path, name in names.items() if cone and not cone.holds(name)}
        outside = {path for path in outside if not os.path.lexists(self.top / names[path])}  # a folder may be there
        outside -= {entry.path for entry in self.staged}  # `git rm`, or a conflict that was put there
        if not outside:
            return set()
        mine = {"GIT_INDEX_FILE": str(self.git.git_dir / "index-theirs")}
        if self.clone.copy_index(Path(mine["GIT_INDEX_FILE"])):
            with suppress(GitError):
                outside -= once_there(replace(self.git, env={**self.git.env, **mine}))
        skip(self.git, outside)
        return outside

    def take(self, *, again: bool = False) -> None:
        """From disk into the index."""
        links = self._overlook_nothing() if self.everything else {}
        status = _split(self.git.run("diff-files", "-z", "--name-status", "--ignore-submodules=all"))
        changes = list(zip(status[::2], status[1::2], strict=True))
        forced = [entry.path for entry in self.staged if entry.kind in b"AU" and self._is_file(entry.path)]
        if not self.everything and self.clone.note:  # a rewind stages what was changed of the copies
            forced = [path for path in forced if not self.clone.note.names(os.fsdecode(path))]
        # A file below a path goes in only after the path itself is out, and is not even listed before.
        gone = {path for kind, path in changes if kind == b"D" or (kind == b"T" and not self._is_file(path))}
        gone -= (left_out := self._never_there(gone))
        self._update(gone, "--force-remove")
        listed = self.git.run("ls-files", "-z", "--others", "--exclude-standard")
        if listed.stderr and not again:  # "could not open directory": what is in it would silently be missing
            raise GitError(["ls-files"], 0, listed.stderr.decode("utf-8", "replace"))
        others = _split(listed)
        nested = {path.rstrip(b"/") for path in others if path.endswith(b"/")}
        flattened = {path for path in nested if not self._belongs_to_clone(path)}
        if self.everything:
            flattened |= {path for path in links.keys() | nested if self._holds_work(path, links.get(path))}
        self._update(flattened & links.keys(), "--force-remove")
        found = [*(path for _, path in changes if path not in gone | left_out), *forced]
        found += [path for path in others if not path.endswith(b"/")]
        found += self._not_ignored([file for path in flattened for file in self._files(path)])
        for paths in [[path] for path in found] if again else [found]:
            try:
                self._update(paths, "--add", "--remove", "--replace")
            except GitError:
                if not again:
                    raise
                self._add_as_it_is(paths[0])

    def _overlook_nothing(self) -> dict[bytes, bytes]:
        """Forgets what git was told to overlook; returns the submodules, with their commits."""
        overlooked, links = [], {}
        for line in _split(self.git.run("ls-files", "-z", "-s", "-v")):
            info, _, path = line.partition(b"\t")
            tag, mode, sha, _stage = info.split()
            if mode == _GITLINK:
                links[path] = sha
            elif tag != b"H" and self._is_file(path):  # `S`, or a small letter
                overlooked.append(path)
        for flag in ("--no-assume-unchanged", "--no-skip-worktree"):
            self._update(overlooked, flag)
        return links

    def _files(self, repository: bytes) -> Iterator[bytes]:
        """Every file of a repository inside of the worktree, but for git's own."""
        for folder, folders, files in os.walk(self.top / os.fsdecode(repository)):
            folders[:] = [name for name in folders if name != ".git"]
            for name in (*files, *folders):
                path = os.fsencode(Path(folder, name).relative_to(self.top))
                if name != ".git" and self._is_file(path):
                    yield path

    def _not_ignored(self, paths: list[bytes]) -> list[bytes]:
        if not paths:
            return []
        done = self.git.run("check-ignore", "-z", "--stdin", stdin=b"\0".join(paths), ok=(0, 1))
        ignored = set(_split(done))
        return [path for path in paths if path not in ignored]

    def _belongs_to_clone(self, path: bytes) -> bool:
        git_dir = _git_dir(self.top / os.fsdecode(path))
        return git_dir is not None and git_dir.is_relative_to(self.clone.git_dir.resolve())

    def _holds_work(self, path: bytes, link: bytes | None) -> bool:
        """A submodule or linked worktree has what its last commit has not; or a commit that nothing here names."""
        place = self.top / os.fsdecode(path)
        git_dir = _git_dir(place)
        if git_dir is None or not git_dir.is_relative_to(self.top.resolve()):
            return False
        # A submodule that we have filled borrows its objects from the user's.
        if not self._belongs_to_clone(path) and not (git_dir / "objects" / "info" / "alternates").is_file():
            return True  # a repository of the agent's own, which it has added: its commits are nowhere else
        try:
            shared = git_dir / "commondir"
            common = (git_dir / shared.read_text().strip()).resolve() if shared.is_file() else git_dir
            with shadow(common, work_tree=place, ours=True, head=(git_dir / "HEAD").read_text().strip()) as git:
                git("read-tree", "--reset", "HEAD")
                unlike = not git.test("update-index", "--refresh", "--ignore-submodules")
                moved = link is not None and link != git("rev-parse", "HEAD").encode()
                return unlike or moved or bool(git("ls-files", "--others", "--exclude-standard"))
        except (OSError, ValueError, GitError, UnsupportedRepository):
            return True  # it cannot be told: rather twice than never

    def _add_as_it_is(self, path: bytes) -> None:
        """Without what attributes ask for: git refuses a file that is not in the encoding they name."""
        file = self.top / os.fsdecode(path)
        sha = self.git("hash-object", "-w", "--stdin", stdin=file.read_bytes())
        mode = "100755" if file.stat().st_mode & stat.S_IXUSR else "100644"
        entry = f"{mode} {sha} 0\t".encode() + path + b"\0"
        self.git.run("update-index", "-z", "--replace", "--index-info", stdin=entry)

    def _update(self, paths: Iterable[bytes], *flags: str) -> None:
        if listed := b"\0".join(paths):
            self.git.run("update-index", *flags, "-z", "--stdin", stdin=listed)

    def _is_file(self, path: bytes) -> bool:
        """A file or link that is really there, and not beyond a link."""
        file = self.top.resolve() / os.fsdecode(path)
        try:
            mode = file.lstat().st_mode
        except OSError:
            return False
        return file.parent.resolve() == file.parent and (stat.S_ISREG(mode) or stat.S_ISLNK(mode))


def _staged(git: Git, clone: Clone, head: str) -> list[_Staged]:
    """Copies the clone's index into place: what it knows of the files' times saves reading them all again."""
    if not clone.copy_index(git.git_dir / "index"):
        return []
    try:
        done = git.run("diff-index", "--cached", "--raw", "-z", "--no-renames", "--ignore-submodules=none", head)
    except GitError:  # torn, or of a kind that we do not read
        (git.git_dir / "index").unlink()
        return []
    fields = _split(done)
    staged = []
    for info, path in zip(fields[::2], fields[1::2], strict=True):
        _, mode, _, sha, kind = info.split()
        staged.append(_Staged(mode, sha, kind, path))
    if clone.cone and clone.sparse() != ALL and not skipped(git):
        # Written anew (`rm .git/index; git add -A`): it says nothing of what was never there.
        staged = [entry for entry in staged if entry.kind != b"D" or clone.cone.holds(os.fsdecode(entry.path))]
    top = Path(git.env["GIT_WORK_TREE"])
    if absent := {entry.path for entry in staged if not os.path.lexists(top / os.fsdecode(entry.path))}:
        left_out = absent & skipped(git)
        staged = [replace(entry, skipped=entry.path in left_out and entry.kind in b"AMT") for entry in staged]
    return staged


def _split(done: subprocess.CompletedProcess[bytes]) -> list[bytes]:
    return [field for field in done.stdout.split(b"\0") if field]


def _git_dir(place: Path) -> Path | None:
    """Where the repository of a folder is; None: it is none."""
    link = place / ".git"
    if link.is_dir():
        return link.resolve()
    if not link.is_file():
        return None
    return (place / link.read_text(errors="replace").removeprefix("gitdir: ").strip()).resolve()
