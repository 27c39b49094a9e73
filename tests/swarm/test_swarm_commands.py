"""The commands for swarms, as they are typed, against a server and a swarm that only answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import tomllib
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from typer.testing import CliRunner

import starter
from activities.settings import TaskSettings
from activities.swarm.settings import PlannerSpec, SwarmSettings, WorkerSpec
from console import swarm_inputs, swarm_look
from console.glance import RUNNING
from console.swarm_commands import add_to
from tests.swarm.stub import LINES, StubSwarm, StubTask

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 400
"""Looks at visibility."""
app = typer.Typer()
add_to(app)
NAMES = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]


class Desk:
    """A repository's folder, a task queue of its own, and the commands."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client, self.folder = client, folder
        self.task_queue = f"test-{uuid.uuid4().hex[:8]}"

    async def starter(self, *words: str, code: int = 0) -> str:
        """Its output."""
        address = self.client.service_client.config.target_host
        env = {"TEMPORAL_ADDRESS": address, "COLUMNS": "200", "TERM": "dumb"}
        done = await asyncio.to_thread(CliRunner().invoke, starter.app, list(words), env=env)
        assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
        return done.output

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        async with Worker(
            self.client,
            task_queue=self.task_queue,
            workflows=[StubSwarm, StubTask],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            yield

    async def start(self, **fields: Any) -> WorkflowHandle[Any, Any]:
        return await self.client.start_workflow(
            "SwarmWorkflow",
            {"repo": str(self.folder), **fields},
            id=f"swarm-{uuid.uuid4().hex[:6]}",
            task_queue=self.task_queue,
        )

    async def dead(self, *stages: str) -> str:
        """Id of one that was terminated while its tasks were at these stages, and as visibility has it."""
        handle = await self.start(task={"cycles": list(stages)})
        await self.seen(lambda running: len(running.get(handle.id, [])) == len(stages))
        await handle.terminate("gone")
        query = f"{swarm_look.SWARMS} AND {RUNNING} AND WorkflowId = '{handle.id}'"
        for _ in range(PATIENCE):
            if not (await self.client.count_workflows(query)).count:
                return handle.id
            await asyncio.sleep(0.05)
        raise AssertionError("visibility has not seen it end")

    async def seen(self, wanted: Callable[[dict[str, list[Any]]], bool]) -> None:
        """Visibility is behind by a moment."""
        for _ in range(PATIENCE):
            if wanted(await swarm_look.cycles(self.client)):
                return
            await asyncio.sleep(0.05)
        raise AssertionError("visibility does not show it")


@pytest.fixture
def desk(client: Client, tmp_path: Path) -> Desk:
    return Desk(client, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_an_example(name: str) -> None:
    said = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert said.exit_code == 0, said.output
    assert f"Example: starter.py {name}" in " ".join(said.output.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["workers", "s"], "give --add or --count"),
        (["workers", "s", "--count", "three"], "give worker-1=3"),
        (["workers", "s", "--add", '{"counts": 2}'], "counts: unknown field"),
        (["workers", "s", "--add", "{"], "no JSON"),
        (["add", "s"], "give a FILE with tasks, or a --title"),
        (["add", "s", "--description", "x"], "required without a FILE"),
        (["add", "s", "--title", "x", "--after", "two words"], "after.0"),
        (["add", "s", "/nowhere/tasks.json"], "/nowhere/tasks.json: No such file"),
        (["swarm", "/nowhere/oompa.json"], "/nowhere/oompa.json: No such file"),
        (["swarm", "--max-cost", "-1"], "max_cost_usd: "),
        (["tasks", "--place", "elsewhere"], "elsewhere"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_is_sent(words: list[str], told: str) -> None:
    said = CliRunner().invoke(app, words, env={"COLUMNS": "300", "TERM": "dumb"})
    assert said.exit_code == 2
    assert told in " ".join(said.output.split())


def test_a_file_of_the_working_tree_counts_and_flags_win_over_it(tmp_path: Path) -> None:
    (tmp_path / "swarm.toml").write_text('spec = "a.md"\nmirror = true\n[[workers]]\nagent = "codex"\n')
    given, notes = swarm_inputs.swarm_input(None, {"repo": str(tmp_path), "spec": "b.md"}, None)
    assert swarm_inputs.payload(given) == {
        "repo": str(tmp_path),
        "spec": "b.md",
        "mirror": True,
        "workers": [{"agent": {"runtime": "codex"}}],
    }
    assert notes == [f"as {tmp_path / 'swarm.toml'} says"]
    before = {"repo": str(tmp_path), "max_tries": 3, "no_such_field": 1}
    again, notes = swarm_inputs.swarm_input(None, {"continues": "swarm-1"}, before)
    assert swarm_inputs.payload(again) == {"repo": str(tmp_path), "max_tries": 3, "continues": "swarm-1"}
    assert notes == []


def test_cards_go_in_updates_that_are_not_too_large() -> None:
    small = [swarm_inputs._card({"title": f"Task {n}"}) for n in range(45)]
    assert [len(batch) for batch in swarm_inputs.batches(small)] == [20, 20, 5]
    large = [swarm_inputs._card({"title": f"Task {n}", "description": "x" * 25_000}) for n in range(5)]
    assert [len(batch) for batch in swarm_inputs.batches(large)] == [2, 2, 1]
    assert swarm_inputs._card({"title": "Fix: it!"}).id == swarm_inputs._card({"title": "Fix: it!"}).id
    assert swarm_inputs._card({"title": "Fix: it!"}).id.startswith("fix-it-")


def test_the_documents_examples_are_good_and_every_field_is_named() -> None:
    text = (ROOT / "docs" / "swarms.md").read_text()
    [whole] = re.findall(r"```toml\n(.+?)```", text, re.DOTALL)
    [short] = re.findall(r"```toml\n# swarm.toml\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for example in (whole, short):
        settings = SwarmSettings.model_validate(tomllib.loads(example))
        TaskSettings.model_validate(settings.task)
    fields = {*SwarmSettings.model_fields, *WorkerSpec.model_fields, *PlannerSpec.model_fields}
    assert [field for field in sorted(fields) if f"`{field}`" not in text] == []
    assert [name for name in NAMES if not re.search(rf"`{name}\b", text)] == []


async def test_a_swarm_is_started_seen_steered_and_followed_to_its_end(desk: Desk) -> None:
    common = ("--repo", str(desk.folder), "--task-queue", desk.task_queue)
    cards = desk.folder / "cards.json"
    cards.write_text(
        json.dumps([*({"id": f"t-{n}", "title": "T"} for n in range(25)), {"id": "bad one", "title": "x"}])
    )
    async with desk.worker():
        name = (await desk.starter("swarm", *common, "--detach")).strip()
        assert name.startswith("swarm-")
        assert "choose another --id" in await desk.starter("swarm", *common, "--id", name, code=1)
        shown = await desk.starter("view", name)
        assert "worker-1.1 codex working" in " ".join(shown.split())
        assert f"{name} waits for a word about docs\n    starter.py continue c-1" in shown
        assert json.loads(await desk.starter("status", name, "--json"))["stage"] == "waiting for you"
        board = json.loads(await desk.starter("tasks", name, "--json"))
        assert [line["id"] for line in board] == [line.id for line in LINES]
        assert "gates red" in await desk.starter("tasks", name, "--place", "blocked")
        assert "has no pending tasks" in await desk.starter("tasks", name, "--place", "pending")
        assert "requeued: ['docs']" in await desk.starter("requeue", name, "docs")
        assert "requeued: None" in await desk.starter("requeue", name)
        said = await desk.starter("say", name, "hello", code=1)
        assert f"takes no send_message: it is no task; of a swarm's tasks all are named by --label swarm:{name}" in said
        assert "begins nothing" in await desk.starter("pause", name)
        steered = await desk.starter("workers", name, "--add", "codex:gpt-5.5", "--count", "worker-1=3")
        assert "added: {'agent': {'runtime': 'codex', 'model': 'gpt-5.5'}}" in steered
        assert "counted: {'kind': 'worker-1', 'count': 3}" in steered
        added = await desk.starter("add", name, str(cards))
        assert "20 are on the board\n5 are on the board" in added
        assert "not taken: " in added
        assert ": id: " in added
        following = asyncio.create_task(desk.starter("follow", name))
        await desk.client.get_workflow_handle(name).execute_update("stop", "now")
        followed = await following
        assert f"{name} has ended, all is done" in followed
        assert "starter.py swarm --continue" in await desk.starter("stop", name, code=1)
    assert f"{name} has ended, all is done" in await desk.starter("view", name)  # without a worker


async def test_tasks_that_are_left_open_are_told_and_the_exit_code_says_so(desk: Desk) -> None:
    async with desk.worker():
        handle = await desk.start()
        assert "stops" in await desk.starter("stop", handle.id)
        told = await desk.starter("follow", handle.id, code=1)
        assert "docs blocked gates red" in " ".join(told.split())
        assert f"go on with them: starter.py swarm --continue {handle.id}" in told
        assert f"starter.py swarm --continue {handle.id}" in await desk.starter("resume", handle.id, code=1)


async def test_what_a_dead_swarms_tasks_hold_is_shown_and_freed(desk: Desk) -> None:
    async with desk.worker():
        name = await desk.dead("working", "blocked")
        told = await desk.starter("view", name)
        assert f"{name} has been terminated; go on: starter.py swarm --continue {name}" in told
        assert f"{name}-worker-1.1-0" in told
        assert "still run, 1 of them wait for you" in told
        assert f"starter.py requeue {name}" in told
        assert f"starter.py requeue {name}" in await desk.starter("swarms")
        assert "name none of them" in await desk.starter("requeue", name, "docs", code=1)
        freed = await desk.starter("requeue", name, "--yes")
        assert freed.count("salvage ref") == 2
        assert f"go on: starter.py swarm --continue {name}" in freed
        await desk.seen(lambda running: name not in running)
        assert "nothing is held" in await desk.starter("requeue", name)


async def test_cleanup_ends_what_waits_for_nobody(desk: Desk) -> None:
    async with desk.worker():
        name = await desk.dead("working", "blocked")
        wanted = f"would abandon {name}-worker-1.1-0 of {name}: working"
        told = await desk.starter("cleanup", "--dry-run")
        assert wanted in told
        assert f"{name}-worker-1.1-1 of {name} waits for you: starter.py continue it" in told
        assert f"{name}-worker-1.1-0" in await desk.starter("cleanup")
        await desk.seen(lambda running: [each.task_id for each in running[name]] == [f"{name}-worker-1.1-1"])
        assert f"{name}-worker-1.1-1" in await desk.starter("cleanup", "--blocked")
        await desk.seen(lambda running: name not in running)


async def test_unknown_ones_and_ones_that_do_not_answer_are_one_line(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swarm_look, "ANSWER", swarm_look.ANSWER / 30)
    monkeypatch.setattr(swarm_look, "PATIENCE", swarm_look.PATIENCE / 30)
    assert "there is no swarm swarm-none" in await desk.starter("view", "swarm-none", code=1)
    handle = await desk.start()
    no_worker = f"{handle.id} does not answer: does a worker run? starter.py doctor"
    assert no_worker in await desk.starter("view", handle.id)
    assert no_worker in await desk.starter("tasks", handle.id, code=1)
    assert "once a worker runs" in await desk.starter("requeue", handle.id, code=1)
    task = await desk.client.start_workflow("TaskWorkflow", "", id=f"{handle.id}-t", task_queue=desk.task_queue)
    assert "is a TaskWorkflow, no swarm" in await desk.starter("stop", task.id, code=1)
    found = json.loads(await desk.starter("swarms", "--json"))
    assert next(each for each in found if each["swarm_id"] == handle.id)["repo"] == str(desk.folder)
    assert "still runs" in await desk.starter("swarm", "--continue", handle.id, code=1)
    await handle.terminate()
    await task.terminate()
