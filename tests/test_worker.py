"""`worker.py --dev`: its own server, that goes on where it was, is joined, and is taken over."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.devserver import free_port
from tests.kit import Kit, status_when
from tests.test_kill import connected, ended, start_worker, until_up
from workflows.contracts import Stage, TaskResult


@pytest.mark.long
async def test_a_development_server_is_joined_taken_over_and_goes_on_where_it_was(tmp_path: Path) -> None:
    kit = Kit(None, tmp_path)  # type: ignore[arg-type]  # its server is yet to come
    port = free_port()
    dev = ("--dev", "--port", str(port), "--ui-port", str(free_port()))
    workers = [start_worker(kit, *dev)]
    async with ended(workers):
        kit.client = await connected(port)
        await until_up(kit, 1)
        agent = kit.agent(planner=[{"say": "Plan"}], executor=[{"write": {"a.txt": "x\n"}}])
        await kit.start(kit.input(agent=agent, interactive=True), "waits")
        await status_when(kit.client.get_workflow_handle("waits"), lambda now: now.stage is Stage.APPROVAL)

        workers.append(start_worker(kit, "--dev"))  # the ports are those of the server that runs
        await until_up(kit, 2)
        workers[0].kill()
        workers[0].wait()
        for _ in range(300):
            if "taking over" in (kit.folder / "worker.log").read_text():
                break
            await asyncio.sleep(0.1)
        kit.client = await connected(port)
        handle = kit.client.get_workflow_handle("waits", result_type=TaskResult)
        assert (await status_when(handle, lambda _: True)).stage is Stage.APPROVAL

        workers[1].terminate()
        assert await asyncio.to_thread(workers[1].wait) == 0
        workers.append(start_worker(kit, *dev))
        await until_up(kit, 3)
        kit.client = await connected(port)
        await kit.client.get_workflow_handle("waits").signal("approve_plan")
        assert (await kit.client.get_workflow_handle("waits", result_type=TaskResult).result()).outcome == "merged"
    assert workers[-1].returncode == 0
    kit.assert_clean()


async def test_a_port_that_is_taken_is_told_in_one_line(tmp_path: Path) -> None:
    kit = Kit(None, tmp_path)  # type: ignore[arg-type]
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    worker = start_worker(kit, "--dev", "--port", str(port), "--ui-port", str(free_port()))
    assert await asyncio.to_thread(worker.wait) == 1
    server.close()
    last = (kit.folder / "worker.log").read_text().strip().splitlines()[-1]
    assert last.startswith("worker: ")
    assert str(port) in last
