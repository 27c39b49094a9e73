"""Where gates, set-up and tear-down commands run: their environment, sandbox and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from temporalio.exceptions import ApplicationError

from activities import boxes, ports, process
from activities.config import BadConfig, load
from activities.git.repository import Repository
from activities.home import Home
from activities.sandbox import Limits, Network, Sandbox


@dataclass(frozen=True)
class Room:
    tree: Path
    env: dict[str, str]
    sandbox: Sandbox | None
    limits: Limits

    def command(self, shell: str, network: Network | None = None) -> process.Command:
        """`network`: less than the room has, where that can be kept."""
        sandbox = self.sandbox
        if sandbox and network and not process.sandbox_problem(network):
            sandbox = replace(sandbox, network=network)
        return process.Command(["/bin/sh", "-c", shell], self.tree, self.env, sandbox=sandbox, limits=self.limits)


def furnish(
    home: Home,
    repository: Repository,
    tree: Path,
    box: Path,
    network_of: Literal["agents", "gates"],
    links: Sequence[Path] = (),
) -> Room:
    """By the configuration as it is now. `links`: where links in the tree lead, to be written as the tree is.

    Raises ApplicationError of the type BadConfig.
    """
    temporary = boxes.temporary_of(box)
    env = {**process.base_environment(), "TMPDIR": str(temporary), **ports.environment(home, str(tree))}
    try:
        settings = load(home.root).sandbox
        sandbox = None
        if boxes.wanted(settings):
            sandbox = boxes.make(
                settings,
                box,
                env,
                data=home.root,
                write=[tree, *links],
                read=list(boxes.of_repository(repository)),
                network=settings.network_of_agents() if network_of == "agents" else settings.network_of_gates(),
            )
    except BadConfig as problem:
        raise ApplicationError(str(problem), type="BadConfig") from problem
    return Room(tree, env, sandbox, settings.limits.limits())
