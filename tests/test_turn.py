"""A turn that is interrupted and taken up again: what it has used counts, and nothing that was said is lost."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

from temporalio.testing import ActivityEnvironment

from activities.contracts import PrepareInput, TurnInput, TurnResult
from activities.home import Home
from activities.prepare import PrepareActivities
from activities.settings import AgentSpec, TaskInput
from activities.site import Site
from activities.turn import TurnActivities
from tests.kit import Kit, status_when
from tests.test_kill import ended, start_worker


async def the_file(kit: Kit, pattern: str) -> Path:
    """The first one of the runs that is like this, once it is there."""
    for _ in range(600):
        if found := sorted((kit.home.root / "runs").glob(f"*/{pattern}")):
            return found[0]
        await asyncio.sleep(0.1)
    raise AssertionError(f"no {pattern} in {list((kit.home.root / 'runs').rglob('*'))}")


async def test_what_a_killed_worker_had_paid_counts_and_lowers_the_cap(kit: Kit) -> None:
    step = {"usage": {"cost_usd": 3, "input_tokens": 700, "output_tokens": 50}, "sleep": 300}
    address = kit.client.service_client.config.target_host
    workers = [start_worker(kit, "--address", address)]
    async with ended(workers):
        handle = await kit.start(kit.input(agent=kit.agent(executor=[step]), limits={"max_cost_usd": 5}))
        noted = await the_file(kit, "turns/001-executor/usage.json")
        workers[-1].kill()
        workers[-1].wait()
        assert json.loads(noted.read_text())["cost_usd"] == 3
        workers.append(start_worker(kit, "--address", address))
        # The second attempt alone costs less than $5: it is stopped since no more than $2 are left.
        status = await status_when(handle, lambda now: now.blocked is not None)
        [turn] = await handle.query("timeline")
    assert status.blocked is not None
    assert status.blocked.text == "spent $6.00 of $5.00"
    assert (turn["end"], turn["usage"]["cost_usd"], turn["usage"]["input_tokens"]) == ("budget", 6, 1_400)
    folder = noted.parent
    assert "$2.0000 were left" in TurnResult.model_validate_json((folder / "result.json").read_text()).reason
    assert json.loads(noted.read_text())["cost_usd"] == 6
    assert (folder / "stdout.1.log").exists()
    assert (folder / "stderr.1.log").read_text().startswith("usage: ")
    assert (folder / "stderr.log").read_text().startswith("usage: ")
    assert not (folder / "stderr.2.log").exists()


async def test_an_interrupted_review_is_asked_for_as_a_whole_and_no_secret_is_kept(kit: Kit) -> None:
    seen = kit.folder / "seen"
    review = {"shell": f"test -e {seen} || {{ touch {seen}; sleep 300; }}", "say": "VERDICT: APPROVED"}
    writer = {**kit.agent(executor=[{"write": {"a.txt": "x\n"}}]), "env": {"TOKEN": "hush-1"}}
    reviewer = {**kit.agent(reviewer=[review]), "env": {"TOKEN": "hush-2"}}
    task = kit.input(agent=writer, reviewers=[reviewer], resolver=writer, description="Mind the gap")
    async with kit.worker():
        handle = await kit.start(task)
        first = (await the_file(kit, "turns/*-reviewer/session")).parent
        for _ in range(600):
            if seen.exists():
                break
            await asyncio.sleep(0.1)
        session = (first / "session").read_text()
    async with kit.worker():
        assert (await handle.result()).outcome == "merged"
    assert stat.S_IMODE(kit.home.root.stat().st_mode) == 0o700
    prompt = (first / "prompt.md").read_text()
    assert "Your last turn was interrupted by us" in prompt
    assert "# Task" in prompt
    assert "Mind the gap" in prompt
    assert (first / "session").read_text() == session
    kept = {path for path in (kit.home.root / "runs").rglob("*") if path.is_file()}
    assert {"agent.json", "task.json"} <= {path.name for path in kept}
    assert [path for path in kept if "hush-" in path.read_text("utf-8", "replace")] == []


async def test_sums_over_a_session_count_once_when_a_turn_ended_and_was_not_recorded(kit: Kit) -> None:
    """The worker dies after the session's sums are kept, and before the turn's result is."""
    site = Site(Home(kit.folder / "home"), "here", kit.task_queue, kit.client)
    codex, told = kit.folder / "bin" / "codex", kit.folder / "told"
    codex.parent.mkdir()
    codex.write_text(f"""#!/bin/sh
        cat >/dev/null
        echo x >>{told}
        echo '{{"type": "thread.started", "thread_id": "t-1"}}'
        echo '{{"type": "turn.completed", "usage": {{"input_tokens": '$(wc -l <{told})'00, "output_tokens": 0}}}}'
    """)
    codex.chmod(0o755)
    agent = AgentSpec(runtime="codex", env={"PATH": f"{codex.parent}:/usr/bin:/bin"})
    task = TaskInput(repo=str(kit.repo), title="Do it", agent=agent).model_dump(mode="json", exclude_unset=True)
    prepared = await PrepareActivities(site).prepare(PrepareInput(task_id="t", run_id="0123456789abcdef", task=task))
    given = TurnInput(ref=prepared.ref, turn=1, role="executor", agent=agent, ask="start")
    folder = site.home.turn(prepared.ref.key, 1, "executor")

    async def take(turn: TurnInput) -> int:
        result: TurnResult = await ActivityEnvironment().run(TurnActivities(site).take_turn, turn)
        assert (result.end, result.session) == ("done", "t-1")
        return result.usage.input_tokens

    assert await take(given) == 100
    assert await take(given) == 100  # it is over, and is not taken again
    (folder / "result.json").unlink()
    assert await take(given) == 200
    (folder / "result.json").unlink()
    assert await take(given) == 300
    assert await take(given.model_copy(update={"turn": 2, "ask": "resume", "session": "t-1"})) == 100
    assert sorted(path.name for path in folder.glob("stdout*")) == ["stdout.1.log", "stdout.2.log", "stdout.log"]
