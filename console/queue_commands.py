"""`starter.py queue …` and `starter.py land`: the merge queue as its operators see and steer it."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.live import Live
from rich.text import Text
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode
from typer.core import TyperGroup

from activities.contracts import TASK_QUEUE
from activities.git.repository import open_repository
from activities.merging import queue_id
from activities.queue_contracts import LandRequest
from activities.settings import explain as explained
from activities.site import short_ref
from console import inputs
from console.door import Address, Namespace, Repo, TaskQueue, connected, console, run
from console.queue_view import queue_view, span
from console.terminal import Terminal
from service.devserver import CannotServe
from workflows.contracts import LandResult, LandStatus, Priority, QueueStatus
from workflows.policy.answers import explain

POLL_SECONDS = 0.5
PIPE_WIDTH = 240
"""Of a table that nobody looks at in a terminal: nothing is cut."""

Target = Annotated[str | None, typer.Option(help="The branch (default: the repository's current one).")]
Task = Annotated[str, typer.Argument(help="Id of the task or landing, or the op of its candidate.")]


class _ShowByDefault(TyperGroup):
    """`queue`, `queue /src/app` and `queue --watch` are `queue show …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        shown = not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names)
        return super().parse_args(ctx, ["show", *args] if shown else args)


app = typer.Typer(cls=_ShowByDefault, help="Show the merge queue of a branch (`queue REPO`), or steer it.")


async def _queue(
    repo: Path, target: str | None, task_queue: str, address: str | None, namespace: str | None
) -> tuple[WorkflowHandle[Any, Any], CannotServe]:
    """Its handle, and what to say where it does not run."""
    repository = open_repository(str(repo.resolve()))
    branch = repository.branch(target) if target else repository.default_branch()
    client = await connected(address, namespace)
    none = CannotServe(
        f"no merge queue runs for {short_ref(branch)} of {repository.path}: it begins with the first that is sent in"
    )
    return client.get_workflow_handle(queue_id(repository, branch, task_queue)), none


# --- show ------------------------------------------------------------------------------------------


@app.command("show")
def show(
    where: Annotated[Path | None, typer.Argument(metavar="REPO", help="The repository, as --repo.")] = None,
    repo: Repo = Path(),
    target: Target = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing it until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    task_queue: TaskQueue = TASK_QUEUE,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Who is in it, which chains are tested, how the last ones ended. Example: starter.py queue /src/app --watch"""

    async def go() -> None:
        handle, none = await _queue(where or repo, target, task_queue, address, namespace)
        found = await _status(handle)
        if found is None:
            console.print(str(none), markup=False, soft_wrap=True)
        elif as_json:
            console.print_json(found.model_dump_json())
        elif watch:
            await _watch(handle, found)
        else:
            _print(found)

    run(go())


async def _status(handle: WorkflowHandle[Any, Any]) -> QueueStatus | None:
    """None: it has never been started."""
    try:
        found: QueueStatus = await handle.query("queue", result_type=QueueStatus)
        return found
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise


def _print(status: QueueStatus) -> None:
    shown = console if console.is_terminal else Terminal(width=PIPE_WIDTH)
    shown.print(queue_view(status, time.time()))


async def _watch(handle: WorkflowHandle[Any, Any], first: QueueStatus) -> None:
    """On a terminal it is redrawn; elsewhere it is printed again when it has changed."""
    shown = first
    if not console.is_terminal:
        _print(first)
    with Live(console=console, refresh_per_second=4, auto_refresh=console.is_terminal) as live:
        while True:
            if console.is_terminal:
                live.update(queue_view(shown, time.time()))
            await asyncio.sleep(POLL_SECONDS)
            found = await _status(handle) or shown
            if found != shown and not console.is_terminal:
                _print(found)
            shown = found


# --- steer -----------------------------------------------------------------------------------------


def _send(
    update: str,
    arguments: list[Any],
    repo: Path,
    target: str | None,
    task_queue: str,
    address: str | None,
    namespace: str | None,
) -> None:
    async def go() -> str:
        handle, none = await _queue(repo, target, task_queue, address, namespace)
        try:
            return str(await handle.execute_update(update, args=arguments))
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise none from None
            raise

    console.print(run(go()), markup=False, soft_wrap=True)


def _verb(command: str, help_text: str) -> None:
    @app.command(command, help=f"{help_text} Example: starter.py queue {command} --repo /src/app")
    def plain(
        repo: Repo = Path(),
        target: Target = None,
        task_queue: TaskQueue = TASK_QUEUE,
        address: Address = None,
        namespace: Namespace = None,
    ) -> None:
        _send(command.replace("-", "_"), [], repo, target, task_queue, address, namespace)


def _verb_for_a_task(command: str, help_text: str) -> None:
    @app.command(command, help=f"{help_text} Example: starter.py queue {command} task-42 --repo /src/app")
    def of_a_task(
        task: Task,
        repo: Repo = Path(),
        target: Target = None,
        task_queue: TaskQueue = TASK_QUEUE,
        address: Address = None,
        namespace: Namespace = None,
    ) -> None:
        _send(command, [task], repo, target, task_queue, address, namespace)


_verb("pause", "Test nothing and land nothing until resumed.")
_verb("resume", "Go on after pause, drain or freeze.")
_verb("drain", "Finish those who are in; newcomers wait.")
_verb("retry-checkout", "Try now what a checkout of the branch has blocked.")
_verb_for_a_task("cancel", "Take a task's candidate out; it is sent back.")
_verb_for_a_task("allow", "Let land what changes protected paths.")


@app.command()
def freeze(
    reason: Annotated[str, typer.Argument(help="Shown to all who wait.")],
    repo: Repo = Path(),
    target: Target = None,
    task_queue: TaskQueue = TASK_QUEUE,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """The branch is red: judge nobody who is in. Example: starter.py queue freeze "CI is red" --repo /src/app"""
    _send("freeze", [reason], repo, target, task_queue, address, namespace)


@app.command()
def priority(
    task: Task,
    priority: Annotated[int, typer.Argument(min=-1000, max=1000, help="Higher lands sooner; 0 is usual.")],
    repo: Repo = Path(),
    target: Target = None,
    task_queue: TaskQueue = TASK_QUEUE,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Let a task land sooner, or later. Example: starter.py queue priority task-42 10"""
    wanted = Priority(task=task, priority=priority)
    _send("set_priority", [wanted], repo, target, task_queue, address, namespace)


# --- land ------------------------------------------------------------------------------------------


def land(
    branch: Annotated[str, typer.Argument(help="A local branch.")],
    repo: Repo = Path(),
    target: Target = None,
    strategy: Annotated[str | None, typer.Option(help="merge, squash, rebase or ff-only")] = None,
    gate: Annotated[list[str] | None, typer.Option(help="name=command; may be repeated.")] = None,
    title: Annotated[str, typer.Option(help="Of the merge commit (default: the newest commit's subject).")] = "",
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="Higher lands sooner.")] = 0,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Send it in, and do not follow it.")] = False,
    task_queue: TaskQueue = TASK_QUEUE,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Put a branch through the merge queue, without a task. Example: starter.py land feature --target main"""
    given: dict[str, Any] = {"repo": str(repo.resolve()), "branch": branch, "title": title, "priority": priority}
    given |= {"target": target} if target else {}
    given |= {"strategy": strategy} if strategy is not None else {}
    given |= {"gates": [inputs.gate(text) for text in gate]} if gate else {}
    try:
        LandRequest.model_validate(given)
    except ValidationError as error:
        raise typer.BadParameter(explained(error)) from None
    name = f"land-{re.sub(r'[^a-z0-9]+', '-', branch.lower()).strip('-')[:40]}-{uuid.uuid4().hex[:6]}"

    async def go() -> LandResult | None:
        client = await connected(address, namespace)
        await client.start_workflow(
            "LandWorkflow", given, id=name, task_queue=task_queue, static_summary=f"land {branch}"
        )
        console.print(name)
        return None if detach else await follow_landing(client, name)

    if result := run(go()):
        tell_end(result)


def tell_end(result: LandResult) -> None:
    """Exit 1 unless the target has it."""
    match result.outcome:
        case "merged":
            text = f"merged as {result.sha}"
        case "no-changes":
            text = f"no changes: {result.reason}"
        case "withdrawn":
            text = f"withdrawn: {result.reason or 'taken back'}"
        case "sent-back":
            text = explain(result.code, result.reason, result.evidence)
    console.print(text, markup=False, soft_wrap=True)
    if result.outcome in ("withdrawn", "sent-back"):
        raise typer.Exit(1)


async def is_landing(client: Client, name: str) -> bool:
    return (await client.get_workflow_handle(name).describe()).workflow_type == "LandWorkflow"


async def follow_landing(client: Client, name: str) -> LandResult:
    """Its end; until then where it is and why it waits. Raises CannotServe for one that failed."""
    end = asyncio.create_task(client.get_workflow_handle(name, result_type=LandResult).result())
    said = ""
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while not end.done():
            line, expected = await _where(client, name)
            if console.is_terminal:
                live.update(Text(line + expected))
            elif line != said:
                console.print(line, markup=False, soft_wrap=True)
            said = line
            await asyncio.wait([end], timeout=POLL_SECONDS)
    try:
        result: LandResult = end.result()
        return result
    except WorkflowFailureError as error:
        raise CannotServe(str(getattr(error.cause, "message", error.cause))) from None


async def _where(client: Client, name: str) -> tuple[str, str]:
    """What changes seldom, and the estimate, which always does."""
    try:
        status: LandStatus = await client.get_workflow_handle(name).query("status", result_type=LandStatus)
        if not status.queue or status.result:
            return (status.result.outcome if status.result else "is sent in"), ""
        queue: QueueStatus = await client.get_workflow_handle(status.queue).query("queue", result_type=QueueStatus)
    except (RPCError, WorkflowQueryFailedError):
        return "waits for a worker", ""
    for number, place in enumerate(queue.places, 1):
        if place.op == status.op:
            why = f": {place.why}" if place.why else ""
            expected = "" if place.expected is None else f", in {span(max(place.expected - time.time(), 0.0))}"
            return f"{place.state}, place {number} of {len(queue.places)}{why}", expected
    return f"waits for {status.waiting_for}", ""
