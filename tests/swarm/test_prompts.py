"""What agents of a swarm are told: all that they need, once, and nothing that contradicts itself."""

from __future__ import annotations

from typing import Any

from activities.contracts import Claimed
from activities.prompts import render
from activities.settings import Listed, Membership
from activities.swarm.contracts import Card
from activities.swarm.prompt_files import bundled

ADD = Card(id="add", title="Add", description="All of it.", acceptance=["it adds"])
OPEN = [Listed(id="add", title="Add"), Listed(id="mul", title="Multiply", place="current")]


def told(ask: str, whole: bool = True, role: str = "executor", **given: Any) -> str:
    """The system prompt and the prompt."""
    member = {name: given.pop(name) for name in Membership.model_fields if name in given}
    texts = dict.fromkeys(("title", "description", "plan", "detail", "summary", "diff", "diff_file"), "")
    lists = {
        name: []
        for name in (
            *("acceptance", "files", "gates", "policy", "notes", "evidence", "red_gates", "messages", "commits"),
            *("overlaps", "prompts", "cards", "got"),
        )
    }
    swarm = Membership(swarm="s", key="k", worker="w", cycle=1, spec="spec.md", **member)
    names = {"role": role, "task_id": "t", "target": "main", "commit": "", "ask": ask, "whole": whole, "mcp": True}
    values = {**texts, **lists, **names, "claimed": None, "swarm": swarm, **given}
    return "\n".join(render(name, **values) for name in ("system", *(("task",) if whole else ()), f"ask/{ask}"))


def test_a_planner_sees_all_that_is_not_complete_and_the_form_of_a_task_once() -> None:
    text = told("start", plans=True, can_plan=True, open=OPEN, max_new_tasks=3, prompts=[bundled("planner")])
    assert "- add: Add\n- mul: Multiply, current" in text
    assert "at most 3 now" in text
    assert text.count('"acceptance": [') == 1
    assert "`propose_task` (a task for the board)" in text
    assert "CLAIM" not in text


def test_who_may_add_tasks_is_told_their_form_whatever_prompts_it_has() -> None:
    for prompts in ([], [bundled("worker")]):
        assert told("start", can_plan=True, cards=[ADD], prompts=prompts).count('"acceptance": [') == 1
    assert '"acceptance": [' not in told("start", cards=[ADD], prompts=[bundled("executor")])
    assert "it may, so judge" in told("review", role="reviewer", can_plan=True, cards=[ADD])
    assert "tasks/pending" not in told("review", role="reviewer", cards=[ADD])


def test_an_answer_to_a_claim_tells_each_card_once_and_only_the_newest_list() -> None:
    answer = Claimed(got=["add"], refused=["mul: taken by w2"], left=[Listed(id="sub", title="Subtract")], left_count=1)
    for whole in (True, False):
        text = told("claimed", whole, may_claim=True, open=OPEN, cards=[ADD], got=[ADD], claimed=answer)
        assert (text.count("All of it."), text.count("- sub: Subtract"), "## The board" in text) == (1, 1, False)
        assert "You did not get:\n\n- mul: taken by w2\n" in text
        assert "Do now what you hold (add)." in text
    none = Claimed(refused=["mul: taken by w2"], left=answer.left, left_count=1)
    cold = told("claimed", may_claim=True, open=OPEN, claimed=none)
    assert "- add: Add" not in cold
    assert "Claim something else" in cold
    nothing = told("claimed", False, may_claim=True, claimed=Claimed(refused=["mul: taken by w2"]))
    assert "Claim something else" not in nothing
    assert "Say NOTHING_TO_CLAIM <why>" in nothing
