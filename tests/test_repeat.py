"""Templates fill in what a task does not say; Schedules start such tasks again, each under an id of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from temporalio.client import ScheduleHandle, ScheduleInfo
from typer.testing import CliRunner

import starter
from activities.settings import TaskInput
from activities.templates import from_template
from tests.git.repos import commit
from tests.kit import Kit, status_when
from tests.test_input import refusal
from workflows.contracts import TaskResult

TASK: dict[str, Any] = {"repo": "/src/app", "template": "deps"}


def filled_in(text: str, **more: Any) -> dict[str, Any]:
    task = from_template(TaskInput.model_validate({**TASK, **more}), text.encode())
    return task.model_dump(exclude_unset=True)


def test_a_template_says_what_the_task_does_not() -> None:
    text = """
    [templates.deps]
    title = "Update dependencies"
    description = "All of them."
    target = "next"
    agent = "codex:gpt-5.5"
    limits = { max_cost_usd = 5, max_tokens = 900 }
    """
    found = filled_in(text)
    assert (found["title"], found["description"], found["target"]) == ("Update dependencies", "All of them.", "next")
    assert found["agent"] == {"runtime": "codex", "model": "gpt-5.5"}
    own = filled_in(text, title="Mine", agent={"runtime": "gemini"}, limits={"max_cost_usd": 1})
    assert (own["title"], own["agent"]) == ("Mine", {"runtime": "gemini"})
    assert own["limits"] == {"max_cost_usd": 1, "max_tokens": 900}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "template: mergewright.toml on the target branch has no [templates.deps]; there are: none"),
        ("[templates.docs]\n[templates.lint]", "there are: docs, lint"),
        ("templates = 3", "has no [templates.deps]"),
        ("[templates.deps]", "mergewright.toml: templates.deps: title: required, but not given"),
        ('[templates.deps]\ntitle = "x"\ntitel = "y"', "templates.deps: titel: unknown field"),
        ('[templates.deps]\ntitle = "x"\nrepo = "/other"', "templates.deps.repo: is not for a template to say"),
        ("[templates", "is not TOML"),
    ],
)
def test_a_template_that_makes_no_sense_is_refused_in_words(text: str, told: str) -> None:
    with pytest.raises(Exception, match="mergewright") as caught:
        filled_in(text)
    assert told in str(caught.value)


def with_template(kit: Kit, agent: dict[str, Any]) -> None:
    command = ", ".join(json.dumps(word) for word in agent["command"])
    lines = ["[templates.deps]", 'title = "Update dependencies"', 'description = "All of them."']
    commit(
        kit.repo, {"mergewright.toml": "\n".join([*lines, f'agent = {{ runtime = "command", command = [{command}] }}'])}
    )


async def test_a_task_is_started_by_its_template_alone(kit: Kit) -> None:
    with_template(kit, kit.agent(executor=[{"write": {"a.txt": "x\n"}}]))
    async with kit.worker():
        handle = await kit.start({"repo": str(kit.repo), "template": "deps"})
        assert (await handle.result()).outcome == "merged"
        assert (await status_when(handle, lambda now: bool(now.outcome))).title == "Update dependencies"
        assert "no [templates.docs]" in await refusal(kit, {"repo": str(kit.repo), "template": "docs"})
    [run] = (kit.home.root / "runs").glob(f"{handle.id}.*")
    assert json.loads((run / "task.json").read_text())["description"] == "All of them."


async def when(schedule: ScheduleHandle, found: Callable[[ScheduleInfo], Any]) -> Any:
    """What is found of the schedule, once there is any."""
    for _ in range(600):
        if there := found((await schedule.describe()).info):
            return there
        await asyncio.sleep(0.1)
    raise AssertionError((await schedule.describe()).info)


async def test_a_schedule_starts_tasks_and_skips_while_one_runs(kit: Kit) -> None:
    with_template(kit, kit.agent(executor=[{"write": {"a.txt": "x\n"}, "say": "NEEDS_FOLLOWUP why?"}]))
    name = f"deps-{kit.task_queue}"
    address = ("--address", kit.client.service_client.config.target_host)
    add = ("add", name, "--cron", "0 3 1 1 *", "--template", "deps", "--repo", str(kit.repo))
    schedule = kit.client.get_schedule_handle(f"repeat/{name}")

    async def said(*args: str, code: int = 0) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, starter.app, ["schedule", *args, *address])
        assert done.exit_code == code, done.output
        return " ".join(done.output.split())

    async with kit.worker():
        assert f"{name}: next at " in await said(*add, "--task-queue", kit.task_queue)
        assert "there is a schedule" in await said(*add, code=1)
        await said("trigger", name)
        started = await when(schedule, lambda info: info.recent_actions)
        task = kit.client.get_workflow_handle(started[0].action.workflow_id, result_type=TaskResult)
        await status_when(task, lambda now: now.blocked is not None)
        await said("trigger", name)
        assert await when(schedule, lambda info: info.num_actions_skipped_overlap) == 1
        [row] = [row for row in json.loads(await said("list", "--json")) if row["name"] == name]
        assert (row["last"], row["skipped"], row["overlap"], row["state"]) == (task.id, 1, "skip", "on")
        assert row["task"] == f"deps in {kit.repo}"
        assert "starts nothing" in await said("pause", name)
        listed = await said("list")
        assert f"{name} paused 2" in listed
        assert f"1 deps in {kit.repo}" in listed
        await task.signal("abandon")
        result = await task.result()
    assert ":" in task.id  # Temporal has added the time
    assert result.salvage_ref in kit.refs()
    await said("remove", name)
    assert "there is no schedule" in await said("resume", name, code=1)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("a/b", "--cron", "@daily", "--title", "x"), "up to 40 letters"),
        (("a", "--cron", "@daily", "--title", "x", "--timezone", "Mars"), "'Mars' is no time zone"),
        (("a", "--cron", "@daily"), "title: required"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_in_words(args: tuple[str, ...], told: str) -> None:
    done = CliRunner().invoke(starter.app, ["schedule", "add", *args], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert told in done.output
