"""What like tasks of the same repository came to: a task's chance to land, and how long it may take. Pure.

Nothing but counts and a sample's own quantiles: a model of our own would only hide how few cases there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from service.past import Past

FEW = 5
"""With fewer cases nothing is said: of four that landed the interval would be 55 to 100 %."""
LEVEL = 0.95


@dataclass(frozen=True)
class Forecast:
    runtime: str
    """Whose tasks are meant; empty: everybody's, as there are too few of the one that was asked for."""
    cases: int
    landed: int
    chance: tuple[float, float] | None = None
    """An interval of 95 %; none: too few cases."""
    seconds: tuple[float, float] | None = None
    """From start to landing: half took no longer than the first, nine of ten no longer than the second."""


def forecast(past: Sequence[Past], runtime: str) -> Forecast:
    """`past`: of one repository. What never began (its input was wrong) says nothing; what an operator ended has not
    landed either, and counts so."""
    begun = [each for each in past if each.seconds or each.turns]
    like = [each for each in begun if each.runtime == runtime]
    if len(like) < FEW:
        runtime, like = "", begun
    took = sorted(each.seconds.get("total", 0.0) for each in like if each.outcome == "merged")
    return Forecast(
        runtime=runtime,
        cases=len(like),
        landed=len(took),
        chance=jeffreys(len(took), len(like)) if len(like) >= FEW else None,
        seconds=(quantile(took, 0.5), quantile(took, 0.9)) if len(took) >= FEW else None,
    )


def jeffreys(successes: int, cases: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval for a share: the middle of Beta(k + ½, n - k + ½), and to the very end where all or none succeeded."""
    a, b = successes + 0.5, cases - successes + 0.5
    low = 0.0 if successes == 0 else beta_quantile((1 - level) / 2, a, b)
    high = 1.0 if successes == cases else beta_quantile((1 + level) / 2, a, b)
    return low, high


def beta_quantile(share: float, a: float, b: float) -> float:
    """Where the distribution Beta(a, b) reaches `share`; by halves, to six digits."""
    from mpmath import betainc  # type: ignore[import-untyped]  # importing it takes a tenth of a second

    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        if betainc(a, b, 0, middle, regularized=True) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of these, sorted, that so great a share of them does not exceed: one that has really been."""
    return values[max(math.ceil(share * len(values)) - 1, 0)]


def told(found: Forecast) -> str:
    who = f"{found.runtime} tasks" if found.runtime else "tasks of any runtime"
    counted = f"{found.landed} of {found.cases} {who} here have landed"
    if found.chance is None:
        return f"{counted}: too few cases to say more"
    low, high = found.chance
    text = f"{counted}: a chance of {low:.0%} to {high:.0%}"
    if found.seconds is None:
        return f"{text}; too few have landed to say how long it takes"
    half, most = found.seconds
    return f"{text}; half of those took up to {span(half)}, nine of ten up to {span(most)}"


def span(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
