"""One agent CLI on one account, as `starter.py doctor` sees it: installed, logged in, answering; and what asking cost.

A probe is one short turn of the real CLI with the environment that a task's agent has, in an empty repository of its
own. It costs what a turn costs, and leaves what the CLI keeps of any session.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Literal

from activities import boxes, process
from activities.agents import RUNTIMES, runtime
from activities.agents.base import Reader, Report, Turn, last_words, one_line
from activities.config import DEFAULT, BadConfig, Config, agent_environment
from activities.drive import Caps, drive
from activities.faults.agent import fault
from activities.settings import AgentSpec, Model

VERSION_SECONDS = 20.0
PROMPT = "Reply with the one word OK."

State = Literal["ok", "warning", "error", "absent"]


class Finding(Model):
    """One line: what there is, and what to do about it."""

    name: str
    state: State
    text: str
    remedy: str = ""


class RuntimeFinding(Finding):
    """None: not known."""

    runtime: str
    account: str | None = None
    """`vendor/name` of the configuration; none: whatever the CLI finds."""
    installed: bool = True
    version: str | None = None
    logged_in: bool | None = None
    answering: bool | None = None
    end: str | None = None
    """Of the probe's turn."""
    seconds: float | None = None
    cost_usd: float | None = None
    tokens: int = 0


def probed() -> list[str]:
    """The runtimes that can be asked: not `command`, whose program only a task names."""
    return [name for name, found in RUNTIMES.items() if found.program]


def agents_of(name: str, model: str | None, config: Config | None) -> list[AgentSpec]:
    """One for each account that the configuration has at the runtime's vendor; else one that names none."""
    plain = AgentSpec(runtime=name, model=model, max_turns=1)
    vendor = runtime(name).vendor(plain)
    names = [name if "/" in name else f"{name}/{DEFAULT}" for name in (config.accounts if config else ())]
    accounts = [name for name in dict.fromkeys(names) if vendor and name.startswith(f"{vendor}/")]
    return [plain.model_copy(update={"account": account}) for account in accounts] or [plain]


class _Broken(Exception):
    """The program is there and does not run; one line."""


class Probe:
    """Of one runtime on one account."""

    def __init__(self, config: Config | None, agent: AgentSpec, timeout_seconds: float | None) -> None:
        """Without `timeout_seconds` the agent is not asked, nor is it if no task could start with the configuration."""
        self._config, self._runtime, self._agent = config, runtime(agent.runtime), agent
        self._timeout = None if config is None else timeout_seconds
        self.label = f"{agent.runtime} ({agent.account})" if agent.account else agent.runtime
        self._known: dict[str, object] = {}
        """Fields of the finding so far."""
        self._reader: Reader | None = None
        """Of the probe."""

    async def examine(self) -> list[RuntimeFinding]:
        with tempfile.TemporaryDirectory(prefix="mergewright-doctor-", ignore_cleanup_errors=True) as folder:
            return [await self._examine(Path(folder))]

    def _finding(self, state: State, text: str, remedy: str = "", **more: object) -> RuntimeFinding:
        given = {"runtime": self._runtime.name, "account": self._agent.account, **self._known, **more}
        return RuntimeFinding.model_validate(
            {"name": self.label, "state": state, "text": text, "remedy": remedy, **given}
        )

    async def _examine(self, folder: Path) -> RuntimeFinding:
        found, config = self._runtime, self._config or Config()
        if shutil.which(found.program) is None:
            return self._finding("absent", "not installed", found.install, installed=False)
        try:
            env = agent_environment(found, config.account(self._agent.account or ""), os.environ, config.keys())
        except BadConfig as problem:
            return self._finding("error", one_line(problem))
        if unfit := found.problem(self._agent, env):
            return self._finding("error", unfit)
        env["TMPDIR"] = str(folder)
        try:
            self._known["version"] = await self._version(folder, env)
            if self._timeout is None:
                return self._finding("ok", "installed, not asked")
            report, seconds = await self._ask(folder, env, self._timeout)
        except (_Broken, BadConfig, process.CannotStart, process.Busy, process.Interrupted, OSError) as problem:
            return self._finding("error", one_line(f"does not run: {problem}"), f"reinstall it: {found.install}")
        return self._judge(report, seconds)

    async def _run(self, argv: list[str], folder: Path, env: dict[str, str]) -> str:
        """What it printed. Raises _Broken if it fails or takes long, and what `process.run` does."""
        out, err = folder / "stdout", folder / "stderr"
        ended = await process.run(
            process.Command(argv, folder, env),
            stdout=out,
            stderr=err,
            lock=folder / "lock",
            wall_seconds=VERSION_SECONDS,
        )
        if ended.exit_code != 0:
            how = f"exit {ended.exit_code}" if ended.by == "exit" else f"no end within {VERSION_SECONDS:g} s"
            said = last_words(err.read_text(errors="replace"), 200)
            raise _Broken(f"{' '.join(argv[:2])}: {how}" + (f": {said}" if said else ""))
        return out.read_text(errors="replace")

    async def _version(self, folder: Path, env: dict[str, str]) -> str:
        said = await self._run([self._runtime.program, "--version"], folder, env)
        number = re.search(r"\d+\.\d+[\w.+-]*", said)
        return number[0] if number else one_line(said, 40) or "version unknown"

    async def _ask(self, folder: Path, env: dict[str, str], limit: float) -> tuple[Report, float]:
        repository, log = folder / "repository", folder / "turn"
        log.mkdir()
        await self._run(["git", "init", "-q", "--template=", str(repository)], folder, env)
        turn = Turn(
            agent=self._agent,
            role="executor",
            task_id="doctor",
            number=1,
            prompt=PROMPT,
            system="",
            session=None,
            new_session=str(uuid.uuid4()),
            folder=log,
            env=env,
        )
        settings = (self._config or Config()).sandbox
        sandbox = None
        if boxes.wanted(settings):
            box, write = folder / "box", [repository]
            sandbox = boxes.make(
                settings, box, env, data=folder, write=write, read=[log],
                keeps=self._runtime.keeps, network=settings.network_of_agents(),
            )  # fmt: skip
            turn = replace(turn, outside=sandbox.outside)
        caps = Caps(wall_seconds=limit, idle_seconds=math.inf, retry_seconds=math.inf)

        def follow(reader: Reader) -> None:
            self._reader = reader

        return await drive(self._runtime, turn, repository, caps, folder / "lock", follow, sandbox)

    def _judge(self, report: Report, seconds: float) -> RuntimeFinding:
        used = report.usage
        answering = report.end == "done" and bool(report.text.strip())
        self._known |= {
            "logged_in": _LOGGED_IN.get(report.end),
            "answering": answering,
            "end": report.end,
            "seconds": round(seconds, 1),
            "tokens": used.tokens,
            "cost_usd": None if used.unpriced_tokens else used.cost_usd,
        }
        if answering:
            return self._finding("ok", f"answers in {seconds:.1f} s, {_cost(used.cost_usd, used.unpriced_tokens)}")
        reason = one_line(report.reason, 120)
        match report.end:
            case "done":
                return self._finding("error", "ended its turn without a word", f"try it by hand: {self._by_hand}")
            case "login" | "credit" as end:
                text = "not logged in" if end == "login" else "out of credit"
                return self._finding("error", f"{text} ({reason})", self._runtime.login)
            case "limited":
                row = fault(report.reason)
                name = row.name if row and row.end == "limited" else "limited"
                return self._finding("error", f"{name} ({reason})", _when(name, report.retry_after_seconds))
            case "timeout":
                text = f"no answer within {self._timeout:g} s"
                if self._reader and self._reader.retrying:
                    text += f" ({one_line(self._reader.retrying, 120)})"
                return self._finding("error", text, f"give it more --timeout, or try it by hand: {self._by_hand}")
        return self._finding("error", f"{report.end} ({reason})", f"try it by hand: {self._by_hand}")

    @property
    def _by_hand(self) -> str:
        return f"`{self._runtime.program}`"


_LOGGED_IN = {"login": False, "credit": False} | dict.fromkeys(("done", "max_turns", "refused", "context_full"), True)
"""By the end of a probe; of any other end it is not known."""


def _when(name: str, seconds: float | None) -> str:
    if name == "network":
        return "check the network, and HTTPS_PROXY and NO_PROXY"
    if seconds is None:
        return "try again later"
    return f"try again in {max(math.ceil(seconds / 60), 1)} min"


def _cost(dollars: float, unpriced: int) -> str:
    return f"{unpriced:,} tokens of unknown price" if unpriced else f"${dollars:.4f}"
