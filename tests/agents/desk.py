"""A repository with a real agent CLI at work in it, driven as the worker drives it, against a scripted model server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from activities import boxes
from activities.agents import runtime
from activities.agents.base import Reader, Report, Turn
from activities.config import SandboxSettings
from activities.drive import Caps, drive
from activities.process import base_environment
from activities.sandbox import Network, Sandbox
from activities.settings import AgentSpec
from tests.agents.turns import a_turn
from tests.models import ModelServer, Scenario, clients

CLIS = Path(__file__).parent / "node_modules" / ".bin"
AGENTS = {
    "claude-code": AgentSpec(
        runtime="claude-code", model="sonnet", reasoning="low", env={"CLAUDE_CODE_MAX_RETRIES": "1"}
    ),
    "codex": AgentSpec(runtime="codex", model="gpt-5.5", reasoning="low"),
    "gemini": AgentSpec(runtime="gemini", model="gemini-2.5-pro"),
    "qwen": AgentSpec(runtime="qwen", model="qwen3-coder-plus"),
    "opencode": AgentSpec(runtime="opencode", model="test/deepseek-chat", reasoning="low"),
}
CAPS = Caps(wall_seconds=90, idle_seconds=20, retry_seconds=4)


def path() -> str:
    """node is the one from PyPI beside this Python, if it is there: Qwen Code needs a newer one than Debian's."""
    return os.pathsep.join([str(CLIS), str(Path(sys.executable).parent), os.environ["PATH"]])


@dataclass
class Desk:
    agent: AgentSpec
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    """What a test adds; an empty value takes a variable away."""
    caps: Caps = CAPS
    only_the_model: bool = False
    """No other host is reached."""
    server: ModelServer = field(init=False)
    shown: list[str] = field(default_factory=list)
    """What the live view would have shown."""
    mark: str = field(default_factory=lambda: f"desk-{uuid.uuid4().hex}")
    """In the environment of all that the CLI starts."""

    def __post_init__(self) -> None:
        problem = runtime(self.agent.runtime).problem(self.agent, {"PATH": str(CLIS)})
        assert problem is None, f"{problem}; for these tests: make test-agents"
        self.repo, self.home = self.folder / "repo", self.folder / "home"
        for folder in (self.repo, self.home):
            folder.mkdir()
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "Somebody")
        self.git("config", "user.email", "somebody@example.com")
        (self.repo / "hello.txt").write_text("hello world\nline two\n")
        self.git("add", "-A")
        self.git("commit", "-qm", "first")

    def git(self, *args: str) -> str:
        env = {**os.environ, "HOME": str(self.home), "GIT_CONFIG_NOSYSTEM": "1"}
        return subprocess.check_output(["git", *args], cwd=self.repo, env=env, text=True).strip()

    def turn(self, scenario: Scenario, meddle: Callable[[], None] | None = None, **changes: Any) -> Report:
        """One turn, with a model server of its own, which `meddle` may look at while the CLI runs."""
        folder = self.folder / "turns" / uuid.uuid4().hex[:8]
        folder.mkdir(parents=True)
        with ModelServer(scenario) as self.server:
            env = {**base_environment(), **clients(self.server.url, self.home), "PATH": path(), "MARK": self.mark}
            env = {name: value for name, value in {**env, **self.env}.items() if value}
            given = {"new_session": str(uuid.uuid4()), "folder": folder, "env": env}
            turn = a_turn(self.agent, **{**given, **changes})
            turn = replace(turn, outside=self.sandbox(turn).outside)
            return asyncio.run(self._drive(turn, meddle))

    async def _drive(self, turn: Any, meddle: Callable[[], None] | None) -> Report:
        def follow(reader: Reader) -> None:
            self.shown.append(reader.last)

        meddling = asyncio.create_task(asyncio.to_thread(meddle)) if meddle else None
        found = runtime(self.agent.runtime)
        report, _ = await drive(found, turn, self.repo, self.caps, self.folder / "lock", follow, self.sandbox(turn))
        if meddling:
            await meddling
        return report

    def sandbox(self, turn: Turn) -> Sandbox:
        """As a task's agent has it; the CLI's own folders are in `box`."""
        env = {**turn.env, **turn.agent.env}
        keeps = runtime(self.agent.runtime).keeps
        read = [turn.folder, CLIS.parent]
        model = self.server.url.removeprefix("http://")
        network: Network = (model,) if self.only_the_model else ("*", model)
        given = {"data": self.folder, "write": [self.repo], "read": read, "keeps": keeps, "network": network}
        return boxes.make(SandboxSettings(), self.box, env, **given)

    @property
    def box(self) -> Path:
        return self.folder / "box"

    def processes(self) -> list[int]:
        """Of the CLI and all that it has started, wherever they have gone; not their supervisor."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"MARK={self.mark}".encode() in (process / "environ").read_bytes():
                    found.append(int(process.name))
        return found

    def kill(self, number: int) -> None:
        for pid in self.processes():
            with suppress(OSError):
                os.kill(pid, number)
