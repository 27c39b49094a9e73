"""The way out of a sandbox that may reach only some hosts: an HTTP proxy that the command's environment names.

It answers on a socket of the sandbox's own 127.0.0.1, which the supervisor has made there, and connects from here. What
is allowed is `name`, `*.name` for all below it, and `name:port`; without a port that is 80 and 443. `*` is every host
of the internet, at any port: judged by the very address that is then connected to. TLS goes through untouched. A port
of this host's own 127.0.0.1 that is named is there at the same port, for what speaks no HTTP. The libraries that there
are (proxy.py, mitmproxy) bring processes of their own and listen for themselves.
"""

from __future__ import annotations

import asyncio
import re
import socket
from base64 import b64encode
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import structlog

from activities.addresses import is_evidently_local, is_public, resolved
from activities.sandbox import Network, own_ports

log = structlog.get_logger()

HEAD_BYTES = 2**16
CONNECT_SECONDS = 30.0
MOST_CONNECTIONS = 200
"""Of one command at once: each takes two open files of the worker."""
_OURS_TO_SAY = (b"proxy-", b"connection:", b"keep-alive:", b"host:")
_HOST = re.compile(r"[\w.:-]+", re.ASCII)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def allowed(hosts: Network, host: str, port: int) -> bool:
    """Whether it is named; `*` names nobody."""
    host = host.lower().rstrip(".")
    for name in hosts if not isinstance(hosts, str) else ():
        wanted, _, only = name.lower().partition(":")
        fits = host.endswith(wanted[1:]) and host != wanted[2:] if wanted.startswith("*.") else host == wanted
        if fits and (port == int(only) if only else port in (80, 443)):
            return True
    return False


class _Refused(Exception):
    """The host is not one that may be reached."""


class Proxy:
    def __init__(self, hosts: Network, name: str) -> None:
        """`name` is the command's, for the log."""
        self._hosts, self._name = hosts, name
        self._own = own_ports(hosts)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._refused: set[str] = set()

    def serve(self, listener: socket.socket) -> None:
        self._run(self._accept(listener))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        port = listener.getsockname()[1]

        def answer(*here: Any) -> None:
            """Not a coroutine: Python 3.11 complains of each that is cancelled."""
            if len(self._tasks) > MOST_CONNECTIONS:
                here[1].close()
                self._note("too many at once")
            else:
                self._run(self._serve_one(port, here))

        async with await asyncio.start_server(answer, sock=listener, limit=HEAD_BYTES) as server:
            await server.serve_forever()

    async def _serve_one(self, port: int, here: Streams) -> None:
        try:
            with suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                if port in self._own:
                    await _join(here, await asyncio.open_connection(self._own[port], port))
                else:
                    await self._answer(*here)
        finally:
            here[1].close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wanted = _Wanted(await reader.readuntil(b"\r\n\r\n"))
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                there, most = await self._reach(wanted)
        except _Refused:
            self._note(f"{wanted.host}:{wanted.port}")
            writer.write(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\nnot among the sandbox's hosts\n")
            return
        except OSError as problem:  # a time-out is one
            said = " ".join(f"{problem}".split()) or "no answer"
            writer.write(f"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n{said}\n".encode())
            return
        if wanted.is_tunnel:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await _join((reader, writer), there, most)

    async def _reach(self, wanted: _Wanted) -> tuple[Streams, int | None]:
        """A connection on which the request has been made, and how many bytes more may go there; none: any.

        Raises _Refused, OSError.
        """
        named = allowed(self._hosts, wanted.host, wanted.port)
        if not named and "*" not in self._hosts:
            raise _Refused
        proxies = {} if proxy_bypass(wanted.host) else getproxies()
        if above := proxies.get("https" if wanted.is_tunnel else "http"):
            if not named:
                await _is_no_neighbour(wanted.host)
            most = wanted.body
            return await _through(urlsplit(above if "://" in above else f"//{above}"), wanted), most
        there = await _connect(await resolved(wanted.host), wanted.port, only_public=not named)
        if not wanted.is_tunnel:
            there[1].write(wanted.head(wanted.path))
        return there, None

    def _note(self, where: str) -> None:
        if where not in self._refused and len(self._refused) < MOST_CONNECTIONS:
            self._refused.add(where)
            log.warning("a connection out of a sandbox was refused", to=where, command=self._name)


class _Wanted:
    """What a client asks of the proxy. ValueError for what is no request."""

    def __init__(self, head: bytes) -> None:
        first, *self._lines = head.split(b"\r\n")[:-2]
        if {*b"\r\n"} & {*first, *b"".join(self._lines)}:  # to somebody else it might be two requests
            raise ValueError("a line break in a header")
        self._method, target, _ = first.decode("ascii").split(" ")
        self.is_tunnel = self._method == "CONNECT"
        self._url = urlsplit(f"//{target}" if self.is_tunnel else target)
        self.host, self.port = (self._url.hostname or "").rstrip("."), self._url.port or 80
        if not _HOST.fullmatch(self.host):
            raise ValueError(f"{self.host!r} is no host")

    @property
    def body(self) -> int | None:
        """Bytes that belong to the request; none: it is a tunnel. Raises OSError where others might count otherwise."""
        if self.is_tunnel:
            return None
        named = [line.partition(b":") for line in self._lines]
        lengths = [value.strip() for name, _, value in named if name.strip().lower() == b"content-length"]
        plain = len(lengths) <= 1 and all(map(bytes.isdigit, lengths))  # int() takes -1 and 1_0
        if not plain or any(name.strip().lower() == b"transfer-encoding" for name, _, _ in named):
            raise OSError("a body without one plain length")
        return int(lengths[0]) if lengths else 0

    @property
    def place(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def path(self) -> str:
        return self._url._replace(scheme="", netloc="", fragment="").geturl() or "/"

    def head(self, target: str, *more: str) -> bytes:
        """For whoever is asked next. No line of the client's says which host it is, or what comes after."""
        kept = [] if self.is_tunnel else [line for line in self._lines if not line.lower().startswith(_OURS_TO_SAY)]
        said = [f"{self._method} {target} HTTP/1.1", f"Host: {self.place}", *more]
        said += [] if self.is_tunnel else ["Connection: close"]
        return b"\r\n".join([*(line.encode() for line in said), *kept, b"", b""])


async def _connect(addresses: Sequence[str], port: int, only_public: bool) -> Streams:
    """To the first that answers. No name is looked up any more: what is judged here is what is connected to."""
    if only_public and not (addresses := [address for address in addresses if is_public(address)]):
        raise _Refused
    for address in addresses[:-1]:
        with suppress(OSError):
            async with asyncio.timeout(CONNECT_SECONDS / len(addresses)):
                return await asyncio.open_connection(address, port)
    return await asyncio.open_connection(addresses[-1], port)


async def _is_no_neighbour(host: str) -> None:
    """As far as that can be known here, where another proxy looks up the name. Raises _Refused."""
    found = []
    with suppress(OSError):
        found = await resolved(host)
    if is_evidently_local(host) or not all(map(is_public, found)):
        raise _Refused


async def _through(above: SplitResult, wanted: _Wanted) -> Streams:
    """By the proxy that the worker's environment names."""
    secure = True if above.scheme == "https" else None
    there, out = await asyncio.open_connection(above.hostname, above.port or (443 if secure else 80), ssl=secure)
    login = f"{unquote(above.username or '')}:{unquote(above.password or '')}".encode()
    more = [f"Proxy-Authorization: Basic {b64encode(login).decode()}"] if above.username else []
    out.write(wanted.head(wanted.place if wanted.is_tunnel else f"http://{wanted.place}{wanted.path}", *more))
    if wanted.is_tunnel:
        answer = (await there.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode("latin-1")
        if not answer.partition(" ")[2].startswith("2"):
            out.close()
            raise OSError(f"{above.hostname} says {answer}")
    return there, out


async def _join(here: Streams, there: Streams, most: int | None = None) -> None:
    """`most`: bytes that may go there: a second request would be one that nobody has judged."""
    try:
        await asyncio.gather(_pour(here[0], there[1], most), _pour(there[0], here[1]))
    finally:
        there[1].close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None = None) -> None:
    while chunk := await reader.read(HEAD_BYTES if most is None else min(HEAD_BYTES, most)):
        writer.write(chunk)
        await writer.drain()
        most = None if most is None else most - len(chunk)
    if most is not None:
        return  # it waits for the answer
    with suppress(OSError, RuntimeError):
        writer.write_eof()
