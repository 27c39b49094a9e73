"""Operators and agents talk: what is said reaches the agent, what it asks parks the task, what it answers is shown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError

from tests.kit import PATIENCE, Kit, status_when
from tests.test_starter import starter
from workflows.contracts import Stage, TaskResult, TaskStatus

WRITE = {"write": {"new.txt": "work\n"}}
Handle = WorkflowHandle[Any, TaskResult]


async def status(handle: Handle) -> TaskStatus:
    found: TaskStatus = await handle.query("status", result_type=TaskStatus)
    return found


async def ended(handle: Handle) -> TaskResult:
    return await asyncio.wait_for(handle.result(), PATIENCE)


def prompts(kit: Kit, task: str = "*") -> list[str]:
    return [path.read_text() for path in sorted((kit.home.root / "runs").glob(f"{task}/turns/*/prompt.md"))]


async def there(kit: Kit, pattern: str) -> Path:
    """A file of a worktree, once it is there."""
    for _ in range(600):
        if found := next((kit.home.root / "worktrees").glob(pattern), None):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"no {pattern}")


async def found(kit: Kit, query: str, count: int) -> None:
    """Visibility follows a little later."""
    for _ in range(300):
        if (await kit.client.count_workflows(query)).count == count:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(query)


async def test_a_question_parks_the_task_until_it_is_answered(kit: Kit) -> None:
    """The account's only turn is another task's meanwhile."""
    kit.configure("[accounts.shared]\nslots = 1\n")
    steps = [{**WRITE, "say": "Two are there.\nNEEDS_INPUT Which of the two?"}, {"say": "NEEDS_INPUT And the name?"}]
    asking = {**kit.agent(executor=[*steps, {"say": "As you say.\nCOMPLETE_AND_READY_FOR_MERGE"}]), "account": "shared"}
    other = {**kit.agent(executor=[{"write": {"other.txt": "x\n"}}]), "account": "shared"}
    async with kit.worker():
        handle = await kit.start(kit.input(agent=asking), "task-asks")
        parked = await status_when(handle, lambda now: now.stage is Stage.QUESTION)
        assert (parked.question, parked.waiting_for) == ("Which of the two?", "an answer: Which of the two?")
        assert "--name answer --input" in parked.next_command
        assert 'starter.py answer task-asks "' in parked.next_command
        assert (await kit.run(agent=other)).outcome == "merged"
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await handle.execute_update("continue_task")
        assert "`answer` it" in str(refused.value.cause)
        assert "goes on" in await starter(kit, "answer", "task-asks", "the second")
        await status_when(handle, lambda now: now.question == "And the name?")
        await handle.signal("send_message", "new.txt")  # answers as well
        result = await ended(handle)
        end = await status(handle)
    assert (result.outcome, result.turns) == ("merged", 3)
    assert result.seconds.waiting > 0
    told = prompts(kit, "task-asks*")
    assert "You asked: Which of the two?\n\nThe answer:\n\nthe second\n" in told[-2]
    assert "You asked: And the name?\n\nThe answer:\n\nnew.txt\n" in told[-1]
    assert [(each.turn, each.answer.splitlines()[0]) for each in end.messages] == [
        (2, "NEEDS_INPUT And the name?"),
        (3, "As you say."),
    ]
    assert (end.question, end.undelivered_messages, end.problems) == ("", [], [])


async def test_a_planner_asks_before_it_plans(kit: Kit) -> None:
    agent = kit.agent(planner=[{"say": "NEEDS_INPUT Old or new?"}, {"say": "The plan"}], executor=[WRITE])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, interactive=True))
        await status_when(handle, lambda now: now.stage is Stage.QUESTION)
        await handle.execute_update("answer", "new")
        planned = await status_when(handle, lambda now: now.stage is Stage.APPROVAL)
        assert planned.plan == "The plan"
        await handle.signal("approve_plan")
        assert (await ended(handle)).outcome == "merged"


async def test_too_many_questions_block_and_nobody_asks_nobody(kit: Kit) -> None:
    async with kit.worker():
        agent = kit.agent(executor=[{**WRITE, "say": "NEEDS_INPUT What?"}, {}])
        handle = await kit.start(kit.input(agent=agent, limits={"max_questions": 0}))
        blocked = await status_when(handle, lambda now: now.blocked is not None)
        assert blocked.blocked is not None
        assert (blocked.blocked.reason, blocked.blocked.text, blocked.question) == ("questions used up", "What?", "")
        await handle.execute_update("continue_task", "that")
        assert (await ended(handle)).outcome == "merged"
        alone = await kit.start(kit.input(agent=kit.agent(executor=[{"say": "NEEDS_INPUT Who?"}]), on_blocked="fail"))
        with pytest.raises(Exception, match="Workflow execution failed") as failed:
            await ended(alone)
        assert "nobody is there to answer: Who?" in str(failed.value.__cause__)


async def test_a_word_now_interrupts_the_turn_and_goes_on_in_its_session(kit: Kit) -> None:
    agent = kit.agent(executor=[{"shell": f"[ -e half.txt ] || {{ echo half > half.txt; sleep {PATIENCE}; }}"}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent), "task-now")
        await there(kit, "*/half.txt")
        assert "the running turn is ended" in await starter(kit, "say", "task-now", "keep the API", "--now")
        result = await ended(handle)
        end = await status(handle)
        turns = await handle.query("timeline")
    assert (result.outcome, result.turns) == ("merged", 1)
    assert kit.show("half.txt") == "half"  # its work stayed
    assert len(turns) == 1
    [prompt] = prompts(kit)
    assert "## From the operator\n\nkeep the API\n" in prompt
    assert "was interrupted by us" in prompt
    [message] = end.messages
    assert (message.id, message.sender, message.state, message.turn) == ("m1", "operator", "delivered", 1)
    assert "COMPLETE" in message.answer
    kit.assert_clean()


async def test_what_is_said_during_the_last_turn_is_heard_before_it_lands(kit: Kit) -> None:
    go = kit.folder / "go"
    agent = kit.agent(
        executor=[{**WRITE, "shell": f"while [ ! -e {go} ]; do sleep 0.1; done"}, {"say": "Kept.\n" + DONE}]
    )
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, labels=["docs"]), "task-late")
        other = await kit.start(kit.input(agent=kit.agent(executor=[{"sleep": PATIENCE}])), "task-other")
        await there(kit, "*/new.txt")
        await status_when(other, lambda now: now.stage is Stage.WORK)
        await found(kit, "TaskLabels = 'docs'", 1)
        await found(kit, f"TaskRepository = '{kit.repo}' AND WorkflowType = 'TaskWorkflow'", 2)
        assert "1 of 1 have taken it" in await starter(kit, "say", "--label", "docs", "keep it")
        await status_when(handle, lambda now: now.undelivered_messages == ["keep it"])
        said = await starter(kit, "say", "@all", "main is frozen")
        assert {"task-late", "task-other"} <= set(said.split())
        assert "2 of 2 have taken it" in await starter(kit, "say", "--repo", str(kit.repo), "all of you")
        await status_when(handle, lambda now: len(now.undelivered_messages) == 3)
        go.touch()
        result = await ended(handle)
        assert len((await status(other)).undelivered_messages) == 2
        await other.execute_update("abandon")
        await ended(other)
        end = await status(handle)
    assert (result.outcome, result.turns) == ("merged", 2)
    assert [(each.turn, each.answer.splitlines()[0]) for each in end.messages] == [(2, "Kept.")] * 3


DONE = "COMPLETE_AND_READY_FOR_MERGE"


async def test_a_message_at_any_moment_is_taken_or_refused(kit: Kit) -> None:
    """Before anything has begun, in a wrong form, and twice."""
    agent = kit.agent(executor=[WRITE])
    handle = await kit.start(kit.input(agent=agent, interactive=False))
    for given in ({"text": "early", "now": True}, {"text": " "}, {"txt": "x"}, 7, ["x"]):
        await handle.signal("send_message", given)
    await handle.signal("answer", "to nothing")
    await handle.signal("from_agent", {"turn": 1, "kind": "ask", "text": "too early"})
    await handle.signal("from_agent", {"kind": "rubbish"})
    async with kit.worker():
        assert (await ended(handle)).outcome == "merged"
        end = await status(handle)
    assert [(each.text, each.turn) for each in end.messages] == [("early", 1)]
    assert end.problems == [
        "signal send_message ignored: send_message needs a text: --input '\"what to tell the agent\"'",
        "signal send_message ignored: send_message: text: required, but not given; txt: unknown field",
        "signal send_message ignored: send_message takes one JSON string, not int: --input '\"...\"'",
        "signal send_message ignored: send_message takes one JSON string, not list: --input '\"...\"'",
        "signal answer ignored: the agent has asked nothing; `send_message` reaches it at its next turn",
        "signal from_agent ignored: turn: required, but not given; kind: Input should be 'read', 'reply', 'ask', "
        "'progress' or 'propose'",
    ]
