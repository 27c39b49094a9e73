"""Whole tasks with the real agent CLIs, through review to main, against a scripted model server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.agents.desk import AGENTS, path
from tests.git.repos import git
from tests.kit import Kit, status_when
from tests.models import ModelServer, Request, Step, bash, clients, say, script, use, write
from tests.test_kill import ended, start_worker

pytestmark = pytest.mark.agents

DONE = say("All done.\nCOMPLETE_AND_READY_FOR_MERGE")


def agent(runtime: str, server: ModelServer, kit: Kit) -> dict[str, Any]:
    home = kit.folder / "agent-home"
    home.mkdir(exist_ok=True)
    kit.configure(f'network = ["*", "{server.url.removeprefix("http://")}"]\n')
    model = AGENTS[runtime].model
    return {"runtime": runtime, "model": model, "env": {**clients(server.url, home), "PATH": path()}}


def life(request: Request) -> Step:
    """Executor writes and commits; the reviewer wants more; the fixer edits; the reviewer approves."""
    if "Judge commit" in request.prompt:
        more = "+second" in request.prompt
        return say("Good.\nVERDICT: APPROVED" if more else "A second line is missing.\nVERDICT: NEEDS_CHANGES")
    if "asks for changes" in request.prompt:
        return script(use(bash("echo second >> new.txt")), DONE)(request)
    return script(use(write("new.txt", "first\n")), use(bash("git add -A && git commit -qm 'Add new'")), DONE)(request)


@pytest.mark.parametrize(
    ("executor", "reviewer"),
    [
        ("claude-code", "codex"),
        ("codex", "gemini"),
        pytest.param("gemini", "opencode", marks=pytest.mark.long),
        pytest.param("opencode", "qwen", marks=pytest.mark.long),
        ("qwen", "claude-code"),
    ],
)
async def test_a_task_goes_through_review_to_main(kit: Kit, executor: str, reviewer: str) -> None:
    with ModelServer(life) as server:
        async with kit.worker():
            result = await kit.run(
                agent=agent(executor, server, kit),
                reviewers=[agent(reviewer, server, kit)],
                gates=[{"name": "there", "command": "test -s new.txt"}],
            )
    assert (result.outcome, result.review_rounds, result.turns) == ("merged", 1, 4)
    assert kit.show("new.txt") == "first\nsecond"
    assert result.tokens > 0
    assert kit.trailers("Agent")[0].startswith(executor)
    assert kit.trailers("Reviewed-by")[0].startswith(reviewer)
    runs = kit.home.root / "runs"
    first, fix = (next(runs.glob(f"*/turns/{name}/session")).read_text() for name in ("001-executor", "003-fixer"))
    assert first == fix  # the fixer is the executor, resumed
    prompts = [next(runs.glob(f"*/turns/{name}/prompt.md")).read_text() for name in ("001-executor", "003-fixer")]
    assert "# Task" in prompts[0]
    assert "# Task" not in prompts[1]
    kit.assert_clean()


@pytest.mark.parametrize("runtime", ["claude-code", "codex"])
async def test_a_turn_that_was_killed_is_resumed_in_its_session(kit: Kit, runtime: str) -> None:
    def scenario(request: Request) -> Step:
        if "was interrupted by us" in request.prompt:
            return script(use(write("new.txt", "after the kill\n")), DONE)(request)
        return script(use(bash("echo started > started.txt; python3 -c 'import time; time.sleep(100)'")))(request)

    address = kit.client.service_client.config.target_host
    with ModelServer(scenario) as server:
        workers = [start_worker(kit, "--address", address)]
        async with ended(workers):
            handle = await kit.start(kit.input(agent=agent(runtime, server, kit)))
            await status_when(handle, lambda now: now.worktree is not None)
            for _ in range(600):
                if list((kit.home.root / "worktrees").glob("*/started.txt")):
                    break
                await asyncio.sleep(0.1)
            session = next((kit.home.root / "runs").glob("*/turns/001-executor/session")).read_text()
            workers[-1].kill()
            workers[-1].wait()
            workers.append(start_worker(kit, "--address", address))
            result = await handle.result()
    assert (result.outcome, result.turns) == ("merged", 1)
    assert kit.show("new.txt") == "after the kill"
    assert next((kit.home.root / "runs").glob("*/turns/001-executor/session")).read_text() == session
    assert git(kit.repo, "status", "--porcelain") == ""
    kit.assert_clean()
