"""What a tree needs besides its commit: extra files, submodules, set-up commands, ports; and how it is torn down.

The same for a task's worktree and for a slot of the merge queue: `[worktree]` of the target branch says what. The
commands run under the supervisor as agents and gates do.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError
from temporalio.exceptions import ApplicationError

from activities import ports, process
from activities.config import BadConfig, load
from activities.contracts import TaskRef
from activities.git import extras, lfs, slot, submodules, turns
from activities.git.clone import WorktreeBroken
from activities.git.extras import MADE
from activities.git.repository import Repository, printable
from activities.git.sparse import Cone
from activities.git.worktree import Worktree
from activities.home import Home
from activities.place import Place, end_of, failed
from activities.protected import INCLUDE_FILE, SETTINGS_FILE
from activities.settings import TAIL, TaskInput, WorktreeSettings, explain
from activities.setup_cache import Cache
from activities.site import blocking, invalid, progress, read_json, worktree_of, write_atomically

log = structlog.get_logger()

MOST_NAMED = 20
MOST_MADE = 1_000
"""Files that set-up commands may leave beside those that are ignored. Each makes every look at the tree slower."""


def worktree_settings(repository: Repository, commit: str) -> WorktreeSettings:
    """`[worktree]` of `mergewright.toml`, and the patterns of `.worktreeinclude`. Raises InvalidTask, in one line."""
    with repository.git() as git:
        file, include = (git.objects.read(f"{commit}:{name}") or b"" for name in (SETTINGS_FILE, INCLUDE_FILE))
    try:
        found = tomllib.loads(file.decode()).get("worktree", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        invalid(SETTINGS_FILE, f"is not TOML: {error}")
    try:
        settings = WorktreeSettings.model_validate(found)
    except ValidationError as error:
        invalid(SETTINGS_FILE, f"worktree.{explain(error)}")
    copy = [*settings.copy_, *include.decode("utf-8", "replace").splitlines()]
    try:
        return WorktreeSettings.model_validate({**settings.model_dump(by_alias=True), "copy": copy})
    except ValidationError as error:
        invalid(INCLUDE_FILE, explain(error))


def check_sparse(repository: Repository, commit: str, task: TaskInput, settings: WorktreeSettings) -> list[str]:
    """The folders that the task's worktree holds. Raises InvalidTask for one that is not there."""
    folders = settings.sparse if task.sparse is None else task.sparse
    with repository.git() as git:
        for folder in folders:
            if git.run("cat-file", "-t", f"{commit}:{folder}", ok=(0, 128)).stdout != b"tree\n":
                field = f"{SETTINGS_FILE}: worktree.sparse" if task.sparse is None else "sparse"
                invalid(field, f"{folder} is no folder of the target branch: correct it")
    return folders


async def set_up(place: Place, settings: WorktreeSettings, found: Sequence[extras.Extra]) -> bool:
    """Ports, files, submodules, commands, in this order. A second run does the rest, and the commands again.

    True: a command has run, so anything may be in the tree. Raises ApplicationError, of the type SETUP_FAILED, for what
    a person must mend.
    """
    await blocking(slot.put_away, place.box)
    if settings.ports:
        await blocking(_claim_ports, place, settings)
    await blocking(_put_all, place, found)
    if settings.submodules:
        await blocking(_fill_submodules, place)
    until = time.monotonic() + settings.timeout_seconds
    logs = [place.logs / f"setup-{number}.log" for number in range(len(settings.setup))]
    commands = zip(settings.setup, logs, strict=True)
    return any([await _set_up_by(place, settings, command, file, until) for command, file in commands])


async def _set_up_by(place: Place, settings: WorktreeSettings, command: str, log_file: Path, until: float) -> bool:
    progress()["setup"] = command

    async def run() -> None:
        ended = await place.run(command, log_file, until - time.monotonic())
        if ended.exit_code != 0:
            how = f"exit {ended.exit_code}" if ended.by == "exit" else f"not done after {settings.timeout_seconds:g} s"
            how = f"it used more than it may: {ended.limit}" if ended.limit else how
            end = end_of(log_file, TAIL).strip()
            failed(f"the set-up command {command!r}: {how}", f"{end}\nlog: {log_file}")

    entry = settings.cache_of(command)
    if entry is None:
        await run()
        return True
    return await Cache(place.home.setups(place.repository.common_dir)).make_or_restore(place, entry, command, run)


def _put_all(place: Place, found: Sequence[extras.Extra]) -> None:
    for extra in found:
        try:
            extras.put(extra, place.tree)
        except OSError as error:
            failed(f"{extra.source} cannot be copied: {error.strerror}")


def _fill_submodules(place: Place) -> None:
    try:
        cone = place.cone
        submodules.fill(place.repository, place.tree, place.commit, wanted=cone.holds if cone else lambda _: True)
    except submodules.SubmoduleMissing as missing:
        failed(str(missing))


def _claim_ports(place: Place, settings: WorktreeSettings) -> None:
    try:
        ports.claim(place.home, str(place.tree), settings.ports, load(place.home.root).ports)
    except (ports.NoPortsFree, BadConfig) as problem:
        failed(str(problem))


# --- a slot of the merge queue ---------------------------------------------------------------------------------------


async def set_up_slot(
    place: Place, settings: WorktreeSettings, found: Sequence[extras.Extra], taken: slot.Slot
) -> None:
    """Before the gates of each commit. Raises ApplicationError as `set_up` does."""
    ran = await set_up(place, settings, found)
    names = [*(extra.path for extra in found), *(path for entry in settings.cache for path in entry.paths)]
    if ran or names:
        with _telling_what_is_broken():
            await blocking(slot.keep_out, taken, place.repository, place.commit, names, whole=ran)


@contextmanager
def _telling_what_is_broken() -> Iterator[None]:
    try:
        yield
    except WorktreeBroken as broken:
        failed(f"set-up commands have broken the git directory of the tree: {broken}")


async def tear_down_slot(place: Place, settings: WorktreeSettings) -> None:
    await run_tear_down(place, settings)
    await blocking(ports.release, place.home, str(place.tree))


# --- a task's worktree -----------------------------------------------------------------------------------------------


async def set_up_worktree(home: Home, worktree: Worktree, base: str, settings: WorktreeSettings) -> list[str]:
    """Once, before its first turn, at `base`. What it leaves is no work; tracked files are as they were.

    Returns what an agent and a person must know of the worktree. Raises ApplicationError as `set_up` does.
    """
    if read_json(_note(home, worktree.key)).get("done"):
        return notes(home, worktree.key)
    return await _set_up_and_note(home, worktree, base, settings)


async def ready(home: Home, ref: TaskRef) -> Worktree:
    """The task's worktree. One that had to be rebuilt is set up again, as the target asks by now; the work in it stays.

    What was uncommitted is staged then. Raises ApplicationError as `set_up` does; a second run begins anew.
    """
    worktree = await blocking(worktree_of, home, ref)
    marker = home.rebuilt(ref.key)
    if marker.exists():
        try:
            settings = await blocking(worktree_settings, worktree.repository, worktree.repository.tip(ref.target))
        except ApplicationError as error:
            failed(error.message)
        if settings != WorktreeSettings() or marker.read_text():
            work = await blocking(_keep_work, worktree, marker)
            await _set_up_and_note(home, worktree, work, settings, trusted=False)
        marker.unlink()
    return worktree


def _keep_work(worktree: Worktree, marker: Path) -> str:
    """What is there before set-up begins; nothing that it does counts as work."""
    work = marker.read_text() or turns.keep(worktree, "rebuilt", everything=False)
    write_atomically(marker, work)
    turns.put_back(worktree, work)
    return work


async def _set_up_and_note(
    home: Home, worktree: Worktree, base: str, settings: WorktreeSettings, *, trusted: bool = True
) -> list[str]:
    note = _note(home, worktree.key)
    given: dict[str, Any] = {"settings": settings.model_dump(mode="json", by_alias=True)}
    if settings != WorktreeSettings():
        found = await blocking(extras.find, worktree.repository, settings.copy_, settings.link)
        if settings.submodules:
            given["submodules"] = await blocking(submodules.links, worktree.repository, base, worktree.cone)
        given["links"] = [str(path) for path in extras.targets(found)]
        await blocking(write_atomically, note, json.dumps(given))  # for the tear-down, whatever happens
        place = _worktree_place(home, worktree, base, home.worktree_lock(worktree.key), trusted=trusted)
        await _fill(place, worktree, settings, found)
    told = await blocking(_notes, home, worktree, settings, base)
    await blocking(write_atomically, note, json.dumps({**given, "notes": told, "done": True}))
    return told


async def _fill(place: Place, worktree: Worktree, settings: WorktreeSettings, found: Sequence[extras.Extra]) -> None:
    marks = {path: MADE for entry in settings.cache for path in entry.paths}
    marks |= await blocking(lambda: {extra.path: extra.mark() for extra in found})
    await blocking(worktree.keep_out, marks)  # before they are there: a kill may come between
    if await set_up(place, settings, found):
        with _telling_what_is_broken():
            await blocking(_tidy, worktree, place)


def undo_half_done(home: Home, worktree: Worktree) -> None:
    """What a set-up that was cut off has left is nobody's work. Raises WorktreeBroken."""
    marker, found = home.rebuilt(worktree.key), read_json(_note(home, worktree.key))
    if marker.exists() and (work := marker.read_text()):
        turns.put_back(worktree, work)
    elif found and not found.get("done") and not marker.exists():
        worktree.put_back(worktree.base())


def notes(home: Home, key: str) -> list[str]:
    found: list[str] = read_json(_note(home, key)).get("notes", [])
    return found


def linked(home: Home, key: str) -> list[Path]:
    """Where links of the worktree lead, to be written in a sandbox. Not what leads elsewhere by now: somebody may have
    put a link in its place."""
    found: list[str] = read_json(_note(home, key)).get("links", [])
    return [Path(path) for path in found if os.path.realpath(path) == path]


def _notes(home: Home, worktree: Worktree, settings: WorktreeSettings, base: str) -> list[str]:
    found = []
    if cone := worktree.cone:
        found.append(_sparse_note(cone))
    if own := ports.environment(home, str(worktree.path)):
        found.append(f"{settings.ports} ports of its own, from {own['MERGEWRIGHT_PORT_BASE']}: MERGEWRIGHT_PORT_0 …")
    if pointers := lfs.pointers(worktree.repository, worktree.path, base):
        found.append(f"Git LFS pointers, their content is not here and cannot be changed: {_few(pointers)}")
    if settings.submodules and (links := submodules.links(worktree.repository, base, worktree.cone)):
        found.append(f"submodules, to be read: what is changed in them is no part of the work: {_few(list(links))}")
    return found


def _sparse_note(cone: Cone) -> str:
    folders = _few(list(cone.folders))
    return (
        f"a sparse checkout of {folders}, and of what lies at the top and in the folders above. The rest is tracked; "
        "that it is not here deletes nothing. `git ls-files` lists it, `git show HEAD:PATH` shows it, `git grep "
        "--cached TEXT` searches it, `git sparse-checkout add FOLDER` brings a folder. Gates run on all of it"
    )


def _few(paths: list[str]) -> str:
    more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
    return ", ".join(printable(os.fsencode(path)) for path in paths[:MOST_NAMED]) + more


def _tidy(worktree: Worktree, place: Place) -> None:
    """After set-up commands."""
    made = worktree.untracked()
    if len(made) > MOST_MADE:
        failed(f"set-up commands leave {len(made)} files that .gitignore does not name, such as {made[0]}")
    worktree.keep_out(dict.fromkeys(made, MADE))
    if place.trusted:
        worktree.put_back(place.commit)
    else:
        turns.put_back(worktree, place.commit)


def tear_down(home: Home, worktree: Worktree) -> None:
    """Runs the tear-down commands, and gives the ports back; a second run does nothing. Not from an event loop."""
    settings = WorktreeSettings.model_validate(read_json(_note(home, worktree.key)).get("settings", {}))
    if settings.teardown and worktree.path.is_dir():
        place = _worktree_place(home, worktree, "", home.run(worktree.key) / "teardown.lock")
        asyncio.run(run_tear_down(place, settings))
    ports.release(home, str(worktree.path))
    for noted in (_note(home, worktree.key), home.rebuilt(worktree.key)):
        noted.unlink(missing_ok=True)


async def run_tear_down(place: Place, settings: WorktreeSettings) -> None:
    """One that fails is logged, and keeps nothing else from happening."""
    until = time.monotonic() + settings.timeout_seconds
    for number, command in enumerate(settings.teardown):
        file = place.logs / f"teardown-{number}.log"
        try:
            ended = await place.run(command, file, until - time.monotonic())
        except (process.CannotStart, process.Interrupted, ApplicationError) as problem:
            log.warning("a tear-down command cannot be run", command=command, reason=str(problem))
            continue
        if ended.exit_code != 0:
            log.warning("a tear-down command failed", command=command, exit_code=ended.exit_code, log=str(file))


def _note(home: Home, key: str) -> Path:
    return home.run(key) / "setup.json"


def _worktree_place(home: Home, worktree: Worktree, commit: str, lock: Path, *, trusted: bool = True) -> Place:
    return Place(
        home=home,
        repository=worktree.repository,
        tree=worktree.path,
        commit=commit,
        logs=home.run(worktree.key) / "setup",
        box=home.box(worktree.key, "setup"),
        lock=lock,
        trusted=trusted,
        links=tuple(linked(home, worktree.key)),
        cone=worktree.cone,
    )
