"""A model server on 127.0.0.1 that says what a test wants, for driving the real agent CLIs.

It speaks Anthropic Messages (`POST …/v1/messages`) and OpenAI Responses (`POST …/responses`), as JSON and as a stream.
A scenario is a list of steps, one for each request, or a function of the request. A function sees who asks by
`Request.prompt` and how far the agent is by `Request.answered`, so one server can serve any number of agents at
once, and an agent that is killed and resumed: see `script`. A CLI's own retry is a request of its own.

Requests that declare no tools (titles, probes) are answered "ok" and are no part of a scenario.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self

Json = dict[str, Any]
Call = tuple[str, ...]


def bash(command: str) -> Call:
    return ("bash", command)


def write(path: str, content: str) -> Call:
    return ("write", path, content)


def edit(path: str, old: str, new: str) -> Call:
    """`old` is a whole line."""
    return ("edit", path, old, new)


@dataclass(frozen=True)
class Step:
    """One answer: text and tool calls, or a fault."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    input_tokens: int = 100
    output_tokens: int = 20
    fault: Literal["", "status", "usage_limit", "credit", "context", "hang", "drop"] = ""
    """`hang` never answers, `drop` closes the connection in the middle of the answer."""
    status: int = 500
    message: str = "so the test wants"
    retry_after: int | None = None
    resets_in: int = 3600


def say(text: str) -> Step:
    return Step(text)


def use(*calls: Call) -> Step:
    return Step(calls=calls)


def refuse(status: int, retry_after: int | None = None) -> Step:
    return Step(fault="status", status=status, retry_after=retry_after)


@dataclass
class Request:
    """What a CLI asked, in terms that are the same for every API."""

    path: str
    headers: dict[str, str]
    body: Json
    tools: set[str]
    system: str
    prompt: str
    """What the user said last."""
    answered: int
    """Results of tool calls since then."""
    step: Step = field(default_factory=lambda: say("ok"))


Scenario = Sequence[Step] | Callable[[Request], Step]


def script(*steps: Step) -> Callable[[Request], Step]:
    """The same steps for every prompt: the n-th after n tool results. Each step but the last makes one call."""
    return lambda request: steps[min(request.answered, len(steps) - 1)]


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
    return {
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "OPENAI_API_KEY": "sk-test",
        "ANTHROPIC_API_KEY": "sk-test",
        "ANTHROPIC_BASE_URL": url,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }


# --- Anthropic Messages --------------------------------------------------------------------------


class _Anthropic:
    @staticmethod
    def read(path: str, headers: dict[str, str], body: Json) -> Request:
        prompt, answered = "", 0
        for message in body["messages"]:
            blocks = message["content"]
            blocks = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else blocks
            answered += sum(block["type"] == "tool_result" for block in blocks)
            said = [block["text"] for block in blocks if block["type"] == "text"]
            said = [text for text in said if not text.startswith("<system-reminder>")]
            if message["role"] == "user" and said:
                prompt, answered = "\n".join(said), 0
        system = body.get("system", "")
        system = system if isinstance(system, str) else "\n".join(block["text"] for block in system)
        tools = {tool["name"] for tool in body.get("tools", [])}
        return Request(path, headers, body, tools, system, prompt, answered)

    @staticmethod
    def error(step: Step) -> tuple[int, dict[str, str], Json]:
        status, kind, message, headers = step.status, "api_error", step.message, {}
        match step.fault:
            case "usage_limit":  # only a subscription's login gets these headers
                status, kind = 429, "rate_limit_error"
                reset = str(int(time.time()) + step.resets_in)
                headers = {
                    "anthropic-ratelimit-unified-status": "rejected",
                    "anthropic-ratelimit-unified-reset": reset,
                    "anthropic-ratelimit-unified-representative-claim": "five_hour",
                    "anthropic-ratelimit-unified-5h-status": "rejected",
                    "anthropic-ratelimit-unified-5h-reset": reset,
                    "anthropic-ratelimit-unified-5h-utilization": "1.0",
                }
            case "credit":
                status, kind, message = 400, "invalid_request_error", "Your credit balance is too low"
            case "context":
                status, kind = 400, "invalid_request_error"
                message = "prompt is too long: 213456 tokens > 200000 maximum"
        return status, headers, {"type": "error", "error": {"type": kind, "message": message}}

    @staticmethod
    def answer(step: Step, request: Request) -> Json:
        content: list[Json] = [{"type": "text", "text": step.text}] if step.text else []
        for call in step.calls:
            name, arguments = _Anthropic.tool(call)
            content.append({"type": "tool_use", "id": _id("toolu"), "name": name, "input": arguments})
        return {
            "id": _id("msg"),
            "type": "message",
            "role": "assistant",
            "model": request.body["model"],
            "content": content,
            "stop_reason": "tool_use" if step.calls else "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": step.input_tokens, "output_tokens": step.output_tokens},
        }

    @staticmethod
    def tool(call: Call) -> tuple[str, Json]:
        match call:
            case ("bash", command):
                return "Bash", {"command": command, "description": "as scripted"}
            case ("write", path, content):
                return "Write", {"file_path": path, "content": content}
            case ("edit", path, old, new):
                return "Edit", {"file_path": path, "old_string": old, "new_string": new}
        raise ValueError(call)

    @staticmethod
    def events(answer: Json) -> Iterator[Json]:
        yield {"type": "message_start", "message": {**answer, "content": [], "stop_reason": None}}
        for index, block in enumerate(answer["content"]):
            if block["type"] == "text":
                empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
            else:
                arguments = json.dumps(block["input"])
                empty, delta = {**block, "input": {}}, {"type": "input_json_delta", "partial_json": arguments}
            yield {"type": "content_block_start", "index": index, "content_block": empty}
            yield {"type": "content_block_delta", "index": index, "delta": delta}
            yield {"type": "content_block_stop", "index": index}
        end = {"stop_reason": answer["stop_reason"], "stop_sequence": None}
        yield {"type": "message_delta", "delta": end, "usage": answer["usage"]}
        yield {"type": "message_stop"}


# --- OpenAI Responses ----------------------------------------------------------------------------


class _OpenAI:
    @staticmethod
    def read(path: str, headers: dict[str, str], body: Json) -> Request:
        system, prompt, answered = body.get("instructions") or "", "", 0
        for item in body["input"]:
            match item:
                case {"type": "function_call_output" | "custom_tool_call_output"}:
                    answered += 1
                case {"role": "developer", "content": content}:
                    system += "\n".join(part["text"] for part in content)
                case {"role": "user", "content": content}:
                    prompt, answered = "\n".join(part["text"] for part in content), 0
        tools = {tool["name"] for tool in body.get("tools", []) if "name" in tool}
        return Request(path, headers, body, tools, system, prompt, answered)

    @staticmethod
    def error(step: Step) -> tuple[int, dict[str, str], Json]:
        status = step.status
        error: Json = {"message": step.message, "type": "server_error", "code": None}
        match step.fault:
            case "usage_limit":
                resets = {"resets_at": int(time.time()) + step.resets_in, "resets_in_seconds": step.resets_in}
                status, error = 429, {**error, "type": "usage_limit_reached", "plan_type": "plus", **resets}
            case "credit":
                status, error = 429, {**error, "type": "insufficient_quota", "code": "insufficient_quota"}
            case "context":
                status, error = 400, {**error, "code": "context_length_exceeded"}
        return status, {}, {"error": error}

    @staticmethod
    def answer(step: Step, request: Request) -> Json:
        output: list[Json] = []
        if step.text:
            content = [{"type": "output_text", "text": step.text, "annotations": []}]
            output.append({"type": "message", "id": _id("msg"), "role": "assistant", "content": content})
        output += [{"id": _id("item"), "call_id": _id("call"), **_OpenAI.tool(call)} for call in step.calls]
        return {
            "id": _id("resp"),
            "object": "response",
            "status": "completed",
            "model": request.body["model"],
            "output": output,
            "usage": {
                "input_tokens": step.input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": step.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": step.input_tokens + step.output_tokens,
            },
        }

    @staticmethod
    def tool(call: Call) -> Json:
        match call:
            case ("bash", command):
                return {"type": "function_call", "name": "exec_command", "arguments": json.dumps({"cmd": command})}
            case ("write", path, content):
                change = [f"*** Add File: {path}", *(f"+{line}" for line in content.splitlines())]
            case ("edit", path, old, new):
                change = [f"*** Update File: {path}", "@@", f"-{old}", f"+{new}"]
            case _:
                raise ValueError(call)
        patch = "\n".join(["*** Begin Patch", *change, "*** End Patch"])
        return {"type": "custom_tool_call", "name": "apply_patch", "input": patch}

    @staticmethod
    def events(answer: Json) -> Iterator[Json]:
        yield {"type": "response.created", "response": {**answer, "status": "in_progress", "output": [], "usage": None}}
        for index, item in enumerate(answer["output"]):
            yield {"type": "response.output_item.done", "output_index": index, "item": item}
        yield {"type": "response.completed", "response": answer}


# --- HTTP ----------------------------------------------------------------------------------------


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
        api = _Anthropic if path.endswith("/messages") else _OpenAI if path.endswith("/responses") else None
        if api is None:
            return self.do_GET()
        request = api.read(path, {key.lower(): value for key, value in self.headers.items()}, body)
        step = self.server_of_models.step(request)
        if step.fault == "hang":
            self.server_of_models.closing.wait()
            self.close_connection = True
        elif step.fault and step.fault != "drop":
            status, headers, error = api.error(step)
            if step.retry_after is not None:
                headers["retry-after"] = str(step.retry_after)
            self._json(status, headers, error)
        else:
            answer = api.answer(step, request)
            cut = step.fault == "drop"
            if body.get("stream"):
                events = list(api.events(answer))
                self._stream(events[: len(events) // 2] if cut else events)
            else:
                self._json(200, {}, answer, cut)
        return None

    def _json(self, status: int, headers: dict[str, str], body: Json, cut: bool = False) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for key, value in {**headers, "content-type": "application/json", "content-length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut

    def _stream(self, events: Iterable[Json]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        self.close_connection = True


def _id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
