"""What tasks came to: counts, money and time as sections that a terminal and a page show alike. Pure but for the page's
template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, StrictUndefined
from rich.bar import Bar
from rich.console import Group
from rich.table import Table
from rich.text import Text

from activities.settings import Model
from console.forecasts import quantile, span
from service.past import Past

STAGES = ("agent", "review", "fix", "resolve", "gates", "queue", "waiting", "own")
BAR_WIDTH = 30
MOST_BARS = 31
PAGE = Path(__file__).with_name("report.html")


class Report(Model):
    since: datetime
    repo: str = ""
    """Of this repository only; empty: of all."""
    outcomes: dict[str, int]
    """Of tasks that have ended: `merged` is landed."""
    blocked: dict[str, int] = {}
    """Running tasks that wait for a person now, by the reason."""
    landed_by_day: dict[str, int]
    cost_usd: float
    tokens: int
    cost_by_runtime: dict[str, float]
    cost_by_model: dict[str, float]
    cost_by_repository: dict[str, float]
    seconds_by_stage: dict[str, float]
    gate_failures: dict[str, int]
    """By class."""
    seconds_to_land: list[float]
    """Half of what has landed took no longer than the first, nine of ten no longer than the second; empty: none has."""


def made(past: Sequence[Past], since: datetime, repo: str = "", blocked: Mapping[str, int] | None = None) -> Report:
    """`past`: what has ended since then, of any repository."""
    past = [each for each in past if not repo or each.repo == repo]
    turns = [turn for each in past for turn in each.turns]
    landed = [each for each in past if each.outcome == "merged"]
    took = sorted(each.seconds.get("total", 0.0) for each in landed)
    return Report(
        since=since,
        repo=repo,
        outcomes=dict(Counter(each.outcome for each in past).most_common()),
        blocked=dict(blocked or {}),
        landed_by_day=_by_day([each.ended for each in landed], since),
        cost_usd=round(sum(turn.cost_usd for turn in turns), 6),
        tokens=sum(turn.tokens for turn in turns),
        cost_by_runtime=_sums((turn.runtime, turn.cost_usd) for turn in turns),
        cost_by_model=_sums((f"{turn.runtime} {turn.model or 'its default'}", turn.cost_usd) for turn in turns),
        cost_by_repository=_sums((each.repo, each.cost_usd) for each in past),
        seconds_by_stage={name: round(sum(each.seconds.get(name, 0.0) for each in past), 3) for name in STAGES},
        gate_failures=dict(sum((Counter(each.faults) for each in past), Counter()).most_common()),
        seconds_to_land=[quantile(took, share) for share in (0.5, 0.9)] if took else [],
    )


def _by_day(times: Sequence[float], since: datetime) -> dict[str, int]:
    """Every day (UTC) until the last one on which something landed."""
    days = Counter(datetime.fromtimestamp(at, UTC).date() for at in times)
    if not days:
        return {}
    first = min(since.astimezone(UTC).date(), *days)
    every = (first + timedelta(number) for number in range((max(days) - first).days + 1))
    return {f"{day}": days[day] for day in every}


def _sums(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The greatest first."""
    sums: dict[str, float] = {}
    for name, value in pairs:
        sums[name] = sums.get(name, 0.0) + value
    return {name: round(value, 6) for name, value in sorted(sums.items(), key=lambda pair: -pair[1])}


def headline(report: Report) -> str:
    ended = sum(report.outcomes.values())
    text = f"since {report.since:%Y-%m-%d %H:%M} UTC{f', {report.repo}' if report.repo else ''}: "
    text += f"{report.outcomes.get('merged', 0)} of {ended} ended tasks have landed, "
    text += f"{report.outcomes.get('rejected', 0)} were rejected, {sum(report.blocked.values())} wait for you; "
    text += f"${report.cost_usd:.2f}, {report.tokens:,} tokens"
    if report.seconds_to_land:
        half, most = report.seconds_to_land
        text += f"; half landed within {span(half)}, nine of ten within {span(most)}"
    return text


def _dollars(value: float) -> str:
    return f"${value:.2f}"


def _count(value: float) -> str:
    return f"{value:.0f}"


def sections(report: Report) -> list[tuple[str, dict[str, float], Callable[[float], str]]]:
    """Title, values, and how one is written; those without any value are left out."""
    every: list[tuple[str, Mapping[str, float], Callable[[float], str]]] = [
        ("How tasks ended", report.outcomes, _count),
        ("Landed by day", dict(list(report.landed_by_day.items())[-MOST_BARS:]), _count),
        ("Waiting for you", report.blocked, _count),
        ("Cost by runtime", report.cost_by_runtime, _dollars),
        ("Cost by model", report.cost_by_model, _dollars),
        ("Cost by repository", report.cost_by_repository, _dollars),
        ("Time by stage", report.seconds_by_stage, span),
        ("Red gates by class", report.gate_failures, _count),
    ]
    return [
        (title, dict(list(values.items())[:MOST_BARS]), told) for title, values, told in every if any(values.values())
    ]


def shown(report: Report) -> Group:
    """For a terminal."""
    parts: list[Any] = [Text(headline(report))]
    for title, values, told in sections(report):
        table = Table(
            box=None, show_header=False, pad_edge=False, title=title, title_justify="left", title_style="bold"
        )
        table.add_column(overflow="fold", min_width=12)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(width=BAR_WIDTH)
        for name, value in values.items():
            table.add_row(Text(name), told(value), Bar(max(values.values()), 0, value, width=BAR_WIDTH))
        parts += ["", table]
    return Group(*parts)


def page(report: Report) -> str:
    """One HTML file with its charts as SVG in it: it needs nothing from anywhere."""
    charts = [_chart(title, values, told) for title, values, told in sections(report)]
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(PAGE.read_text()).render(headline=headline(report), charts=charts)


def _chart(title: str, values: dict[str, float], told: Callable[[float], str]) -> str:
    import pygal  # type: ignore[import-untyped]

    chart = pygal.HorizontalBar(
        title=title, show_legend=False, show_x_labels=False, show_x_guides=False, show_y_guides=False,
        width=800, height=60 + 26 * len(values), margin=12, style=_style(), value_formatter=told,
    )  # fmt: skip
    chart.x_labels = [f"{name}: {told(value)}" for name, value in values.items()][::-1]  # its first is the lowest
    chart.add("", [*values.values()][::-1])
    drawing = chart.render_tree()
    for parent in [*drawing.iter()]:
        for script in parent.findall("script"):  # of no use on a page that loads nothing
            parent.remove(script)
    return ElementTree.tostring(drawing, encoding="unicode")


def _style() -> Any:
    from pygal.style import Style  # type: ignore[import-untyped]

    return Style(
        font_family="sans-serif", background="transparent", plot_background="transparent", colors=("#4472c4",),
        label_font_size=13,
    )  # fmt: skip
