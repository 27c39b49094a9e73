"""Many tasks, workers of three kinds whose agents fail, hang, say nothing, hit limits; the worker's process is killed.

Afterwards each task is on main exactly once, or on the board with its reason, and the last table says what git and the
histories of the cycles say.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHistory
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from activities.attributes import COST
from activities.janitor import clean_up
from activities.runs import asking
from activities.swarm.ledger import Ledger
from tests.git.repos import git
from tests.kit import Kit
from tests.swarm import kit as swarms
from tests.test_kill import ended, start_worker, until_up
from workflows.contracts import TaskResult
from workflows.policy.members import added, is_error
from workflows.swarm_contracts import BoardLine, BoardPage, SwarmResult, SwarmStatus, Tally

MINUTES = 15
"""For fifty tasks, on a machine that does much else."""
NEVER = ["t4"]
"""No agent does it."""


def kinds(kit: Kit, counts: tuple[int, int, int]) -> list[dict[str, Any]]:
    quick = swarms.agent(kit, sleep=0.1, cost=0.01, seed=19, never=NEVER, odds={"limited": 0.15})
    slow = swarms.agent(kit, sleep=1, cost=0.02, seed=28, never=NEVER, odds={"silent": 0.3, "stuck": 0.05})
    slow["idle_timeout_minutes"] = 0.1
    choosing = swarms.agent(kit, sleep=0.3, cost=0.03, seed=7, never=NEVER, claims=2, odds={"fail": 0.3})
    quiet = {"max_working_resumes": 0}
    return [
        {"name": "quick", "agent": quick, "count": counts[0], **quiet},
        {"name": "slow", "agent": slow, "count": counts[1], **quiet},
        {"name": "choosing", "agent": choosing, "count": counts[2], "claims": True, **quiet},
    ]


def tasks(count: int) -> list[dict[str, Any]]:
    """Each seventh waits for another one; they differ in priority."""
    after = {number: [f"t{number - 3}"] for number in range(6, count, 7)}
    return [
        {**card, "priority": number % 5, "after": after.get(number, [])}
        for number, card in enumerate(swarms.cards(count))
    ]


async def operate(kit: Kit, handle: swarms.Handle, answered: list[str], terminated: list[str], most: int) -> None:
    """Whoever waits for an operator is told to go on, terminated or abandoned; `most` are terminated at work."""
    verbs, chance = ["continue_task", "terminate", "abandon"], random.Random(9)
    while True:
        await asyncio.sleep(0.5)
        with contextlib.suppress(RPCError):
            status = await handle.query("swarm", result_type=SwarmStatus)
            at_work = [member.cycle for member in status.members if member.cycle]
            if at_work and len(terminated) < most and chance.random() < 0.1:
                terminated.append(chance.choice(at_work))
                await kit.client.get_workflow_handle(terminated[-1]).terminate("amid its work")
            page = await handle.query("board", {"place": "blocked"}, result_type=BoardPage)
            for cycle, since in {line.holder: line.since for line in page.lines if line.holder}.items():
                if f"{cycle} {since}" in answered:
                    continue
                verb = verbs[len(answered) % len(verbs)]
                one = kit.client.get_workflow_handle(cycle)
                await (one.terminate("by hand") if verb == "terminate" else one.signal(verb))
                answered.append(f"{cycle} {since}")


@dataclass
class Cycle:
    """What its history says."""

    result: TaskResult | None
    told_cost: float
    """Dollars, as the server has it: all that is known of one that was terminated."""
    claims: set[str] = field(default_factory=set)
    parked: bool = False
    landed: bool = False
    """As git says, also of one that was terminated before it could."""

    @property
    def outcome(self) -> str:
        if self.landed:
            return "merged"
        return self.result.outcome if self.result else "terminated"

    @property
    def cost(self) -> float:
        return self.result.cost_usd if self.result else self.told_cost

    @property
    def is_error(self) -> bool:
        return self.parked or is_error(self.outcome)


async def cycles_of(kit: Kit, swarm: str) -> dict[str, Cycle]:
    found = {}
    async for execution in kit.client.list_workflows(
        f"WorkflowType = 'TaskWorkflow' AND TaskQueue = '{kit.task_queue}'"
    ):
        if execution.id.startswith(f"{swarm}-"):
            handle = kit.client.get_workflow_handle(execution.id, result_type=TaskResult)
            cycle = Cycle(await _result(handle), execution.typed_search_attributes.get(COST) or 0.0)
            _read(kit, await handle.fetch_history(), cycle)
            found[execution.id] = cycle
    return found


async def _result(handle: Any) -> TaskResult | None:
    try:
        result: TaskResult = await handle.result()
        return result
    except WorkflowFailureError as failure:
        cause = failure.cause
        details = cause.details if isinstance(cause, ApplicationError) else ()
        return next((TaskResult.model_validate(each) for each in details if isinstance(each, dict)), None)


def _read(kit: Kit, history: WorkflowHistory, cycle: Cycle) -> None:
    decode = kit.client.data_converter.payload_converter.from_payload
    for event in history.events:
        if event.HasField("workflow_execution_started_event_attributes"):
            given = decode(event.workflow_execution_started_event_attributes.input.payloads[0])
            cycle.claims |= set(given["swarm"].get("claims", []))
        elif event.HasField("workflow_execution_signaled_event_attributes"):
            told = event.workflow_execution_signaled_event_attributes
            if told.signal_name == "claim_answer":
                cycle.claims |= set(decode(told.input.payloads[0])["got"])
        elif event.HasField("signal_external_workflow_execution_initiated_event_attributes"):
            said = event.signal_external_workflow_execution_initiated_event_attributes
            if said.signal_name == "cycle_note":
                cycle.parked = cycle.parked or bool(decode(said.input.payloads[0]).get("blocked"))
            elif said.signal_name == "cycle_ended":  # it may be terminated before it ends with the same result
                cycle.result = TaskResult.model_validate(decode(said.input.payloads[0])["result"])


async def the_board(handle: swarms.Handle) -> dict[str, BoardLine]:
    page = await handle.query("board", result_type=BoardPage)
    assert page.more == 0
    return {line.id: line for line in page.lines}


def landings(kit: Kit) -> dict[str, str]:
    """Task-Id of each commit on main that a landing made, by its sha."""
    log = git(kit.repo, "log", "--first-parent", "--format=%H %(trailers:key=Task-Id,valueonly,separator=%x2C)", "main")
    return {line.split()[0]: line.split()[1] for line in log.splitlines() if len(line.split()) == 2}


def check_tasks(kit: Kit, board: dict[str, BoardLine], result: SwarmResult, cycles: dict[str, Cycle]) -> None:
    """Complete by one landing, which is its holder's; or open, with a reason, and not on main."""
    landed = landings(kit)
    for cycle in landed.values():
        cycles[cycle].landed = True
    assert len(set(landed.values())) == len(landed), "a cycle landed twice"
    assert Counter(kit.trailers("Merge-Op")).most_common(1)[0][1] == 1
    assert result.counts == {**dict.fromkeys(result.counts, 0), **Counter(line.place for line in board.values())}
    for name, line in board.items():
        wrote = git(kit.repo, "log", "--first-parent", "--format=%H", "main", "--", f"done/{name}.txt").split()
        if line.place == "complete":
            assert wrote == [line.sha], f"{name} was done {len(wrote)} times: {line}"
            assert kit.show(f"done/{name}.txt").splitlines()[0] == f"once {name}"
            assert name in cycles[landed[line.sha]].claims
            assert landed[line.sha].rpartition("-")[0].endswith(f"-{line.worker}")
        else:
            assert wrote == [], name
            assert line.why and not line.holder and line.place != "current", line
    assert set(landed.values()) == {name for name, cycle in cycles.items() if cycle.outcome == "merged"}


def check_table(board: dict[str, BoardLine], result: SwarmResult, cycles: dict[str, Cycle]) -> None:
    for member in result.members:
        theirs = [cycle for name, cycle in cycles.items() if name.rpartition("-")[0].endswith(f"-{member.name}")]
        expected = counted(theirs, [line for line in board.values() if line.worker == member.name])
        assert member.tally == expected, member.name
    assert sum(member.tally.cycles for member in result.members) == len(cycles)
    assert result.cost_usd == pytest.approx(sum(each.cost for each in cycles.values()))
    assert result.tokens == sum(each.result.tokens for each in cycles.values() if each.result) > 0


def counted(cycles: list[Cycle], lines: list[BoardLine]) -> Tally:
    results = [cycle.result for cycle in cycles if cycle.result]
    claims, done = sum(len(cycle.claims) for cycle in cycles), sum(line.place == "complete" for line in lines)
    tally = Tally(
        runs=sum(each.turns for each in results),
        cycles=len(cycles),
        merges=sum(cycle.outcome == "merged" for cycle in cycles),
        claims=claims,
        errors=sum(cycle.is_error for cycle in cycles),
        recycled=claims - done,
        cost_usd=round(sum(cycle.cost for cycle in cycles), 6),
        tokens=sum(each.tokens for each in results),
    )
    for each in results:
        tally = tally.model_copy(update={"seconds": added(tally.seconds, each.seconds)})
    return tally


async def check_nothing_is_left(kit: Kit, board: dict[str, BoardLine]) -> None:
    """What the terminated have left is the janitor's."""
    cleaned = await partial(clean_up, await asking(kit.client), kit.home)()
    assert cleaned.left == []
    kit.assert_clean()
    assert git(kit.repo, "status", "--porcelain") == ""
    assert {ref.split("/")[2] for ref in kit.refs()} <= {"salvage"}
    entries = list(Ledger(kit.home, kit.repo / ".git").entries())
    assert [entry for entry in entries if entry.claim] == []
    assert {entry.id: entry.done.sha for entry in entries if entry.done} == {
        name: line.sha for name, line in board.items() if line.place == "complete"
    }


@pytest.mark.parametrize(
    ("count", "counts", "kills"),
    [
        pytest.param(10, (1, 1, 1), 1, id="ten", marks=pytest.mark.long),
        pytest.param(50, (3, 3, 2), 3, id="fifty", marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
async def test_every_task_is_done_once_or_tells_why_not_whoever_is_killed(
    kit: Kit, count: int, counts: tuple[int, int, int], kills: int
) -> None:
    chance, answered, terminated = random.Random(5), list[str](), list[str]()
    address = kit.client.service_client.config.target_host
    swarms.allow(kit)
    workers = [start_worker(kit, "--address", address)]
    async with ended(workers):
        handle = await swarms.start(kit, workers=kinds(kit, counts), max_tries=3, max_errors=100)
        await handle.execute_update("add", tasks(count))
        operator = asyncio.create_task(operate(kit, handle, answered, terminated, count // 8))
        over = asyncio.create_task(swarms.over(kit, handle, MINUTES * 60))
        for number in range(kills):
            await until_up(kit, number + 1)
            await asyncio.wait([over], timeout=chance.uniform(1, 3) * count / 10)
            workers[-1].kill()
            workers[-1].wait()
            workers.append(start_worker(kit, "--address", address))
        result = await over
        operator.cancel()
        board = await the_board(handle)
    cycles = await cycles_of(kit, handle.id)
    print(result.reason, result.counts, Counter(cycle.outcome for cycle in cycles.values()), answered, terminated)
    assert "t4" in {line.id for line in result.open}
    assert len(terminated) == count // 8
    check_tasks(kit, board, result, cycles)
    check_table(board, result, cycles)
    await check_nothing_is_left(kit, board)
