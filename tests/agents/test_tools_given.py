"""How each CLI is given our MCP server; that it takes it, `test_real_tools` shows."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from activities.agents import RUNTIMES
from activities.settings import AgentSpec
from tests.agents.turns import a_turn

MCP = ("/usr/bin/python3", "-I", "/a b/mcp_bridge.py", '/run/"x"/mcp.sock')
COMMAND, ARGUMENTS = MCP[0], list(MCP[1:])


def spec(name: str, **more: Any) -> AgentSpec:
    return AgentSpec(runtime=name, command=["true"] if name == "command" else [], **more)


@pytest.mark.parametrize(("name", "more"), [("claude-code", "alwaysLoad"), ("qwen", "alwaysLoadTools")])
def test_by_a_flag(name: str, more: str, tmp_path: Path) -> None:
    argv = RUNTIMES[name].launch(a_turn(spec(name), folder=tmp_path, mcp=MCP)).argv
    server = {"command": COMMAND, "args": ARGUMENTS, more: True}
    assert json.loads(argv[argv.index("--mcp-config") + 1]) == {"mcpServers": {"mergewright": server}}


def test_codex_by_settings_before_the_thread(tmp_path: Path) -> None:
    argv = RUNTIMES["codex"].launch(a_turn(spec("codex"), folder=tmp_path, mcp=MCP, session="s-1")).argv
    settings = [text.partition("=") for flag, text in pairwise(argv) if flag == "-c"]
    told = {name.removeprefix("mcp_servers.mergewright."): json.loads(value) for name, _, value in settings}
    told.pop("developer_instructions")
    assert told == {"command": COMMAND, "args": ARGUMENTS, "required": True, "startup_timeout_sec": 60}
    assert argv[-3:] == ["resume", "s-1", "-"]


def test_opencode_beside_the_user_s_own_servers(tmp_path: Path) -> None:
    opencode = RUNTIMES["opencode"]
    given = {"OPENCODE_CONFIG_CONTENT": json.dumps({"theme": "x", "mcp": {"mine": {"type": "local"}}})}
    turn = a_turn(spec("opencode"), folder=tmp_path, mcp=MCP, env=given)
    made = json.loads(opencode.launch(turn).env["OPENCODE_CONFIG_CONTENT"])
    ours = {"type": "local", "command": list(MCP), "enabled": True}
    assert (made["theme"], made["mcp"]) == ("x", {"mine": {"type": "local"}, "mergewright": ours})
    assert opencode.takes_tools(turn.agent, given)
    for env in ({"OPENCODE_CONFIG_CONTENT": "// mine"}, {"OPENCODE_CONFIG_CONTENT": "[]"}):
        assert not opencode.takes_tools(turn.agent, env)
        assert opencode.launch(a_turn(spec("opencode"), folder=tmp_path, mcp=MCP, env=env)).env.keys().isdisjoint(env)
    assert not opencode.takes_tools(spec("opencode", env={"OPENCODE_CONFIG_CONTENT": "{}"}), {})


def test_a_command_finds_it_in_its_environment(tmp_path: Path) -> None:
    env = RUNTIMES["command"].launch(a_turn(spec("command"), folder=tmp_path, mcp=MCP)).env
    assert env["MERGEWRIGHT_MCP_SOCKET"] == MCP[-1]
    assert env["MERGEWRIGHT_MCP"] == """/usr/bin/python3 -I '/a b/mcp_bridge.py' '/run/"x"/mcp.sock'"""


@pytest.mark.parametrize("name", RUNTIMES)
def test_without_it_nothing_is_said_of_it(name: str, tmp_path: Path) -> None:
    launch = RUNTIMES[name].launch(a_turn(spec(name), folder=tmp_path))
    assert "mcp" not in json.dumps([launch.argv, launch.env, launch.stdin]).lower()
