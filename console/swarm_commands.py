"""The operator's commands for swarms: start and follow one, and see it and its board."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.text import Text
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import TerminatedError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from console import swarm_inputs, swarm_look
from console.door import Address, Namespace, TaskQueue, connected, console, run
from console.glance import AsJson
from console.swarm_look import SeenSwarm, the_swarm
from console.swarm_verbs import app as verbs
from console.swarm_verbs import shown
from console.swarm_view import SwarmChanges, board_view, is_done, line, result_view, status_view, swarms_view, told_of
from service.connect import TASK_QUEUE
from service.devserver import CannotServe
from workflows.swarm_contracts import Place, SwarmResult

POLL_SECONDS = 1.0

app = typer.Typer()

MaybeSwarm = Annotated[str | None, typer.Argument(metavar="[SWARM]", help="Its workflow id (default: the newest).")]


# --- start -----------------------------------------------------------------------------------------


@app.command()
def swarm(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="swarm.toml or oompa.json (default: the repository's, if there is one)."),
    ] = None,
    repo: Annotated[Path | None, typer.Option(help="The repository (default: the one you are in).")] = None,
    swarm_id: Annotated[str | None, typer.Option("--id", help="Workflow id (default: from the repository).")] = None,
    target: Annotated[str | None, typer.Option(help="Branch to land on.")] = None,
    spec: Annotated[str | None, typer.Option(help="The repository's file that says what is wanted.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Dollars that all its tasks may cost.")] = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Write the board to tasks/ on the target.")] = False,
    continues: Annotated[
        str | None, typer.Option("--continue", metavar="SWARM", help="Take up what this one, which is over, left open.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it, and do not follow it.")] = False,
    task_queue: TaskQueue = TASK_QUEUE,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Start a swarm and follow it: a spec or tasks go in, workers land them. Example: starter.py swarm oompa.json"""
    flags: dict[str, Any] = {
        "repo": str(repo) if repo else None,
        "target": target,
        "spec": spec,
        "max_cost_usd": max_cost,
        "mirror": mirror or None,
        "continues": continues,
    }

    before = run(_before(continues, address, namespace)) if continues else None
    given, notes = swarm_inputs.swarm_input(file, flags, before)
    for note in notes:
        typer.echo(f"note: {line(note)}", err=True)
    words = re.sub(r"[^a-z0-9]+", "-", Path(given.repo).name.lower()).strip("-")[:40]
    name = swarm_id or f"swarm-{words}-{uuid.uuid4().hex[:6]}"

    async def go() -> None:
        client = await connected(address, namespace)
        try:
            await client.start_workflow(
                "SwarmWorkflow",
                swarm_inputs.payload(given),
                id=name,
                task_queue=task_queue,
                static_summary=f"swarm of {Path(given.repo).name}",
            )
        except WorkflowAlreadyStartedError:
            raise CannotServe(f"a swarm {name} is running: choose another --id, or: starter.py view {name}") from None

    run(go())
    console.print(name, markup=False)
    if not detach:
        follow_to_end(name, address, namespace)


async def _before(swarm: str, address: str | None, namespace: str | None) -> dict[str, Any]:
    """The input of the one that is gone on with."""
    client = await connected(address, namespace)
    found = await the_swarm(client, swarm)
    if found.close_time is None:
        raise CannotServe(f"{swarm} still runs: `starter.py stop {swarm}` ends it")
    return await swarm_look.given(client, found)


# --- follow ----------------------------------------------------------------------------------------


def follow_to_end(swarm: str, address: str | None, namespace: str | None) -> None:
    """Shows it until it ends; exit 1 when tasks are left open, or it failed. Ctrl-C leaves it running."""

    async def go() -> SwarmResult:
        return await _follow(await connected(address, namespace), swarm)

    try:
        result = run(go())
    except KeyboardInterrupt:
        typer.echo(
            f"{swarm} goes on without you: starter.py follow {swarm}, or end it: starter.py stop {swarm}", err=True
        )
        raise typer.Exit(130) from None
    shown().print(result_view(swarm, result))
    if not is_done(result):
        raise typer.Exit(1)


async def _follow(client: Client, swarm: str) -> SwarmResult:
    """Raises CannotServe for one that did not end by itself."""
    handle = client.get_workflow_handle(swarm, result_type=SwarmResult)
    end = asyncio.create_task(_end(handle))
    changes, silent = SwarmChanges(), False
    with Live(console=console, refresh_per_second=4, transient=True, auto_refresh=console.is_terminal) as live:
        while not end.done():
            status = await swarm_look.status_of(client, swarm)
            if console.is_terminal:
                live.update(
                    status_view(status, time.time())
                    if status
                    else Text(f"{swarm} waits for a worker: does one run? starter.py doctor")
                )
            elif status is not None:
                for told in changes.lines(status):
                    console.print(told, markup=False, soft_wrap=True)
            elif not silent and not end.done():
                console.print(f"{swarm} waits for a worker: does one run? starter.py doctor", markup=False)
            silent = status is None
            await asyncio.wait([end], timeout=POLL_SECONDS)
    try:
        return end.result()
    except WorkflowFailureError as error:
        why = getattr(error.cause, "message", error.cause)
        if not isinstance(error.cause, TerminatedError):
            raise CannotServe(f"{swarm} failed: {why}") from None
        raise CannotServe(f"{swarm} was terminated; its tasks go on: starter.py requeue {swarm}") from None


async def _end(handle: WorkflowHandle[Any, SwarmResult]) -> SwarmResult:
    """A server that is away is waited for: the swarm goes on when it is back."""
    while True:
        try:
            return await handle.result()
        except RPCError as error:
            if error.status is not RPCStatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(POLL_SECONDS)


async def is_swarm(client: Client, name: str) -> bool:
    return (await client.get_workflow_handle(name).describe()).workflow_type == "SwarmWorkflow"


# --- see -------------------------------------------------------------------------------------------


@app.command()
def swarms(
    past: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """The swarms that run or have tasks that still do, and what waits for you. Example: starter.py swarms --all"""

    async def go() -> list[SeenSwarm]:
        return await swarm_look.swarms(await connected(address, namespace), past)

    found = run(go())
    if as_json:
        console.print_json(json.dumps([each.as_dict() for each in found]))
    elif found:
        shown().print(swarms_view(found, time.time()))
    else:
        console.print("there is no swarm" if past else "no swarm runs; start one: starter.py swarm --help")


@app.command()
def view(
    swarm: MaybeSwarm = None, as_json: AsJson = False, address: Address = None, namespace: Namespace = None
) -> None:
    """One swarm: its workers, its board in figures, what waits for you. Example: starter.py view swarm-app-1a2b3c"""

    async def go() -> SeenSwarm:
        client = await connected(address, namespace)
        return await _look(client, await the_swarm(client, swarm), with_cycles=True)

    found = run(go())
    if as_json:
        console.print_json(json.dumps(found.as_dict()))
        return
    if found.result is not None:
        shown().print(result_view(found.swarm_id, found.result))
    elif found.status is not None:
        shown().print(status_view(swarm_look.last_words(found), time.time()))
    else:
        shown().print(swarms_view([found], time.time()))
        return
    if not found.running:
        console.print("\n".join(told_of(found)), markup=False, soft_wrap=True)


async def _look(client: Client, execution: Any, with_cycles: bool = False) -> SeenSwarm:
    running = (await swarm_look.cycles(client)).get(execution.id, []) if with_cycles else []
    return await swarm_look.look(client, execution, running)


@app.command()
def tasks(
    swarm: MaybeSwarm = None,
    place: Annotated[Place | None, typer.Option(help="Only those that are there.")] = None,
    as_json: AsJson = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """The board of a swarm: what is where, who has it, what keeps it. Example: starter.py tasks --place blocked"""

    async def go() -> tuple[SeenSwarm, list[Any]]:
        client = await connected(address, namespace)
        found = await _look(client, await the_swarm(client, swarm))
        return found, await swarm_look.board(client, found, place)

    found, lines = run(go())
    if as_json:
        console.print_json(json.dumps([each.model_dump(mode="json") for each in lines]))
    elif lines:
        shown().print(board_view(lines, time.time()))
    else:
        console.print(f"{found.swarm_id} has no {f'{place} ' if place else ''}tasks", markup=False)


def add_to(other: typer.Typer) -> None:
    """As commands of its own, not in a group."""
    other.registered_commands += [*app.registered_commands, *verbs.registered_commands]
