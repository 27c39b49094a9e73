"""An agent that reaches into the user's git directory: the task stops, and nothing of it stays."""

from __future__ import annotations

import asyncio

from tests.git.repos import git
from tests.kit import Kit, status_when
from workflows.contracts import BlockedReason


async def test_a_turn_that_plants_a_hook_stops_its_task_and_the_hook_is_gone(kit: Kit) -> None:
    kit.configure(sandbox='mode = "off"')
    hook = kit.repo / ".git" / "hooks" / "post-checkout"
    plant = f"mkdir -p {hook.parent}; echo id >{hook}; git -C {kit.repo} branch other; echo x >a.txt"
    agent = kit.agent(executor=[{"shell": plant}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent))
        status = await status_when(handle, lambda now: now.blocked is not None)
        assert status.blocked is not None
        assert status.blocked.reason is BlockedReason.ESCAPE
        assert status.blocked.text.startswith(
            "while executor turn 1 ran, hooks/post-checkout was added. Undone: hooks/post-checkout; what was"
        )
        [note] = status.warnings
        assert note.startswith("while executor turn 1 ran: refs/heads/other went from nothing to ")
        assert not hook.exists()
        await handle.signal("continue_task")
        assert (await asyncio.wait_for(handle.result(), 60)).outcome == "merged"
    assert [path.read_text() for path in kit.home.root.rglob("escaped/hooks/post-checkout")] == ["id\n"]
    assert git(kit.repo, "show", "main:a.txt") == "x"


async def test_a_turn_that_is_cut_off_leaves_no_hook_either(kit: Kit) -> None:
    kit.configure(sandbox='mode = "off"')
    hook = kit.repo / ".git" / "hooks" / "post-checkout"
    agent = kit.agent(executor=[{"shell": f"mkdir -p {hook.parent}; echo id >{hook}; sleep 300"}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent))
        for _ in range(600):
            if hook.exists():
                break
            await asyncio.sleep(0.1)
        await handle.cancel()
        assert (await asyncio.wait_for(handle.result(), 60)).outcome == "cancelled"
    assert not hook.exists()
    [kept] = kit.home.root.rglob("escaped/hooks/post-checkout")
    assert (kept.parents[1].parent / "escape.json").exists()
