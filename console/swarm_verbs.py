"""`starter.py add`, `workers`, `requeue`, `stop` and `cleanup`: what moves swarms on, and ends what is left of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from console import swarm_inputs, swarm_look
from console.door import Address, Namespace, connected, console, run
from console.glance import PIPE_WIDTH, RUNNING, Seen
from console.steering import Addressee, answer_table, send_all
from console.swarm_look import SeenSwarm, tell, the_swarm
from console.swarm_view import line
from console.terminal import Terminal
from service.devserver import CannotServe

app = typer.Typer()

Swarm = Annotated[str, typer.Argument(metavar="SWARM", help="Workflow id of the swarm.")]


def shown() -> Terminal:
    """Where tables go: nothing is cut where nobody looks at a terminal."""
    return console if console.is_terminal else Terminal(width=PIPE_WIDTH)


def _told(swarm: str, verb: str, *arguments: Any, address: str | None, namespace: str | None) -> None:
    async def go() -> str:
        client = await connected(address, namespace)
        found = await the_swarm(client, swarm)
        if found.close_time is not None:
            raise swarm_look.over(swarm)
        return await tell(client, swarm, verb, *arguments)

    console.print(run(go()), markup=False, soft_wrap=True)


@app.command()
def requeue(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SWARM [TASK …]]", help="The swarm (default: the one that runs); its tasks."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Put blocked tasks back on the board, all or some; or free what a dead swarm's tasks hold. Example: starter.py
    requeue swarm-app-1a2b3c fix-login"""
    swarm, ids = (words[0], words[1:]) if words else (None, [])

    async def go() -> SeenSwarm | str:
        client = await connected(address, namespace)
        found = await the_swarm(client, swarm, running=True)
        if found.close_time is None:
            return await tell(client, found.id, "requeue", *([ids] if ids else []))
        if ids:
            text = f"{found.id} is over: all that its tasks hold is freed, so name none of them"
            raise CannotServe(f"{text}; what is open, `starter.py swarm --continue {found.id}` takes up")
        return await swarm_look.look(client, found, (await swarm_look.cycles(client)).get(found.id, []))

    done = run(go())
    if isinstance(done, str):
        console.print(done, markup=False, soft_wrap=True)
        return
    if done.cycles:
        _abandon(done.cycles, yes, address, namespace)
    else:
        console.print(f"{done.swarm_id} is over, and none of its tasks runs: nothing is held", markup=False)
    console.print(f"go on: starter.py swarm --continue {done.swarm_id}", markup=False, soft_wrap=True)


def _abandon(cycles: Sequence[Seen], yes: bool, address: str | None, namespace: str | None) -> None:
    """Their work is saved by them. Exit 1 when none has taken it."""
    names = [cycle.task_id for cycle in cycles]
    if not yes:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        typer.confirm(f"abandon {len(names)} tasks ({', '.join(names[:10])}{more})? Their work is saved.", abort=True)

    to = [Addressee(cycle.task_id, cycle.task_queue) for cycle in cycles]

    async def go() -> list[Any]:
        return await send_all(await connected(address, namespace), to, "abandon", [])

    answers = run(go())
    shown().print(answer_table(answers))
    if not any(answer.taken for answer in answers):
        raise typer.Exit(1)


@app.command()
def cleanup(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be ended.")] = False,
    blocked: Annotated[bool, typer.Option("--blocked", help="Also those that wait for you.")] = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """End what still runs of swarms that are over; its work is saved. Example: starter.py cleanup --dry-run"""

    async def go() -> list[tuple[str, Seen]]:
        client = await connected(address, namespace)
        at = await swarm_look.cycles(client)
        alive = {each.id async for each in client.list_workflows(f"{swarm_look.SWARMS} AND {RUNNING}")}
        return [(swarm, cycle) for swarm, them in sorted(at.items()) if swarm not in alive for cycle in them]

    found = run(go())
    left = [] if blocked else [(swarm, cycle) for swarm, cycle in found if cycle.needs_a_person]
    ends = [(swarm, cycle) for swarm, cycle in found if (swarm, cycle) not in left]
    for swarm, cycle in left:
        what = line(cycle.glance.next_command) or f"starter.py continue {cycle.task_id}"
        console.print(f"{cycle.task_id} of {swarm} waits for you: {what}", markup=False, soft_wrap=True)
    if left:
        console.print(f"{len(left)} are left as they are; --blocked ends them too", markup=False)
    if dry_run:
        for swarm, cycle in ends:
            console.print(f"would abandon {cycle.task_id} of {swarm}: {line(cycle.stage)}", markup=False)
    elif ends:
        _abandon([cycle for _, cycle in ends], True, address, namespace)
    if not ends:
        console.print("nothing else runs of a swarm that is over" if left else "nothing runs of a swarm that is over")


@app.command()
def stop(
    swarm: Swarm,
    now: Annotated[bool, typer.Option("--now", help="End its tasks too; their work is saved.")] = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """End a swarm: no new tasks; it is over when those at work are. Example: starter.py stop swarm-app-1a2b3c"""
    _told(swarm, "stop", *(["now"] if now else []), address=address, namespace=namespace)


@app.command()
def workers(
    swarm: Swarm,
    added: Annotated[
        list[str] | None, typer.Option("--add", help="An agent, or JSON with a worker's fields; may be repeated.")
    ] = None,
    count: Annotated[list[str] | None, typer.Option(help="worker-1=3: so many of that kind; may be repeated.")] = None,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Change who works in a swarm.

    Example: starter.py workers swarm-app-1a2b3c --add codex:gpt-5.5 --add '{"agent": "gemini", "count": 2}', or
    --count worker-1=3
    """
    new = [swarm_inputs.worker(text).model_dump(mode="json", exclude_unset=True) for text in added or []]
    counts = [swarm_inputs.kind_and_count(text) for text in count or []]
    if not new and not counts:
        raise typer.BadParameter("give --add or --count; `starter.py view` shows who works", param_hint="workers")
    for verb, given in [("add_workers", spec) for spec in new] + [("set_count", each) for each in counts]:
        _told(swarm, verb, given, address=address, namespace=namespace)


@app.command()
def add(
    swarm: Swarm,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="A task file, a list of tasks, or issues as JSON (gh issue list --json)."
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="One line.")] = None,
    description: Annotated[str | None, typer.Option(help="What to do.")] = None,
    task_id: Annotated[str | None, typer.Option("--id", help="One word (default: from the title).")] = None,
    files: Annotated[list[str] | None, typer.Option("--file", help="What it will change; may be repeated.")] = None,
    acceptance: Annotated[list[str] | None, typer.Option("--accept", help="How it is judged; may be repeated.")] = None,
    priority: Annotated[int, typer.Option(min=-1000, max=1000, help="Higher is done sooner.")] = 0,
    after: Annotated[list[str] | None, typer.Option(help="Task that must be complete first; may be repeated.")] = None,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Put tasks on a swarm's board. Example: starter.py add swarm-app-1a2b3c --title "Fix the login redirect"

    Issues: gh issue list --json number,title,body,labels > issues.json; starter.py add swarm-app-1a2b3c issues.json
    """
    fields = {"id": task_id, "title": title, "description": description, "acceptance": acceptance, "files": files,
              "after": after, "priority": priority or None}  # fmt: skip
    cards, refused = swarm_inputs.cards(file, fields)
    for each in refused:
        typer.echo(f"not taken: {line(each.id)}: {line(each.why)}", err=True)
    for batch in swarm_inputs.batches(cards):
        _told(swarm, "add", batch, address=address, namespace=namespace)
    if not cards:
        raise typer.BadParameter("no task was taken from it", param_hint="FILE")
