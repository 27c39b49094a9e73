"""What a command in a sandbox can see and do: attempts to do what it must not, under the real supervisor."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import socketserver
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from temporalio.client import Client

from activities import boxes, process
from activities.addresses import is_public
from activities.agents.base import Keeps
from activities.config import BadConfig, Config, Resources, SandboxSettings
from activities.git.repository import open_repository
from activities.git.worktree import create
from activities.process import CannotStart, Command, Ended, Interrupted
from activities.proxy import allowed
from activities.sandbox import Limits, Network
from console import doctor
from tests.git.repos import git, make_repo
from tests.kit import Kit, status_when
from tests.test_process import STUBBORN_TREE, marked, start, until
from workflows.contracts import TaskStatus

pytestmark = pytest.mark.skipif(
    bool(process.sandbox_problem()), reason=f"no sandbox on this machine: {process.sandbox_problem()}"
)


@dataclass
class Cell:
    """A task's worktree of a user's repository, as an agent of the task has it."""

    folder: Path
    template: Path
    mark: str = field(default_factory=lambda: f"cell-{uuid.uuid4().hex}")
    lines: list[str] = field(default_factory=list)
    limits: Limits = field(default_factory=lambda: Resources().limits())
    network: Network = ("*",)
    settings: SandboxSettings = field(default_factory=SandboxSettings)
    keeps: tuple[Keeps, ...] = ()

    def __post_init__(self) -> None:
        self.home, self.data = self.folder / "user", self.folder / "data"
        self.home.mkdir()
        (self.home / ".ssh").mkdir()
        (self.home / ".ssh" / "id_rsa").write_text("SECRET\n")
        self.repo = self.home / "src" / "app"
        shutil.copytree(self.template, self.repo)
        self.repository = open_repository(str(self.repo))
        self.tree = self.worktree("task-1")

    def worktree(self, key: str) -> Path:
        path, main = self.data / "worktrees" / key, git(self.repo, "rev-parse", "main")
        return create(self.repository, path, key, f"mergewright/{key}", main, "refs/heads/main").path

    def command(self, script: str) -> Command:
        temporary = str(boxes.temporary_of(self.data / "box"))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = {
            **process.base_environment(),
            "PATH": path,
            "HOME": str(self.home),
            "TMPDIR": temporary,
            "MARK": self.mark,
        }
        sandbox = boxes.make(
            self.settings, self.data / "box", env,
            data=self.data, write=[self.tree], read=[*boxes.of_repository(self.repository)],
            keeps=self.keeps, network=self.network,
        )  # fmt: skip
        return Command(["bash", "-c", script], self.tree, env, sandbox=sandbox, limits=self.limits)

    async def run(self, script: str, **options: Any) -> Ended:
        given = {"wall_seconds": 60, "grace_seconds": 0.3, "on_line": self.lines.append, **options}
        files = {name: self.folder / name for name in ("stdout", "stderr", "lock")}
        return await process.run(self.command(script), **files, **given)

    async def says(self, script: str, **options: Any) -> str:
        """All that it prints, on both outputs."""
        self.lines.clear()
        await self.run(f"exec 2>&1\n{script}", **options)
        return "\n".join(self.lines)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repo(tmp_path_factory.mktemp("template") / "repo", files={"app.py": "VALUE = 1\n"})


@pytest.fixture
def cell(tmp_path: Path, template: Path) -> Iterator[Cell]:
    made = Cell(tmp_path, template)
    yield made
    for pid in marked(made.mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --- what it sees ----------------------------------------------------------------------------------------------------


async def test_it_works_and_commits_in_its_worktree(cell: Cell) -> None:
    said = await cell.says("echo 'VALUE = 2' > app.py && git commit -qam two && git log --format=%s && pwd")
    assert said.splitlines() == ["two", "first", str(cell.tree)]
    assert (cell.tree / "app.py").read_text() == "VALUE = 2\n"


async def test_nothing_of_the_home_is_seen_but_what_is_named(cell: Cell) -> None:
    (cell.home / "notes").write_text("mine\n")
    (cell.home / ".netrc").write_text("password\n")
    git(cell.repo, "config", "remote.up.url", "https://TOKEN@example.org/")
    cell.settings = SandboxSettings(read=[str(cell.home / "notes")], hide=[f"{cell.repo}/.git/config"])
    said = await cell.says(
        "cat ~/.ssh/id_rsa ~/.netrc ~/src/app/.git/config; ls ~/.ssh; cat ~/notes; echo more > ~/notes; ls /home /run"
    )
    assert "SECRET" not in said
    assert "password" not in said
    assert "TOKEN" not in said
    assert "mine" in said
    assert (cell.home / "notes").read_text() == "mine\n"


async def test_a_program_that_is_not_seen_is_told_apart(cell: Cell) -> None:
    program = cell.home / "agent"
    program.write_text("#!/bin/sh\necho hello\n")
    program.chmod(0o755)
    files = {name: cell.folder / name for name in ("stdout", "stderr", "lock")}
    with pytest.raises(CannotStart, match=f"{program} is not seen in the sandbox: name it in `read`"):
        await process.run(replace(cell.command(""), argv=[str(program)]), **files, wall_seconds=60)
    cell.settings = SandboxSettings(read=[str(program)])
    assert (await process.run(replace(cell.command(""), argv=[str(program)]), **files, wall_seconds=60)).exit_code == 0


async def test_its_own_home_and_temporary_files_are_kept(cell: Cell) -> None:
    await cell.says("echo one > ~/kept; echo two > /tmp/kept; echo three > $TMPDIR/other")
    assert await cell.says("cat ~/kept /tmp/kept /var/tmp/other") == "one\ntwo\nthree"
    assert not (cell.home / "kept").exists()
    assert not Path("/tmp/kept").exists()


async def test_a_data_folder_that_is_the_home(cell: Cell) -> None:
    cell.home = cell.data
    assert await cell.says("echo kept > ~/kept; ls ~") == "box\nkept\nworktrees"
    assert await cell.says("cat ~/kept; ls ~/worktrees") == "kept\ntask-1"
    assert not (cell.data / "kept").exists()


async def test_no_other_task_nor_the_worker_is_seen(cell: Cell) -> None:
    other = cell.worktree("task-2")
    (other / "private").write_text("OTHERS\n")
    (cell.data / "config.toml").write_text("KEYS\n")
    said = await cell.says(f"cat {other}/private {cell.data}/config.toml; ls {cell.data} {cell.data}/worktrees")
    assert "OTHERS" not in said
    assert "KEYS" not in said
    assert said.splitlines()[-1] == "task-1"


async def test_the_worker_s_environment_is_not_seen(cell: Cell) -> None:
    secret = uuid.uuid4().hex
    with start("env", f"WORKERS_KEY={secret}", "sleep", "60") as neighbour:
        said = await cell.says("cat /proc/*/environ /proc/$PPID/environ | tr '\\0' '\\n'; ls /proc | grep -c '^[0-9]'")
        neighbour.kill()
    assert secret not in said
    assert "TEMPORAL" not in said
    assert int(said.splitlines()[-1]) <= 6  # the supervisor, the shell, and what it runs


# --- what it writes --------------------------------------------------------------------------------------------------


USERS = [
    "app.py",
    *(f".git/{name}" for name in ("config", "hooks/post-commit", "refs/heads/main", "HEAD", "objects/x")),
]


async def test_the_user_s_checkout_cannot_be_written(cell: Cell) -> None:
    files = [cell.repo / name for name in USERS]
    before = [file.read_bytes() if file.exists() else None for file in files]
    for file in files:
        said = await cell.says(
            f"echo hacked >> {file}; rm -f {file}; mv {file} {file}.old; ln -sf x {file}; mkdir {file}"
        )
        assert said.count("Read-only file system") >= 3
    assert [file.read_bytes() if file.exists() else None for file in files] == before


async def test_neither_git_nor_the_clone_lead_into_the_repository(cell: Cell) -> None:
    lent = cell.tree / ".git" / "objects" / "info" / "alternates"
    said = await cell.says(
        f"git -C {cell.repo} commit --allow-empty -m x; git -C {cell.repo} update-ref refs/heads/main HEAD~0 ''; "
        f"git -C {cell.repo} config core.hooksPath /tmp; git push {cell.repo} HEAD:main HEAD:refs/heads/new; "
        f"rm $(cat {lent})/../HEAD; cat {lent}"
    )
    assert "Read-only file system" in said
    assert git(cell.repo, "for-each-ref", "--format=%(refname)", "refs/heads") == "refs/heads/main"
    assert git(cell.repo, "config", "--default", "none", "core.hooksPath") == "none"


async def test_another_worktree_cannot_be_written(cell: Cell) -> None:
    other = cell.worktree("task-2")
    await cell.says(f"mkdir -p {other}; echo hacked > {other}/app.py; rm -rf {cell.data}/worktrees/*")
    assert (other / "app.py").read_text() == "VALUE = 1\n"
    assert (cell.tree / "app.py").exists() is False  # its own it may empty


async def test_the_machine_cannot_be_written(cell: Cell) -> None:
    places = ["/usr/bin/x", "/etc/x", "/opt/x", "/var/lib/x", "/x", f"{sys.prefix}/x", "/proc/sys/x", "/sys/x"]
    await cell.says("".join(f"echo hacked > {place};" for place in places))
    assert [place for place in places if Path(place).exists()] == []


async def test_mounts_stay_as_they_are(cell: Cell) -> None:
    """Also for root: to take away what covers a home needs a right that it has not."""
    said = await cell.says(
        f"umount {cell.home}; umount -l /tmp; mount -o remount,rw /; mount -t tmpfs x /mnt; mknod d b 254 0; "
        f"for how in -m -Ur -Urm; do unshare $how sh -c 'umount {cell.home}; cat ~/.ssh/id_rsa'; done"
    )
    assert "SECRET" not in said
    assert not (cell.tree / "d").exists()
    assert await cell.says("touch /usr/x") != ""


async def test_what_a_cli_keeps(cell: Cell) -> None:
    folder = cell.home / ".tool"
    folder.mkdir()
    for name in ("login", "settings", "state", "history"):
        (folder / name).write_text(f"{name}\n")
    cell.keeps = (Keeps(("$TOOL_HOME", "~/.tool"), login=("login",), settings=("settings",), copied=("state",)),)
    said = await cell.says(
        "cd ~/.tool; cat login settings state history; for f in *; do echo new >> $f; done; echo x > made"
    )
    assert said.splitlines()[:3] == ["login", "settings", "state"]
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "login": "login\nnew\n", "settings": "settings\n", "state": "state\n", "history": "history\n",
    }  # fmt: skip
    assert await cell.says("cat ~/.tool/state ~/.tool/made") == "state\nnew\nx"


async def test_a_link_that_was_left_in_the_box_leads_nowhere(cell: Cell) -> None:
    """Bubblewrap makes the places that it mounts on."""
    outside = cell.folder / "outside"
    outside.mkdir()
    (cell.home / ".tool").mkdir()
    (cell.home / ".tool" / "settings").write_text("mine\n")
    await cell.says(f"ln -s /oldroot{outside} ~/.tool; ln -s {outside} ~/src")
    cell.keeps = (Keeps(("~/.tool",), settings=("settings",)),)
    assert await cell.says("cat ~/.tool/settings") == "mine"
    assert list(outside.iterdir()) == []


# --- other processes -------------------------------------------------------------------------------------------------


async def test_no_other_process_can_be_signalled_or_traced(cell: Cell) -> None:
    with start("sleep", "60") as neighbour:
        trace = f"import ctypes; print(ctypes.CDLL(None, use_errno=True).ptrace(16, {neighbour.pid}, 0, 0))"
        said = await cell.says(f"kill -9 {neighbour.pid} {os.getpid()}; python3 -c '{trace}'; kill -9 -1")
        assert "No such process" in said
        assert "-1" in said
        assert neighbour.poll() is None
        neighbour.kill()


async def test_nothing_is_left_of_daemons(cell: Cell) -> None:
    ended = await cell.run(STUBBORN_TREE + "exit 3")
    assert (ended.exit_code, marked(cell.mark)) == (3, [])
    running = asyncio.create_task(cell.run(STUBBORN_TREE + "sleep 60"))
    await until(lambda: "ready" in cell.lines[1:])
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert marked(cell.mark) == []


async def test_a_second_run_evicts_the_first(cell: Cell) -> None:
    first = asyncio.create_task(cell.run("echo up; sleep 60"))
    await until(lambda: "up" in cell.lines)
    assert (await cell.run("true")).exit_code == 0
    with pytest.raises(Interrupted):
        await first


# --- the network -----------------------------------------------------------------------------------------------------


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hello) as serving:
        threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield serving.server_address[1]
        serving.shutdown()


@pytest.fixture
def direct_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of this machine's is in between."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


FETCH = """
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode().strip())
except OSError as error:
    print(error)
"""
CONNECT = """
import socket, sys
s = socket.create_connection(("127.0.0.1", 3128))
s.sendall(f"CONNECT {sys.argv[1]} HTTP/1.1\\r\\n\\r\\n".encode())
said = s.recv(1000).decode().split("\\r\\n")[0]
if " 200 " in said:
    s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    said += s.makefile().read().split("\\n")[-2]
print(said)
"""


async def test_without_a_network_there_is_none_but_its_own(cell: Cell, server: int) -> None:
    cell.network = "full"
    assert await cell.says(f"python3 -c '{FETCH}' http://127.0.0.1:{server}/") == "hello"
    cell.network = "none"
    assert "refused" in await cell.says(f"python3 -c '{FETCH}' http://127.0.0.1:{server}/")
    own = 'import socket; s = socket.create_server(("127.0.0.1", 0)); socket.create_connection(s.getsockname())'
    assert (await cell.run(f"python3 -c '{own}'")).exit_code == 0


@pytest.mark.usefixtures("direct_way")
async def test_only_hosts_of_the_list_are_reached(cell: Cell, server: int, capfd: pytest.CaptureFixture[str]) -> None:
    cell.network = (f"localhost:{server}",)
    fetch = f"NO_PROXY= no_proxy= python3 -c '{FETCH}' http"
    said = await cell.says(
        f"{fetch}://localhost:{server}/; {fetch}://127.0.0.1:{server}/; {fetch}://example.org/;"
        f"for to in localhost:{server} localhost:22 rubbish; do python3 -c '{CONNECT}' $to; done"
    )
    assert said.splitlines() == [
        "hello", "HTTP Error 403: Forbidden", "HTTP Error 403: Forbidden",
        "HTTP/1.1 200 Connection establishedhello", "HTTP/1.1 403 Forbidden", "HTTP/1.1 403 Forbidden",
    ]  # fmt: skip
    assert "example.org:80" in capfd.readouterr().out
    direct = 'import socket; socket.create_connection(("1.1.1.1", 443), 5)'
    assert "unreachable" in await cell.says(f"python3 -c '{direct}'")


@pytest.mark.usefixtures("direct_way")
async def test_of_all_hosts_none_is_this_one_or_a_neighbour(cell: Cell, server: int, client: Client) -> None:
    """Temporal, which asks nobody who they are, among them: by whatever name, address or notation."""
    temporal = int(client.service_client.config.target_host.rpartition(":")[2])
    ours = "127.0.0.2"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked, suppress(OSError):
        asked.connect(("192.0.2.99", 9))
        ours = asked.getsockname()[0]
    with socket.create_server((ours, 0)) as listening:
        places = [f"{host}:{temporal}" for host in ("localhost", "127.0.0.1", "127.1", "0", "2130706433", "[::1]")]
        places += [f"{host}:{temporal}" for host in ("0x7f.1", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "LOCALHOST.")]
        places += [f"{ours}:{listening.getsockname()[1]}", "169.254.169.254:80", "10.0.0.1:443", f"127.0.0.1:{server}"]
        said = await cell.says("".join(f"python3 -c '{CONNECT}' '{place}';" for place in places))
    assert said.splitlines() == ["HTTP/1.1 403 Forbidden"] * len(places)
    directly = f'import socket; socket.create_connection(("127.0.0.1", {temporal}), 5)'
    assert "refused" in await cell.says(f"python3 -c '{directly}'")


async def test_a_port_of_this_host_that_is_named_is_there(cell: Cell, server: int) -> None:
    """Also for what speaks to no proxy."""
    cell.network = ("*", place := f"127.0.0.1:{server}")
    said = await cell.says(f"python3 -c '{FETCH}' http://{place}/; python3 -c '{CONNECT}' {place}")
    assert said.splitlines() == ["hello", "HTTP/1.1 200 Connection establishedhello"]


SMUGGLE = """
import socket
def ask(*parts):
    s = socket.create_connection(("127.0.0.1", 3128))
    s.sendall("".join(parts).encode())
    s.makefile().read()
first, second = "POST http://name.example/ HTTP/1.1\\r\\n", "GET http://10.0.0.1/ HTTP/1.1\\r\\n\\r\\n"
ask(first, "Content-Length: 2\\r\\n\\r\\nhi", second)
ask(first, "Content-Length: 2\\r\\nContent-Length: 0\\r\\n\\r\\n", second)
ask(first, "Transfer-Encoding: chunked\\r\\n\\r\\n", second)
ask(first, "X: y\\n\\n", second)
"""
"""A request that nobody has judged, behind or in one that is fine."""


class _Above(socketserver.StreamRequestHandler):
    """The proxy of a company: notes what it is asked, and answers for all the world."""

    asked: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        head = b""
        while line := self.rfile.readline():
            head += line
            if line != b"\r\n":
                continue
            self.asked.append(head)
            if b"refused.example" in head:
                self.wfile.write(b"HTTP/1.1 407 Who are you\r\n\r\n")
                head = b""
            elif head.startswith(b"POST"):
                assert self.rfile.read(2) == b"hi"
                self.connection.settimeout(0.3)
                with suppress(TimeoutError):
                    self.asked.append(self.rfile.read(1))
                return
            else:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\nabove\n")
                return


@pytest.mark.usefixtures("direct_way")
async def test_by_way_of_another_proxy_no_neighbour_is_reached(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would look up the name where we cannot see it: and nobody speaks to it but for what we have judged."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Above) as above:
        above.daemon_threads = True
        threading.Thread(target=above.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://me:p%40ss@127.0.0.1:{above.server_address[1]}")
        fetch = f"NO_PROXY= no_proxy= python3 -c '{FETCH}' http"
        said = await cell.says(
            f"python3 -c '{SMUGGLE}'; {fetch}://name.example/x?y; {fetch}://127.0.0.1/; {fetch}://temporal/; "
            f"{fetch}://db.internal/; "
            f"for to in 127.1:7233 temporal:7233 refused.example:443; do python3 -c '{CONNECT}' $to; done"
        )
        above.shutdown()
    forbidden = "HTTP Error 403: Forbidden"
    assert said.splitlines() == ["above", *[forbidden] * 3, *["HTTP/1.1 403 Forbidden"] * 2, "HTTP/1.1 502 Bad Gateway"]
    assert [head.split(b" HTTP")[0] for head in _Above.asked] == [
        b"POST http://name.example:80/", b"GET http://name.example:80/x?y", b"CONNECT refused.example:443",
    ]  # fmt: skip
    assert all(b"Proxy-Authorization: Basic bWU6cEBzcw==\r\n" in head for head in _Above.asked)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True), ("2606:4700::1111", True), ("64:ff9b::101:101", True), ("::ffff:1.1.1.1", True),
        ("0.0.0.0", False), ("127.9.9.9", False), ("10.1.2.3", False), ("172.17.0.1", False), ("192.168.0.1", False),
        ("100.64.0.1", False), ("169.254.169.254", False), ("224.0.0.1", False), ("255.255.255.255", False),
        ("::", False), ("::1", False), ("fe80::1%lo", False), ("fd00:ec2::254", False), ("fec0::1", False),
        ("ff02::1", False), ("::ffff:10.0.0.1", False), ("2002:7f00:1::", False), ("64:ff9b::a00:1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_of_the_internet(address: str, public: bool) -> None:
    assert is_public(address) == public


@pytest.mark.parametrize(
    ("hosts", "host", "port", "fits"),
    [
        (("a.example",), "a.example", 443, True),
        (("a.example",), "A.Example.", 80, True),
        (("a.example",), "a.example", 22, False),
        (("a.example",), "b.a.example", 443, False),
        (("a.example",), "a.example.evil", 443, False),
        (("*.example",), "a.b.example", 443, True),
        (("*.example",), "example", 443, False),
        (("*.example",), "badexample", 443, False),
        (("a.example:8443",), "a.example", 8443, True),
        (("a.example:8443",), "a.example", 443, False),
        ((), "a.example", 443, False),
        (("*",), "a.example", 443, False),
    ],
)
def test_which_hosts_are_allowed(hosts: tuple[str, ...], host: str, port: int, fits: bool) -> None:
    assert allowed(hosts, host, port) == fits


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_a_fork_bomb(cell: Cell) -> None:
    cell.limits = Limits(processes=200)
    ended = await cell.run("bomb() { bomb | bomb & }; bomb; sleep 60")
    assert (ended.by, ended.exit_code, ended.limit.partition(":")[0]) == ("limit", None, "processes")
    assert marked(cell.mark) == []


async def test_threads_count_as_processes(cell: Cell) -> None:
    cell.limits = Limits(processes=50)
    threads = "import threading, time\nfor _ in range(80): threading.Thread(target=time.sleep, args=(60,)).start()"
    ended = await cell.run(f"python3 -c '{threads}'")
    assert (ended.by, ended.limit.endswith("and 50 are allowed")) == ("limit", True)


async def test_the_memory_of_all_together(cell: Cell) -> None:
    cell.limits = Limits(memory=150_000_000)
    eat = "import time; eaten = bytearray(60_000_000); time.sleep(60)"
    ended = await cell.run(f"for i in 1 2 3 4; do python3 -c '{eat}' & done; wait")
    assert ended.limit.startswith("memory: ")


async def test_files_in_memory_are_memory(cell: Cell) -> None:
    cell.limits = Limits(memory=150_000_000)
    ended = await cell.run("head -c 200000000 /dev/zero > /dev/shm/x; sleep 60")
    assert ended.limit.startswith("memory: ")


async def test_what_is_shared_counts_once(cell: Cell) -> None:
    cell.limits = Limits(memory=150_000_000)
    share = "import os, time\neaten = bytearray(100_000_000)\nfor _ in range(3): os.fork()\ntime.sleep(1.5)"
    assert (await cell.run(f"python3 -c '{share}'")).exit_code == 0


async def test_a_disk_filler(cell: Cell) -> None:
    cell.limits = Limits(disk=50_000_000)
    ended = await cell.run("i=0; while :; do i=$((i+1)); head -c 10000000 /dev/zero > ~/f$i; sleep 0.05; done")
    assert (ended.by, ended.limit.partition(":")[0]) == ("limit", "disk")


async def test_one_file_is_not_larger_than_the_disk_may_be(cell: Cell) -> None:
    cell.limits = Limits(disk=5_000_000)
    await cell.run("head -c 10000000 /dev/zero > large; true")
    assert (cell.tree / "large").stat().st_size == 5_000_000


async def test_more_output_than_it_may(cell: Cell) -> None:
    cell.limits = Limits(output=3_000_000)
    ended = await cell.run("yes & yes >&2 & trap '' TERM; yes")
    assert (ended.by, ended.limit[:9], ended.limit[-23:]) == ("limit", "output: 3", " and 3.0 MB are allowed")
    assert sum((cell.folder / name).stat().st_size for name in ("stdout", "stderr")) <= 3_000_000


@pytest.mark.long
async def test_a_gigabyte_of_output_and_more(cell: Cell) -> None:
    """By the defaults."""
    ended = await cell.run("yes a-line-of-a-gigabyte", on_line=None)
    assert ended.limit.startswith("output: 1.0 GB")
    assert (cell.folder / "stdout").stat().st_size <= 10**9
    (cell.folder / "stdout").unlink()


async def test_open_files_and_priority(cell: Cell) -> None:
    cell.limits = replace(Resources(open_files=100, nice=7).limits())
    assert await cell.says("ulimit -n; ulimit -Hn; nice") == "100\n100\n7"


async def test_limits_without_a_sandbox(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGEWRIGHT_NO_NAMESPACE", "1")
    files = {name: cell.folder / name for name in ("stdout", "stderr", "lock")}
    env = {**process.base_environment(), "MARK": cell.mark}
    for script, limits in (
        ("yes", Limits(output=1_000)),
        ("for i in `seq 60`; do sleep 60 & done; wait", Limits(processes=50)),
    ):
        command = Command(["sh", "-c", script], cell.tree, env, limits=limits)
        assert (await process.run(command, **files, wall_seconds=60)).by == "limit"
    assert marked(cell.mark) == []


# --- the choice ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_kept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert boxes.wanted(SandboxSettings())
    assert not boxes.wanted(SandboxSettings(mode="off"))
    with pytest.raises(BadConfig, match='mode = "off"'):
        boxes.wanted(SandboxSettings(mode="off", network="none"))
    monkeypatch.setenv("MERGEWRIGHT_NO_NAMESPACE", "1")
    assert not boxes.wanted(SandboxSettings())
    assert not boxes.wanted(SandboxSettings(gate_network=["*", "127.0.0.1:5432"]))
    for settings in (
        SandboxSettings(mode="on"),
        SandboxSettings(network=["a.example"]),
        SandboxSettings(gate_network="none"),
    ):
        with pytest.raises(BadConfig, match="MERGEWRIGHT_NO_NAMESPACE"):
            boxes.wanted(settings)


@pytest.mark.parametrize(
    ("settings", "state", "said"),
    [
        ({}, "ok", "bubblewrap works"),
        ({"mode": "off"}, "warning", 'mode = "off"'),
        ({"mode": "off", "network": "none"}, "error", "only with one can the network"),
    ],
)
def test_the_doctor_says_what_there_is(settings: dict[str, str], state: str, said: str) -> None:
    found = doctor.sandbox(Config(sandbox=SandboxSettings.model_validate(settings)))
    assert (found.name, found.state) == ("sandbox", state)
    assert said in found.text


@pytest.mark.parametrize(
    ("settings", "state", "said"),
    [
        ({}, "ok", "namespace"),
        ({"mode": "off"}, "ok", "namespace"),
        ({"network": "full"}, "warning", 'agents or gates reach it: network = "full" in config.toml'),
        ({"gate_network": "full"}, "warning", 'agents or gates reach it: network = "full" in config.toml'),
    ],
)
async def test_the_doctor_says_when_agents_reach_temporal(
    client: Client, tmp_path: Path, settings: dict[str, str], state: str, said: str
) -> None:
    asked = doctor.Asked((), tmp_path, "nobody-s", address=client.service_client.config.target_host)
    found = await doctor.temporal(asked, Config(sandbox=SandboxSettings.model_validate(settings)))
    assert (found[0].name, found[0].state) == ("temporal", state)
    assert said in found[0].text


# --- a task ----------------------------------------------------------------------------------------------------------


async def test_an_agent_is_told_by_which_limit_it_was_ended_and_what_fills_the_disk(kit: Kit) -> None:
    """It stays within it while it cleans up, although all of it is there: nothing is deleted but by itself."""
    with kit.config.open("a") as file:
        file.write("[sandbox.limits]\noutput_gb = 0.001\ndisk_gb = 0.03\n")
    work = """
        zeros() { head -c $1 /dev/zero >$2; }
        echo x >>~/turns
        case `wc -l <~/turns` in
            1) mkdir many; for i in 1 2 3; do zeros 500000 many/$i; done
               zeros 5000000 ~/kept; for i in 1 2 3 4; do zeros 10000000 part$i; done; sleep 60;;
            2) yes;;
            3) rm -r part* many;;
        esac"""
    agent = kit.agent(executor=[{"write": {"new.txt": "new\n"}, "shell": work}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent))
        result = await asyncio.wait_for(handle.result(), 60)
        status = await handle.query("status", result_type=TaskStatus)
    assert (result.outcome, result.turns) == ("merged", 3)
    [warning] = status.warnings
    assert warning.startswith("while executor turn 2 ran: it was ended, as it used more than it may: output: 1.")
    [first, second, third] = [path.read_text() for path in sorted(kit.home.root.rglob("*-executor/prompt.md"))]
    assert "more than it may" not in first
    assert "had started: disk: " in second
    told = [line for line in second.splitlines() if line.startswith("- ")]
    assert told[0].startswith(f"- 10.0 MB `{kit.home.root}/worktrees/")
    assert told[-2].startswith("- 5.0 MB `")
    assert told[-2].endswith("/kept`")
    assert told[-1].endswith("/many`/ (3 small files)")
    assert "had started: output: 1." in third
    assert [line for line in third.splitlines() if line.startswith("- ")] == told
    assert git(kit.repo, "diff", "--name-only", "main~1", "main") == "new.txt"


async def test_what_is_over_a_limit_is_told(kit: Kit) -> None:
    with kit.config.open("a") as file:
        file.write("[sandbox.limits]\noutput_gb = 0.001\n")
    work = kit.agent(executor=[{"write": {"new.txt": "new\n"}}])
    loud = {"name": "loud", "command": "yes"}
    async with kit.worker():
        handle = await kit.start(kit.input(agent=work, gates=[loud], limits={"max_gate_failures": 1}))
        status = await status_when(handle, lambda now: now.blocked is not None)
        await handle.signal("abandon")
        await handle.result()
    assert status.blocked is not None
    assert "(limit: output) The gate printed more than the operator allows." in status.blocked.text


async def test_what_a_repository_says_narrows_the_network_of_a_gate(kit: Kit, server: int) -> None:
    kit.configure(f'network = ["*", "127.0.0.1:{server}"]\n')
    work = kit.agent(executor=[{"write": {"new.txt": "new\n"}}])
    fetch = f"{sys.executable} -c '{FETCH}' http://127.0.0.1:{server}/ | grep -q"
    gates = [
        {"name": "with", "command": f"{fetch} hello"},
        {"name": "without", "command": f"{fetch} refused", "network": "none"},
    ]
    async with kit.worker():
        assert (await kit.run(agent=work, gates=gates)).outcome == "merged"
    kit.assert_clean()
    assert list(kit.home.root.glob("runs/*/box")) == []
