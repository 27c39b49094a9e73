"""Activities whose worker died are given up at once, not after a minute of silence.

Every activity beats each 5 s with what it has to tell. Besides, a worker notes the task token of each activity that it
runs in a folder that it holds a lock on. The kernel drops the lock when the worker dies, however it dies; the next
worker of the same data folder then finds the tokens, fails those attempts, and Temporal starts them anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from temporalio import activity
from temporalio.client import AsyncActivityCancelledError, Client
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.home import Home
from activities.site import tracking

log = structlog.get_logger()

BEAT_SECONDS = 5.0
"""Cancellation arrives with a heartbeat, so this is also how long a cancelled agent goes on at most."""

BEATS = {"test_chain": 1.0}
"""Of gates that the merge queue stops when a result is not wanted any more: their slot is wanted at once."""

RETRY_SOON = timedelta(milliseconds=100)
DRAIN, DRAINING = "drain", "draining"
"""Files in a worker's folder, which go with the worker: somebody wants it, and it has begun."""


def live_workers(home: Home) -> list[Path]:
    """Folders of those that run, by their locks."""
    found = []
    for folder in home.workers.glob("[!.]*"):
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder / "lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(folder)
            finally:
                os.close(lock)
    return found


class Lifeline(Interceptor):
    """One for each worker process. `close` when it has stopped."""

    def __init__(self, home: Home) -> None:
        home.workers.mkdir(parents=True, exist_ok=True)
        self.folder = home.workers / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.running: set[asyncio.Task[Any]] = set()
        self.stopping = False
        # Made complete under another name: a folder without a held lock would look like a dead worker's.
        made = home.workers / f".{self.folder.name}"
        made.mkdir()
        self._lock = os.open(made / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        made.rename(self.folder)

    async def end_after(self, grace: timedelta) -> None:
        """What has not ended by then is ended, and what begins still is refused: the next worker does it."""
        await asyncio.sleep(grace.total_seconds())
        self.stopping = True
        for task in self.running:
            task.cancel()

    @property
    def drains(self) -> bool:
        """Somebody wants the worker to end when what runs has ended."""
        return (self.folder / DRAIN).exists()

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Beating(next, self)


class _Beating(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, worker: Lifeline) -> None:
        super().__init__(next)
        self.worker = worker

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        told = tracking()
        if self.worker.stopping:
            raise _worker_stops()
        noted = self.worker.folder / f"{uuid.uuid4().hex}.token"
        noted.write_bytes(activity.info().task_token)
        beating = asyncio.create_task(_beat(told))
        running = asyncio.current_task()
        assert running is not None
        self.worker.running.add(running)
        try:
            return await super().execute_activity(input)
        except asyncio.CancelledError:
            details = activity.cancellation_details()
            if (details is not None and not details.worker_shutdown) or not (details or self.worker.stopping):
                raise
            raise _worker_stops() from None
        finally:
            self.worker.running.discard(running)
            beating.cancel()
            noted.unlink(missing_ok=True)


def _worker_stops() -> ApplicationError:
    return ApplicationError("the worker stops", type="WorkerShutdown", next_retry_delay=RETRY_SOON)


async def _beat(told: dict[str, Any]) -> None:
    pause = BEATS.get(activity.info().activity_type, BEAT_SECONDS)
    while True:
        activity.heartbeat(told)
        # Soon at first, so that the session is known early; then steadily.
        await asyncio.sleep(pause)


async def give_up_lost_activities(client: Client, home: Home) -> int:
    """Fail what dead workers of this data folder were running. Safe to run at any time, by several at once."""
    count = 0
    for folder in [path for path in home.workers.iterdir() if not path.name.startswith(".")]:
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            lock = os.open(folder / "lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for noted in folder.glob("*.token"):
                    count += await _give_up(client, noted)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
    if count:
        log.info("gave up what a dead worker was running", activities=count)
    return count


async def _give_up(client: Client, noted: Path) -> bool:
    handle = client.get_async_activity_handle(task_token=noted.read_bytes())
    try:
        # The next worker is there already, or we would not be: there is nothing to wait for.
        await handle.fail(ApplicationError("the worker died", type="WorkerLost", next_retry_delay=RETRY_SOON))
    except AsyncActivityCancelledError:
        await handle.report_cancellation()
    except RPCError as error:
        log.debug("that activity is over already", reason=str(error))
        return False
    return True
