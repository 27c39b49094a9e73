"""OpenAI Chat Completions, as opencode and Qwen Code speak it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.models.steps import Call, Json, Request, Step, event, new_id

_FOLDER = re.compile(r"working in the directory: ([^\\]+)")
_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)


class Chat:
    @staticmethod
    def serves(path: str) -> bool:
        return path.endswith("/chat/completions")

    @staticmethod
    def streams(path: str, body: Json) -> bool:  # noqa: ARG004
        return bool(body.get("stream"))

    @staticmethod
    def read(path: str, headers: dict[str, str], body: Json) -> Request:
        system, prompt, answered = "", "", 0
        for message in body["messages"]:
            match message:
                case {"role": "tool", "tool_call_id": str(call)} if not call.startswith("look"):
                    answered += 1
                case {"role": "system" | "developer", "content": content}:
                    system += _text(content)
                case {"role": "user", "content": content}:
                    prompt, answered = _text(content), 0
        tools = {tool["function"]["name"] for tool in body.get("tools") or [] if "function" in tool}
        return Request(path, headers, body, tools, system, prompt, answered)

    @staticmethod
    def error(step: Step) -> tuple[int, dict[str, str], Json]:
        status, message, kind, code = step.status, step.message, "invalid_request_error", None
        match step.fault, status:
            case "usage_limit", _:  # there is none in this API but that of requests
                status, kind, code = 429, "requests", "rate_limit_exceeded"
                message = f"Rate limit reached for gpt-5.5 on requests per day. Please try again in {step.resets_in}s."
            case "credit", _:
                status, kind, code = 429, "insufficient_quota", "insufficient_quota"
                message = (
                    "You exceeded your current quota, please check your plan and billing details. For more information "
                    "on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors."
                )
            case "context", _:
                status, code = 400, "context_length_exceeded"
                message = (
                    "This model's maximum context length is 200000 tokens. However, your messages resulted in 213456 "
                    "tokens. Please reduce the length of the messages."
                )
            case _, 401:
                code = "invalid_api_key"
            case _, 429:
                kind, code = "requests", "rate_limit_exceeded"
            case _, 500 | 502 | 503 | 504:
                kind = "server_error"
        error = {"message": message, "type": kind, "param": None, "code": code}
        return status, {}, {"error": error}

    @staticmethod
    def answer(step: Step, request: Request) -> Json:
        message: Json = {"role": "assistant", "content": step.text or None}
        if step.calls:
            message["tool_calls"] = [part for call in step.calls for part in Chat.tools(call, request)]
        return {
            "id": new_id("chatcmpl"),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": request.body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if step.calls else "stop"}],
            "usage": {
                "prompt_tokens": step.input_tokens,
                "completion_tokens": step.output_tokens,
                "total_tokens": step.input_tokens + step.output_tokens,
                "prompt_tokens_details": {"cached_tokens": step.cached_tokens},
            },
        }

    @staticmethod
    def tools(call: Call, request: Request) -> Iterator[Json]:
        """The call by the name that the client has for it. Qwen Code edits no file that it has not read."""
        if named := request.called(call):
            yield _function("call", *named)
            return
        if "run_shell_command" not in request.tools:
            yield _function("call", *_opencode(call))
            return
        folder = _FOLDER.search(json.dumps(request.body["messages"]))
        name, arguments = _qwen(call, Path(folder[1] if folder else "/"))
        if name == "edit":
            yield _function("look", "read_file", {"file_path": arguments["file_path"]})
        yield _function("call", name, arguments)

    @staticmethod
    def events(answer: Json) -> Iterator[str]:
        for data in Chat._events(answer):
            yield event(data)
        yield "data: [DONE]\n\n"

    @staticmethod
    def _events(answer: Json) -> Iterator[Json]:
        [choice] = answer["choices"]
        chunk = {**{key: answer[key] for key in ("id", "created", "model")}, "object": "chat.completion.chunk"}

        def part(delta: Json, reason: str | None = None) -> Json:
            return {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

        yield part({"role": "assistant", "content": ""})
        if choice["message"]["content"]:
            yield part({"content": choice["message"]["content"]})
        for index, call in enumerate(choice["message"].get("tool_calls", [])):
            yield part({"tool_calls": [{"index": index, **call}]})
        yield part({}, choice["finish_reason"])
        yield {**chunk, "choices": [], "usage": answer["usage"]}


def _text(content: Any) -> str:
    """Without what Qwen Code adds to what the user said."""
    if not isinstance(content, str):
        content = "\n".join(part["text"] for part in content if part.get("type") == "text")
    return _REMINDER.sub("", content).strip()


def _function(kind: str, name: str, arguments: Json) -> Json:
    return {"id": new_id(kind), "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def _opencode(call: Call) -> tuple[str, Json]:
    match call:
        case ("bash", command):
            return "bash", {"command": command, "description": "as scripted"}
        case ("write", path, content):
            return "write", {"filePath": path, "content": content}
        case ("edit", path, old, new):
            return "edit", {"filePath": path, "oldString": old, "newString": new}
    raise ValueError(call)


def _qwen(call: Call, folder: Path) -> tuple[str, Json]:
    """Relative paths it refuses."""
    match call:
        case ("bash", command):
            return "run_shell_command", {"command": command, "is_background": False}
        case ("write", path, content):
            return "write_file", {"file_path": str(folder / path), "content": content}
        case ("edit", path, old, new):
            return "edit", {"file_path": str(folder / path), "old_string": old, "new_string": new}
    raise ValueError(call)
