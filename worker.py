"""Run a mergewright worker: `python worker.py --dev` brings its own Temporal server and web UI."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Annotated

import structlog
import typer

from activities.home import Home, default_home
from service import connect as temporal
from service.connect import TASK_QUEUE, connect, quiet_runtime
from service.devserver import CannotServe, DevServer
from service.leave import run_and_leave
from service.logs import configure_logging
from service.run import run_worker

log = structlog.get_logger()


def main(
    dev: Annotated[
        bool, typer.Option("--dev", help="Bring an own Temporal server with a database file and a web UI.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the development server.")] = 7233,
    ui_port: Annotated[int, typer.Option(help="Port of its web UI.")] = 8233,
    address: Annotated[str | None, typer.Option(help="Temporal server, host:port.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Temporal namespace.")] = None,
    task_queue: Annotated[str, typer.Option(help="Task queue to serve.")] = TASK_QUEUE,
    home: Annotated[Path | None, typer.Option(help="Data folder (default: MERGEWRIGHT_HOME, or the user's).")] = None,
    agents: Annotated[int, typer.Option(min=1, help="Agents' turns at once.")] = 4,
    gate_slots: Annotated[int, typer.Option(min=1, help="Gate runs at once.")] = max(1, (os.cpu_count() or 1) // 2),
    host: Annotated[str, typer.Option(help="Name of this host; it must survive a restart.")] = socket.gethostname(),
    profile: temporal.Profile = None,
    api_key: temporal.ApiKey = None,
    tls: temporal.Tls = None,
    tls_ca_path: temporal.TlsCaPath = None,
    tls_cert_path: temporal.TlsCertPath = None,
    tls_key_path: temporal.TlsKeyPath = None,
    tls_server_name: temporal.TlsServerName = None,
) -> None:
    """Serve tasks until interrupted. Example: python worker.py --dev --agents 8"""
    configure_logging()
    temporal.use(profile, api_key, tls, tls_ca_path, tls_cert_path, tls_key_path, tls_server_name)
    folder = Home((home or default_home()).resolve())
    try:
        asyncio.run(_serve(dev, port, ui_port, address, namespace, task_queue, folder, agents, gate_slots, host))
    except (CannotServe, RuntimeError) as problem:
        typer.echo(f"worker: {problem}", err=True)
        raise typer.Exit(1) from None


async def _serve(
    dev: bool, port: int, ui_port: int, address: str | None, namespace: str | None, task_queue: str, home: Home,
    agents: int, gate_slots: int, host: str,
) -> None:  # fmt: skip
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = DevServer(home, port, ui_port) if dev else None
    keeping = None
    try:
        if server is not None:
            address, namespace = await server.ensure(), "default"
            keeping = asyncio.create_task(server.keep())
        client = await connect(address, namespace, plain=dev, runtime=quiet_runtime())
        await run_worker(client, home, host, task_queue, agents, gate_slots, stop)
    finally:
        if keeping is not None:
            keeping.cancel()
        if server is not None:
            await server.stop()


if __name__ == "__main__":
    run_and_leave(lambda: typer.run(main))
