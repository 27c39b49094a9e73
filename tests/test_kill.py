"""Nobody can be killed to effect: SIGKILL to the worker, and to the server, at random moments while tasks run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from service.connect import connect
from service.devserver import free_port
from tests.git.repos import git
from tests.kit import Kit
from workflows.contracts import TaskResult

TOP = Path(__file__).parent.parent
TASKS = 20
KILLS = 6
DAEMON = "setsid sh -c 'trap \"\" TERM HUP; sleep 300' >/dev/null 2>&1 &"


def give_work(kit: Kit) -> list[dict[str, Any]]:
    """Twenty tasks: plain, reviewed, red at first, two and two in conflict; each leaves a daemon behind."""
    inputs = []
    for number in range(TASKS):
        name, wait = f"new{number}.txt", random.Random(number).uniform(0.2, 1.5)
        first: dict[str, Any] = {"sleep": wait, "shell": DAEMON, "write": {name: "good\n"}}
        if number % 5 == 1:
            first["write"] = {name: "bad\n"}
        if number % 5 == 2:
            first["append"] = {f"shared{number // 10}.txt": f"line {number}\n"}
        agent = kit.agent(
            executor=[first],
            fixer=[{"sleep": wait, "write": {name: "good\n"}}],
            resolver=[{"sleep": wait, "resolve": True}],
            reviewer=[{"sleep": wait, "say": "VERDICT: NEEDS_CHANGES"}, {"say": "VERDICT: APPROVED"}],
        )
        gate = {"name": "good", "command": f"{DAEMON} sleep 0.1; ! grep -q bad {name}"}
        reviewers = [agent] if number % 5 == 3 else []
        inputs.append(kit.input(agent=agent, gates=[gate], reviewers=reviewers, title=f"Task {number}"))
    return inputs


def check_landed_once(kit: Kit, results: list[TaskResult]) -> None:
    assert [result.outcome for result in results] == ["merged"] * TASKS
    tasks, ops = kit.trailers("Task-Id"), kit.trailers("Merge-Op")
    assert len(tasks) == len(set(tasks)) == TASKS
    assert len(ops) == len(set(ops)) == TASKS
    for number in range(TASKS):
        assert kit.show(f"new{number}.txt") == "good"
    assert git(kit.repo, "status", "--porcelain") == ""
    kit.assert_clean()


def start_worker(kit: Kit, *more: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, str(TOP / "worker.py"), "--home", str(kit.home.root), "--task-queue", kit.task_queue,
            "--host", "here", "--agents", "8", "--gate-slots", "2", *more]  # fmt: skip
    with (kit.folder / "worker.log").open("ab") as output:
        return subprocess.Popen(argv, cwd=TOP, stdout=output, stderr=output)


async def until_up(kit: Kit, times: int) -> None:
    """A worker takes a second or two to start: killing it before it works would show nothing."""
    for _ in range(600):
        if (kit.folder / "worker.log").read_bytes().count(b"worker is up") >= times:
            return
        await asyncio.sleep(0.1)
    raise AssertionError((kit.folder / "worker.log").read_text()[-2000:])


@contextlib.asynccontextmanager
async def ended(worker: list[subprocess.Popen[bytes]]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        worker[-1].terminate()
        await asyncio.to_thread(worker[-1].wait)


@pytest.mark.timeout(600)
@pytest.mark.long
async def test_the_worker_is_killed_at_random_moments(kit: Kit) -> None:
    chance = random.Random(7)
    address = kit.client.service_client.config.target_host
    workers = [start_worker(kit, "--address", address)]
    async with ended(workers):
        handles = [await kit.start(given) for given in give_work(kit)]
        over = asyncio.gather(*(handle.result() for handle in handles))
        for number in range(KILLS):
            await until_up(kit, number + 1)
            await asyncio.wait([over], timeout=chance.uniform(0.5, 3))
            workers[-1].kill()
            workers[-1].wait()
            workers.append(start_worker(kit, "--address", address))
        results = await over
    check_landed_once(kit, results)
    prompts = [path.read_text() for path in (kit.home.root / "runs").glob("*/turns/*/prompt.md")]
    assert any("was interrupted by us" in prompt for prompt in prompts)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_the_server_is_killed_at_random_moments(tmp_path: Path) -> None:
    port = free_port()
    kit = Kit(None, tmp_path)  # type: ignore[arg-type]  # its server is yet to come
    workers = [start_worker(kit, "--dev", "--port", str(port), "--ui-port", str(free_port()))]
    async with ended(workers):
        kit.client = await connected(port)
        handles = [await kit.start(given) for given in give_work(kit)]
        chance = random.Random(11)
        over = asyncio.gather(*(_result(kit.client, handle.id) for handle in handles))
        for _ in range(4):
            await asyncio.wait([over], timeout=chance.uniform(2, 5))
            os.kill(_server_pid(port), signal.SIGKILL)
        results = await over
        # The merge queue's workflow goes on; what matters is that the tasks ended.
    check_landed_once(kit, results)


async def connected(port: int) -> Client:
    for _ in range(300):
        with contextlib.suppress(RuntimeError):
            return await connect(f"127.0.0.1:{port}", "default")
        await asyncio.sleep(0.1)
    raise AssertionError("no server")


async def _result(client: Client, task_id: str) -> TaskResult:
    """Asked for again whenever the server is away."""
    while True:
        with contextlib.suppress(Exception):
            result: TaskResult = await client.get_workflow_handle(task_id, result_type=TaskResult).result()
            return result
        await asyncio.sleep(0.5)


def _server_pid(port: int) -> int:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            argv = (process / "cmdline").read_bytes().split(b"\0")
            if argv[0].endswith(b"temporal") and b"--port" in argv and argv[argv.index(b"--port") + 1] == b"%d" % port:
                return int(process.name)
    raise AssertionError("the server is not running")
