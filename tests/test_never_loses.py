"""Clean-up never loses: whatever tasks did, and whatever was killed half-way, every byte can be had back from a ref.

So can the names, modes and links of what lay there at the end. Not kept, as the documentation says: ignored files,
empty folders, and what a repository inside of the worktree has of its own besides its files.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from activities.ages import DAY
from activities.contracts import TaskRef
from activities.git import turns
from activities.git.repository import open_repository
from activities.git.worktree import Worktree, create
from activities.home import Home
from activities.janitor import clean_up
from activities.overlaps import note_ref
from activities.runs import Run, State
from activities.settle import settle
from activities.site import task_branch
from tests.git.repos import git, make_repo, run_git
from tests.git.test_killed import killed
from tests.test_janitor import let_pass

MAIN = "refs/heads/main"
IGNORED = "note.log"
NAMES = ["a", "b", "dir/c", "x y\n", os.fsdecode(b"latin-\xe9"), "nested/d", IGNORED]
STEPS = st.integers(0, 60)
"""At which of its steps with an effect something is killed; those of a settle are some 40."""
MORE_STEPS = st.integers(0, 120)
"""Of a clean-up, which may have several settles in it."""
numbers = itertools.count()
"""No two writes are of the same bytes."""


Entry = tuple[str, str, str]
"""Mode, blob, path."""


@dataclass(repr=False)
class Task:
    ref: TaskRef
    worktree: Worktree
    state: State = "running"
    owed: set[str] = field(default_factory=set)
    """Blobs that must be had back once the worktree is gone."""
    files: set[Entry] = field(default_factory=set)
    """What lay there at the end."""
    of_turns: set[str] = field(default_factory=set)

    def __repr__(self) -> str:
        return self.ref.task_id


def blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()


def run(work: Coroutine[Any, Any, Any]) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(work)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


class History(RuleBasedStateMachine):
    """Some tasks on one repository: their agents, their ends, kills, and clean-ups in between."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="never-loses-"))
        self.repo = make_repo(self.folder / "repo", {"a": "1\n", ".gitignore": "*.log\n"})
        self.home = Home(self.folder / "home")
        self.tasks: list[Task] = []
        self.days = 0.0

    # --- what agents do --------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.start(None)

    @rule(crash=st.none() | STEPS)
    @precondition(lambda self: len(self.tasks) < 3)
    def start(self, crash: int | None) -> None:
        name = f"task-{len(self.tasks)}"
        ref = TaskRef(task_id=name, key=f"{name}.0123456789ab", repo=str(self.repo), target=MAIN)
        note_ref(self.home, ref)
        repository = open_repository(ref.repo)
        base = repository.tip(MAIN)

        def make() -> Worktree:
            return create(repository, self.home.worktree(ref.key), ref.key, task_branch(name), base, MAIN)

        if crash is not None and killed(make, crash):
            at = Worktree(repository, self.home.worktree(ref.key), ref.key, task_branch(name), MAIN)
            self.tasks.append(Task(ref, at, "ended"))
        else:
            self.tasks.append(Task(ref, make()))

    def running(self) -> list[Task]:
        return [task for task in self.tasks if task.state == "running"]

    @rule(data=st.data(), name=st.sampled_from(NAMES), staged=st.booleans())
    @precondition(lambda self: self.running())
    def write(self, data: st.DataObject, name: str, staged: bool) -> None:
        """An untracked file, or a change; with `staged`, what was staged is in the index only."""
        task = data.draw(st.sampled_from(self.running()))
        self.put(task, name)
        if staged:
            git(task.worktree.path, "add", "-A")
            self.put(task, name)

    def put(self, task: Task, name: str) -> None:
        file = task.worktree.path / task.ref.task_id / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_bytes(b"%d\n" % next(numbers))

    @rule(data=st.data(), how=st.sampled_from(["mode", "link", "rename", "empty folder", "repository"]))
    @precondition(lambda self: self.running())
    def make(self, data: st.DataObject, how: str) -> None:
        """What is no plain file, or becomes another one."""
        task = data.draw(st.sampled_from(self.running()))
        folder, number = task.worktree.path / task.ref.task_id, next(numbers)
        self.put(task, "made")
        if how == "mode":
            (folder / "made").chmod(0o755)
        elif how == "link":
            (folder / "made").unlink()
            (folder / "made").symlink_to(f"/nowhere/{number}")
        elif how == "rename":
            (folder / "made").rename(folder / f"renamed-{number}")
        elif how == "empty folder":
            (folder / f"empty-{number}").mkdir()
        elif not (folder / "nested" / ".git").exists():  # one without a commit git itself refuses to add
            self.put(task, "nested/committed")
            git(folder / "nested", "init", "-q")
            git(folder / "nested", "add", "-A")
            git(folder / "nested", "-c", "user.name=A", "-c", "user.email=a@a", "commit", "-q", "-m", "inside")

    @rule(data=st.data(), how=st.sampled_from(["stay", "amend", "reset", "stash", "detach", "by us", "delete"]))
    @precondition(lambda self: self.running())
    def commit(self, data: st.DataObject, how: str) -> None:
        """A commit, and what becomes of it."""
        task = data.draw(st.sampled_from(self.running()))
        path = task.worktree.path
        if how == "detach":
            git(path, "checkout", "-q", "--detach")
        self.put(task, "committed")
        git(path, "add", "-A")
        git(path, "commit", "-q", "-m", "work")
        task.owed |= self.blobs(path, "HEAD")
        self.put(task, "committed")
        if how == "amend":
            git(path, "commit", "-q", "-a", "--amend", "-m", "amended")
        elif how == "reset":
            git(path, "reset", "-q", "--hard", "HEAD~1")
        elif how == "stash":
            git(path, "stash", "--include-untracked", "-q")
            task.owed |= self.blobs(path, "refs/stash", "refs/stash^2", "refs/stash^3")
        elif how == "delete":
            shutil.rmtree(path / task.ref.task_id)
        elif how == "by us":
            task.worktree.commit_all("work")
        task.owed |= self.blobs(path, "HEAD")

    @rule(data=st.data(), crash=st.none() | STEPS)
    @precondition(lambda self: self.running())
    def end_a_turn(self, data: st.DataObject, crash: int | None) -> None:
        task = data.draw(st.sampled_from(self.running()))
        self.put(task, "of a turn")
        number = str(next(numbers))
        self.twice(lambda: turns.keep(task.worktree, number), crash)
        task.of_turns |= self.blobs_of(task)

    @rule(data=st.data(), crash=st.none() | STEPS)
    @precondition(lambda self: self.running())
    def rewind(self, data: st.DataObject, crash: int | None) -> None:
        task = data.draw(st.sampled_from(self.running()))
        there = [int(name) for name in turns.kept(task.worktree) if name.isdigit()]
        if there:
            task.of_turns |= self.blobs_of(task)
            turn, before = data.draw(st.sampled_from(there)), f"{next(numbers)}-before"
            self.twice(lambda: turns.rewind(task.worktree, turn, before), crash)

    def twice(self, act: Callable[[], object], crash: int | None) -> None:
        """Killed, and done again as the next attempt does it."""
        self.maybe_killed(act, crash)
        if crash is not None:
            act()

    # --- how tasks end ---------------------------------------------------------------------------------

    @rule(data=st.data(), crash=st.none() | STEPS)
    @precondition(lambda self: self.running())
    def end(self, data: st.DataObject, crash: int | None) -> None:
        """Failed, abandoned, cancelled; or killed while it settles, which is as if it was terminated."""
        task = data.draw(st.sampled_from(self.running()))
        self.owe(task)
        task.owed |= task.of_turns
        task.state = "ended"
        self.maybe_killed(lambda: settle(self.home, task.ref, "abandoned"), crash)

    @rule(data=st.data())
    @precondition(lambda self: self.running())
    def terminate(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.running()))
        task.owed |= task.of_turns
        task.state = "ended"

    @rule(data=st.data(), crash=st.none() | STEPS)
    @precondition(lambda self: self.running())
    def land(self, data: st.DataObject, crash: int | None) -> None:
        task = data.draw(st.sampled_from(self.running()))
        head = task.worktree.commit_all("work")  # of files: what was staged, and was changed again, is not in it
        self.owe(task)
        git(self.repo, "merge", "-q", "--no-ff", "-m", "landed", head)
        task.state = "ended"
        self.maybe_killed(lambda: settle(self.home, task.ref, "merged", head), crash)

    # --- clean-ups -------------------------------------------------------------------------------------

    @rule(crash=st.none() | MORE_STEPS, days=st.floats(0, 5))
    def clean(self, crash: int | None, days: float) -> None:
        """Never so late that a salvage goes; run folders do, when days add up."""
        self.owe_what_has_ended()
        self.days += days
        self.maybe_killed(lambda: run(self.cleaned(min(self.days, 29))), crash)

    async def cleaned(self, days: float) -> None:
        async def ask(task_id: str, _: Run | None) -> State:
            return next(task.state for task in self.tasks if task.ref.task_id == task_id)

        let_pass(self.home, time.time() + days * DAY)
        await clean_up(ask, self.home, now=time.time() + days * DAY)

    def maybe_killed(self, act: Callable[[], object], crash: int | None) -> None:
        if crash is None:
            act()
        else:
            killed(act, crash)

    # --- what must hold --------------------------------------------------------------------------------

    @invariant()
    def what_runs_is_untouched_and_what_is_gone_can_be_had_back(self) -> None:
        gone = [task for task in self.tasks if not task.worktree.path.is_dir()]
        assert "running" not in {task.state for task in gone}
        if gone:
            there = set(git(self.repo, "rev-list", "--objects", "--no-object-names", "--all").split())
            files = self.entries(self.repo, *git(self.repo, "for-each-ref", "--format=%(objectname)").split())
        for task in gone:
            assert task.owed <= there, (task.ref.task_id, task.owed - there)
            assert task.files <= files, (task.ref.task_id, task.files - files)

    def owe(self, task: Task) -> None:
        """What is there at the end: nobody writes in it any more."""
        if task.worktree.path.is_dir():
            task.files = self.files(task)
            task.owed |= self.blobs_of(task)
            staged = git(task.worktree.path, "ls-files", "-s", "-z").split("\0")[:-1]
            task.owed |= {line.split()[1] for line in staged if not line.startswith("160000")}

    def owe_what_has_ended(self) -> None:
        for task in self.tasks:
            if task.state == "ended":
                self.owe(task)

    def blobs_of(self, task: Task) -> set[str]:
        return {sha for _, sha, _ in self.files(task)}

    def files(self, task: Task) -> set[Entry]:
        """All that lies in its folder, but for what is ignored."""
        top, found = task.worktree.path, set[Entry]()
        tracked = set(git(top, "ls-files", "-z").split("\0"))
        for folder, folders, names in os.walk(top / task.ref.task_id):
            folders[:] = [name for name in folders if name != ".git"]
            for file in (Path(folder, name) for name in names):
                path = str(file.relative_to(top))
                if file.is_symlink():
                    found.add(("120000", blob(os.fsencode(file.readlink())), path))
                elif file.name != IGNORED or path in tracked:
                    mode = "100755" if file.stat().st_mode & 0o100 else "100644"
                    found.add((mode, blob(file.read_bytes()), path))
        return found

    def entries(self, path: Path, *commits: str) -> set[Entry]:
        lines = [line for sha in commits for line in git(path, "ls-tree", "-r", "-z", sha).split("\0") if line]
        told = [(line.partition("\t")[0].split(), line.partition("\t")[2]) for line in lines]
        return {(mode, sha, name) for (mode, kind, sha), name in told if kind == "blob"}

    def blobs(self, path: Path, *commits: str) -> set[str]:
        there = [sha for sha in commits if run_git(path, "rev-parse", "-q", "--verify", sha, check=False).stdout]
        return {sha for _, sha, _ in self.entries(path, *there)}

    def teardown(self) -> None:
        """All end; what is left then is what the policy keeps, and after its time nothing."""
        for task in self.running():
            task.owed |= task.of_turns
            task.state = "ended"
        self.owe_what_has_ended()
        for days in (29, 29):
            run(self.cleaned(days))
        self.what_runs_is_untouched_and_what_is_gone_can_be_had_back()
        assert list((self.home.root / "worktrees").glob("*")) == []
        (self.home.root / "config.toml").write_text("[keep]\nsalvage_count = 0\n")
        run(self.cleaned(60))
        assert list((self.home.root / "runs").glob("*")) == []
        assert git(self.repo, "for-each-ref", "--format=%(refname)") == MAIN
        assert git(self.repo, "fsck", "--strict", "--no-dangling") == ""
        assert len(git(self.repo, "worktree", "list").splitlines()) == 1
        shutil.rmtree(self.folder)


TestCleanUpNeverLoses = History.TestCase
TestCleanUpNeverLoses.settings = settings(
    max_examples=100 if os.environ.get("MERGEWRIGHT_EVERY_STEP") else 5,
    stateful_step_count=15,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a history as it failed is told; a shorter one takes minutes
)
