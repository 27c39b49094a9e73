"""Room on the disk is looked for before a worktree is made; a task waits for it, and says so."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from activities.config import Disk
from activities.disk import GB, DiskFull, check_room, share, used
from activities.git.clone import delete, open_up
from activities.home import Home
from activities.overlaps import note_ref
from activities.runs import known_runs
from tests.git.repos import make_repo
from tests.kit import Kit, status_when
from tests.test_janitor import made


async def test_a_task_waits_for_room_and_goes_on_when_there_is_some(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.steps.ROOM_PAUSE", timedelta(seconds=1))
    kit.configure("[disk]\nfloor_gb = 1e9\n")
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[{"write": {"a.txt": "x\n"}}]), on_blocked="fail"))
        status = await status_when(handle, lambda now: "room on the disk" in now.waiting_for)
        assert f"or lower [disk] floor_gb in {kit.config}" in status.waiting_for
        assert kit.worktrees() == []
        kit.configure("[disk]\nfloor_gb = 0\n")
        assert (await handle.result()).outcome == "merged"


def test_a_repository_has_its_share_and_no_more(kit: Kit, tmp_path: Path) -> None:
    mine = made(kit, "big", "big.0123456789ab")
    (kit.home.worktree(mine.key) / "big.bin").write_bytes(b"x" * 3_000_000)
    other = make_repo(tmp_path / "other")
    note_ref(kit.home, mine.model_copy(update={"key": "other.0123456789ab", "repo": str(other)}))
    held = share(kit.home, known_runs(kit.home).values(), kit.repo / ".git")
    assert 3_000_000 <= held < 4_000_000
    check_room(kit.home, Disk(cap_gb=held / GB), kit.repo / ".git")
    check_room(kit.home, Disk(cap_gb=0.001), other / ".git")
    with pytest.raises(DiskFull, match=r"let tasks end, or raise \[disk\] cap_gb"):
        check_room(kit.home, Disk(cap_gb=0.001), kit.repo / ".git")


def test_what_cannot_be_read_counts_nothing(tmp_path: Path) -> None:
    assert used(tmp_path / "nowhere") == 0
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert used(Home(tmp_path).root) == used(tmp_path / "a") < 10_000


def test_folders_may_be_deeper_than_python_goes(tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    subprocess.run(["mkdir", "-p", deep / "/".join("d" * 1500)], check=True)
    (deep / "/".join("d" * 1500) / "file").write_bytes(b"x" * 10_000)
    assert used(tmp_path) >= 10_000
    open_up(deep)
    delete(deep)
    assert not deep.exists()
