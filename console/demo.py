"""The demonstration: eight tasks, one for each turn that a task's life can take, with scripted agents."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import git
from rich.console import Console
from temporalio.client import Client

from activities.config import CONFIG_FILE
from activities.home import Home
from activities.site import read_json
from console import scripted_agent
from console.follow import follow
from service.connect import TASK_QUEUE, connect
from service.devserver import CannotServe, free_port, port_is_free
from workflows.contracts import Stage, TaskResult, TaskStatus

UI_PORT = 8233

APPROVED = "Well done.\nVERDICT: APPROVED"
DONE = "COMPLETE_AND_READY_FOR_MERGE"

FILES = {
    "README.md": "# calc\n\nA small calculator.\n\n## Operations\n\n- add\n",
    ".gitignore": "__pycache__/\n",
    "calc/__init__.py": "",
    "calc/add.py": "def add(a, b):\n    return a + b\n",
    "tests/__init__.py": "",
    "tests/test_add.py": (
        "import unittest\n\nfrom calc.add import add\n\n\nclass Add(unittest.TestCase):\n"
        "    def test_adds(self):\n        self.assertEqual(add(2, 3), 5)\n"
    ),
}


def _operation(name: str, sign: str, doc: bool = False) -> dict[str, str]:
    docstring = f'    """a {sign} b."""\n' if doc else ""
    return {
        f"calc/{name}.py": f"def {name}(a, b):\n{docstring}    return a {sign} b\n",
        f"tests/test_{name}.py": (
            f"import unittest\n\nfrom calc.{name} import {name}\n\n\nclass Test(unittest.TestCase):\n"
            f"    def test_it(self):\n        self.assertEqual({name}(6, 3), 6 {sign} 3)\n"
        ),
    }


def _tasks() -> dict[str, tuple[str, dict[str, Any], dict[str, Any]]]:
    """Task id: title, the script of its agents, further input."""
    wrong = _operation("power", "**")
    wrong["calc/power.py"] = wrong["calc/power.py"].replace("**", "*")
    return {
        "plain": (
            "Add subtraction",
            {"executor": [{"sleep": 1, "write": _operation("subtract", "-")}]},
            {},
        ),
        "reviewed": (
            "Add multiplication",
            {
                "executor": [{"sleep": 1, "write": _operation("multiply", "*")}],
                "reviewer": [
                    {"sleep": 1, "say": "multiply() has no docstring.\nVERDICT: NEEDS_CHANGES"},
                    {"sleep": 1, "say": APPROVED},
                ],
                "fixer": [{"sleep": 1, "write": _operation("multiply", "*", doc=True)}],
            },
            {"reviewers": True},
        ),
        "red-gate": (
            "Add powers",
            {
                "executor": [{"sleep": 1, "write": wrong}],
                "fixer": [{"sleep": 1, "write": _operation("power", "**")}],
            },
            {},
        ),
        "conflict-a": (
            "Document division",
            {"executor": [{"sleep": 2, "append": {"README.md": "- divide\n"}}], "resolver": [{"resolve": True}]},
            {},
        ),
        "conflict-b": (
            "Document remainders",
            {"executor": [{"sleep": 2, "append": {"README.md": "- remainder\n"}}], "resolver": [{"resolve": True}]},
            {},
        ),
        "limited": (
            "Add floor division",
            {
                "executor": [
                    {"fail": 75, "stderr": "retry-after: 3"},
                    {"sleep": 1, "write": _operation("floor", "//")},
                ]
            },
            {},
        ),
        "planned": (
            "Add remainders",
            {
                "planner": [{"sleep": 1, "say": "1. Write calc/modulo.py.\n2. Test it with 6 % 3."}],
                "executor": [{"sleep": 1, "write": _operation("modulo", "%")}],
            },
            {"interactive": True},
        ),
        "nothing-to-do": ("Add addition", {"executor": [{"sleep": 1, "say": f"It is there.\n{DONE}"}]}, {}),
    }


EXPECTED = {name: "no-changes" if name == "nothing-to-do" else "merged" for name in _tasks()}


def make_repository(path: Path) -> None:
    repository = git.Repo.init(path, initial_branch="main")
    with repository.config_writer() as config:
        config.set_value("user", "name", "Demo").set_value("user", "email", "demo@example.org")
    for name, text in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    repository.git.add(all=True)
    repository.git.commit(message="A small calculator")
    repository.close()


def task_inputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Writes the agents' scripts into `folder`; the input of each task."""
    inputs = {}
    for name, (title, script, more) in _tasks().items():
        path = folder / "scripts" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(script))
        agent = {"runtime": "command", "command": [sys.executable, scripted_agent.__file__, str(path)]}
        inputs[name] = {
            "repo": str(folder / "calc"),
            "title": title,
            "agent": agent,
            "gates": [{"name": "test", "command": f"{sys.executable} -m unittest -q"}],
            **({"reviewers": [agent]} if more.get("reviewers") else {}),
            **({"interactive": True} if more.get("interactive") else {}),
        }
    return inputs


async def demo(console: Console, keep: bool) -> bool:
    """Runs it. True when every task ended as it should."""
    folder = Path(tempfile.mkdtemp(prefix="mergewright-demo-"))
    make_repository(folder / "calc")
    home = Home(folder / "home")
    home.create()
    lines = ["[sandbox]", f'read = ["{scripted_agent.__file__}"]', f'write = ["{folder / "scripts"}"]']
    (home.root / CONFIG_FILE).write_text("\n".join(lines) + "\n")
    port, ui_port = free_port(), UI_PORT if port_is_free(UI_PORT) else free_port()
    worker = _start_worker(folder, port, ui_port)
    try:
        client = await _connected(worker, folder, port)
        console.print(f"web UI: http://127.0.0.1:{ui_port}", highlight=False)
        for name, given in task_inputs(folder).items():
            title = str(given["title"])
            await client.start_workflow("TaskWorkflow", given, id=name, task_queue=TASK_QUEUE, static_summary=title)
        ends = await follow(client, list(EXPECTED), console, lambda status: _approve(client, status))
    finally:
        if not keep:
            worker.send_signal(signal.SIGTERM)
            worker.wait()
    console.print()
    console.print(_graph(folder / "calc"), markup=False, highlight=False)
    good = _judge(console, ends)
    console.print(f"\nrepository: {folder / 'calc'}", highlight=False)
    if keep:
        console.print(f"web UI:     http://127.0.0.1:{ui_port}   until: kill {worker.pid}", highlight=False)
        console.print(f"commands:   export TEMPORAL_ADDRESS=127.0.0.1:{port}", highlight=False)
    else:
        ended = "has ended; `make demo KEEP=1` leaves it running"
        console.print(f"web UI:     http://127.0.0.1:{ui_port}   {ended}", highlight=False, soft_wrap=True)
    return good


def _start_worker(folder: Path, port: int, ui_port: int) -> subprocess.Popen[bytes]:
    top = Path(__file__).resolve().parent.parent
    argv = [sys.executable, str(top / "worker.py"), "--dev", "--home", str(folder / "home"), "--agents", "8",
            "--port", str(port), "--ui-port", str(ui_port), "--gate-slots", "2"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
    with (folder / "worker.log").open("wb") as output:
        # In a session of its own: Ctrl-C is for the demonstration, which then ends the worker.
        return subprocess.Popen(argv, cwd=top, stdout=output, stderr=output, env=environment, start_new_session=True)


async def _connected(worker: subprocess.Popen[bytes], folder: Path, port: int) -> Client:
    while worker.poll() is None:
        if read_json(Home(folder / "home").temporal / "server.json"):
            try:
                return await connect(f"127.0.0.1:{port}", "default", plain=True)
            except RuntimeError:
                pass
        await asyncio.sleep(0.1)
    raise CannotServe(f"the worker ended: {(folder / 'worker.log').read_text()[-500:]}")


async def _approve(client: Client, status: TaskStatus) -> None:
    if status.stage is Stage.APPROVAL:
        await client.get_workflow_handle(status.task_id).signal("approve_plan")


def _graph(repository: Path) -> str:
    opened = git.Repo(repository)
    try:
        return str(opened.git.log("main", graph=True, oneline=True))
    finally:
        opened.close()


def _judge(console: Console, ends: dict[str, TaskResult | str]) -> bool:
    good = True
    for name, end in ends.items():
        outcome = end.outcome if isinstance(end, TaskResult) else f"failed: {end}"
        if outcome != EXPECTED[name]:
            console.print(f"{name} ended as {outcome}, not as {EXPECTED[name]}", style="red")
            good = False
    return good
