"""Swarms as text and as a story: all that is known, in 80 columns, and nothing that others wrote is obeyed."""

from __future__ import annotations

import io
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.console import Console, RenderableType

from console.glance import Seen
from console.overview import Changes, Overview, others
from console.swarm_look import SeenSwarm, last_words
from console.swarm_view import SwarmChanges, board_view, is_done, result_view, status_view, swarms_view, where_time_went
from tests.test_terminal import NASTY, shown
from workflows.contracts import Seconds
from workflows.glance import Glance
from workflows.swarm_contracts import BoardLine, Member, SwarmResult, SwarmStatus, Tally
from workflows.swarm_story import LONGEST, swarm_story

NOW = 1_000_000.0
LONG = "word " * 60


def member(name: str = "worker-1.1", **more: Any) -> Member:
    return Member(**({"name": name, "kind": "worker-1", "agent": "codex gpt-5.5"} | more))


def status(**more: Any) -> SwarmStatus:
    fixed: dict[str, Any] = {"swarm_id": "swarm-app-1a2b3c", "repo": "/src/app", "target": "refs/heads/main"}
    counts = {"pending": 12, "current": 3, "blocked": 1, "complete": 30}
    return SwarmStatus(**(fixed | {"stage": "running", "counts": counts, "started": NOW - 600} | more))


def task(task_id: str = "fix-login", **more: Any) -> BoardLine:
    return BoardLine(**({"id": task_id, "title": "Fix the login", "place": "pending", "since": NOW - 60} | more))


def result(**more: Any) -> SwarmResult:
    fixed: dict[str, Any] = {"reason": "the spec is met", "members": [], "counts": {"complete": 30}}
    return SwarmResult(**(fixed | more))


def printed(renderable: RenderableType, width: int = 80) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(renderable)
    assert "\x1b" not in out.getvalue()
    lines = out.getvalue().splitlines()
    assert max(map(len, lines), default=0) <= width
    return lines


def words(lines: list[str]) -> list[str]:
    return [" ".join(line.split()) for line in lines if line.strip()]


def test_one_swarm_and_who_does_what() -> None:
    members = [
        member(state="stopped", why="10 min without a task"),
        member("worker-1.2", state="working", cycle="s-worker-1.2-7", holds=["fix-login", "docs"], since=NOW - 120,
               tally=Tally(cycles=7, merges=5, cost_usd=1.234)),
        member("planner", state="working", cycle="s-planner-2", plans=True),
        member("worker-1.3", state="backing off", why="it crashed", until=NOW + 90),
        member("worker-1.4", idle_since=NOW - 30),
    ]  # fmt: skip
    told = {"stage": "waiting for you", "waiting_for": "a word", "next_command": "starter.py continue s-worker-1.2-7"}
    lines = words(printed(status_view(status(members=members, cost_usd=3.2, problems=["no card"], **told), NOW), 160))
    assert lines == [
        "swarm-app-1a2b3c of main in /src/app: waiting for you",
        "12 pending, 3 current, 1 blocked, 30 complete; $3.20, 10 min",
        "swarm-app-1a2b3c waits for a word",
        "starter.py continue s-worker-1.2-7",
        "worker agent state for cycles merges cost task, or why",
        "worker-1.2 codex gpt-5.5 working 2 min 7 5 $1.23 fix-login, docs (s-worker-1.2-7)",
        "planner codex gpt-5.5 working 0 0 $0.00 makes tasks (s-planner-2)",
        "worker-1.3 codex gpt-5.5 backing off 90 s more 0 0 $0.00 it crashed",
        "worker-1.4 codex gpt-5.5 idle 30 s 0 0 $0.00",
        "worker-1.1 codex gpt-5.5 stopped 0 0 $0.00 10 min without a task",
        "problem: no card",
    ]


def test_the_last_table_has_all_that_a_worker_did_and_fits_80_columns() -> None:
    tally = Tally(runs=123, cycles=45, merges=40, claims=51, rejects=12, errors=3, recycled=2, review_rounds=52,
                  cost_usd=123.45, seconds=Seconds(total=40_000.0))  # fmt: skip
    members = [
        member("executors.10", tally=tally, state="stopped", why="the spec is met"),
        member("executors.11", state="stopped", why="the spec is met"),
    ]
    open_tasks = [task("docs", place="blocked", why="gates red\ntwice"), task("later", after=["docs"])]
    seconds = Seconds(agent=60.0, gates=30.0, review=10.0, total=100.0)
    counts = {"complete": 30, "blocked": 1, "pending": 3}
    made = result(members=members, open=open_tasks, seconds=seconds, counts=counts, tokens=12_345, wall_seconds=9_000.0)
    lines = words(printed(result_view("swarm-1", made)))
    assert lines[:2] == [
        "swarm-1 has ended, the spec is met",
        "3 pending, 0 current, 1 blocked, 30 complete; $0.00, 12,345 tokens, 2.5 h",
    ]
    assert "executors.10 123 45 40 51 12 3 2 52 11.1 h $123.45" in lines
    assert lines[-7:] == [
        "executors.10, executors.11 (codex gpt-5.5): stopped, the spec is met",
        "the time of all tasks, 2 min: agent 60%, gates 30%, review 10%",
        "open why",
        "docs blocked gates red twice",
        "later pending waits for docs",
        "and 2 more: starter.py tasks swarm-1",
        "go on with them: starter.py swarm --continue swarm-1",
    ]
    assert not is_done(made)
    assert is_done(result())


def test_all_swarms_and_what_a_person_should_do() -> None:
    cycles = [
        Seen("b-worker-1.1-1", True, "running", NOW, None, Glance(stage="working")),
        Seen("b-worker-1.1-2", True, "running", NOW, None, Glance(stage="blocked")),
    ]
    seen = [
        SeenSwarm("a", "running", NOW - 60, None, "/src/app", status=status(members=[member(state="working")])),
        SeenSwarm("b", "terminated", NOW - 900, NOW - 300, "/src/app", cycles=cycles),
        SeenSwarm("c", "completed", NOW - 900, NOW - 300, "/src/app", result=result()),
        SeenSwarm("d", "running", NOW - 5, None, "/src/app"),
        SeenSwarm("e", "failed", NOW - 5, NOW, "/src/app", why="workers: required"),
    ]
    assert words(printed(swarms_view(seen, NOW))) == [
        "swarm stage for complete blocked at work cost repository",
        "a running 60 s 30 of 46 1 1 of 1 $0.00 /src/app",
        "b terminated 10 min /src/app",
        "c ended 10 min 30 of 30 0 $0.00 /src/app",
        "d does not answer 5 s /src/app",
        "e failed 5 s /src/app",
        "b has been terminated; go on: starter.py swarm --continue b",
        "b: b-worker-1.1-1, b-worker-1.1-2 still run, 1 of them wait for you",
        "save their work and free what they hold: starter.py requeue b",
        "d does not answer: does a worker run? starter.py doctor",
        "e has failed: workers: required; mend that, and start it again",
    ]
    assert seen[1].as_dict()["running_tasks"] == ["b-worker-1.1-1", "b-worker-1.1-2"]


def test_an_id_is_not_folded_where_it_is_narrow() -> None:
    seen = [SeenSwarm("swarm-app-1a2b3c", "running", NOW - 5, None, "/home/somebody/src/an-application")]
    assert words(printed(swarms_view(seen, NOW), 60))[1].startswith("swarm-app-1a2b3c does not answer 5 s")


def test_what_a_terminated_swarm_said_last_is_not_taken_for_now() -> None:
    seen = SeenSwarm("b", "terminated", NOW - 900, NOW - 300, status=status(stage="running"))
    told = last_words(seen)
    assert (told.stage, told.reason, told.ended) == ("terminated", "what it said last", NOW - 300)
    assert last_words(SeenSwarm("b", "running", NOW, None, status=status(stage="running"))).stage == "running"


def test_a_board_says_what_keeps_each_task() -> None:
    lines = [
        task("a", place="current", worker="worker-1.1", priority=90, tries=1),
        task("b", after=["a", "x"]),
        task("d", after=["x"], why="waits for x, which is not on the board"),
        task("c", place="complete", sha="c" * 40),
    ]
    assert words(printed(board_view(lines, NOW), 120)) == [
        "task place priority for tries worker title, and what keeps it",
        "a current 90 60 s 1 worker-1.1 Fix the login",
        "b pending 0 60 s Fix the login; waits for a, x",
        "d pending 0 60 s Fix the login; waits for x, which is not on the board",
        "c complete 0 60 s Fix the login; landed as cccccccccccc",
    ]


def test_only_what_has_changed_is_a_line() -> None:
    changes = SwarmChanges()
    first = status(members=[member(state="working", holds=["a"]), member("worker-1.2")])
    assert list(changes.lines(first)) == [
        "running: 12 pending, 3 current, 1 blocked, 30 complete",
        "worker-1.1 working: a",
        "worker-1.2 idle",
    ]
    assert list(changes.lines(first)) == []
    second = first.model_copy(update={"members": [first.members[0], member("worker-1.2", state="limited", why="5 h")]})
    assert list(changes.lines(second)) == ["worker-1.2 limited: 5 h"]


def test_watch_has_a_line_for_each_swarm() -> None:
    seen = Overview(NOW, swarms=[status(members=[member(state="working")], waiting_for="you", cost_usd=1.2)])
    told = "swarm swarm-app-1a2b3c: running, 1 of 1 work, 30 of 46 complete, 1 blocked, $1.20, waits for you"
    assert printed(others(seen), 200) == [told]
    assert [line.partition(" ")[2] for line in Changes().lines(seen, "")] == [told]


def test_no_time_is_not_divided() -> None:
    assert where_time_went(Seconds()) == ""


@pytest.mark.parametrize(
    "made",
    [
        status_view(status(reason=NASTY, waiting_for=NASTY, next_command=NASTY, notes=[NASTY], problems=[NASTY],
                           members=[member(agent=NASTY, why=NASTY, holds=[NASTY])]), NOW),
        result_view("s", result(reason=NASTY, members=[member(why=NASTY)], open=[task(why=NASTY), task(title=NASTY)])),
        board_view([task(title=NASTY, why=NASTY)], NOW),
        swarms_view([SeenSwarm("s", "failed", 0, 0, NASTY, why=NASTY)], NOW),
        "\n".join(SwarmChanges().lines(status(reason=NASTY, members=[member(why=NASTY)]))),
    ],
)  # fmt: skip
def test_what_others_wrote_is_text(made: RenderableType) -> None:
    text = shown(made)
    assert "end" in text
    for bad in ("\x1b]", "\x07", "\x9b", "\x1b[2J", "\u202e"):
        assert bad not in text


def test_long_texts_are_folded_and_not_cut() -> None:
    made = board_view([task(title=LONG, why=LONG)], NOW)
    assert " ".join(printed(made)).count("word") == 120
    made = status_view(status(members=[member(why=LONG, state="backing off")]), NOW)
    assert " ".join(printed(made)).count("word") == 60


# --- the story -------------------------------------------------------------------------------------


def test_the_story_says_who_does_what_and_what_waits() -> None:
    members = [member(state="working", holds=["fix-login"], tally=Tally(cycles=2, merges=1, errors=1, cost_usd=0.5))]
    told = status(members=members, waiting_for="a word about docs", next_command="starter.py continue s-1")
    lines = [task("docs", place="blocked", why="gates red", worker="worker-1.1"), task("b", after=["docs"]),
             task("done", place="complete")]  # fmt: skip
    assert swarm_story(told, lines).splitlines() == [
        "### Swarm of app to main",
        "",
        "**running**",
        "",
        "12 pending · 3 current · 1 blocked · 30 complete · $0.00",
        "",
        "Waits for a word about docs",
        "",
        "~~~",
        "starter.py continue s-1",
        "~~~",
        "",
        "`python starter.py view swarm-app-1a2b3c` · `python starter.py tasks swarm-app-1a2b3c` · "
        "`python starter.py pause swarm-app-1a2b3c` · `python starter.py stop swarm-app-1a2b3c`",
        "",
        "#### Workers",
        "",
        "- worker-1.1, codex gpt-5.5: working: fix-login · 1 of 2 cycles landed, 1 errors, $0.50",
        "",
        "#### Blocked",
        "",
        "- docs, worker-1.1: Fix the login (gates red)",
        "",
        "#### Pending",
        "",
        "- b: Fix the login (waits for docs)",
    ]


def test_the_story_of_a_large_swarm_is_cut_and_says_so() -> None:
    members = [member(f"worker-1.{n}", why="Ü*" * 400, state="backing off") for n in range(200)]
    lines = [task(f"t-{n}", title="Ü" * 300, why="|" * 900, place="blocked") for n in range(200)]
    told = status(members=members, notes=["`" * 900] * 50, problems=["<" * 900] * 20, next_command="x" * 5_000,
                  reason="*" * 9_000, waiting_for="_" * 9_000)  # fmt: skip
    story = swarm_story(told, lines)
    assert len(story.encode()) <= LONGEST
    assert "more workers." in story
    assert "more tasks." in story


@pytest.mark.parametrize("nasty", ["| a | b |", "a\n# b", "<b>x</b>", "~~~", "[l](http://x)", "```\n# b", "*b*"])
def test_nothing_becomes_markup(nasty: str) -> None:
    told = status(members=[member(why=nasty, holds=[nasty])], waiting_for=nasty, next_command=nasty, reason=nasty)
    story = swarm_story(told, [task(title=nasty, why=nasty)])
    tokens = MarkdownIt("commonmark").enable("table").parse(story)
    inline = [child.type for token in tokens for child in token.children or ()]
    assert not {"em_open", "link_open", "html_inline"} & set(inline)
    assert sum(token.type == "heading_open" for token in tokens) == 3
    assert [token.type for token in tokens if token.type in ("list_item_open", "tr_open")] == ["list_item_open"] * 2
