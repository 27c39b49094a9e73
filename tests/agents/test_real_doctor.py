"""`starter.py doctor` asks the real CLIs, which talk to a scripted model server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from activities.agents import RUNTIMES
from tests.agents.desk import AGENTS, path
from tests.models import ModelServer, Scenario, Step, clients, refuse, say

pytestmark = pytest.mark.agents

TOP = Path(__file__).parents[2]


async def doctor(
    client: Client, folder: Path, scenario: Scenario, *args: str, code: int, **more: str
) -> tuple[str, ModelServer]:
    with ModelServer(scenario) as server:
        with (folder / "config.toml").open("a") as config:
            config.write(f'[sandbox]\nnetwork = ["*", "{server.url.removeprefix("http://")}"]\n')
        env = {**os.environ, **clients(server.url, folder / "home"), "PATH": path(), **more}
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, str(TOP / "starter.py"), "doctor", "--home", str(folder), *args],
            cwd=folder,
            env={**env, "TEMPORAL_ADDRESS": client.service_client.config.target_host},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, server


def only(agent: str) -> tuple[str, ...]:
    return ("--runtime", agent, "--model", str(AGENTS[agent].model))


def found(output: str, name: str) -> dict[str, Any]:
    [one] = [one for one in json.loads(output) if one["name"] == name]
    return dict(one)


@pytest.mark.parametrize("agent", ["claude-code", "codex", "gemini"])
async def test_one_that_answers(client: Client, tmp_path: Path, agent: str) -> None:
    before = set(tmp_path.iterdir())
    said, server = await doctor(client, tmp_path, lambda _: say("OK"), *only(agent), "--json", code=0)
    one = found(said, agent)
    assert (one["state"], one["end"], one["remedy"]) == ("ok", "done", "")
    assert (one["installed"], one["logged_in"], one["answering"]) == (True, True, True)
    assert one["version"][0].isdigit()
    assert one["tokens"] == 120
    assert one["cost_usd"] > 0
    assert len(server.requests) == 1
    assert set(tmp_path.iterdir()) - before == {tmp_path / "home", tmp_path / "config.toml"}
    assert list((tmp_path / "home" / "tmp").glob("mergewright-*")) == []


@pytest.mark.parametrize("agent", ["codex", "qwen"])
async def test_one_whose_key_is_refused(client: Client, tmp_path: Path, agent: str) -> None:
    said, _ = await doctor(client, tmp_path, lambda _: refuse(401), *only(agent), code=1)
    *_, line, _, summary = said.splitlines()
    assert " not logged in (" in line
    assert line.endswith(f": {RUNTIMES[agent].login}")
    assert summary.startswith("not ready: a working agent CLI")


async def test_each_account_is_asked_with_its_own_key(client: Client, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        "[accounts.'anthropic/one']\nbilling = 'key'\nkey = 'KEY_ONE'\n"
        "[accounts.'anthropic/two']\nbilling = 'key'\nkey = 'KEY_TWO'\n"
    )
    keys = {"KEY_ONE": "sk-one", "KEY_TWO": "sk-two"}
    said, server = await doctor(client, tmp_path, lambda _: say("OK"), *only("claude-code"), code=0, **keys)
    assert [request.headers["x-api-key"] for request in server.requests] == ["sk-one", "sk-two"]
    assert "claude-code (anthropic/two)  2." in said
    assert said.count(" answers in ") == 2


async def test_one_that_never_answers(client: Client, tmp_path: Path) -> None:
    flags = (*only("codex"), "--timeout", "5")
    said, _ = await doctor(client, tmp_path, lambda _: Step(fault="hang"), *flags, code=1)
    assert "no answer within 5 s: give it more --timeout" in said


async def test_one_at_its_limit_says_when_it_ends(client: Client, tmp_path: Path) -> None:
    limit = Step(fault="usage_limit", resets_in=5_000)
    said, _ = await doctor(client, tmp_path, lambda _: limit, *only("codex"), "--json", code=1)
    one = found(said, "codex")
    assert (one["state"], one["end"], one["logged_in"]) == ("error", "limited", None)
    assert one["text"].startswith("usage limit (")
    assert one["remedy"] in ("try again in 83 min", "try again in 84 min", "try again in 85 min")


async def test_one_without_credit(client: Client, tmp_path: Path) -> None:
    said, _ = await doctor(client, tmp_path, lambda _: Step(fault="credit"), *only("claude-code"), "--json", code=1)
    one = found(said, "claude-code")
    assert (one["end"], one["logged_in"], one["remedy"]) == ("credit", False, RUNTIMES["claude-code"].login)
    assert one["text"].startswith("out of credit (")
