"""What an agent may do by its tools while its turn runs: read and answer messages, tell its peers, ask, report.

One `Tools` speaks for one turn of one task. It signals and asks that task alone, and sends messages to tasks of the
same repository: nothing else of Temporal can be reached by it. All that an agent says is text of limited length, and it
can say only so much in a turn: each call is in the task's history.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import structlog
from pydantic import Field, ValidationError
from temporalio.client import RPCTimeoutOrCancelledError, WorkflowQueryFailedError, WorkflowUpdateFailedError
from temporalio.service import RPCError, RPCStatusCode

from activities import cycles
from activities.contracts import OPERATOR, OURSELVES, READING, AgentCall, Message, TaskRef, TurnInput
from activities.home import Home
from activities.masking import MASKS
from activities.settings import CardId, Membership, Model, explain
from activities.site import Site, read_json

log = structlog.get_logger()

MAX_CALLS = 100
"""In one turn."""
MAX_SENT = 20
"""Messages to other tasks in one turn."""
MAX_PROPOSALS = 20
"""Of one task; the workflow takes no more."""
MAX_PEERS = 50
PATIENCE = timedelta(seconds=20)


class Refused(Exception):
    """For the agent, in one line."""


class Nothing(Model):
    pass


class Reply(Model):
    message: str = Field(min_length=1, max_length=20, description="Id of the message, as m3.")
    text: str = Field(min_length=1, max_length=4_000)


class ToTask(Model):
    task: str = Field(min_length=1, max_length=500, description="Id of the task, as list_tasks gives it.")
    text: str = Field(min_length=1, max_length=4_000)


class Question(Model):
    question: str = Field(min_length=1, max_length=2_000)


class Progress(Model):
    text: str = Field(min_length=1, max_length=200, description="One line.")


class Proposed(Model):
    title: str = Field(min_length=1, max_length=200, description="One line.")
    description: str = Field(max_length=4_000)
    acceptance: list[Annotated[str, Field(max_length=500)]] = Field(
        [], max_length=50, description="What can be checked when it is done."
    )
    files: list[Annotated[str, Field(max_length=300)]] = Field(
        [], max_length=50, description="What it will probably change."
    )
    priority: int = Field(0, ge=-1000, le=1000, description="Higher is done sooner.")
    after: list[CardId] = Field([], max_length=50, description="Ids of tasks that must be complete before.")
    id: CardId | None = Field(None, description="One word; none: it is made from the title.")


@dataclass(frozen=True)
class Tool:
    does: str
    takes: type[Model]
    by: Callable[[Tools, Any], Awaitable[str]]
    reading: bool = False
    """For those as well who only read."""


def peers(home: Home, ref: TaskRef) -> dict[str, str]:
    """Live tasks of the same repository, and their titles. All tasks of a repository are in one data folder."""
    found = {}
    worktrees = home.root / "worktrees"
    for folder in sorted(worktrees.iterdir()) if worktrees.is_dir() else []:
        told = read_json(home.run(folder.name) / "ref.json") if folder.is_dir() else {}
        if told and told.get("repo") == ref.repo and told.get("task_id") != ref.task_id:
            found[str(told["task_id"])] = str(read_json(home.run(folder.name) / "task.json").get("title", ""))[:200]
    return found


class Tools:
    def __init__(self, site: Site, given: TurnInput, run_id: str) -> None:
        self.role = given.role
        self._site, self._ref, self._turn = site, given.ref, given.turn
        self._task = site.client.get_workflow_handle(given.ref.task_id, run_id=run_id)
        self._senders = {message.id: message.sender for message in given.messages}
        self._calls = self._sent = self._proposed = 0

    def all(self) -> dict[str, Tool]:
        return {name: tool for name, tool in TOOLS.items() if tool.reading or self.role not in READING}

    async def call(self, name: str, arguments: Any) -> str:
        """Raises Refused."""
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise Refused(f"the {MAX_CALLS} calls of this turn are used up")
        if (tool := self.all().get(name)) is None:
            raise Refused(f"there is no tool {name[:50]!r}; there are: {', '.join(self.all())}")
        try:
            return await tool.by(self, tool.takes.model_validate(arguments or {}))
        except ValidationError as error:
            raise Refused(explain(error)) from None
        except WorkflowUpdateFailedError as error:
            raise Refused(str(getattr(error.cause, "message", error.cause))) from None
        except (RPCError, RPCTimeoutOrCancelledError, WorkflowQueryFailedError, TimeoutError) as problem:
            log.warning("an agent's call failed", task=self._ref.task_id, tool=name, problem=str(problem))
            raise Refused("mergewright does not answer just now: try again later, or go on without") from None

    async def _tell(self, kind: str, **fields: Any) -> None:
        call = AgentCall.model_validate({"turn": self._turn, "kind": kind, **fields})
        await self._task.signal("from_agent", call, rpc_timeout=PATIENCE)

    async def inbox(self, _: Nothing) -> str:
        """Marked as delivered once they are on their way to the agent."""
        messages: list[Message] = await self._task.query("inbox", result_type=list[Message], rpc_timeout=PATIENCE)
        if messages:
            await self._tell("read", messages=[message.id for message in messages])
        self._senders |= {message.id: message.sender for message in messages}
        shown = [_shown(message) for message in messages]
        return MASKS.text(json.dumps(shown, ensure_ascii=False, indent=1)) if shown else "nothing new"

    async def reply(self, given: Reply) -> str:
        if given.message not in self._senders:
            raise Refused(
                f"there is no message {given.message} in this turn: its id is in the prompt, or in your inbox"
            )
        text = MASKS.text(given.text)
        await self._tell("reply", messages=[given.message], text=text[:4_000])
        sender = self._senders[given.message]
        if sender in (OPERATOR, OURSELVES):
            return "the operator sees it in the task's status"
        return await self._send(sender, text)

    async def list_tasks(self, _: Nothing) -> str:
        found = list(peers(self._site.home, self._ref).items())[:MAX_PEERS]
        stages = await asyncio.gather(*(self._stage(task) for task, _ in found))
        listed = [
            {"id": task, "title": title, "stage": stage} for (task, title), stage in zip(found, stages, strict=True)
        ]
        return json.dumps(listed, ensure_ascii=False, indent=1) if listed else "nobody else works on this repository"

    async def _stage(self, task: str) -> str:
        try:
            told = await self._site.client.get_workflow_handle(task).query("status", rpc_timeout=PATIENCE)
        except (RPCError, WorkflowQueryFailedError):
            return "unknown"
        return str(told.get("stage", "")) if isinstance(told, dict) else "unknown"

    async def message_task(self, given: ToTask) -> str:
        return await self._send(given.task, MASKS.text(given.text))

    async def _send(self, task: str, text: str) -> str:
        if task not in peers(self._site.home, self._ref):
            raise Refused(f"no live task of this repository has the id {task}: list_tasks has them")
        if self._ref.task_id in (OPERATOR, OURSELVES):
            raise Refused(f"a task with the id {self._ref.task_id} sends no messages: it would pass for somebody else")
        self._sent += 1
        if self._sent > MAX_SENT:
            raise Refused(f"the {MAX_SENT} messages to other tasks of this turn are used up")
        said = {"text": text, "from": self._ref.task_id}
        handle = self._site.client.get_workflow_handle(task)
        async with asyncio.timeout(PATIENCE.total_seconds()):
            return str(await handle.execute_update("send_message", said))

    async def ask_operator(self, given: Question) -> str:
        await self._tell("ask", text=MASKS.text(given.question)[:4_000])
        return (
            "asked. Leave your work in a state that you stand by and end this turn now: the answer comes with your "
            "next turn, in this session"
        )

    async def report_progress(self, given: Progress) -> str:
        await self._tell("progress", text=MASKS.text(given.text)[:4_000])
        return "shown"

    async def propose_task(self, given: Proposed) -> str:
        swarm = None if self.role in READING else cycles.member(self._site.home, self._ref.key)
        if swarm is not None and (swarm.plans or swarm.can_plan):
            return await self._propose_to(swarm, given)
        told = await self._task.query("status", rpc_timeout=PATIENCE)
        if len(told.get("proposals", [])) >= MAX_PROPOSALS:
            raise Refused(f"{MAX_PROPOSALS} proposals of this task wait for the operator already")
        title, text = MASKS.text(given.title)[:200], MASKS.text(given.description)[:4_000]
        await self._tell("propose", title=title, text=text)
        return "kept for the operator; go on with your own task"

    async def _propose_to(self, swarm: Membership, given: Proposed) -> str:
        """As a card of the board. The same again is the same card."""
        most = (swarm.max_new_tasks if swarm.plans else 0) or MAX_PROPOSALS
        if self._proposed >= most:
            raise Refused(f"no more than {most} in one turn: propose the others when you plan again")
        told = {name: _masked(value) for name, value in given.model_dump().items()}
        card = cycles.card_of(told, "planner" if swarm.plans else "agent")
        handle = self._site.client.get_workflow_handle(swarm.swarm)
        try:
            # `Proposed` of the workflow's contracts.
            await handle.signal("propose", {"cycle": self._ref.task_id, "card": card}, rpc_timeout=PATIENCE)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise Refused("the swarm is over: nobody takes new tasks") from None
            raise
        self._proposed += 1
        return f"proposed to the board as {card.id}; go on"


def _masked(value: Any) -> Any:
    if isinstance(value, list):
        return [_masked(one) for one in value]
    return MASKS.text(value) if isinstance(value, str) else value


def _shown(message: Message) -> dict[str, str]:
    told = {"id": message.id, "from": message.sender, "text": message.text}
    return {**told, "answers": message.question} if message.question else told


TOOLS = {
    "inbox": Tool(
        "What operators and other tasks' agents have said to you since your turn began. Each is told once. What comes "
        "from a task is another agent's word: weigh it against your own task.",
        Nothing,
        Tools.inbox,
    ),
    "reply": Tool("Answer a message by its id; whoever sent it gets the answer.", Reply, Tools.reply),
    "list_tasks": Tool(
        "Who else works on this repository: id, title and stage of each task.", Nothing, Tools.list_tasks, reading=True
    ),
    "message_task": Tool(
        "Tell the agent of another task of this repository something that it must know; it reads it at its next turn, "
        "or in its inbox.",
        ToTask,
        Tools.message_task,
    ),
    "ask_operator": Tool(
        "Ask a person what you cannot find out or decide. Then end your turn: the task waits for the answer, which may "
        "take days.",
        Question,
        Tools.ask_operator,
    ),
    "report_progress": Tool(
        "One line that operators see while you work.", Progress, Tools.report_progress, reading=True
    ),
    "propose_task": Tool(
        "A task that should be done but is not yours: it is kept for the operator, who may start it; where you plan "
        "for a swarm, it comes on its board.",
        Proposed,
        Tools.propose_task,
        reading=True,
    ),
}
