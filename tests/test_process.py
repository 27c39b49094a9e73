"""Real processes, with a PID namespace and without. What is left of them is found by a mark in their environment."""

import asyncio
import fcntl
import itertools
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from activities import fence, process
from activities.masking import MASKS
from activities.process import CannotStart, Command, Ended, Interrupted, Supervised
from activities.transcript import LINE_LIMIT

ROOT = Path(__file__).parent.parent

STUBBORN_TREE = """
setsid sh -c 'trap "" TERM HUP INT; echo x > stubborn; while :; do sleep 0.2; done' &
nohup sleep 300 > nohup.out 2>&1 &
( setsid sh -c 'sleep 300 & sleep 300' & )
( ( sleep 300 & ) & )
while [ ! -e stubborn ]; do sleep 0.02; done
echo ready
"""
"""A session of its own that ignores SIGTERM, nohup, daemons that forked twice."""


@pytest.fixture(params=["namespace", "no namespace"])
def namespace(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setenv("MERGEWRIGHT_NO_NAMESPACE", "" if request.param == "namespace" else "1")
    if request.param == "namespace" and not process.has_namespaces():
        pytest.skip("bubblewrap is missing or refused on this machine")
    return process.has_namespaces()


both = pytest.mark.usefixtures("namespace")


@dataclass
class Bench:
    """A folder to run in, and a mark by which the processes are known."""

    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    lines: list[str] = field(default_factory=list)

    def command(self, *argv: str, stdin: bytes = b"") -> Command:
        return Command(list(argv), self.folder, {**process.base_environment(), "MARK": self.mark}, stdin)

    async def run(self, *argv: str, stdin: bytes = b"", **options: Any) -> Ended:
        given = {"wall_seconds": 60, "grace_seconds": 0.3, "on_line": self.lines.append, **options}
        return await process.run(self.command(*argv, stdin=stdin), **self.files, **given)

    async def sh(self, script: str, **options: Any) -> Ended:
        return await self.run("sh", "-c", script, **options)

    @property
    def files(self) -> dict[str, Path]:
        return {"stdout": self.folder / "out", "stderr": self.folder / "err", "lock": self.folder / "lock"}

    def left(self) -> list[int]:
        return marked(self.mark)

    def in_namespace(self) -> bool:
        return b"pid-namespace" in (self.folder / "lock").read_bytes()

    def lock_is_free(self) -> bool:
        with (self.folder / "lock").open() as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    def supervisor(self) -> int:
        found = re.search(rb"\d+", (self.folder / "lock").read_bytes())
        assert found is not None
        return int(found[0])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for pid in [*made.left(), *marked(f"{made.mark}-other")]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """Processes that are not zombies, by a variable in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if f"MARK={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def start(*argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, cwd=ROOT)


async def until(condition: Callable[[], object]) -> None:
    for _ in range(1500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("did not come about in 30 s")


# --- a command's own end ---------------------------------------------------------------------------------------------


async def test_output_reaches_the_files_and_the_lines(bench: Bench, namespace: bool) -> None:
    ended = await bench.sh(r"echo one; echo two >&2; printf '\n\377\nlast'; exit 3")
    assert bench.in_namespace() == namespace
    assert (ended.exit_code, ended.by) == (3, "exit")
    assert bench.lines == ["one", "", "�", "last"]
    assert (bench.folder / "out").read_bytes() == b"one\n\n\xff\nlast"
    assert (bench.folder / "err").read_bytes() == b"two\n"
    assert bench.left() == []


async def test_lines_come_while_it_runs(bench: Bench) -> None:
    def answer(line: str) -> None:
        bench.lines.append(line)
        (bench.folder / "seen").touch()

    await bench.sh("echo question; while [ ! -e seen ]; do sleep 0.02; done; echo end", on_line=answer)
    assert bench.lines == ["question", "end"]


@both
async def test_a_script_that_opens_its_output_again_does_not_truncate_it(bench: Bench) -> None:
    await bench.sh("echo a; echo b >/dev/stdout; echo c; echo d >&2; echo e >/dev/stderr")
    assert (bench.folder / "out").read_text() == "a\nb\nc\n"
    assert (bench.folder / "err").read_text() == "d\ne\n"


async def test_both_outputs_in_one_file_keep_their_order(bench: Bench) -> None:
    log = bench.folder / "log"
    command = bench.command("sh", "-c", "for i in 1 2 3 4; do echo out $i; echo err $i >&2; done")
    await process.run(command, stdout=log, stderr=log, lock=bench.files["lock"], wall_seconds=60)
    assert log.read_text() == "".join(f"out {i}\nerr {i}\n" for i in range(1, 5))


@both
async def test_much_output(bench: Bench) -> None:
    await bench.sh("yes 0123456789abcdef | head -c 20000000")
    assert (bench.folder / "out").stat().st_size == 20_000_000
    assert len(bench.lines) == -(-20_000_000 // 17)
    assert set(bench.lines[:-1]) == {"0123456789abcdef"}


async def test_a_line_beyond_the_limit_is_cut(bench: Bench) -> None:
    await bench.sh("head -c 40000000 /dev/zero | tr '\\0' x; echo; echo next")
    assert [len(line) for line in bench.lines] == [LINE_LIMIT, 4]
    assert (bench.folder / "out").stat().st_size == 40_000_006


@pytest.mark.parametrize(("argv", "said"), [(("wc", "-c"), ["8000000"]), (("true",), [])])
@both
async def test_large_input_read_or_not(bench: Bench, argv: tuple[str, ...], said: list[str]) -> None:
    ended = await bench.run(*argv, stdin=b"x" * 8_000_000)
    assert (ended.exit_code, bench.lines) == (0, said)


async def test_without_input_there_is_end_of_file(bench: Bench) -> None:
    assert (await bench.run("cat")).exit_code == 0


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 137", 137), ("kill -9 $$", -9), ("kill $$", -15)])
@both
async def test_exit_codes(bench: Bench, script: str, code: int) -> None:
    assert (await bench.sh(script)).exit_code == code


@both
async def test_the_command_starts_from_a_clean_state(bench: Bench) -> None:
    """Its environment is complete, no signal is ignored or blocked, and no file of ours is open in it."""
    command = Command(["env"], bench.folder, {"PATH": os.environ["PATH"], "ODD": "ä=\n\udcff"})
    await process.run(command, **bench.files, wall_seconds=60)
    variables = (bench.folder / "out").read_bytes()
    assert variables == f"PATH={os.environ['PATH']}\nODD=ä=\n".encode() + b"\xff\n"

    await bench.sh("grep -E '^Sig(Ign|Blk)' /proc/self/status; ls /proc/self/fd; kill 0; exit 9")
    signals, files = bench.lines[:2], bench.lines[2:]
    # But for 32 and 33, the C library's own: its posix_spawn, which `make` uses, leaves them ignored for good.
    assert {int(line.split()[1], 16) & ~(0b11 << 31) for line in signals} == {0}
    assert files == ["0", "1", "2", "3"]  # 3: the folder that ls reads


@both
async def test_kill_0_ends_the_command_only(bench: Bench) -> None:
    assert (await bench.sh("trap '' TERM; kill 0; exit 7")).exit_code == 7


async def test_the_supervisor_shows_nothing_of_the_worker(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_API_KEY", "secret-of-the-worker")
    ended = await bench.sh("cat /proc/$PPID/environ; cat /proc/1/environ")
    assert ended.exit_code is not None
    assert "secret-of-the-worker" not in "".join(bench.lines)


@both
async def test_what_cannot_start_is_said(bench: Bench) -> None:
    plain = bench.folder / "plain"
    plain.write_text("no program")
    with pytest.raises(CannotStart, match=r"^cannot start no-such-program: No such file or directory$"):
        await bench.run("no-such-program")
    assert (bench.folder / "err").read_text() == "no-such-program: No such file or directory\n"
    with pytest.raises(CannotStart, match="Permission denied"):
        await bench.run("./plain")
    with pytest.raises(CannotStart, match="Argument list too long"):
        await bench.run("true", "x" * 200_000)
    with pytest.raises(CannotStart, match="null byte"):
        await bench.run("true", "a\0b")
    with pytest.raises(CannotStart, match="'A' cannot be an environment variable"):
        await process.run(Command(["true"], bench.folder, {"A": "1\0LD_PRELOAD=x"}), **bench.files, wall_seconds=9)
    with pytest.raises(CannotStart, match="gone is not a directory"):
        await process.run(Command(["true"], bench.folder / "gone", {}), **bench.files, wall_seconds=9)


async def test_the_program_is_looked_for_in_the_path_of_the_command(bench: Bench) -> None:
    program = bench.folder / "bin" / "mine"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho mine\n")
    program.chmod(0o755)
    command = Command(["mine"], bench.folder, {"PATH": f"/nowhere:{program.parent}"})
    await process.run(command, **bench.files, wall_seconds=60, on_line=bench.lines.append)
    assert bench.lines == ["mine"]


@both
async def test_a_full_disk_is_no_success(bench: Bench) -> None:
    MASKS.learn({"SOME_TOKEN": "what-is-to-be-masked"})  # so all that was written is read again
    given = {**bench.files, "stdout": Path("/dev/full")}
    with pytest.raises(OSError, match="No space left on device"):
        await process.run(bench.command("sh", "-c", "echo lost; exit 0"), **given, wall_seconds=60)
    assert bench.left() == []


@both
async def test_no_file_descriptor_is_lost(bench: Bench) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    await bench.run("true")
    before = count()
    await bench.run("true", stdin=b"x")
    with suppress(CannotStart):
        await bench.run("true", "a\0b")
    await bench.sh("sleep 60", wall_seconds=0.1)
    assert count() == before


# --- ended by us -----------------------------------------------------------------------------------------------------


@both
async def test_wall_time(bench: Bench) -> None:
    ended = await bench.sh("trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.02; done", wall_seconds=2)
    assert (ended.exit_code, ended.by) == (None, "wall")
    assert bench.lines == ["hello", "bye"]  # it had its grace, and what it said in it counts
    assert bench.left() == []


async def test_idle_time_is_without_any_output(bench: Bench) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i >&2; sleep 0.2; done; echo quiet; sleep 60"
    ended = await bench.sh(script, idle_seconds=1.5)
    assert (ended.exit_code, ended.by, bench.lines) == (None, "idle", ["quiet"])
    assert bench.left() == []


async def test_a_command_that_said_its_last_word_may_linger(bench: Bench) -> None:
    for script, end in (("echo result; sleep 60", (None, "finished")), ("echo result; sleep 0.5; exit 4", (4, "exit"))):
        bench.lines.clear()
        ended = await bench.sh(script, finished=lambda: "result" in bench.lines, linger_seconds=2.5, idle_seconds=1.5)
        assert (ended.exit_code, ended.by) == end
        assert bench.left() == []


async def test_a_callback_that_fails_ends_it(bench: Bench) -> None:
    def fail(line: str) -> None:
        raise ValueError(line)

    with pytest.raises(ValueError, match="word"):
        await bench.sh("echo word; sleep 60", on_line=fail)
    assert bench.left() == []


# --- nothing is left -------------------------------------------------------------------------------------------------


@both
async def test_nothing_is_left_after_its_own_end(bench: Bench) -> None:
    ended = await bench.sh(STUBBORN_TREE + "exit 5")
    assert (ended.exit_code, ended.by) == (5, "exit")
    assert bench.left() == []


@both
async def test_nothing_is_left_after_being_cancelled_twice(bench: Bench) -> None:
    running = asyncio.create_task(bench.sh(STUBBORN_TREE + "sleep 60", grace_seconds=1))
    await until(lambda: "ready" in bench.lines)
    assert len(bench.left()) >= 7
    running.cancel()
    await asyncio.sleep(0.2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert bench.left() == []


@both
async def test_nothing_is_left_when_the_loop_ends(bench: Bench) -> None:
    async def main() -> None:
        task = asyncio.create_task(bench.sh(STUBBORN_TREE + "sleep 60"))
        task.add_done_callback(lambda _: None)
        await until(lambda: "ready" in bench.lines)

    await asyncio.to_thread(asyncio.run, main())
    assert bench.left() == []


@pytest.fixture
async def worker(bench: Bench, namespace: bool) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A worker process in which the stubborn tree runs."""
    command = ["sh", "-c", STUBBORN_TREE + "sleep 60"]
    worker = start(sys.executable, "-m", "tests.process_worker", str(bench.folder), bench.mark, "0.5", *command)
    try:
        await until(lambda: marked(f"{bench.mark}-other") and "ready" in (bench.folder / "out").read_text())
        assert bench.in_namespace() == namespace
        yield worker
    finally:
        worker.kill()
        worker.wait()


async def test_nothing_is_left_after_kill_9_of_the_worker(bench: Bench, worker: subprocess.Popen[bytes]) -> None:
    assert len(bench.left()) >= 7
    worker.kill()
    await until(lambda: not bench.left() and bench.lock_is_free())
    assert marked(f"{bench.mark}-other")  # it had its chance to keep the control socket open


async def test_a_new_run_takes_over_from_a_frozen_worker(bench: Bench, worker: subprocess.Popen[bytes]) -> None:
    worker.send_signal(signal.SIGSTOP)
    seen: list[list[int]] = []
    other = Bench(bench.folder)
    await other.sh("echo running", on_line=lambda _: seen.append(bench.left()))
    assert seen == [[]]


async def test_a_new_run_takes_over_from_a_dead_worker(bench: Bench, worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    seen: list[list[int]] = []
    other = Bench(bench.folder)
    await other.sh("echo running", on_line=lambda _: seen.append(bench.left()))
    assert seen == [[]]


async def test_kill_9_of_the_supervisor(bench: Bench, namespace: bool) -> None:
    running = asyncio.create_task(bench.sh(STUBBORN_TREE + "echo $$ > pid; sleep 60"))
    await until(lambda: "ready" in bench.lines and (bench.folder / "pid").exists())
    command = next(pid for pid in bench.left() if b"ready" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(bench.supervisor(), signal.SIGKILL)
    with pytest.raises(Interrupted, match="supervisor of sh was killed"):
        await running
    if namespace:
        assert bench.left() == []
    else:  # the limit of the fallback: the command dies with its supervisor, what it started does not
        await until(lambda: command not in bench.left())
        assert bench.left() != []


@pytest.mark.parametrize("namespace", ["namespace"], indirect=True)
async def test_kill_9_of_bubblewrap_itself_changes_nothing(bench: Bench, namespace: bool) -> None:
    assert namespace
    running = asyncio.create_task(bench.sh("echo ready; while [ ! -e go ]; do sleep 0.02; done; exit 6"))
    await until(lambda: "ready" in bench.lines)
    outside = int(Path(f"/proc/{bench.supervisor()}/stat").read_text().rpartition(")")[2].split()[1])
    assert b"bwrap" in Path(f"/proc/{outside}/cmdline").read_bytes()
    os.kill(outside, signal.SIGKILL)
    await asyncio.sleep(0.1)
    (bench.folder / "go").touch()
    assert (await running).exit_code == 6
    assert bench.left() == []


# --- the lock --------------------------------------------------------------------------------------------------------


@both
async def test_a_second_run_evicts_the_first(bench: Bench) -> None:
    first = asyncio.create_task(bench.sh(STUBBORN_TREE + "sleep 60"))
    await until(lambda: "ready" in bench.lines)
    seen: list[list[int]] = []
    ended = await Bench(bench.folder).sh("echo running", on_line=lambda _: seen.append(bench.left()))
    assert (ended.exit_code, seen) == (0, [[]])
    with pytest.raises(Interrupted, match="from outside"):
        await first


async def test_a_holder_that_is_no_supervisor_is_left_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "BUSY_SECONDS", 0.3)
    with start("sleep", "60") as innocent, bench.files["lock"].open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f'{{"child-pid": {innocent.pid}}}')
        lock.flush()
        with pytest.raises(process.Busy, match="lock is still held"):
            await bench.run("true")
        assert innocent.poll() is None
        innocent.kill()
    assert (await bench.run("true")).exit_code == 0


@both
async def test_many_at_once_get_the_lock_one_after_the_other(bench: Bench) -> None:
    """Each that is not evicted has the lock alone: no two of them are ever seen together."""
    script = "mkdir held && sleep 0.05 && rmdir held"
    clean = "trap 'rmdir held; exit 1' TERM; " + script
    numbers = itertools.count()

    async def one() -> str:
        folder = bench.folder / str(next(numbers))
        folder.mkdir()
        given = {"stdout": folder / "out", "stderr": folder / "err", "lock": bench.files["lock"]}
        with suppress(Interrupted):
            await process.run(bench.command("sh", "-c", clean), **given, wall_seconds=60, grace_seconds=5)
        return (folder / "err").read_text()

    said = await asyncio.gather(*(one() for _ in range(8)))
    assert [text for text in said if "File exists" in text] == []


# --- a child that lives as long as this process ----------------------------------------------------------------------


@both
async def test_a_long_lived_child(bench: Bench) -> None:
    script = "trap 'echo bye; exit' TERM; echo up; while :; do sleep 0.02; done"
    out, err = bench.files["stdout"], bench.files["stderr"]
    with Supervised(bench.command("sh", "-c", script), stdout=out, stderr=err) as child:
        await until(lambda: out.read_text() == "up\n")
        assert child.alive()
        child.stop()
        assert not child.alive()
        assert bench.left() == []
        assert out.read_text() == "up\nbye\n"


@both
async def test_a_long_lived_child_that_dies_is_noticed(bench: Bench) -> None:
    out, err = bench.files["stdout"], bench.files["stderr"]
    for argv, said in ((("no-such-server",), "no-such-server: No such file or directory\n"), (("false",), "")):
        with Supervised(bench.command(*argv), stdout=out, stderr=err) as child:
            await until(lambda: not child.alive())
        assert err.read_text() == said


@both
async def test_a_long_lived_child_does_not_outlive_this_process(bench: Bench) -> None:
    program = (
        "import os, sys, signal; from pathlib import Path; from activities.process import Command, Supervised\n"
        "f = Path(sys.argv[1]); c = Command(['sh', '-c', sys.argv[3]], f, {**os.environ, 'MARK': sys.argv[2]})\n"
        "child = Supervised(c, stdout=f/'out', stderr=f/'err', grace_seconds=0.3); signal.pause()\n"
    )
    script = STUBBORN_TREE + "sleep 60"
    with start(sys.executable, "-c", program, str(bench.folder), bench.mark, script) as parent:
        out = bench.files["stdout"]
        await until(lambda: out.exists() and "ready" in out.read_text())
        parent.kill()
    await until(lambda: not bench.left())


# --- the environment -------------------------------------------------------------------------------------------------


def test_only_named_variables_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        monkeypatch.delenv(name)
    kept = {"PATH": "/bin", "HOME": "/h", "LC_TIME": "C", "https_proxy": "p", "XDG_CACHE_HOME": "/c"}
    dropped = {
        "TEMPORAL_API_KEY": "k",
        "GIT_DIR": "/g",
        "GITHUB_TOKEN": "t",
        "AWS_SECRET_ACCESS_KEY": "a",
        "SSH_AUTH_SOCK": "/s",
        "LD_PRELOAD": "/l",
        "PYTHONPATH": "/p",
        "XDG_RUNTIME_DIR": "/r",
    }
    vendor = {"ANTHROPIC_API_KEY": "x", "ANTHROPIC_BASE_URL": "y"}
    for name, value in {**kept, **dropped, **vendor, "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    assert process.base_environment() == {**kept, "TERM": "dumb"}
    assert process.base_environment(("ANTHROPIC_",)) == {**kept, **vendor, "TERM": "dumb"}
    with pytest.raises(ValueError, match="empty prefix"):
        process.base_environment(("",))
