"""`starter.py watch` and `status`: what operators see of many tasks, and the keys that move them on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from temporalio.client import Client, Interceptor, OutboundInterceptor
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.widgets import Static
from typer.testing import CliRunner

from console.glance import Cell, Seen, printable
from console.overview import Changes, Lookout, Overview, task_line
from console.rows import Column, Rows
from console.watch_app import Pages, WatchApp
from starter import app as commands
from tests.kit import Kit, status_when
from tests.test_starter import TOP
from workflows.contracts import QueueStatus, QuotaState, Stage
from workflows.glance import MEMO, Glance

MANY = 60
WRITE = {"write": {"a.txt": "x\n"}}


def task(name: str, **shown: Any) -> Seen:
    glance = Glance(**({"title": f"Title of {name}", "stage": "work", "repo": "/src/app", "agent": "codex"} | shown))
    return Seen(task_id=name, running=True, state="running", started=1_000.0, ended=None, glance=glance)


# --- what is shown ---------------------------------------------------------------------------------


def test_a_filter_is_words_of_any_of_its_columns() -> None:
    one, other = task("task-1", stage="blocked"), replace(task("land-2", repo="/src/web"), labels=("auth",))
    overview = Overview(at=2_000, tasks=[one, other])
    assert overview.of("") == [one, other]
    assert overview.of("APP blocked") == overview.of("codex task-1") == [one]
    assert overview.of("auth") == overview.of("web") == [other]
    assert overview.of("app auth") == []


def test_one_line_for_each_change_and_none_without() -> None:
    changes = Changes()
    queue = QueueStatus(repo="/src/app", target="refs/heads/main", p=0.1, waiting=2, landed=1)
    first = Overview(at=0, tasks=[task("task-1")], queues=[queue], quotas=[QuotaState(name="openai/default")])
    assert list(changes.lines(first, "")) == [
        "00:00:00 task-1: work, turn 0, $0.00",
        "00:00:00 queue main of app: open, 2 wait, 0 chains tested, 1 landed, 0 sent back",
        "00:00:00 quota openai/default: 0/∞ turns, 0 wait, open",
    ]
    assert list(changes.lines(replace(first, at=1), "")) == []
    blocked = task(
        "task-1", stage="blocked", blocked="gates red", why="test: exit 1", waiting_for="an operator", turns=3
    )
    assert list(changes.lines(replace(first, tasks=[blocked], at=61), "")) == [
        "00:01:01 task-1: blocked, turn 3, $0.00, gates red: test: exit 1"
    ]


def test_nothing_that_agents_wrote_is_obeyed_by_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\nc\x9b31m") == "a ]0;title b c 31m"
    assert "\x1b" not in task_line(task("x", waiting_for="\x1b[2J"))


class Table(App[None]):
    def compose(self) -> ComposeResult:
        yield Rows([Column("name"), Column("cost", right=True)], id="rows")


def rows(names: Sequence[str]) -> dict[str, Sequence[Cell]]:
    return {name: (Cell(name), Cell("$1.00")) for name in names}


async def test_the_cursor_stays_on_its_row_while_others_come_and_go() -> None:
    names = [f"task-{number:03d}" for number in range(200)]
    app = Table()
    async with app.run_test(size=(40, 20)) as pilot:
        table = app.query_one(Rows)
        table.focus()
        table.put(rows(names))
        await pilot.press("end", "up", "up")
        assert table.chosen == "task-197"
        assert 0 <= 197 - table.scroll_offset.y < 19  # it is on the screen
        table.put(rows(list(reversed(names))))
        assert (table.chosen, table.cursor) == ("task-197", 2)
        table.put(rows([name for name in names if name != "task-197"]))
        assert table.chosen == "task-002"  # it is gone: whoever is in its place
        table.put({})
        assert table.chosen is None
        await pilot.press("down")


async def test_what_is_too_long_is_cut_and_wide_letters_count_twice() -> None:
    app = Table()
    async with app.run_test(size=(20, 5)) as pilot:
        table = app.query_one(Rows)
        table.columns = [Column("name", most=6), Column("cost", right=True)]
        table.put({"a": (Cell("日本語日本語"), Cell("$1")), "b": (Cell("abcdefgh"), Cell("$1.50"))})
        await pilot.pause()
        lines = [table.render_line(number).text.rstrip() for number in range(3)]
    assert lines == ["name     cost", "日本 …     $1", "abcde…  $1.50"]


# --- on a real server ------------------------------------------------------------------------------


async def until(pilot: Pilot[None], wanted: Callable[[], bool]) -> None:
    for _ in range(600):
        if wanted():
            return
        await pilot.pause(0.1)
    raise AssertionError("never came")


@pytest.mark.long
async def test_the_keys_move_a_task_on(kit: Kit) -> None:
    agent = kit.agent(planner=[{"say": "The plan"}], executor=[{"say": "NEEDS_FOLLOWUP x"}] * 2 + [WRITE])
    only = f'TaskRepository="{kit.repo}"'
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, interactive=True, title="Do [red]it"))
        view = WatchApp(Lookout(kit.client, only), kit.home, every=0.2)

        def stage() -> str:
            return next((each.stage for each in view.overview.tasks if each.task_id == handle.id), "")

        def text(where: str) -> str:
            return str(view.screen.query_one(where, Static).render())

        async with view.run_test(size=(160, 40)) as pilot:
            await until(pilot, lambda: stage() == "awaiting approval")
            assert "tasks: 1, need a person: 1" in text("#headline")
            assert f"{handle.id}: Do [red]it" in text("#chosen")
            assert "approve_plan" in text("#chosen")
            await pilot.press("slash", *"nothing like it", "enter")
            assert view.chosen is None
            await pilot.press("slash", *["backspace"] * 20, "enter")
            await pilot.press("s", *"be quick", "enter")
            await until(pilot, lambda: "next turn" in view.said)
            await pilot.press("a")
            await until(pilot, lambda: isinstance(view.screen, Pages))
            assert "The plan" in text("VerticalScroll > Static")
            await pilot.press("y")
            await until(pilot, lambda: stage() == "blocked")
            await pilot.press("l")
            await until(pilot, lambda: isinstance(view.screen, Pages))
            assert "NEEDS_FOLLOWUP x" in text("VerticalScroll > Static")
            await pilot.press("q", "p")
            await until(pilot, lambda: view.overview.tasks[0].glance.paused)
            await pilot.press("p")
            await until(pilot, lambda: not view.overview.tasks[0].glance.paused)
            await pilot.press("c", *"go on", "enter")
            await until(pilot, lambda: stage() == "merged")
            assert any(queue.repo == str(kit.repo) for queue in view.overview.queues)
            await pilot.press("a")
            await until(pilot, lambda: "nothing waits for approval" in view.said)
            await pilot.press("q")


@pytest.mark.long
async def test_without_a_terminal_each_change_is_a_line(kit: Kit) -> None:
    agent = kit.agent(planner=[{"say": "The plan"}], executor=[WRITE])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, interactive=True))
        await status_when(handle, lambda now: now.stage is Stage.APPROVAL)
        address = kit.client.service_client.config.target_host
        watching = await asyncio.create_subprocess_exec(
            sys.executable,
            str(TOP / "starter.py"),
            "watch",
            "--filter",
            handle.id,
            env={**os.environ, "TEMPORAL_ADDRESS": address, "COLUMNS": "40"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert watching.stdout is not None
        lines = []
        while (line := (await asyncio.wait_for(watching.stdout.readline(), 60)).decode()) and "merged" not in line:
            lines.append(line)
            if "awaiting approval, turn 1" in line:
                await handle.execute_update("approve_plan")
        watching.send_signal(signal.SIGINT)
        assert b"Traceback" not in (await watching.communicate())[0]
    assert any(f"{handle.id}: awaiting approval, turn 1, $0.00, the approval of the plan" in said for said in lines)
    assert handle.id in line


async def told(kit: Kit, *arguments: str, code: int = 0) -> str:
    """What `starter.py` says, without the time that a process of its own takes to start."""
    environ = {"TEMPORAL_ADDRESS": kit.client.service_client.config.target_host}
    done = await asyncio.to_thread(CliRunner().invoke, commands, list(arguments), env=environ)
    assert done.exit_code == code, done.output
    return done.output


class Counted(Interceptor):
    """Counts what a client asks of the server."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        calls = self.calls

        class Outbound(OutboundInterceptor):
            def list_workflows(self, input: Any) -> Any:
                calls["list"] += 1
                return super().list_workflows(input)

            async def query_workflow(self, input: Any) -> Any:
                calls["query"] += 1
                return await super().query_workflow(input)

        return Outbound(next)


async def test_many_tasks_are_shown_by_one_list_and_asked_nothing(kit: Kit) -> None:
    """Nobody serves them, so one that was asked would not answer either."""
    prefix, counted = f"many-{uuid.uuid4().hex[:6]}", Counted()
    config = {**kit.client.config(), "interceptors": [counted]}
    client = Client(**config)
    memo = {MEMO: Glance(title="One of many", stage="work", cost_usd=0.5).model_dump(exclude_defaults=True)}
    names = [f"{prefix}-{number}" for number in range(MANY)]
    starts = (client.start_workflow("TaskWorkflow", {}, id=name, task_queue="nobody", memo=memo) for name in names)
    handles = await asyncio.gather(*starts)
    query = f'WorkflowId STARTS_WITH "{prefix}"'
    lookout = Lookout(client, query)
    lookout.query = lookout.query.partition(" OR (WorkflowType")[0]  # queues and quotas of other tests are asked
    for _ in range(300):
        counted.calls.clear()
        overview = await lookout.look()
        if len(overview.tasks) == MANY:
            break
        await asyncio.sleep(0.1)
    assert counted.calls == {"list": 1}
    assert {each.task_id for each in overview.of("one of many")} == set(names)
    assert f"tasks: {MANY}, need a person: 0, cost: ${MANY / 2:.2f}" in overview.headline()
    listed = json.loads(await told(kit, "status", "--json", "--query", query))
    assert [(one["title"], one["stage"], one["state"]) for one in listed] == [("One of many", "work", "running")] * MANY
    assert "One of many" in await told(kit, "list", "--query", f'{query} AND WorkflowId="{names[0]}"')
    await asyncio.gather(*(handle.terminate() for handle in handles))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("status", "--query", "TaskStage ="), 1, "invalid query"),
        (("status", "task-1", "--query", "x"), 2, "is for all tasks"),
        (("status", "--query", 'WorkflowId="no-such-task"'), 0, "no task runs; start one: starter.py start --help"),
        (("list", "--query", 'WorkflowId="no-such-task"'), 0, "there is none"),
    ],
)
async def test_what_cannot_be_shown_is_said_in_a_line(
    kit: Kit, arguments: tuple[str, ...], code: int, said: str
) -> None:
    assert said in await told(kit, *arguments, code=code)
