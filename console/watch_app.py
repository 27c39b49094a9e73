"""The live view of `starter.py watch`: a table, and the operator's keys."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Protocol

from rich.console import Console
from rich.text import Text
from temporalio.client import Client, WorkflowQueryFailedError, WorkflowUpdateFailedError
from temporalio.service import RPCError
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Static

from activities.home import Home
from console.glance import COLUMNS, Seen, cells, printable
from console.overview import Overview, others
from console.rows import Column, Rows
from console.steering import refusal
from console.turn_log import NoLog, Wanted, show
from service.codec import Undecodable

LOG_LINES = 2_000
MOST = {"task": 40, "title": 40, "agent": 24}
COLUMN = [Column(name, name in ("for", "turns", "cost"), MOST.get(name, 200)) for name in COLUMNS]
_APPROVAL = re.compile(r"--name (approve\w*)(?: --input '([^']*)')?")
_HASH = re.compile(r"^hash: (\w+)$", re.MULTILINE)


class Looks(Protocol):
    """Where the view gets what it shows, and the client for what the operator does."""

    client: Client

    async def look(self) -> Overview: ...


class Pages(ModalScreen[bool]):
    """A text to read; with a question, it is answered by y or n."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,n", "answer(False)", "back"),
        Binding("y", "answer(True)", "yes"),
    ]

    def __init__(self, text: str, question: str = "") -> None:
        super().__init__()
        self.text, self.question = text, question

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(Text(self.text))
        yield Static(Text(f"{self.question} (y/n)" if self.question else "q: back"), classes="question")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes and bool(self.question))


class WatchApp(App[None]):
    CSS = """
    #headline { height: 1; background: $panel; }
    #tasks { height: 1fr; overflow-x: hidden; }
    #chosen { height: auto; max-height: 5; border-top: solid $panel; }
    #others { height: auto; max-height: 8; border-top: solid $panel; }
    #ask { display: none; border: none; border-top: solid $accent; height: 2; }
    Pages { background: $surface; }
    Pages .question { height: 1; background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "approve", "approve"),
        Binding("s", "say", "say"),
        Binding("p", "pause", "pause/resume"),
        Binding("c", "continue", "continue"),
        Binding("l", "log", "log"),
        Binding("slash", "filter", "filter"),
        Binding("escape", "leave", show=False),
        Binding("q", "quit", "quit"),
    ]
    TITLE = "mergewright"
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, lookout: Looks, home: Home, every: float, words: str = "") -> None:
        super().__init__()
        self.lookout, self.home, self.every, self.words = lookout, home, every, words
        self.overview = Overview(at=0)
        self.answered: Callable[[str], Awaitable[None]] | None = None
        """Who gets the line that is being typed."""
        self.said = ""

    def compose(self) -> ComposeResult:
        yield Static(id="headline", markup=False)
        yield Rows(COLUMN, id="tasks")
        yield Static(id="chosen", markup=False)
        yield Static(id="others", markup=False)
        yield Input(id="ask")
        yield Footer()

    def on_mount(self) -> None:
        self.table.focus()
        self.set_interval(self.every, self._look)
        self._look()

    @property
    def table(self) -> Rows:
        return self.query_one("#tasks", Rows)

    # --- what is shown ---------------------------------------------------------------------------------

    def _look(self) -> None:
        # Not a second one while the first is waited for.
        if not any(worker.name == "look" and not worker.is_finished for worker in self.workers):
            self.run_worker(self._look_now(), name="look", exit_on_error=True)

    async def _look_now(self) -> None:
        try:
            self.draw(await self.lookout.look())
        except RPCError as error:
            self._tell(f"no answer, looks again: {error.message}")

    def draw(self, overview: Overview) -> None:
        self.overview = overview
        self.table.put({task.task_id: cells(task, overview.at) for task in overview.of(self.words)})
        words = f"  filter: {self.words}" if self.words else ""
        self._put("#headline", Text(f"{overview.headline()}{words}  {self.said}", no_wrap=True))
        self._put("#others", others(overview))
        self._show_chosen()

    def _put(self, where: str, what: Any) -> None:
        self.query_one(where, Static).update(what)

    @property
    def chosen(self) -> Seen | None:
        return next((task for task in self.overview.tasks if task.task_id == self.table.chosen), None)

    def on_rows_moved(self) -> None:
        self._show_chosen()

    def _show_chosen(self) -> None:
        task = self.chosen
        if task is None:
            self._put("#chosen", "")
            return
        seen = task.glance
        lines = [f"{task.task_id}: {seen.title}", task.about, seen.next_command, " ".join(task.labels)]
        self._put("#chosen", Text("\n".join(printable(line) for line in lines if line)))

    def _tell(self, text: str) -> None:
        self.said = printable(text)
        self.notify(Text(self.said).markup, timeout=8)

    # --- what the operator does ------------------------------------------------------------------------

    async def _send(self, task_id: str, verb: str, *arguments: Any) -> None:
        handle = self.lookout.client.get_workflow_handle(task_id)
        try:
            said = str(await handle.execute_update(verb, args=arguments))
        except WorkflowUpdateFailedError as error:
            said = refusal(error)
        except (RPCError, Undecodable) as error:
            said = str(error)
        self._tell(f"{task_id}: {said}")
        self._look()

    def _ask(self, prompt: str, answered: Callable[[str], Awaitable[None]], text: str = "") -> None:
        self.answered = answered
        ask = self.query_one("#ask", Input)
        ask.placeholder, ask.value, ask.display = prompt, text, True
        ask.focus()

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        answered = self.answered
        self.action_leave()
        if answered is not None:
            await answered(event.value)

    def action_leave(self) -> None:
        self.answered = None
        self.query_one("#ask", Input).display = False
        self.table.focus()

    def action_filter(self) -> None:
        async def narrow(words: str) -> None:
            self.words = words
            self.draw(self.overview)

        self._ask("words of the id, title, repository, stage, agent or label; none: all", narrow, self.words)

    def action_say(self) -> None:
        self._ask_and_send("send_message", "to the agent of {}, at its next turn", must=True)

    def action_continue(self) -> None:
        self._ask_and_send("continue_task", "{} goes on; a word to its agent, or none")

    def _ask_and_send(self, verb: str, prompt: str, must: bool = False) -> None:
        if (task := self.chosen) is None:
            return

        async def send(text: str) -> None:
            if text.strip() or not must:
                self.run_worker(self._send(task.task_id, verb, *([text] if text.strip() else [])))

        self._ask(prompt.format(task.task_id), send)

    def action_pause(self) -> None:
        if (task := self.chosen) is not None:
            self.run_worker(self._send(task.task_id, "resume" if task.glance.paused else "pause"))

    def action_approve(self) -> None:
        """After a look at what is approved, and nothing but that: it is sent with its hash."""
        if (task := self.chosen) is not None:
            self.run_worker(self._approve(task))

    async def _approve(self, task: Seen) -> None:
        wanted = _APPROVAL.search(task.glance.next_command)
        if wanted is None:
            self._tell(f"{task.task_id}: nothing waits for approval")
            return
        verb, given = wanted[1], [json.loads(wanted[2])] if wanted[2] else []
        text = task.about
        if verb == "approve_plan":
            try:
                text = str(await self.lookout.client.get_workflow_handle(task.task_id).query("plan"))
            except (RPCError, WorkflowQueryFailedError, Undecodable) as error:
                self._tell(f"{task.task_id}: {error}")
                return
            found = _HASH.findall(text)
            given = found[-1:] or given
        if await self.push_screen_wait(Pages(_clean(text), f"approve {task.task_id}?")):
            await self._send(task.task_id, verb, *given)

    def action_log(self) -> None:
        if (task := self.chosen) is not None:
            self.run_worker(self._show_log(task.task_id))

    async def _show_log(self, task_id: str) -> None:
        out = io.StringIO()
        try:
            await show(self.lookout.client, self.home, task_id, Console(file=out, width=self.size.width - 2), Wanted())
        except NoLog as problem:
            self._tell(str(problem))
            return
        lines = out.getvalue().splitlines()
        await self.push_screen_wait(Pages(_clean("\n".join(lines[-LOG_LINES:]))))


def _clean(text: str) -> str:
    return "\n".join(printable(line) for line in text.splitlines())
