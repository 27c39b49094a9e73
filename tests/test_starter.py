"""`starter.py` as an operator uses it: real processes, real output."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from console import inputs
from tests.git.repos import commit, git
from tests.kit import Kit, status_when
from workflows.contracts import Stage

TOP = Path(__file__).parent.parent


async def starter(kit: Kit, *args: str, code: int = 0) -> str:
    """Its output; on one line of its own for each line, whatever the terminal."""
    address = kit.client.service_client.config.target_host
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(TOP / "starter.py"), *args],
        cwd=kit.repo,
        env={**os.environ, "TEMPORAL_ADDRESS": address, "COLUMNS": "200", "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


async def test_a_task_is_started_from_a_file_followed_and_steered(kit: Kit) -> None:
    agent = kit.agent(planner=[{"say": "The plan"}], executor=[{"write": {"a.txt": "x\n"}}])
    task = kit.folder / "task.json"
    task.write_text(json.dumps({"title": "From a file", "agent": agent, "interactive": True}))
    common = ("--task-queue", kit.task_queue)
    async with kit.worker():
        assert "task-1" in await starter(kit, "start", "-f", str(task), "--id", "task-1", "--detach", *common)
        handle = kit.client.get_workflow_handle("task-1")
        await status_when(handle, lambda now: now.stage is Stage.APPROVAL)
        assert "is running" in await starter(kit, "start", "-f", str(task), "--id", "task-1", *common, code=1)
        assert "The plan" in await starter(kit, "plan", "task-1")
        assert json.loads(await starter(kit, "status", "task-1", "--json"))["stage"] == "awaiting approval"
        assert "Waits for the approval of the plan" in await starter(kit, "status", "task-1")
        assert "next turn" in await starter(kit, "say", "task-1", "be quick")
        assert "not blocked" in await starter(kit, "continue", "task-1", code=1)
        assert "approved" in await starter(kit, "approve", "task-1")
        followed = await starter(kit, "follow", "task-1")
        assert '"outcome": "merged"' in followed
        assert "task-1: merged" in followed
        assert "merged" in await starter(kit, "list", "--query", 'WorkflowId="task-1"')
        assert "1 landed" in await starter(kit, "queue", *common)


async def test_flags_make_a_task_and_the_repository_fills_in_the_rest(kit: Kit) -> None:
    command = ", ".join(f'"{word}"' for word in kit.agent(executor=[{"write": {"a.txt": "x\n"}}])["command"])
    commit(kit.repo, {"mergewright.toml": f'agent = {{ runtime = "command", command = [{command}] }}\n'})
    flags = ("--title", "By flags", "--gate", "there=test -f a.txt", "--strategy", "squash")
    async with kit.worker():
        ended = await starter(kit, "start", *flags, "--task-queue", kit.task_queue)
    assert '"outcome": "merged"' in ended
    assert git(kit.repo, "log", "-1", "--format=%s") == "By flags"


async def test_mistakes_are_told_before_anything_starts(kit: Kit) -> None:
    assert "title: required" in await starter(kit, "start", code=2)
    bad = kit.folder / "bad.toml"
    bad.write_text("titel = 'x'\n")
    assert "titel: unknown field" in await starter(kit, "start", "-f", str(bad), code=2)
    assert "workflow not found" in await starter(kit, "status", "no-such-task", code=1)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--max-cost", "0"), "limits.max_cost_usd"),
        (("--strategy", ""), "delivery.strategy"),
        (("--gate", ""), "'' holds no command: give name=command"),
        (("--gate", "CI=1"), "'CI=1' holds no command: give name=command"),
    ],
)
async def test_a_flag_that_makes_no_sense_is_refused_in_words(kit: Kit, flags: tuple[str, ...], told: str) -> None:
    said = await starter(kit, "start", "--title", "x", *flags, code=2)
    assert told in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("flag", "name", "command"),
    [
        ("test=make test", "test", "make test"),
        ("unit-tests.fast=CI=1 make test", "unit-tests.fast", "CI=1 make test"),
        ("make test", "make", "make test"),
        ("CI=1 pytest -q", "pytest", "CI=1 pytest -q"),
        ("CI=1 PYTHONPATH='a b' ./run-tests.sh x=y", "run-tests.sh", "CI=1 PYTHONPATH='a b' ./run-tests.sh x=y"),
        ("echo 'not closed", "echo", "echo 'not closed"),
        ("'' || true", "gate", "'' || true"),
    ],
)
def test_a_gate_has_a_name_or_that_of_its_program(flag: str, name: str, command: str) -> None:
    assert inputs.gate(flag) == {"name": name, "command": command}


def test_flags_change_single_fields_of_the_files_tables(tmp_path: Path) -> None:
    file = tmp_path / "task.toml"
    file.write_text('title = "x"\nacceptance = ["a", "b"]\n[limits]\nmax_cost_usd = 2\nmax_tokens = 900\n')
    flags = {"repo": str(tmp_path), "limits": {"max_cost_usd": 5.0}, "delivery": {"strategy": "squash"}}
    assert inputs.payload(inputs.task_input(file, {**flags, "acceptance": ["c"]})) == {
        "repo": str(tmp_path),
        "title": "x",
        "acceptance": ["c"],
        "limits": {"max_cost_usd": 5.0, "max_tokens": 900},
        "delivery": {"strategy": "squash"},
    }
    file.write_text('title = "x"\nlimits = "many"\n')
    with pytest.raises(typer.BadParameter, match="limits"):
        inputs.task_input(file, {"repo": str(tmp_path)})


async def test_what_is_no_task_is_said_in_one_line(kit: Kit) -> None:
    account = f"acc-{kit.task_queue}"
    agent = {**kit.agent(executor=[{"write": {"a.txt": "x\n"}}]), "account": account}
    async with kit.worker():
        assert (await kit.run(agent=agent)).outcome == "merged"
        for command in ("status", "costs"):
            said = await starter(kit, command, f"quota/command/{account}", code=1)
            assert len(said.splitlines()) == 1
            assert "quota" in said
    assert await starter(kit, "costs", "nope", code=1) == "starter: nope: there is no such task\n"
    assert "'yesterday' is no day: give YYYY-MM-DD" in await starter(kit, "costs", "--since", "yesterday", code=2)


@pytest.mark.long
async def test_saved_work_is_listed_and_restored(kit: Kit) -> None:
    agent = kit.agent(executor=[{"write": {"a.txt": "precious\n"}, "say": "NEEDS_FOLLOWUP x"}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent), "lost")
        await status_when(handle, lambda now: now.blocked is not None)
        await handle.signal("abandon")
        result = await handle.result()
    assert result.salvage_ref is not None
    assert result.salvage_ref in await starter(kit, "salvage", "list")
    branch = (await starter(kit, "salvage", "restore", result.salvage_ref)).strip()
    assert kit.show("a.txt", branch) == "precious"
    assert git(kit.repo, "symbolic-ref", "HEAD") == "refs/heads/main"
    [listed] = json.loads(await starter(kit, "salvage", "list", str(kit.repo), "--json"))
    assert (listed["ref"], listed["task"], listed["outcome"]) == (result.salvage_ref, "lost", "abandoned")
    assert "A a.txt" in await starter(kit, "salvage", "show", "lost")
    there = kit.folder / "there"
    assert str(there) in await starter(kit, "salvage", "restore", "lost", "--into", str(there))
    assert (there / "a.txt").read_text() == "precious\n"
    assert "exists" in await starter(kit, "salvage", "restore", "lost", "--into", str(there), code=1)
    assert "Aborted" in await starter(kit, "salvage", "drop", "lost", code=1)
    assert "dropped" in await starter(kit, "salvage", "drop", "lost", "--yes")
    assert "no salvage 'lost'" in await starter(kit, "salvage", "show", "lost", code=1)
