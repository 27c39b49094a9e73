"""A model server on 127.0.0.1 that says what a test wants, for driving the real agent CLIs.

It speaks the vendors' APIs, one module each, as JSON and as a stream. A scenario is a list of steps, one for each
request, or a function of the request. A function sees who asks by `Request.prompt` and how far the agent is by
`Request.answered`, so one server can serve any number of agents at once, and an agent that is killed and resumed: see
`script`. A CLI's own retry is a request of its own.

Requests that declare no tools (titles, probes) are answered "ok" and are no part of a scenario.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from tests.models.chat import Chat
from tests.models.gemini import Gemini
from tests.models.messages import Messages
from tests.models.responses import Responses
from tests.models.steps import Api, Json, Request, Scenario, Step

APIS: Sequence[type[Api]] = (Messages, Responses, Chat, Gemini)


class ModelServer:
    """Runs while it is entered. An exception of the scenario fails the test on leaving."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._condition = threading.Condition()
        self._failures: list[BaseException] = []
        self.requests: list[Request] = []
        """Those with tools, in the order of their arrival."""
        self.closing = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_of_models": self}))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        if self._failures and error is None:
            raise self._failures[0]

    def wait_for(self, count: int, timeout: float = 60) -> None:
        """Until so many requests have come; TimeoutError when they do not."""
        with self._condition:
            if not self._condition.wait_for(lambda: len(self.requests) >= count, timeout):
                raise TimeoutError(f"{len(self.requests)} of {count} requests came")

    def step(self, request: Request) -> Step:
        if not request.tools:
            return request.step
        with self._condition:
            try:
                if callable(self._scenario):
                    request.step = self._scenario(request)
                else:
                    request.step = self._scenario[len(self.requests)]
            except Exception as error:
                self._failures.append(error)
                request.step = Step(fault="status", message=f"the scenario failed: {error!r}")
            self.requests.append(request)
            self._condition.notify_all()
            return request.step


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_models: ModelServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._json(404, {}, {"error": {"message": "no such thing here"}})

    def do_POST(self) -> None:
        with suppress(ConnectionError):  # a client that was killed
            self._post()

    def _post(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path = self.path.partition("?")[0]
        api = next((api for api in APIS if api.serves(path)), None)
        if api is None:
            return self.do_GET()
        request = api.read(path, {key.lower(): value for key, value in self.headers.items()}, body)
        step = self.server_of_models.step(request)
        if step.fault == "hang":
            self.server_of_models.closing.wait()
            self.close_connection = True
        elif step.fault and step.fault not in ("drop", "stall"):
            status, headers, error = api.error(step)
            if step.retry_after is not None:
                headers["retry-after"] = str(step.retry_after)
            self._json(status, headers, error)
        else:
            answer = api.answer(step, request)
            if api.streams(self.path, body):
                self._stream(list(api.events(answer)), step.fault)
            else:
                self._json(200, {}, answer, step.fault)
        return None

    def _json(self, status: int, headers: dict[str, str], body: Json, fault: str = "") -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for key, value in {**headers, "content-type": "application/json", "content-length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        self._send([data[: len(data) // 2], data[len(data) // 2 :]], fault)

    def _stream(self, events: list[str], fault: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        half = len(events) // 2
        self._send(["".join(events[:half]).encode(), "".join(events[half:]).encode()], fault)
        self.close_connection = True

    def _send(self, halves: list[bytes], fault: str) -> None:
        self.wfile.write(halves[0])
        self.wfile.flush()
        if fault == "stall":
            self.server_of_models.closing.wait()
        if fault:
            self.close_connection = True
        else:
            self.wfile.write(halves[1])


def clients(url: str, home: Path) -> dict[str, str]:
    """Environment and, in `home`, settings with which the CLIs talk to this server and to nobody else."""
    (home / ".codex").mkdir(parents=True, exist_ok=True)
    (home / "tmp").mkdir(exist_ok=True)
    (home / ".codex" / "config.toml").write_text(
        'model_provider = "test"\n'
        "[model_providers.test]\n"
        'name = "test"\n'
        f'base_url = "{url}/v1"\n'
        'env_key = "OPENAI_API_KEY"\n'
        'wire_api = "responses"\n'
        "request_max_retries = 1\n"
        "stream_max_retries = 1\n"
    )
    (home / ".config" / "opencode").mkdir(parents=True, exist_ok=True)
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{url}/v1", "apiKey": "{env:OPENAI_API_KEY}"},
        "models": {"deepseek-chat": {"variants": {"low": {"reasoningEffort": "low"}}}},
    }
    (home / ".config" / "opencode" / "opencode.json").write_text(json.dumps({"provider": {"test": provider}}))
    (home / ".gemini").mkdir(exist_ok=True)
    (home / ".gemini" / "settings.json").write_text('{"security": {"auth": {"selectedType": "gemini-api-key"}}}')
    (home / ".qwen").mkdir(exist_ok=True)
    auth = {"selectedType": "openai", "baseUrl": f"{url}/v1"}
    (home / ".qwen" / "settings.json").write_text(json.dumps({"security": {"auth": auth}}))
    return {
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "OPENAI_API_KEY": "sk-test",
        "ANTHROPIC_API_KEY": "sk-test",
        "ANTHROPIC_BASE_URL": url,
        "GEMINI_API_KEY": "sk-test",
        "GOOGLE_GEMINI_BASE_URL": url,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
    }
