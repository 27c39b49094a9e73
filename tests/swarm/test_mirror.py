"""The board of a swarm as files of the target: real git, a real merge queue, agents without a model."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest

from activities.swarm import mirror
from activities.swarm.cards import digest
from activities.swarm.contracts import Card, MirrorInput, SwarmRef
from activities.swarm.reading import cards_of
from tests.git.repos import commit, git
from tests.kit import Kit
from tests.swarm import kit as swarms
from tests.swarm.test_swarm import NONE_LEFT, landed, until
from tests.test_queue import the_queue

OWN = {"tasks/README.md": "How we work.\n", "tasks/pending/notes.txt": "mine\n", "tasks/complete/old.json": "[]\n"}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.swarm_mirror.EVERY", timedelta(seconds=0.5))
    monkeypatch.setattr("workflows.swarm_mirror.LAST_AGAIN", timedelta(seconds=0.2))


def board(kit: Kit, ref: str = "main") -> list[str]:
    files = git(kit.repo, "ls-tree", "-r", "--name-only", ref, "tasks/").split()
    return [name.removeprefix("tasks/") for name in files if name not in OWN]


async def boards_until(kit: Kit, wanted: list[str], seconds: float = 60) -> None:
    for _ in range(int(seconds * 10)):
        if board(kit) == wanted:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"not in {seconds} s: {wanted}, but {board(kit)}")


def task(name: str, **fields: Any) -> str:
    return json.dumps({"id": name, "summary": f"Do {name}", **fields})


def test_what_is_written_is_read_again_as_the_same_task() -> None:
    """As it is told by hand, which is not quite as a file has it."""
    texts = {"description": "one\r\ntwo\n", "files": ["x", "x", " y"], "acceptance": [" a "], "difficulty": " hard"}
    card = Card(id="b", title=" By  hand ", after=["a", "a"], labels=["l"], priority=-3, **texts)  # type: ignore[arg-type]
    ref = SwarmRef(swarm_id="s", key="k", repo="/r", target="refs/heads/main")
    written = mirror.as_object(card, {}, MirrorInput(ref=ref, places={"b": "pending"}, number=1))
    [read], refused = cards_of(json.dumps(written).encode(), "tasks/pending/b.json")
    assert (digest(read), refused) == (digest(card), [])


async def test_tasks_go_from_pending_to_current_to_complete_on_the_target(kit: Kit) -> None:
    commit(kit.repo, {**OWN, "tasks/pending/a.json": task("a", theirs=[1])})
    gate = kit.folder / "go"
    async with kit.worker():
        handle = await swarms.start(kit, workers=[{"agent": swarms.agent(kit, until=str(gate))}], mirror=True)
        added = {"id": "b", "title": "By hand", "after": ["a"]}
        assert await handle.execute_update("add", added) == "1 on the board"
        await boards_until(kit, ["current/a.json", "pending/b.json"])
        assert json.loads(kit.show("tasks/current/a.json")) == {
            "id": "a", "summary": "Do a", "theirs": [1], "claimed_by": "worker-1.1"
        }  # fmt: skip
        gate.touch()
        result = await swarms.over(kit, handle)
        assert result.counts == {**NONE_LEFT, "complete": 2}
        # Nobody does again what lies there.
        again = await swarms.start(kit, workers=[{"agent": swarms.agent(kit), "max_wait_for_tasks": 1}], mirror=True)
        nothing = await swarms.over(kit, again)
    assert (sum(nothing.counts.values()), nothing.reason) == (0, "all workers have stopped")
    assert nothing.members[0].why == "there was nothing for it to do for 1 s"
    assert result.members[0].tally.claims == 2
    assert board(kit) == ["complete/a.json", "complete/b.json"]
    assert landed(kit) == ["a", "b"]
    assert json.loads(kit.show("tasks/complete/a.json"))["completed_by"] == "worker-1.1"
    assert {name: kit.show(name) + "\n" for name in OWN} == OWN
    cycles = [each for each in kit.trailers("Task-Id") if "-board-" not in each]
    assert cycles == [f"{handle.id}-worker-1.1-2", f"{handle.id}-worker-1.1-1"]
    kit.assert_clean()
    assert [ref for ref in kit.refs() if "/board/" in ref] == []


@pytest.mark.long
async def test_a_board_that_is_sent_back_is_told_of_and_tried_again(kit: Kit) -> None:
    commit(kit.repo, {"mergewright.toml": '[policy]\ndeny = ["tasks/**"]\n'})
    gate = kit.folder / "go"
    async with kit.worker():
        handle = await swarms.start(kit, workers=[{"agent": swarms.agent(kit, until=str(gate))}], mirror=True)
        await handle.execute_update("add", swarms.cards(1))
        status = await until(handle, lambda now: bool(now.problems))
        assert status.problems[0].startswith("the board is not in tasks/, and is tried again: sent-back: ")
        assert "tasks/current/t0.json" in status.problems[0]
        commit(kit.repo, {"mergewright.toml": ""})
        await boards_until(kit, ["current/t0.json"])
        await handle.execute_update("stop", "now")
        result = await swarms.over(kit, handle)
    assert result.counts == {**NONE_LEFT, "pending": 1, "complete": 0}
    assert board(kit) == ["pending/t0.json"]  # a later swarm takes it in


@pytest.mark.long
async def test_a_swarm_ends_whatever_becomes_of_its_last_board(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.swarm_mirror.LAST_WITHIN", timedelta(seconds=2))
    commit(kit.repo, {"mergewright.toml": '[policy]\ndeny = ["tasks/**"]\n'})
    async with kit.worker():
        handle = await swarms.start(kit, workers=[{"agent": swarms.agent(kit)}], mirror=True)
        await handle.execute_update("add", swarms.cards(1))
        result = await swarms.over(kit, handle)
        status = await handle.query("swarm")
    assert result.counts == {**NONE_LEFT, "complete": 1}
    assert status["problems"][-1].startswith("the last board is not in tasks/ yet")


@pytest.mark.long
async def test_a_last_board_that_the_queue_still_has_lands_after_the_swarm(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workflows.swarm_mirror.LAST_WITHIN", timedelta(seconds=2))
    async with kit.worker():
        workers = [{"agent": swarms.agent(kit, until=str(kit.folder / "never"))}]
        handle = await swarms.start(kit, workers=workers, mirror=True)
        await handle.execute_update("add", swarms.cards(1))
        await boards_until(kit, ["current/t0.json"])
        await the_queue(kit).execute_update("pause")
        await handle.execute_update("stop", "now")
        await swarms.over(kit, handle)
        await the_queue(kit).execute_update("resume")
        await boards_until(kit, ["pending/t0.json"])


@pytest.mark.long
async def test_a_large_board_is_written_by_several_commits(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MOST_CARDS", 2)
    async with kit.worker():
        handle = await swarms.start(kit, workers=[{"agent": swarms.agent(kit), "count": 0}], mirror=True)
        await handle.execute_update("add", swarms.cards(5))
        await handle.execute_update("stop")
        await swarms.over(kit, handle)
    assert board(kit) == [f"pending/t{number}.json" for number in range(5)]
    assert len([each for each in kit.trailers("Task-Id") if "-board-" in each]) == 3
