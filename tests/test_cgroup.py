"""Limits by cgroups, as far as this machine has them: without the right to one, only what would be written."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from activities import cgroup, process
from activities.process import Command, Interrupted
from activities.sandbox import UNLIMITED, Limits
from tests.test_process import marked

LIMITS = Limits(memory=10**9, processes=500, output=10**6, nice=5)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cgroup that is ours to divide, if only into such without controllers."""
    ours = cgroup._own()
    if ours is None or not os.access(ours / "cgroup.procs", os.W_OK) or not (ours / "cgroup.procs").exists():
        pytest.skip("no cgroup v2 that we may write")
    base = ours / f"test-{uuid.uuid4().hex}"
    base.mkdir()
    monkeypatch.setattr(cgroup, "_place", None)
    cgroup.divide(base)
    yield base
    for folder in (*base.iterdir(), base):
        if folder.is_dir():
            cgroup.remove(folder)


def command(script: str, folder: Path, mark: str = "") -> Command:
    return Command(["sh", "-c", script], folder, {**process.base_environment(), "MARK": mark}, limits=LIMITS)


async def run(given: Command, folder: Path) -> process.Ended:
    files = {name: folder / name for name in ("stdout", "stderr", "lock")}
    return await process.run(given, **files, wall_seconds=60)


async def test_a_command_is_in_a_group_of_its_own_which_goes_with_it(place: Path, tmp_path: Path) -> None:
    (left := place / "command-999999999-1").mkdir()
    cgroup.divide(place)
    assert not left.exists()
    assert (await run(command("cat /proc/self/cgroup; cat /proc/$PPID/cgroup", tmp_path), tmp_path)).exit_code == 0
    *_, own, supervisor = [line for line in (tmp_path / "stdout").read_text().splitlines() if line.startswith("0::")]
    assert f"/{place.name}/command-{os.getpid()}-" in own
    assert place.name not in supervisor
    assert list(place.glob("command-*")) == []


async def test_what_a_killed_supervisor_leaves_is_ended(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a PID namespace nobody else would."""
    monkeypatch.setenv("MERGEWRIGHT_NO_NAMESPACE", "1")
    mark = uuid.uuid4().hex
    daemon = "setsid setsid sleep 60 & sleep 0.2; kill -9 $PPID; sleep 60"
    with pytest.raises(Interrupted):
        await run(command(daemon, tmp_path, mark), tmp_path)
    assert marked(mark) == []
    assert list(place.glob("command-*")) == []


def test_what_the_kernel_is_told(tmp_path: Path) -> None:
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.weight.nice")
    for name in names:
        (tmp_path / name).touch()
    cgroup.write(tmp_path, UNLIMITED)
    assert [(tmp_path / name).read_text() for name in names] == [""] * 5
    cgroup.write(tmp_path, LIMITS)
    assert [(tmp_path / name).read_text() for name in names] == ["1000000000", "0", "1", "1000", "5"]
    (tmp_path / "memory.max").unlink()  # no such controller
    cgroup.write(tmp_path, LIMITS)
    assert not (tmp_path / "memory.max").exists()


def test_a_command_that_the_kernel_has_ended_was_over_its_memory() -> None:
    assert cgroup.killed("low 0\noom 3\noom_kill 0\noom_group_kill 0\n", "", 10**9) == ""
    assert cgroup.killed("oom 3\noom_kill 2\n", "1100000000\n", 10**9) == "memory: 1.1 GB, and 1.0 GB are allowed"
    assert cgroup.killed("oom_kill 2\n", "", 10**9) == "memory: 1.0 GB, and 1.0 GB are allowed"


def test_what_cannot_be_is_said_and_all_goes_on() -> None:
    assert cgroup._place is None
    with cgroup.of(LIMITS) as group:
        assert group is None
    if why := cgroup.problem():
        assert cgroup.adopt() == why
        assert cgroup._place is None
