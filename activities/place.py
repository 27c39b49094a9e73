"""A tree that is being made ready, and how commands run in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from temporalio.exceptions import ApplicationError

from activities import process
from activities.git.repository import Repository
from activities.git.sparse import Cone
from activities.home import Home
from activities.protected import SETTINGS_FILE
from activities.rooms import furnish
from activities.settings import SETUP_FAILED
from activities.site import blocking


@dataclass(frozen=True)
class Place:
    """A task's worktree or a slot of the merge queue, in the hands of who makes it ready."""

    home: Home
    repository: Repository
    tree: Path
    commit: str
    logs: Path
    box: Path
    """Home and temporary files of its commands: none of an agent's or a gate's."""
    lock: Path
    """Held by the supervisor of each command, see `fence`; another one than whoever holds the place has."""
    trusted: bool
    """The commit is on the target: what its commands make may be kept for others. Work that nobody has looked at could
    plant something there."""
    links: tuple[Path, ...] = ()
    """Where links in it lead that we have put there."""
    cone: Cone | None = None
    """What a sparse one was made to hold."""

    async def run(self, shell: str, log: Path, seconds: float) -> process.Ended:
        """A command of the repository, in a sandbox with the network of agents: what it installs is to be fetched.

        Both outputs go to `log`. Raises CannotStart, and what is worth another attempt.
        """
        room = await blocking(furnish, self.home, self.repository, self.tree, self.box, "agents", self.links)
        return await self._run(room.command(shell), log, seconds)

    async def run_ours(self, argv: list[str], log: Path, seconds: float) -> process.Ended:
        """A command of our own, without a sandbox; else as `run`."""
        return await self._run(process.Command(argv, self.tree, process.base_environment()), log, seconds)

    async def _run(self, command: process.Command, log: Path, seconds: float) -> process.Ended:
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            return await process.run(command, stdout=log, stderr=log, lock=self.lock, wall_seconds=max(seconds, 1))
        except process.Busy as busy:
            raise ApplicationError(str(busy), type="Busy") from busy


def failed(what: str, evidence: str = "") -> NoReturn:
    """The tree cannot be made ready: `what` in one line, for a person to mend."""
    remedy = f"mend it, or [worktree] in {SETTINGS_FILE}, and continue the task"
    text = "\n".join(filter(None, [f"{what}; {remedy}", evidence]))
    raise ApplicationError(text, type=SETUP_FAILED, non_retryable=True)


def end_of(log: Path, limit: int) -> str:
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - limit, 0))
        return file.read().decode("utf-8", "replace")
