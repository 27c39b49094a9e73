"""What it costs to show many tasks: `python -m bench.watch --tasks 200`.

A real server with so many tasks, as visibility has them once they run; nobody serves them. Measured are the look (one
list query, read and decoded), the redraw of `watch` after it, with every age and a tenth of the stages changed, and
`starter.py status` as a process. All is CPU time, in milliseconds; medians.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from activities.home import Home
from console.glance import RUNNING, TASKS, Seen, seen
from console.overview import Lookout, Overview
from console.watch_app import WatchApp
from service.converter import data_converter
from service.devserver import temporal_cli
from workflows.contracts import Stage
from workflows.glance import MEMO, Glance

STAGES = [Stage.WORK, Stage.GATES, Stage.REVIEW, Stage.QUEUE, Stage.LIMITED, Stage.BLOCKED]
TOP = Path(__file__).resolve().parent.parent


def glance_of(number: int, now: float) -> Glance:
    stage = STAGES[number % len(STAGES)]
    return Glance(
        title=f"Task {number}: {'make it better in a way that takes words ' * 2}",
        stage=stage,
        since=now - 7 * number,
        repo=f"/src/app-{number % 5}",
        target="main",
        agent="codex (gpt-5.5)",
        turns=number % 9,
        cost_usd=number / 10,
        waiting_for="an operator" if stage is Stage.BLOCKED else "",
        next_command=f"temporal workflow signal -w task-{number} --name continue_task"
        if stage is Stage.BLOCKED
        else "",
        said="The parser takes both forms now, and there is a test for each of them in tests/test_parser.py.",
    )


@dataclass
class Changing:
    """The same tasks at each look, later, and a tenth of them at another stage."""

    client: Client
    overview: Overview
    numbers: random.Random = field(default_factory=lambda: random.Random(1))

    async def look(self) -> Overview:
        self.overview = replace(
            self.overview, at=self.overview.at + 61, tasks=[self._changed(task) for task in self.overview.tasks]
        )
        return self.overview

    def _changed(self, task: Seen) -> Seen:
        if self.numbers.random() > 0.1:
            return task
        more = {"stage": self.numbers.choice(STAGES), "turns": task.glance.turns + 1}
        return replace(task, glance=task.glance.model_copy(update=more))


async def main(tasks: int, rounds: int) -> None:
    environment = await WorkflowEnvironment.start_local(
        dev_server_existing_path=temporal_cli(), dev_server_log_level="error", data_converter=data_converter
    )
    client, now = environment.client, time.time()
    for number in range(tasks):
        memo = {MEMO: glance_of(number, now).model_dump(exclude_defaults=True)}
        await client.start_workflow("TaskWorkflow", {}, id=f"task-{number}", task_queue="nobody", memo=memo)
    while len(await seen(client, f"{TASKS} AND {RUNNING}")) < tasks:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    lookout = Lookout(client)
    looks, overview = [], Overview(at=now)
    for _ in range(rounds):
        started = time.process_time()
        overview = await lookout.look()
        looks.append(time.process_time() - started)
    draws = await redraws(Changing(client, overview), rounds)
    address = client.service_client.config.target_host
    environ = {**os.environ, "TEMPORAL_ADDRESS": address}
    print(f"{tasks} tasks, {rounds} rounds")
    print(f"look:   {_median(looks):6.1f} ms of CPU")
    print(f"redraw: {_median(draws):6.1f} ms of CPU, at most {max(draws) * 1000:.1f}")
    whole, start = _process(environ, rounds, "status"), _process(environ, rounds, "--help")
    print(f"status: {whole:6.0f} ms of CPU in all, {start:.0f} to start starter.py alone")
    await environment.shutdown()


async def redraws(changing: Changing, rounds: int) -> list[float]:
    app, found = WatchApp(changing, Home(Path("/nonexistent")), every=3600), []
    async with app.run_test(size=(180, 50)) as pilot:
        await pilot.pause()
        for _ in range(rounds):
            overview = await changing.look()
            started = time.process_time()
            app.draw(overview)
            await pilot.pause()  # until all of it is on the screen
            found.append(time.process_time() - started)
    return found


def _process(environ: dict[str, str], rounds: int, *arguments: str) -> float:
    took = []
    for _ in range(min(rounds, 5)):
        before = os.times()
        argv = [sys.executable, "starter.py", *arguments]
        subprocess.run(argv, cwd=TOP, env=environ, check=True, capture_output=True)
        after = os.times()
        took.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return _median(took)


def _median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.tasks, arguments.rounds))
