"""The board on the target, for people and for later swarms: `tasks/`, written by commits through the merge queue."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import FailureError
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from activities.queue_contracts import LandRequest
    from activities.swarm.contracts import Mirrored, MirrorInput
    from activities.swarm.swarm import SwarmActivities
    from workflows import options
    from workflows.contracts import LandResult
    from workflows.policy.mirror import folders
    from workflows.swarm_cycles import SwarmCycles

EVERY = timedelta(minutes=1)
"""At most: a commit of the board. After one that did not land: twice as long each time."""
MAX_PAUSE = timedelta(hours=1)
LAST_WITHIN = timedelta(minutes=5)
"""What the end of a swarm waits for the last one, which may land later still."""
LAST_AGAIN = timedelta(seconds=10)


class SwarmMirror(SwarmCycles):
    def __init__(self) -> None:
        super().__init__()
        self.mirroring: asyncio.Task[None] | None = None
        """It goes through the merge queue, and may wait there: beside everything else."""
        self.writes_last = False
        """What is being written is the last board."""

    def mirror(self) -> None:
        """Begin to write the board, if that is due."""
        if self.mirroring is not None and self.mirroring.done():
            self.mirroring = None
        due = self.mirror_at()
        if due is not None and due <= workflow.time():
            self.mirroring = asyncio.create_task(self._write_mirror(over=False))

    def mirror_at(self) -> float | None:
        """When the board is to be written next; None: it need not, or is being."""
        return self.s.mirror_at if self.settings.mirror and self.mirror_due and self.mirroring is None else None

    async def last_mirror(self) -> None:
        """What is not complete is pending again. Not waited for without end."""
        if not self.settings.mirror:
            return
        self.mirror_due = True
        writing = asyncio.create_task(self._write_last())
        try:
            await workflow.wait_condition(writing.done, timeout=LAST_WITHIN, timeout_summary="writes the last board")
        except TimeoutError:
            writing.cancel()
            self.problem("the last board is not in tasks/ yet, and is waited for no longer: see the merge queue")

    def lands_later(self) -> bool:
        """The merge queue may have the last board still; an older one is not to land after the end."""
        return self.writes_last and self.mirroring is not None and not self.mirroring.done()

    async def _write_last(self) -> None:
        if self.mirroring is not None:
            await workflow.wait_condition(self.mirroring.done)
        while self.mirror_due:
            self.writes_last = True
            self.mirroring = asyncio.create_task(self._write_mirror(over=True))
            await workflow.wait_condition(self.mirroring.done)
            if self.s.mirror_errors:
                await workflow.sleep(LAST_AGAIN * 2 ** min(self.s.mirror_errors - 1, 9))

    async def _write_mirror(self, over: bool) -> None:
        self.mirror_due = False
        self.put(mirrored=self.s.mirrored + 1)
        began, pause = workflow.time(), EVERY.total_seconds()
        try:
            made = await self._as_commit(over)
            why = await self._landed(made) if made.branch else ""
        except FailureError as error:  # of the activity, or of the child: no input of ours should
            made, why = Mirrored(), options.retried(error)
        self.mirror_due = self.mirror_due or bool(why) or made.more
        errors = self.s.mirror_errors + 1 if why else 0
        if why:
            self.problem(f"the board is not in tasks/, and is tried again: {why}"[:500])
            pause = min(pause * 2**errors, MAX_PAUSE.total_seconds())
        self.put(mirror_errors=errors, mirror_at=began + pause)
        self.wake()

    async def _as_commit(self, over: bool) -> Mirrored:
        items = self.board.items
        given = MirrorInput(
            ref=self.opened.ref,
            places=folders(self.board, over),
            holders={name: item.worker for name, item in items.items() if item.holder},
            done_by={name: item.worker for name, item in items.items() if item.place == "complete"},
            number=self.s.mirrored,
        )
        where = options.queue_options(workflow.info().task_queue, self.opened.host)
        return await workflow.execute_activity_method(
            SwarmActivities.mirror, given, summary="write the board to tasks/", **where
        )

    async def _landed(self, made: Mirrored) -> str:
        """Why it did not. What a swarm that ends leaves in the queue lands without it."""
        ref = self.opened.ref
        title, short = f"Board of {ref.swarm_id}", ref.target.removeprefix("refs/heads/")
        request = LandRequest(repo=ref.repo, branch=made.branch, target=short, title=title, strategy="squash", gates=[])
        landed = await workflow.execute_child_workflow(
            "LandWorkflow",
            request,
            id=f"{ref.swarm_id}-board-{self.s.mirrored}",
            result_type=LandResult,
            parent_close_policy=ParentClosePolicy.ABANDON,
            cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
            static_summary=title,
        )
        return "" if landed.outcome in ("merged", "no-changes") else f"{landed.outcome}: {landed.reason}"
