"""Our own time per task: everything but agents and gates.

    .venv/bin/python -m bench.overhead [--tasks 1 8 64] [--rounds 3]

The agent is a shell's `true` with a commit, the gate is `true`. Beside it, in the same run and on the same server, a
floor: a bare workflow with as many empty activities as the happy path has, plus the same git operations by hand. The
ratio of the two is what counts; seconds are of this machine on this day.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import tempfile
import time
import uuid
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from service.converter import data_converter
from service.devserver import temporal_cli
from tests.git.repos import make_repo, run_git
from tests.kit import Kit

GOAL_RATIO = 1.5
GOAL_HOPS = 12


@activity.defn
async def nothing() -> None:
    """A hop."""


@workflow.defn
class BareWorkflow:
    @workflow.run
    async def run(self, hops: int) -> None:
        for _ in range(hops):
            await workflow.execute_activity(nothing, start_to_close_timeout=timedelta(minutes=1))


def git_by_hand(repo: Path, number: int, folder: Path) -> None:
    """What the happy path does in git, in as few plain commands as it takes."""
    clone = folder / f"clone{number}"
    run_git(repo, "clone", "-q", "--shared", str(repo), str(clone))
    (clone / f"new{number}.txt").write_text("work\n")
    run_git(clone, "add", "-A")
    run_git(clone, "-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-m", "work")
    run_git(clone, "diff", "--stat", "HEAD^", "HEAD")
    head = run_git(clone, "rev-parse", "HEAD").stdout.decode().strip()
    run_git(repo, "fetch", "-q", str(clone), f"{head}:refs/floor/{number}")
    tree = run_git(repo, "merge-tree", "--write-tree", "main", head).stdout.decode().split()[0]
    made = run_git(repo, "commit-tree", tree, "-p", "main", "-p", head, "-m", "land").stdout.decode().strip()
    run_git(repo, "read-tree", "-m", "-u", "main", made)
    run_git(repo, "update-ref", "refs/heads/main", made)
    subprocess.run(["rm", "-rf", str(clone)], check=True)


async def floor(client: Client, folder: Path, tasks: int, hops: int) -> float:
    """Seconds per task: bare workflows side by side, and the git work one after the other, as on main."""
    repo = make_repo(folder / "floor")
    queue = f"floor-{uuid.uuid4().hex[:8]}"
    worker = Worker(client, task_queue=queue, workflows=[BareWorkflow], activities=[nothing],
                    workflow_runner=UnsandboxedWorkflowRunner())  # fmt: skip
    async with worker:
        started = time.perf_counter()

        async def one(number: int) -> None:
            await client.execute_workflow(
                BareWorkflow.run, hops, id=f"{queue}-{number}", task_queue=queue, execution_timeout=timedelta(hours=1)
            )

        async def by_hand() -> None:
            for number in range(tasks):
                await asyncio.to_thread(git_by_hand, repo, number, folder)

        await asyncio.gather(by_hand(), *(one(number) for number in range(tasks)))
        return (time.perf_counter() - started) / tasks


async def ours(client: Client, folder: Path, tasks: int) -> tuple[float, float]:
    """Seconds per task of a whole task, without its agent and gates; and activity hops of one task's happy path."""
    kit = Kit(client, folder)
    async with kit.worker(agents=8, gate_slots=2):

        async def one(number: int) -> float:
            agent = {"runtime": "command", "command": ["/bin/sh", "-c",
                     f"echo work > new{number}.txt; echo COMPLETE_AND_READY_FOR_MERGE"]}  # fmt: skip
            given = kit.input(agent=agent, gates=[{"name": "true", "command": "true"}])
            handle = await kit.start(given, f"{kit.task_queue}-{number}")
            result = await handle.result()
            assert result.outcome == "merged", result
            return result.seconds.agent + result.seconds.gates

        await one(-1)  # the worker is up, its code is loaded
        started = time.perf_counter()
        theirs = await asyncio.gather(*(one(number) for number in range(tasks)))
        spent = time.perf_counter() - started
        hops = await _hops(client, f"{kit.task_queue}-0")
        async for queue in client.list_workflows(f"TaskQueue = '{kit.task_queue}' AND ExecutionStatus = 'Running'"):
            hops += await _hops(client, queue.id) / (tasks + 1)
            await client.get_workflow_handle(queue.id).terminate()
    return spent / tasks - (sum(theirs) / tasks if tasks == 1 else 0.0), hops


async def _hops(client: Client, workflow_id: str) -> float:
    history = await client.get_workflow_handle(workflow_id).fetch_history()
    return sum(event.HasField("activity_task_scheduled_event_attributes") for event in history.events)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    table = Table(title="own time per task, beside a bare workflow and plain git")
    for column in ("tasks at once", "ours", "floor", f"ratio (goal {GOAL_RATIO})", f"hops (goal {GOAL_HOPS})"):
        table.add_column(column, justify="right")
    environment = await WorkflowEnvironment.start_local(
        dev_server_existing_path=temporal_cli(), dev_server_log_level="error", data_converter=data_converter
    )
    try:
        for tasks in given.tasks:
            own, bare, hops = [], [], 0.0
            for _ in range(given.rounds):
                with tempfile.TemporaryDirectory() as folder:
                    seconds, hops = await ours(environment.client, Path(folder), tasks)
                    own.append(seconds)
                    bare.append(await floor(environment.client, Path(folder), tasks, round(hops)))
            a, b = statistics.median(own), statistics.median(bare)
            table.add_row(str(tasks), f"{a * 1000:.0f} ms", f"{b * 1000:.0f} ms", f"{a / b:.2f}", f"{hops:.1f}")
    finally:
        await environment.shutdown()
    Console().print(table)


if __name__ == "__main__":
    asyncio.run(main())
    time.sleep(0.5)  # as in worker.py
