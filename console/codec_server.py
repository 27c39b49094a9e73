"""What Temporal calls a codec server: it decrypts payloads for the web UI and the `temporal` command line.

Whoever reaches it reads everything, so it listens on 127.0.0.1 alone. A page of another origin than the web UI's is not
served, nor is one that has had its own name point to 127.0.0.1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf import json_format
from temporalio.api.common.v1 import Payloads

from service.codec import KEY, BadKey, EncryptionCodec, Undecodable

UI = "http://127.0.0.1:8233"
_MOST = 64 * 2**20
"""Bytes of a request; Temporal's own payloads are smaller."""


class CodecServer(ThreadingHTTPServer):
    """Raises BadKey when there is no key, OSError when the port is taken."""

    daemon_threads = True

    def __init__(self, port: int, origins: Collection[str], codec: EncryptionCodec) -> None:
        if not codec.keys:
            raise BadKey(f"there is no key to decrypt with: set {KEY}")
        self.origins, self.codec = origins, codec
        super().__init__(("127.0.0.1", port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: CodecServer

    def do_OPTIONS(self) -> None:
        self._answer(204 if self._may_ask() else 403)

    def do_POST(self) -> None:
        steps = {"/encode": self.server.codec.encode, "/decode": self.server.codec.decode}
        step, length = steps.get(self.path), self.headers.get("Content-Length", "")
        if not self._may_ask():
            return self._answer(403)
        if step is None:
            return self._answer(404)
        if not length.isdecimal() or int(length) > _MOST:
            return self._answer(413)
        try:
            given = json_format.Parse(self.rfile.read(int(length)), Payloads())
            found = asyncio.run(step(given.payloads))
        except (json_format.ParseError, Undecodable) as problem:
            return self._answer(400, str(problem).encode(), "text/plain; charset=utf-8")
        return self._answer(200, json_format.MessageToJson(Payloads(payloads=found)).encode())

    def _may_ask(self) -> bool:
        host = self.headers.get("Host", "").rpartition(":")[0]
        origin = self.headers.get("Origin")
        return host in ("127.0.0.1", "localhost") and (origin is None or origin in self.server.origins)

    def _answer(self, status: int, content: bytes = b"", kind: str = "application/json") -> None:
        self.send_response(status)
        origin = self.headers.get("Origin")
        if origin is not None and origin in self.server.origins:
            self.send_header("Access-Control-Allow-Origin", origin)
            self.send_header("Access-Control-Allow-Credentials", "true")
            self.send_header("Access-Control-Allow-Methods", "POST, OPTIONS")
            self.send_header("Access-Control-Allow-Headers", "Content-Type, X-Namespace, Authorization")
            self.send_header("Vary", "Origin")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Not a word: its requests are the operator's."""
