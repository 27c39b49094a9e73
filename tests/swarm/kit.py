"""A swarm on a real repository, with a real worker and agents without a model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import uuid
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHandle

from tests.kit import Kit
from tests.swarm import agent as program
from workflows.contracts import TaskStatus
from workflows.swarm_contracts import BoardPage, SwarmResult, SwarmStatus

PATIENCE = 120
"""Seconds, for a swarm of a few tasks on a machine that does much else."""
Handle = WorkflowHandle[Any, SwarmResult]


def agent(kit: Kit, **settings: Any) -> dict[str, Any]:
    folder = kit.folder / "scripts"
    folder.mkdir(exist_ok=True)
    file = folder / f"swarm-{next(kit.numbers)}.json"
    file.write_text(json.dumps(settings))
    return {"runtime": "command", "command": [sys.executable, program.__file__, str(file)]}


def allow(kit: Kit, more: str = "") -> None:
    """What the agents need to see in their sandbox; `more` of the worker's configuration."""
    read = json.dumps([str(Path(program.__file__))])
    kit.configure(more, f'read = {read}\nwrite = ["{kit.folder}"]')


async def start(kit: Kit, swarm_id: str | None = None, config: str = "", **fields: Any) -> Handle:
    allow(kit, config)
    name = swarm_id or f"swarm-{uuid.uuid4().hex[:6]}"
    given = {"repo": str(kit.repo), "error_backoff_seconds": 0.2, **fields}
    return await kit.client.start_workflow(
        "SwarmWorkflow", given, id=name, task_queue=kit.task_queue, result_type=SwarmResult
    )


async def over(kit: Kit, handle: Handle, patience: float = PATIENCE) -> SwarmResult:
    try:
        return await asyncio.wait_for(handle.result(), patience)
    except TimeoutError:
        status = await handle.query("swarm", result_type=SwarmStatus)
        board = await handle.query("board", result_type=BoardPage)
        cycles = {member.cycle for member in status.members} | {line.holder for line in board.lines} - {""}
        cycles |= {word for word in status.waiting_for.replace(",", " ").split() if "-" in word}
        stuck = [await _status(kit, cycle) for cycle in sorted(cycles - {""})]
        raise AssertionError(f"not over in {patience} s: {status}\n{board}\n{stuck}") from None


async def _status(kit: Kit, cycle: str) -> TaskStatus | None:
    with contextlib.suppress(Exception):
        status: TaskStatus = await kit.client.get_workflow_handle(cycle).query("status", result_type=TaskStatus)
        return status
    return None


def cards(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"id": f"t{number}", "title": f"Task {number}", **fields} for number in range(count)]
