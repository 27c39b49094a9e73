"""Faults of agent CLIs and of the models behind them: the one table from what a CLI says to how its turn ended.

A CLI tells an HTTP status, or only a text. The first row that fits counts; nothing fits: the turn `failed`, and what it
said is the evidence. Every text below was printed by a real CLI (the samples are in the tests) or is its source's.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from activities.contracts import TurnEnd


@dataclass(frozen=True)
class Fault:
    name: str
    end: TurnEnd
    statuses: Collection[int]
    """HTTP statuses that mean this whatever the text is."""
    text: re.Pattern[str]
    done: str
    """What is done about it; for the documentation."""


def _texts(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


FAULTS = (
    Fault(
        "context full",
        "context_full",
        (413,),
        _texts(
            r"prompt is too long",
            r"context_length_exceeded",
            r"ran out of room in the model.s context",
            r"(exceeds?|over|beyond) the (model.s )?(maximum )?(context|number of tokens)",
            r"maximum context length",
            r"exceeds? context limit",
            r"input token count .{0,40}exceeds",
        ),
        "the session is summarised, and a new one starts from the summary",
    ),
    Fault(
        "out of credit",
        "credit",
        (402,),
        _texts(
            r"credit balance is too low",
            r"insufficient_quota",
            r"exceeded your current quota.{0,200}platform\.openai\.com",
            r"Quota exceeded\. Check your plan",
            r"insufficient (funds|balance|credits?)",
            r"credits are depleted",
            r"spend(ing)? limit",
            r"payment required",
            r"billing (hard limit|is not enabled|account)",
        ),
        "the next of `fallbacks`; else the account is parked and tried again every 15 minutes",
    ),
    Fault(
        "usage limit",
        "limited",
        (),
        _texts(
            r"(hit|reached) your [\w -]*limit",
            r"usage.limit (has been )?reached",
            r"usage_limit_reached",
            r"limit reached\|\d",
            r"exhausted your (daily |current )?(quota|capacity)",
            r"exceeded your current quota",
            r"quota will reset after",
        ),
        "the account is parked until the stated time",
    ),
    Fault(
        "not served here",
        "failed",
        (),
        _texts(
            r"country, region, or territory not supported|unsupported_country_region_territory",
            r"user location is not supported",
        ),
        "as any failure: no login helps",
    ),
    Fault(
        "login",
        "login",
        (401, 403),
        _texts(
            r"not logged in",
            r"invalid api key",
            r"incorrect api key",
            r"api key not valid",
            r"\b401 Unauthorized",
            r"\b403 Forbidden",
            r"(status:?|API Error:) 40[13]\b",
            r"failed to authenticate",
            r"authentication_(error|failed)",
            r"invalid x-api-key",
            r"\bUNAUTHENTICATED\b",
            r"Missing environment variable",
            r"Missing API key",
            r"No auth type is selected",
            r"(log|sign) ?in again",
            r"codex login",
            r"(set|specify) an auth method",
            r"invalid auth method",
            r"oauth token (has expired|revoked)",
            r"organization has been disabled",
        ),
        "the next of `fallbacks`; else *blocked: login missing*",
    ),
    Fault(
        "rate limit",
        "limited",
        (429,),
        _texts(
            r"too many requests",
            r"rate.?limit",
            r"RESOURCE_EXHAUSTED",
            r"Quota exceeded for quota metric",
            r"(status:?|API Error:) 429\b",
        ),
        "the account is parked: the stated time, else 30 s, 60 s, 120 s …",
    ),
    Fault(
        "overloaded",
        "limited",
        (500, 502, 503, 504, 529),
        _texts(
            r"overloaded",
            r"is at capacity",
            r"experiencing high demand",
            r"internal server error",
            r"service unavailable",
            r"\bserver_error\b",
            r"(status:?|API Error:) 5(00|02|03|04|29)\b",
        ),
        "as a rate limit",
    ),
    Fault(
        "network",
        "limited",
        (),
        _texts(
            r"connection (refused|dropped|reset|error|closed)",
            r"stream disconnected",
            r"idle timeout waiting for SSE",
            r"ECONNREFUSED|ECONNRESET|ENOTFOUND|EAI_AGAIN|ETIMEDOUT",
            r"fetch failed",
            r"socket hang up",
            r"(request|API) timed out|timeout of \d+ ?ms exceeded",
            r"error sending request",
            r"premature close|terminated: other side closed",
            r"stream ended without a finish reason|NO_FINISH_REASON|Transport stream retry",
        ),
        "as a rate limit, once the CLI's own retries are used up",
    ),
    Fault(
        "refusal",
        "refused",
        (),
        _texts(
            r"usage policy",
            r"stop_reason.{0,5}refusal",
            r"unable to respond to this request",
            r"content_filter",
            r"response was blocked due to (safety|recitation|other policy)",
        ),
        "a new session with a word about it; twice in a row, the next of `fallbacks`",
    ),
)


def fault(text: str, status: int = 0) -> Fault | None:
    """The row for a CLI's message; `status` is the HTTP status where it is known. None: unknown."""
    exact = next((row for row in FAULTS if row.text.search(text)), None)
    # A text may say more than its status: 400 for a full context, 429 for a lack of credit.
    return exact or next((row for row in FAULTS if status in row.statuses), None)


def end_of(text: str, status: int = 0) -> TurnEnd:
    found = fault(text, status)
    return found.end if found else "failed"
