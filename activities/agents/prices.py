"""What tokens cost, for CLIs that do not say: the list prices of the library `genai-prices`, kept in its package.

It is a list, not a bill: discounts, long-context surcharges and subscriptions are not in it.
"""

from __future__ import annotations

from functools import cache

from activities.contracts import Usage


def price(used: Usage, vendor: str, model: str | None) -> float | None:
    """Dollars; None for a model that the list does not know, 0 for no tokens at all."""
    if not used.tokens:
        return 0.0
    if not model or not _known(vendor, model):
        return None
    from genai_prices import Usage as Tokens

    tokens = Tokens(
        input_tokens=used.input_tokens,
        cache_read_tokens=min(used.cached_tokens, used.input_tokens),
        output_tokens=used.output_tokens,
    )
    return _calculate(tokens, vendor, model)


@cache
def _known(vendor: str, model: str) -> bool:
    from genai_prices import Usage as Tokens

    return _calculate(Tokens(input_tokens=1_000, output_tokens=1_000), vendor, model) is not None


def _calculate(tokens: object, vendor: str, model: str) -> float | None:
    from genai_prices import calc_price  # 0.3 s to import, so not before it is needed

    for provider in dict.fromkeys((vendor or None, None)):
        try:
            return float(calc_price(tokens, model_ref=model, provider_id=provider).total_price)
        except (LookupError, ValueError):  # no such provider, or no such model of it
            continue
    return None
