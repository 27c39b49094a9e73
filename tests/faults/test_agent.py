"""What agent CLIs said when a turn went wrong, word for word, and what it means; the unknown stays unknown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.faults.agent import FAULTS, end_of, fault

ENDS = {
    "context full": "context_full",
    "out of credit": "credit",
    "usage limit": "limited",
    "not served here": "failed",
    "login": "login",
    "rate limit": "limited",
    "overloaded": "limited",
    "network": "limited",
    "refusal": "refused",
}
URL = "url: http://127.0.0.1:43585/v1/responses"
GATEWAY = (
    "This is a server-side issue, usually temporary — try again in a moment. If it persists, check your inference "
    "gateway (127.0.0.1:42561)."
)
GEMINI_NOISE = (
    "YOLO mode is enabled. All tool calls will be automatically approved. Ripgrep is not available. Falling back to "
    "GrepTool. [STARTUP] Phase 'cleanup_ops' was started but never ended. Skipping metrics."
)
QWEN_NOISE = (
    "Ripgrep not available: spawn /opt/qwen-code/vendor/ripgrep/x64-linux/rg EACCES. Falling back to built-in grep. "
    "Warning: running headless with --yolo / approval-mode=yolo and no sandbox. "
)

CLAUDE = [
    (
        "Prompt is too long · the request is ~213456 tokens (limit 200000) but this conversation is only ~2955",
        400,
        "context full",
    ),
    ("Credit balance is too low", 400, "out of credit"),
    ("You've hit your 5-hour limit · resets 7:29am (UTC)", 429, "usage limit"),
    ("You've hit your weekly limit · resets Nov 24, 4:49pm (UTC)", 429, "usage limit"),
    ("API Error: Request rejected (429) · Claude AI usage limit reached|1795242463", 429, "usage limit"),
    ("API Error: Request rejected (429) · This request would exceed your organization's rate limit", 429, "rate limit"),
    ("API Error: Request rejected (429) · rate limit", 429, "rate limit"),
    (
        "API Error: Server is temporarily limiting requests (not your usage limit) · This request would exceed your "
        "organization's rate limit",
        429,
        "rate limit",
    ),
    ("retries: rate_limit (429)", 0, "rate limit"),
    (f"API Error: 529 Overloaded. {GATEWAY}", 529, "overloaded"),
    (f"API Error: 500 Internal server error. {GATEWAY}", 500, "overloaded"),
    (f"API Error: 503 Service unavailable. {GATEWAY}", 503, "overloaded"),
    ("retries: overloaded (529)", 0, "overloaded"),
    ("retries: server_error (500)", 0, "overloaded"),
    ("Invalid API key · Fix external API key", 401, "login"),
    ("Failed to authenticate. API Error: 403 permission denied", 403, "login"),
    ("Not logged in · Please run /login", 0, "login"),
    ("retries: authentication_failed (401)", 0, "login"),
    ("API Error: Connection refused — a firewall or proxy may be blocking it (ECONNREFUSED)", 0, "network"),
    (
        "API Error: Connection dropped (ECONNRESET). Check the gateway set in ANTHROPIC_BASE_URL, then try again.",
        0,
        "network",
    ),
    (
        "Request timed out. If the API is slow to answer, or a proxy holds responses, set API_TIMEOUT_MS above 4000.",
        0,
        "network",
    ),
    (
        "input length and `max_tokens` exceed context limit: 190000 + 32000 > 200000, decrease input",
        400,
        "context full",
    ),
    ("You've reached your Opus limit · resets 3pm", 429, "usage limit"),
    ("API Error: 400 This organization has been disabled.", 400, "login"),
    # unknown
    (
        "There's an issue with the selected model (claude-opus-5-5). It may not exist or you may not have access.",
        404,
        None,
    ),
    ("API Error: Claude's response exceeded the 128000 output token maximum. To configure this behavior, set", 0, None),
    ("[ede_diagnostic] result_type=user last_content_type=n/a stop_reason=tool_use", 0, None),
    ("error: unknown option '--no-such-flag'", 0, None),
    ("Error: Session ID 11111111-2222-4333-8444-555555555555 is already in use.", 0, None),
    ("Error: Input must be provided either through stdin or as a prompt argument when using --print", 0, None),
    ("--dangerously-skip-permissions cannot be used with root/sudo privileges for security reasons", 0, None),
    ("retries: unknown (None)", 0, None),
]
CODEX = [
    (
        "Codex ran out of room in the model's context window. Start a new thread or clear earlier history.",
        0,
        "context full",
    ),
    ("Quota exceeded. Check your plan and billing details.", 0, "out of credit"),
    (
        "You\u2019ve hit your usage limit. Upgrade to Pro (https://chatgpt.com/explore/pro) or try again at 7:44 AM.",
        0,
        "usage limit",
    ),
    (
        "rate limit exceeded: Rate limit reached for gpt-5.1 in organization org-x on tokens per min (TPM): "
        "Limit 30000. Please try again in 1.5s.",
        0,
        "rate limit",
    ),
    ("exceeded retry limit, last status: 429 Too Many Requests", 0, "rate limit"),
    ("Reconnecting... 1/5 (exceeded retry limit, last status: 429 Too Many Requests)", 0, "rate limit"),
    ("Selected model is at capacity. Please try a different model.", 0, "overloaded"),
    ("We\u2019re currently experiencing high demand, which may cause temporary errors.", 0, "overloaded"),
    (f"unexpected status 503 Service Unavailable: Service unavailable, {URL}", 0, "overloaded"),
    (f"unexpected status 529 <unknown status code>: Overloaded, {URL}", 0, "overloaded"),
    (f"unexpected status 401 Unauthorized: invalid x-api-key, {URL}", 0, "login"),
    (f"unexpected status 403 Forbidden: Country, region, or territory not supported, {URL}", 0, "not served here"),
    ("Missing environment variable: `FAKE_KEY`.", 0, "login"),
    ("stream disconnected before completion: stream closed before response.completed", 0, "network"),
    ("stream disconnected before completion: idle timeout waiting for SSE", 0, "network"),
    # unknown
    ('{"error": {"message": "bad request", "type": "invalid_request_error", "code": null, "param": null}}', 0, None),
    ("model: nope", 0, None),
    ("Error: Model provider `nope` not found", 0, None),
    (
        "error: unexpected argument '--max-turns' found tip: to pass '--max-turns' as a value, use '-- --max-turns'",
        0,
        None,
    ),
    ("Not inside a trusted directory and --skip-git-repo-check was not specified.", 0, None),
    (
        "ERROR codex_core::session: failed to record rollout items: thread 01a1fca4-d0f4-7513-a1d4 not found",
        0,
        None,
    ),
]
GEMINI = [
    (
        '[API Error: {"error":{"code":400,"message":"The input token count (1234567) exceeds the maximum number of '
        'tokens allowed (1048576).","status":"INVALID_ARGUMENT","details":[]}}]',
        0,
        "context full",
    ),
    (
        "[API Error: You have exhausted your daily quota on this model.] Please wait and try again later. To increase "
        "your limits, request a quota increase through AI Studio, or switch to another /auth method",
        0,
        "usage limit",
    ),
    (
        "cause: { code: 429, message: 'The usage limit has been reached', details: [ [Object] ] }, status: 429 }",
        0,
        "usage limit",
    ),
    (
        "Attempt 4 failed: This request would exceed your organization's rate limit Suggested retry after 2s.. "
        "Retrying after 33826ms...",
        0,
        "rate limit",
    ),
    (
        "Quota exceeded for quota metric 'Generate Content API requests per minute' and limit 'GenerateContent request "
        "limit per minute for a region' of service 'generativelanguage.googleapis.com'",
        403,
        "rate limit",
    ),
    ("User location is not supported for the API use.", 400, "not served here"),
    ("Attempt 3 failed with status 500. Retrying with backoff...", 0, "overloaded"),
    (
        '[API Error: {"error":{"code":401,"message":"invalid x-api-key","status":"UNAUTHENTICATED","details":[]}}]',
        0,
        "login",
    ),
    ("Invalid auth method selected.", 0, "login"),
    ("Model stream ended without a finish reason.", 0, "network"),
    # unknown
    ('[API Error: {"error":{"code":400,"message":"bad request","status":"INVALID_ARGUMENT","details":[]}}]', 0, None),
    (GEMINI_NOISE, 0, None),
    (f"{GEMINI_NOISE} Reached max session turns for this session. Increase the number of turns by specifying", 0, None),
    ("Gemini CLI is not running in a trusted directory. To proceed, either use `--skip-trust`, set the", 0, None),
    ("Error resuming session: No previous sessions found for this project.", 0, None),
]
OPENCODE = [
    (
        "This model's maximum context length is 272000 tokens. However, your messages resulted in 300000 tokens.",
        400,
        "context full",
    ),
    ("invalid x-api-key", 401, "login"),
    # unknown
    ("bad request", 400, None),
    ("permission requested: external_directory (/src/*); auto-rejecting", 0, None),
    ("Error: Session not found", 0, None),
]
QWEN = [
    (
        "[API Error: 400 This model's maximum context length is 272000 tokens. However, your messages resulted in "
        "300000 tokens.]",
        0,
        "context full",
    ),
    ("[API Error: 401 invalid x-api-key]", 0, "login"),
    # unknown
    (QWEN_NOISE, 0, None),
    (f"{QWEN_NOISE}Run aborted: wall-clock budget of 4s exceeded (--max-wall-time).", 0, None),
    (f"{QWEN_NOISE}Run aborted: tool-call budget of 2 exceeded (--max-tool-calls); observed 3.", 0, None),
    ("Error: Session Id 11111111-2222-4333-8444-555555555555 already exists (active or archived).", 0, None),
]
OURS = [
    ("killed by SIGTERM", 0, None),
    ("exit 1 and no result", 0, None),
    ("ended at a time-out", 0, None),
    ("", 0, None),
]
SAID = CLAUDE + CODEX + GEMINI + OPENCODE + QWEN + OURS


@pytest.mark.parametrize(("text", "status", "name"), SAID)
def test_what_a_cli_says_has_its_row(text: str, status: int, name: str | None) -> None:
    found = fault(text, status)
    assert (found.name if found else None) == name
    assert end_of(text, status) == (ENDS[name] if name else "failed")


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (401, "login"),
        (402, "out of credit"),
        (403, "login"),
        (413, "context full"),
        (429, "rate limit"),
        (500, "overloaded"),
        (502, "overloaded"),
        (503, "overloaded"),
        (504, "overloaded"),
        (529, "overloaded"),
        (400, None),
        (404, None),
        (200, None),
    ],
)
def test_a_status_tells_where_the_text_does_not(status: int, name: str | None) -> None:
    found = fault("the model server said no", status)
    assert (found.name if found else None) == name


def test_a_text_may_say_more_than_its_status() -> None:
    assert end_of("Credit balance is too low", 429) == "credit"
    assert end_of("This model's maximum context length is 272000 tokens.", 500) == "context_full"


def test_every_row_was_met_and_each_status_is_in_one() -> None:
    assert {row.name: row.end for row in FAULTS} == ENDS
    assert {name for _, _, name in SAID if name} >= {row.name for row in FAULTS} - {"refusal"}
    statuses = [status for row in FAULTS for status in row.statuses]
    assert len(statuses) == len(set(statuses))


@given(st.text(), st.integers())
def test_no_text_makes_it_raise(text: str, status: int) -> None:
    found = fault(text, status)
    assert end_of(text, status) == (found.end if found else "failed")
