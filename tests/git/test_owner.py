"""One orchestrator for each repository, with real processes: who has it, who is refused, what a kill leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from activities.git import owner as owners
from activities.git.owner import LOCK, OwnedByAnother, Owner, claim
from activities.git.repository import RepositoryProblem

ROOT = Path(__file__).parents[2]

# A child for each claim; it lives until it is told to be killed. `sleeper`: it leaves a child of its own behind.
HOST = """
import json, os, signal, subprocess, sys
from pathlib import Path
from activities.git import owner

def child(given):
    try:
        owner.claim(Path(given["folder"]), owner.Owner(**given["owner"]))
        said = "claimed"
    except Exception as problem:
        said = f"{type(problem).__name__}: {problem}"
    left = 0
    if given["sleeper"]:
        left = subprocess.Popen(["sleep", "60"], close_fds=False).pid
    os.write(1, f"{os.getpid()} {left} {said}\\n".encode())
    while True:
        signal.pause()

for line in sys.stdin:
    given = json.loads(line)
    if "kill" in given:
        os.kill(given["kill"], signal.SIGKILL)
        os.waitpid(given["kill"], 0)
        os.write(1, b"0 0 killed\\n")
    elif os.fork() == 0:
        child(given)
"""

# Claims it in one child after another, each killed at a later line than the one before, until one comes to the end.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from activities.git import owner
folder, one, two = Path(sys.argv[1]), *(owner.Owner(**json.loads(text)) for text in sys.argv[2:])

def apart(given, last):
    if (child := os.fork()) == 0:
        count = 0
        def trace(frame, event, _):
            nonlocal count
            if frame.f_code.co_filename != owner.__file__:
                return None
            count += event == "line"
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace
        if last:
            sys.settrace(trace)
        owner.claim(folder, given)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

lines = 0
while True:
    lines += 1
    if (code := apart(one, lines)) == 0:
        break
    assert code == -signal.SIGKILL, (lines, code)
    assert apart(two, 0) == 0, lines
    assert json.loads((folder / owner.LOCK).read_text())["task_queue"] == two.task_queue
print(lines)
"""


def owner(name: str, host: str = "here") -> Owner:
    return Owner("127.0.0.1:7233", "default", f"queue-{name}", f"/data/{name}", host)


@dataclass(frozen=True)
class Worker:
    pid: int
    left: int
    said: str


class Workers:
    """Processes that claim the repository at `folder`."""

    def __init__(self, host: subprocess.Popen[str], folder: Path) -> None:
        self.host = host
        self.folder = folder

    def begin(self, name: str, host: str = "here", sleeper: bool = False) -> None:
        self._ask({"owner": owner(name, host).__dict__, "folder": str(self.folder), "sleeper": sleeper})

    def answer(self) -> Worker:
        assert self.host.stdout is not None
        pid, left, said = self.host.stdout.readline().rstrip("\n").split(" ", 2)
        return Worker(int(pid), int(left), said)

    def claim(self, name: str, host: str = "here", sleeper: bool = False) -> Worker:
        self.begin(name, host, sleeper)
        return self.answer()

    def kill(self, worker: Worker) -> None:
        self._ask({"kill": worker.pid})
        assert self.answer().said == "killed"

    def _ask(self, asked: dict[str, object]) -> None:
        assert self.host.stdin is not None
        self.host.stdin.write(f"{json.dumps(asked)}\n")
        self.host.stdin.flush()


@pytest.fixture(scope="module")
def host() -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", HOST]
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        yield process
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def workers(host: subprocess.Popen[str], tmp_path: Path) -> Workers:
    return Workers(host, tmp_path)


def content(folder: Path) -> dict[str, object]:
    text = (folder / LOCK).read_text()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    found: dict[str, object] = json.loads(text)
    return found


def test_the_second_is_refused_by_the_name_of_the_first(workers: Workers) -> None:
    first = workers.claim("one")
    assert first.said == "claimed"
    refused = workers.claim("two").said
    assert refused.startswith("OwnedByAnother: ")
    for part in ("127.0.0.1:7233", "namespace default", "queue-one", "/data/one", f"process {first.pid} on here"):
        assert part in refused
    assert "stop its workers, or give the task to its task queue" in refused
    said = {"address", "namespace", "task_queue", "home", "host", "pid", "since"}
    assert content(workers.folder).keys() == said


@pytest.mark.parametrize("part", ["address", "namespace", "task_queue", "home"])
def test_all_four_parts_of_the_name_count(tmp_path: Path, part: str) -> None:
    claim(tmp_path, owner("one"))
    with pytest.raises(OwnedByAnother):
        claim(tmp_path, replace(owner("one"), **{part: "other"}))


def test_workers_of_one_orchestrator_share_it_and_the_last_frees_it(workers: Workers) -> None:
    first, second = workers.claim("one"), workers.claim("one", "there")
    assert second.said == "claimed"
    workers.kill(first)
    assert workers.claim("two").said.startswith("OwnedByAnother: ")
    workers.kill(second)
    third = workers.claim("two")
    assert third.said == "claimed"
    assert (content(workers.folder)["task_queue"], content(workers.folder)["pid"]) == ("queue-two", third.pid)
    assert workers.claim("one").said.startswith("OwnedByAnother: ")


def test_many_that_start_at_once_after_a_dead_one_agree(workers: Workers) -> None:
    """Two of one orchestrator are never each other's reason to refuse."""
    for _ in range(6):
        (workers.folder / LOCK).write_text(json.dumps({**owner("dead").__dict__, "pid": 1, "since": ""}))
        for name in ["one", "two"] * 4:
            workers.begin(name)
        answers = [workers.answer() for _ in range(8)]
        has = content(workers.folder)["task_queue"]
        assert sum(worker.said == "claimed" for worker in answers) == 4
        assert sum(f"task queue {has}" in worker.said for worker in answers) == 4
        for worker in answers:
            workers.kill(worker)


def test_a_child_that_outlives_its_worker_does_not_keep_it(workers: Workers) -> None:
    """As an agent or a gate might: it gets every file descriptor that can be inherited."""
    first = workers.claim("one", sleeper=True)
    try:
        assert first.said == "claimed"
        workers.kill(first)
        os.kill(first.left, 0)
        assert workers.claim("two").said == "claimed"
    finally:
        os.kill(first.left, signal.SIGKILL)


@pytest.mark.parametrize(
    "left", ["", "{", '{"address": "127.0.0.1:72', "[1]", '"x"', '{"pid": 1, "since": ""}', "\0" * 9]
)
def test_what_nobody_can_read_is_taken_over_when_nobody_lives(tmp_path: Path, left: str) -> None:
    (tmp_path / LOCK).write_text(left)
    claim(tmp_path, owner("one"))
    assert content(tmp_path)["task_queue"] == "queue-one"


def test_what_nobody_can_read_is_left_to_a_living_one(tmp_path: Path) -> None:
    claim(tmp_path, owner("one"))
    (tmp_path / LOCK).write_text("scribbled")
    with pytest.raises(OwnedByAnother, match="cannot be read: stop its workers"):
        claim(tmp_path, owner("two"))
    claim(tmp_path, owner("one"))


def test_a_file_that_was_removed_while_held_is_made_again(tmp_path: Path, workers: Workers) -> None:
    claim(tmp_path, owner("one"))
    (tmp_path / LOCK).unlink()
    claim(tmp_path, owner("one"))
    assert workers.claim("two").said.startswith("OwnedByAnother: ")


def test_whoever_lost_the_file_to_another_is_refused_from_then_on(tmp_path: Path, workers: Workers) -> None:
    claim(tmp_path, owner("one"))
    (tmp_path / LOCK).unlink()
    other = workers.claim("two")
    assert other.said == "claimed"
    for _ in range(2):
        with pytest.raises(OwnedByAnother, match="queue-two"):
            claim(tmp_path, owner("one"))
    workers.kill(other)
    claim(tmp_path, owner("one"))
    assert content(tmp_path)["task_queue"] == "queue-one"


def test_a_claim_that_stands_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(tmp_path, owner("one"))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    monkeypatch.setattr(owners, "_take", lambda *_: pytest.fail("claimed once more"))
    for _ in range(100):
        claim(tmp_path, owner("one"))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize("name", [LOCK, "mergewright.claim"])
def test_a_git_directory_that_cannot_be_written_is_told_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()  # root may write everywhere, but not this
    with pytest.raises(RepositoryProblem, match=f"{name} cannot be locked: .*must be able to write") as caught:
        claim(tmp_path, owner("one"))
    assert "\n" not in str(caught.value)
    (tmp_path / name).rmdir()
    claim(tmp_path, owner("one"))


def test_a_kill_at_any_line_stands_in_nobodys_way(tmp_path: Path) -> None:
    """Killed before each line of the module in turn, with a dead one's name in the file; another has it after that."""
    argv = [sys.executable, "-c", KILLED, str(tmp_path), *(json.dumps(owner(name).__dict__) for name in ("one", "two"))]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
    assert content(tmp_path)["task_queue"] == "queue-one"
