"""A real worker, a real repository and scripted agents, for tests of whole tasks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from activities.git.owner import LOCK
from activities.home import Home
from console import scripted_agent
from service.run import run_worker
from tests.git.repos import git, make_repo
from workflows.contracts import TaskResult, TaskStatus
from workflows.task import TaskWorkflow

PATIENCE = 120
"""Seconds after which a test gives up on a task: so that it fails and does not hang."""

PROGRAMS = [Path(scripted_agent.__file__), Path(__file__).parent / "agents" / "node_modules"]
"""What agents need to see besides the machine's own programs."""

FILES = {"README.md": "# app\n", "app.py": "VALUE = 1\n", ".gitignore": "__pycache__/\n*.ignored\n"}


@dataclass
class Kit:
    """One repository, one data folder, one task queue; a worker when `worker` is entered."""

    client: Client
    folder: Path
    task_queue: str = field(default_factory=lambda: f"test-{uuid.uuid4().hex[:8]}")
    numbers: Any = field(default_factory=itertools.count)
    clean_every: timedelta | None = None
    environment: WorkflowEnvironment | None = None
    """Where the server skips time."""

    def __post_init__(self) -> None:
        self.repo = make_repo(self.folder / "repo", files=FILES)
        self.home = Home(self.folder / "home")
        self.home.create()
        read = json.dumps(list(map(str, PROGRAMS)))
        # What tests make their agents write lies there; so does the data folder, which is hidden all the same.
        self.sandbox = f'[sandbox]\nread = {read}\nwrite = ["{self.folder}"]\n'
        self.configure()

    def configure(self, text: str = "", sandbox: str | None = None) -> None:
        """What the worker's own configuration says besides what its sandbox shows."""
        self.config.write_text((self.sandbox if sandbox is None else f"[sandbox]\n{sandbox}\n") + text)

    @property
    def config(self) -> Path:
        return self.home.root / "config.toml"

    def agent(self, **script: Any) -> dict[str, Any]:
        """A `command` agent that does what the script says: lists of steps by role."""
        path = self.folder / "scripts" / f"{next(self.numbers)}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(script))
        return {"runtime": "command", "command": [sys.executable, scripted_agent.__file__, str(path)]}

    def input(self, **fields: Any) -> dict[str, Any]:
        return {"repo": str(self.repo), "title": "Do it", **fields}

    async def start(self, given: dict[str, Any], task_id: str | None = None) -> WorkflowHandle[Any, TaskResult]:
        name = task_id or f"task-{uuid.uuid4().hex[:8]}"
        return await self.client.start_workflow(
            TaskWorkflow.__name__, given, id=name, task_queue=self.task_queue, result_type=TaskResult
        )

    async def run(self, **fields: Any) -> TaskResult:
        handle = await self.start(self.input(**fields))
        try:
            return await asyncio.wait_for(handle.result(), PATIENCE)
        except TimeoutError:
            status = await handle.query("status", result_type=TaskStatus)
            raise AssertionError(f"not over in {PATIENCE} s: {status}") from None

    @contextlib.asynccontextmanager
    async def worker(self, agents: int = 8, gate_slots: int = 2) -> AsyncIterator[None]:
        stop = asyncio.Event()
        serving = asyncio.create_task(
            run_worker(
                self.client,
                self.home,
                "here",
                self.task_queue,
                agents,
                gate_slots,
                stop,
                1,
                clean_every=self.clean_every,
            )
        )
        try:
            yield
        finally:
            stop.set()
            await serving

    # --- what there is on main and beside it -----------------------------------------------------------

    def show(self, path: str, ref: str = "main") -> str:
        return git(self.repo, "show", f"{ref}:{path}")

    def trailers(self, key: str, ref: str = "main") -> list[str]:
        form = f"--format=%(trailers:key={key},valueonly,separator=%x2C)"
        return [line for line in git(self.repo, "log", "--first-parent", form, ref).splitlines() if line]

    def refs(self, prefix: str = "refs/mergewright") -> list[str]:
        return git(self.repo, "for-each-ref", "--format=%(refname)", prefix).splitlines()

    def worktrees(self) -> list[str]:
        folder = self.home.root / "worktrees"
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.exists() else []

    def assert_clean(self) -> None:
        """Nothing is left of any task: no worktree, no process, no stale lock, a sound repository."""
        assert self.worktrees() == []
        assert leftovers(self.home.root) == []
        assert [path.name for path in (self.repo / ".git").rglob("*.lock") if path.name != LOCK] == []
        checked = subprocess.run(
            ["git", "fsck", "--strict"], cwd=self.repo, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr
        assert not (self.repo / ".git" / "MERGE_HEAD").exists()


async def status_when(
    handle: WorkflowHandle[Any, Any], wanted: Callable[[TaskStatus], bool], seconds: float = 60
) -> TaskStatus:
    """The status once it is as wanted."""
    last: TaskStatus | None = None
    for _ in range(int(seconds * 10)):
        with contextlib.suppress(Exception):
            last = await handle.query("status", result_type=TaskStatus)
            if wanted(last):
                return last
        await asyncio.sleep(0.1)
    raise AssertionError(f"not in {seconds} s; last: {last}")


def leftovers(home: Path) -> list[str]:
    """Processes that work in the data folder: by their current directory or their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            cwd = str((process / "cwd").readlink())
            environment = (process / "environ").read_bytes()
            if cwd.startswith(f"{home}/worktrees") or f"TMPDIR={home}/runs".encode() in environment:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found
