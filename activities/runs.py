"""What a data folder knows of runs and repositories: whose everything in it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.contracts import TaskRef
from activities.git.repository import Repository, RepositoryProblem, open_repository
from activities.git.run import UnsupportedRepository
from activities.home import Home, repository_id, task_key
from activities.server import Server, noted_server, server_of
from activities.site import read_json

State = Literal["running", "ended", "unknown", "elsewhere"]
"""`elsewhere`: it belongs to another server, which nobody has asked."""
Ask = Callable[[str, "Run | None"], Awaitable[State]]
"""How a task stands, by its id, or one run of it."""


@dataclass(frozen=True)
class Run:
    """A run folder and what it says of itself."""

    key: str
    ref: TaskRef
    common_dir: Path | None
    """Of its repository; None: that cannot be found any more."""
    landing: bool
    """A branch without a task: it never has a worktree."""
    server: Server | None = None
    """None: it does not say; older ones do not."""


def known_runs(home: Home) -> dict[str, Run]:
    """By key. A run folder that does not say whose it is is not among them."""
    found = {}
    places: dict[str, Path | None] = {}
    for folder in _folders(home.root / "runs"):
        try:
            said = read_json(folder / "ref.json")
            landing = {} if said else read_json(folder / "branch.json").get("candidate", {}).get("ref", {})
            ref = TaskRef.model_validate(said or landing)
        except (ValueError, AttributeError):
            continue
        if ref.repo not in places:
            places[ref.repo] = _common_dir(ref.repo)
        server = noted_server(home, folder.name)
        found[folder.name] = Run(folder.name, ref, places[ref.repo], bool(landing), server)
    return found


def _common_dir(repo: str) -> Path | None:
    try:
        return open_repository(repo).common_dir
    except (RepositoryProblem, UnsupportedRepository):
        return None


def known_repositories(home: Home, runs: dict[str, Run]) -> dict[str, Path]:
    """Git directories by the names of their folders; they may be gone."""
    found = {repository_id(run.common_dir): run.common_dir for run in runs.values() if run.common_dir}
    for folder in _folders(home.root / "repositories"):
        with suppress(ValueError):
            if said := read_json(folder / "repository.json").get("git_dir"):
                found[folder.name] = Path(said)
    return found


def as_repository(common_dir: Path) -> Repository:
    """Enough of it for its refs and objects."""
    return Repository(common_dir, common_dir, common_dir, None)


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.glob("*") if path.is_dir())


async def asking(client: Client) -> Ask:
    """Asks the server, and tells apart what is another's."""
    mine = await server_of(client)

    async def ask(task_id: str, run: Run | None) -> State:
        if run and run.server and run.server.id != mine.id:
            return "elsewhere"
        return await state_of(client, task_id, run.key if run else None)

    return ask


async def state_of(client: Client, task_id: str, key: str | None = None) -> State:
    """What the server says of a task, or of one run of it. An unknown one may live on another server, or be long over.

    When another run has the task's id, this one has ended.
    """
    if not task_id:
        return "unknown"
    try:
        found = await client.get_workflow_handle(task_id).describe()
    except RPCError as error:
        if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            return "unknown"
        raise
    first = found.raw_description.workflow_execution_info.first_run_id or found.run_id
    same = key is None or task_key(task_id, first) == key
    return "running" if same and found.status is WorkflowExecutionStatus.RUNNING else "ended"
