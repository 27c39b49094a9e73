"""Worktrees whose task ended without settling them: terminated, or cancelled with no worker there. Saved, then removed.

Only what Temporal itself says has ended is touched. A task that this server does not know may live on another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from pathlib import Path

import structlog
from temporalio.client import Client
from temporalio.service import RPCError

from activities.contracts import TaskRef
from activities.home import Home
from activities.runs import Run, asking
from activities.server import noted_server
from activities.settle import settle

log = structlog.get_logger()


async def sweep(client: Client, home: Home) -> int:
    """Number of worktrees removed. Safe to run at any time, by several at once."""
    count = 0
    ask = await asking(client)
    await asyncio.to_thread(remove_git_leftovers)
    for path in [path for path in (home.root / "worktrees").glob("*") if path.is_dir()]:
        record = home.run(path.name) / "ref.json"
        if not record.exists():
            continue  # half made: the next attempt of `prepare` makes it whole
        try:
            ref = TaskRef.model_validate_json(record.read_text())
            run = Run(path.name, ref, None, False, noted_server(home, path.name))
            if await ask(ref.task_id, run) != "ended":
                continue
            settled = await asyncio.to_thread(settle, home, ref, "ended without settling", None)
        except RPCError:
            raise
        except Exception as problem:  # whatever an agent has left in one keeps nobody from the others
            log.warning("a worktree of an ended task stays", worktree=path.name, reason=str(problem))
            continue
        count += 1
        log.info("removed the worktree of an ended task", task=ref.task_id, salvage_ref=settled.salvage_ref)
    return count


def remove_git_leftovers() -> None:
    """Shadow git directories of workers that were killed. A git command takes no hour."""
    for path in Path(tempfile.gettempdir()).glob("mergewright-git-*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(path)
