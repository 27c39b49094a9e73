"""The one way in which agents, gates and the development server are started.

Nothing of them outlives its turn or its worker: each command runs under `supervise.py` (its rules are there), in a PID
namespace where bubblewrap can make one, and ends with everything that it started when

- the caller asks (`run` is cancelled, or a time-out is over; `Supervised.stop`),
- this process is gone, also by SIGKILL: the supervisor reads end of file on its control socket,
- another attempt wants the lock (`run`): the newest wins, as an older one can only be a zombie.

Only for Linux. Blocking calls here take a few milliseconds.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Self

from activities import cgroup, fence
from activities.bubblewrap import has_namespaces, prefix, sandbox_problem
from activities.disk_watch import DiskWatch, over_limit
from activities.fence import Busy
from activities.proxy import Proxy
from activities.sandbox import PROXY_PORT, UNLIMITED, Limits, Sandbox, own_ports, proxy_environment
from activities.transcript import Transcript

__all__ = [
    "Busy",
    "CannotStart",
    "Command",
    "Ended",
    "Interrupted",
    "Supervised",
    "base_environment",
    "has_namespaces",
    "run",
    "sandbox_problem",
]

POLL_SECONDS = 0.2

_COMMON = (
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE TZ TMPDIR "
    "SSL_CERT_FILE SSL_CERT_DIR NODE_EXTRA_CA_CERTS REQUESTS_CA_BUNDLE CURL_CA_BUNDLE "
    "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy "
    "XDG_CONFIG_HOME XDG_DATA_HOME XDG_STATE_HOME XDG_CACHE_HOME XDG_CONFIG_DIRS XDG_DATA_DIRS"
).split()


def base_environment(extra_prefixes: tuple[str, ...] = ()) -> dict[str, str]:
    """What every agent and gate gets of the worker's environment; TERM is `dumb`.

    Passed on: where things are (PATH, HOME, SHELL, TMPDIR, the XDG folders), who and how (USER, LOGNAME, LANG,
    LANGUAGE, LC_*, TZ), certificates and proxies (`_COMMON` is the list), and what starts with one of
    `extra_prefixes`. So nothing of Temporal, git, a cloud, a forge or a model vendor unless it is named, and no
    XDG_RUNTIME_DIR, where the sockets of key rings are. ValueError for an empty prefix: it would name everything.
    """
    if not all(extra_prefixes):
        raise ValueError("an empty prefix would pass on the whole environment")
    prefixes = ("LC_", *extra_prefixes)
    kept = {name: value for name, value in os.environ.items() if name in _COMMON or name.startswith(prefixes)}
    return {**kept, "TERM": "dumb"}


@dataclass(frozen=True)
class Command:
    """A process to start."""

    argv: list[str]
    """The program is looked for in the PATH of `env`; `./name` is relative to `cwd`."""
    cwd: Path
    env: dict[str, str]
    """The complete environment: nothing is inherited."""
    stdin: bytes = b""
    """Given as a file, so it may be large and need not be read."""
    sandbox: Sandbox | None = None
    """What it sees of the machine; none: all of it. To be given only where `sandbox_problem` is empty."""
    limits: Limits = UNLIMITED


@dataclass(frozen=True)
class Ended:
    """How a command ended. Nothing of it is left."""

    exit_code: int | None
    """Negative for a signal; None when we ended it."""
    by: Literal["exit", "wall", "idle", "finished", "stopped", "limit"]
    seconds: float
    limit: str = ""
    """Which of its limits it was over, and by how much, for a person; its name comes first."""


class CannotStart(Exception):
    """The command could not be started, for the reason in the message; trying again will not help."""


class Interrupted(Exception):
    """Not the caller and not the command itself ended it; how it would have ended is unknown. It can be run again."""


async def run(
    command: Command,
    *,
    stdout: Path,
    stderr: Path,
    lock: Path,
    wall_seconds: float,
    idle_seconds: float | None = None,
    grace_seconds: float = 5.0,
    on_line: Callable[[str], None] | None = None,
    finished: Callable[[], bool] | None = None,
    linger_seconds: float = 10.0,
    stop: Callable[[], bool] = lambda: False,
) -> Ended:
    """Runs a command to its end and leaves nothing of it behind, whichever way this function is left.

    `stdout` and `stderr` are truncated and get the complete output; they may be the same path. Lines of `stdout` go to
    `on_line` while it runs, decoded with replacement and without their line feed, the last one also when it has none.
    Their growth is what counts as activity for `idle_seconds`. Once `finished()` is true after lines were fed, only
    `linger_seconds` count; once `stop()` is true it is ended at once. All seconds are from the start of the command,
    looked at five times a second, and so are both callbacks.

    `lock` is held from before the start until nothing is left of the command, by its supervisor alone. Whoever holds it
    is ended (SIGTERM, its own grace): a second run of the same turn so replaces the first one, in this worker, a frozen
    or a dead one.

    Raises CannotStart, Busy, Interrupted (evicted by another run, or the supervisor was killed), and OSError if the
    output cannot be written. Cancelled, or when a callback raises: everything is ended before the exception leaves,
    further cancellations notwithstanding.
    """
    held = await fence.take(lock)
    proxy = Proxy(command.sandbox.network if command.sandbox else "full", command.argv[0])
    disk = DiskWatch(_writable(command), command.limits.disk)
    with (
        held,
        Transcript(stdout, stderr, on_line) as transcript,
        closing(proxy),
        closing(disk),
        cgroup.of(command.limits) as group,
    ):
        child = Supervised(
            command,
            stdout=stdout,
            stderr=stderr,
            grace_seconds=grace_seconds,
            lock=held,
            group=group.fd if group else None,
        )
        held.close()  # the supervisor has it now; a worker that is frozen must not keep it
        started = time.monotonic()
        gone = child.gone(proxy.serve)
        try:
            by = await _watch(
                gone, transcript, started, wall_seconds, idle_seconds, finished, linger_seconds, stop, disk
            )
        finally:
            child.end()
            await _whatever_happens(gone)
        seconds = time.monotonic() - started
        await transcript.follow()
        transcript.finish()
        over = disk.over or (group.over() if group else "")
    exit_code = child.exit_code()
    limit = child.limit() or over if by in ("exit", "limit") else ""
    by = "limit" if limit else by
    return Ended(exit_code if by == "exit" else None, by, seconds, limit)


class Supervised:
    """A command under its supervisor: it ends with this object or this process. `run` for what lives as long as a turn.

    Use it as a context manager, or call `stop`. Raises CannotStart for what can be known before the command is looked
    for; whether it was found is told by `alive` and by the file `stderr`. `lock` is a locked file that the supervisor
    keeps open to its end, `group` the `cgroup.procs` of the cgroup that the command is to be in.
    """

    def __init__(
        self,
        command: Command,
        *,
        stdout: Path,
        stderr: Path,
        grace_seconds: float = 5.0,
        lock: BinaryIO | None = None,
        group: int | None = None,
    ) -> None:
        self._name = command.argv[0]
        self._said = b""
        self._stderr = stderr
        self._command = command
        if not command.cwd.is_dir():
            raise CannotStart(f"cannot start {self._name}: {command.cwd} is not a directory")
        self._control, theirs = socket.socketpair()
        with theirs, ExitStack() as files:
            lock_fd = -1 if lock is None else lock.fileno()
            namespace = prefix(command.sandbox, command.cwd)
            info = []
            if namespace and lock_fd >= 0:
                info = [_closing(files, os.dup(lock_fd))]  # the supervisor's pid goes there: {"child-pid": …}
                namespace += ["--info-fd", str(info[0])]
            out, err = (_closing(files, os.open(path, _TRANSCRIPT, 0o666)) for path in (stdout, stderr))
            try:
                stdin = _file_with(files, command.stdin) if command.stdin else subprocess.DEVNULL
                proxied = proxy_environment(command.sandbox.network) if command.sandbox else {}
                environment = _file_with(files, _encoded({**command.env, **proxied}))
                self._popen = subprocess.Popen(
                    [
                        *([*namespace, "--"] if namespace else []),
                        *(sys.executable, "-I", "-S", "-X", "utf8", str(_SUPERVISE)),
                        *(str(theirs.fileno()), str(environment), str(lock_fd)),
                        *(str(grace_seconds), _limits(command, group), "--", *command.argv),
                    ],
                    cwd=command.cwd,
                    env=_own_environment(),
                    stdin=stdin,
                    stdout=out,
                    stderr=err,
                    pass_fds=[fd for fd in (theirs.fileno(), environment, lock_fd, group or -1, *info) if fd >= 0],
                    start_new_session=True,  # Ctrl-C in the worker's terminal is for the worker
                )
            except (OSError, ValueError) as error:
                raise _refused(self._name, error) from error
        self._control.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def alive(self) -> bool:
        """False as soon as nothing of it is left."""
        try:
            self._control.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:  # closed
            pass
        return False

    def stop(self) -> None:
        """Ends it and waits until nothing is left: its grace and a moment. A second call does nothing."""
        if self._control.fileno() < 0:
            return
        self.end()
        self._control.setblocking(True)
        while said := self._control.recv(4096):
            self._said += said
        self._popen.wait()
        self._control.close()

    def end(self) -> None:
        """Asks for the end and does not wait for it."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)

    def gone(self, on_listener: Callable[[socket.socket], None] = socket.socket.close) -> asyncio.Future[None]:
        """Done when nothing is left. Not a task: those are cancelled at the end of the loop, this must not be.

        `on_listener` gets the socket on which a sandbox's proxy is to answer, if it has one.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def read() -> None:
            said, fds, _, _ = socket.recv_fds(self._control, 4096, 1)
            for fd in fds:
                on_listener(socket.socket(fileno=fd))
            self._said += said
            if not said:
                loop.remove_reader(self._control)
                reap()

        def reap() -> None:
            # A moment after the supervisor's socket is closed: by then the kernel has emptied its namespace.
            if self._popen.poll() is None:
                loop.call_later(0.001, reap)
            else:
                self._control.close()
                future.set_result(None)

        loop.add_reader(self._control, read)
        return future

    def exit_code(self) -> int | None:
        """How it ended, once nothing is left; negative for a signal, None if it was asked to. Raises as `run` does."""
        word, _, number = self._word()
        match word:
            case "exit":
                return int(number)
            case "signal":
                return -int(number)
            case "asked" | "limit":
                return None
            case "cannot" if self._command.sandbox and Path(self._name).is_absolute() and Path(self._name).exists():
                raise CannotStart(
                    f"{self._name} is not seen in the sandbox: name it in `read` of [sandbox] in config.toml"
                )
            case "cannot":
                raise _refused(self._name, OSError(int(number), os.strerror(int(number))))
            case "lost":
                raise OSError(int(number), f"the output of {self._name} cannot be written: {os.strerror(int(number))}")
            case "stopped":
                raise Interrupted(f"{self._name} was ended from outside, by another attempt or by hand")
        if self._command.sandbox and self._popen.returncode == 1:  # bubblewrap has not come to start it
            raise CannotStart(f"no sandbox for {self._name}: {self._stderr.read_text(errors='replace').strip()[-300:]}")
        raise Interrupted(f"the supervisor of {self._name} was killed")

    def _word(self) -> tuple[str, str, str]:
        return self._said.decode().strip().partition("\n")[0].partition(" ")

    def limit(self) -> str:
        """Which limit it was ended for, once nothing is left; else empty."""
        word, _, what = self._word()
        if word != "limit":
            return ""
        name, used = what.split()
        return over_limit(name, int(used), getattr(self._command.limits, name))


# --- how a supervisor is started -------------------------------------------------------------------------------------

_SUPERVISE = Path(__file__).with_name("supervise.py")
_TRANSCRIPT = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_LASTING = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENOEXEC, errno.E2BIG, errno.ENAMETOOLONG, errno.ELOOP)


def _limits(command: Command, group: int | None) -> str:
    """For the supervisor."""
    limits, sandbox = command.limits, command.sandbox
    given = {
        "memory": limits.memory,
        "processes": limits.processes,
        "output": limits.output,
        "file": limits.disk,
        "files": limits.open_files,
        "nice": limits.nice or None,
        "dev": 1 if sandbox else None,
        "group": group,
    }
    if sandbox and not isinstance(sandbox.network, str):
        given |= {f"port{port}": port for port in (PROXY_PORT, *own_ports(sandbox.network))}
    return ",".join(f"{name}={value}" for name, value in given.items() if value is not None)


def _writable(command: Command) -> list[Path]:
    """What counts for its disk space: where it works, and what it has of its own."""
    return [command.cwd, *(command.sandbox.instead.values() if command.sandbox else ())]


def _own_environment() -> dict[str, str]:
    """Of the supervisor. The command can read it in /proc, so it holds only what Python may need to start."""
    return {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}


def _encoded(environment: dict[str, str]) -> bytes:
    for name, value in environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"{name!r} cannot be an environment variable")
    return b"".join(os.fsencode(f"{name}={value}\0") for name, value in environment.items())


def _file_with(files: ExitStack, content: bytes) -> int:
    """A nameless file, to be read from its start."""
    file = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    file.write(content)
    file.seek(0)
    return file.fileno()


def _closing(files: ExitStack, fd: int) -> int:
    files.callback(os.close, fd)
    return fd


def _refused(name: str, error: OSError | ValueError) -> Exception:
    """CannotStart for what will be the same the next time; no memory, no processes and the like may pass."""
    if isinstance(error, OSError) and error.errno not in _LASTING:
        return error
    return CannotStart(f"cannot start {name}: {getattr(error, 'strerror', None) or error}")


# --- how `run` waits -------------------------------------------------------------------------------------------------


async def _watch(
    gone: asyncio.Future[None],
    transcript: Transcript,
    started: float,
    wall_seconds: float,
    idle_seconds: float | None,
    finished: Callable[[], bool] | None,
    linger_seconds: float,
    stop: Callable[[], bool],
    disk: DiskWatch,
) -> Literal["exit", "wall", "idle", "finished", "stopped", "limit"]:
    """Until it is gone or must go. Reads the output while it waits."""
    active, done = started, None
    while True:
        await asyncio.wait({gone}, timeout=POLL_SECONDS)
        if gone.done():
            return "exit"
        grew = await transcript.follow()
        now = time.monotonic()
        if grew:
            active = now
        disk.look()
        if disk.over:
            return "limit"
        if stop():
            return "stopped"
        if done is None and finished is not None and finished():
            done = now
        if done is not None:
            if now - done >= linger_seconds:
                return "finished"
        elif now - started >= wall_seconds:
            return "wall"
        elif idle_seconds is not None and now - active >= idle_seconds:
            return "idle"


async def _whatever_happens(gone: asyncio.Future[None]) -> None:
    """Waits also if it is cancelled, as often as that is; the cancellation is let through afterwards."""
    cancelled = None
    while not gone.done():
        try:
            await asyncio.wait({gone})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
