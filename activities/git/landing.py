"""Lands a commit: moves the target branch to it, and brings the user's checkouts of the branch along.

1. A tip that the target contains has landed. A target that is not at the base any more: the race is lost.
2. Where a checkout has something in the way, nothing moves, anywhere.
3. The journal is written, then every checkout is brought along: all of them or none.
4. The branch moves by compare-and-swap. Checkouts first: in the window between, a `git commit` of the user's could
   only take in what has passed the gates; the other way round it would silently revert it.
5. Checkouts, pins and journal are released.

All of it runs under one lock for each repository, which every git process holds too: whoever gets it knows that no
git of a dead worker is alive. A journal found then is of a landing that was killed. If the branch had moved, it is
taken to its end; else its checkouts are put back to how they were, whichever landing comes next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from activities.contracts import Candidate, Landed
from activities.git.candidate import one_line, unpin
from activities.git.checkout import InTheWay, Move, moving
from activities.git.locks import exclusive, outwait
from activities.git.repository import Checkout, Repository, RepositoryProblem
from activities.git.run import Git, GitError
from activities.settings import Model

_MOST_NAMED = 50


class NotAFastForward(Exception):
    """The tip does not contain the base: to land it would take commits off the target."""


class _Ended(Exception):
    """The landing ends here, with what was begun undone."""

    def __init__(self, landed: Landed) -> None:
        self.landed = landed


class _Journal(Model):
    """What is being landed: written before anything is touched, deleted when nothing of it is left to do."""

    op: str
    target: str
    base: str
    tip: str
    checkouts: list[tuple[Path, Path, Path]]
    """Work tree, git directory and index of each."""


def land(repository: Repository, candidate: Candidate, base: str, tip: str, folder: Path) -> Landed:
    """Moves the candidate's target from `base` to `tip`, or says why not. A second run finds it landed.

    `folder` holds the lock and the journal of this repository. Raises NotAFastForward; RepositoryProblem when there
    is no such branch; locks.Busy; GitError and OSError when git or the disk fails: the next run puts that right.
    """
    with exclusive(folder / "landing.lock") as lock, repository.git() as git:
        landing = _Landing(repository, git.holding(lock), lock, folder.resolve() / "landing.json")
        try:
            landing.finish_earlier(candidate.ref.target)
            return landing.run(candidate, base, tip)
        except _Ended as ended:
            return ended.landed


@dataclass(frozen=True)
class _Landing:
    repository: Repository
    git: Git
    lock: int
    journal: Path

    def run(self, candidate: Candidate, base: str, tip: str) -> Landed:
        target = candidate.ref.target
        now = self.repository.tip(target)
        if self._contains(now, tip):
            self._write(_Journal(op=candidate.op, target=target, base=base, tip=tip, checkouts=[]))
        elif now != base:
            return Landed(kind="lost_race", sha=now)
        elif not self._contains(tip, base):
            raise NotAFastForward(f"{tip} does not contain {base}, where {target} is")
        else:
            self._move(candidate, base, tip)
            now = tip
        unpin(self.git, candidate.op)
        self.journal.unlink()
        return Landed(kind="landed", sha=now)

    def _move(self, candidate: Candidate, base: str, tip: str) -> None:
        """Target and checkouts are at `tip`, and the journal is written. Raises _Ended when they are at `base`."""
        target = candidate.ref.target
        self._expect_no_rebase(target, base)
        checkouts = self.repository.checkouts(target)
        with ExitStack() as stack:
            moves = [stack.enter_context(self._moving(checkout, base, tip)) for checkout in checkouts]
            for move in moves:
                with _blocking(move, base):
                    if found := move.blockers():
                        raise InTheWay(found)
            places = [(checkout.work_tree, checkout.git_dir, checkout.index) for checkout in checkouts]
            self._write(_Journal(op=candidate.op, target=target, base=base, tip=tip, checkouts=places))
            try:
                for move in moves:
                    with _blocking(move, base):
                        move.bring()
                if self.repository.checkouts(target) != checkouts:
                    raise _blocked(base, self.repository.path, [f"{target} is just being checked out elsewhere"])
                self._swap(target, base, tip, f"mergewright: land {candidate.op} {one_line(candidate.title)}")
            except (_Ended, GitError, OSError):
                for move in moves:
                    move.undo()
                self.journal.unlink()
                raise
            for move in moves:
                move.release()

    def _swap(self, target: str, base: str, tip: str, message: str) -> None:
        try:
            self.git("update-ref", "-m", message, target, tip, base)
        except GitError:
            now = self.repository.tip(target)
            if now != base:
                raise _Ended(Landed(kind="lost_race", sha=now)) from None
            lock = self.repository.common_dir / f"{target}.lock"
            if lock.exists():
                raise _blocked(
                    base, self.repository.path, [str(lock)], "another git is at work, or was killed"
                ) from None
            raise

    def finish_earlier(self, target: str) -> None:
        """Completes or undoes a landing that was killed, of whichever task and branch."""
        try:
            left = _Journal.model_validate_json(self.journal.read_bytes())
        except FileNotFoundError:
            return
        # update-ref may have been killed; locks of other refs are found when these are written.
        stale = self.repository.common_dir / f"{left.target}.lock"
        outwait(stale, content=left.tip, since=self.journal.stat().st_mtime)
        try:
            landed = self._contains(self.repository.tip(left.target), left.tip)
        except RepositoryProblem:  # the branch was deleted since
            landed = False
        for work_tree, git_dir, index in left.checkouts:
            with self._moving(Checkout(work_tree, git_dir, index), left.base, left.tip) as move:
                if landed or not work_tree.is_dir():
                    move.release()
                    continue
                try:
                    move.undo()
                except InTheWay as error:
                    raise _blocked(self.repository.tip(target), work_tree, error.found) from None
        if landed:
            unpin(self.git, left.op)
        self.journal.unlink()

    def _expect_no_rebase(self, target: str, base: str) -> None:
        """During a rebase HEAD is detached, and at its end git wants to find the branch where it was."""
        common = self.repository.common_dir
        for own in (common, *sorted((common / "worktrees").glob("*"))):
            for name in ("rebase-merge/head-name", "rebase-apply/head-name"):
                with suppress(OSError, UnicodeDecodeError):
                    if (own / name).read_text().strip() == target:
                        raise _blocked(base, own, ["a rebase in progress"])

    def _moving(self, checkout: Checkout, base: str, tip: str) -> AbstractContextManager[Move]:
        return moving(self.repository.common_dir, checkout, base, tip, journal=self.journal, holding=self.lock)

    def _contains(self, descendant: str, ancestor: str) -> bool:
        return self.git.test("merge-base", "--is-ancestor", ancestor, descendant)

    def _write(self, journal: _Journal) -> None:
        """On the disk before anything is touched, and in one step."""
        made = self.journal.with_suffix(".new")
        with made.open("w") as file:
            file.write(journal.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        made.replace(self.journal)
        folder = os.open(self.journal.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _blocking(move: Move, base: str) -> Iterator[None]:
    try:
        yield
    except InTheWay as error:
        raise _blocked(base, move.checkout.work_tree, error.found) from None
    except (GitError, OSError) as error:  # the disk is full, a folder is read-only: for a person to see to
        raise _blocked(base, move.checkout.work_tree, [], str(error)) from error


def _blocked(sha: str, where: Path, found: list[str], reason: str = "") -> _Ended:
    named = found[:_MOST_NAMED]
    return _Ended(Landed(kind="blocked", sha=sha, checkout=str(where), in_the_way=named, reason=reason))
