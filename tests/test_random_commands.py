"""Any operator's commands, sensible or not, at any moment: a task takes each or says why not, and always ends.

The workflow is the real one, on a server that skips time. Its *environment* is a model: the activities are registered
under their own names and answer at random, as their contracts allow (agents that are limited, refuse or are red, gates,
a merge queue that sends back, answers late or never), so that a sequence takes milliseconds and not minutes.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, get_args

import pytest
import pytest_asyncio
from temporalio import activity
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.contracts import (
    CheckAgentInput,
    Collected,
    CollectInput,
    GateResult,
    GatesInput,
    GatesResult,
    Prepared,
    PrepareInput,
    Settled,
    SettleInput,
    TaskRef,
    TurnEnd,
    TurnInput,
    TurnResult,
    UpdateBranchInput,
    UpdatedBranch,
)
from activities.queue_contracts import SubmitInput, Submitted
from activities.settings import INVALID_TASK, SETUP_FAILED, AgentSpec, TaskInput, TaskSettings
from service.converter import data_converter
from service.devserver import temporal_cli
from service.run import workflow_runner
from workflows import options
from workflows.contracts import MergeAnswer, Outcome, Stage, TaskResult, TaskStatus
from workflows.policy.commands import Verb
from workflows.task import TaskWorkflow

VERBS: tuple[Verb, ...] = get_args(Verb)
TEXTS = ("", " ", "do this", "x" * 16_001, None)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "set_priority": (5, -5, 0, 2000, "high", None, True),
    "raise_budget": (20, {"max_tokens": 9}, {"max_cost_usd": -1}, None, "much", {"colour": 1}),
    "rewind": (1, 2, 99, "1", None),
    "send_message": ({"text": "x", "now": 3}, {"colour": 1}, {"text": ""}, 7, None),
    "switch_agent": ("codex:gpt-5.5", "broken", {"runtime": "codex", "model": "x"}, {"colour": 1}, "", 3, None),
}
"""Besides the texts, which every verb gets too."""
PATIENCE = 60
OVERTAKEN = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
"""A command arrived while the task was ending; the server has the workflow look at it, and end then."""
MERGES = (
    "landed",
    "noop",
    "conflict",
    "stale",
    "gate_red",
    "withdrawn",
    "failed",
    "gate_infra",
    "policy",
    "push_rejected",
)


class World:
    """What the workflow meets, and what of it is to be checked afterwards."""

    def __init__(self, client: Client, dice: random.Random) -> None:
        self.client, self.dice = client, dice
        self.heard: dict[str, set[str]] = defaultdict(set)
        """What agents were told, by task."""
        self.submitted: dict[str, set[str]] = defaultdict(set)
        self.telling: set[asyncio.Task[None]] = set()

    async def _takes_time(self) -> None:
        await asyncio.sleep(self.dice.choice((0, 0, 0.01, 0.1)))

    def _one_in(self, count: int) -> bool:
        return self.dice.randrange(count) == 0

    def _sha(self) -> str:
        return f"{self.dice.getrandbits(160):040x}"

    @activity.defn
    async def prepare(self, given: PrepareInput) -> Prepared:
        await self._takes_time()
        if self._one_in(8):
            raise ApplicationError("npm is not there", type=SETUP_FAILED, non_retryable=True)
        task = TaskInput.model_validate(given.task)
        own = task.model_dump(exclude_unset=True, include=set(TaskSettings.model_fields))
        ref = TaskRef(task_id=given.task_id, key="key", repo="/src/app", target="refs/heads/main")
        settings = TaskSettings.model_validate(own)
        return Prepared(ref=ref, host="here", worktree="/w", branch="b", base=self._sha(), settings=settings)

    @activity.defn
    async def check_agent(self, given: CheckAgentInput) -> AgentSpec:
        await self._takes_time()
        if given.agent.runtime == "broken":
            raise ApplicationError("agent.runtime: there is no broken", type=INVALID_TASK, non_retryable=True)
        return given.agent

    @activity.defn
    async def take_turn(self, given: TurnInput) -> TurnResult:
        await self._takes_time()
        self.heard[given.ref.task_id] |= {*(message.text for message in given.messages), given.detail}
        end: TurnEnd = "done" if self.dice.random() < 0.7 else self.dice.choice(get_args(TurnEnd))
        if end == "done" and given.role == "reviewer":
            return TurnResult(end=end, verdict=self.dice.choice(("approved", "approved", "needs_changes", None)))
        return TurnResult(
            end=end,
            signal=self.dice.choice(("complete", "complete", "complete", "needs_followup", "needs_input", None)),
            reason="so it was",
            session=None if self._one_in(5) else "session",
            said="a plan",
            digest=self._sha(),
            retry_after_seconds=self.dice.choice((None, 1.0, 7200.0)),
            files=self.dice.choice(([], ["a.txt", "docs/"])),
            text="/text",
        )

    @activity.defn
    async def collect(self, _: CollectInput) -> Collected:
        await self._takes_time()
        red = GateResult(name="policy", passed=False, exit_code=1, seconds=0) if self._one_in(6) else None
        return Collected(
            head=self._sha(),
            base=self._sha(),
            changed=not self._one_in(12),
            files=["a.txt"],
            file_count=1,
            merged_target=True,
            unresolved=["a.txt"] if self._one_in(12) else [],
            preflight=red,
        )

    @activity.defn
    async def update_branch(self, _: UpdateBranchInput) -> UpdatedBranch:
        await self._takes_time()
        return UpdatedBranch(clean=self._one_in(2), head=self._sha(), target=self._sha())

    @activity.defn
    async def run_gates(self, _: GatesInput) -> GatesResult:
        await self._takes_time()
        passed = not self._one_in(3)
        hard = self._one_in(4)
        result = GateResult(name="test", passed=passed, hard=hard, exit_code=1 - passed, seconds=0, fault="syntax")
        return GatesResult(passed=passed, results=[result], seconds=0)

    @activity.defn
    async def submit(self, given: SubmitInput) -> Submitted:
        """The queue answers soon, later, or not at all; it is gone for whoever wants to tell it something."""
        self.submitted[given.ref.task_id].add(given.head)
        op = f"op-{given.head[:12]}"
        answer = MergeAnswer(op=op, kind=self.dice.choice(MERGES), sha=self._sha(), reason="so it was")  # type: ignore[arg-type]
        if not self._one_in(4):
            telling = asyncio.create_task(self._answer(given.ref.task_id, answer))
            self.telling.add(telling)
            telling.add_done_callback(self.telling.discard)
        return Submitted(op=op, queue="no-such-queue")

    async def _answer(self, task: str, answer: MergeAnswer) -> None:
        await self._takes_time()
        try:
            await self.client.get_workflow_handle(task).signal("merge_answer", answer)
        except RPCError as error:
            assert error.status is RPCStatusCode.NOT_FOUND, error

    @activity.defn
    async def settle(self, _: SettleInput) -> Settled:
        await self._takes_time()
        return Settled(salvage_ref="refs/mergewright/salvage/x/1" if self._one_in(2) else None)

    def workers(self, queue: str) -> list[Worker]:
        agents = [self.take_turn]
        shared: list[Any] = [self.prepare]
        work: list[Any] = [self.check_agent, self.collect, self.update_branch, self.settle, self.submit]
        served: list[tuple[str, list[type], list[Any]]] = [
            (queue, [TaskWorkflow], shared),
            (options.work_queue(queue, "here"), [], work),
            (options.agent_queue(queue, "here"), [], agents),
            (options.gate_queue(queue, "here"), [], [self.run_gates]),
        ]
        return [
            Worker(
                self.client,
                task_queue=name,
                workflows=workflows,
                activities=activities,
                workflow_runner=workflow_runner(),
                graceful_shutdown_timeout=timedelta(seconds=1),
            )
            for name, workflows, activities in served
        ]


class Operator:
    """Sends one task whatever the dice say, and remembers what was taken."""

    def __init__(self, client: Client, queue: str, dice: random.Random) -> None:
        self.client, self.queue, self.dice = client, queue, dice
        self.messages: list[str] = []
        self.priority: int | None = None
        self.approvals = 0
        self.taken: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def command(self) -> tuple[Verb, list[Any]]:
        verb = self.dice.choice(VERBS)
        if verb in ("abandon", "cancel") and self.dice.random() < 0.9:
            verb = "continue_task"
        if self.dice.random() < 0.2:
            text = f"message {uuid.uuid4()}"
            return "send_message", [self.dice.choice((text, {"text": text, "now": True}))]
        given = self.dice.choice((*ARGUMENTS.get(verb, ()), *TEXTS))
        return verb, [] if given is None else [given]

    async def fitting(self, handle: WorkflowHandle[Any, Any]) -> tuple[Verb, list[Any]]:
        """What moves the task on, from where it is."""
        now = await handle.query("status", result_type=TaskStatus)
        if now.stage is Stage.APPROVAL and now.landing:
            return self.dice.choice((("approve_landing", [now.landing]), ("revise", ["do more"])))
        if now.stage is Stage.APPROVAL:
            return self.dice.choice((("approve_plan", [now.plan_hash]), ("revise", ["do less"])))
        if now.stage is Stage.QUESTION:
            return self.dice.choice((("answer", ["the old one"]), ("send_message", [f"message {uuid.uuid4()}"])))
        if now.blocked:
            switch: tuple[Verb, list[Any]] = ("switch_agent", ["codex:gpt-5.5"])
            return self.dice.choice((("continue_task", []), ("retry_stage", []), ("raise_budget", [20]), switch))
        return ("resume", []) if now.paused else self.command()

    async def begin(self) -> WorkflowHandle[Any, TaskResult]:
        task = {
            "repo": "/src/app",
            "title": "Do it",
            "agent": "codex",
            "gates": [{"name": "test", "command": "make test"}],
            "reviewers": ["codex"],
            "interactive": self.dice.random() < 0.5,
            "approve_landing": self.dice.random() < 0.5,
            "limits": {"max_cost_usd": 5},
        }
        verb, given = self.command()
        before = {"start_signal": verb, "start_signal_args": given} if self.dice.random() < 0.3 else {}
        self.approvals += bool(before) and verb == "approve_landing"
        name = f"task-{uuid.uuid4().hex[:12]}"
        return await self.client.start_workflow(
            TaskWorkflow.__name__, task, id=name, task_queue=self.queue, result_type=TaskResult, **before
        )

    async def send(
        self, handle: WorkflowHandle[Any, Any], verb: Verb, given: list[Any], *, update: bool = False
    ) -> bool:
        """Whether the task still runs."""
        self.approvals += verb == "approve_landing"
        try:
            if not update and self.dice.random() < 0.4 and verb not in ("send_message", "set_priority"):
                await handle.signal(verb, args=given)
                return True
            said = await asyncio.wait_for(handle.execute_update(verb, args=given), PATIENCE)
            assert said
            self.taken[verb] += 1
            if verb == "send_message":
                self.messages += [said["text"] if isinstance(said, dict) else said for said in given]
            if verb == "set_priority":
                [self.priority] = given
        except WorkflowUpdateFailedError as error:
            assert isinstance(error.cause, ApplicationError), error.cause
            assert error.cause.type in ("Refused", "AcceptedUpdateCompletedWorkflow"), error.cause
            assert error.cause.message
            self.refused[verb] += 1
        except RPCError as error:
            assert error.status is RPCStatusCode.NOT_FOUND, error
            return False
        return True


async def one_task(operator: Operator, world: World) -> Outcome:
    dice = operator.dice
    handle = await operator.begin()
    for _ in range(dice.randrange(30)):
        verb, given = operator.command() if dice.random() < 0.5 else await operator.fitting(handle)
        for _ in range(dice.choice((1, 1, 1, 2))):
            if not await operator.send(handle, verb, given):
                break
        await asyncio.sleep(dice.choice((0, 0, 0.02, 0.1)))
    await operator.send(handle, "abandon", [], update=True)
    status = await ended(handle)
    assert status.outcome is not None
    unheard = {text for text in operator.messages if text not in world.heard[handle.id]}
    assert unheard <= set(status.undelivered_messages), "a message that was taken is lost"
    if operator.priority is not None:
        assert status.priority == operator.priority
    async for event in handle.fetch_history_events():
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
            failed = event.workflow_task_failed_event_attributes
            assert failed.cause == OVERTAKEN, failed
    if status.landing is None and world.submitted[handle.id] and needs_approval(await input_of(handle)):
        assert len(world.submitted[handle.id]) <= operator.approvals, "what nobody has approved was sent to land"
    return status.outcome


async def ended(handle: WorkflowHandle[Any, TaskResult]) -> TaskStatus:
    try:
        await asyncio.wait_for(handle.result(), PATIENCE)
    except WorkflowFailureError as error:
        assert getattr(error.cause, "type", "") in ("TaskFailed", INVALID_TASK), error.cause
    except TimeoutError:
        status = await handle.query("status", result_type=TaskStatus)
        raise AssertionError(f"it does not end: {status}") from None
    status = await handle.query("status", result_type=TaskStatus)
    assert status.stage is Stage.ENDED
    return status


async def input_of(handle: WorkflowHandle[Any, Any]) -> dict[str, Any]:
    async for event in handle.fetch_history_events(page_size=1):
        payloads = event.workflow_execution_started_event_attributes.input.payloads
        [given] = await data_converter.decode(list(payloads))
        found: dict[str, Any] = given
        return found
    raise AssertionError("no history")


def needs_approval(task: dict[str, Any]) -> bool:
    return bool(task["approve_landing"])


@pytest_asyncio.fixture
async def hasty() -> AsyncIterator[Client]:
    environment = await WorkflowEnvironment.start_time_skipping_v2(
        dev_server_existing_path=temporal_cli(),
        dev_server_log_level="error",
        dev_server_extra_args=["--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true"],
        data_converter=data_converter,
    )
    yield environment.client
    await environment.shutdown()


@pytest.mark.parametrize("tasks", [12, pytest.param(500, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
async def test_commands_at_any_moment_are_taken_or_refused_and_the_task_ends(hasty: Client, tasks: int) -> None:
    """Should it fail, the seed says which dice; what happens at the same moment is not repeated by it."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    world, queue = World(hasty, random.Random(seed + 1)), f"random-{seed}"
    at_once = asyncio.Semaphore(20)

    operators = [Operator(hasty, queue, random.Random(dice.randrange(2**32))) for _ in range(tasks)]

    async def one(operator: Operator) -> Outcome:
        async with at_once:
            return await one_task(operator, world)

    async with AsyncExitStack() as stack:
        for worker in world.workers(queue):
            await stack.enter_async_context(worker)
        outcomes = await asyncio.gather(*map(one, operators))
    assert set(outcomes) <= set(get_args(Outcome))
    taken = sum((operator.taken for operator in operators), Counter[str]())
    refused = sum((operator.refused for operator in operators), Counter[str]())
    print(f"ended as {Counter(outcomes)}; taken {taken}; refused {refused}")
    assert taken["abandon"]
    assert len(refused) > 3
