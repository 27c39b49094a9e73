"""The way out of a sandbox that may reach only some hosts: an HTTP proxy that the command's environment names.

It answers on a socket of the sandbox's own 127.0.0.1, which the supervisor has made there, and connects from here. What
is allowed is `name`, `*.name` for all below it, and `name:port`; without a port that is 80 and 443. TLS goes through
untouched. The libraries that there are (proxy.py, mitmproxy) bring processes of their own and listen for themselves.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import structlog

from activities.sandbox import Network

log = structlog.get_logger()

HEAD_BYTES = 2**16
CONNECT_SECONDS = 30.0
_HOP_BY_HOP = (b"proxy-", b"connection:", b"keep-alive:")


def allowed(hosts: Network, host: str, port: int) -> bool:
    host = host.lower().rstrip(".")
    for name in hosts if not isinstance(hosts, str) else ():
        wanted, _, only = name.lower().partition(":")
        fits = host.endswith(wanted[1:]) and host != wanted[2:] if wanted.startswith("*.") else host == wanted
        if fits and (port == int(only) if only else port in (80, 443)):
            return True
    return False


class Proxy:
    def __init__(self, hosts: Network, name: str) -> None:
        """`name` is the command's, for the log."""
        self._hosts, self._name = hosts, name
        self._tasks: set[asyncio.Task[Any]] = set()
        self._refused: set[str] = set()

    def serve(self, listener: socket.socket) -> None:
        self._tasks.add(asyncio.create_task(self._accept(listener)))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _accept(self, listener: socket.socket) -> None:
        async with await asyncio.start_server(self._answer, sock=listener, limit=HEAD_BYTES) as server:
            await server.serve_forever()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            with suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await self._forward(reader, writer, await reader.readuntil(b"\r\n\r\n"))
        finally:
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        method, target, _ = head.decode("latin-1").split("\r\n")[0].split(" ")
        tunnel = method == "CONNECT"
        url = urlsplit(f"//{target}" if tunnel else target)
        host, port = url.hostname or "", url.port or 80
        if not allowed(self._hosts, host, port):
            self._refuse(f"{host}:{port}")
            writer.write(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\nnot among the sandbox's hosts\n")
            return
        above = urlsplit("" if proxy_bypass(host) else getproxies().get("https" if tunnel else "http", ""))
        async with asyncio.timeout(CONNECT_SECONDS):
            there, out = await asyncio.open_connection(above.hostname or host, above.port or port)
        try:
            if above.hostname:
                out.write(head)
            elif tunnel:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                path = url._replace(scheme="", netloc="").geturl() or "/"
                lines = [line for line in head.split(b"\r\n")[1:-2] if not line.lower().startswith(_HOP_BY_HOP)]
                out.write(b"\r\n".join([f"{method} {path} HTTP/1.1".encode(), *lines, b"Connection: close", b"", b""]))
            await asyncio.gather(_pour(reader, out), _pour(there, writer))
        finally:
            out.close()

    def _refuse(self, where: str) -> None:
        if where not in self._refused:
            self._refused.add(where)
            log.warning("a host that is not allowed was refused", host=where, command=self._name)


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(HEAD_BYTES):
        writer.write(chunk)
        await writer.drain()
    with suppress(OSError, RuntimeError):
        writer.write_eof()
