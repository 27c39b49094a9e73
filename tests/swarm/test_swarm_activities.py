"""What a swarm's activities do, with real git and a real Temporal server."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sys
import uuid
from typing import Any

import pytest
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from activities.contracts import OpenQuotaInput, TaskRef, quota_id
from activities.git.repository import open_repository
from activities.home import task_key
from activities.merging import queue_id
from activities.overlaps import note_ref
from activities.prepare import PrepareActivities
from activities.settings import INVALID_TASK
from activities.site import Site
from activities.swarm import ledger
from activities.swarm.cards import Cards
from activities.swarm.contracts import (
    Card,
    FinishInput,
    Looked,
    LookInput,
    Mirrored,
    MirrorInput,
    OpenedSwarm,
    OpenSwarmInput,
    Refused,
    SwarmRef,
    TakeInInput,
    TakenIn,
)
from activities.swarm.swarm import SwarmActivities
from tests.git.repos import git, write
from tests.kit import PATIENCE, Kit
from workflows.contracts import LandResult, LeaseRequest
from workflows.land import LandWorkflow
from workflows.unknown import UnknownWorkflow

pytestmark = pytest.mark.asyncio(loop_scope="session")

MAIN = "refs/heads/main"
AGENT = {"runtime": "command", "command": [sys.executable, "-c", "pass"]}


class Swarm:
    """One run of a swarm's workflow that nobody serves, and the activities for it."""

    def __init__(self, kit: Kit, name: str = "swarm") -> None:
        self.kit = kit
        self.id = f"{name}-{kit.task_queue}"
        self.activities = SwarmActivities(Site(kit.home, "here", kit.task_queue, kit.client))
        self.ref = SwarmRef(swarm_id=self.id, key="", repo="", target="")
        self.number = 0

    async def open(self, **given: Any) -> OpenedSwarm:
        handle = await self.kit.client.start_workflow(
            UnknownWorkflow.__name__, id=self.id, task_queue=f"nobody-{self.kit.task_queue}"
        )
        run_id = handle.first_execution_run_id
        assert run_id is not None
        wanted = {"repo": str(self.kit.repo), "workers": [{"agent": AGENT}], **given}
        asked = OpenSwarmInput(swarm_id=self.id, run_id=run_id, given=wanted)
        opened: OpenedSwarm = await self.run(self.activities.open_swarm, asked)
        self.ref = opened.ref
        return opened

    async def cycle(self, name: str) -> WorkflowHandle[Any, Any]:
        """A task of the swarm that runs as far as the server and its run folder say."""
        handle = await unserved(self.kit, f"{self.id}-{name}")
        key = task_key(handle.id, str(handle.first_execution_run_id))
        note_ref(self.kit.home, TaskRef(task_id=handle.id, key=key, repo=str(self.kit.repo), target="refs/heads/main"))
        (self.kit.home.run(key) / "task.json").write_text(json.dumps({"swarm": {"key": self.ref.key}}))
        return handle

    async def end(self) -> None:
        await self.kit.client.get_workflow_handle(self.id).terminate()

    async def run(self, function: Any, *args: Any, again: bool = False) -> Any:
        """As an activity of its own, or as another attempt of the last one."""
        self.number += not again
        environment = ActivityEnvironment()
        environment.info = dataclasses.replace(environment.info, activity_id=str(self.number))
        return await environment.run(function, *args)

    async def take_in(self, upto: int = 0, *cards: Card, again: bool = False) -> TakenIn:
        asked = TakeInInput(ref=self.ref, upto=upto, cards=list(cards))
        taken: TakenIn = await self.run(self.activities.take_in, asked, again=again)
        return taken

    async def mirror(self, number: int, places: dict[str, Any], **more: Any) -> Mirrored:
        asked = MirrorInput(ref=self.ref, places=places, number=number, **more)
        mirrored: Mirrored = await self.run(self.activities.mirror, asked)
        return mirrored

    def done(self, *ids: str, sha: str = "main") -> None:
        """As the task's side says when its work is on the target."""
        commit = git(self.kit.repo, "rev-parse", sha)
        ledger.done(self.kit.home, self.kit.repo / ".git", self.id, self.ref.key, ids, commit)


def commit(kit: Kit, **tasks: dict[str, Any] | str | None) -> None:
    """Files of tasks, by their names."""
    contents = {
        f"tasks/pending/{name}.json": json.dumps({"id": name, "summary": f"do {name}", **task})
        if isinstance(task, dict)
        else task
        for name, task in tasks.items()
    }
    write(kit.repo, contents)
    git(kit.repo, "add", "-A")
    git(kit.repo, "commit", "-qm", "tasks")


def ids(taken: TakenIn) -> list[str]:
    return [row.id for row in taken.rows]


async def unserved(kit: Kit, name: str = "") -> WorkflowHandle[Any, Any]:
    """A task that runs as far as the server knows."""
    name = name or f"cycle-{uuid.uuid4().hex[:8]}"
    return await kit.client.start_workflow("TaskWorkflow", kit.input(), id=name, task_queue=f"nobody-{kit.task_queue}")


async def holds_something(queue: WorkflowHandle[Any, Any]) -> None:
    """Until then."""
    for _ in range(PATIENCE * 10):
        with contextlib.suppress(RPCError):  # it does not run yet
            if (await queue.query("queue"))["places"]:
                return
        await asyncio.sleep(0.1)
    raise AssertionError(f"nothing in {queue.id}")


async def test_a_swarm_is_opened_once_with_the_settings_of_the_repository(kit: Kit) -> None:
    write(kit.repo, {"swarm.toml": '[task]\nlabels = ["night"]\n', "other.toml": "max_tries = 7\n"})
    git(kit.repo, "add", "-A")
    git(kit.repo, "commit", "-qm", "settings")
    swarm = Swarm(kit)
    opened = await swarm.open(target="main")
    assert opened.settings.task == {"labels": ["night"]}
    assert opened.settings.target == "main"
    assert opened.ref.target == "refs/heads/main"
    assert await swarm.take_in(0, Card(id="a", title="first")) == await swarm.take_in()
    asked = OpenSwarmInput(
        swarm_id=swarm.id,
        run_id=f"x{opened.ref.key.rpartition('.')[2]}",
        given={"repo": str(kit.repo), "workers": [{"agent": AGENT}], "file": "other.toml"},
    )
    again: OpenedSwarm = await swarm.run(swarm.activities.open_swarm, asked)
    assert again.ref == opened.ref
    assert again.settings.max_tries == 7
    assert ids(await swarm.take_in()) == ["a"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"repo": "/nowhere"}, "repo: /nowhere does not exist"),
        ({"file": "swarms.toml"}, "file: swarms.toml is not on the target branch"),
        ({"target": "gone"}, "target: "),
        ({"wrokers": []}, "input: wrokers: unknown field"),
        ({"task": {"limits": {"max_turns": 1}}}, "task: limits.max_turns: unknown field"),
        ({"task": {"gates": [{"name": "t", "command": "nothing-such"}]}}, "task.gates.0.command: nothing-such"),
        ({"workers": [{"agent": {"runtime": "command", "command": ["/nothing/such"]}}]}, "workers.0.agent"),
        ({"planner": {"agent": "nobody:x"}}, "planner.agent"),
        ({"workers": [{"agent": AGENT, "prompts": "gone.md"}]}, "workers.0.prompts: gone.md is not"),
        ({"continues": "never-was"}, "continues: never-was: this data folder knows no swarm"),
    ],
)
async def test_what_a_user_must_mend_is_one_line_that_names_the_field(
    kit: Kit, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ApplicationError) as refused:
        await Swarm(kit).open(**given)
    assert (refused.value.type, refused.value.non_retryable) == (INVALID_TASK, True)
    assert words in refused.value.message
    assert "\n" not in refused.value.message


async def test_a_name_of_which_no_tasks_could_be_made_is_refused(kit: Kit) -> None:
    with pytest.raises(ApplicationError, match="workflow id: must have at most 200 characters"):
        await Swarm(kit, "x" * 200).open()


async def test_files_are_taken_in_and_what_is_wrong_with_one_is_told_once_for_its_content(kit: Kit) -> None:
    write(kit.repo, {"tasks/pending/old.edn": '{:id "old"}'})
    commit(kit, a={"priority": 3}, b={"depends_on": ["a", "x"]}, bad="{")
    swarm = Swarm(kit)
    await swarm.open()
    taken = await swarm.take_in()
    assert ids(taken) == ["a", "b"]
    assert taken.upto == 2
    assert [one.id for one in taken.refused] == ["tasks/pending/bad.json", "tasks/pending/old.edn"]
    assert await swarm.take_in(again=True) == taken  # the worker had died before it could answer
    later = await swarm.take_in(taken.upto)
    assert (later.rows, later.upto, later.refused) == ([], 2, [])
    commit(kit, bad="[[[", c={}, a={"description": "another one"})
    third = await swarm.take_in(later.upto)
    assert ids(third) == ["c"]
    assert [one.id for one in third.refused] == ["tasks/pending/a.json", "tasks/pending/bad.json"]
    assert "id: a is another task on the board" in third.refused[0].why


async def test_no_task_is_taken_in_that_another_swarm_has_or_that_is_done(kit: Kit) -> None:
    commit(kit, a={}, b={}, c={"depends_on": ["b"]})
    first, second = Swarm(kit, "first"), Swarm(kit, "second")
    await first.open()
    assert ids(await first.take_in()) == ["a", "b", "c"]
    await second.open()
    refused = [Refused(id=name, why=f"swarm {first.id} has it") for name in "abc"]
    taken = await second.take_in()
    assert (taken.rows, taken.refused) == ([], refused)
    git(kit.repo, "commit", "-q", "--allow-empty", "-m", "work for a and b")
    first.done("a", "b")
    cycle = await first.cycle("worker-1.1-1")
    await first.end()
    assert ids(await second.take_in()) == []  # a cycle goes on
    with pytest.raises(ApplicationError, match=rf"{cycle.id}, which {first.id} began, is not over"):
        await Swarm(kit, "third").open(continues=first.id)
    await cycle.terminate()
    taken = await second.take_in()
    assert (ids(taken), taken.rows[0].after, taken.refused) == (["c"], [], [])
    git(kit.repo, "reset", "-q", "--hard", "HEAD~1")  # the work is thrown away
    assert sorted(ids(await second.take_in(taken.upto))) == ["a", "b"]


async def test_a_swarm_goes_on_with_what_an_earlier_one_has_left_open(kit: Kit) -> None:
    commit(kit, a={}, b={})
    first = Swarm(kit, "first")
    await first.open()
    await first.take_in(0, Card(id="c", title="by hand"), Card(id="d", title="by hand"))
    first.done("a")
    await first.run(first.activities.finish, FinishInput(ref=first.ref, board={"b": "blocked", "c": "pending"}))
    second = Swarm(kit, "second")
    with pytest.raises(ApplicationError, match="is not over"):
        await second.open(continues=first.id)
    await second.end()
    await first.end()
    opened = await second.open(continues=first.id)
    assert opened.notes == [f"2 tasks that {first.id} has left open are on the board"]
    taken = await second.take_in()
    assert ids(taken) == ["b", "c"]
    assert taken.refused == []


async def test_looking_tells_how_accounts_stand_and_how_cycles_have_ended(kit: Kit) -> None:
    swarm = Swarm(kit)
    await swarm.open()
    kit.configure('[accounts."anthropic/work"]\nslots = 2\n')
    async with kit.worker():
        await PrepareActivities(swarm.activities.site).open_quota(OpenQuotaInput(quota="anthropic/work"))
        quota = kit.client.get_workflow_handle(quota_id("anthropic/work", kit.task_queue))
        await quota.signal("lease", LeaseRequest(lease="1", holder=swarm.id, what="executor turn 1"))
        merged = await kit.start(kit.input(agent=kit.agent(executor=[{"write": {"x": "1"}}])))
        failed = await kit.start(kit.input(agent={"runtime": "command", "command": ["/nothing/such"]}))
        await asyncio.wait_for(merged.result(), PATIENCE)
        with pytest.raises(Exception, match="failed"):
            await failed.result()
        running = await unserved(kit)
        dead, landed = await unserved(kit), await unserved(kit)
        for handle in (dead, landed):
            await handle.terminate()
        git(kit.repo, "commit", "-q", "--allow-empty", "-m", f"Merge task 'x'\n\nTask-Id: {landed.id}\nMerge-Op: 1")
        asked = LookInput(
            ref=swarm.ref,
            accounts=["nobody/knows", "anthropic/work"],
            cycles=[merged.id, failed.id, running.id, dead.id, landed.id, "forgotten"],
            held={dead.id: ["a"], landed.id: ["b"]},
        )
        looked = await swarm.run(swarm.activities.look, asked)
    await running.terminate()
    assert {name: seen.free for name, seen in looked.accounts.items()} == {"nobody/knows": None, "anthropic/work": 1}
    assert looked.room == ""
    ends = {end.cycle: end for end in looked.ended}
    assert {cycle: end.outcome for cycle, end in ends.items()} == {
        merged.id: "merged",
        failed.id: "failed",
        dead.id: "terminated",
        landed.id: "merged",
        "forgotten": "terminated",
    }
    assert ends[merged.id].result is not None
    assert ends[landed.id].sha == git(kit.repo, "rev-parse", "main")
    entries = ledger.Ledger(kit.home, kit.repo / ".git").entries()
    assert [(entry.id, entry.done and entry.done.sha) for entry in entries] == [("b", ends[landed.id].sha)]


async def test_a_cycle_that_was_ended_with_work_in_the_merge_queue_is_over_when_the_queue_lets_go_of_it(
    kit: Kit,
) -> None:
    swarm = Swarm(kit)
    await swarm.open()
    agent = kit.agent(executor=[{"write": {"x": "1"}}])
    async with kit.worker():
        cycle = await kit.start(kit.input(agent=agent, delivery={"after": ["a-task-that-never-lands"]}))
        queue = kit.client.get_workflow_handle(queue_id(open_repository(str(kit.repo)), MAIN, kit.task_queue))
        await holds_something(queue)
        await cycle.terminate()
        asked = LookInput(ref=swarm.ref, cycles=[cycle.id])
        assert (await swarm.run(swarm.activities.look, asked)).ended == []
        looked = Looked()
        while not looked.ended:
            await asyncio.sleep(0.1)
            looked = await swarm.run(swarm.activities.look, asked)
    assert [(end.cycle, end.outcome) for end in looked.ended] == [(cycle.id, "terminated")]


async def test_the_board_is_written_to_the_target_through_the_merge_queue(kit: Kit) -> None:
    commit(kit, a={"summary": "do a", "theirs": [1]}, b={}, c={})
    write(kit.repo, {"tasks/complete/b.json": '{"id": "old", "summary": "of somebody else"}'})
    git(kit.repo, "add", "-A")
    git(kit.repo, "commit", "-qm", "a file that is not the board's")
    swarm = Swarm(kit)
    await swarm.open()
    await swarm.take_in(0, Card(id="d", title="by hand", after=["a"]))
    places = {"a": "current", "b": "complete", "c": "pending", "d": "pending"}
    mirrored = await swarm.mirror(1, places, holders={"a": "cycle-1"}, done_by={"b": "worker-1.1"})
    assert await swarm.mirror(1, places) == mirrored
    assert mirrored.files == 5
    async with kit.worker():
        request = {
            "repo": str(kit.repo),
            "branch": mirrored.branch,
            "target": "main",
            "strategy": "squash",
            "gates": [],
        }
        landing = await kit.client.start_workflow(
            LandWorkflow.__name__,
            request,
            id=f"{swarm.id}-board-1",
            task_queue=kit.task_queue,
            result_type=LandResult,
        )
        result = await asyncio.wait_for(landing.result(), PATIENCE)
        assert result.outcome == "merged"
    files = git(kit.repo, "ls-tree", "-r", "--name-only", "main", "tasks/").splitlines()
    assert files == [
        "tasks/complete/b.json",
        f"tasks/complete/b.{swarm.ref.key}.json",
        "tasks/current/a.json",
        "tasks/pending/c.json",
        "tasks/pending/d.json",
    ]
    assert json.loads(kit.show("tasks/current/a.json")) == {
        "id": "a", "summary": "do a", "theirs": [1], "claimed_by": "cycle-1"
    }  # fmt: skip
    assert await swarm.mirror(2, places, holders={"a": "cycle-1"}, done_by={"b": "worker-1.1"}) == Mirrored()
    assert (await swarm.take_in(4)).refused == []
    assert kit.refs("refs/mergewright/board") == []
    back = await swarm.mirror(3, {"a": "pending"})
    assert (await swarm.mirror(4, {"a": "pending"})).head == back.head
    assert kit.refs("refs/mergewright/board") == [f"refs/mergewright/board/{swarm.ref.key}/4"]
    assert git(kit.repo, "show", f"{back.head}:tasks/pending/a.json").count("claimed_by") == 0
    await swarm.run(swarm.activities.finish, FinishInput(ref=swarm.ref, board={}))
    assert kit.refs("refs/mergewright/board") == []


async def test_a_file_of_the_repositorys_swarm_is_nobodys_when_the_swarm_is_over(kit: Kit) -> None:
    commit(kit, a={})
    swarm = Swarm(kit)
    await swarm.open()
    await swarm.take_in()
    entry = ledger.Ledger(kit.home, open_repository(str(kit.repo)).common_dir).entry
    assert entry("a").claim is not None
    await swarm.run(swarm.activities.finish, FinishInput(ref=swarm.ref, board={"a": "pending"}))
    assert entry("a").claim is None
    assert [card.id for card in Cards(kit.home.swarm(swarm.ref.key)).all()] == ["a"]


async def test_what_a_cycle_holds_after_its_swarm_is_over_is_begun_by_no_other(kit: Kit) -> None:
    commit(kit, a={}, b={})
    swarm, other = Swarm(kit), Swarm(kit, "other")
    await swarm.open()
    await swarm.take_in()
    cycle = await swarm.cycle("w.1-1")
    await swarm.run(
        swarm.activities.finish, FinishInput(ref=swarm.ref, board={"a": "blocked", "b": "pending"}, held=["a"])
    )
    await swarm.end()
    await other.open()
    assert ids(await other.take_in()) == ["b"]
    await cycle.terminate()
    assert ids(await other.take_in(1)) == ["a"]


async def test_what_landed_of_a_cycle_that_could_not_say_so_is_done_if_it_is_more_than_tasks(kit: Kit) -> None:
    swarm = Swarm(kit)
    await swarm.open()
    await swarm.take_in(0, Card(id="a", title="A"), Card(id="b", title="B"))
    built, planned = await unserved(kit), await unserved(kit)
    for cycle, file in ((built, "a.py"), (planned, "tasks/pending/c.json")):
        await cycle.terminate()
        git(kit.repo, "checkout", "-qb", cycle.id)
        write(kit.repo, {file: "{}"})
        git(kit.repo, "add", "-A")
        git(kit.repo, "commit", "-qm", "work")
        git(kit.repo, "checkout", "-q", "main")
        git(kit.repo, "merge", "-q", "--no-ff", "-m", f"Merge task 'x'\n\nTask-Id: {cycle.id}", cycle.id)
    held = {built.id: ["a"], planned.id: ["b"]}
    looked = await swarm.run(swarm.activities.look, LookInput(ref=swarm.ref, cycles=[built.id, planned.id], held=held))
    assert [end.outcome for end in looked.ended] == ["merged", "planned"]
    entry = ledger.Ledger(kit.home, open_repository(str(kit.repo)).common_dir).entry
    assert entry("a").done is not None
    assert entry("b").done is None
