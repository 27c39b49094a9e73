"""Two orchestrators on one repository: the second one's task is told who has it, and the first one's go on."""

from __future__ import annotations

from pathlib import Path

from tests.kit import Kit
from tests.test_input import refusal


async def test_a_task_for_a_repository_of_another_orchestrator_is_refused(kit: Kit, tmp_path: Path) -> None:
    other = Kit(kit.client, tmp_path / "other")
    other.repo = kit.repo
    agent = kit.agent(executor=[{"write": {"a.txt": "x\n"}}, {"write": {"b.txt": "x\n"}}])
    async with kit.worker(), other.worker():
        assert (await kit.run(agent=agent)).outcome == "merged"
        text = await refusal(other, other.input(agent=agent))
        assert (await kit.run(agent=agent)).outcome == "merged"
    assert text.startswith("repo: ")
    address = kit.client.service_client.config.target_host
    for part in (address, "namespace default", f"task queue {kit.task_queue},", f"data folder {kit.home.root},"):
        assert part in text
    assert other.task_queue not in text
