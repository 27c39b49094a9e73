"""What a task has its operators told, wherever they are. Nothing waits for it but the task's end, and nothing fails
with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from datetime import UTC, datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.contracts import TASK_QUEUE, Notice, NoticeEvent, Prepared
    from activities.home import safe_name
    from activities.notify import NotifyActivities
    from workflows import options
    from workflows.contracts import LeaseNote, Stage
    from workflows.leases import Leases

LAST_WORDS = timedelta(seconds=10)
"""For what is still to be sent when the task has ended: so long its result may wait for a service that is away."""
PLAN = 600
"""Characters of a plan that travel; the query `plan` has all of it."""
LONG_LIMIT = 300.0
"""Seconds: a shorter one is over before anybody has looked."""


class Notices(Leases):
    """A part of the task's workflow. The words are made here; who gets them, and how, is the activity's affair."""

    prepared: Prepared | None
    title: str
    waiting_for: str
    stage: Stage

    def __init__(self) -> None:
        super().__init__()
        self._outgoing: set[asyncio.Task[None]] = set()
        self._told: Counter[NoticeEvent] = Counter()
        self._warned: set[tuple[str, float]] = set()

    def notify(self, event: NoticeEvent, text: str, command: str = "", about: str = "") -> None:
        """Tell it, if the configuration wants it told. `about`: what comes by again and is to be told once."""
        self._told[event] += 1
        name = f"{event}-{safe_name(about) if about else self._told[event]}"
        if self.prepared is not None:
            self._send_later(Notice(event=event, id=name, run=self.prepared.ref.key, text=text, command=command))

    async def notices_sent(self) -> None:
        """Bounded; whoever cancels the task now cancels only this wait, for all else is done."""
        if self._outgoing:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                await workflow.wait_condition(lambda: not self._outgoing, timeout=LAST_WORDS)

    def _send_later(self, notice: Notice) -> None:
        if self.prepared is None or notice.event not in self.prepared.notify:
            return
        title = notice.title or self.title
        of_task = {"repo": self.prepared.ref.repo, "task_id": workflow.info().workflow_id, "title": title}
        sending = asyncio.create_task(self._send_notice(notice.model_copy(update=of_task), self.prepared.host))
        self._outgoing.add(sending)
        sending.add_done_callback(self._outgoing.discard)

    async def _send_notice(self, notice: Notice, host: str) -> None:
        where = options.notify_options(workflow.info().task_queue, host)
        try:
            await workflow.execute_activity_method(
                NotifyActivities.notify, notice, summary=f"tell operators: {notice.event}", **where
            )
        except ActivityError as error:
            workflow.logger.warning("operators were not told: %s", options.retried(error))

    # --- what is told, and when ----------------------------------------------------------------------

    def notify_stage(self) -> None:
        """Of a stage that waits for a person, or of the end."""
        if self.prepared is None or not self.prepared.notify:
            return
        now = self.current_status()
        if now.blocked is not None and now.stage is Stage.BLOCKED:
            self.notify("blocked", f"{now.blocked.reason}: {now.blocked.text}", now.next_command)
        elif now.stage is Stage.APPROVAL:
            self.notify("approval", f"waits for {now.waiting_for}\n\n{now.plan[:PLAN]}".rstrip(), now.next_command)
        elif now.stage is Stage.QUESTION:
            self.notify("question", now.question, now.next_command)
        elif now.outcome == "merged":
            cost = f"{now.turns} turns, ${now.cost_usd:.2f}"
            self.notify("merged", f"landed as {now.sha}; {cost}", f"git show {now.sha}")
        elif now.outcome == "failed":
            saved = f"starter.py salvage show {now.task_id}" if now.salvage_ref else ""
            self.notify("failed", now.reason, saved)

    def notify_leave(self, op: str, text: str) -> None:
        """The merge queue holds it for an operator's leave."""
        prepared = self.prepared
        repo = prepared.ref.repo if prepared else "."
        command = f"starter.py queue allow {workflow.info().workflow_id} --repo {repo}{_of_this_queue()}"
        self.notify("approval", f"waits for {text}", command, about=op)

    def notify_budget(self, nearly_used: dict[tuple[str, float], str]) -> None:
        """Once for each cap."""
        news = {key: text for key, text in nearly_used.items() if key not in self._warned}
        self._warned |= news.keys()
        flags = {"max_cost_usd": "--cost", "max_tokens": "--tokens", "max_agent_minutes": "--minutes"}
        for (field, cap), text in news.items():
            raised = f"starter.py raise-budget {workflow.info().workflow_id} {flags[field]} {2 * cap:.15g}"
            self.notify("budget", text, raised)

    def notify_limit(self, text: str, seconds: float) -> None:
        """Of an agent that shares its limits with nobody."""
        if seconds >= LONG_LIMIT:
            self.notify("limit", text)

    def notify_account(self, note: LeaseNote) -> None:
        """All tasks that wait for an account know the same: the first of them on each host tells it."""
        if not note.trouble or note.until is None or note.until - workflow.time() < LONG_LIMIT:
            return
        self._send_later(
            Notice(
                event="limit",
                id=f"limit-{safe_name(note.quota)}-{note.trouble}",
                title=note.quota,
                text=f"{note.text}, until {datetime.fromtimestamp(note.until, UTC):%Y-%m-%d %H:%M} UTC",
                command=f"starter.py quota {note.quota} --wake{_of_this_queue()}",
            )
        )


def _of_this_queue() -> str:
    """Quotas and merge queues of workers with another task queue have other names."""
    name = workflow.info().task_queue
    return "" if name == TASK_QUEUE else f" --task-queue {name}"
