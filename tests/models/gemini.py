"""Google's Gemini API, as the Gemini CLI speaks it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.models.steps import Call, Json, Request, Step, event, new_id

_TYPE = "type.googleapis.com/google.rpc."
_STATUS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
_STATUS |= {429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}


class Gemini:
    @staticmethod
    def serves(path: str) -> bool:
        return path.endswith((":generateContent", ":streamGenerateContent"))

    @staticmethod
    def streams(path: str, body: Json) -> bool:  # noqa: ARG004
        return ":streamGenerateContent" in path

    @staticmethod
    def read(path: str, headers: dict[str, str], body: Json) -> Request:
        prompt, answered = "", 0
        for content in body["contents"]:
            parts = content["parts"]
            answered += sum("functionResponse" in part for part in parts)
            said = [part["text"] for part in parts if "text" in part]
            said = [text for text in said if not text.startswith("<session_context>")]
            if content.get("role") == "user" and said:
                prompt, answered = "\n".join(said), 0
        system = "\n".join(part["text"] for part in (body.get("systemInstruction") or {}).get("parts", []))
        declared = [tool.get("functionDeclarations", []) for tool in body.get("tools", [])]
        tools = {function["name"] for functions in declared for function in functions}
        return Request(path, headers, body, tools, system, prompt, answered)

    @staticmethod
    def error(step: Step) -> tuple[int, dict[str, str], Json]:
        status, message = step.status, step.message
        details: list[Json] = []
        if step.retry_after is not None:
            details.append({"@type": f"{_TYPE}RetryInfo", "retryDelay": f"{step.retry_after}s"})
        match step.fault:
            case "usage_limit":  # the free tier's requests of a day; it states no time
                status, message = 429, "You exceeded your current quota, please check your plan and billing details."
                violation = {
                    "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                    "quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier",
                    "quotaValue": "50",
                }
                details.append({"@type": f"{_TYPE}QuotaFailure", "violations": [violation]})
            case "credit":
                status, message = (
                    429,
                    "Your prepayment credits are depleted. Please go to AI Studio to manage your billing.",
                )
            case "context":
                status = 400
                message = "The input token count (1234567) exceeds the maximum number of tokens allowed (1048576)."
        error: Json = {"code": status, "message": message, "status": _STATUS.get(status, "UNKNOWN")}
        return status, {}, {"error": {**error, "details": details} if details else error}

    @staticmethod
    def answer(step: Step, request: Request) -> Json:
        parts: list[Json] = [{"text": step.text}] if step.text else []
        for call in step.calls:
            named = request.called(call)
            parts.append({"functionCall": {"name": named[0], "args": named[1]} if named else Gemini.tool(call)})
        return {
            "candidates": [{"content": {"role": "model", "parts": parts}, "index": 0, "finishReason": "STOP"}],
            "usageMetadata": {
                "promptTokenCount": step.input_tokens,
                "cachedContentTokenCount": step.cached_tokens,
                "candidatesTokenCount": step.output_tokens,
                "totalTokenCount": step.input_tokens + step.output_tokens,
            },
            "modelVersion": request.path.rpartition("/")[2].partition(":")[0],
            "responseId": new_id("resp"),
        }

    @staticmethod
    def tool(call: Call) -> Json:
        match call:
            case ("bash", command):
                return {"name": "run_shell_command", "args": {"command": command, "description": "as scripted"}}
            case ("write", path, content):
                return {"name": "write_file", "args": {"file_path": path, "content": content}}
            case ("edit", path, old, new):
                arguments = {"file_path": path, "old_string": old, "new_string": new, "instruction": "as scripted"}
                return {"name": "replace", "args": arguments}
        raise ValueError(call)

    @staticmethod
    def events(answer: Json) -> Iterator[str]:
        """One for each part, and one that says why it stopped."""
        [candidate] = answer["candidates"]
        for part in candidate["content"]["parts"]:
            content = {"role": "model", "parts": [part]}
            yield event({**answer, "candidates": [{"content": content, "index": 0}]})
        last = {**candidate, "content": {"role": "model", "parts": [{"text": ""}]}}
        yield event({**answer, "candidates": [last]})
