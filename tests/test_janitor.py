"""What the janitor removes, when, and above all what it does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client, Schedule, ScheduleActionStartWorkflow, ScheduleSpec
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from activities import ports, setup_cache
from activities.ages import DAY
from activities.config import BadConfig, PortRange
from activities.contracts import CleanedUp, CleanUpInput, TaskRef
from activities.git import salvaged, slot
from activities.git.locks import exclusive
from activities.git.repository import open_repository
from activities.git.worktree import create
from activities.home import Home, task_key
from activities.janitor import JanitorActivities, clean_up
from activities.overlaps import note_ref
from activities.runs import asking, known_runs
from activities.server import Server, note_server, server_of
from activities.settle import settle
from activities.site import Site, note_repository, task_branch
from activities.swarm.cards import Cards
from activities.swarm.contracts import Card, SwarmRef
from activities.swarm.known import Note, note
from activities.swarm.ledger import Ledger
from console.clean import clean
from console.doctor import cleaned_up
from service.schedule import ensure_schedule, schedule_id
from service.sweep import sweep
from tests.git.repos import git
from tests.kit import Kit
from tests.test_starter import starter
from workflows.task import TaskWorkflow
from workflows.unknown import UnknownWorkflow

MAIN = "refs/heads/main"


async def begun(kit: Kit, task_id: str, *, files: bool = True) -> TaskRef:
    """A task as a worker has it that was killed: it runs as far as the server knows, and nobody serves it."""
    name = f"{task_id}-{kit.task_queue}"
    handle = await kit.client.start_workflow(
        TaskWorkflow.__name__, kit.input(), id=name, task_queue=f"nobody-{kit.task_queue}"
    )
    assert handle.first_execution_run_id is not None
    return made(kit, name, task_key(name, handle.first_execution_run_id), files=files)


def made(kit: Kit, task_id: str, key: str, *, files: bool = True) -> TaskRef:
    """The worktree and the run folder of a task."""
    ref = TaskRef(task_id=task_id, key=key, repo=str(kit.repo), target=MAIN)
    note_ref(kit.home, ref)
    repository = open_repository(ref.repo)
    worktree = create(repository, kit.home.worktree(key), key, task_branch(task_id), repository.tip(MAIN), MAIN)
    if files:
        (worktree.path / "work.txt").write_text(f"of {task_id}\n")
    return ref


async def ended(kit: Kit, task_id: str, *, files: bool = True) -> TaskRef:
    ref = await begun(kit, task_id, files=files)
    await kit.client.get_workflow_handle(ref.task_id).terminate()
    return ref


async def cleaned(kit: Kit, days: float = 0.0, *, dry_run: bool = False) -> CleanedUp:
    """A clean-up so many days from now, as if there had been one in every hour till then."""
    let_pass(kit.home, time.time() + days * DAY)
    return await cleaned_at(kit, time.time() + days * DAY, dry_run=dry_run)


async def cleaned_at(kit: Kit, clock: float, *, dry_run: bool = False) -> CleanedUp:
    return await clean_up(await asking(kit.client), kit.home, dry_run=dry_run, now=clock)


def let_pass(home: Home, until: float) -> None:
    """As hourly clean-ups would see it, which find what the last one found."""
    if home.ages.exists():
        kept = json.loads(home.ages.read_bytes())
        passed = kept["passed"] + max(until - kept["at"], 0)
        home.ages.write_text(json.dumps({**kept, "at": until, "passed": passed}))


def config(kit: Kit, text: str) -> None:
    kit.configure(text)


def everything(kit: Kit) -> list[str]:
    """Names of all there is, but for git's own bookkeeping."""
    files = [str(path) for path in kit.home.root.rglob("*") if path.name != "janitor.lock"]
    return sorted([*files, *kit.refs()])


def left(done: CleanedUp) -> dict[str, str]:
    return {Path(one.name.partition(" of ")[0]).name: one.why for one in done.left}


# --- what has ended --------------------------------------------------------------------------------


async def test_work_of_an_ended_task_is_saved_then_kept_as_long_as_the_policy_says(kit: Kit) -> None:
    config(kit, "[keep]\nsalvage_days = 30\nsalvage_count = 0\nruns_days = 10\n")
    ref = await ended(kit, "lost")
    [removed] = (await cleaned(kit)).removed
    assert (removed.what, kit.worktrees()) == ("worktree", [])
    [salvage] = kit.refs()
    assert kit.show("work.txt", salvage) == f"of {ref.task_id}"
    for days in (1.0, 9.9):
        assert (await cleaned(kit, days)).removed == []
    assert [one.what for one in (await cleaned(kit, 10.1)).removed] == ["run"]
    assert (await cleaned(kit, 29.9)).removed == []
    assert kit.refs() == [salvage]
    [dropped] = (await cleaned(kit, 30.1)).removed
    assert git(kit.repo, "rev-parse", "main") != ""
    assert (dropped.what, kit.refs()) == ("salvage", [])
    assert dropped.name.split(", ")[1] in git(kit.repo, "fsck", "--unreachable")  # until git prunes it
    assert (await cleaned(kit, 90)).removed == (await cleaned(kit, 90)).left == []


async def test_the_newest_salvages_are_kept_however_old_and_those_of_running_tasks(kit: Kit) -> None:
    config(kit, "[keep]\nsalvage_count = 2\n")
    running = await begun(kit, "a-task")  # of the same second, the last name counts as the newest
    settle(kit.home, running, "written by the reviewer")
    for number in range(3):
        await ended(kit, f"lost-{number}")
        await cleaned(kit)
    assert len(kit.refs()) == 4
    await cleaned(kit, 31)
    kept = [one for one in kit.refs() if "salvage" in one]
    assert len(kept) == 3
    assert any(running.task_id in one for one in kept)


async def test_ages_do_not_come_from_the_times_of_files(kit: Kit) -> None:
    await ended(kit, "lost")
    await cleaned(kit)
    long_ago = time.time() - 1000 * DAY
    for path in kit.home.root.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    assert (await cleaned(kit, 29)).removed == []


async def test_a_clock_that_is_set_ahead_does_not_make_things_old(kit: Kit) -> None:
    """Nor does one that is set right again, nor three months without a worker: each counts as one day at most."""
    config(kit, "[keep]\nsalvage_count = 0\nruns_days = 10\nsalvage_days = 10\n")
    ref = await ended(kit, "lost")
    now = time.time()
    await cleaned_at(kit, now)
    kept = kit.refs()
    for clock in (31 * DAY, 0, 0, 92 * DAY, 92.1 * DAY, 1000 * DAY, -1000 * DAY):
        assert (await cleaned_at(kit, now + clock)).removed == []
    assert (kit.refs(), kit.home.run(ref.key).exists()) == (kept, True)
    assert json.loads(kit.home.ages.read_bytes())["passed"] / DAY == pytest.approx(3.1)
    removed = [len((await cleaned_at(kit, now + (day - 1000) * DAY)).removed) for day in range(1, 8)]
    assert (removed, kit.refs()) == ([0, 0, 0, 0, 0, 0, 2], [])


async def test_a_salvage_from_a_time_when_the_clock_was_wrong_is_as_new_as_it_is(kit: Kit) -> None:
    config(kit, "[keep]\nsalvage_count = 0\n")
    ref = await ended(kit, "lost")
    settle(kit.home, ref, "failed")
    [salvage] = kit.refs()
    commit = re.sub(r"(?m)^(committer .*>) \d+", r"\1 86400", git(kit.repo, "cat-file", "commit", salvage))
    old = git(kit.repo, "hash-object", "-t", "commit", "-w", "--stdin", stdin=commit.encode())
    git(kit.repo, "update-ref", salvage, old)
    for days in (0, 29.9):
        assert "salvage" not in {one.what for one in (await cleaned(kit, days)).removed}
    assert "salvage" in {one.what for one in (await cleaned(kit, 30.1)).removed}


async def test_ages_that_cannot_be_read_are_begun_anew(kit: Kit) -> None:
    config(kit, "[keep]\nsalvage_count = 0\n")
    await ended(kit, "lost")
    await cleaned(kit)
    kit.home.ages.write_text("{")
    assert (await cleaned_at(kit, time.time() + 40 * DAY)).removed == []


async def test_a_settle_that_was_killed_half_way_is_finished(kit: Kit) -> None:
    ref = await ended(kit, "half")
    worktree = kit.home.worktree(ref.key)
    settle(kit.home, ref, "failed")
    git(kit.repo, "update-ref", f"refs/mergewright/base/{ref.key}", "main")
    (worktree.parent / f".{ref.key}.removed").mkdir()
    (worktree.parent / f".{ref.key}.index").write_text("")
    (worktree.parent / ".gone.0123456789ab.made").mkdir()
    done = await cleaned(kit)
    assert {one.what for one in done.removed} == {"worktree", "half a worktree"}
    assert [path.name for path in worktree.parent.iterdir()] == []
    assert [ref.split("/")[2] for ref in kit.refs()] == ["salvage"]


async def swarm(kit: Kit, name: str) -> SwarmRef:
    """One that runs as far as the server knows, with a card of a file."""
    swarm_id = f"{name}-{kit.task_queue}"
    handle = await kit.client.start_workflow(
        UnknownWorkflow.__name__, id=swarm_id, task_queue=f"nobody-{kit.task_queue}"
    )
    key = task_key(swarm_id, str(handle.first_execution_run_id))
    ref = SwarmRef(swarm_id=swarm_id, key=key, repo=str(kit.repo), target=MAIN)
    note(kit.home, Note(ref=ref, started=0, base=""), await server_of(kit.client))
    cards = [Card(id=name, title="t")]
    Cards(kit.home.swarm(key)).add(cards)
    Ledger(kit.home, kit.repo / ".git").take(swarm_id, key, cards, (), ())
    git(kit.repo, "update-ref", f"refs/mergewright/board/{key}/1", "main")
    return ref


async def test_a_swarm_goes_when_it_has_been_over_for_long_and_one_that_runs_stays(kit: Kit) -> None:
    (kit.home.repository(kit.repo / ".git")).mkdir(parents=True)
    note_repository(kit.home, kit.repo / ".git")
    over, running = await swarm(kit, "over"), await swarm(kit, "running")
    (kit.home.root / "swarms" / "by-hand").mkdir()
    await kit.client.get_workflow_handle(over.swarm_id).terminate()
    assert (await cleaned(kit)).removed == []
    assert (await cleaned(kit, 29)).removed == []
    cycle = await kit.client.start_workflow(
        UnknownWorkflow.__name__, id=f"{over.swarm_id}-w.1-1", task_queue=f"nobody-{kit.task_queue}"
    )
    key = task_key(cycle.id, str(cycle.first_execution_run_id))
    note_ref(kit.home, TaskRef(task_id=cycle.id, key=key, repo=str(kit.repo), target=MAIN))
    (kit.home.run(key) / "task.json").write_text(json.dumps({"swarm": {"key": over.key}}))
    assert (await cleaned(kit, 31)).removed == []  # a cycle of it waits for an operator
    await cycle.terminate()
    done = await cleaned(kit, 31)
    assert [(one.what, over.key in one.name) for one in done.removed] == [("swarm", True)]
    assert left(done).keys() == {"by-hand"}
    assert sorted(path.name for path in (kit.home.root / "swarms").iterdir()) == ["by-hand", running.key]
    assert kit.refs() == [f"refs/mergewright/board/{running.key}/1"]
    assert [entry.id for entry in Ledger(kit.home, kit.repo / ".git").entries()] == ["running"]


async def test_locks_that_a_killed_git_has_left(kit: Kit) -> None:
    await begun(kit, "running")
    locks = [kit.repo / ".git/refs/mergewright/task/a.lock", kit.repo / ".git/refs/heads/theirs.lock"]
    for lock in locks:
        lock.parent.mkdir(exist_ok=True)
        lock.touch()
    assert (await cleaned(kit)).removed == []
    [removed] = (await cleaned(kit, 1)).removed
    assert (removed.what, [lock.exists() for lock in locks]) == ("lock", [False, True])


# --- what it must not touch ------------------------------------------------------------------------


async def test_nothing_of_a_running_task_is_touched(kit: Kit) -> None:
    ref = await begun(kit, "running")
    before = everything(kit)
    done = await cleaned(kit, 365)
    assert (done.removed, done.left) == ([], [])
    assert [name for name in everything(kit) if "/janitor" not in name] == before
    assert (kit.home.worktree(ref.key) / "work.txt").exists()


async def test_what_it_cannot_account_for_is_listed_with_a_reason_and_left(kit: Kit) -> None:
    made(kit, "of-another-server", "of-another-server.0123456789ab")
    no_record = made(kit, "no-record", "no-record.0123456789ab")
    shutil.rmtree(kit.home.run(no_record.key))
    (kit.home.root / "worktrees" / "by-hand").mkdir()
    (kit.home.root / "runs" / "by-hand").mkdir()
    (kit.home.root / "repositories" / "by-hand").mkdir(parents=True)
    held = await ended(kit, "in-use")
    before = everything(kit)
    with slot.take(kit.folder / "any", 1) as taken:  # a lock that some process holds
        shutil.copy(kit.folder / "any" / "0" / "lock", kit.home.worktree_lock(held.key))
        os.link(taken.folder / "lock", kit.folder / "linked")
        kit.home.worktree_lock(held.key).unlink()
        os.link(kit.folder / "linked", kit.home.worktree_lock(held.key))
        done = await cleaned(kit, 365)
    assert done.removed == []
    reasons = left(done)
    assert "does not know its task" in reasons["of-another-server.0123456789ab"]
    assert "no run folder" in reasons["no-record.0123456789ab"]
    assert "no run folder" in reasons["by-hand"] or "does not say" in reasons["by-hand"]
    assert sum(Path(one.name).name == "by-hand" for one in done.left) == 3
    assert any("has not ended yet" in why for why in reasons.values())
    assert set(before) <= set(everything(kit))


async def test_worktrees_of_a_repository_that_is_gone_are_left_and_its_caches_go_in_time(kit: Kit) -> None:
    ref = await ended(kit, "orphan")
    repository = open_repository(str(kit.repo))
    Site(kit.home, "here", kit.task_queue, kit.client).claim(repository)
    folder = kit.home.repository(repository.common_dir)
    with slot.take(folder / "slots", 1) as taken:
        slot.checkout(taken, repository, repository.tip(MAIN))
    shutil.rmtree(kit.repo)
    done = await cleaned(kit)
    assert done.removed == []
    assert "is gone" in left(done)[ref.key]
    assert (await cleaned(kit, 29)).removed == []
    [removed] = (await cleaned(kit, 31)).removed
    assert (removed.what, folder.exists()) == ("repository", False)
    assert (kit.home.worktree(ref.key) / "work.txt").exists()


async def test_what_is_the_matter_with_one_thing_keeps_only_that_one(kit: Kit) -> None:
    broken = await ended(kit, "broken")
    (kit.home.run(broken.key) / "settled.json").write_text("{")
    folder = kit.home.repository(kit.repo / ".git")
    (folder / "slots" / "0" / "tree").mkdir(parents=True)
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "repository.json").write_text("{")
    fine = await ended(kit, "z-fine")
    done = await cleaned(kit, 8)
    assert [fine.key in one.name for one in done.removed] == [True]
    assert left(done).keys() == {broken.key, "0", "other"}
    assert (kit.home.worktree(broken.key) / "work.txt").exists()


async def test_a_task_of_another_server_is_left_alone_whatever_this_one_knows_of_its_id(kit: Kit) -> None:
    """Two namespaces share the data folder: what one calls ended goes on in the other, under the same id."""
    config(kit, "[keep]\nsalvage_count = 0\n")
    theirs, over = await ended(kit, "both"), await ended(kit, "over")
    for ref in (theirs, over):
        note_server(kit.home, ref.key, Server(id="another", name="far:7233, namespace night"))
    settle(kit.home, over, "failed")
    before = everything(kit)
    assert await sweep(kit.client, kit.home) == 0
    done = await cleaned(kit, 365)
    assert [name for name in everything(kit) if "/janitor" not in name] == before
    assert done.removed == []
    assert {one.name for one in done.left} >= {f"2 run folders in {kit.home.root / 'runs'}"}
    assert "far:7233, namespace night" in left(done)[theirs.key]
    assert (await cleaned(kit, 800)).removed == []  # nor what was saved
    await clean(kit.client, kit.home.root, False, [theirs.task_id])  # as --over says
    assert [kit.show("work.txt", ref) for ref in kit.refs() if "both" in ref] == [f"of {theirs.task_id}"]


async def test_a_run_says_which_server_it_belongs_to(kit: Kit) -> None:
    mine = await server_of(kit.client)
    async with kit.worker():
        await kit.run(agent=kit.agent(executor=[{}]))
    [run] = known_runs(kit.home).values()
    assert run.server == mine
    await kit.client.workflow_service.register_namespace(
        RegisterNamespaceRequest(
            namespace=kit.task_queue, workflow_execution_retention_period=Duration(seconds=100_000)
        )
    )
    other = Client(kit.client.service_client, namespace=kit.task_queue)
    await eventually(lambda: server_of(other))
    assert await (await asking(other))(run.ref.task_id, run) == "elsewhere"
    assert await (await asking(kit.client))(run.ref.task_id, run) == "ended"


async def test_nor_does_it_keep_the_sweep_from_the_others(kit: Kit) -> None:
    for name in ("a", "broken", "c"):
        ref = await ended(kit, name)
        if name == "broken":
            (kit.home.run(ref.key) / "settled.json").write_text("{")
    assert await sweep(kit.client, kit.home) == 2
    assert len(kit.worktrees()) == 1


async def test_what_was_saved_in_a_repository_of_another_data_folder_is_that_one_s_affair(kit: Kit) -> None:
    config(kit, "[keep]\nsalvage_count = 0\n")
    await ended(kit, "lost")
    await cleaned(kit)
    salvages = kit.refs()
    Site(Home(kit.folder / "other"), "here", kit.task_queue, kit.client).claim(open_repository(str(kit.repo)))
    assert "salvage" not in {one.what for one in (await cleaned(kit, 365)).removed}
    assert kit.refs() == salvages


async def test_a_dry_run_tells_the_same_and_does_nothing(kit: Kit) -> None:
    config(kit, "[keep]\nsalvage_count = 0\n")
    await ended(kit, "saved")
    await cleaned(kit)
    await ended(kit, "lost")
    before = everything(kit)
    told = await cleaned(kit, 31, dry_run=True)
    assert everything(kit) == before
    assert [one.what for one in told.removed] == ["worktree", "salvage", "run"]
    assert {one.what for one in (await cleaned(kit, 31)).removed} == {"worktree", "salvage", "run"}
    assert kit.worktrees() == []


async def test_refs_of_somebody_else_among_ours_are_listed_and_keep_nothing_else(kit: Kit) -> None:
    config(kit, "[keep]\nsalvage_count = 0\n")
    ref = await ended(kit, "lost")
    folder = f"refs/mergewright/salvage/{ref.task_id}"
    theirs = {
        f"{folder}/theirs": "main",
        "refs/mergewright/salvage/a": "main",
        "refs/mergewright/salvage/blob": "main:app.py",
        "refs/mergewright/task": "main^{tree}",
        os.fsdecode(b"refs/mergewright/turn/\xff/1"): "main",
    }
    for name, what in theirs.items():
        git(kit.repo, "update-ref", name, git(kit.repo, "rev-parse", what))
    done = await cleaned(kit)
    assert [one.what for one in done.removed] == ["worktree"]
    assert {one.name.partition(" of ")[0] for one in done.left} == {
        name.replace("\udcff", r"\udcff") for name in theirs
    }
    assert "salvage" in {one.what for one in (await cleaned(kit, 31)).removed}
    assert kit.refs() == sorted(theirs)
    assert salvaged.listing(open_repository(str(kit.repo))) == []


# --- slots, and size -------------------------------------------------------------------------------


async def test_slots_go_when_nobody_has_used_them_for_long(kit: Kit) -> None:
    await begun(kit, "running")
    repository = open_repository(str(kit.repo))
    slots = kit.home.repository(repository.common_dir) / "slots"
    with slot.take(slots, 2) as first, slot.take(slots, 2) as second:
        for taken in (first, second):
            slot.checkout(taken, repository, repository.tip(MAIN))
        assert (await cleaned(kit, 8)).removed == []
    with slot.take(slots, 2):
        assert [one.name for one in (await cleaned(kit, 8)).removed] == [str(slots / "1")]
    assert ((slots / "0" / "tree").exists(), (slots / "1" / "tree").exists()) == (True, False)
    with slot.take(slots, 2) as first, slot.take(slots, 2) as second:
        assert (slot.checkout(second, repository, repository.tip(MAIN)) / "app.py").exists()


async def test_where_the_disk_is_full_caches_and_old_runs_go_earlier_but_no_salvage(kit: Kit) -> None:
    await ended(kit, "lost")
    await cleaned(kit)
    repository = open_repository(str(kit.repo))
    slots = kit.home.repository(repository.common_dir) / "slots"
    with slot.take(slots, 1) as taken:
        slot.checkout(taken, repository, repository.tip(MAIN))
    salvages = kit.refs()
    config(kit, "[disk]\ncap_gb = 0.000001\n")
    assert [one.what for one in (await cleaned(kit, 0.9)).removed] == ["slot"]
    assert [one.what for one in (await cleaned(kit, 1.1)).removed] == ["run"]
    assert kit.refs() == salvages


async def test_a_run_that_goes_on_again_stays_however_full_the_disk_is(kit: Kit) -> None:
    ref = await begun(kit, "reset")
    settle(kit.home, ref, "failed")
    await cleaned(kit)
    known = {"at": time.time(), "passed": 0, "since": {f"run {ref.key}": 0}}  # it was over when it was seen last
    kit.home.ages.write_text(json.dumps(known))
    config(kit, "[disk]\ncap_gb = 0.000001\n")
    assert (await cleaned(kit, 2)).removed == []
    assert kit.home.run(ref.key).exists()


async def test_results_and_logs_of_the_queue_go_when_they_are_old(kit: Kit) -> None:
    await begun(kit, "running")
    folder = kit.home.repository(kit.repo / ".git")
    for name, days in (
        ("results/old.json", 31),
        ("results/new.json", 29),
        ("gates/old/log", 31),
        ("gates/new/log", 29),
    ):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        for path in (file, file.parent) if file.name == "log" else (file,):
            os.utime(path, (time.time() - days * DAY,) * 2)
    assert [one.what for one in (await cleaned(kit)).removed] == ["results", "logs"]
    assert (await cleaned(kit)).removed == []
    assert sorted(path.name for path in folder.glob("*/*")) == ["new", "new.json"]


# --- by itself, and by hand ------------------------------------------------------------------------


async def eventually(look: Callable[[], Awaitable[object]]) -> None:
    """Until it is there, and no longer raises."""
    for _ in range(600):
        with contextlib.suppress(RPCError, OSError):
            if await look():
                return
        await asyncio.sleep(0.1)
    raise AssertionError("not in a minute")


async def test_the_schedule_is_made_once_and_starts_the_janitor(kit: Kit) -> None:
    kit.clean_every = timedelta(hours=1)
    schedule = kit.client.get_schedule_handle(schedule_id(kit.task_queue, "here", kit.home.root))
    ref = await ended(kit, "lost", files=False)
    async with kit.worker():
        await eventually(schedule.describe)
    await schedule.pause()
    paused = (await schedule.describe()).info.last_updated_at

    async def updated() -> bool:
        return (await schedule.describe()).info.last_updated_at != paused

    async with kit.worker():
        await eventually(updated)
        described = await schedule.describe()
        assert described.schedule.spec.intervals[0].every == timedelta(hours=1)
        assert described.schedule.state.paused
        await schedule.trigger()
        await eventually(lambda: asyncio.to_thread(kit.home.cleaned_up.read_bytes))
    done = CleanedUp.model_validate_json(kit.home.cleaned_up.read_bytes())
    assert [one for one in done.left if "is held" not in one.why] == []  # the worker's own sweep may be at it
    assert not kit.home.worktree(ref.key).exists()
    await schedule.delete()


async def test_each_data_folder_of_a_host_has_a_schedule_of_its_own_and_the_shared_one_goes(kit: Kit) -> None:
    earlier = await kit.client.create_schedule(
        f"clean-up/{kit.task_queue}@here", nothing(kit), trigger_immediately=False
    )
    await earlier.pause(note="for now")
    other = Home(kit.folder / "other")
    other.create()
    homes = (kit.home, other)
    for home in homes:
        for _ in range(2):
            await ensure_schedule(kit.client, kit.task_queue, "here", home.root, timedelta(hours=1))
    with pytest.raises(RPCError):
        await earlier.describe()
    schedules = [kit.client.get_schedule_handle(schedule_id(kit.task_queue, "here", home.root)) for home in homes]
    assert [(await each.describe()).schedule.state.paused for each in schedules] == [True, False]
    async with kit.worker():
        await schedules[1].trigger()
        await eventually(lambda: asyncio.to_thread(other.cleaned_up.read_bytes))
    assert not kit.home.cleaned_up.exists()
    for each in schedules:
        await each.delete()


def nothing(kit: Kit) -> Schedule:
    action = ScheduleActionStartWorkflow("Nothing", id="nothing", task_queue=kit.task_queue)
    return Schedule(action=action, spec=ScheduleSpec())


async def test_a_clean_up_of_a_data_folder_that_is_gone_says_so(kit: Kit) -> None:
    activities = JanitorActivities(Site(kit.home, "here", kit.task_queue, kit.client))
    with pytest.raises(ApplicationError, match="here has no data folder /gone any more"):
        await activities.clean_up(CleanUpInput(host="here", home="/gone"))


async def test_an_operator_cleans_up_and_sees_what_is_left(kit: Kit) -> None:
    assert cleaned_up(kit.home.root) == []
    await ended(kit, "lost")
    made(kit, "elsewhere", "elsewhere.0123456789ab")
    flags = ("--home", str(kit.home.root))
    told = await starter(kit, "clean", *flags)
    assert "removed worktree" in told
    assert "left alone" in told
    assert len(kit.worktrees()) == 1
    [finding] = cleaned_up(kit.home.root)
    assert finding.state == "warning"
    assert "does not know its task elsewhere" in finding.text
    assert "starter.py clean --over elsewhere" in finding.text
    await clean(kit.client, kit.home.root, False, ["elsewhere"])  # as --over says
    assert kit.worktrees() == []
    assert [kit.show("work.txt", ref) for ref in kit.refs() if "elsewhere" in ref] == ["of elsewhere"]
    assert [finding.state for finding in cleaned_up(kit.home.root)] == ["ok"]


async def test_a_policy_that_makes_no_sense_is_told(kit: Kit) -> None:
    config(kit, "[keep]\nsalvage_days = -1\n")
    with pytest.raises(BadConfig, match=r"keep\.salvage_days"):
        await cleaned(kit)


async def test_what_set_up_keeps_goes_when_it_is_not_used(kit: Kit) -> None:
    """Caches by age, the ports of a slot that is gone, and nothing of a task that runs."""
    running = await begun(kit, "a-task")  # of the same second, the last name counts as the newest
    worktree, gone = kit.home.worktree(running.key), kit.home.root / "repositories" / "x" / "slots" / "0" / "tree"
    for tree in (worktree, gone):
        ports.claim(kit.home, str(tree), 2, PortRange())
    kit.home.worktree(running.key).with_name(f".{running.key}.extras").write_text("{}")
    repository = open_repository(running.repo)
    note_repository(kit.home, repository.common_dir)
    kept = kit.home.setups(repository.common_dir) / "abc"
    for folder in (kept, setup_cache.making(kept.with_name("def"))):
        (folder / "0").mkdir(parents=True)
    done = await cleaned(kit)
    assert [one.what for one in done.removed] == ["ports"]
    assert done.left == []
    assert ports.holders(kit.home) == [str(worktree)]
    kept.with_suffix(".lock").touch()
    with exclusive(kept.with_suffix(".lock")):
        await cleaned(kit, 8)
        assert [path.name for path in setup_cache.kept_in(kept.parent)] == ["abc"]
    assert [one.what for one in (await cleaned(kit, 8)).removed] == ["set-up"]
    assert setup_cache.kept_in(kept.parent) == {}
    assert worktree.with_name(f".{running.key}.extras").exists()
