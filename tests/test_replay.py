"""Recorded histories of every way a task ends: today's workflows must replay them, or running tasks would break.

To record anew, after a change that `workflow.patched` cannot cover because no such task can be running:

    RECORD_HISTORIES=1 .venv/bin/python -m pytest tests/test_replay.py
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHandle, WorkflowHistory
from temporalio.worker import Replayer

from activities.contracts import CleanUpInput, quota_id
from service.converter import InputGuard, data_converter
from service.run import WORKFLOWS, workflow_runner
from tests.git.repos import git
from tests.kit import Kit, status_when
from tests.queue_kit import Queue
from tests.swarm import kit as swarms
from tests.test_queue import the_queue
from workflows.contracts import Stage
from workflows.janitor import JanitorWorkflow

HISTORIES = Path(__file__).parent / "histories"
WRITE = {"write": {"a.txt": "x\n"}}
Handle = WorkflowHandle[Any, Any]


async def merged(kit: Kit) -> Handle:
    """Through everything: a plan, a limit, a red gate, a review round, a conflict."""
    agent = kit.agent(
        planner=[{"say": "Plan"}],
        executor=[{"fail": 75, "stderr": "retry-after: 0"}, {"append": {"README.md": "bad\n"}, "sleep": 1}],
        fixer=[{"shell": "sed -i s/bad/good/ README.md"}, WRITE],
        reviewer=[{"say": "VERDICT: NEEDS_CHANGES"}, {"say": "VERDICT: APPROVED"}],
        resolver=[{"resolve": True}],
    )
    gate = {"name": "good", "command": "! grep -q bad README.md"}
    handle = await kit.start(kit.input(agent=agent, reviewers=[agent], gates=[gate], interactive=True))
    await status_when(handle, lambda now: now.stage is Stage.APPROVAL)
    await kit.run(agent=kit.agent(executor=[{"append": {"README.md": "other\n"}}]))
    await handle.signal("approve_plan")
    return handle


async def no_changes(kit: Kit) -> Handle:
    return await kit.start(kit.input(agent=kit.agent(executor=[{}])))


async def rejected(kit: Kit) -> Handle:
    handle = await kit.start(kit.input(agent=kit.agent(planner=[{"say": "Plan"}]), interactive=True))
    await status_when(handle, lambda now: now.stage is Stage.APPROVAL)
    await handle.signal("reject_plan")
    return handle


async def abandoned(kit: Kit) -> Handle:
    handle = await kit.start(kit.input(agent=kit.agent(executor=[{**WRITE, "sleep": 20}])))
    await status_when(handle, lambda now: now.stage is Stage.WORK)
    await handle.signal("nonsense")
    await handle.execute_update("abandon")
    return handle


async def cancelled(kit: Kit) -> Handle:
    handle = await kit.start(kit.input(agent=kit.agent(executor=[{"say": "NEEDS_FOLLOWUP x"}])))
    await status_when(handle, lambda now: now.stage is Stage.BLOCKED)
    await handle.signal("continue_task", "go on")
    await status_when(handle, lambda now: now.turns > 2 and now.stage is Stage.BLOCKED)
    await handle.cancel()
    return handle


async def failed(kit: Kit) -> Handle:
    agent = kit.agent(executor=[{**WRITE, "say": "NEEDS_FOLLOWUP x"}])
    return await kit.start(kit.input(agent=agent, on_blocked="fail"))


async def handed_over(kit: Kit) -> Handle:
    """Leased turns, a limit, a fallback that takes over, a summary."""
    limited = {"fail": 75, "stderr": "retry-after: 1"}
    first = kit.agent(
        executor=[limited, {**WRITE, "say": "NEEDS_FOLLOWUP x"}, {"fail": 75, "stderr": "retry-after: 9000"}]
    )
    second = kit.agent(executor=[{"append": {"a.txt": "y\n"}}], compactor=[{"say": "Half is done."}])
    agent = {**first, "account": "replayed"}
    handle = await kit.start(kit.input(agent=agent, fallbacks=[second], compactor=second))
    await status_when(handle, lambda now: now.turns == 1)
    await handle.signal("compact")
    return handle


async def landed(kit: Kit) -> Handle:
    """A branch without a task; it waits for an operator's leave."""
    queue = Queue(kit)
    queue.configure("true", protected=["ci/"])
    queue.branch("feature", {"ci/run": "true\n"})
    handle = await queue.send("feature")
    await queue.when(lambda now: bool(now.places) and now.places[0].state == "approval")
    await queue.handle.execute_update("allow", queue.task("feature"))
    return handle


async def rewound(kit: Kit) -> Handle:
    """Out of the merge queue, to a turn that is there, and to one that is not any more."""
    queue = Queue(kit)
    await queue.open("paused")
    steps = [{**WRITE, "say": "NEEDS_FOLLOWUP x"}, {"append": {"a.txt": "y\n"}}, {}]
    handle = await kit.start(kit.input(agent=kit.agent(executor=steps)))
    await queue.when(lambda now: bool(now.places))
    await handle.execute_update("pause")
    git(kit.repo, "update-ref", "-d", next(ref for ref in kit.refs("refs/mergewright/turn") if ref.endswith("/2")))
    await handle.execute_update("rewind", 2)
    await handle.execute_update("resume")
    await status_when(handle, lambda now: bool(now.problems))
    await handle.execute_update("rewind", 1)
    await handle.execute_update("resume")
    await queue.handle.execute_update("resume")
    return handle


async def cleaned_up(kit: Kit) -> Handle:
    """The janitor's; something is left alone."""
    (kit.home.root / "runs" / "nobody-s").mkdir(parents=True)
    long_ago = time.time() - 7200
    os.utime(kit.home.root / "runs" / "nobody-s", (long_ago, long_ago))
    name = f"clean-up/{kit.task_queue}@here"
    given = CleanUpInput(host="here", home=str(kit.home.root))
    return await kit.client.start_workflow(JanitorWorkflow.run, given, id=name, task_queue=kit.task_queue)


async def steered(kit: Kit) -> Handle:
    """By operators: another agent, a stage that begins anew, a pause between stages, an approval of the landing."""
    mark = kit.folder / "gated"
    gate = {"name": "slow", "command": f"test -e {mark} || {{ touch {mark}; sleep 600; }}"}
    first, second = kit.agent(executor=[{"say": "NEEDS_FOLLOWUP x"}]), kit.agent(executor=[WRITE])
    limits = {"max_needs_followups": 0}
    handle = await kit.start(kit.input(agent=first, gates=[gate], approve_landing=True, limits=limits))
    await status_when(handle, lambda now: now.blocked is not None)
    await handle.execute_update("switch_agent", second)
    while not mark.exists():  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await handle.execute_update("pause")
    await handle.execute_update("retry_stage")
    await status_when(handle, lambda now: now.stage is Stage.PAUSED)
    await handle.execute_update("set_priority", 5)
    await handle.execute_update("resume")
    await status_when(handle, lambda now: now.landing is not None)
    await handle.execute_update("approve_landing")
    return handle


async def talked(kit: Kit) -> Handle:
    """The turn is taken up again with a word, the agent asks, and what is said in the last turn is heard."""
    half, go = kit.folder / "half", kit.folder / "go"
    steps = [
        {"shell": f"[ -e {half} ] || {{ touch {half}; sleep 600; }}", "say": "NEEDS_INPUT Old or new?"},
        {**WRITE, "shell": f"while [ ! -e {go} ]; do sleep 0.1; done"},
        {},
    ]
    handle = await kit.start(kit.input(agent=kit.agent(executor=steps), labels=["docs"]))
    while not half.exists():  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await handle.execute_update("send_message", {"text": "keep the API", "now": True})
    await status_when(handle, lambda now: now.stage is Stage.QUESTION)
    await handle.execute_update("answer", "new")
    await status_when(handle, lambda now: now.stage is Stage.WORK)
    await handle.signal("send_message", "and the tests")
    go.touch()
    return handle


async def swarmed(kit: Kit) -> Handle:
    """Three tasks, of whom one fails at first; an agent that is given its tasks, and one that chooses."""
    given, choosing = swarms.agent(kit, odds={"silent": 0.26}, seed=28), swarms.agent(kit, sleep=1)
    workers = [
        {"name": "given", "agent": given, "count": 0, "max_working_resumes": 0},
        {"name": "choosing", "agent": choosing, "count": 0, "claims": True},
    ]
    handle = await swarms.start(kit, workers=workers, on_blocked="fail")
    await handle.execute_update("add", swarms.cards(3))
    for kind in ("given", "choosing"):
        await handle.execute_update("set_count", {"kind": kind, "count": 1})
    return handle


async def refused(kit: Kit) -> Handle:
    return await kit.start({"title": "no repository"})


ENDINGS: list[Callable[[Kit], Awaitable[Handle]]] = [
    merged, no_changes, rejected, abandoned, cancelled, failed, handed_over, landed, rewound, cleaned_up,
    steered, talked, swarmed, refused,
]  # fmt: skip

LONG = (merged, handed_over, rewound, steered, talked, swarmed)


def replayer() -> Replayer:
    return Replayer(
        workflows=WORKFLOWS,
        data_converter=data_converter,
        interceptors=[InputGuard()],
        workflow_runner=workflow_runner(),
    )


async def children(handle: Handle) -> list[str]:
    """Workflow ids of those that it has started."""
    events = [event async for event in handle.fetch_history_events()]
    started = [event.child_workflow_execution_started_event_attributes for event in events]
    return [one.workflow_execution.workflow_id for one in started if one.workflow_execution.workflow_id]


def keep(name: str, history: WorkflowHistory) -> None:
    """Without the names of the machine that it was recorded on."""
    text = json.dumps(json.loads(history.to_json()), indent=1)
    text = re.sub(r'"identity": "[^"]*"', '"identity": "worker"', text)
    text = re.sub(r'(?<="data": ")[^"]*', lambda found: _placed(found[0]), text)
    HISTORIES.mkdir(exist_ok=True)
    (HISTORIES / f"{name}.json").write_text(text + "\n")


def _placed(data: str) -> str:
    """A payload, as if this checkout lay where those of all histories do."""
    here = str(Path(__file__).parent.parent).encode()
    return b64encode(b64decode(data).replace(here, b"/tmp/mergewright")).decode()


@pytest.mark.parametrize(
    "ending",
    [pytest.param(ending, marks=pytest.mark.long) if ending in LONG else ending for ending in ENDINGS],
    ids=lambda ending: ending.__name__,
)
async def test_every_ending_replays_as_it_ran(kit: Kit, ending: Callable[[Kit], Awaitable[Handle]]) -> None:
    async with kit.worker():
        handle = await ending(kit)
        try:
            await handle.result()
        except Exception as error:
            assert ending in (failed, refused), error
        histories = {ending.__name__: await handle.fetch_history()}
        if ending is handed_over:
            histories["quota"] = await kit.client.get_workflow_handle(
                quota_id("command/replayed", kit.task_queue)
            ).fetch_history()
        if ending is swarmed:
            [cycle] = [name for name in await children(handle) if name.endswith("-choosing.1-2")]
            histories["claimed"] = await kit.client.get_workflow_handle(cycle).fetch_history()
        if ending is merged:
            histories["merge_queue"] = await the_queue(kit).fetch_history()
    for name, history in histories.items():
        await replayer().replay_workflow(history)
        if os.environ.get("RECORD_HISTORIES"):
            keep(name, history)


async def test_recorded_histories_still_replay() -> None:
    recorded = sorted(HISTORIES.glob("*.json"))
    assert {path.stem for path in recorded} >= {ending.__name__ for ending in ENDINGS} | {
        "merge_queue",
        "quota",
        "claimed",
    }
    for path in recorded:
        started = json.loads(path.read_text())["events"][0]["workflowExecutionStartedEventAttributes"]
        await replayer().replay_workflow(WorkflowHistory.from_json(started["workflowId"], path.read_text()))


async def test_a_workflow_that_decides_otherwise_is_found_out() -> None:
    """The check can fail: without its last answer the recorded task would have to go on."""
    history = json.loads((HISTORIES / "no_changes.json").read_text())
    scheduled = [event for event in history["events"] if "activityTaskScheduledEventAttributes" in event]
    scheduled[1]["activityTaskScheduledEventAttributes"]["activityType"]["name"] = "another_activity"
    with pytest.raises(Exception, match="Nondeterminism"):
        await replayer().replay_workflow(WorkflowHistory.from_json("changed", history))
