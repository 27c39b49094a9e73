"""The time that a limit states, in the words of the CLIs and of the model servers behind them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.agents.resets import stated_wait

NOW = datetime(2026, 11, 21, 6, 45, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
CODEX = "You\u2019ve hit your usage limit. Upgrade to Pro (https://chatgpt.com/explore/pro) or "
DAY = 86_400


def at(day: int, hour: int, minute: int = 0, second: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, second, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        # Codex
        ("Rate limit reached for gpt-5.1: Limit 30000. Please try again in 1.5s.", 1.5),
        ("Please try again in 20ms.", 0.02),
        ("Please try again in 1h2m3.5s.", 3723.5),
        ("Try again in 3 days.", 3 * DAY),
        ("Try again in 1 day 2 hours 5 minutes.", DAY + 7_500),
        # Gemini CLI
        ("You have exhausted your capacity on this model. Your quota will reset after 3h20m5s.", 12_005),
        ("Your quota will reset after 21s.", 21),
        (
            "Quota exceeded for metric: generate_content_free_tier_requests. Please retry in 34.074824224s.",
            34.074824224,
        ),
        ('{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}', 34),
        (r"{\"@type\":\"type.googleapis.com/google.rpc.RetryInfo\", \"retryDelay\": \"34s\"}", 34),
        ("failed: would exceed your rate limit Suggested retry after 2s.. Retrying after 5712ms...", 2),
        # headers, and fields of errors
        ("retry-after: 30", 30),
        ("Retry-After: 3600", 3_600),
        ('"retry_after": 12.5', 12.5),
        # others
        ("The limit resets in 2 weeks", 14 * DAY),
        ("Too many requests, available again in 1 hour, 5 mins and 3 seconds", 3_903),
        ("try again in 5 files, or try again in 10 min", 600),
    ],
)
def test_a_time_from_now(text: str, seconds: float) -> None:
    assert stated_wait(text, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "API Error: Request rejected (429) · Claude AI usage limit reached|1795246193",
        "limit reached|1795246193000",
        '"resets_at": 1795246193',
        '{"status":"rejected","resetsAt":1795246193}',
    ],
)
def test_a_moment_in_unix_time(text: str) -> None:
    assert stated_wait(text, datetime.fromtimestamp(1795246193 - 90, UTC)) == pytest.approx(90)
    assert stated_wait(text, datetime.fromtimestamp(1795246193 + 90, BERLIN)) == 0


@pytest.mark.parametrize(
    ("text", "now", "seconds"),
    [
        # Claude Code: to the end of the minute, which was rounded down
        ("You've hit your 5-hour limit · resets 7:29am (UTC)", at(21, 6, 29, 53), 3_607),
        ("You've hit your 5-hour limit · resets 7:29am (UTC)", at(21, 22, 30), 9 * 3_600),
        ("You've hit your weekly limit · resets Nov 24, 4:49pm (UTC)", at(21, 16, 50), 3 * DAY),
        ("You've hit your weekly limit · resets Jan 2, 4pm (UTC)", datetime(2026, 12, 31, 16, 1, tzinfo=UTC), 2 * DAY),
        ("You've hit your weekly limit · resets Dec 31, 11:58pm (UTC)", datetime(2027, 1, 1, tzinfo=UTC), 0),
        ("Your limit will reset at 3pm (America/New_York).", at(21, 19, 1), 3_600),
        ("You've hit your session limit · resets 12am (Europe/Berlin)", at(21, 22, 1), 3_600),
        ("resets 7:29am (Mars/Olympus_Mons)", at(21, 6, 30), 3_600),  # as good as no zone
        # Codex: in the time of its machine
        (CODEX + "try again at 7:44 AM.", at(21, 7, 43), 120),
        (CODEX + "try again at 7:44 AM.", at(21, 7, 44, 30), 30),
        (CODEX + "try again at 7:44 AM.", at(21, 7, 45, 5), 0),  # it passed while the message was on its way
        (CODEX + "try again at 7:44 AM.", at(21, 23, 45), 8 * 3_600),
        (CODEX + "try again at 12:05 AM.", at(21, 23, 59), 7 * 60),
        (CODEX + "try again at 12:05 PM.", at(21, 11, 59), 7 * 60),
        (CODEX + "try again at 7:44 AM.", datetime(2026, 11, 21, 6, 45, tzinfo=BERLIN), 3_600),
        (CODEX + "try again at Nov 22nd, 2026 7:03 AM.", at(21, 7, 4), DAY),
        (CODEX + "try again at Jan 1st, 2027 12:00 AM.", datetime(2026, 12, 31, 23, 59, tzinfo=UTC), 120),
        (CODEX + "try again at Nov 20th, 2026 7:03 AM.", at(21, 7, 4), 0),
        # others
        ("Limit reached, again 5 files; resets 15:30", at(21, 15, 1), 30 * 60),
    ],
)
def test_a_clock_time(text: str, now: datetime, seconds: float) -> None:
    assert stated_wait(text, now) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("now", "text", "hours"),
    [
        (datetime(2026, 3, 28, 22, 31, tzinfo=UTC), "resets 4:30am (Europe/Berlin)", 4),  # clocks go 2 -> 3
        (datetime(2026, 10, 24, 22, 31, tzinfo=UTC), "resets 4:30am (Europe/Berlin)", 5),  # clocks go 3 -> 2
        (
            datetime(2026, 10, 25, 1, 11, tzinfo=UTC),
            "resets 2:40am (Europe/Berlin)",
            0.5,
        ),  # the second 2:11 of that night
    ],
)
def test_the_night_in_which_clocks_change(now: datetime, text: str, hours: float) -> None:
    assert stated_wait(text, now) == pytest.approx(hours * 3_600)
    assert stated_wait(text, now.astimezone(BERLIN)) == pytest.approx(hours * 3_600)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Try again later.",
        "This is a server-side issue, usually temporary — try again in a moment.",
        "please wait and try again later. To increase your limits, request a quota increase",
        "I shall try again 5 files",
        "resets",
        "resets 7",
        "or try again at 27:03 AM.",
        "or try again at 7:63 AM.",
        "or try again at 0:30 PM.",
        "or try again at Nov 99th, 2026 7:03 AM.",
        "resets Feb 30, 4pm (UTC)",
        "try again in 5 files",
        "retry-after-ms: 1500",
        "limit reached|179",
        "Listening on 7:44",
        "took 1h2m3s",
    ],
)
def test_a_text_that_states_nothing(text: str) -> None:
    assert stated_wait(text, NOW) is None


PIECES = st.sampled_from(
    "resets~try again~again~retry~available~limit reached|~retry-after: ~retryDelay~resets_at: ~resets_at\":~ ~  "
    "~ at ~ in ~ after ~ on ~Nov ~feb 29, ~dec 31st, ~2026 ~9999 ~0001 ~1~7~27~99~:00~:61~:03~am~pm~ p.m.~ AM~h~m~s~ms"
    "~d~ days~ weeks~and ~(UTC)~ (Europe/Berlin)~ (Europe)~ (/etc)~ (+/-)~1795246193~9999999999999~999999999~.5~0"
    .split("~")
)  # fmt: skip
ZONES = st.sampled_from([UTC, BERLIN, ZoneInfo("Pacific/Kiritimati"), ZoneInfo("America/New_York")])
MOMENTS = st.datetimes(datetime(1970, 2, 1), datetime(9998, 12, 31), timezones=ZONES)


@given(st.text() | st.lists(PIECES, max_size=9).map("".join), MOMENTS)
def test_no_text_makes_it_raise_or_wait_for_the_past(text: str, now: datetime) -> None:
    wait = stated_wait(text, now)
    assert wait is None or 0 <= wait < float("inf")


@given(st.integers(0, 1439), MOMENTS)
def test_a_clock_time_is_within_a_day(minute: int, now: datetime) -> None:
    wait = stated_wait(f"resets {minute // 60}:{minute % 60:02} (UTC)", now)
    assert wait is not None
    then = now.astimezone(UTC) + timedelta(seconds=wait + 0.001)  # floats round
    assert wait == 0 or (then.hour * 60 + then.minute) % 1440 == (minute + 1) % 1440
    assert wait <= DAY
