"""A task that is a worker's cycle: what it claims, what it is told, what lands of it, and what its swarm hears."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.contracts import CollectInput, TaskRef
from activities.cycles import findings, only_tasks
from activities.swarm.cards import Cards
from activities.swarm.contracts import Card, Refused
from activities.swarm.ledger import Ledger
from tests.git.repos import git
from tests.kit import PATIENCE, Kit, status_when
from tests.test_agent_tools import answers, calling
from workflows.contracts import Stage, TaskResult
from workflows.swarm_contracts import ClaimAnswer, ClaimRequest, CycleNote, CycleReport, Proposed

KEY = "swarm.1"
DONE = "COMPLETE_AND_READY_FOR_MERGE"
GATE = {"name": "never", "command": "false"}


@workflow.defn
class StandIn:
    """A board that gives each task to the first who claims it, and remembers what it was told."""

    def __init__(self) -> None:
        self.free: dict[str, str] = {}
        self.told: list[str] = []

    @workflow.run
    async def run(self, free: dict[str, str]) -> None:
        self.free = free | self.free
        await workflow.wait_condition(lambda: False)

    @workflow.signal
    async def claim(self, request: ClaimRequest) -> None:
        got = [name for name in request.ids if name in self.free]
        titles = [self.free.pop(name) for name in got]
        answer = ClaimAnswer(
            request=request.request,
            got=got,
            titles=titles,
            refused=[Refused(id=name, why="taken by worker-9") for name in request.ids if name not in got],
            left=[{"id": name, "title": title} for name, title in self.free.items()],
            left_count=len(self.free),
        )
        await workflow.get_external_workflow_handle(request.cycle).signal("claim_answer", answer)

    @workflow.signal
    def cycle_note(self, note: CycleNote) -> None:
        self.told.append(f"note: {note.blocked}")

    @workflow.signal
    def cycle_ended(self, report: CycleReport) -> None:
        self.told.append(f"ended: {report.result.outcome}")

    @workflow.signal
    def propose(self, proposed: Proposed) -> None:
        self.told.append(f"proposed: {proposed.card.id} by {proposed.card.source}")

    @workflow.query
    def heard(self) -> list[str]:
        return self.told


class Swarm:
    def __init__(self, kit: Kit, handle: WorkflowHandle[Any, Any]) -> None:
        self.kit, self.handle = kit, handle

    def card(self, name: str, **fields: Any) -> None:
        card = Card(id=name, title=f"Do {name}", **fields)
        assert Cards(self.kit.home.swarm(KEY)).add([card]) == []

    async def start(
        self, agent: dict[str, Any], member: dict[str, Any], **fields: Any
    ) -> WorkflowHandle[Any, TaskResult]:
        swarm = {"swarm": self.handle.id, "key": KEY, "worker": "worker-1", "cycle": 1, **member}
        return await self.kit.start(self.kit.input(agent=agent, swarm=swarm, **fields))

    async def run(self, agent: dict[str, Any], member: dict[str, Any], **fields: Any) -> TaskResult:
        handle = await self.start(agent, member, **fields)
        return await asyncio.wait_for(handle.result(), PATIENCE)

    async def told(self) -> list[str]:
        found: list[str] = await self.handle.query("heard")
        return found

    def prompts(self, name: str = "prompt.md") -> list[str]:
        return [path.read_text() for path in sorted((self.kit.home.root / "runs").glob(f"*/turns/*/{name}"))]

    def ledger(self) -> list[str]:
        entries = Ledger(self.kit.home, self.kit.repo / ".git").entries()
        return [
            entry.id for entry in entries if entry.done and entry.done.sha == git(self.kit.repo, "rev-parse", "main")
        ]


@contextlib.asynccontextmanager
async def a_swarm(kit: Kit, **free: str) -> AsyncIterator[Swarm]:
    """With the worker that does its cycles."""
    queue = f"{kit.task_queue}-swarm"
    runner = UnsandboxedWorkflowRunner()
    serving = Worker(kit.client, task_queue=queue, workflows=[StandIn], workflow_runner=runner)
    async with serving, kit.worker():
        name = f"swarm-{uuid.uuid4().hex[:8]}"
        handle = await kit.client.start_workflow(StandIn.run, free, id=name, task_queue=queue)
        yield Swarm(kit, handle)


@pytest.mark.long
async def test_what_was_claimed_for_it_lands_and_is_told(kit: Kit) -> None:
    agent = kit.agent(
        executor=[{"say": "NEEDS_INPUT Which?"}, {"write": {"a.txt": "x\n"}}], reviewer=[{"say": "VERDICT: APPROVED"}]
    )
    async with a_swarm(kit) as swarm:
        swarm.card("a", description="Make a.", acceptance=["there is an a"], files=["a.txt"])
        swarm.card("b", description="And b.")
        handle = await swarm.start(agent, {"claims": ["a", "b"]}, reviewers=[agent])
        asks = await status_when(handle, lambda now: now.stage is Stage.QUESTION)
        assert (asks.swarm, asks.worker, asks.holds) == (swarm.handle.id, "worker-1", ["a", "b"])
        await handle.execute_update("answer", "this")
        result = await asyncio.wait_for(handle.result(), PATIENCE)
        assert result.outcome == "merged"
        assert await swarm.told() == ["note: the agent asks: Which?", "note: ", "ended: merged"]
    assert swarm.ledger() == ["a", "b"]
    first, _, review = swarm.prompts()
    for prompt in (first, review):
        assert "## a: Do a\n\nMake a.\n" in prompt
        assert "there is an a" in prompt
        assert "And b." in prompt
    assert "CLAIM" not in swarm.prompts("system.md")[0]
    kit.assert_clean()


async def test_an_agent_claims_in_its_session(kit: Kit) -> None:
    """Some is refused; the second claim adds to the first; nobody who has nothing is done."""
    steps = [
        {"say": DONE},
        {"say": "CLAIM(z)"},
        {"say": "I take these.\nCLAIM(a, b)\nCLAIM(y)"},
        {"write": {"a.txt": "x\n"}, "say": "CLAIM(c)"},
        {},
    ]
    member = {"may_claim": True, "open": [{"id": "a", "title": "Do a", "priority": 90}], "counts": {"pending": 4}}
    async with a_swarm(kit, a="Do a", b="Do b", c="Do c", d="Do d") as swarm:
        for name in "abc":
            swarm.card(name, description=f"All of {name}.")
        result = await swarm.run(kit.agent(executor=steps), member)
        assert await swarm.told() == ["ended: merged"]
    assert (result.outcome, result.turns) == ("merged", 5)
    assert swarm.ledger() == ["a", "b", "c"]
    assert "Do a; Do b; Do c" in git(kit.repo, "log", "--format=%s", "main")
    start, unclaimed, none, some, more = swarm.prompts()
    assert "- a: Do a, priority 90" in start
    assert "CLAIM(id, id)" in swarm.prompts("system.md")[0]
    assert "hold no task of the board" in unclaimed
    assert "You have got none" in none
    assert "z: taken by worker-9" in none
    assert "NOTHING_TO_CLAIM" in none
    assert "All of a." in some
    assert "- y: taken by worker-9" in some
    assert "- c: Do c\n- d: Do d" in some
    assert "# Task" not in some, "it is resumed"
    assert "All of c." in more
    assert "All of a." not in more
    assert "(a, b, c)" in more


@pytest.mark.long
async def test_a_diff_of_task_files_alone_lands_at_once(kit: Kit) -> None:
    """FEATURES A8; and a planner changes nothing else."""
    task = json.dumps({"id": "new", "summary": "New"})
    bad = "tasks/pending/bad.json"
    steps = {
        "executor": [{"write": {"tasks/pending/new.json": task, "app.py": "VALUE = 2\n", bad: "{"}, "say": "__DONE__"}],
        "fixer": [{"shell": "git checkout origin/main -- app.py; rm " + bad}],
        "reviewer": [{"say": "VERDICT: NEEDS_CHANGES"}],
    }
    planner = kit.agent(**steps)
    async with a_swarm(kit) as swarm:
        member = {"plans": True, "spec": "spec.md", "max_new_tasks": 1}
        result = await swarm.run(planner, member, reviewers=[planner], gates=[GATE])
        assert (result.outcome, result.turns) == ("merged", 2)
        assert kit.show("tasks/pending/new.json") == task
        assert kit.show("app.py") == "VALUE = 1"
        sent_back = swarm.prompts()[1]
        assert "app.py | is no file of a task" in sent_back
        assert "tasks/pending/bad.json | is not JSON" in sent_back
        assert "2 tasks, and 1 may be added now" in sent_back
        work = {"title": "Add it", "description": "All of it."}
        calls, out = calling(kit, "plans", *(("propose_task", {**work, **more}) for more in ({}, {"id": "x"})))
        nothing = await swarm.run(kit.agent(executor=[{"shell": calls}]), member)
        assert nothing.outcome == "no-changes"
        first, last = answers(out)
        assert first == "proposed to the board as add-it-325dc8; go on"
        assert last == "REFUSED: no more than 1 in one turn: propose the others when you plan again"
        assert (await swarm.told())[1:2] == ["proposed: add-it-325dc8 by planner"]
        agent = kit.agent(executor=[{"write": {"tasks/pending/x.json": '{"title": "X"}'}}])
        adds = await swarm.run(agent, {"may_claim": True, "can_plan": True}, gates=[GATE])
        assert adds.outcome == "merged"
    assert any("`spec.md` says what is wanted" in prompt for prompt in swarm.prompts())


@pytest.mark.long
async def test_who_cannot_plan_changes_no_task(kit: Kit) -> None:
    write = {"write": {"tasks/pending/x.json": "{}", "a.txt": "x\n"}}
    agent = kit.agent(executor=[write], fixer=[{"delete": ["tasks/pending/x.json"]}])
    async with a_swarm(kit) as swarm:
        swarm.card("a")
        assert (await swarm.run(agent, {"claims": ["a"]})).outcome == "merged"
        assert "tasks/pending/x.json | is a task of the board" in swarm.prompts()[1]


@pytest.mark.parametrize(
    ("may", "files", "paths"),
    [
        ("free", ["tasks/pending/bad.json", "app.py"], []),
        ("none", ["tasks/pending/ok.json", "tasks/pending/sub/x", "tasks/readme", "app.py"], ["ok.json", "sub/x"]),
        ("may", ["tasks/pending/ok.json", "tasks/pending/gone.json", "tasks/pending/bad.json", "a"], ["bad.json"]),
        ("only", ["tasks/pending/ok.json", "tasks/pending/sub/x.json"], ["sub/x.json"]),
        ("only", ["tasks/pending/ok.json", "tasks/pending/gone.json"], [""]),
    ],
)
def test_which_files_a_worker_may_change(may: Any, files: list[str], paths: list[str]) -> None:
    there = {"tasks/pending/ok.json": b'{"id": "ok", "summary": "Do it"}', "tasks/pending/bad.json": b"{"}
    ref = TaskRef(task_id="t", key="k", repo="/r", target="refs/heads/main")
    given = CollectInput(ref=ref, message="m", task_files=may, max_new_tasks=1)
    found = findings(given, files, there.get, "main")
    assert [one.path.removeprefix("tasks/pending/") for one in found] == paths
    assert all(one.severity == "mend" and one.remedy for one in found)


def test_a_planner_adds_no_more_by_lists_of_tasks() -> None:
    ref = TaskRef(task_id="t", key="k", repo="/r", target="refs/heads/main")
    given = CollectInput(ref=ref, message="m", task_files="only", max_new_tasks=2)
    many = json.dumps([{"id": f"t{number}", "summary": "x"} for number in range(3)]).encode()
    assert [one.text for one in findings(given, ["tasks/pending/a.json"], lambda _: many, "main")] == [
        "3 tasks, and 2 may be added now"
    ]


def test_only_files_right_in_the_folder_are_tasks() -> None:
    assert only_tasks(["tasks/pending/a.json", "tasks/pending/b.json"])
    for other in ("tasks/pending/a/b.json", "tasks/complete/a.json", "tasks/pending/a.md", "x/tasks/pending/a.json"):
        assert not only_tasks(["tasks/pending/a.json", other])
    assert not only_tasks([])


@pytest.mark.long
async def test_nothing_suits_it(kit: Kit) -> None:
    async with a_swarm(kit) as swarm:
        agent = kit.agent(executor=[{"say": "__DONE__"}, {"say": "NOTHING_TO_CLAIM all of it needs a Mac"}])
        result = await swarm.run(agent, {"may_claim": True})
        assert (result.outcome, result.reason) == ("no-changes", "nothing to claim: all of it needs a Mac")
        assert "CLAIM(id, …), NOTHING_TO_CLAIM, COMPLETE" in swarm.prompts()[1]
        done = kit.agent(executor=[{"write": {"a.txt": "x\n"}}])
        handle = await swarm.start(done, {"may_claim": True}, limits={"max_working_resumes": 1})
        blocked = await status_when(handle, lambda now: now.blocked is not None)
        assert blocked.blocked is not None
        assert blocked.blocked.reason == "stuck"
        await handle.signal("abandon")
        assert (await asyncio.wait_for(handle.result(), PATIENCE)).outcome == "abandoned"
        sleeper = await swarm.start(kit.agent(executor=[{"sleep": 600}]), {"may_claim": True})
        await status_when(sleeper, lambda now: now.stage is Stage.WORK)
        await sleeper.cancel()
        assert (await asyncio.wait_for(sleeper.result(), PATIENCE)).outcome == "cancelled"
        with pytest.raises(WorkflowFailureError):
            await swarm.run(done, {"may_claim": True}, target="nowhere")
        told = await swarm.told()
    assert told == [
        "ended: no-changes",
        "note: stuck: done 2 times without a task of the board",
        "ended: abandoned",
        "ended: cancelled",
        "ended: failed",
    ]


async def test_a_swarm_that_is_gone_takes_no_work_with_it(kit: Kit) -> None:
    async with a_swarm(kit) as swarm:
        swarm.card("a")
        await swarm.handle.terminate()
        steps = [{"write": {"a.txt": "x\n"}, "say": "CLAIM(b)"}, {}]
        result = await swarm.run(kit.agent(executor=steps), {"claims": ["a"], "may_claim": True})
        assert result.outcome == "merged"
        assert "The swarm is over" in swarm.prompts()[1]
        with pytest.raises(WorkflowFailureError) as failed:
            await swarm.run(kit.agent(executor=[{"say": "CLAIM(b)"}]), {"may_claim": True})
        assert "the swarm is over" in str(failed.value.cause)
    assert swarm.ledger() == ["a"]
