"""The operator's verbs as commands of `starter.py`: for one task, or with --query, --repo or --all for many at once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from console.again import continue_ended
from console.door import Address, Namespace, TaskId, connected, console, run
from console.steering import Addressee, Chosen, Gone, answer_table, chosen, send, send_all
from workflows.contracts import TaskStatus
from workflows.policy.commands import PRIORITIES, Verb

app = typer.Typer()

SHOWN = 10
DESTRUCTIVE = ("cancel", "abandon")

MaybeTask = Annotated[str | None, typer.Argument(metavar="[TASK]", help="Workflow id of the task; not with --query.")]
Text = Annotated[str | None, typer.Argument(metavar="[TEXT]", help="For the agent.")]
Query = Annotated[str | None, typer.Option(help="All running tasks that a visibility query finds.")]
OfRepo = Annotated[Path | None, typer.Option("--repo", help="All running tasks of this repository.")]
All = Annotated[bool, typer.Option("--all", help="All running tasks.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def _send(task: str, verb: Verb, given: Any, address: str | None, namespace: str | None) -> None:
    async def go() -> str:
        return await send(await connected(address, namespace), task, verb, [] if given is None else [given])

    console.print(run(go()), markup=False, soft_wrap=True)


def _steer(
    verb: Verb, task: str | None, given: Any, which: Chosen, yes: bool, address: str | None, namespace: str | None
) -> None:
    """One task or many; exit 1 when none has taken it."""
    if task is not None and which:
        raise typer.BadParameter(f"name either a task ({task!r}) or, with --query, --repo or --all, many")
    if task is None and not which:
        raise typer.BadParameter("name a task, or choose many with --query, --repo or --all")
    if task is not None:
        _send(task, verb, given, address, namespace)
        return
    found = run(_chosen(which, address, namespace))
    if not found:
        console.print("no running task is like that")
        return
    if verb in DESTRUCTIVE and not yes:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        named = ", ".join(each.task for each in found[:SHOWN])
        typer.confirm(f"{verb} {len(found)} tasks: {named}{more}?", abort=True)

    async def go() -> list[Any]:
        return await send_all(await connected(address, namespace), found, verb, [] if given is None else [given])

    answers = run(go())
    console.print(answer_table(answers))
    taken = sum(answer.taken for answer in answers)
    console.print(f"{taken} of {len(answers)} have taken it")
    if not taken:
        raise typer.Exit(1)


async def _chosen(which: Chosen, address: str | None, namespace: str | None) -> list[Addressee]:
    return await chosen(await connected(address, namespace), which)


def _plain(verb: Verb, command: str, help_text: str) -> None:
    def plain(
        task: MaybeTask = None,
        query: Query = None,
        repo: OfRepo = None,
        everything: All = False,
        yes: Yes = False,
        address: Address = None,
        namespace: Namespace = None,
    ) -> None:
        _steer(verb, task, None, Chosen(query, repo, everything), yes, address, namespace)

    example = f"Example: starter.py {command} task-42, or: starter.py {command} --query 'TaskStage=\"Working\"'"
    app.command(command, help=f"{help_text} {example}")(plain)


_plain("pause", "pause", "Stop before the next turn or stage; a swarm: with all that runs in it.")
_plain("resume", "resume", "Go on after a pause.")
_plain("cancel", "cancel", "End the task as cancelled; what did not land is saved.")
_plain("abandon", "abandon", "End the task as abandoned; what did not land is saved.")
_plain(
    "retry_stage", "retry-stage", "Begin anew what the task is at: gates again, a review again, a turn taken up again."
)
_plain("compact", "compact", "Summarise the session; the next turn starts a new one from it.")


def _told(verb: Verb, command: str, help_text: str, example: str, required: bool = True) -> None:
    def told(task_id: TaskId, text: str, address: Address = None, namespace: Namespace = None) -> None:
        _send(task_id, verb, text, address, namespace)

    def may_tell(task_id: TaskId, text: Text = None, address: Address = None, namespace: Namespace = None) -> None:
        _send(task_id, verb, text, address, namespace)

    made: Callable[..., None] = told if required else may_tell
    app.command(command, help=f'{help_text} Example: starter.py {command} task-42 "{example}"')(made)


_told("answer", "answer", "Answer what the agent has asked; it goes on with that.", "the second one")
_told("revise", "revise", "Send a plan, or work that waits for its landing, back to the agent.", "smaller steps")
_told("reject_plan", "reject", "Send the plan back with feedback; without, end the task.", "smaller steps", False)
_told("allow_files", "allow-files", "Let the work change more than its plan names.", "src/b.py docs/")


EVERYBODY = "@all"


@app.command()
def say(
    words: Annotated[list[str], typer.Argument(metavar=f"[TASK|{EVERYBODY}] TEXT", help="Whom, and what.")],
    now: Annotated[
        bool, typer.Option("--now", help="At once: the running turn is ended, and goes on with it.")
    ] = False,
    query: Query = None,
    repo: OfRepo = None,
    label: Annotated[list[str] | None, typer.Option(help="To those with this label; may be repeated.")] = None,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Tell the agent of a task something, at its next turn or now; or those of many tasks.

    Example: starter.py say task-42 "keep the public API" --now; starter.py say @all "main is frozen";
    starter.py say --label docs "British spelling"
    """
    *whom, text = words
    everybody = whom == [EVERYBODY]
    which = Chosen(query, repo, everybody, tuple(label or ()))
    if len(whom) > 1 or (not whom and not which):
        raise typer.BadParameter(
            f'say TASK "text", say {EVERYBODY} "text", or say --repo PATH "text": one task, or many, and one text',
            param_hint="say",
        )
    task = whom[0] if whom and not everybody else None
    _steer("send_message", task, {"text": text, "now": now}, which, True, address, namespace)


@app.command("continue")
def continue_task(
    task: MaybeTask = None,
    text: Text = None,
    query: Query = None,
    repo: OfRepo = None,
    everything: All = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Go on with a blocked task, or begin one again that has ended without landing, with a word to the agent.

    Example: starter.py continue task-42 "use the old parser", or: starter.py continue --all "the disk is free"
    """
    which = Chosen(query, repo, everything)
    if which and text is None:
        task, text = None, task
    if task is None or which:
        _steer("continue_task", task, text, which, True, address, namespace)
        return

    async def go() -> str:
        client = await connected(address, namespace)
        try:
            return await send(client, task, "continue_task", [] if text is None else [text])
        except Gone as gone:
            if not gone.ended:
                raise
        return await continue_ended(client, task, text or "")

    console.print(run(go()), markup=False, soft_wrap=True)


@app.command()
def approve(
    task_id: TaskId,
    what: Annotated[str | None, typer.Argument(metavar="[HASH]", help="Of the plan, or the commit to land.")] = None,
    yes: Yes = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Approve what is shown and nothing else: a plan, or the commit that is to land.

    Example: starter.py approve task-42
    """

    async def look() -> tuple[TaskStatus, str]:
        handle = (await connected(address, namespace)).get_workflow_handle(task_id)
        now: TaskStatus = await handle.query("status", result_type=TaskStatus)
        return now, _landing(now) if now.landing else str(await handle.query("plan"))

    now, shown = run(look())
    verb: Verb = "approve_landing" if now.landing else "approve_plan"
    if what is None:
        what = now.landing or now.plan_hash or None
        console.print(shown, markup=False, soft_wrap=True)
        if what and not yes and sys.stdin.isatty():
            typer.confirm("approve this?", abort=True)
    _send(task_id, verb, what, address, namespace)


def _landing(now: TaskStatus) -> str:
    unplanned = [f"not planned: {', '.join(now.unplanned)}"] if now.unplanned else []
    look = f"git -C {now.worktree} show --stat {now.landing}"
    return "\n".join(
        [f"{now.title}: {now.landing}", f"files: {', '.join(now.touched)}", *unplanned, f"look at it: {look}"]
    )


@app.command("switch-agent")
def switch_agent(
    task: Annotated[str, typer.Argument(metavar="[TASK] AGENT", help="Id of the task; not with --query.")],
    agent: Annotated[str | None, typer.Argument(metavar="", help="runtime[:model[:reasoning]]")] = None,
    query: Query = None,
    repo: OfRepo = None,
    everything: All = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Let another agent take the next turn, and all after it; a blocked task goes on with it.

    Example: starter.py switch-agent task-42 codex:gpt-5.5
    """
    one, given = _shifted(task, agent, Chosen(query, repo, everything), "an agent, codex:gpt-5.5")
    _steer("switch_agent", one, given, Chosen(query, repo, everything), True, address, namespace)


@app.command("set-priority")
def set_priority(
    task: Annotated[str, typer.Argument(metavar="[TASK] PRIORITY", help="Id of the task; not with --query.")],
    priority: Annotated[str | None, typer.Argument(metavar="", help="Higher lands sooner; 0 is usual.")] = None,
    query: Query = None,
    repo: OfRepo = None,
    everything: All = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Let a task land sooner, or later: in the merge queue now, or when it gets there.

    Example: starter.py set-priority task-42 10, or, below zero: starter.py set-priority task-42 -- -10
    """
    one, given = _shifted(task, priority, Chosen(query, repo, everything), "a priority, 10")
    try:
        number = int(given)
    except ValueError:
        number = PRIORITIES.stop
    if number not in PRIORITIES:
        raise typer.BadParameter(f"{given!r} is no whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}")
    _steer("set_priority", one, number, Chosen(query, repo, everything), True, address, namespace)


def _shifted(first: str, second: str | None, which: Chosen, what: str) -> tuple[str | None, str]:
    """Task and argument; where many are chosen there is only the argument."""
    if which and second is None:
        return None, first
    if second is None:
        raise typer.BadParameter(f"give the task and {what}")
    return first, second


@app.command("raise-budget")
def raise_budget(
    task: MaybeTask = None,
    cost: Annotated[float | None, typer.Option(help="New cap in dollars.")] = None,
    tokens: Annotated[int | None, typer.Option(help="New cap of input and output.")] = None,
    minutes: Annotated[float | None, typer.Option(help="New cap of agents' time.")] = None,
    query: Query = None,
    repo: OfRepo = None,
    everything: All = False,
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Raise a task's caps; it goes on in the same session. Example: starter.py raise-budget task-42 --cost 20"""
    caps = {"max_cost_usd": cost, "max_tokens": tokens, "max_agent_minutes": minutes}
    given = {name: cap for name, cap in caps.items() if cap is not None}
    _steer("raise_budget", task, given, Chosen(query, repo, everything), True, address, namespace)


@app.command()
def rewind(
    task_id: TaskId,
    turn: Annotated[int, typer.Option(help="Of an executor or fixer, as `log` lists them.")],
    address: Address = None,
    namespace: Namespace = None,
) -> None:
    """Put a paused or blocked task's worktree back to an earlier turn. Example: starter.py rewind task-42 --turn 3"""
    _send(task_id, "rewind", turn, address, namespace)


def add_to(other: typer.Typer) -> None:
    """As commands of its own, not in a group."""
    other.registered_commands += app.registered_commands
