"""The operator's door: start tasks, watch them, move them on, and get saved work back."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
import uuid
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError

os.environ["GIT_PYTHON_REFRESH"] = "quiet"  # a host without git is told so by `doctor`, not by a traceback
from activities.contracts import CleanedUp
from activities.home import Home, default_home
from activities.plain import plain
from console import clean as cleaning
from console import doctor as check
from console import (
    glance,
    inputs,
    notify_commands,
    queue_commands,
    report_commands,
    salvage_commands,
    schedule_commands,
    swarm_commands,
    task_commands,
    watch,
)
from console.codec_server import UI, CodecServer
from console.costs import By, Spent, cost_table, spendings
from console.costs import as_json as costs_as_json
from console.demo import demo as run_demo
from console.door import Address, Namespace, TaskId, TaskQueue, connected, console, run
from console.drain import drain_worker
from console.follow import follow
from console.probe import probed
from console.quotas import handle_id as quota_handle_id
from console.quotas import quota_table
from console.quotas import quotas as all_quotas
from console.turn_log import Wanted, show
from service import connect as temporal
from service.codec import BadKey, codec
from service.connect import TASK_QUEUE
from service.devserver import CannotServe
from service.leave import run_and_leave
from workflows.contracts import LandResult, QuotaState, TaskResult

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(salvage_commands.app, name="salvage")
app.add_typer(queue_commands.app, name="queue")
app.add_typer(schedule_commands.app, name="schedule")
app.command()(queue_commands.land)
app.command()(glance.status)
app.command("list")(glance.list_tasks)
app.command()(watch.watch)
app.command()(notify_commands.notify)
app.command()(report_commands.report)
app.command()(report_commands.forecast)


@app.callback()
def connection(
    profile: temporal.Profile = None,
    api_key: temporal.ApiKey = None,
    tls: temporal.Tls = None,
    tls_ca_path: temporal.TlsCaPath = None,
    tls_cert_path: temporal.TlsCertPath = None,
    tls_key_path: temporal.TlsKeyPath = None,
    tls_server_name: temporal.TlsServerName = None,
) -> None:
    """The operator's door: start tasks, watch them, move them on, and get saved work back."""
    temporal.use(profile, api_key, tls, tls_ca_path, tls_cert_path, tls_key_path, tls_server_name)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave server and worker running to look around.")] = False,
) -> None:
    """Take eight tasks through a small repository with scripted agents. Needs no key. Example: starter.py demo"""
    if not run(run_demo(console, keep)):
        raise typer.Exit(1)


@app.command()
def doctor(
    runtime: Annotated[list[str] | None, typer.Option(help="Of these only; may be repeated (default: all).")] = None,
    model: Annotated[str | None, typer.Option(help="Ask this model; needs one --runtime.")] = None,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Ask each agent; or not, which is free.")] = True,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for an answer.")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
    home: Annotated[Path | None, typer.Option(help="Data folder (default: MERGEWRIGHT_HOME, or the user's).")] = None,
    task_queue: TaskQueue = TASK_QUEUE,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Check this host, Temporal and the agent CLIs, each with one short turn. Example: starter.py doctor --no-probe"""
    names = list(dict.fromkeys(runtime or probed()))
    if unknown := next((name for name in names if name not in probed()), None):
        raise typer.BadParameter(f"{unknown!r} is not one of {', '.join(probed())}", param_hint="--runtime")
    if model and len(names) != 1:
        raise typer.BadParameter("models belong to one runtime: name it with --runtime", param_hint="--model")
    folder = (home or default_home()).resolve()
    asked = check.Asked(names, folder, task_queue, model, address, namespace, timeout if probe else None)
    if not run(check.doctor(asked, console, as_json)):
        raise typer.Exit(1)


@app.command()
def start(
    file: Annotated[Path | None, typer.Option("--file", "-f", help="TOML or JSON with the task's fields.")] = None,
    task_id: Annotated[str | None, typer.Option("--id", help="Workflow id (default: from the title).")] = None,
    repo: Annotated[Path | None, typer.Option(help="The repository (default: the one you are in).")] = None,
    template: Annotated[str | None, typer.Option(help="Of mergewright.toml on the target: fills in the rest.")] = None,
    title: Annotated[str | None, typer.Option(help="One line.")] = None,
    description: Annotated[str | None, typer.Option(help="What to do.")] = None,
    acceptance: Annotated[list[str] | None, typer.Option(help="How it is judged; may be repeated.")] = None,
    target: Annotated[str | None, typer.Option(help="Branch to land on.")] = None,
    agent: Annotated[str | None, typer.Option(help="runtime[:model[:reasoning]]")] = None,
    fallback: Annotated[list[str] | None, typer.Option(help="As --agent: who takes over; may be repeated.")] = None,
    reviewer: Annotated[list[str] | None, typer.Option(help="As --agent; may be repeated.")] = None,
    gate: Annotated[list[str] | None, typer.Option(help="name=command; may be repeated.")] = None,
    strategy: Annotated[str | None, typer.Option(help="merge, squash, rebase or ff-only")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Dollars that the task may cost.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="To name many tasks at once; may be repeated.")] = None,
    interactive: Annotated[bool, typer.Option("--interactive", help="A plan is approved before any code.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it, and do not follow it.")] = False,
    task_queue: TaskQueue = TASK_QUEUE,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Start a task and follow it.

    Example: starter.py start --title "Fix login redirect" --agent claude-code:sonnet --gate "test=make test"
    """
    flags: dict[str, Any] = {
        "repo": str(repo) if repo else None,
        "template": template,
        "title": title,
        "description": description,
        "acceptance": acceptance,
        "target": target,
        "agent": agent,
        "fallbacks": fallback,
        "reviewers": reviewer,
        "gates": [inputs.gate(text) for text in gate or []],
        "limits": {"max_cost_usd": max_cost} if max_cost is not None else None,
        "delivery": {"strategy": strategy} if strategy is not None else None,
        "interactive": interactive or None,
        "labels": label,
    }
    task = inputs.task_input(file, flags)
    summary = task.title or f"template {task.template}"
    name = task_id or f"{re.sub(r'[^a-z0-9]+', '-', summary.lower()).strip('-')[:40]}-{uuid.uuid4().hex[:6]}"

    async def go() -> TaskResult | str | None:
        client = await connected(address, namespace)
        try:
            await client.start_workflow(
                "TaskWorkflow", inputs.payload(task), id=name, task_queue=task_queue, static_summary=summary
            )
        except WorkflowAlreadyStartedError:
            raise CannotServe(f"a task {name} is running: choose another --id, or: starter.py status {name}") from None
        console.print(name)
        if console.is_terminal and (chances := await report_commands.chances(client, task)):
            typer.echo(chances, err=True)
        return None if detach else (await follow(client, [name], console))[name]

    finish(run(go()))


@app.command("follow")
def follow_task(task_id: TaskId, address: Address = None, namespace: Namespace = None) -> None:
    """Follow a task, a landing or a swarm to its end. Example: starter.py follow task-42"""

    async def go() -> TaskResult | LandResult | str | None:
        client = await connected(address, namespace)
        if await swarm_commands.is_swarm(client, task_id):
            return None
        if await queue_commands.is_landing(client, task_id):
            return await queue_commands.follow_landing(client, task_id)
        return (await follow(client, [task_id], console))[task_id]

    if (end := run(go())) is None:
        swarm_commands.follow_to_end(task_id, address, namespace)
    finish(end)


def finish(end: TaskResult | LandResult | str | None) -> None:
    if isinstance(end, LandResult):
        queue_commands.tell_end(end)
    elif isinstance(end, TaskResult):
        console.print_json(end.model_dump_json())
    elif end is not None:
        typer.echo(f"failed: {plain(end)}", err=True)
        raise typer.Exit(1)


@app.command("log")
def task_log(
    task_id: TaskId,
    turn: Annotated[int | None, typer.Option(help="This turn (default: a list of all, and the last).")] = None,
    prompt: Annotated[bool, typer.Option("--prompt", help="The whole prompt, not its beginning.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The agent's output as it is: stdout.log, stderr.log.")] = False,
    followed: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task has ended.")] = False,
    gates: Annotated[bool, typer.Option("--gates", help="The ends of the gates' logs, and no turn.")] = False,
    home: Annotated[Path | None, typer.Option(help="Data folder (default: MERGEWRIGHT_HOME, or the user's).")] = None,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """What an agent was told, said and did in a turn. Example: starter.py log task-42 --turn 3"""
    if gates and (followed or raw or prompt or turn is not None):
        raise typer.BadParameter("shows no turn: give it alone", param_hint="--gates")

    async def go() -> None:
        client: Client | None = None
        with contextlib.suppress(CannotServe):  # the folders are read without a server too
            client = await connected(address, namespace)
        wanted = Wanted(turn, raw, followed, prompt, gates)
        await show(client, Home((home or default_home()).resolve()), task_id, console, wanted)

    run(go())


@app.command("codec-server")
def codec_server(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8234,
    origin: Annotated[list[str] | None, typer.Option(help=f"Of the web UI; may be repeated (default: {UI}).")] = None,
) -> None:
    """Decrypt payloads for the web UI and the temporal CLI on this host. Example: starter.py codec-server"""
    try:
        server = CodecServer(port, origin or [UI], codec())
    except (BadKey, OSError) as problem:
        typer.echo(f"starter: {problem}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"http://127.0.0.1:{server.server_port} decrypts for {', '.join(server.origins)} and --codec-endpoint")
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


task_commands.add_to(app)
swarm_commands.add_to(app)
app.command("drain-worker")(drain_worker)


@app.command()
def costs(
    task_ids: Annotated[list[str] | None, typer.Argument(help="Tasks (default: the newest that are known).")] = None,
    by: Annotated[By, typer.Option(help="What the figures are added up by.")] = "task",
    since: Annotated[str, typer.Option(help="Turns of this day (UTC) and later, YYYY-MM-DD.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Tasks to look at.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """What tasks have cost: money, tokens, time, attempts. Example: starter.py costs --by model"""
    try:
        first = date.fromisoformat(since).isoformat() if since else ""
    except ValueError:
        raise typer.BadParameter(f"{since!r} is no day: give YYYY-MM-DD", param_hint="--since") from None

    async def go() -> tuple[list[Spent], list[str]]:
        return await spendings(await connected(address, namespace), task_ids or None, limit)

    spent, silent = run(go())
    spent = [each for each in spent if each.day >= first]
    if as_json:
        console.print_json(json.dumps(costs_as_json(spent, by)))
    else:
        console.print(cost_table(spent, by) if spent else "no turns yet")
    if silent:
        names = ", ".join(silent[:5]) + (" …" if len(silent) > 5 else "")
        typer.echo(f"{len(silent)} tasks did not answer, is a worker running? {names}", err=True)


@app.command()
def quotas(address: Address = None, namespace: Namespace = None) -> None:
    """The accounts: turns at once, who waits, until when one is parked and why. Example: starter.py quotas"""

    async def go() -> list[QuotaState]:
        return await all_quotas(await connected(address, namespace))

    found = run(go())
    console.print(quota_table(found, time.time()) if found else "no account is in use")


@app.command()
def quota(
    account: Annotated[str, typer.Argument(help="As `quotas` shows it.")],
    wake: Annotated[bool, typer.Option("--wake", help="End the wait now; one turn goes first.")] = False,
    hold: Annotated[bool, typer.Option("--hold", help="Grant no turn until released.")] = False,
    release: Annotated[bool, typer.Option("--release", help="Go on after a hold.")] = False,
    slots: Annotated[int | None, typer.Option(help="Turns at once.")] = None,
    task_queue: TaskQueue = TASK_QUEUE,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Show an account's quota, or change it. Example: starter.py quota anthropic --slots 4"""
    verbs: list[tuple[str, list[Any]]] = [
        (name, []) for name, wanted in (("hold", hold), ("release", release), ("wake", wake)) if wanted
    ]
    verbs += [("set_slots", [slots])] if slots is not None else []

    async def go() -> QuotaState:
        handle = (await connected(address, namespace)).get_workflow_handle(quota_handle_id(account, task_queue))
        for name, arguments in verbs:
            console.print(str(await handle.execute_update(name, args=arguments)))
        found: QuotaState = await handle.query("quota", result_type=QuotaState)
        return found

    state = run(go())
    if not verbs:
        console.print_json(state.model_dump_json())


@app.command()
def plan(task_id: TaskId, address: Address = None, namespace: Namespace = None) -> None:
    """Show a task's plan and its hash. Example: starter.py plan task-42"""

    async def go() -> str:
        return str(await (await connected(address, namespace)).get_workflow_handle(task_id).query("plan"))

    console.print(run(go()) or "there is no plan yet", markup=False)


@app.command()
def clean(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    over: Annotated[
        list[str] | None, typer.Option(help="A task that the server has forgotten; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    home: Annotated[Path | None, typer.Option(help="Data folder (default: MERGEWRIGHT_HOME, or the user's).")] = None,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Remove at once what is saved, over and old enough, as the janitor does. Example: starter.py clean --dry-run"""

    async def go() -> CleanedUp:
        client = await connected(address, namespace)
        return await cleaning.clean(client, (home or default_home()).resolve(), dry_run, over or ())

    done = run(go())
    if as_json:
        console.print_json(done.model_dump_json())
    else:
        cleaning.tell(done, console)


if __name__ == "__main__":
    # Standard output is for the answer, which may be JSON.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    run_and_leave(app)
