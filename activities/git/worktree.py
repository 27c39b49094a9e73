"""The worktree of a task: the working tree of a shared clone of its own, where its agents do as they like.

An agent cannot reach the user's repository from there; what it did comes over by `commit_all` and `publish`. All git
work of ours runs in the user's repository, on objects whose hashes we have made or checked: what a reviewer is shown
(`Repository.diff`) is what would land, whatever the agent does to its own objects. See `clone` and `snapshot`.

The task's work is what HEAD of the worktree resolves to, on whichever branch that is.

To be called only between turns, by whoever holds the worktree's lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from activities.git.clone import Clone, WorktreeBroken, brought, delete, make, open_up
from activities.git.extras import Note, exclude_lines
from activities.git.repository import PINS, Pin, Repository, pin
from activities.git.run import Git, GitError, shadow
from activities.git.snapshot import snapshot
from activities.git.sparse import Cone, skip_outside


@dataclass(frozen=True)
class Worktree:
    repository: Repository
    path: Path
    key: str
    """Names the task's run in `refs/mergewright/*/<key>`."""
    branch: str
    """`mergewright/<task>`: in the clone only."""
    target: str
    """Full ref of the branch that the work is for."""

    @property
    def clone(self) -> Clone:
        return Clone(self.path / ".git", self.repository, Note(_beside(self.path, "extras")), self.cone)

    @property
    def cone(self) -> Cone | None:
        """What it was made to hold; None: everything."""
        try:
            return Cone(tuple(json.loads(_beside(self.path, "sparse").read_text())))
        except FileNotFoundError:
            return None

    def base(self) -> str:
        """Where the work began."""
        with self.repository.git() as git:
            return self.pins(git)["base"]

    def published(self) -> str:
        """What was brought over last; the base, when nothing was."""
        with self.repository.git() as git:
            return _published(self.pins(git))

    def head(self) -> str:
        """The task's work: what HEAD resolves to; it may not have been brought over yet.

        When HEAD names nothing that goes back to the base (deleted, unborn, a new `git init`), it is the task's own
        branch, else what was published. Raises WorktreeBroken.
        """
        with self.repository.git() as git, self.clone.reading() as source:
            return self._head(source, _published(self.pins(git)))

    def _head(self, source: Git, published: str) -> str:
        for name in filter(None, (self.clone.head(), f"refs/heads/{self.branch}")):
            done = source.run("rev-parse", "-q", "--verify", "--end-of-options", f"{name}^{{commit}}", ok=(0, 1, 128))
            sha = done.stdout.decode().strip()
            if sha == published or (sha and source.ok("merge-base", published, sha)):
                return sha
        return published

    def pins(self, git: Git) -> dict[Pin, str]:
        """What the user's repository holds for this worktree, by its kind (`repository.PINS`); a base at least.

        Raises WorktreeBroken when it has been removed.
        """
        pins = self._pinned(git)
        if "base" not in pins:
            raise WorktreeBroken(f"{self.repository.path} holds nothing for {self.key}: its worktree was removed")
        return pins

    def _pinned(self, git: Git) -> dict[Pin, str]:
        names = {pin(kind, self.key): kind for kind in PINS}
        listed = git("for-each-ref", "--format=%(refname) %(objectname)", *names).splitlines()
        return {names[ref]: sha for ref, sha in map(str.split, listed) if ref in names}

    @contextmanager
    def files(self) -> Iterator[Git]:
        """A git of the user's repository on the files of the worktree, with an index of its own."""
        sparse = self.clone.sparse()
        with (
            self.alone() as lock,
            shadow(self.repository.common_dir, work_tree=self.path, ours=True, sparse=sparse) as git,
        ):
            yield git.holding(lock)

    @contextmanager
    def alone(self) -> Iterator[int]:
        """Waits for whoever changes the files: also for a git that has outlived its killed worker."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(_beside(self.path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)

    def bring_head(self, git: Git, source: Git) -> str:
        """The head, brought over: all of it is in the user's repository then, checked; no ref has moved.

        Commits that are corrupt or malformed stay behind: then it is what was published, and the files go on top.
        """
        published = _published(self.pins(git))
        head = self._head(source, published)
        return head if head == published or brought(git, source, head) else published

    def publish(self, ref: str, sha: str) -> None:
        """Makes `ref` of the user's repository `sha`, a commit of the worktree. Raises WorktreeBroken."""
        with self.repository.git() as git, self.clone.reading() as source:
            if git.run("rev-parse", "-q", "--verify", ref, ok=(0, 1)).stdout.decode().strip() != sha:
                if not brought(git, source, sha):
                    raise WorktreeBroken(f"{sha} cannot be brought over: it is missing, corrupt or malformed")
                git.update_refs(f"update {ref} {sha}")

    def refresh(self) -> str:
        """Makes `origin/<target>` in the clone what the target is now, and returns it."""
        self.clone.check()
        tip = self.repository.tip(self.target)
        with self.repository.git() as git:
            git.update_refs(f"update {pin('origin', self.key)} {tip}")
        try:
            self.clone.put(_origin(self.target), f"{tip}\n")
        except OSError as error:
            raise WorktreeBroken(f"{_origin(self.target)} cannot be written: {error.strerror}") from None
        return tip

    def commit_all(self, message: str, author: tuple[str, str] | None = None) -> str:
        """Commits what the agent left, concludes a merge in progress, publishes, and returns the head.

        Nothing to commit: the head as it is. `author`: name and mail; none: as the user commits. Afterwards
        `git status` in the worktree is clean. Raises WorktreeBroken.
        """
        self.recover()
        with self.files() as git, self.clone.reading() as source:
            head = self.bring_head(git, source)
            merged = [sha for sha in self.clone.merge_heads() if brought(git, source, sha)]
            merged = [sha for sha in merged if not git.test("merge-base", "--is-ancestor", sha, head)]
            tree = snapshot(git, self.clone, head)
            if merged or tree != git("rev-parse", f"{head}^{{tree}}"):
                name, mail = author or self.repository.identity()
                who = {"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": mail}
                parents = [part for sha in (head, *merged) for part in ("-p", sha)]
                head = git("commit-tree", tree, *parents, "-F", "-", stdin=message.encode(), env=who)
            git.update_refs(f"update {pin('task', self.key)} {head}")
            self.settle(git, head)
        return head

    def settle(self, git: Git, head: str) -> None:
        """The clone is at `head`, with the index of `git`, and no merge is in progress."""
        self.clone.put_index(git.git_dir / "index")
        self.clone.move_head(head, f"refs/heads/{self.branch}")
        self.clone.conclude()

    def keep_out(self, marks: Mapping[str, str]) -> None:
        """These paths are no work: neither committed nor tidied away. See `extras.Note`. Raises WorktreeBroken."""
        Note(_beside(self.path, "extras")).add(marks)
        self.clone.put_excludes(self.clone.excludes())

    def untracked(self) -> list[str]:
        """Files that are neither tracked nor ignored."""
        with self.files() as git:
            (git.git_dir / "info" / "exclude").write_bytes(self.clone.excludes())
            shutil.copy2(_beside(self.path, "index"), git.git_dir / "index")
            listed = git("ls-files", "-z", "--others", "--exclude-standard")
        return [path.rstrip("/") for path in listed.split("\0") if path]

    def is_clean(self) -> bool:
        """Nothing is uncommitted, untracked files included, and no merge is in progress."""
        with self.files() as git, self.clone.reading() as source:
            head = self.bring_head(git, source)
            unchanged = snapshot(git, self.clone, head) == git("rev-parse", f"{head}^{{tree}}")
            return unchanged and not self.clone.merge_heads()

    def put_back(self, head: str, *, at: str | None = None) -> None:
        """Makes branch and files exactly `head`, a commit of the user's repository; what it ignores stays.

        `at`: where the branch is then, and how the files differ from that is staged, and what is ignored now stays
        as well; none: at `head` itself.
        What is there is lost: `salvage.save` comes first. A kill half-way is made good by the next call of this,
        of `commit_all` or of `start_merge`.
        """
        self.clone.check()
        with self.files() as git:
            git.update_refs(f"update {pin('reset', self.key)} {head}")
            exclude = git.git_dir / "info" / "exclude"
            exclude.write_bytes(self.clone.excludes())
            # A rewind's `head` may have another .gitignore, by which what nobody has saved would be cleaned away.
            ignored = b"" if at is None else exclude_lines(self._ignored(git))
            exclude.write_bytes(self.clone.excludes() + b"\n" + ignored)
            self._reset(git, head)
            try:
                git("clean", "-q", "-ffd")
            except GitError:
                open_up(self.path)  # an agent took away our right to delete
                git("clean", "-q", "-ffd")
            self.clone.put("HEAD", f"ref: refs/heads/{self.branch}\n")
            self.settle(git, at or head)
            self.clone.conclude(abandon=True)
            git.update_refs(f"delete {pin('reset', self.key)}")

    def _ignored(self, git: Git) -> list[str]:
        """Files and folders."""
        if not self.clone.copy_index(git.git_dir / "index"):
            with suppress(OSError):
                shutil.copy2(_beside(self.path, "index"), git.git_dir / "index")
        listed = git.run(
            "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory", ok=(0, 128)
        ).stdout.split(b"\0")
        return [os.fsdecode(path) for path in listed if path]

    def _reset(self, git: Git, head: str) -> None:
        """The tracked files. Which of them changed is told by an index that no agent can write."""
        mine, index = _beside(self.path, "index"), git.git_dir / "index"
        try:
            shutil.copy2(mine, index)
            git("read-tree", "--reset", "-u", head)
        except (OSError, GitError):  # then by reading them all
            delete(index)
            open_up(self.path)
            git("read-tree", head)
            git.run("update-index", "-q", "--refresh", "--ignore-submodules", ok=(0, 1))
            git("read-tree", "--reset", "-u", head)
        shutil.copy2(index, mine)

    def recover(self) -> None:
        """Completes a change of the files that was killed half-way, by going back to where it began."""
        with self.repository.git() as git:
            began = self.pins(git).get("reset")
        if began:
            self.put_back(began)

    def remove(self, *, published: bool = True) -> None:
        """Deletes the folder and the pins, and with `published` what was brought over. What is gone stays gone."""
        doomed = _beside(self.path, "removed")
        with self.alone():
            delete(doomed)
            if self.path.is_dir():
                self.path.rename(doomed)  # in one step: half a worktree must not look like a whole one
            with self.repository.git() as git:
                kept = () if published else ("base", "task")
                refs = [pin(kind, self.key) for kind in self._pinned(git) if kind not in kept]
                refs += git("for-each-ref", "--format=%(refname)", turn_refs(self.key)).split()
                git.update_refs(*(f"delete {ref}" for ref in refs))
            for leftover in ("removed", "made", "index", "extras", "sparse", "new", "copy", "lock"):
                delete(_beside(self.path, leftover))


def create(
    repository: Repository, path: Path, key: str, branch: str, base: str, target: str, sparse: Sequence[str] = ()
) -> Worktree:
    """A worktree at `path` on a new branch at `base`; a shared clone, a few milliseconds and the checkout.

    `sparse`: folders that it holds, and it holds no others; none: all of them.

    One that is there already is returned as it is, and keeps the base it began with (`Worktree.base`). One that a
    kill left half made is made again. If its work was published once, it starts from that.
    """
    worktree = Worktree(repository, path, key, branch, target)
    with repository.git() as git:
        if not git("for-each-ref", pin("base", key)):
            git.update_refs(f"update {pin('base', key)} {base}")
    if not path.is_dir():
        _note_cone(path, sparse)
        _build(worktree)
    return worktree


def open_worktree(repository: Repository, path: Path, key: str, branch: str, target: str) -> Worktree:
    """Raises WorktreeBroken when it is gone: `rebuild` makes it again."""
    if not path.is_dir():
        raise WorktreeBroken(f"there is no worktree at {path}")
    return Worktree(repository, path, key, branch, target)


def rebuild(repository: Repository, path: Path, key: str, branch: str, target: str) -> Worktree:
    """Makes a worktree good that is gone or broken, from what was published, else its base.

    Files that are there stay as they are, around a new `.git`: the next `commit_all` takes them. What only the old
    one held (commits that were not published) is lost.
    """
    worktree = Worktree(repository, path, key, branch, target)
    _build(worktree, around_files=path.is_dir())
    return worktree


def _note_cone(path: Path, folders: Sequence[str]) -> None:
    note = _beside(path, "sparse")
    if not folders:
        note.unlink(missing_ok=True)
        return
    note.parent.mkdir(parents=True, exist_ok=True)
    made = _beside(path, "new")
    made.write_text(json.dumps(list(folders)))
    made.replace(note)


def _build(worktree: Worktree, *, around_files: bool = False) -> None:
    """Builds beside the place and moves it there in one step."""
    with worktree.alone() as lock:
        if worktree.path.is_dir() == around_files:  # not so, when another attempt was quicker
            _build_alone(worktree, lock, around_files)


def _build_alone(worktree: Worktree, lock: int, around_files: bool) -> None:
    path = worktree.path
    with worktree.repository.git() as git:
        pins = worktree.pins(git)
    start = _published(pins)
    made = _beside(path, "made")
    delete(made)
    git_dir = made if around_files else made / ".git"
    git_dir.mkdir(parents=True)
    refs = {f"refs/heads/{worktree.branch}": start, _origin(worktree.target): pins["base"]}
    work_tree = path if around_files else made
    cone = worktree.cone
    sparse, index = cone.patterns() if cone else None, git_dir / "index"
    with shadow(worktree.repository.common_dir, work_tree=work_tree, index=index, ours=True, sparse=sparse) as git:
        git = git.holding(lock)
        clone = make(git_dir, worktree.repository, git, head=f"ref: refs/heads/{worktree.branch}", refs=refs)
        clone.put("info/exclude", worktree.clone.excludes())
        if sparse is not None:
            clone.put("info/sparse-checkout", sparse)
        if around_files:
            git("read-tree", start)
            if cone:
                skip_outside(git, cone)
            git.run("update-index", "-q", "--refresh", "--ignore-submodules", ok=(0, 1))
        else:
            git("read-tree", "--reset", "-u", start)
    shutil.copy2(git_dir / "index", _beside(path, "index"))
    if around_files:
        delete(path / ".git")
    made.rename(path / ".git" if around_files else path)


def turn_refs(key: str) -> str:
    """The folder of the refs that `turns` keeps."""
    return f"refs/mergewright/turn/{key}"


def _published(pins: Mapping[Pin, str]) -> str:
    return pins.get("task") or pins["base"]


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def _origin(target: str) -> str:
    return f"refs/remotes/origin/{target.removeprefix('refs/heads/')}"
