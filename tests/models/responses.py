"""OpenAI Responses, as Codex speaks it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from tests.models.steps import Call, Json, Request, Step, event, new_id


class Responses:
    @staticmethod
    def serves(path: str) -> bool:
        return path.endswith("/responses")

    @staticmethod
    def streams(path: str, body: Json) -> bool:  # noqa: ARG004
        return bool(body.get("stream"))

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
            output.append({"type": "message", "id": new_id("msg"), "role": "assistant", "content": content})
        output += [
            {"id": new_id("item"), "call_id": new_id("call"), **Responses.tool(call, request)} for call in step.calls
        ]
        return {
            "id": new_id("resp"),
            "object": "response",
            "status": "completed",
            "model": request.body["model"],
            "output": output,
            "usage": {
                "input_tokens": step.input_tokens,
                "input_tokens_details": {"cached_tokens": step.cached_tokens},
                "output_tokens": step.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": step.input_tokens + step.output_tokens,
            },
        }

    @staticmethod
    def tool(call: Call, request: Request) -> Json:
        if named := request.called(call):
            # Codex shows no tool of a server before it is searched for, and takes a call of it all the same.
            called = {"type": "function_call", "name": named[0], "arguments": json.dumps(named[1])}
            return called if named[0] in request.tools else {**called, "namespace": "mcp__mergewright"}
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
    def events(answer: Json) -> Iterator[str]:
        for data in Responses._events(answer):
            yield event(data, data["type"])

    @staticmethod
    def _events(answer: Json) -> Iterator[Json]:
        yield {"type": "response.created", "response": {**answer, "status": "in_progress", "output": [], "usage": None}}
        for index, item in enumerate(answer["output"]):
            yield {"type": "response.output_item.done", "output_index": index, "item": item}
        yield {"type": "response.completed", "response": answer}
