"""Lands a chain: moves the target branch to its tip, and brings the user's checkouts of the branch along.

1. A tip that the target contains has landed. A target that is not at the base any more: the race is lost.
2. Where a checkout has something in the way, nothing moves, anywhere.
3. The journal is written, then every checkout is brought along: all of them or none.
4. The branch moves by compare-and-swap. Checkouts first: in the window between, a `git commit` of the user's could
   only take in what has passed the gates; the other way round it would silently revert it.
5. Checkouts, pins and journal are released.

That is `hold`. With `park`, where step 2 finds something, the same is done with `refs/heads/mergewright/<target>`
in place of the target; it is there while the target is behind it, and what lands next is built on it. With `bare`, a
checkout with something in the way is left as it is and the target moves: git then shows what landed as undone there,
so it is only for checkouts that nobody works in.

With a remote to push to, its branch is the one that counts: it is moved first, and the local one follows when it can.

All of it runs under one lock for each repository, which every git process holds too: whoever gets it knows that no
git of a dead worker is alive. A journal found then is of a landing that was killed. If the branch had moved, it is
taken to its end; else its checkouts are put back to how they were, whichever landing comes next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import model_validator

from activities.git.candidate import one_line, unpin
from activities.git.chain import keep_chains
from activities.git.checkout import InTheWay, Move, Way, moving
from activities.git.locks import exclusive, outwait
from activities.git.remote import fetch, last_seen, push
from activities.git.repository import Checkout, Repository, RepositoryProblem
from activities.git.run import Git, GitError
from activities.queue_contracts import Landed, LandInput
from activities.settings import Model

_MOST_NAMED = 50


class NotAFastForward(Exception):
    """The tip does not contain the base: to land it would take commits off the target."""


class SourcesMoved(Exception):
    """Nothing was done: somebody goes on with a branch that was to land as it was."""

    def __init__(self, ops: list[str]) -> None:
        super().__init__(", ".join(ops))
        self.ops = ops


class _Ended(Exception):
    """The landing ends here, with what was begun undone."""

    def __init__(self, landed: Landed) -> None:
        self.landed = landed


class _Journal(Model):
    """A move of a branch: written before anything is touched, deleted when nothing of it is left to do."""

    ops: list[str]
    """What it lands."""
    target: str
    """The branch that moves: the target, or the one where it is parked."""
    base: str
    tip: str
    checkouts: list[tuple[Path, Path, Path]]
    """Work tree, git directory and index of each that comes along."""

    @model_validator(mode="before")
    @classmethod
    def _of_one(cls, data: Any) -> Any:
        """A version that landed one candidate at a time wrote `op`."""
        if isinstance(data, dict) and "op" in data:
            data["ops"] = [data.pop("op")]
        return data


Sources = Mapping[str, tuple[str, str]]
"""By op: a branch, and the commit where it must be when its work lands."""


def land(repository: Repository, given: LandInput, folder: Path, sources: Sources = MappingProxyType({})) -> Landed:
    """Moves the target from `base` to `tip`, or says why not. A second run finds it landed.

    `folder` holds the lock and the journal of this repository. Raises NotAFastForward; SourcesMoved; RepositoryProblem
    when there is no such branch; locks.Busy; GitError and OSError when git or the disk fails: the next run puts that
    right.
    """
    if given.push:
        return _land_remotely(repository, given, folder, sources)
    with _landing(repository, folder) as landing:
        try:
            landing.finish_earlier(given.target)
            return landing.run(given, sources)
        except _Ended as ended:
            return ended.landed


def _land_remotely(repository: Repository, given: LandInput, folder: Path, sources: Sources) -> Landed:
    """On the remote, which is what counts; the local branch follows. No lock is held while the network works."""
    with repository.git() as git:
        moved = _moved(git, sources)
    if moved and not repository.contains(given.tip, base_of(repository, given.target, given.checkout, given.push)):
        raise SourcesMoved(moved)
    if not repository.contains(given.base, given.tip):
        raise NotAFastForward(f"{given.tip} does not contain {given.base}, where {given.target} is")
    landed = push(repository, given.push, given.target, given.base, given.tip)
    if landed.kind != "landed":
        return landed
    with _landing(repository, folder) as landing:
        behind = landing.follow(given.target, landed.sha, bare=given.checkout == "bare")
        unpin(landing.git, *given.ops)
        keep_chains(landing.git, given.target, given.keep)
    return landed.model_copy(update={"behind": behind})


def base_of(repository: Repository, target: str, checkout: str, push: str) -> str:  # noqa: ARG001
    """The commit that the next chain is built on: of the remote `push`, where it is given; else of the target.

    Where the target is parked, of that branch: what was parked must land, also when `checkout` has changed since.
    Raises RepositoryProblem when there is no such branch or remote; GitError when the network fails.
    """
    return fetch(repository, push, target) if push else base_known(repository, target, repository.tip(target), "")


def base_known(repository: Repository, target: str, now: str, push: str) -> str:
    """As `base_of`, without the network, where the target is at `now`: of a remote, where its branch was when it was
    looked at last, unless the target has all of that: then somebody has pulled since."""
    if push:
        seen = last_seen(repository, push, target)
        return seen if seen and not repository.contains(seen, now) else now
    parked = _parked(repository, target)
    return parked if parked and repository.contains(now, parked) else now


def follow(repository: Repository, target: str, tip: str, checkout: str, folder: Path) -> str:
    """Brings the target, and its checkouts, forward to `tip`. Empty: it is there, also in a second run; else why not.

    With `bare`, a checkout that did not come along is told, once. Raises as `land`, but for a branch that is not there.
    """
    with _landing(repository, folder) as landing:
        return landing.follow(target, tip, bare=checkout == "bare")


def _moved(git: Git, sources: Sources) -> list[str]:
    return [op for op, (branch, head) in sources.items() if git.objects.commit(branch) != head]


@contextmanager
def _landing(repository: Repository, folder: Path) -> Iterator[_Landing]:
    with exclusive(folder / "landing.lock") as lock, repository.git() as git:
        yield _Landing(repository, git.holding(lock), lock, folder.resolve() / "landing.json")


def parking_branch(target: str) -> str:
    return f"refs/heads/mergewright/{target.removeprefix('refs/heads/')}"


def _record(target: str) -> str:
    """The ref that says what we parked. The branch of that name may have been there before, or hold more by now."""
    return f"refs/mergewright/parked/{target.removeprefix('refs/heads/')}"


def _parked(repository: Repository, target: str) -> str | None:
    return repository.sha(_record(target))


@dataclass(frozen=True)
class _Landing:
    repository: Repository
    git: Git
    lock: int
    journal: Path
    known: dict[tuple[str, str], bool] = field(default_factory=dict)
    """What contains what: (descendant, ancestor)."""

    def run(self, given: LandInput, sources: Sources) -> Landed:
        now, parked = self._tip(given.target), self.git.objects.commit(_record(given.target))
        if self._contains(now, given.tip):
            landed = Landed(kind="landed", sha=now)
            unpin(self.git, *given.ops)
        elif parked and self._contains(parked, given.tip):
            landed = Landed(kind="landed", sha=parked, behind=f"it is on {parking_branch(given.target)}")
            unpin(self.git, *given.ops)
        elif moved := _moved(self.git, sources):
            raise SourcesMoved(moved)
        else:
            landed = self._land(given, now, parked)
        keep_chains(self.git, given.target, given.keep)
        self._unpark(given.target)
        return landed

    def _land(self, given: LandInput, now: str, parked: str | None) -> Landed:
        """Raises _Ended when nothing has moved."""
        target, tip = given.target, given.tip
        base = parked if parked and self._contains(parked, now) else now
        if parked and not self._contains(base, parked):
            found = [f"{target} lacks work that has landed on {parking_branch(target)}: merge that into it"]
            raise _blocked(base, self.repository.path, found)
        if base != given.base:
            raise _Ended(Landed(kind="lost_race", sha=base))
        if not self._contains(tip, base):
            raise NotAFastForward(f"{tip} does not contain {base}, where {target} is")
        message = f"mergewright: land {' '.join(given.ops)} {one_line(given.title)}"
        try:
            left = self._move(target, now, tip, message, given.ops, bare=given.checkout == "bare")
            return Landed(kind="landed", sha=tip, behind=left)
        except _Ended as ended:
            if given.checkout != "park" or ended.landed.kind != "blocked":
                raise
            behind = _why(ended.landed)
        self._park(target, parked or now, tip, message, given.ops, new=parked is None)
        return Landed(kind="landed", sha=tip, behind=behind)

    def _park(self, target: str, old: str, tip: str, message: str, ops: list[str], *, new: bool) -> None:
        branch = parking_branch(target)
        if new:  # it begins where the target is: then it moves as any other, with its checkouts
            # One that is where the target is holds nothing of its own: it may be ours, from a run that was killed here.
            begun = self.git.objects.commit(branch) == old
            make = [] if begun else [f"create {branch} {old}"]
            try:
                self.git.update_refs(*make, f"create {_record(target)} {old}")
            except GitError as error:  # there is one already, or one `mergewright`, which leaves no room for one below
                raise _blocked(old, self.repository.path, [branch], str(error)) from error
        elif self.git.objects.commit(branch) != old:
            raise _blocked(old, self.repository.path, [f"{branch} is not where work was parked, {old[:12]}"])
        self._move(branch, old, tip, message, ops)

    def _unpark(self, target: str) -> None:
        """The target has caught up: its stand-in goes, unless somebody has it checked out."""
        branch, parked = parking_branch(target), self.git.objects.commit(_record(target))
        if parked and self._contains(self._tip(target), parked) and not self.repository.checkouts(branch):
            gone = [f"delete {branch} {parked}"] if self.git.objects.commit(branch) == parked else []
            self.git.update_refs(*gone, f"delete {_record(target)} {parked}")

    def _note_parked(self, branch: str, tip: str) -> None:
        """To be done before the journal goes: else a kill in between leaves the record behind."""
        record = _record(branch.removeprefix("refs/heads/mergewright/"))
        if branch.startswith("refs/heads/mergewright/") and self.git.objects.commit(record):
            self.git.update_refs(f"update {record} {tip}")

    def follow(self, target: str, tip: str, *, bare: bool) -> str:
        try:
            self.finish_earlier(target)
            now = self._tip(target)
            behind = ""
            if not self._contains(now, tip):
                if not self._contains(tip, now):
                    return f"{target} has commits that {tip[:12]} lacks"
                behind = self._move(target, now, tip, f"mergewright: follow to {tip[:12]}", [], bare=bare)
            self._unpark(target)
        except _Ended as ended:
            return _why(ended.landed)
        except RepositoryProblem as error:
            return str(error)
        return behind

    def _move(self, target: str, old: str, tip: str, message: str, ops: list[str], *, bare: bool = False) -> str:
        """Target and checkouts are at `tip`, and `ops` are let go; with `bare`, says which checkouts are not.

        Raises _Ended when all are at `old`, as they were.
        """
        leaving = _Leaving(bare)
        with leaving:
            self._expect_no_rebase(target, old)
        checkouts, way = self.repository.checkouts(target), Way(old, tip, self.git.objects)
        with ExitStack() as stack:
            moves = []
            for checkout in checkouts:
                move = stack.enter_context(self._moving(checkout, way))
                with leaving, _blocking(move, old):
                    if found := move.blockers():
                        raise InTheWay(found)
                    moves.append(move)
            places = [(move.checkout.work_tree, move.checkout.git_dir, move.checkout.index) for move in moves]
            self._write(_Journal(ops=ops, target=target, base=old, tip=tip, checkouts=places))
            try:
                for move in moves:
                    with leaving, _blocking(move, old):
                        _bring(move)
                with leaving:
                    if self.repository.checkouts(target) != checkouts:
                        raise _blocked(old, self.repository.path, [f"{target} is just being checked out elsewhere"])
                self._swap(target, old, tip, message)
            except (_Ended, GitError, OSError):
                for move in moves:
                    move.undo()
                self.journal.unlink()
                raise
            for move in moves:
                move.release()
        unpin(self.git, *ops)
        self._note_parked(target, tip)
        self.journal.unlink()
        return "; ".join(leaving.left)

    def _swap(self, target: str, base: str, tip: str, message: str) -> None:
        try:
            self.git("update-ref", "-m", message, target, tip, base)
        except GitError:
            now = self._tip(target)
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
            landed = self._contains(self._tip(left.target), left.tip)
        except RepositoryProblem:  # the branch was deleted since
            landed = False
        way = Way(left.base, left.tip, self.git.objects)
        for work_tree, git_dir, index in left.checkouts:
            with self._moving(Checkout(work_tree, git_dir, index), way) as move:
                if landed or not work_tree.is_dir():
                    move.release()
                    continue
                try:
                    move.undo()
                except InTheWay as error:
                    raise _blocked(self._tip(target), work_tree, error.found) from None
        if landed:
            unpin(self.git, *left.ops)
            self._note_parked(left.target, left.tip)
        self.journal.unlink()

    def _expect_no_rebase(self, target: str, base: str) -> None:
        """During a rebase HEAD is detached, and at its end git wants to find the branch where it was."""
        common = self.repository.common_dir
        for own in (common, *sorted((common / "worktrees").glob("*"))):
            for name in ("rebase-merge/head-name", "rebase-apply/head-name"):
                with suppress(OSError, UnicodeDecodeError):
                    if (own / name).read_text().strip() == target:
                        raise _blocked(base, own, ["a rebase in progress"])

    def _moving(self, checkout: Checkout, way: Way) -> AbstractContextManager[Move]:
        return moving(self.repository.common_dir, checkout, way, journal=self.journal, holding=self.lock)

    def _tip(self, target: str) -> str:
        found = self.git.objects.commit(target)
        if found is None:
            raise RepositoryProblem(f"{self.repository.path}: {target} is no commit")
        return found

    def _contains(self, descendant: str, ancestor: str) -> bool:
        """Kept for both ways round: a landing asks whether its tip is there, and whether its base is in the tip."""
        if (descendant, ancestor) not in self.known:
            common = self.git.run("merge-base", descendant, ancestor, ok=(0, 1)).stdout.decode().strip()
            self.known[descendant, ancestor] = common == ancestor
            self.known[ancestor, descendant] = common == descendant
        return self.known[descendant, ancestor]

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


class _Leaving:
    """With `bare`, what is in the way is noted in `left`, and that checkout stays behind; else it ends the landing."""

    def __init__(self, bare: bool) -> None:
        self.bare = bare
        self.left: list[str] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not self.bare or not isinstance(error, _Ended):
            return False
        self.left.append(_why(error.landed))
        return True


def _bring(move: Move) -> None:
    """All of it or nothing, also where the other checkouts go on."""
    try:
        move.bring()
    except (InTheWay, GitError, OSError):
        move.undo()
        raise


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


def _why(landed: Landed) -> str:
    if landed.kind == "lost_race":
        return f"it moved to {landed.sha[:12]} meanwhile"
    files = ", ".join(landed.in_the_way[:10]) + (" …" if len(landed.in_the_way) > 10 else "")
    return f"{landed.reason or 'in the way'} in {landed.checkout}" + (f": {files}" if files else "")
