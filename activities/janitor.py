"""The janitor: removes what is saved, over, and older than `[keep]` of config.toml says.

Work is only ever removed by `settle`, which saves it first. Ages are those that the janitor has seen pass (`ages`),
not what the clock or the times of files say. What it cannot tell to be of a task that has ended stays as it is, and is
listed.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from activities import ports, setup_cache
from activities.ages import DAY, Ages
from activities.config import Config, load
from activities.contracts import CleanedUp, CleanUpInput, LeftAlone, Removed
from activities.disk import GB, share, used
from activities.git import salvaged, slot
from activities.git.clone import delete
from activities.git.locks import exclusive
from activities.git.owner import last_home
from activities.home import Home, repository_id
from activities.leftovers import Leftover, delete_unused, leftovers, stale_locks
from activities.runs import Ask, Run, State, as_repository, asking, known_repositories, known_runs
from activities.settle import settle
from activities.site import Site, blocking, note_repository, write_model
from activities.swarm.clean import clean_swarms

log = structlog.get_logger()

RECENT_DAYS = 1.0
"""Run folders of tasks that ended since then stay, however full the disk is."""
UNSETTLED = "ended without settling"
MOST_TOLD = 50
"""Entries of each list in an activity's result: bulk stays out of the history."""
MOST_NAMED = 5
"""Things in the name of what is removed together."""


class JanitorActivities:
    def __init__(self, site: Site) -> None:
        self.site = site

    @activity.defn
    async def clean_up(self, given: CleanUpInput) -> CleanedUp:
        """Remove what is saved, over and older than the policy. A second run removes what the first one did not.

        A worker also does it for another data folder of its host: one that serves the same task queue.
        """
        home = Home(Path(given.home)) if given.home else self.site.home
        if not home.root.is_dir():
            text = f"{given.host} has no data folder {home.root} any more: delete the schedule that asked for this"
            raise ApplicationError(text, type="NoDataFolder")
        done = await clean_up(await asking(self.site.client), home)
        log.info("cleaned up", removed=done.removed_count, left_alone=done.left_count, freed=done.freed, used=done.used)
        for one in done.left:
            log.warning("left alone by the clean-up", name=one.name, why=one.why)
        return done.model_copy(update={"removed": done.removed[:MOST_TOLD], "left": done.left[:MOST_TOLD]})


async def clean_up(ask: Ask, home: Home, *, dry_run: bool = False, now: float | None = None) -> CleanedUp:
    """One at a time for each data folder. Raises BadConfig, Busy."""
    config = load(home.root)
    with ExitStack() as stack:
        await blocking(stack.enter_context, exclusive(home.root / "janitor.lock"))
        janitor = Janitor(home, ask, config, dry_run, time.time() if now is None else now)
        done = await janitor.run()
        if not dry_run:
            await blocking(janitor.ages.save)
            await blocking(write_model, home.cleaned_up, done)
    return done


class Janitor:
    """One clean-up."""

    def __init__(self, home: Home, ask: Ask, config: Config, dry_run: bool, now: float) -> None:
        self.home = home
        self.ask = ask
        self.keep, self.disk = config.keep, config.disk
        self.dry_run = dry_run
        self.now = now
        self.ages = Ages(home.ages, now)
        self.removed: list[Removed] = []
        self.left: list[LeftAlone] = []
        self.runs: dict[str, Run] = {}
        self.repositories: dict[str, Path] = {}
        self.states: dict[str, State] = {}
        self.unsettled: set[str] = set()
        """Keys of runs of which something is left."""

    async def run(self) -> CleanedUp:
        self.runs = await blocking(known_runs, self.home)
        self.repositories = await blocking(known_repositories, self.home, self.runs)
        found = await blocking(leftovers, self.home, self.repositories)
        self.runs = await blocking(known_runs, self.home)  # again: tasks have started meanwhile
        await self._leftovers(found)
        await self._salvages()
        over = await self._runs_that_are_over()
        await clean_swarms(self)
        await blocking(self._repositories)
        await self._by_size(over)
        await blocking(self._ports)
        held = await blocking(used, self.home.root)
        return CleanedUp(
            at=self.now,
            dry_run=self.dry_run,
            removed=self.removed,
            left=self.left,
            removed_count=len(self.removed),
            left_count=len(self.left),
            freed=sum(one.freed for one in self.removed),
            used=held,
        )

    def remove(self, what: str, name: str, why: str, action: Callable[[], object], freed: int = 0) -> bool:
        """One thing; in a dry run it is only told. False: it stays; it is listed, unless the action said False, too."""
        with self.apart(name):
            if not self.dry_run and action() is False:
                return False
            self.removed.append(Removed(what=what, name=_shown(name), why=why, freed=freed))
            return True
        return False

    @contextmanager
    def apart(self, name: str) -> Iterator[None]:
        """Whatever is the matter with one thing (an agent may have made it) keeps that one, and nothing else."""
        try:
            yield
        except RPCError:  # nobody can say what is over
            raise
        except Exception as problem:
            self.leave(name, " ".join(str(problem).split())[:500] or type(problem).__name__)

    def leave(self, name: str, why: str) -> None:
        self.left.append(LeftAlone(name=_shown(name), why=_shown(why)))

    async def state(self, run: Run) -> State:
        if run.key not in self.states:
            self.states[run.key] = await self.ask(run.ref.task_id, run)
        return self.states[run.key]

    # --- what runs have left ---------------------------------------------------------------------------

    async def _leftovers(self, found: dict[str, list[Leftover]]) -> None:
        """Of runs that have ended without settling, or in the middle of it: saved, then removed."""
        for key, things in found.items():
            run = self.runs.get(key)
            if run is None:
                await blocking(self._of_nobody, key, things)
            elif (state := await self.state(run)) == "unknown":
                why = (
                    f"this server does not know its task {run.ref.task_id}: it is on another, or long over; "
                    f"if it is over: starter.py clean --over {run.ref.task_id}"
                )
                self._leave_all(run, things, why)
            elif state == "elsewhere":
                remedy = f"if that is gone: starter.py clean --over {run.ref.task_id}"
                self._leave_all(run, things, f"{_another(run)}; {remedy}")
            elif state == "ended":
                await blocking(self._settle, run, things)

    def _settle(self, run: Run, things: list[Leftover]) -> None:
        freed = sum(used(thing.path) for thing in things if thing.path)
        if run.common_dir is None:
            self._leave_all(run, things, f"its repository {run.ref.repo} is gone, so nothing in it can be saved there")
            return
        why = f"task {run.ref.task_id} has ended"
        more = f"; and {len(things) - MOST_NAMED} more" if len(things) > MOST_NAMED else ""
        name = "; ".join(thing.name for thing in things[:MOST_NAMED]) + more
        if not self.remove("worktree", name, why, partial(settle, self.home, run.ref, UNSETTLED), freed):
            self.unsettled.add(run.key)

    def _leave_all(self, run: Run, things: list[Leftover], why: str) -> None:
        self.unsettled.add(run.key)
        for thing in things:
            self.leave(thing.name, why)

    def _of_nobody(self, key: str, things: list[Leftover]) -> None:
        work = [thing for thing in things if not thing.holds_no_work]
        for thing in work:
            self.leave(thing.name, "no run folder says whose it is: look into it, and remove it by hand")
        if work:
            return
        lock = self.home.root / "worktrees" / f".{key}.lock"
        for thing in things:
            assert thing.path is not None
            action = partial(delete_unused, thing.path, lock)
            self.remove("half a worktree", thing.name, "it holds no work", action, used(thing.path))

    # --- what was saved --------------------------------------------------------------------------------

    async def _salvages(self) -> None:
        for common_dir in self.repositories.values():
            if not common_dir.is_dir():
                continue  # see `_repositories`
            theirs = last_home(common_dir)
            if theirs is not None and theirs.resolve() != self.home.root.resolve():
                continue  # it is another data folder's by now, which may keep what was saved for longer
            found, foreign = list[salvaged.Salvage](), list[str]()
            with self.apart(f"the saved work in {common_dir}"):
                found, foreign = await blocking(salvaged.all_of, as_repository(common_dir))
            for ref in foreign:
                self.leave(f"{ref} of {common_dir}", "it is no salvage of ours: whoever made it may delete it")
            folder = repository_id(common_dir)
            ages = [self.ages.days(f"salvage {folder} {one.ref} {one.commit}") for one in found]
            for one, age in list(zip(found, ages, strict=True))[self.keep.salvage_count :]:
                if age <= self.keep.salvage_days:
                    continue
                if await self._nobody_has(one.task):
                    why = f"saved {one.when:%Y-%m-%d}, and known for more than {self.keep.salvage_days:g} days"
                    name = f"{one.ref} of {common_dir}, {one.commit}"
                    action = partial(salvaged.drop, as_repository(common_dir), [one])
                    await blocking(self.remove, "salvage", name, why, action)

    async def _nobody_has(self, task_id: str) -> bool:
        states = [await self.state(run) for run in self.runs.values() if run.ref.task_id == task_id]
        return not {"running", "elsewhere"} & {await self.ask(task_id, None), *states}

    # --- run folders -----------------------------------------------------------------------------------

    async def _runs_that_are_over(self) -> list[tuple[float, Run]]:
        """Removes the old ones; the others, the oldest first, with the days since they are over."""
        over, others = [], Counter[str]()
        for key, run in self.runs.items():
            with self.apart(str(self.home.run(key))):
                if not await self._is_over(run):
                    if self.states.get(key) == "elsewhere":
                        others[_another(run)] += 1
                    continue
                days = self.ages.days(f"run {key}")
                if days <= self.keep.runs_days:
                    over.append((days, run))
                elif await self.state(run) == "running":  # it was begun again
                    self.ages.forget(f"run {key}")
                else:
                    await blocking(self._remove_run, key, f"over for more than {self.keep.runs_days:g} days")
        for why, count in others.items():
            self.leave(f"{count} run folders in {self.home.root / 'runs'}", why)
        for folder in (self.home.root / "runs").glob("*"):
            if folder.name not in self.runs and self.old_file(folder, 1 / 24):
                self.leave(str(folder), "it does not say whose it is: look into it, and remove it by hand")
        return sorted(over, key=lambda one: one[0], reverse=True)

    async def _is_over(self, run: Run) -> bool:
        """And settled; False also where nobody can say."""
        folder = self.home.run(run.key)
        if run.key in self.unsettled:
            return False
        if self.ages.knows(f"run {run.key}"):
            return True
        state = await self.state(run)
        settled = run.landing or (folder / "settled.json").exists()
        if state == "unknown" and not settled:
            self.leave(str(folder), f"this server does not know its task {run.ref.task_id}, and it was not settled")
        if state in ("running", "elsewhere") or self.dry_run or not (settled or await blocking(self._settled_now, run)):
            return False
        if run.common_dir is not None:
            await blocking(note_repository, self.home, run.common_dir)
        with suppress(OSError):
            await blocking(delete, folder / "tmp")
        return True

    def _settled_now(self, run: Run) -> bool:
        """It ended before it had anything, or its repository is gone: nothing of it is left but the run folder."""
        if self.states[run.key] != "ended":
            return False
        if run.common_dir is not None:
            settle(self.home, run.ref, UNSETTLED)
        return True

    def _remove_run(self, key: str, why: str) -> int:
        folder = self.home.run(key)
        freed = used(folder)
        return freed if self.remove("run", str(folder), why, partial(delete, folder), freed) else 0

    # --- repositories ----------------------------------------------------------------------------------

    def _repositories(self) -> None:
        for folder in sorted((self.home.root / "repositories").glob("*")):
            with self.apart(str(folder)):
                self._repository(folder)
        for common_dir in self.repositories.values():
            with self.apart(f"locks in {common_dir}"):
                for lock in stale_locks(common_dir, self.now):
                    self.remove("lock", str(lock), "a killed git has left it", partial(lock.unlink, missing_ok=True))

    def _repository(self, folder: Path) -> None:
        common_dir = self.repositories.get(folder.name)
        if common_dir is None:
            self.leave(str(folder), "it does not say of which repository it is: look into it, and remove it by hand")
        elif not common_dir.is_dir():
            self._gone(folder, common_dir)
        else:
            self._slots(folder, self.keep.slots_days, f"not used for {self.keep.slots_days:g} days")
            self._setups(folder, self.keep.slots_days, f"not used for {self.keep.slots_days:g} days")
            self._records(folder / "results", self.keep.results_days, "results")
            self._records(folder / "gates", self.keep.runs_days, "logs")

    def _gone(self, folder: Path, common_dir: Path) -> None:
        """Its slots and results are of no use without it. A disk may only be away for a while, so it takes its time."""
        if self.ages.days(f"gone {folder.name}") > self.keep.runs_days:
            why = f"{common_dir} is gone for more than {self.keep.runs_days:g} days"
            self.remove("repository", str(folder), why, partial(delete, folder), used(folder))

    def _slots(self, folder: Path, days: float, why: str) -> int:
        freed = 0
        for one in (folder / "slots").glob("*"):
            with self.apart(str(one)):
                held = used(one)
                idle = (one / "tree").exists() and self._unused((one / "lock").stat().st_mtime, days)
                action = partial(slot.clear, one, self.now - days * DAY)
                if idle and self.remove("slot", str(one), why, action, held):
                    freed += held
            for aside in one.glob("*.left-*"):
                self.leave(str(aside), "a gate left it to another user: delete it by hand")
        return freed

    def _setups(self, folder: Path, days: float, why: str) -> int:
        """What set-up commands have made, kept to be copied."""
        freed = 0
        for one, last_used in setup_cache.kept_in(folder / "setups").items():
            held = used(one) + used(setup_cache.making(one))
            if self._unused(last_used, days) and self.remove(
                "set-up", str(one), why, partial(setup_cache.drop, one), held
            ):
                freed += held
        return freed

    def _ports(self) -> None:
        """Of slots that were cleared after a kill: a task gives its own back before its worktree goes."""
        for holder in ports.holders(self.home):
            if not Path(holder).exists() and Path(holder).name not in self.runs:
                self.remove("ports", f"those of {holder}", "it is gone", partial(ports.release, self.home, holder))

    def _records(self, folder: Path, days: float, what: str) -> None:
        """They only save time, or were for those who looked: so the times of the files will do."""
        old = [one for one in folder.glob("*") if self.old_file(one, days)]
        if old:
            why = f"older than {days:g} days"
            self.remove(what, f"{len(old)} in {folder}", why, partial(_delete, old), sum(map(used, old)))

    def old_file(self, file: Path, days: float) -> bool:
        try:
            return self._unused(file.stat().st_mtime, days)
        except OSError:
            return False

    def _unused(self, since: float, days: float) -> bool:
        """By the clock: of what can be made again."""
        return self.now - since > days * DAY

    # --- by size ---------------------------------------------------------------------------------------

    async def _by_size(self, over: list[tuple[float, Run]]) -> None:
        """Where the disk is too full for another worktree: idle slots, what set-up commands have made, then run folders
        of tasks that are over, the oldest first. Never a salvage."""
        short = int(self.disk.floor_gb * GB) - shutil.disk_usage(self.home.root).free
        for name, common_dir in self.repositories.items():
            excess = short
            if self.disk.cap_gb is not None:
                held = await blocking(share, self.home, self.runs.values(), common_dir)
                excess = max(excess, held - int(self.disk.cap_gb * GB))
            if excess <= 0:
                continue
            why = "the disk is too full" if excess == short else "the repository has more than its cap"
            freed = await blocking(self._slots, self.home.root / "repositories" / name, 0, why)
            freed += await blocking(self._setups, self.home.root / "repositories" / name, 0, why)
            for days, run in over:
                mine = run.common_dir == common_dir and days > RECENT_DAYS
                if freed < excess and mine and await self.state(run) != "running":  # it may have been begun again
                    freed += await blocking(self._remove_run, run.key, why)
            short -= freed


def _shown(text: str) -> str:
    """Names need not be UTF-8, and what is told must."""
    return text.encode("utf-8", "backslashreplace").decode()


def _another(run: Run) -> str:
    return f"it belongs to another Temporal server: {run.server.name if run.server else 'unknown'}"


def _delete(paths: Sequence[Path]) -> None:
    for path in paths:
        delete(path)
