"""Runs one command and ends everything that it started: the program behind `process.py`, standard library only.

usage: python -I -S supervise.py CONTROL ENVIRONMENT LOCK GRACE_SECONDS LIMITS -- ARGV...

CONTROL      A socket. End of file there: whoever asked for the command is gone, or wants it ended. At the very end one
             line is written to it that says how it ended (see `_Outcome`).
ENVIRONMENT  A file with the command's whole environment, `NAME=value` and NUL for each. Ours is not inherited: what a
             task asks for (LD_PRELOAD) must not reach this program, and of the worker's nothing is to be seen here.
LOCK         A locked file, or -1. Nobody else holds it, so it is free when this process is gone and not before.
LIMITS       `name=number,…`, see `_Limits`; what is not named is unlimited. For each `port…`, a socket that listens
             there on 127.0.0.1 is made and sent to CONTROL: so whoever is outside of a network namespace can answer
             inside. `group` is the open `cgroup.procs` of a cgroup that the command goes into.

Rules:
1. The command is over when it and all its descendants are gone. This process is the first one of a PID namespace, or
   else a subreaper: whatever forked twice or made its own session becomes a child of it as soon as its parents are
   dead. So "no child left" is "nothing left".
2. It is ended by end of file on CONTROL, by SIGTERM, SIGINT or SIGHUP here, and by its own end when it leaves something
   behind: SIGTERM to all, and after the grace (at most a second for leftovers) SIGKILL to all until none is left.
3. In a namespace, SIGKILL to this process ends all as well: the kernel sees to it. Without one it ends the command
   itself (PR_SET_PDEATHSIG), while descendants of the command live on.
4. What is over a limit is ended at once, all of it, by SIGKILL. Looked at twice a second.
5. Output goes through pipes into our own standard output and error, which are files. If the command had the files
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
_LOOK_SECONDS = 0.5
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class _Outcome:
    """What is said at the end; the first cause counts, but lost output is always told.

    `exit N`, `signal N`: the command ended so. `cannot N`: it could not be started, errno (said by the child). `asked`:
    end of file on CONTROL. `stopped`: a signal to this process. `lost N`: its output could not be written, errno.
    `limit NAME USED`: it was over that limit.
    """

    def __init__(self) -> None:
        self.text = ""

    def set(self, text: str) -> None:
        self.text = self.text or text

    def set_status(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.set(f"exit {code}" if code >= 0 else f"signal {-code}")


class _Limits:
    """Of all processes together: `memory` (bytes, not shared and in /dev, which is a sandbox's own with `dev`),
    `processes` (threads, too), `output` (bytes). Of each one: `files` that are open, `file` (bytes of one), `nice`."""

    def __init__(self, text: str) -> None:
        self.given = {name: int(value) for name, _, value in (part.partition("=") for part in text.split(",") if part)}
        self.written = 0
        self.looks = "processes" in self.given or "memory" in self.given

    def over(self, name: str, used: int) -> str:
        return f"limit {name} {used}" if used > self.given.get(name, used) else ""

    def look(self) -> str:
        """Which is exceeded now; else empty."""
        found = _processes()
        threads = sum(stat.threads for stat in found.values())
        resident = sum(stat.resident for stat in found.values()) + self._in_dev()
        if over := self.over("processes", threads):
            return over
        # What is shared counts once for each who shares it, so that is only a reason to look closer.
        return self.over("memory", resident) and self.over("memory", sum(map(_memory, found)) + self._in_dev())

    def _in_dev(self) -> int:
        if "dev" not in self.given:
            return 0
        there = os.statvfs("/dev")
        return (there.f_blocks - there.f_bfree) * there.f_frsize

    def impose(self) -> None:
        """On this process and those that it starts."""
        import resource

        if "group" in self.given:
            try:
                os.write(self.given["group"], b"0")
            except OSError:
                pass  # it is watched all the same
        wanted = {resource.RLIMIT_NOFILE: self.given.get("files"), resource.RLIMIT_FSIZE: self.given.get("file")}
        if os.getpid() == 2 and "processes" in self.given:  # outside of a namespace all that the user runs would count
            # Root is exempt. For others a fork bomb stops growing here, and is still seen to be over its limit.
            wanted[resource.RLIMIT_NPROC] = 2 * self.given["processes"]
        for kind, most in wanted.items():
            hard = resource.getrlimit(kind)[1]
            if most is not None:
                most = most if hard == resource.RLIM_INFINITY else min(most, hard)
                resource.setrlimit(kind, (most, most))
        os.nice(self.given.get("nice", 0))
        if "memory" in self.given:
            try:
                with open("/proc/self/oom_score_adj", "w") as file:  # if the kernel runs out of it: this, and no worker
                    file.write("500")
            except OSError:
                pass  # a container's /proc may be read-only


def main() -> None:
    control, environment, lock = (int(fd) for fd in sys.argv[1:4])
    grace, limits, argv = float(sys.argv[4]), _Limits(sys.argv[5]), [os.fsencode(arg) for arg in sys.argv[7:]]
    for fd in (control, environment, lock, limits.given.get("group", -1)):
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

    for name, port in limits.given.items():
        if name.startswith("port"):
            _send_listener(control, port)
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    pumps, stdout, stderr = _pipes()
    command = os.fork()
    if command == 0:
        _become(argv, env, stdout, stderr, control, limits, prctl)
    for fd in {stdout, stderr}:
        os.close(fd)
    outcome = _watch(command, control, pumps, grace, limits)
    try:
        os.write(control, outcome.text.encode())
    except OSError:
        pass  # nobody is there any more to be told
    os._exit(0)


def _send_listener(control: int, port: int) -> None:
    import _socket

    listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:  # a low one, which only root may have
        return
    listener.listen(128)
    channel = _socket.socket(fileno=control)
    fd = listener.fileno().to_bytes(4, sys.byteorder)
    channel.sendmsg([b"\n"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd)])
    channel.detach()


def _pipes() -> tuple[dict[int, int], int, int]:
    """What to pump from where to where, and the command's ends. Both outputs in one file: one pipe, in order."""
    out, stdout = os.pipe()
    if os.path.samestat(os.fstat(1), os.fstat(2)):
        return {out: 1}, stdout, stdout
    err, stderr = os.pipe()
    return {out: 1, err: 2}, stdout, stderr


def _become(  # type: ignore[no-untyped-def]
    argv: list[bytes], env: dict[bytes, bytes], stdout: int, stderr: int, control: int, limits: _Limits, prctl
) -> None:
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
        limits.impose()
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


def _watch(command: int, control: int, pumps: dict[int, int], grace: float, limits: _Limits) -> _Outcome:
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
    looked = 0.0
    while _reap(command, outcome):
        now = time.monotonic()
        if limits.looks and now - looked >= _LOOK_SECONDS and not outcome.text.startswith("limit"):
            if over := limits.look():
                outcome.text, deadline = over, now
            looked = time.monotonic()
        if deadline is None and outcome.text:
            by_itself = outcome.text.startswith(("exit", "signal"))
            deadline = now + (min(grace, _LEFTOVER_SECONDS) if by_itself else grace)
            _signal_all(signal.SIGTERM)
        elif deadline is not None and now >= deadline:
            deadline = now + _KILL_AGAIN_SECONDS
            _signal_all(signal.SIGKILL)
        wait = [_LOOK_SECONDS] * limits.looks + ([] if deadline is None else [deadline - now])
        for fd, _ in poll.poll(int(min(wait) * 1000) + 1 if wait else None):
            if fd == wake:
                os.read(wake, 4096)
            elif fd == control:
                poll.unregister(control)
                outcome.set("asked")
            elif not _pump(fd, pumps[fd], outcome, limits):
                poll.unregister(fd)
            elif outcome.text.startswith("limit"):
                deadline = now
    for source, target in pumps.items():
        os.set_blocking(source, False)
        while _pump(source, target, outcome, limits):
            pass
    return outcome


def _reap(command: int, outcome: _Outcome) -> bool:
    """Whether a child is left, after those that are dead have been collected; a fork bomb makes new ones meanwhile."""
    for _ in range(1000):
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        if pid == command:
            outcome.set_status(status)
    return True


def _pump(source: int, target: int, outcome: _Outcome, limits: _Limits) -> bool:
    """Moves some of it; False when no more will come or, from a source that does not block, when there is none now."""
    try:
        chunk = os.read(source, 65536)
    except BlockingIOError:
        return False
    limits.written += len(chunk)
    if over := limits.over("output", limits.written):
        outcome.text = over
        return bool(chunk)
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


class _Stat:
    def __init__(self, text: bytes) -> None:
        fields = text.rpartition(b")")[2].split()
        self.parent, self.threads, self.resident = int(fields[1]), int(fields[17]), int(fields[21]) * _PAGE


_PAGE = os.sysconf("SC_PAGE_SIZE")


def _all() -> dict[int, _Stat]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    found[int(name)] = _Stat(file.read())
            except OSError:
                continue
    return found


def _processes() -> dict[int, _Stat]:
    """All but this one."""
    found = _all()
    mine = [pid for pid in found if pid != 1] if os.getpid() == 1 else _descendants(found)
    return {pid: found[pid] for pid in mine}


def _descendants(processes: dict[int, _Stat] | None = None) -> list[int]:
    """By the parent of every process: /proc/<pid>/children leaves out those that a second thread has started."""
    children: dict[int, list[int]] = {}
    for pid, stat in (_all() if processes is None else processes).items():
        children.setdefault(stat.parent, []).append(pid)
    found = list(children.get(os.getpid(), ()))
    for pid in found:
        found += children.get(pid, ())
    return found


def _memory(pid: int) -> int:
    """What is a process's own, by the kernel; files that are mapped are not, they can be read again."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return sum(int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss_Anon:"))
    except OSError:
        return 0


if __name__ == "__main__":
    main()
