"""When a limit ends, read from what a CLI or its model server says. Pure; a text that states nothing gives None."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_UNIT = {"ms": 0.001, "s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0}
_UNIT |= {"h": 3_600.0, "hr": 3_600.0, "hour": 3_600.0, "d": 86_400.0, "day": 86_400.0, "week": 604_800.0}
# `1h2m3s` has no word boundary inside, so its parts are taken one by one.
_AMOUNTS = r"(?P<amounts>(?:\d{1,9}(?:\.\d{1,9})?\s*[a-z]+[\s,]*(?:and\s+)?){1,6})"
_IN = re.compile(rf"(?:try again|retry|resets?|available again|reset) (?:in|after) {_AMOUNTS}", re.IGNORECASE)
# JSON within JSON: the quotes come with backslashes.
_DELAY = re.compile(r"(?:retry-?after|retry_after|retryDelay)\W{1,8}(?P<seconds>\d{1,9}(?:\.\d{1,9})?)", re.IGNORECASE)
_EPOCH = re.compile(r"(?:limit reached\||resets_?at\W{1,4})(?P<epoch>\d{10}(?:\d{3})?)\b", re.IGNORECASE)
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_AT = re.compile(
    r"(?:resets?|try again|again|available)(?: at| on)?\s+"
    rf"(?:(?P<month>{'|'.join(_MONTHS)})[a-z]*\.? (?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?"
    r"(?: (?P<year>\d{4}),?)?(?: at)? )?"
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2}))?\s*(?P<half>[ap]\.?m\.?)?(?!\w)(?:\s*\((?P<zone>[A-Za-z0-9_+/-]+)\))?",
    re.IGNORECASE,
)
_JUST_PASSED = timedelta(minutes=10)


def stated_wait(text: str, now: datetime) -> float | None:
    """Seconds from `now` (with a time zone: the one of clock times that name none) until the stated time.

    A clock time that has passed is tomorrow's, but for one that passed while the message was on its way. Clock times
    are rounded down to the minute by those who print them, so the wait goes to the minute's end.
    """
    if found := _EPOCH.search(text):
        epoch = int(found["epoch"]) / (1_000 if len(found["epoch"]) == 13 else 1)
        return max(0.0, epoch - now.timestamp())
    if found := _DELAY.search(text):
        return float(found["seconds"])
    waits = [_seconds(found["amounts"]) for found in _IN.finditer(text)]
    waits += [_until(found, now) for found in _AT.finditer(text)]
    return next((wait for wait in waits if wait is not None), None)


def _seconds(amounts: str) -> float | None:
    total, known = 0.0, False
    for amount, unit in re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)", amounts.lower()):
        seconds = _UNIT.get(unit) or _UNIT.get(unit.removesuffix("s"))
        if seconds is None:
            break
        total, known = total + float(amount) * seconds, True
    return total if known else None


def _until(found: re.Match[str], now: datetime) -> float | None:
    if found["minute"] is None and found["half"] is None:
        return None  # a bare number is no time of day
    zone = _zone(found["zone"]) or now.tzinfo or UTC
    here = now.astimezone(zone)
    hour = int(found["hour"])
    if found["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if found["half"].lower().startswith("p") else 0)
    try:
        then = here.replace(hour=hour, minute=int(found["minute"] or 0), second=0, microsecond=0)
        if found["month"]:
            month = _MONTHS.index(found["month"].lower()) + 1
            then = then.replace(year=int(found["year"] or here.year), month=month, day=int(found["day"]))
            if not found["year"] and abs(then - here) > timedelta(days=180):
                then = then.replace(year=then.year + (1 if then < here else -1))
        elif then + timedelta(minutes=1) < here - _JUST_PASSED:
            then += timedelta(days=1)
        return max(0.0, then.timestamp() + 60 - now.timestamp())  # in UTC: clocks may be put back meanwhile
    except (ValueError, OverflowError):  # no such day or time
        return None


def _zone(name: str | None) -> tzinfo | None:
    if not name:
        return None
    try:
        return UTC if name.upper() in ("UTC", "GMT", "Z") else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
