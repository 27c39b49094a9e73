"""The price list: whole turns count by the price of short requests."""

from __future__ import annotations

import pytest

from activities.agents.prices import price
from activities.contracts import Usage


@pytest.mark.parametrize(
    ("vendor", "model"), [("openai", "gpt-5.5"), ("google", "gemini-2.5-pro"), ("anthropic", "claude-sonnet-4-5")]
)
def test_many_requests_cost_what_each_of_them_does(vendor: str, model: str) -> None:
    """Their sum is longer than what the list calls a long context, which none of them is."""
    one = price(Usage(input_tokens=9_000, cached_tokens=7_000, output_tokens=300), vendor, model)
    many = price(Usage(input_tokens=900_000, cached_tokens=700_000, output_tokens=30_000), vendor, model)
    assert one
    assert many == pytest.approx(100 * one)


def test_the_parts_of_the_input_have_their_prices() -> None:
    def dollars(fresh: int, cached: int, output: int) -> float:
        used = Usage(input_tokens=fresh + cached, cached_tokens=cached, output_tokens=output)
        cost = price(used, "google", "gemini-2.5-pro")
        assert cost is not None
        return cost

    assert 0 < dollars(0, 1_000, 0) < dollars(1_000, 0, 0) < dollars(0, 0, 1_000)
    assert dollars(5, 70, 9) == pytest.approx(dollars(5, 0, 0) + dollars(0, 70, 0) + dollars(0, 0, 9))


def test_more_from_the_cache_than_there_was_is_all_of_it() -> None:
    odd, all_of_it = (Usage(input_tokens=10, cached_tokens=count) for count in (50, 10))
    assert price(odd, "openai", "gpt-5.5") == price(all_of_it, "openai", "gpt-5.5")


def test_an_unknown_model_has_no_price() -> None:
    assert price(Usage(input_tokens=1), "openai", "no-such-model") is None
    assert price(Usage(input_tokens=1), "openai", None) is None
    assert price(Usage(), "openai", None) == 0.0


def test_a_model_is_found_whoever_serves_it() -> None:
    used = Usage(input_tokens=1_000)
    assert price(used, "no-such-vendor", "gpt-5.5") == price(used, "", "gpt-5.5") == price(used, "openai", "gpt-5.5")
