"""Runs one command and ends everything that it started: the program behind `process.py`, standard library only.

usage: python -I -S supervise.py CONTROL ENVIRONMENT LOCK GRACE_SECONDS -- ARGV...

CONTROL      A socket. End of file there: whoever asked for the command is gone, or wants it ended. At the very end one
             line is written to it that says how it ended (see `_Outcome`).
ENVIRONMENT  A file with the command's whole environment, `NAME=value` and NUL for each. Ours is not inherited: what a
             task asks for (LD_PRELOAD) must not reach this program, and of the worker's nothing is to be seen here.
LOCK         A locked file, or -1. Nobody else holds it, so it is free when this process is gone and not before.

Rules:
1. The command is over when it and all its descendants are gone. This process is the first one of a PID namespace, or
   else a subreaper: whatever forked twice or made its own session becomes a child of it as soon as its parents are
   dead. So "no child left" is "nothing left".
2. It is ended by end of file on CONTROL, by SIGTERM, SIGINT or SIGHUP here, and by its own end when it leaves something
   behind: SIGTERM to all, and after the grace (at most a second for leftovers) SIGKILL to all until none is left.
3. In a namespace, SIGKILL to this process ends all as well: the kernel sees to it. Without one it ends the command
   itself (PR_SET_PDEATHSIG), while descendants of the command live on.
4. Output goes through pipes into our own standard output and error, which are files. If the command had the files
   themselves, a `> /dev/stderr` in a script would open its file anew and truncate what was said before.
"""

# Every turn and gate waits for this program to start: `signal`, `contextlib` and `pathlib` would each add 2 to 6 ms.
# ruff: noqa: PTH118, PTH123, PTH208, SIM105

import _signal as signal  # type: ignore[import-not-found]
import errno
import os
import select
import sys
import time

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LEFTOVER_SECONDS = 1.0
"""Grace for what a command leaves behind at its own end."""
_KILL_AGAIN_SECONDS = 0.05
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class _Outcome:
    """What is said at the end; the first cause counts, but lost output is always told.

    `exit N`, `signal N`: the command ended so. `cannot N`: it could not be started, errno (said by the child). `asked`:
    end of file on CONTROL. `stopped`: a signal to this process. `lost N`: its output could not be written, errno.
    """

    def __init__(self) -> None:
        self.text = ""

    def set(self, text: str) -> None:
        self.text = self.text or text

    def set_status(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.set(f"exit {code}" if code >= 0 else f"signal {-code}")


def main() -> None:
    control, environment, lock = (int(fd) for fd in sys.argv[1:4])
    grace, argv = float(sys.argv[4]), [os.fsencode(arg) for arg in sys.argv[6:]]
    for fd in (control, environment, lock):
        if fd >= 0:
            os.set_inheritable(fd, False)
    prctl = None
    if os.getpid() != 1:
        import ctypes  # 4 ms, so only without a namespace

        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        if lock >= 0:  # in a namespace bwrap writes the same, as we do not know our pid outside
            os.write(lock, b'{"child-pid": %d}' % os.getpid())
    with open(environment, "rb") as file:
        env = dict(entry.split(b"=", 1) for entry in file.read().split(b"\0") if entry)

    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    pumps, stdout, stderr = _pipes()
    command = os.fork()
    if command == 0:
        _become(argv, env, stdout, stderr, control, prctl)
    for fd in {stdout, stderr}:
        os.close(fd)
    outcome = _watch(command, control, pumps, grace)
    try:
        os.write(control, outcome.text.encode())
    except OSError:
        pass  # nobody is there any more to be told
    os._exit(0)


def _pipes() -> tuple[dict[int, int], int, int]:
    """What to pump from where to where, and the command's ends. Both outputs in one file: one pipe, in order."""
    out, stdout = os.pipe()
    if os.path.samestat(os.fstat(1), os.fstat(2)):
        return {out: 1}, stdout, stdout
    err, stderr = os.pipe()
    return {out: 1, err: 2}, stdout, stderr


def _become(argv: list[bytes], env: dict[bytes, bytes], stdout: int, stderr: int, control: int, prctl) -> None:  # type: ignore[no-untyped-def]
    """The child: turns into the command, or says why not. Does not return."""
    try:
        os.setsid()  # `kill 0` in a script must not reach us
        if prctl:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        # Python ignores SIGPIPE, and a worker started in the background SIGINT: neither is the command's choice.
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        error = _execute(argv, env)
        os.write(2, argv[0] + f": {os.strerror(error)}\n".encode())
        os.write(control, f"cannot {error}\n".encode())
    finally:
        os._exit(127)


def _execute(argv: list[bytes], env: dict[bytes, bytes]) -> int:
    """Does not return if the program can be executed; else the errno. It is looked for in the command's own PATH."""
    error = errno.ENOENT
    folders = [b""] if b"/" in argv[0] else env.get(b"PATH", os.defpath.encode()).split(b":")
    for folder in folders:
        try:
            os.execve(os.path.join(folder, argv[0]), argv, env)
        except OSError as failed:
            if failed.errno not in (None, errno.ENOENT, errno.ENOTDIR):
                error = failed.errno
    return error


def _watch(command: int, control: int, pumps: dict[int, int], grace: float) -> _Outcome:
    """Until nothing is left. Signals must be blocked; they are let in here, and wake `poll` through a pipe."""
    outcome = _Outcome()
    wake, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    for number in _STOPS:
        signal.signal(number, lambda *_: outcome.set("stopped"))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    for fd in (control, wake, *pumps):
        poll.register(fd, select.POLLIN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    deadline: float | None = None
    while _reap(command, outcome):
        now = time.monotonic()
        if deadline is None and outcome.text:
            by_itself = outcome.text.startswith(("exit", "signal"))
            deadline = now + (min(grace, _LEFTOVER_SECONDS) if by_itself else grace)
            _signal_all(signal.SIGTERM)
        elif deadline is not None and now >= deadline:
            deadline = now + _KILL_AGAIN_SECONDS
            _signal_all(signal.SIGKILL)
        for fd, _ in poll.poll(None if deadline is None else int((deadline - now) * 1000) + 1):
            if fd == wake:
                os.read(wake, 4096)
            elif fd == control:
                poll.unregister(control)
                outcome.set("asked")
            elif not _pump(fd, pumps[fd], outcome):
                poll.unregister(fd)
    for source, target in pumps.items():
        os.set_blocking(source, False)
        while _pump(source, target, outcome):
            pass
    return outcome


def _reap(command: int, outcome: _Outcome) -> bool:
    """Whether a child is left, after all that are dead have been collected."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        if pid == command:
            outcome.set_status(status)


def _pump(source: int, target: int, outcome: _Outcome) -> bool:
    """Moves some of it; False when no more will come or, from a source that does not block, when there is none now."""
    try:
        chunk = os.read(source, 65536)
    except BlockingIOError:
        return False
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[os.write(target, rest) :]
    except OSError as error:  # a full disk; go on reading, so that the command can end
        outcome.text = f"lost {error.errno}"
    return bool(chunk)


def _signal_all(number: int) -> None:
    for pid in [-1] if os.getpid() == 1 else _descendants():
        try:
            os.kill(pid, number)
        except OSError:
            pass  # gone meanwhile, or not ours to signal


def _descendants() -> list[int]:
    """By the parent of every process: /proc/<pid>/children leaves out those that a second thread has started."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    found = list(children.get(os.getpid(), ()))
    for pid in found:
        found += children.get(pid, ())
    return found


if __name__ == "__main__":
    main()
