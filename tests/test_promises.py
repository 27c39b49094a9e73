"""What users rely on: their checkout is sacred, bulk stays out of the history."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.git.repos import commit, git
from tests.kit import Kit, status_when
from workflows.contracts import Stage


def fingerprint(repo: Path, names: list[str]) -> dict[str, tuple[bytes, int]]:
    return {name: ((repo / name).read_bytes(), (repo / name).stat().st_mtime_ns) for name in names}


@pytest.mark.long
async def test_the_users_checkout_is_byte_identical_after_twenty_landings(kit: Kit) -> None:
    commit(kit.repo, {"mine.txt": "mine\n" * 100, "dir/other.txt": "other\n"})
    (kit.repo / "mine.txt").write_text("mine, and changed\n")
    (kit.repo / "staged.txt").write_text("staged\n")
    git(kit.repo, "add", "staged.txt")
    (kit.repo / "staged.txt").write_text("staged, then changed\n")
    (kit.repo / "untracked.txt").write_text("untracked\n")
    (kit.repo / "kept.ignored").write_text("ignored\n")
    names = ["mine.txt", "staged.txt", "untracked.txt", "kept.ignored", "dir/other.txt", "app.py"]
    before, status = fingerprint(kit.repo, names), git(kit.repo, "status", "--porcelain")

    async with kit.worker():
        agents = [kit.agent(executor=[{"write": {f"dir/new{number}.txt": "x\n"}}]) for number in range(20)]
        results = await asyncio.gather(*(kit.run(agent=agent) for agent in agents))
    assert [result.outcome for result in results] == ["merged"] * 20
    assert fingerprint(kit.repo, names) == before
    assert git(kit.repo, "status", "--porcelain") == status
    assert git(kit.repo, "diff", "--cached", "--name-only") == "staged.txt"
    assert all((kit.repo / f"dir/new{number}.txt").exists() for number in range(20))  # main was brought along
    kit.assert_clean()


@pytest.mark.long
async def test_files_in_the_way_are_named_and_others_land_meanwhile(kit: Kit) -> None:
    commit(kit.repo, {"mine.txt": "mine\n"})
    (kit.repo / "mine.txt").write_text("changed by the user\n")
    (kit.repo / "secret.ignored").write_text("the user's\n")
    async with kit.worker():
        touches = await kit.start(kit.input(agent=kit.agent(executor=[{"append": {"mine.txt": "by the agent\n"}}])))
        hidden = kit.agent(executor=[{"write": {"secret.ignored": "by the agent\n"}, "shell": "git add -f *.ignored"}])
        covers = await kit.start(kit.input(agent=hidden))
        first = await status_when(touches, lambda now: "mine.txt" in now.waiting_for)
        second = await status_when(covers, lambda now: "secret.ignored" in now.waiting_for)
        assert first.stage == second.stage == Stage.QUEUE
        assert (await kit.run(agent=kit.agent(executor=[{"write": {"free.txt": "x\n"}}]))).outcome == "merged"
        assert (kit.repo / "mine.txt").read_text() == "changed by the user\n"
        assert (kit.repo / "secret.ignored").read_text() == "the user's\n"
        git(kit.repo, "checkout", "mine.txt")
        (kit.repo / "secret.ignored").unlink()
        assert [(await handle.result()).outcome for handle in (touches, covers)] == ["merged", "merged"]
    assert (kit.repo / "mine.txt").read_text() == "mine\nby the agent\n"
    kit.assert_clean()


@pytest.mark.long
async def test_prompts_diffs_and_output_are_not_in_the_history(kit: Kit) -> None:
    output = "yes 'a line of output, of the length that a build or a test runner prints' | head -c 20000000"
    bulk = f"yes 'a line of the diff' | head -c 5000000 > big.txt; {output}"
    say = f"{bulk}; echo; echo COMPLETE_AND_READY_FOR_MERGE"
    agent = {"runtime": "command", "command": ["/bin/sh", "-c", say]}
    reviewer = kit.agent(reviewer=[{"say": "VERDICT: APPROVED"}])
    commit(kit.repo, {"mergewright.toml": "[policy]\noff = ['lines', 'size']\n"})
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, reviewers=[reviewer], description="d" * 100_000))
        assert (await handle.result()).outcome == "merged"
        described = await handle.describe()
    assert len(kit.show("big.txt")) > 4_900_000
    assert described.history_length < 300
    assert described.raw_description.workflow_execution_info.history_size_bytes < 300_000
    reviewed = next((kit.home.root / "runs").glob("*/turns/002-reviewer"))
    assert (reviewed / "diff.patch").stat().st_size > 5_000_000
    assert str(reviewed / "diff.patch") in (reviewed / "prompt.md").read_text()
    transcript = next((kit.home.root / "runs").glob("*/turns/001-executor/stdout.log"))
    assert transcript.stat().st_size > 20_000_000
