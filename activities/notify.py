"""Tell operators, wherever they are, through the library apprise: at most once for each event and destination.

Before anything is sent the journal says so, and after it what came of it. Whoever comes later, after a kill or because
the task tries again, sends only what the library has reported as not sent: of the rest nobody knows whether it arrived.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from pathlib import Path
from typing import Literal

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.config import Destination, load
from activities.contracts import Notice, NoticeEvent, PrepareInput
from activities.git.locks import exclusive
from activities.home import Home, task_key
from activities.masking import MASKS
from activities.settings import Model, tail
from activities.site import Site, blocking, write_model

log = structlog.get_logger()

KEPT_SECONDS = 30 * 86_400
TEXT = 1_000
"""Characters: some services take no more than a few thousand, with all that is around it."""

_TITLES: dict[NoticeEvent, str] = {
    "approval": "wants your approval",
    "question": "asks you",
    "blocked": "is blocked",
    "budget": "has nearly used up its budget",
    "limit": "is limited",
    "merged": "has landed",
    "failed": "has failed",
    "digest": "the last day",
}


class Entry(Model):
    """The journal of one event and destination."""

    state: Literal["sending", "sent", "failed"]
    at: float
    said: str = ""


class NotifyActivities:
    def __init__(self, site: Site) -> None:
        self.site = site

    @activity.defn
    async def notify(self, notice: Notice) -> None:
        """To all destinations that want it. A second run sends only what was reported as not sent."""
        failed = await blocking(deliver, self.site.home, notice)
        if failed:
            raise ApplicationError(f"not told: {'; '.join(failed)}", type="NotTold")


def deliver(home: Home, notice: Notice) -> list[str]:
    """What came of it where it was not sent, a line for each such destination. Raises BadConfig."""
    wanted = [each for each in load(home.root).notify if each.wants(notice.event, notice.repo)]
    said = {each.url: deliver_to(home, each, notice) for each in wanted}
    for url, problem in said.items():
        if problem:
            log.warning("an operator was not told", destination=url, notice=notice.id, reason=problem)
    return [f"{url}: {problem}" for url, problem in said.items() if problem]


def never_prepared(given: PrepareInput, text: str, *, failed: bool) -> Notice:
    """Of a task that did not begin: its input is wrong, or its worktree cannot be made ready and it waits."""
    signal = f"temporal workflow signal -w {given.task_id} --name continue_task"
    repo = given.task.get("repo", "")
    return Notice(
        event="failed" if failed else "blocked",
        id=f"{task_key(given.task_id, given.run_id)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}",
        repo=str(Path(repo).resolve()) if repo else "",
        task_id=given.task_id,
        title=given.task.get("title") or given.task.get("template") or "",
        text=text,
        command="" if failed else signal,
    )


def told(home: Home, notice: Notice) -> None:
    """As `deliver`, and no more than logged when it does not work."""
    try:
        deliver(home, notice)
    except Exception as problem:
        log.warning("an operator was not told", notice=notice.id, reason=str(problem))


def deliver_to(home: Home, to: Destination, notice: Notice) -> str:
    """Empty when it was sent; else why not."""
    journal = home.notices(notice.run) / f"{notice.id}.{to.name}.json"
    if not notice.run:
        _forget_old(journal.parent)
    with exclusive(journal.with_suffix(".lock")):
        known = _read(journal)
        if known is not None and known.state != "failed":
            if known.state == "sending":
                log.warning("killed while an operator was told: not told again", notice=notice.id, destination=to.url)
            return ""
        write_model(journal, Entry(state="sending", at=time.time()))
        problem = send(to, *worded(notice))
        write_model(journal, Entry(state="failed" if problem else "sent", at=time.time(), said=problem))
    return problem


def _read(journal: Path) -> Entry | None:
    try:
        return Entry.model_validate_json(journal.read_bytes())
    except FileNotFoundError:
        return None


def _forget_old(folder: Path) -> None:
    """Journals that no run folder takes along when it goes."""
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - KEPT_SECONDS:
                path.unlink()


def worded(notice: Notice) -> tuple[str, str]:
    """Title and text. What travels leaves the host, so it is masked once more."""
    title = f"{notice.title or 'mergewright'}: {_TITLES[notice.event]}"
    lines = [f"repository: {notice.repo}"] if notice.repo else []
    lines += [f"task: {notice.task_id}"] if notice.task_id else []
    lines += ["", notice.text if notice.event == "digest" else tail(notice.text, TEXT)]
    lines += ["", notice.command] if notice.command else []
    return MASKS.text(title), MASKS.text("\n".join(lines).strip())


def send(to: Destination, title: str, body: str) -> str:
    """Empty when the library says that it was sent; else why not. The library's time-outs end it."""
    url = os.environ.get(to.name)
    if not url:
        return f"the variable {to.name} is not set"
    import apprise  # takes a second, and the memory of a hundred services

    with _Heard() as heard:
        service = apprise.Apprise.instantiate(url.strip())
        if service is None:
            return "is no URL that apprise knows"
        sent = service.notify(body=body, title=title, body_format=apprise.NotifyFormat.TEXT)
    return "" if sent else MASKS.text(" ".join(heard.lines))[:300] or "the library does not say why"


class _Heard(logging.Handler):
    """What apprise says in this thread: it is the only word on why something was not sent."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread = threading.get_ident()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.lines.append(record.getMessage())

    def __enter__(self) -> _Heard:
        logging.getLogger("apprise").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("apprise").removeHandler(self)
