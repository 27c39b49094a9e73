"""The story is Markdown that says all, and nothing that others wrote becomes markup in it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt  # comes with rich

from activities.contracts import Finding, QuotaConfig, Usage
from activities.queue_contracts import Evidence
from workflows.contracts import (
    Blocked,
    BlockedReason,
    Code,
    GateLine,
    LandResult,
    LandStatus,
    Lease,
    LeaseRequest,
    MergeAnswer,
    QueuePlace,
    QueueStatus,
    QueueTest,
    QuotaState,
    Stage,
    TaskStatus,
    TurnRecord,
)
from workflows.story import land_story, queue_story, quota_story, task_story

MARKDOWN = MarkdownIt("commonmark")
NASTY = [
    "# heading", "a\n# b", "a\n\n# b", "*b*", "_i_", "**b**", "`c`", "``", "[l](http://x)", "![i](http://x)",
    "<b>x</b>", "<script>", "a\n---", "a\n===", "~~~", "~~~~~", "a\n~~~\n# b", "~~\x0b~", "```\n# b", "| a | b |",
    "a|b", "- x", "1. x", "\\", "\\*b*", "&lt;", "> q", "    code", "\u2028# b", "{{ x }}", "Ünï€",
]  # fmt: skip

NOON = 20_000.5 * 86_400
"""Of the 4th of October 2024."""

foreign = st.sampled_from(NASTY) | st.text(max_size=30).map(lambda text: text.replace("\r", ""))


def status(**more: Any) -> TaskStatus:
    fixed: dict[str, Any] = {"task_id": "task-42", "title": "Fix login", "stage": Stage.WORK}
    return TaskStatus(**(fixed | more))


def record(turn: int, **more: Any) -> TurnRecord:
    fixed: dict[str, Any] = {"role": "executor", "agent": "codex (gpt-5.5)", "end": "done", "seconds": 1.26}
    return TurnRecord(turn=turn, usage=Usage(cost_usd=0.12345), **(fixed | more))


def queue_status(**more: Any) -> QueueStatus:
    fixed: dict[str, Any] = {"repo": "/src/app", "target": "refs/heads/main", "p": 0.05, "slots": 4}
    return QueueStatus(**(fixed | {"landed": 3, "ejected": 1, "gate_seconds": 12.34} | more))


def place(name: str, **more: Any) -> QueuePlace:
    fixed: dict[str, Any] = {"op": name, "task_id": f"task-{name}", "title": "Fix login", "state": "waiting"}
    return QueuePlace(**(fixed | {"since": NOON} | more))


def shape(story: str) -> list[str]:
    """Every element of the rendered story, without its text."""
    found = []
    for token in MARKDOWN.parse(story):
        children = [child.type for child in token.children or [] if child.type not in ("text", "text_special")]
        found += [token.type, *children]
    return found


def code(story: str) -> list[str]:
    return [token.content.rstrip("\n") for token in MARKDOWN.parse(story) if token.type == "fence"]


def text(story: str) -> str:
    """All that a reader sees outside of code blocks."""
    shown = (child.content for token in MARKDOWN.parse(story) for child in token.children or [])
    return "\n".join(shown)


# --- a task's story ----------------------------------------------------------------------------------


def test_title_stage_and_figures() -> None:
    found = status(turns=4, review_rounds=2, gate_failures=1, cost_usd=1.234, tokens=5678)
    assert task_story(found, []) == (
        "### Fix login\n\n**work**\n\n4 turns · 2 review rounds · 1 red gates · $1.23 · 5678 tokens"
    )


WHOLE_STORY = """\
### Fix \\*login\\* now

**blocked**

Blocked: **gates red**

~~~
red: test
~ ~ ~
~~~

Waits for an operator

```
temporal workflow signal -w task-42 --name abandon
```

#### Plan

~~~
1. look
~~~

1 turns · 0 review rounds · 5 red gates · $0.12 · 0 tokens

Saved work: `refs/mergewright/salvage/task-42/1`

#### Turns

- 1: executor, codex (gpt-5.5): done, 1.3 s, $0.1235

#### Ignored
- signal a ignored
- signal b ignored"""


def test_the_whole_story() -> None:
    found = status(
        title="Fix *login*\nnow",
        stage=Stage.BLOCKED,
        blocked=Blocked(reason=BlockedReason.GATES_RED, text="red: test\n~~~"),
        waiting_for="an operator",
        next_command="temporal workflow signal -w task-42 --name abandon",
        plan="1. look",
        salvage_ref="refs/mergewright/salvage/task-42/1",
        problems=["signal a ignored", "signal b ignored"],
        **{"turns": 1, "gate_failures": 5, "cost_usd": 0.12345},
    )
    assert task_story(found, [record(1)]) == WHOLE_STORY


def test_a_task_that_waits_says_for_what_and_how_to_move_it_on() -> None:
    command = "temporal workflow signal -w task-42 --name approve_plan"
    story = task_story(status(waiting_for="the approval of the plan", next_command=command), [])
    assert "Waits for the approval of the plan" in text(story)
    assert code(story) == [command]


def test_a_worker_of_a_swarm_says_what_it_holds() -> None:
    story = text(task_story(status(swarm="swarm-1", worker="worker-1.2", holds=["a", "b"]), []))
    assert "worker-1.2 of the swarm swarm-1, holds a, b" in story
    assert "holds nothing" in text(task_story(status(swarm="swarm-1", worker="worker-1.2"), []))


def test_what_the_policy_finds_is_shown_as_text() -> None:
    finding = Finding(rule="secret", severity="mend", path="[a](http://b)*.py", line=3, text="GitHub Token")
    story = task_story(status(findings=[finding]), [])
    assert "secret: [a](http://b)*.py:3: GitHub Token" in text(story)
    assert "mend: " in text(story)


def test_gates_verdicts_and_places_are_told() -> None:
    found = status(
        gates=[
            GateLine(name="test", passed=True, seconds=12.34),
            GateLine(name="lint_*", passed=False, fault="no *room*"),
        ],
        branch="mergewright/task-42",
        worktree="/home/w`x`",
        run_folder="/home/runs/1",
    )
    reviewer = {"role": "reviewer", "agent": "codex"}
    turns = [record(1), record(2, verdict="needs_changes", **reviewer), record(4, verdict="approved", **reviewer)]
    story = task_story(found, turns)
    assert "- test: green, 12.3 s\n- lint\\_\\*: **red** (no \\*room\\*), 0.0 s" in story
    assert "- round 1, turn 2, codex: needs changes\n- round 2, turn 4, codex: approved" in story
    assert "Branch: `mergewright/task-42` · worktree: `/home/w'x'` · log: `python starter.py log task-42`" in story
    over = task_story(found.model_copy(update={"outcome": "merged"}), turns)
    assert "worktree" not in over
    assert "log: `python starter.py log task-42` · run folder: `/home/runs/1`" in over


def test_a_blocked_task_says_why_with_the_evidence() -> None:
    blocked = Blocked(reason=BlockedReason.GATES_RED, text="5 times: test\nassert 1 == 2")
    story = task_story(status(stage=Stage.BLOCKED, blocked=blocked, reason="not this"), [])
    assert "Blocked: " in text(story)
    assert "gates red" in text(story)
    assert code(story) == ["5 times: test\nassert 1 == 2"]


def test_an_end_is_told_with_its_commit_its_reason_and_the_saved_work() -> None:
    merged = text(task_story(status(stage=Stage.ENDED, outcome="merged", sha="0123456789abcdef"), []))
    assert "merged\n as \n0123456789ab\n" in re.sub("\n+", "\n", merged)
    assert "0123456789abc" not in merged
    assert Stage.ENDED not in merged
    ref = "refs/mergewright/salvage/task-42/1"
    abandoned = task_story(status(outcome="abandoned", reason="by an operator", salvage_ref=ref), [])
    assert "**abandoned**\n\n~~~\nby an operator\n~~~\n\n0 turns" in abandoned
    assert f"Saved work: \n{ref}" in text(abandoned)


def test_the_plan_is_shown_until_the_task_has_ended() -> None:
    assert code(task_story(status(plan="1. look\n2. fix"), [])) == ["1. look\n2. fix"]
    assert "Plan" in text(task_story(status(plan="1. look"), []))
    assert "look" not in task_story(status(plan="1. look", outcome="merged"), [])


def test_what_there_is_not_is_not_mentioned() -> None:
    story = task_story(status(), [])
    for word in ("Blocked", "Waits", "Plan", "Policy", "Saved", "Ignored", "Turns", "~~~", "```"):
        assert word not in story


def test_the_last_twenty_turns_are_listed() -> None:
    story = task_story(status(), [record(number) for number in range(1, 31)])
    assert shape(story).count("list_item_open") == 20
    rows = [line for line in story.splitlines() if line.startswith("- ")]
    assert rows[0] == "- 11: executor, codex (gpt-5.5): done, 1.3 s, $0.1235"
    assert rows[-1].startswith("- 30: ")


def test_every_ignored_signal_is_listed() -> None:
    story = task_story(status(problems=["signal aprove_plan ignored", "signal pause ignored"]), [])
    assert shape(story).count("list_item_open") == 2
    assert "signal aprove_plan ignored" in text(story)
    assert "signal pause ignored" in text(story)


@given(foreign, foreign, foreign, foreign)
def test_no_text_of_others_changes_a_tasks_story(title: str, evidence: str, plan: str, problem: str) -> None:
    def story(title: str, evidence: str, plan: str, problem: str) -> str:
        blocked = Blocked(reason=BlockedReason.STUCK, text=evidence)
        return task_story(status(title=title, blocked=blocked, plan=plan, problems=[f"signal {problem}"]), [record(1)])

    assert shape(story(f"t {title}", evidence, f"p{plan}", problem)) == shape(story("t", "e", "p", "p"))


@pytest.mark.parametrize("given_text", NASTY)
def test_text_of_others_is_shown_as_it_is(given_text: str) -> None:
    """But for white space in a heading, and entities, which Markdown resolves."""
    if "&" not in given_text:
        shown = text(task_story(status(title=f"x{given_text}"), []))
        assert "".join(given_text.split()) in "".join(shown.split())
    if "~~~" not in given_text and "\x0b" not in given_text and "\u2028" not in given_text:
        assert code(task_story(status(reason=given_text), [])) == [given_text]


def test_a_carriage_return_in_a_title_ends_no_line() -> None:
    assert shape(task_story(status(title="t\r# b"), [])) == shape(task_story(status(title="t"), []))


@pytest.mark.parametrize("name", ["[a](http://x).py", "<b>.py", "a\n# b"])
def test_names_of_files_in_the_way_are_shown_as_they_are(name: str) -> None:
    assert shape(task_story(status(waiting_for=name), [])) == shape(task_story(status(waiting_for="a.py"), []))


def test_the_name_of_a_model_is_no_markup() -> None:
    nasty, plain = (task_story(status(), [record(1, agent=f"codex ({model})")]) for model in ("<b>*m*", "m"))
    assert shape(nasty) == shape(plain)


# --- the merge queue's story -------------------------------------------------------------------------


def test_an_empty_queue() -> None:
    assert queue_story(queue_status()) == (
        "### Merge queue of main\n\n`/src/app` · 4 slots · p̂ 5.0% · gates take 12.3 s · 3 landed · 1 sent back"
        "\n\n#### Places\n\nEmpty."
    )


WHOLE_QUEUE = """\
### Merge queue of main

`/src/app` at `0123456789ab` · **frozen** · 4 slots · p̂ 5.0% · gates take 12.3 s · 3 landed · 1 sent back

~~~
main is red since task-9
~~~

Behind: app.py is in the way in /src/app

Flaky: unit (2)

#### Tests

- `aaaaaaaaaaaa` since 12:00:05 UTC: `task-a`, `task-b`
- `bbbbbbbbbbbb` since 12:00:06 UTC: the target itself, confirming red

#### Places

1. `task-a` Fix login: **held** app.py is in the way (since 12:00:00 UTC, priority 5, expected 12:01:00 UTC)
2. `task-b` Fix login: **testing** (since 12:00:00 UTC)

#### Last

- `task-d` **CONFLICT** conflict in app.py
- `task-c` landed as `cccccccccccc`"""


def test_the_whole_queue_the_newest_answer_first() -> None:
    found = queue_status(
        base="0123456789abcdef",
        mode="frozen",
        mode_reason="main is red since task-9",
        behind="app.py is in the way in /src/app",
        flaky={"unit": 2},
        tests=[
            QueueTest(tasks=["task-a", "task-b"], tip="a" * 40, since=NOON + 5),
            QueueTest(tasks=[], tip="b" * 40, since=NOON + 6, confirming=True),
        ],
        places=[
            place("a", state="held", why="app.py is in the way", priority=5, expected=NOON + 60),
            place("b", state="testing"),
        ],
        last=[
            MergeAnswer(op="c", task_id="task-c", kind="landed", sha="c" * 40),
            MergeAnswer(op="d", task_id="task-d", kind="conflict", code=Code.CONFLICT, reason="conflict in app.py"),
        ],
    )
    assert queue_story(found) == WHOLE_QUEUE


def test_a_queue_that_is_open_does_not_say_so() -> None:
    assert "**" not in queue_story(queue_status())


def test_a_thousand_places_make_no_long_story() -> None:
    """Temporal takes 20,000 characters."""
    story = queue_story(queue_status(places=[place(str(n), title="*" * 500, why="#" * 500) for n in range(1000)]))
    assert len(story) < 20_000
    assert "And 960 more." in story


@given(foreign, foreign)
def test_no_text_of_others_changes_the_queues_story(title: str, reason: str) -> None:
    def story(title: str, reason: str) -> str:
        answers = [MergeAnswer(op="c", kind="gate_red", code=Code.GATE_RED, reason=reason)]
        places = [place(op, title=title, state="held", why=reason) for op in "ab"]
        return queue_story(queue_status(mode="frozen", mode_reason=reason, behind=reason, places=places, last=answers))

    assert shape(story(f"t {title}", f"r {reason}")) == shape(story("t", "r"))


# --- a landing's story -------------------------------------------------------------------------------


def test_a_landing_says_what_it_waits_for_and_how_it_ended() -> None:
    status = LandStatus(task_id="land-1", branch="feature", queue="merge-queue/app/main", op="ab", waiting_for="x")
    assert land_story(status) == (
        "### Land feature\n\n**merge queue**\n\nWaits for x\n\nIn `merge-queue/app/main` as `ab`"
    )
    landed = LandStatus(task_id="land-1", branch="feature", result=LandResult(outcome="merged", sha="a" * 40))
    assert land_story(landed) == "### Land feature\n\n**merged** as `aaaaaaaaaaaa`"


def test_a_landing_that_was_sent_back_says_why() -> None:
    result = LandResult(outcome="sent-back", code=Code.CONFLICT, evidence=Evidence(files=["~~~ `a`.py"]))
    story = land_story(LandStatus(task_id="land-1", branch="*f*", result=result))
    [told] = code(story)
    assert told.startswith("CONFLICT: it does not merge")
    assert "files: ~ ~ ~ `a`.py" in told


# --- a quota's story ---------------------------------------------------------------------------------

QUOTA = "quota/anthropic/default"


def quota(**more: Any) -> QuotaState:
    fixed: dict[str, Any] = {"name": "anthropic/default", "config": QuotaConfig(slots=8), "day": 20_000}
    return QuotaState(**(fixed | more))


def leases(count: int, first: int = 1, what: str = "executor turn 3") -> list[Lease]:
    numbers = range(first, first + count)
    return [
        Lease(request=LeaseRequest(lease=f"l-{number}", holder=f"task-{number}", what=what), since=NOON)
        for number in numbers
    ]


def test_a_quota_that_nobody_uses() -> None:
    assert quota_story(quota(), NOON, QUOTA) == "### anthropic/default\n\n0 of 8 slots · 0 wait · 0 refusals"


def test_a_quota_without_a_number_of_slots_has_any() -> None:
    assert "1 of any number of slots" in quota_story(quota(config=QuotaConfig(), leases=leases(1)), NOON, QUOTA)
    assert "1 of 3 slots" in quota_story(quota(slots_override=3, leases=leases(1)), NOON, QUOTA)


def test_the_days_money_is_told_where_it_is_capped() -> None:
    capped = quota(config=QuotaConfig(slots=8, max_cost_usd_per_day=50), spent_today=12.345)
    assert quota_story(capped, NOON, QUOTA).endswith("0 refusals · $12.35 of today's $50.00")
    again = capped.model_copy(update={"days_granted": 2})
    assert quota_story(again, NOON, QUOTA).endswith("of today's $100.00")
    assert "$" not in quota_story(quota(spent_today=12.345), NOON, QUOTA)


WHOLE_QUOTA = """\
### anthropic/default

1 of 8 slots · 2 wait · 3 refusals

**anthropic/default is limited: 429 slow \\*down\\*** until 2024-10-04 12:10:00 UTC

```
temporal workflow signal -w 'quota/anthropic/default' --name wake
```

#### Turns

- `task-1` executor turn 3

#### Waiting

- `task-2` executor turn 3
- `task-3` executor turn 3"""


def test_a_parked_quota_says_why_until_when_and_how_to_wake_it() -> None:
    state = quota(
        parked_until=NOON + 600, parked_for="429 slow *down*", refusals=3, leases=leases(1), waiting=leases(2, 2)
    )
    assert quota_story(state, NOON, QUOTA) == WHOLE_QUOTA


def test_a_park_that_is_over_is_not_told() -> None:
    story = quota_story(quota(parked_until=NOON, parked_for="429"), NOON, QUOTA)
    assert "429" not in story
    assert code(story) == []


def test_a_held_quota_is_told_how_it_is_released_also_where_it_is_parked() -> None:
    for parked_until in (None, NOON + 600):
        story = quota_story(quota(held=True, parked_until=parked_until), NOON, QUOTA)
        assert "held by an operator" in text(story)
        assert "until" not in text(story)
        assert code(story) == ["temporal workflow signal -w 'quota/anthropic/default' --name release"]


def test_who_waits_for_a_slot_is_told_what_for() -> None:
    story = quota_story(quota(config=QuotaConfig(slots=1), leases=leases(1), waiting=leases(1, 2)), NOON, QUOTA)
    assert "a free slot of anthropic/default" in text(story)
    assert code(story) == []


def test_money_that_is_spent_comes_again_at_midnight() -> None:
    capped = QuotaConfig(slots=8, max_cost_usd_per_day=50)
    story = quota_story(quota(config=capped, spent_today=50.0, waiting=leases(1)), NOON, QUOTA)
    assert "**anthropic/default: $50.00 of today's $50.00 are spent** until 2024-10-05 00:00:00 UTC" in story


@pytest.mark.parametrize(("count", "shown"), [(50, 50), (51, 51), (80, 51)])
def test_at_most_fifty_of_those_who_work_or_wait_are_listed(count: int, shown: int) -> None:
    for which in ("leases", "waiting"):
        story = quota_story(quota(**{which: leases(count)}), NOON, QUOTA)
        assert shape(story).count("list_item_open") == shown
        assert (f"and {count - 50} more" in text(story)) == (count > 50)


@given(foreign, foreign)
def test_no_text_of_others_changes_a_quotas_story(reason: str, what: str) -> None:
    def story(reason: str, what: str) -> str:
        return quota_story(
            quota(parked_until=NOON + 600, parked_for=reason, leases=leases(2, what=what), waiting=leases(2, 3, what)),
            NOON,
            QUOTA,
        )

    assert shape(story(reason, f"t {what}")) == shape(story("r", "t"))
