"""The development server: Temporal's own, with a database file in the data folder and the web UI.

It belongs to one worker process and dies with it, however that one dies; the database stays. Further workers of the
same data folder join it, and one of them takes over when the owner is gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import structlog
from temporalio.client import Client

from activities.home import Home
from activities.process import Command, Supervised, base_environment
from activities.site import read_json, write_atomically
from service.connect import connect

log = structlog.get_logger()

START_SECONDS = 30.0
"""It takes 0.2 s on an idle machine; a busy one with a large database is given time."""


class CannotServe(Exception):
    """No development server, and why; one line with the remedy."""


def temporal_cli() -> str:
    """The `temporal` program that came with us, beside this Python; else the one on the PATH."""
    beside = Path(sys.executable).parent / "temporal"
    found = str(beside) if beside.exists() else shutil.which("temporal")
    if found is None:
        raise CannotServe("there is no `temporal` program: run `make setup`")
    return found


@dataclass
class DevServer:
    home: Home
    port: int
    ui_port: int
    child: Supervised | None = None
    """The server, when it is ours."""
    _lock: int | None = None

    @property
    def _record(self) -> Path:
        return self.home.temporal / "server.json"

    async def ensure(self) -> str:
        """Its address; started if nobody did. Raises CannotServe."""
        self.home.create()
        self.home.temporal.mkdir(parents=True, exist_ok=True)
        if self._take_ownership():
            for option, port in (("--port", self.port), ("--ui-port", self.ui_port)):
                if not port_is_free(port):
                    raise CannotServe(f"port {port} is in use: choose another {option}, or the --home of its server")
            self._start()
        address = await self._ready()
        log.info("temporal server", address=address, web_ui=self.web_ui, ours=self.child is not None)
        return address

    @property
    def web_ui(self) -> str:
        return str(read_json(self._record).get("web_ui", ""))

    async def keep(self) -> None:
        """Start it again whenever it is gone and nobody else has. Runs until cancelled."""
        while True:
            await asyncio.sleep(1)
            if self.child is not None and not self.child.alive():
                log.warning("the temporal server is gone: starting it again")
                self.child.stop()
                self._start()
            elif self.child is None and self._take_ownership():
                log.warning("the owner of the temporal server is gone: taking over")
                recorded = read_json(self._record)
                self.port, self.ui_port = recorded.get("port", self.port), recorded.get("ui_port", self.ui_port)
                self._start()

    async def stop(self) -> None:
        if self.child is not None:
            await asyncio.to_thread(self.child.stop)
        if self._lock is not None:
            os.close(self._lock)

    def _take_ownership(self) -> bool:
        lock = os.open(self.home.temporal / "server.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def _start(self) -> None:
        argv = [
            temporal_cli(), "server", "start-dev", "--ip", "127.0.0.1", "--port", str(self.port),
            "--ui-port", str(self.ui_port), "--db-filename", str(self.home.temporal / "temporal.db"),
            "--log-level", "warn",
        ]  # fmt: skip
        output = self.home.temporal / "server.log"
        self.child = Supervised(
            Command(argv, self.home.temporal, base_environment()), stdout=output, stderr=output, grace_seconds=5
        )
        ports = {"port": self.port, "ui_port": self.ui_port, "web_ui": f"http://127.0.0.1:{self.ui_port}"}
        write_atomically(self._record, json.dumps({"address": f"127.0.0.1:{self.port}", **ports}))

    async def _ready(self) -> str:
        waited = 0.0
        while waited < START_SECONDS:
            if self.child is not None and not self.child.alive():
                said = (self.home.temporal / "server.log").read_text(errors="replace").strip().splitlines()
                raise CannotServe(f"the temporal server ended: {said[-1] if said else 'it said nothing'}")
            address = str(read_json(self._record).get("address", ""))
            if address and await _answers(address):
                return address
            await asyncio.sleep(0.1)
            waited += 0.1
        raise CannotServe(f"the temporal server does not answer; its log is {self.home.temporal / 'server.log'}")


async def _answers(address: str) -> bool:
    try:
        client: Client = await connect(address, "default", plain=True)
        await client.count_workflows()
    except Exception:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
