"""What ended tasks are summed up to, and what they say of the next one, honest about how few they are."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import starter
from console.forecasts import FEW, beta_quantile, forecast, jeffreys, quantile, told
from console.reports import made, page, shown
from service.past import Past, PastTurn, cache, ended_tasks
from tests.kit import Kit, status_when
from tests.test_starter import starter as in_a_shell

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
OUTCOMES = ("merged", "merged", "no-changes", "rejected", "failed", "terminated")


def a_task(
    number: int = 0, outcome: str = "merged", runtime: str = "codex", total: float = 60.0, **more: object
) -> Past:
    turn = PastTurn(role="executor", runtime=runtime, model="m", cost_usd=0.5, tokens=100, seconds=10)
    fields = {"repo": "/src/app", "ended": NOW.timestamp(), "turns": [turn], "faults": {}, **more}
    seconds = {"agent": 10.0, "own": total - 10.0, "total": total}
    return Past(task_id=f"t{number}", run_id=f"r{number}", outcome=outcome, runtime=runtime, seconds=seconds, **fields)


pasts = st.lists(
    st.builds(
        a_task,
        outcome=st.sampled_from(OUTCOMES),
        runtime=st.sampled_from(["codex", "gemini"]),
        total=st.floats(10, 10_000),
        repo=st.sampled_from(["/src/app", "/src/b"]),
    ),
    max_size=40,
)

# --- the forecast ----------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 60).flatmap(lambda cases: st.tuples(st.integers(0, cases), st.just(cases))))
def test_the_interval_holds_the_share_and_narrows_with_more_cases(counts: tuple[int, int]) -> None:
    successes, cases = counts
    low, high = jeffreys(successes, cases)
    assert 0 <= low <= successes / cases <= high <= 1
    more_low, more_high = jeffreys(10 * successes, 10 * cases)
    assert more_high - more_low < high - low
    other_low, other_high = jeffreys(cases - successes, cases)
    assert (1 - other_high, 1 - other_low) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize(("successes", "cases"), [(12, 14), (3, 40), (50, 100)])
def test_the_distribution_holds_95_percent_within_the_interval(successes: int, cases: int) -> None:
    a, b = successes + 0.5, cases - successes + 0.5
    low, high = jeffreys(successes, cases)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)

    def below(end: float, steps: int = 20_000) -> float:
        middles = ((step + 0.5) * end / steps for step in range(steps))
        return sum(math.exp(scale + (a - 1) * math.log(x) + (b - 1) * math.log1p(-x)) for x in middles) * end / steps

    assert (below(low), below(high)) == pytest.approx((0.025, 0.975), abs=1e-4)


def test_a_beta_distribution_that_is_known_by_heart() -> None:
    assert beta_quantile(0.3, 1, 1) == pytest.approx(0.3, abs=1e-5)
    assert beta_quantile(0.25, 2, 1) == pytest.approx(0.5, abs=1e-5)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_a_case_and_that_share_does_not_exceed_it(values: list[float], share: float) -> None:
    found = quantile(sorted(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


@settings(max_examples=40, deadline=None)
@given(pasts)
def test_a_forecast_counts_what_it_rests_on(past: list[Past]) -> None:
    found = forecast(past, "codex")
    codex = [each for each in past if each.runtime == "codex"]
    like = codex if len(codex) >= FEW else past
    assert (found.cases, found.runtime) == (len(like), "codex" if like is codex and len(codex) >= FEW else "")
    assert found.landed == sum(each.outcome == "merged" for each in like)
    assert (found.chance is None) == (found.cases < FEW)
    assert (found.seconds is None) == (found.landed < FEW)
    assert f"{found.landed} of {found.cases} " in told(found)
    assert ("too few" in told(found)) == (found.landed < FEW)


def test_what_never_began_says_nothing() -> None:
    never = Past(task_id="t", run_id="r", runtime="codex")
    assert forecast([never] * 9, "codex").cases == 0
    tasks = [a_task(number, total=60.0 * (number + 1)) for number in range(9)] + [a_task(9, "abandoned")]
    found = told(forecast([*tasks, never], "codex"))
    assert found == (
        "9 of 10 codex tasks here have landed: a chance of 62% to 99%; half of those took up to 5.0 min, "
        "nine of ten up to 9.0 min"
    )


# --- the report ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(pasts)
def test_nothing_is_counted_twice_or_lost(past: list[Past]) -> None:
    found = made(past, NOW)
    assert sum(found.outcomes.values()) == len(past)
    assert sum(found.landed_by_day.values()) == found.outcomes.get("merged", 0)
    for costs in (found.cost_by_runtime, found.cost_by_model, found.cost_by_repository):
        assert sum(costs.values()) == pytest.approx(found.cost_usd) == pytest.approx(0.5 * len(past))
    assert sum(found.seconds_by_stage.values()) == pytest.approx(sum(each.seconds["total"] for each in past), abs=0.1)
    one = made(past, NOW, "/src/b")
    assert sum(one.outcomes.values()) == sum(each.repo == "/src/b" for each in past)


def test_a_terminal_and_a_page_show_the_same() -> None:
    evil = "</svg><script>alert(1)</script>"
    tasks = [a_task(0, faults={"test failed": 3}), a_task(1, "failed", repo=evil), a_task(2, "rejected")]
    found = made(tasks, NOW - timedelta(days=7), blocked={"gates red": 2})
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(shown(found))
    text, html = captured.get(), page(found)
    assert "1 of 3 ended tasks have landed, 1 were rejected, 2 wait for you; $1.50, 300 tokens" in " ".join(
        text.split()
    )
    for what in ("test failed", "gates red", "codex m", "$0.50", "Time by stage"):
        assert what in text
        assert what in html
    assert evil not in html
    assert html.count("<svg") == 8
    links = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert [link for link in links if not link.startswith("#")] == []
    assert "<script" not in html
    assert shown(made([], NOW)).renderables


# --- from histories --------------------------------------------------------------------------------


@pytest.mark.long
async def test_histories_are_read_once_and_outlive_the_server(kit: Kit) -> None:
    usage = {"cost_usd": 0.25, "input_tokens": 900, "output_tokens": 100}
    agent = kit.agent(
        executor=[{"write": {"a.txt": "bad\n"}, "usage": usage}],
        fixer=[{"write": {"a.txt": "good\n"}}],
        reviewer=[{"say": "VERDICT: APPROVED"}],
    )
    stuck = kit.agent(executor=[{"say": "NEEDS_FOLLOWUP why?"}])
    since = datetime.now(UTC) - timedelta(minutes=1)
    async with kit.worker():
        gate = {"name": "good", "command": "! grep -q bad a.txt"}
        assert (await kit.run(agent=agent, gates=[gate], reviewers=[agent])).outcome == "merged"
        failing = await kit.start(kit.input(agent=stuck, on_blocked="fail"))
        with pytest.raises(Exception, match="Workflow execution failed"):
            await failing.result()
        terminated = await kit.start(kit.input(agent=stuck))
        await status_when(terminated, lambda now: now.blocked is not None)
        await terminated.terminate()
    home = kit.home.root
    past = {each.outcome: each for each in await ended_tasks(kit.client, home, since, kit.task_queue)}
    assert past.keys() == {"merged", "failed", "terminated"}
    merged = past["merged"]
    assert (merged.repo, merged.title, merged.runtime) == (str(kit.repo), "Do it", "command")
    assert [(turn.role, turn.runtime) for turn in merged.turns] == [
        ("executor", "command"), ("fixer", "command"), ("reviewer", "command")
    ]  # fmt: skip
    assert (merged.cost_usd, merged.tokens, sum(merged.faults.values())) == (0.25, 1_000, 1)
    assert merged.seconds["total"] >= sum(merged.seconds[stage] for stage in ("agent", "fix", "review", "gates")) > 0
    assert past["failed"].reason.startswith("needs follow-up")
    assert past["failed"].seconds["total"] > 0
    kept = cache(kit.client, home) / f"{merged.run_id}.json"
    kept.write_text(kept.read_text().replace("Do it", "From the folder"))
    again = await ended_tasks(kit.client, home, since, kit.task_queue)
    assert [each.title for each in again if each.outcome == "merged"] == ["From the folder"]
    gone = merged.model_copy(update={"run_id": "gone", "outcome": "abandoned"})
    (kept.parent / "gone.json").write_text(gone.model_dump_json())  # the server has forgotten it
    folder = ("--home", str(home), "--repo", str(kit.repo))

    async with kit.worker():
        told = await in_a_shell(kit, "report", "--since", "1h", "--json", *folder)
        forecast = await in_a_shell(kit, "forecast", *folder)
    reported = json.loads(told[: told.rindex("}") + 1])  # after it: what others have left on this server is left out
    assert reported["outcomes"] == {"merged": 1, "failed": 1, "terminated": 1, "abandoned": 1}
    assert reported["cost_by_model"] == {"command its default": 0.5}
    assert "1 of 4 tasks of any runtime here have landed: too few cases" in " ".join(forecast.split())


def test_a_time_that_makes_no_sense_is_refused_in_words() -> None:
    done = CliRunner().invoke(starter.app, ["report", "--since", "yesterday"], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert "'yesterday' is neither 7d, 24h, 2w nor a day" in done.output
