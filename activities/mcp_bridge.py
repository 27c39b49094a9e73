"""Joins standard input and output to a socket: what an agent's CLI starts as its MCP server. `mcp_bridge.py SOCKET`

The server itself is in the worker (`mcp_server.py`); so this starts in an instant, in the sandbox, and can do nothing.
It is run by its path, without our packages: only the standard library.
"""

import os
import socket
import sys
import threading
from pathlib import Path

CHUNK = 2**16


def main(path: str) -> None:
    where = Path(path)
    os.chdir(where.parent)  # the path of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(where.name)

        def send() -> None:
            while data := os.read(0, CHUNK):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        threading.Thread(target=send, daemon=True).start()
        while data := connection.recv(CHUNK):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
