"""Agents' tools, by the program that a CLI starts, in a sandbox where there is one, and a real Temporal server."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tests import mcp_client
from tests.kit import PATIENCE, Kit, status_when
from tests.test_talk import DONE, ended, prompts, status
from workflows.contracts import Stage

WRITE = {"write": {"new.txt": "work\n"}}


def calling(kit: Kit, name: str, *calls: tuple[str, dict[str, Any]], then: str = "") -> tuple[str, Path]:
    """A shell command that makes these calls, and the file with the answers."""
    program = kit.folder / "mcp_client.py"
    shutil.copy(mcp_client.__file__, program)
    script, out = kit.folder / f"{name}.json", kit.folder / f"{name}.out"
    script.write_text(json.dumps(calls))
    return f"{sys.executable} {program} {out} {script}{then}", out


def answers(out: Path) -> list[str]:
    return [json.loads(line) for line in out.read_text().splitlines()[1:]]


async def test_two_agents_talk_and_the_operator_sees_it(kit: Kit) -> None:
    """FEATURES E2. The one that is told works meanwhile, reads it in its inbox, and answers the other."""
    told = kit.folder / "told"
    wait = f"while [ ! -e {told} ]; do sleep 0.1; done; "
    hears, heard = calling(
        kit, "hears", ("inbox", {}), ("reply", {"message": "m1", "text": "I keep it."}), ("inbox", {})
    )
    says, said = calling(
        kit,
        "says",
        ("list_tasks", {}),
        ("message_task", {"task": "task-hears", "text": "Keep parse() as it is."}),
        ("report_progress", {"text": "half\nway"}),
        ("propose_task", {"title": "Remove parse()", "description": "Nobody will need it."}),
        then=f"; touch {told}; while [ ! -e {kit.folder}/go ]; do sleep 0.1; done",
    )
    listening = kit.agent(executor=[{**WRITE, "shell": wait + hears, "say": "Kept.\n" + DONE}])
    speaking = kit.agent(executor=[{"write": {"b.txt": "x\n"}, "shell": says}])
    async with kit.worker():
        first = await kit.start(kit.input(title="Parser", agent=listening), "task-hears")
        await status_when(first, lambda now: now.stage is Stage.WORK)
        second = await kit.start(kit.input(title="Caller", agent=speaking), "task-says")
        assert (await ended(first)).outcome == "merged"
        now = await status_when(second, lambda now: bool(now.undelivered_messages))
        assert (now.progress, now.undelivered_messages) == ("half way", ["I keep it."])
        (kit.folder / "go").touch()
        assert (await ended(second)).outcome == "merged"
        first_end, second_end = await status(first), await status(second)
    assert json.loads(answers(said)[0]) == [{"id": "task-hears", "title": "Parser", "stage": "work"}]
    assert answers(said)[1:] == [
        "taken: it reaches the agent at its next turn",
        "shown",
        "kept for the operator; go on with your own task",
    ]
    inbox, replied, nothing = answers(heard)
    assert json.loads(inbox) == [{"id": "m1", "from": "task-says", "text": "Keep parse() as it is."}]
    assert (replied, nothing) == ("taken: it reaches the agent at its next turn", "nothing new")
    [message] = first_end.messages
    assert (message.sender, message.state, message.turn, message.answer) == ("task-says", "delivered", 1, "I keep it.")
    assert [(one.turn, one.title) for one in second_end.proposals] == [(1, "Remove parse()")]
    # Another agent's word is no reason for one more turn.
    assert [(each.sender, each.state) for each in second_end.messages] == [("task-hears", "waiting")]
    assert list((kit.home.root / "runs").glob("*/turns/*/mcp.sock")) == []
    kit.assert_clean()


async def test_a_question_by_a_tool_parks_the_task_after_the_turn(kit: Kit) -> None:
    asks, _ = calling(kit, "asks", ("ask_operator", {"question": "Old or new?"}))
    agent = kit.agent(executor=[{**WRITE, "shell": asks}, {"say": DONE}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent))
        parked = await status_when(handle, lambda now: now.stage is Stage.QUESTION)
        assert parked.question == "Old or new?"
        await handle.execute_update("answer", "new")
        result = await ended(handle)
    assert (result.outcome, result.turns) == ("merged", 2)
    assert "You asked: Old or new?\n\nThe answer:\n\nnew\n" in prompts(kit)[-1]


async def test_what_an_agent_must_not_is_refused_and_told_why(kit: Kit) -> None:
    """And a reviewer is told nothing by those whose work it judges."""
    tries, tried = calling(
        kit,
        "tries",
        ("message_task", {"task": "task-elsewhere", "text": "x"}),
        ("message_task", {"task": "task-elsewhere", "text": "x" * 5_000}),
        ("reply", {"message": "m1", "text": "x"}),
        ("abandon", {}),
        ("report_progress", {"text": "x", "more": 1}),
        *[("inbox", {})] * 96,
    )
    reads, read = calling(kit, "reads", ("inbox", {}))
    agent = kit.agent(executor=[{**WRITE, "shell": tries}], reviewer=[{"shell": reads, "say": "VERDICT: APPROVED"}])
    async with kit.worker():
        result = await asyncio.wait_for(kit.run(agent=agent, reviewers=[agent]), PATIENCE)
    assert result.outcome == "merged"
    told = answers(tried)
    assert told[:5] == [
        "REFUSED: no live task of this repository has the id task-elsewhere: list_tasks has them",
        "REFUSED: text: String should have at most 4000 characters",
        "REFUSED: there is no message m1 in this turn: its id is in the prompt, or in your inbox",
        "REFUSED: there is no tool 'abandon'; there are: inbox, reply, list_tasks, message_task, ask_operator, "
        "report_progress, propose_task",
        "REFUSED: more: unknown field",
    ]
    assert told[5:] == ["nothing new"] * 95 + ["REFUSED: the 100 calls of this turn are used up"]
    assert read.read_text().splitlines()[0] == "list_tasks report_progress propose_task"
    assert answers(read)[0].startswith("REFUSED: there is no tool 'inbox'")


async def test_it_can_be_switched_off(kit: Kit) -> None:
    kit.configure("[mcp]\nenabled = false\n")
    agent = kit.agent(executor=[{**WRITE, "shell": '[ -z "$MERGEWRIGHT_MCP$MERGEWRIGHT_MCP_SOCKET" ]'}])
    async with kit.worker():
        assert (await kit.run(agent=agent)).outcome == "merged"
