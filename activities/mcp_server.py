"""The MCP server of one running turn: a Unix socket in its folder, which speaks for that task and goes with the turn.

The agent's CLI starts `mcp_bridge.py`, which joins it to the socket; the official `mcp` package serves here, in the
worker. It takes seconds of a processor to import, so that is done when a CLI connects for the first time.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from activities.agent_tools import Refused, Tools

log = structlog.get_logger()

BRIDGE = Path(__file__).with_name("mcp_bridge.py")
MAX_CONNECTIONS = 8
"""At once: CLIs make one, sub-agents perhaps more."""
LINE_BYTES = 2**18
"""Of one request; what is longer ends the connection."""
MOST_BYTES, LEAST_BYTES = 2**23, 2**13
"""Of all requests of a connection, and what each counts for at least. The package takes them in as fast as they come,
and keeps each until its answer is read: an agent that never reads would fill the worker's memory."""


def socket_in(folder: Path) -> Path:
    return folder / "mcp.sock"


def program(folder: Path) -> list[str]:
    """What a CLI is to start. Without our packages, which the sandbox does not show: it sees this one file."""
    return [sys.executable, "-I", "-S", str(BRIDGE), str(socket_in(folder))]


@asynccontextmanager
async def serving(tools: Tools, folder: Path) -> AsyncIterator[None]:
    """While it is entered. A socket that an earlier attempt has left is replaced."""
    path = socket_in(folder)
    path.unlink(missing_ok=True)
    running: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(running) >= MAX_CONNECTIONS:
            writer.close()
            return
        running.add(task)
        try:
            await _serve(tools, reader, writer)
        except Exception as problem:  # whatever an agent sends must end nothing but its connection
            log.warning("an agent's connection has ended", problem=repr(problem)[:300])
        finally:
            running.discard(task)
            writer.close()

    # By way of its folder: the path of a socket has at most 107 bytes. Open as long as the server, which looks there.
    through = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"/proc/self/fd/{through}/{path.name}")
        server = await asyncio.start_unix_server(connected, sock=listener, limit=LINE_BYTES)
        try:
            yield
        finally:
            server.close()
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            path.unlink(missing_ok=True)
    finally:
        os.close(through)


class _Input:
    """As `stdio_server` reads a file: by lines of text."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader, self._left = reader, MOST_BYTES

    def __aiter__(self) -> _Input:
        return self

    async def __anext__(self) -> str:
        line = b""
        with suppress(ValueError, ConnectionError):  # too long, or gone: the end
            line = await self._reader.readline()
        self._left -= max(len(line), LEAST_BYTES)
        if not line or self._left < 0:
            raise StopAsyncIteration
        return line.decode("utf-8", "replace")


class _Output:
    """As `stdio_server` writes a file."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def write(self, text: str) -> None:
        self._writer.write(text.encode("utf-8", "replace"))

    async def flush(self) -> None:
        with suppress(ConnectionError):
            await self._writer.drain()


async def _serve(tools: Tools, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.to_thread(_import)
    from mcp.server.stdio import stdio_server

    server = _server(tools)
    streams: Any = (_Input(reader), _Output(writer))
    async with stdio_server(*streams) as (read, write):
        await server.run(read, write, server.create_initialization_options())


def _import() -> None:
    import mcp.server.lowlevel
    import mcp.server.stdio  # noqa: F401


def _server(tools: Tools) -> Any:
    import mcp_types as types
    from mcp.server.lowlevel import Server

    async def listed(_: Any, __: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(name=name, description=tool.does, input_schema=tool.takes.model_json_schema())
                for name, tool in tools.all().items()
            ]
        )

    async def called(_: Any, given: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            text, refused = await tools.call(given.name, given.arguments), False
        except Refused as problem:
            text, refused = str(problem), True
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=refused)

    return Server("mergewright", version="1", on_list_tools=listed, on_call_tool=called)
