"""JSON that others wrote: read without a surprise."""

from __future__ import annotations

import json
from typing import Any

MAX_BYTES = 20_000_000


class NotJson(ValueError):
    """One line: why it cannot be read."""


def parsed(data: bytes) -> Any:
    """What is in it; every text of it can be written as UTF-8. Raises NotJson."""
    if len(data) > MAX_BYTES:
        raise NotJson(f"has more than {MAX_BYTES:,} bytes: divide it")
    try:
        found = json.loads(data.decode("utf-8-sig"))
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeDecodeError as error:
        raise NotJson(f"is not UTF-8 (byte {error.start:,}): save it as UTF-8") from None
    except UnicodeEncodeError:
        raise NotJson("has one half of a surrogate pair (\\ud800 …): write the whole character") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise NotJson("is nested too deeply") from None
    except ValueError:  # a number of thousands of digits, NaN, Infinity
        raise NotJson("has a number that is none") from None
    return found
