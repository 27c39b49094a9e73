"""`starter.py doctor` as an operator uses it, without a turn of a real agent CLI."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from activities.agents import RUNTIMES
from console.doctor import disk
from tests.kit import Kit

TOP = Path(__file__).parent.parent
NOWHERE = "127.0.0.1:1"


async def doctor(home: Path, *args: str, code: int, env: dict[str, str] | None = None) -> str:
    """Its output, on one line of its own for each line."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(TOP / "starter.py"), "doctor", "--home", str(home), *args],
        cwd=home,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def programs(folder: Path, **scripts: str) -> dict[str, str]:
    """A PATH with git and, as agent CLIs, just these shell scripts; bubblewrap too, where it is."""
    folder.mkdir()
    for name in ("git", "sh", "bwrap", "true"):
        if found := shutil.which(name):
            (folder / name).symlink_to(found)
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return {"PATH": str(folder)}


def named(output: str) -> dict[str, dict[str, Any]]:
    return {found["name"]: found for found in json.loads(output)}


def address(client: Client) -> str:
    return client.service_client.config.target_host


async def test_what_there_is_on_this_host(client: Client, tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", claude="echo '2.1.329 (Claude Code)'")
    env = {**path, "TEMPORAL_ADDRESS": address(client)}
    found = named(await doctor(tmp_path, "--no-probe", "--json", code=0, env=env))
    for name in ("python", "git", "disk", "temporal", "config"):
        assert (found[name]["state"], found[name]["remedy"]) == ("ok", "")
    assert address(client) in found["temporal"]["text"]
    claude = found["claude-code"]
    assert (claude["state"], claude["version"], claude["installed"]) == ("ok", "2.1.329", True)
    assert (claude["logged_in"], claude["answering"], claude["cost_usd"]) == (None, None, None)
    absent = {name for name, one in found.items() if one["state"] == "absent"}
    assert absent == {name for name, runtime in RUNTIMES.items() if runtime.program} - {"claude-code"}
    assert found["codex"]["installed"] is False
    assert found["codex"]["remedy"] == RUNTIMES["codex"].install


async def test_lines_are_aligned_and_say_what_to_do(client: Client, tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", codex="echo codex-cli 0.169.0")
    flags = ("--no-probe", "--address", address(client), "--runtime", "codex", "--runtime", "gemini")
    *lines, blank, summary = (await doctor(tmp_path, *flags, code=0, env=path)).splitlines()
    names = ["python", "git", "disk", "sandbox", "limits", "config", "temporal", "worker", "codex", "gemini"]
    assert [line.split()[1] for line in lines] == names
    column = lines[0].index("python")
    assert {line[column:].split()[0] for line in lines} == set(names)
    assert "gemini    not installed: npm install -g @google/gemini-cli" in lines[-1]
    assert "codex     0.169.0   installed, not asked" in lines[-2]
    assert (blank, summary) == ("", "ready for tasks")


async def test_no_server(tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", claude="echo 2.1.329")
    said = await doctor(tmp_path, "--no-probe", "--address", NOWHERE, code=1, env=path)
    assert f"no Temporal server at {NOWHERE}: nobody answers: start one with `python worker.py --dev`" in said
    assert "worker  " not in said
    assert said.splitlines()[-1] == "not ready: temporal"


async def test_no_namespace(client: Client, tmp_path: Path) -> None:
    flags = ("--no-probe", "--json", "--address", address(client), "--namespace", "elsewhere")
    found = named(await doctor(tmp_path, *flags, code=1))
    assert found["temporal"]["state"] == "error"
    assert "no namespace elsewhere" in found["temporal"]["text"]
    assert "namespace create" in found["temporal"]["remedy"]


async def test_a_worker_is_seen(kit: Kit) -> None:
    flags = ("--no-probe", "--json", "--address", address(kit.client), "--task-queue", kit.task_queue)
    path = programs(kit.folder / "bin", claude="echo 2.1.329")
    found = named(await doctor(kit.folder, *flags, code=0, env=path))
    assert found["worker"]["state"] == "warning"
    assert found["worker"]["remedy"] == "start one with `python worker.py`"
    async with kit.worker():
        assert await _worker_state(kit, *flags, env=path) == "ok"


async def _worker_state(kit: Kit, *flags: str, env: dict[str, str]) -> str:
    """The server knows a worker as soon as its first request for work is there, which is in a moment."""
    for _ in range(10):
        state = named(await doctor(kit.folder, *flags, code=0, env=env))["worker"]["state"]
        if state == "ok":
            break
    return str(state)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[accounts.anthropic]\nbiling = 'key'\n", "accounts.anthropic.biling: unknown field"),
        ("[accounts\n", "config.toml: "),
    ],
)
async def test_a_broken_configuration_is_one_line(client: Client, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    path = programs(tmp_path / "bin", claude="echo 2.1.329")
    lines = (await doctor(tmp_path, "--address", address(client), code=1, env=path)).splitlines()
    [line] = [line for line in lines if "config.toml" in line]
    assert said in line
    assert line.startswith("error")
    assert line.endswith(": correct the file")
    assert lines[-1] == "not ready: config"
    assert any("claude-code" in line and "installed, not asked" in line for line in lines)


async def test_each_account_is_a_line_of_its_own(client: Client, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        "[accounts.anthropic]\nbilling = 'subscription'\n"
        "[accounts.'anthropic/work']\nbilling = 'key'\nkey = 'WORK_KEY'\n"
        "[accounts.openai]\nslots = 2\n"
    )
    path = programs(tmp_path / "bin", claude="echo 2.1.329")
    flags = ("--no-probe", "--json", "--address", address(client), "--runtime", "claude-code")
    found = named(await doctor(tmp_path, *flags, code=0, env=path))
    assert found["claude-code (anthropic/default)"]["state"] == "ok"
    work = found["claude-code (anthropic/work)"]
    assert (work["state"], work["account"]) == ("error", "anthropic/work")
    assert "WORK_KEY is not set" in work["text"]
    found = named(await doctor(tmp_path, *flags, code=0, env={**path, "WORK_KEY": "sk-test"}))
    assert found["claude-code (anthropic/work)"]["state"] == "ok"


async def test_programs_that_are_there_and_do_not_work(client: Client, tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", claude="echo no such library >&2; exit 127", codex="echo 0.169.0; [ $# = 1 ]")
    path |= {"TEMPORAL_ADDRESS": address(client)}
    found = named(await doctor(tmp_path, "--no-probe", "--json", "--runtime", "claude-code", code=1, env=path))
    assert found["claude-code"]["text"] == "does not run: claude --version: exit 127: no such library"
    assert "npm install -g @anthropic-ai/claude-code" in found["claude-code"]["remedy"]
    found = named(await doctor(tmp_path, "--json", "--runtime", "codex", code=1, env=path))
    assert (found["codex"]["answering"], found["codex"]["logged_in"]) == (False, None)
    assert found["codex"]["end"] in found["codex"]["text"]


async def test_a_host_without_git(client: Client, tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", claude="echo 2.1.329")
    (tmp_path / "bin" / "git").unlink()
    flags = ("--no-probe", "--json", "--address", address(client))
    found = named(await doctor(tmp_path, *flags, code=1, env=path))
    assert (found["git"]["state"], found["git"]["text"]) == ("error", "not installed")
    programs_old = programs(tmp_path / "old", claude="echo 2.1.329")
    (tmp_path / "old" / "git").unlink()
    (tmp_path / "old" / "git").write_text("#!/bin/sh\necho git version 2.34.1\n")
    (tmp_path / "old" / "git").chmod(0o755)
    found = named(await doctor(tmp_path, *flags, code=1, env=programs_old))
    assert found["git"]["text"] == "2.34.1 is too old"
    assert "2.38" in found["git"]["remedy"]


def test_a_data_folder_that_cannot_be_one(tmp_path: Path) -> None:
    assert disk(tmp_path / "not" / "yet").state in ("ok", "warning")
    (tmp_path / "file").touch()
    found = disk(tmp_path / "file" / "home")
    assert (found.state, found.text) == ("error", f"{tmp_path / 'file'} cannot be written to")
    assert "--home" in found.remedy


async def test_flags_that_cannot_be_meant(tmp_path: Path) -> None:
    assert "'cursor' is not one of" in await doctor(tmp_path, "--runtime", "cursor", code=2, env={"COLUMNS": "300"})
    assert "belong to one runtime" in await doctor(tmp_path, "--model", "sonnet", code=2, env={"COLUMNS": "300"})
