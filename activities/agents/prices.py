"""What tokens cost, for CLIs that do not say: the list prices of the library `genai-prices`, kept in its package.

It is a list, not a bill: discounts, long-context surcharges and subscriptions are not in it. What is priced is often
the sum of many requests, so each token counts by the price of a short request.
"""

from __future__ import annotations

import time
from functools import lru_cache

from activities.contracts import Usage

_SAMPLE = 1_000
"""Tokens of the short request."""


def price(used: Usage, vendor: str, model: str | None) -> float | None:
    """Dollars; None for a model that the list does not know, 0 for no tokens at all."""
    if not used.tokens:
        return 0.0
    known = _prices(vendor, model, int(time.time() // 3_600)) if model else None
    if known is None:
        return None
    fresh, cached, output = known
    from_cache = min(used.cached_tokens, used.input_tokens)
    cost = (used.input_tokens - from_cache) * fresh + from_cache * cached + used.output_tokens * output
    return round(cost / _SAMPLE, 12)


@lru_cache(maxsize=1_000)
def _prices(vendor: str, model: str, hour: int) -> tuple[float, float, float] | None:  # noqa: ARG001
    """Dollars for `_SAMPLE` tokens of input, of input from the cache, of output. Some prices depend on the `hour`."""
    from genai_prices import Usage as Tokens  # 0.3 s to import, so not before it is needed

    fresh = _calculate(Tokens(input_tokens=_SAMPLE), vendor, model)
    cached = _calculate(Tokens(input_tokens=_SAMPLE, cache_read_tokens=_SAMPLE), vendor, model)
    output = _calculate(Tokens(output_tokens=_SAMPLE), vendor, model)
    return None if fresh is None or cached is None or output is None else (fresh, cached, output)


def _calculate(tokens: object, vendor: str, model: str) -> float | None:
    from genai_prices import calc_price

    for provider in dict.fromkeys((vendor or None, None)):
        try:
            return float(calc_price(tokens, model_ref=model, provider_id=provider).total_price)
        except (LookupError, ValueError):  # no such provider, or no such model of it
            continue
    return None
