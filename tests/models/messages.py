"""Anthropic Messages, as Claude Code speaks it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from tests.models.steps import Call, Json, Request, Step, event, new_id


class Messages:
    @staticmethod
    def serves(path: str) -> bool:
        return path.endswith("/messages")

    @staticmethod
    def streams(path: str, body: Json) -> bool:  # noqa: ARG004
        return bool(body.get("stream"))

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
            name, arguments = request.called(call) or Messages.tool(call)
            content.append({"type": "tool_use", "id": new_id("toolu"), "name": name, "input": arguments})
        return {
            "id": new_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": request.body["model"],
            "content": content,
            "stop_reason": "tool_use" if step.calls else "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": step.input_tokens - step.cached_tokens,
                "cache_read_input_tokens": step.cached_tokens,
                "output_tokens": step.output_tokens,
            },
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
    def events(answer: Json) -> Iterator[str]:
        for data in Messages._events(answer):
            yield event(data, data["type"])

    @staticmethod
    def _events(answer: Json) -> Iterator[Json]:
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
