"""Operators are told, once, whatever is killed; and a destination that is away keeps no task from anything."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import starter
from activities.config import BadConfig, load
from activities.contracts import Notice
from activities.home import Home
from activities.masking import MASKS, Masks
from activities.notify import deliver, worded
from console import door
from console.doctor import notifications
from tests.git.repos import commit
from tests.kit import Kit, status_when
from workflows.contracts import Stage

TOP = Path(__file__).parent.parent
NOTICE = Notice(event="blocked", id="blocked-1", run="task-1.abc", repo="/src/app", task_id="task-1", text="x")


@dataclass
class Inbox:
    """A service that takes notifications as JSON."""

    port: int = 0
    got: list[dict[str, Any]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    """Status codes for the next ones; then 200."""
    kill: list[int] = field(default_factory=list)
    """Processes that end while the next one is on its way."""

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.port}/secret-token-of-this-service"

    def titles(self) -> list[str]:
        return [message["title"] for message in self.got]

    async def has(self, count: int) -> None:
        for _ in range(300):
            if len(self.got) >= count:
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"only {self.titles()}")


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    box = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            box.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            for pid in box.kill:
                os.kill(pid, signal.SIGKILL)
            box.kill.clear()
            self.send_response(box.answers.pop(0) if box.answers else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        box.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("INBOX", box.url)
        yield box
        server.shutdown()


def configured(home: Home, *lines: str) -> Home:
    home.create()
    (home.root / "config.toml").write_text("\n".join(["[[notify]]", 'url = "$INBOX"', *lines]) + "\n")
    return home


# --- one notice ------------------------------------------------------------------------------------


def test_an_event_is_told_once_and_the_next_one_too(inbox: Inbox, tmp_path: Path) -> None:
    home = configured(Home(tmp_path))
    for _ in range(3):
        assert deliver(home, NOTICE) == []
    assert deliver(home, NOTICE.model_copy(update={"id": "blocked-2"})) == []
    assert deliver(home, NOTICE.model_copy(update={"run": "task-1.def"})) == []
    assert len(inbox.got) == 3


def test_tasks_that_tell_the_same_at_once_tell_it_once(inbox: Inbox, tmp_path: Path) -> None:
    home = configured(Home(tmp_path))
    limit = NOTICE.model_copy(update={"event": "limit", "id": "limit-anthropic", "run": ""})
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda _: deliver(home, limit), range(8))) == [[]] * 8
    assert len(inbox.got) == 1


def test_what_the_library_reports_as_not_sent_is_tried_again(inbox: Inbox, tmp_path: Path) -> None:
    home = configured(Home(tmp_path))
    inbox.answers = [500, 503]
    for _ in range(2):
        [problem] = deliver(home, NOTICE)
        assert problem.startswith("$INBOX: ")
        assert "secret-token" not in problem
    assert deliver(home, NOTICE) == deliver(home, NOTICE) == []
    assert len(inbox.got) == 3


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ((), True),
        (('events = ["blocked"]',), True),
        (('events = ["merged"]',), False),
        (('repositories = ["/src/app"]',), True),
        (('repositories = ["/src/app/"]', 'events = ["blocked", "merged"]'), True),
        (('repositories = ["/src/other"]',), False),
    ],
)
def test_who_wants_what_is_configured(inbox: Inbox, tmp_path: Path, lines: tuple[str, ...], wanted: bool) -> None:
    home = configured(Home(tmp_path), *lines)
    assert ("blocked" in load(home.root).wanted("/src/app")) == wanted
    assert deliver(home, NOTICE) == []
    assert len(inbox.got) == wanted


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('url = "json://127.0.0.1/"', "notify.0.url: must be $NAME"),
        ('url = "$A"\nevents = ["rain"]', "notify.0.events.0"),
        ('url = "$A"\nrepositories = ["app"]', "notify.0.repositories: app must begin with / or ~/"),
        ('url = "$A"\n[notify_digest]\nat = "8"', "notify_digest.at"),
        ('url = "$A"\n[notify_digest]\nat = "08:00"\ntimezone = "Mars"', "'Mars' is no time zone"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_in_words(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "config.toml").write_text(f"[[notify]]\n{line}\n")
    with pytest.raises(BadConfig, match=re.escape(told)) as caught:
        load(tmp_path)
    assert "127.0.0.1" not in str(caught.value)


def test_the_url_and_the_tokens_in_it_are_masked() -> None:
    masks = Masks()
    masks.learn_url("BOT", "tgram://123456789:AAF-abcdefghijklmnopqrst/42 ")
    said = masks.text("POST https://api.telegram.org/botAAF-abcdefghijklmnopqrst/sendMessage 42")
    assert said == "POST https://api.telegram.org/bot***BOT***/sendMessage 42"
    masks.learn_url("MAIL", "mailto://me:hunter22x@mail.example.org")
    assert masks.text("hunter22x, mail.example.org") == "***MAIL***, mail.example.org"


def test_the_text_says_what_is_wanted_and_masks_what_is_secret() -> None:
    MASKS.learn({"A_TOKEN": "verysecretvalue"})
    more = {"title": "Fix it", "text": "said verysecretvalue", "command": "starter.py continue task-1"}
    title, body = worded(NOTICE.model_copy(update=more))
    assert title == "Fix it: is blocked"
    assert body.splitlines() == [
        "repository: /src/app", "task: task-1", "", "said ***A_TOKEN***", "", "starter.py continue task-1"
    ]  # fmt: skip


SENDER = """
import sys
from pathlib import Path
from activities.contracts import Notice
from activities.home import Home
from activities.notify import deliver
print(deliver(Home(Path(sys.argv[1])), Notice.model_validate_json(sys.argv[2])))
"""


def test_a_sender_that_is_killed_before_it_could_note_it_is_not_followed_by_another(
    inbox: Inbox, tmp_path: Path
) -> None:
    home = configured(Home(tmp_path))
    argv = [sys.executable, "-c", SENDER, str(home.root), NOTICE.model_dump_json()]
    sender = subprocess.Popen(argv, cwd=TOP, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(TOP)})
    inbox.kill = [sender.pid]
    sender.communicate(timeout=60)
    assert (sender.returncode, len(inbox.got)) == (-signal.SIGKILL, 1)
    assert deliver(home, NOTICE) == []
    assert len(inbox.got) == 1
    [journal] = home.notices(NOTICE.run).glob("*.json")
    assert json.loads(journal.read_text())["state"] == "sending"


# --- tasks -----------------------------------------------------------------------------------------


async def test_a_task_tells_what_it_waits_for_and_how_it_ended(inbox: Inbox, kit: Kit) -> None:
    kit.configure('[[notify]]\nurl = "$INBOX"\n')
    inbox.answers = [500]
    spent = {"write": {"a.txt": "x\n"}, "usage": {"cost_usd": 0.9}, "say": "NEEDS_FOLLOWUP why?"}
    agent = kit.agent(planner=[{"say": "The plan"}], executor=[spent, {"say": "NEEDS_FOLLOWUP why?"}, {}])
    async with kit.worker():
        given = kit.input(agent=agent, interactive=True, title="Tell me", limits={"max_cost_usd": 1})
        handle = await kit.start(given, "told")
        await status_when(handle, lambda now: now.stage is Stage.APPROVAL)
        await handle.signal("approve_plan")
        await status_when(handle, lambda now: now.blocked is not None)
        await handle.signal("continue_task")
        assert (await handle.result()).outcome == "merged"
    titles = inbox.titles()
    for event in ("wants your approval", "has nearly used up its budget", "is blocked", "has landed"):
        assert f"Tell me: {event}" in titles
    assert len(titles) == 5  # one was refused at first
    by_title = {message["title"].partition(": ")[2]: message["message"] for message in inbox.got}
    assert f"repository: {kit.repo}\ntask: told\n" in by_title["is blocked"]
    assert "-w told --name continue_task" in by_title["is blocked"]
    assert "raise-budget told --cost 2" in by_title["has nearly used up its budget"]
    assert "The plan" in by_title["wants your approval"]


async def test_a_limit_of_an_account_is_told_once_and_what_waits_for_leave_too(inbox: Inbox, kit: Kit) -> None:
    kit.configure('[[notify]]\nurl = "$INBOX"\nevents = ["limit", "approval"]\n')
    commit(kit.repo, {"mergewright.toml": '[queue]\nprotected = ["ci/"]\n'})
    limited = kit.agent(executor=[{"fail": 75, "stderr": "retry-after: 9000"}])
    account = f"acc-{kit.task_queue}"
    async with kit.worker():
        first, second = [await kit.start(kit.input(agent={**limited, "account": account})) for _ in range(2)]
        for handle in (first, second):
            await status_when(handle, lambda now: now.stage is Stage.LIMITED and "until" in now.waiting_for)
        guarded = await kit.start(
            kit.input(agent=kit.agent(executor=[{"write": {"ci/a": "x\n"}}]), title="Guarded"), "guarded"
        )
        await status_when(guarded, lambda now: "leave to change" in now.waiting_for)
        for handle in (first, second, guarded):
            await handle.signal("abandon")
            assert (await handle.result()).outcome == "abandoned"
    assert sorted(inbox.titles()) == ["Guarded: wants your approval", f"command/{account}: is limited"]
    texts = {message["title"].partition(":")[0]: message["message"] for message in inbox.got}
    queue = f"--task-queue {kit.task_queue}"
    assert texts["Guarded"].endswith(f"starter.py queue allow guarded --repo {kit.repo} {queue}")
    assert texts[f"command/{account}"].endswith(f"starter.py quota command/{account} --wake {queue}")


async def test_a_destination_that_is_away_keeps_no_task_waiting_and_what_cannot_begin_is_told(
    inbox: Inbox, kit: Kit
) -> None:
    kit.configure('[[notify]]\nurl = "$INBOX"\nevents = ["blocked", "failed"]\n')
    agent = kit.agent(executor=[{"write": {"a.txt": "x\n"}, "say": "NEEDS_FOLLOWUP why?"}])
    inbox.answers = [500] * 2
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent))
        await status_when(handle, lambda now: now.blocked is not None)
        await handle.signal("abandon")
        assert (await handle.result()).outcome == "abandoned"
        inbox.got.clear()
        failed = await kit.start(kit.input(agent={"runtime": "nothing"}, title="Never begun"))
        with pytest.raises(Exception, match="Workflow execution failed"):
            await failed.result()
        await inbox.has(1)
    assert "Never begun: has failed" in inbox.titles()


@pytest.mark.long
async def test_a_worker_that_is_killed_while_it_tells_tells_nobody_twice(inbox: Inbox, kit: Kit) -> None:
    from tests.test_kill import start_worker, until_up

    kit.configure('[[notify]]\nurl = "$INBOX"\nevents = ["blocked", "merged"]\n')
    address = kit.client.service_client.config.target_host
    agent = kit.agent(executor=[{"write": {"a.txt": "x\n"}, "say": "NEEDS_FOLLOWUP y"}] * 2 + [{}])
    workers = [start_worker(kit, "--address", address)]
    try:
        await until_up(kit, 1)
        inbox.kill = [workers[0].pid]
        handle = await kit.start(kit.input(agent=agent, title="Killed"))
        await asyncio.to_thread(workers[0].wait, 60)
        workers.append(start_worker(kit, "--address", address))
        await until_up(kit, 2)
        await status_when(handle, lambda now: now.blocked is not None)
        await handle.signal("continue_task")
        assert (await handle.result()).outcome == "merged"
    finally:
        workers[-1].terminate()
        await asyncio.to_thread(workers[-1].wait)
    assert inbox.titles() == ["Killed: is blocked", "Killed: has landed"]


# --- starter.py ------------------------------------------------------------------------------------


def test_a_message_for_a_try(inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*flags: str, code: int) -> str:
        done = CliRunner().invoke(starter.app, ["notify", *flags, "--home", str(tmp_path)], env={"COLUMNS": "200"})
        assert done.exit_code == code, done.output
        assert "secret-token" not in done.output
        return " ".join(done.output.split())

    monkeypatch.setattr(door.console, "width", 200)
    assert "name destinations under [[notify]]" in said(code=0)
    home = configured(Home(tmp_path), 'events = ["blocked"]', "[[notify]]", 'url = "$NOWHERE"')
    assert "not set" in said(code=0)
    assert inbox.got == []
    assert "$INBOX blocked all sent" in said("--test", code=1)
    assert inbox.titles() == ["mergewright: a test"]
    monkeypatch.setenv("NOWHERE", "json://127.0.0.1:9/another-secret-token")
    assert "not sent: A Connection error occurred" in said("--test", code=1)
    monkeypatch.setenv("NOWHERE", "not-a-url-of-any-kind")
    assert "not sent: is no URL that apprise knows" in said("--test", code=1)
    monkeypatch.delenv("NOWHERE")
    there, lacking = notifications(load(home.root))
    assert (there.state, there.text) == ("ok", "$INBOX: blocked")
    assert (lacking.state, lacking.remedy) == (
        "warning",
        "the variable NOWHERE is not set here: set it in the worker's environment",
    )
