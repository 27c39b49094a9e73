"""Bad input is told at once: the workflow fails with one line that names the field and the remedy."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from service.devserver import temporal_cli
from tests.git.repos import commit, git, make_repo
from tests.kit import Kit, status_when
from workflows.contracts import Stage

AGENT = {"runtime": "command", "command": ["/bin/true"]}


async def refusal(kit: Kit, given: Any, **more: Any) -> str:
    """Why a task with this input failed; it must have failed without a single turn."""
    args = given if isinstance(given, list) else [given]
    handle = await kit.client.start_workflow(
        more.pop("type", "TaskWorkflow"), args=args, id=f"bad-{kit.task_queue}", task_queue=kit.task_queue
    )
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    text = str(getattr(caught.value.cause, "message", caught.value.cause))
    assert "\n" not in text
    kit.assert_clean()
    return text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"title": None}, "title: "),
        ({"titel": "x"}, "titel: unknown field"),
        ({"agent": {"runtime": "command", "command": ["/bin/true"], "modle": "x"}}, "agent.modle: unknown field"),
        ({"gates": [{"name": "test"}]}, "gates.0.command: required"),
        ({"gates": "make test"}, "gates: "),
        ({"limits": {"max_review_rounds": "many"}}, "limits.max_review_rounds: "),
        ({"repo": "app"}, "repo: "),
        ({"repo": "/nowhere"}, "repo: "),
        ({"target": "no-such-branch"}, "target: "),
        ({"agent": "claude"}, "agent.runtime: "),
        ({"agent": {"runtime": "command", "command": ["/nowhere/agent"]}}, "agent: "),
        ({"reviewers": [{"runtime": "command", "command": ["no-such-agent"]}]}, "reviewers.0: "),
        ({"gates": [{"name": "test", "command": "no-such-tool --all"}]}, "gates.0.command: no-such-tool"),
        ({"agent": {**AGENT, "prompts": ["missing.md"]}}, "agent.prompts: missing.md"),
        ({"delivery": {"strategy": "octopus"}}, "delivery.strategy: "),
    ],
)
async def test_a_bad_field_is_named(kit: Kit, change: dict[str, Any], expected: str) -> None:
    given = {key: value for key, value in {**kit.input(agent=AGENT), **change}.items() if value is not None}
    async with kit.worker():
        assert expected in await refusal(kit, given)


async def test_an_input_that_is_no_object_is_refused(kit: Kit) -> None:
    async with kit.worker():
        assert "TaskInput" in await refusal(kit, "fix the login")


async def test_two_inputs_or_none_are_refused(kit: Kit) -> None:
    async with kit.worker():
        assert "one JSON object" in await refusal(kit, [kit.input(), kit.input()])


async def test_an_unknown_workflow_type_is_answered(kit: Kit) -> None:
    async with kit.worker():
        assert "--type" in await refusal(kit, kit.input(), type="TaskWorkfow")


async def test_a_folder_that_is_no_repository(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    async with kit.worker():
        assert "repo: " in await refusal(kit, kit.input(repo=str(tmp_path / "plain"), agent=AGENT))


async def test_an_empty_repository(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q", "-b", "main")
    async with kit.worker():
        assert "commit" in await refusal(kit, kit.input(repo=str(tmp_path / "empty"), agent=AGENT))


async def test_a_detached_checkout_asks_for_a_target(kit: Kit) -> None:
    git(kit.repo, "checkout", "-q", "--detach")
    async with kit.worker():
        assert "target" in await refusal(kit, kit.input(agent=AGENT))


async def test_a_missing_login_fails_a_task_that_has_not_begun(kit: Kit) -> None:
    async with kit.worker():
        text = await refusal(kit, kit.input(agent=kit.agent(executor=[{"fail": 77, "stderr": "log in first"}])))
    assert "agent: " in text


async def test_settings_of_the_repository_are_defaults_and_the_input_wins(kit: Kit) -> None:
    agent = kit.agent(executor=[{"write": {"a.txt": "x\n"}}])
    command = ", ".join(f'"{word}"' for word in agent["command"])
    commit(
        kit.repo,
        {
            "mergewright.toml": f'agent = {{ runtime = "command", command = [{command}] }}\n'
            '[[gates]]\nname = "never"\ncommand = "false"\n[limits]\nmax_gate_failures = 1\nmax_merge_attempts = 3\n'
        },
    )
    (kit.repo / "mergewright.toml").write_text("this is not TOML, and it is the user's own file")
    async with kit.worker():
        handle = await kit.start(kit.input())
        status = await status_when(handle, lambda now: now.blocked is not None)
        assert status.blocked is not None
        assert status.blocked.reason == "gates red"
        await handle.signal("abandon")
        await handle.result()
        result = await kit.run(gates=[])
    assert result.outcome == "merged"


async def test_settings_that_are_wrong_name_the_file(kit: Kit) -> None:
    commit(kit.repo, {"mergewright.toml": "gate = 1\n"})
    async with kit.worker():
        assert "mergewright.toml: gate: unknown field" in await refusal(kit, kit.input(agent=AGENT))


async def test_malformed_signals_are_shown_and_ignored(kit: Kit) -> None:
    agent = kit.agent(planner=[{"say": "Plan"}], executor=[{"write": {"a.txt": "x\n"}}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, interactive=True))
        await status_when(handle, lambda now: now.stage is Stage.APPROVAL)
        await handle.signal("aprove_plan")
        await handle.signal("send_message")
        await handle.signal("send_message", ["a list"])
        await handle.signal("approve_plan", args=["one", "two", "three"])
        await handle.signal("merge_answer", "nonsense")
        await handle.signal("merge_answer", {"op": 1})
        await handle.signal("continue_task", "not blocked")
        await handle.signal("resume")
        status = await status_when(handle, lambda now: len(now.problems) >= 6)
        for expected in ("aprove_plan", "needs a text", "one JSON string", "approve_plan ignored", "not blocked"):
            assert any(expected in problem for problem in status.problems), (expected, status.problems)
        assert status.stage is Stage.APPROVAL
        await handle.signal("send_message", "keep it short")
        await handle.signal("approve_plan")
        assert (await handle.result()).outcome == "merged"
    prompts = sorted((kit.home.root / "runs").glob("*/turns/*/prompt.md"))
    assert "keep it short" in prompts[-1].read_text()


async def test_the_plain_cli_starts_asks_signals_and_reads_the_result(kit: Kit) -> None:
    address = kit.client.service_client.config.target_host
    agent = kit.agent(planner=[{"say": "Plan"}], executor=[{"write": {"a.txt": "x\n"}}])

    def temporal(*args: str) -> str:
        done = subprocess.run(
            [temporal_cli(), *args, "--address", address], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    import asyncio
    import json

    given = json.dumps(kit.input(agent=agent, interactive=True))
    async with kit.worker():
        await asyncio.to_thread(
            temporal, "workflow", "start", "--type", "TaskWorkflow", "--task-queue", kit.task_queue,
            "--workflow-id", "task-42", "--input", given,
        )  # fmt: skip
        await status_when(kit.client.get_workflow_handle("task-42"), lambda now: now.stage is Stage.APPROVAL)
        asked = await asyncio.to_thread(temporal, "workflow", "query", "-w", "task-42", "--type", "status")
        assert "awaiting approval" in asked
        await asyncio.to_thread(temporal, "workflow", "signal", "-w", "task-42", "--name", "approve_plan")
        result = await asyncio.to_thread(temporal, "workflow", "result", "-w", "task-42")
    assert "merged" in result


async def test_a_bare_repository_will_do(kit: Kit, tmp_path: Path) -> None:
    bare = make_repo(tmp_path / "bare.git", bare=True)
    async with kit.worker():
        agent = kit.agent(executor=[{"write": {"a.txt": "x\n"}}])
        result = await kit.run(repo=str(bare), agent=agent)
    assert result.sha == git(bare, "rev-parse", "main")
