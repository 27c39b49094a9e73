"""The real CLIs call the tools that mergewright gives them, each registered in its own way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.agents.test_real_tasks import DONE, agent
from tests.kit import Kit, status_when
from tests.models import ModelServer, Request, Step, call, script, use, write
from tests.test_talk import ended, status
from workflows.contracts import Stage

pytestmark = pytest.mark.agents


def asking(request: Request) -> Step:
    if "Your question was answered" in request.prompt:
        return DONE
    return script(
        use(call("report_progress", text="reading")),
        use(write("new.txt", "first\n")),
        use(call("ask_operator", question="Old or new?")),
        DONE,
    )(request)


@pytest.mark.parametrize(
    "runtime",
    [
        "claude-code",
        "codex",
        pytest.param("opencode", marks=pytest.mark.long),
        pytest.param("qwen", marks=pytest.mark.long),
    ],
)
async def test_an_agent_asks_by_its_tool_and_goes_on_in_its_session(kit: Kit, runtime: str) -> None:
    with ModelServer(asking) as server:
        async with kit.worker():
            handle = await kit.start(kit.input(agent=agent(runtime, server, kit)))
            parked = await status_when(handle, lambda now: now.stage is Stage.QUESTION or now.outcome is not None)
            assert (parked.question, parked.progress) == ("Old or new?", "reading")
            await handle.execute_update("answer", "new")
            result = await ended(handle)
            end = await status(handle)
    assert (result.outcome, result.turns) == ("merged", 2)
    assert [(each.state, each.turn) for each in end.messages] == [("delivered", 2)]
    last: Any = json.dumps(server.requests[-1].body)
    assert "the answer comes with your next turn" in last  # what the tool said is in the session
    system = json.dumps(server.requests[0].body)
    assert "Your tools of the MCP server" in system
