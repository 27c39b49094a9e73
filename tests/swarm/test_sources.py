"""Where a swarm's tasks come from besides planners: a list of issues, and agents that find a task too large."""

from __future__ import annotations

import asyncio
import json

import pytest
from typer.testing import CliRunner

import starter
from tests.git.repos import git
from tests.kit import Kit
from tests.swarm import kit as swarms
from tests.swarm.test_swarm import NONE_LEFT, landed

ISSUES = [
    {"number": 2, "title": "Second", "body": "Depends on #1 and #9.", "labels": [{"name": "P0"}], "state": "OPEN"},
    {"number": 1, "title": "First", "body": "Once.", "labels": [], "state": "OPEN"},
    {"number": 3, "title": "Done long ago", "body": "", "labels": [], "state": "CLOSED"},
]


@pytest.mark.long
async def test_a_list_of_issues_is_done_in_the_order_of_what_they_wait_for(kit: Kit) -> None:
    file = kit.folder / "issues.json"
    file.write_text(json.dumps(ISSUES))
    env = {"TEMPORAL_ADDRESS": kit.client.service_client.config.target_host, "COLUMNS": "200", "TERM": "dumb"}
    async with kit.worker():
        handle = await swarms.start(kit, workers=[{"agent": swarms.agent(kit)}])
        said = await asyncio.to_thread(CliRunner().invoke, starter.app, ["add", handle.id, str(file)], env=env)
        assert (said.exit_code, said.output.strip()) == (0, "2 on the board")
        result = await swarms.over(kit, handle)
    assert result.counts == {**NONE_LEFT, "complete": 2}
    assert landed(kit) == ["issue-1", "issue-2"]
    assert kit.trailers("Task-Id") == [f"{handle.id}-worker-1.1-{number}" for number in (2, 1)]


@pytest.mark.long
async def test_a_task_of_which_only_new_tasks_landed_is_not_complete_before_it_is_done(kit: Kit) -> None:
    parts = [{"id": "a", "summary": "A"}, {"id": "b", "summary": "B", "depends_on": ["a"]}]
    agent = swarms.agent(kit, split={"big": parts})
    async with kit.worker():
        handle = await swarms.start(kit, workers=[{"agent": agent, "can_plan": True}])
        await handle.execute_update("add", [{"id": "big", "title": "Big", "priority": -9}])
        result = await swarms.over(kit, handle)
    assert result.counts == {**NONE_LEFT, "complete": 3}
    assert landed(kit) == ["a", "b", "big"]
    tally = result.members[0].tally
    assert (tally.cycles, tally.merges, tally.claims, tally.recycled) == (4, 4, 4, 1)  # without a spec nobody plans
    first, *others = [
        git(kit.repo, "show", "--format=", "--name-only", "-m", "--first-parent", sha).split()
        for sha in git(kit.repo, "log", "--first-parent", "--reverse", "--format=%H", "main").split()[1:]
    ]
    assert first == ["tasks/pending/a.json", "tasks/pending/b.json"]
    assert others == [["done/a.txt"], ["done/b.txt"], ["done/big.txt"]]
    kit.assert_clean()
