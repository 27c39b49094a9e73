"""`starter.py doctor`: whether this host has what tasks need, and whether the agent CLIs answer; a line for each check.

* The agents are asked one after the other (see `probe.py`): it costs money.
* It is the host's user who is logged in: run it as the worker's user, with the worker's environment.
* Needed are Temporal, git, room on the disk, a readable configuration, and one runtime; all else can wait.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.text import Text
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    GetSystemInfoRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from activities import boxes, cgroup, process
from activities.agents.base import one_line
from activities.config import CONFIG_FILE, BadConfig, Config, SandboxSettings, load
from activities.contracts import CleanedUp
from activities.home import Home
from console.clean import size
from console.probe import VERSION_SECONDS, Finding, Probe, RuntimeFinding, State, agents_of
from service.connect import CannotConnect, connect, connect_config

GIT = (2, 38)
"""The first with `merge-tree --write-tree` and `cat-file --batch -z`."""
DISK_LOW, DISK_FULL = 5 * 10**9, 500 * 10**6
"""Bytes: a warning below the first, an error below the second."""
RPC_SECONDS = timedelta(seconds=10)
POLLED_SECONDS = 90
"""A worker asks for work at least every minute; the server remembers one for five that is gone."""


@dataclass(frozen=True)
class Asked:
    """What to look at."""

    runtimes: Sequence[str]
    home: Path
    task_queue: str
    model: str | None = None
    address: str | None = None
    namespace: str | None = None
    timeout_seconds: float | None = 60.0
    """Of a probe; none: no agent is asked."""


Check = Callable[[], Awaitable[Sequence[Finding]]]


async def doctor(asked: Asked, console: Console, as_json: bool = False) -> bool:
    """Shows each line as soon as it is known, or all as one JSON list. True when all that is needed works."""
    config, about_config = _config(asked.home)
    checks = list(_checks(asked, config, about_config))
    width = max(len(name) for name, _ in checks)
    found: list[Finding] = []
    for name, check in checks:
        with _busy(console, f"{name} …") if not as_json else nullcontext():
            news = await check()
        found += news
        if not as_json:
            for finding in news:
                console.print(_line(finding, width, console), soft_wrap=True)
    lacking = what_is_missing(found)
    if as_json:
        console.out(json.dumps([finding.model_dump() for finding in found], indent=1), highlight=False)
    else:
        console.print()
        console.print(_summary(found, lacking), soft_wrap=True)
    return not lacking


def what_is_missing(found: Sequence[Finding]) -> list[str]:
    """What stands against running tasks here; empty when nothing does."""
    lacking = [one.name for one in found if one.state == "error" and not isinstance(one, RuntimeFinding)]
    if not any(one.state == "ok" for one in found if isinstance(one, RuntimeFinding)):
        lacking.append("a working agent CLI")
    return lacking


def _checks(asked: Asked, config: Config | None, about_config: Finding) -> Iterator[tuple[str, Check]]:
    async def host() -> list[Finding]:
        return [
            Finding(name="python", state="ok", text=platform.python_version()),
            git(),
            disk(asked.home),
            *cleaned_up(asked.home),
            sandbox(config),
            limits(),
            about_config,
            *notifications(config),
        ]

    yield "host", host
    yield "temporal", lambda: temporal(asked, config)
    for name in asked.runtimes:
        for agent in agents_of(name, asked.model, config):
            one = Probe(config, agent, asked.timeout_seconds)
            yield one.label, one.examine


# --- the host ------------------------------------------------------------------------------------


def git() -> Finding:
    wanted = ".".join(map(str, GIT))
    try:
        said = subprocess.run(
            ["git", "--version"], capture_output=True, text=True, errors="replace", timeout=VERSION_SECONDS, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        text = "not installed" if isinstance(error, FileNotFoundError) else f"does not run ({error})"
        return Finding(name="git", state="error", text=text, remedy=f"install git {wanted} or newer")
    version = re.search(r"(\d+)\.(\d+)\S*", said)
    if version and (int(version[1]), int(version[2])) >= GIT:
        return Finding(name="git", state="ok", text=version[0])
    text = f"{version[0] if version else one_line(said, 40)} is too old"
    return Finding(name="git", state="error", text=text, remedy=f"install git {wanted} or newer")


def disk(home: Path) -> Finding:
    """Of the file system that the data folder is in, or will be."""
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / 1e9:.1f} GB free for {home}"
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        remedy = "choose another folder with --home or MERGEWRIGHT_HOME, or correct its owner"
        return Finding(name="disk", state="error", text=f"{there} cannot be written to", remedy=remedy)
    remedy = "" if free >= DISK_LOW else "free some space, or move the data folder with --home or MERGEWRIGHT_HOME"
    state: State = "ok" if free >= DISK_LOW else "warning" if free >= DISK_FULL else "error"
    return Finding(name="disk", state=state, text=text, remedy=remedy)


def cleaned_up(home: Path) -> list[Finding]:
    """What the janitor found last; nothing, where it has never been."""
    try:
        last = CleanedUp.model_validate_json(Home(home).cleaned_up.read_bytes())
    except (OSError, ValueError):
        return []
    at = datetime.fromtimestamp(last.at, UTC)
    text = f"{size(last.used)} used at {at:%Y-%m-%d %H:%M} UTC"
    if not last.left:
        return [Finding(name="clean-up", state="ok", text=text)]
    text += f", {last.left_count} left alone: {last.left[0].name}: {last.left[0].why}"
    return [Finding(name="clean-up", state="warning", text=text, remedy="`starter.py clean --dry-run` lists them")]


def sandbox(config: Config | None) -> Finding:
    settings = config.sandbox if config else SandboxSettings()
    try:
        if boxes.wanted(settings):
            return Finding(name="sandbox", state="ok", text="bubblewrap works: agents and gates run in it")
    except BadConfig as refused:
        return Finding(name="sandbox", state="error", text=str(refused), remedy=f"mend that, or correct {CONFIG_FILE}")
    if settings.mode == "off":
        text = f'mode = "off" in {CONFIG_FILE}: agents and gates see all that the worker sees'
        return Finding(name="sandbox", state="warning", text=text)
    problem = process.sandbox_problem()
    if os.environ.get("MERGEWRIGHT_NO_NAMESPACE"):
        remedy = "unset it"
    elif shutil.which("bwrap") is None:
        remedy = "apt-get install bubblewrap"
    else:
        remedy = "allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)"
    return Finding(name="sandbox", state="warning", text=problem, remedy=remedy)


def _config(home: Path) -> tuple[Config | None, Finding]:
    """None when no task could start with it."""
    try:
        config = load(home)
    except BadConfig as problem:
        return None, Finding(name="config", state="error", text=one_line(problem, 400), remedy="correct the file")
    if not config.accounts:
        text = f"no accounts in {home / CONFIG_FILE}: each CLI uses what it finds"
    else:
        text = f"{home / CONFIG_FILE}: {', '.join(config.accounts)}"
    return config, Finding(name="config", state="ok", text=text)


def limits() -> Finding:
    """As this process is started: a worker in another unit may find it otherwise, and says so in its log."""
    why = cgroup.problem()
    text = f"looked at twice a second ({why})" if why else "kept by cgroups, too"
    return Finding(name="limits", state="ok", text=text)


def notifications(config: Config | None) -> list[Finding]:
    """A line for each destination, without its URL; nothing is sent: `starter.py notify --test` does that."""
    found = []
    for one in config.notify if config else []:
        told = f"{one.url}: {', '.join(one.events)}" + (
            f", of {', '.join(one.repositories)}" if one.repositories else ""
        )
        there = one.name in os.environ
        remedy = "" if there else f"the variable {one.name} is not set here: set it in the worker's environment"
        found.append(Finding(name="notify", state="ok" if there else "warning", text=told, remedy=remedy))
    return found


# --- Temporal ------------------------------------------------------------------------------------


async def temporal(asked: Asked, config: Config | None = None) -> list[Finding]:
    """The server and, if it is there, its workers; and whether agents could command it."""
    address = asked.address or "the configured address"

    def broken(text: str, remedy: str) -> list[Finding]:
        return [Finding(name="temporal", state="error", text=text, remedy=remedy)]

    try:
        known = connect_config(asked.address, asked.namespace)
        address = known["target_host"]
        async with asyncio.timeout(RPC_SECONDS.total_seconds()):
            client = await connect(asked.address, asked.namespace)
        service = client.workflow_service
        system = await service.get_system_info(GetSystemInfoRequest(), timeout=RPC_SECONDS)
        await service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace), timeout=RPC_SECONDS)
        worker = await _worker(client, asked.task_queue)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            remedy = f"temporal operator namespace create --address {address} -n {client.namespace}"
            return broken(f"no namespace {client.namespace} at {address}", remedy)
        return broken(f"{address}: {one_line(error.message, 100)}", "check the address, the namespace and the API key")
    except CannotConnect as problem:
        text, _, remedy = str(problem).partition(": ")
        return broken(text, remedy)
    except TimeoutError:
        return broken(f"no answer from {address}", "name another --address, or start one with `python worker.py --dev`")
    text = f"{system.server_version} at {address}, namespace {client.namespace}"
    settings = config.sandbox if config else SandboxSettings()
    if not (known.get("tls") or known.get("api_key")) and (why := boxes.open_to_host(settings)):
        text += f"; it asks nobody for a key, and agents or gates reach it: {why}"
        return [Finding(name="temporal", state="warning", text=text, remedy=_CLOSED), worker]
    return [Finding(name="temporal", state="ok", text=text), worker]


_CLOSED = 'name what they need instead, as ["*", "127.0.0.1:5432"], or give Temporal TLS and keys'


async def _worker(client: Client, task_queue: str) -> Finding:
    found = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        ),
        timeout=RPC_SECONDS,
    )
    ago = {poller.identity: time.time() - poller.last_access_time.ToSeconds() for poller in found.pollers}
    there = [identity for identity, seconds in ago.items() if seconds < POLLED_SECONDS]
    if there:
        return Finding(name="worker", state="ok", text=f"{', '.join(there)} on task queue {task_queue}")
    text = f"none on task queue {task_queue}"
    return Finding(name="worker", state="warning", text=text, remedy="start one with `python worker.py`")


# --- how it looks --------------------------------------------------------------------------------

_WORDS: dict[State, str] = {"ok": "ok     ", "warning": "warning", "error": "error  ", "absent": "-      "}
_SIGNS: dict[State, str] = {"ok": "✓", "warning": "!", "error": "✗", "absent": "·"}
_STYLES: dict[State, str] = {"ok": "green", "warning": "yellow", "error": "red", "absent": "dim"}


def _busy(console: Console, text: str) -> AbstractContextManager[object]:
    return console.status(text) if console.is_terminal else nullcontext()


def _line(finding: Finding, width: int, console: Console) -> Text:
    signs = _SIGNS if console.is_terminal and console.encoding.startswith("utf") else _WORDS
    line = Text(style="dim" if finding.state == "absent" else "")
    line.append(signs[finding.state], _STYLES[finding.state])
    line.append(f"  {finding.name:<{width}}  ")
    if isinstance(finding, RuntimeFinding) and finding.version:
        line.append(f"{finding.version:<9} ")
    line.append(finding.text)
    if finding.remedy:
        line.append(f": {finding.remedy}", "" if finding.state == "absent" else "bold")
    return line


def _summary(found: Sequence[Finding], lacking: Sequence[str]) -> Text:
    probes = [one for one in found if isinstance(one, RuntimeFinding) and one.end]
    spent = sum(one.cost_usd or 0 for one in probes)
    line = Text(f"not ready: {', '.join(lacking)}", "red") if lacking else Text("ready for tasks", "green")
    if probes:
        unknown = any(one.cost_usd is None for one in probes)
        line.append(f"; the probes cost ${spent:.4f}{' and what has no known price' if unknown else ''}", "dim")
    return line
