"""The contract that users' scripts hang on: fields, defaults, and how a bad input is refused."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

import activities.contracts
import activities.queue_contracts
import workflows.contracts
from activities.contracts import TurnCaps, TurnInput, TurnResult, Usage, quota_id
from activities.queue_contracts import Evidence, LandRequest
from activities.settings import (
    TAIL,
    Agent,
    AgentSpec,
    Delivery,
    GateSpec,
    Limits,
    Model,
    QueueSettings,
    TaskInput,
    TaskSettings,
    explain,
    tail,
)
from workflows.contracts import (
    BlockedReason,
    Code,
    CostLine,
    LandResult,
    LandStatus,
    LeaseNote,
    MergeAnswer,
    Outcome,
    QueueState,
    Seconds,
    Stage,
    TaskResult,
    TaskStatus,
    TurnRecord,
)
from workflows.policy.speculation import Odds

LEAST: dict[str, Any] = {"repo": "/src/app", "title": "Fix login redirect"}
SECRET = "hunter2-hunter2"
agent_of = TypeAdapter(Agent).validate_python


def refusal(given_input: Any, kind: type[Model] = TaskInput) -> str:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(given_input)
    return explain(caught.value)


def fields(model: type[Model]) -> set[str]:
    return set(model.model_fields)


# --- fields and defaults -----------------------------------------------------------------------------


def test_only_repo_and_title_are_required_and_every_default_is_the_documented_one() -> None:
    assert TaskInput.model_validate(LEAST).model_dump() == {
        **LEAST,
        "template": None,
        "description": "",
        "acceptance": [],
        "files": [],
        "labels": [],
        "target": None,
        "agent": {
            "runtime": "claude-code",
            "model": None,
            "reasoning": None,
            "account": None,
            "command": [],
            "max_turns": 50,
            "turn_timeout_minutes": 60,
            "idle_timeout_minutes": 15,
            "env": {},
            "prompts": [],
        },
        "fallbacks": [],
        "compactor": None,
        "reviewers": [],
        "resolver": None,
        "gates": [],
        "interactive": False,
        "limits": {
            "max_working_resumes": 5,
            "max_needs_followups": 1,
            "max_questions": 10,
            "max_review_rounds": 5,
            "max_gate_failures": 5,
            "max_merge_attempts": 5,
            "max_cost_usd": None,
            "max_tokens": None,
            "max_agent_minutes": None,
            "max_fixup_turns": 20,
            "max_fixup_cost_usd": 1,
            "max_limit_wait_minutes": 10,
            "max_cost_usd_per_day": None,
        },
        "delivery": {"kind": "merge", "strategy": "merge", "priority": 0, "after": []},
        "on_blocked": "wait",
        "plan_timeout_hours": 48,
        "sparse": None,
        "plan_files": "enforce",
        "approve_landing": False,
        "continues": None,
        "swarm": None,
    }


def test_a_gate_has_ten_minutes() -> None:
    assert GateSpec(name="test", command="make test").timeout_seconds == 600


def test_the_repository_gives_defaults_for_all_but_the_task_itself() -> None:
    own = {"repo", "title", "description", "sparse", "template", "continues", "swarm"}
    assert fields(TaskInput) - fields(TaskSettings) == own


@pytest.mark.parametrize("name", ["repo", "title", "description", "template"])
def test_the_repositorys_settings_cannot_name_the_task(name: str) -> None:
    assert refusal({name: "/x"}, TaskSettings) == f"{name}: unknown field"


@pytest.mark.parametrize("strategy", ["merge", "squash", "rebase", "ff-only"])
def test_strategies(strategy: Any) -> None:
    assert TaskInput(**LEAST, delivery={"strategy": strategy}).delivery == Delivery(strategy=strategy)


@pytest.mark.parametrize("on_blocked", ["wait", "fail"])
def test_on_blocked(on_blocked: str) -> None:
    assert TaskInput(**LEAST, on_blocked=on_blocked).on_blocked == on_blocked


def test_two_tasks_share_no_default() -> None:
    one, other = TaskInput(**LEAST), TaskInput(**LEAST)
    one.files.append("app.py")
    one.agent.env["KEY"] = "value"
    assert other.files == []
    assert other.agent.env == TaskInput(**LEAST).agent.env == {}


def test_what_is_written_is_read_again() -> None:
    task = TaskInput(
        **LEAST,
        agent="codex:gpt-5.5:medium",
        fallbacks=["claude-code:opus", {"runtime": "codex", "account": "openai/work"}],
        compactor="claude-code:haiku",
        reviewers=["claude-code", {"runtime": "command", "command": ["./review.sh"]}],
        gates=[{"name": "test", "command": "make test"}],
        limits={"max_cost_usd": 2.5, "max_tokens": 10_000, "max_cost_usd_per_day": 50},
    )
    assert TaskInput.model_validate_json(task.model_dump_json()) == task


def test_the_result_has_the_documented_fields() -> None:
    assert set(get_args(Outcome)) == {"merged", "no-changes", "rejected", "abandoned", "cancelled", "failed"}
    assert fields(TaskResult) == {
        *("outcome", "sha", "reason", "branch", "salvage_ref", "turns", "review_rounds", "cost_usd", "tokens"),
        "seconds",
    }
    named = {"agent", "review", "fix", "resolve", "gates", "queue", "own", "total"}
    assert fields(Seconds) == named | {"waiting"}


def test_the_status_has_the_results_figures_so_far() -> None:
    assert fields(TaskResult) <= fields(TaskStatus)
    assert {"stage", "waiting_for", "next_command", "said"} <= fields(TaskStatus)
    assert {"usage", "costs", "warnings", "agent", "run_folder"} <= fields(TaskStatus)


def test_a_landing_has_the_documented_fields() -> None:
    assert fields(LandRequest) == {
        *("repo", "branch", "target", "title", "strategy", "gates", "priority", "after"),
    }
    assert fields(LandResult) == {"outcome", "sha", "code", "reason", "evidence"}
    assert fields(QueueSettings) == {
        *("gate_slots", "strict_each", "checkout", "push", "protected", "precheck"),
    }


def test_the_readmes_example_of_a_queue_has_every_setting() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    [example] = re.findall(r"```toml\n(\[queue\]\n.+?)```", readme, re.DOTALL)
    assert QueueSettings.model_validate(tomllib.loads(example)["queue"]).model_fields_set == fields(QueueSettings)


def test_a_turns_record_and_a_line_of_the_costs_have_the_documented_fields() -> None:
    assert fields(TurnRecord) == {
        *("turn", "role", "agent", "runtime", "model", "account", "end", "verdict", "usage", "seconds", "attempts"),
        "ended",
    }
    assert fields(CostLine) == {"runtime", "model", "turns", "attempts", "usage", "seconds"}


@pytest.mark.parametrize(
    "begun",
    [
        TaskResult(outcome="failed"),
        TaskStatus(task_id="task-42", title="Fix login", stage=Stage.PREPARE),
        MergeAnswer(op="a", kind="landed"),
        QueueState(repo="/src/app", target="refs/heads/main"),
        LandResult(outcome="merged"),
        LandStatus(task_id="land-1"),
        LeaseNote(quota="anthropic/default", lease="a", text="a free slot"),
        TurnCaps(),
        TurnResult(end="done"),
    ],
    ids=lambda begun: type(begun).__name__,
)
def test_what_was_not_said_is_nothing(begun: Model) -> None:
    nothing = (Seconds(), Usage(), Evidence(), Odds(), "open")
    unsaid = {name: value for name, value in begun if name not in begun.model_fields_set}
    assert {name for name, value in unsaid.items() if value and value not in nothing} == set()
    assert not any(Seconds().model_dump().values())
    assert not any(Usage().model_dump().values())


def test_what_users_filter_by_is_called_as_documented() -> None:
    assert [stage.value for stage in Stage] == [
        *(
            "prepare",
            "plan",
            "awaiting approval",
            "awaiting answer",
            "work",
            "gates",
            "review",
            "resolve",
            "merge queue",
        ),
        *("rate limited", "paused", "blocked", "settle", "ended"),
    ]
    assert [reason.value for reason in BlockedReason] == [
        *("stuck", "needs follow-up", "questions used up", "gates red", "review rounds used up"),
        "no reviewer gave a verdict",
        *("merge attempts used up", "login missing", "the model will not do it", "agent failed"),
        *("gates cannot pass on this machine", "budget used up", "plan not approved in time"),
        "landing not approved in time",
        *("needs a person's leave to land", "the remote does not take it", "changed what no turn may change"),
        *("the worktree cannot be set up", "our own trouble"),
    ]
    assert [code.value for code in Code] == [
        *("CONFLICT", "GATE_RED", "SEMANTIC_CONFLICT", "GATE_INFRA", "MAIN_RED", "CAS_LOST", "HEAD_MOVED"),
        *("CHECKOUT_BLOCKED", "POLICY", "PUSH_REJECTED", "NOOP"),
    ]


def test_usage_adds_up() -> None:
    one = Usage(cost_usd=1.5, input_tokens=10, cached_tokens=7, output_tokens=3, unpriced_tokens=2)
    other = Usage(cost_usd=0.25, input_tokens=5, cached_tokens=2, output_tokens=1, unpriced_tokens=6)
    assert one + other == Usage(cost_usd=1.75, input_tokens=15, cached_tokens=9, output_tokens=4, unpriced_tokens=8)
    assert one + Usage() == one
    assert one.tokens == 13


def test_the_workflow_id_of_a_quota_is_the_documented_one() -> None:
    assert quota_id("anthropic/default", "mergewright") == "quota/anthropic/default"
    assert quota_id("anthropic/default", "night") == "quota/anthropic/default@night"


# --- the short form of an agent ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("codex", {"runtime": "codex"}),
        ("codex:gpt-5.5", {"runtime": "codex", "model": "gpt-5.5"}),
        ("codex:gpt-5.5:medium", {"runtime": "codex", "model": "gpt-5.5", "reasoning": "medium"}),
        ("codex::high", {"runtime": "codex", "reasoning": "high"}),
        ("codex:gpt-5.5:", {"runtime": "codex", "model": "gpt-5.5"}),
    ],
)
def test_short_form(short: str, long: dict[str, Any]) -> None:
    both = [short, long]
    task = TaskInput(**LEAST, agent=short, fallbacks=both, compactor=short, reviewers=both, resolver=short)
    assert task.agent == task.resolver == task.compactor == AgentSpec(**long)
    assert task.reviewers == task.fallbacks == [task.agent, task.agent]


names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-./", min_size=1)


@given(names, names, names)
def test_the_short_form_says_what_the_long_one_says(runtime: str, model: str, reasoning: str) -> None:
    if runtime != "command":
        long = {"runtime": runtime, "model": model, "reasoning": reasoning}
        assert agent_of(f"{runtime}:{model}:{reasoning}") == agent_of(long)


def test_a_short_form_with_too_many_parts_is_refused() -> None:
    text = refusal({**LEAST, "reviewers": ["codex", f"codex:a:b:{SECRET}"]})
    assert text.startswith("reviewers.1: ")
    assert "runtime[:model[:reasoning]]" in text
    assert SECRET not in text


def test_labels() -> None:
    assert AgentSpec(runtime="codex").label() == "codex"
    assert AgentSpec(runtime="codex", model="gpt-5.5", reasoning="high").label() == "codex (gpt-5.5)"


@pytest.mark.parametrize("account", ["work", "anthropic/work", "a.b-c_1/X"])
def test_an_account_is_named_alone_or_with_its_vendor(account: str) -> None:
    assert AgentSpec(account=account).account == account


# --- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["repo", "title"])
def test_a_missing_field_is_named(name: str) -> None:
    given_input = {key: value for key, value in LEAST.items() if key != name}
    assert refusal(given_input) == f"{name}: required, but not given"


@pytest.mark.parametrize(
    ("given_input", "place"),
    [
        ({"titel": 1}, "titel"),
        ({"agent": {"modle": 1}}, "agent.modle"),
        ({"agent": {"runtime": "codex", "timeout": 1}}, "agent.timeout"),
        ({"reviewers": ["codex", {"modle": 1}]}, "reviewers.1.modle"),
        ({"fallbacks": ["codex", {"modle": 1}]}, "fallbacks.1.modle"),
        ({"compactor": {"modle": 1}}, "compactor.modle"),
        ({"resolver": {"modle": 1}}, "resolver.modle"),
        ({"gates": [{"name": "test", "command": "make", "timeout": 1}]}, "gates.0.timeout"),
        ({"limits": {"max_turns": 1}}, "limits.max_turns"),
        ({"delivery": {"how": 1}}, "delivery.how"),
    ],
)
def test_an_unknown_field_is_refused_by_name_wherever_it_is(given_input: dict[str, Any], place: str) -> None:
    assert refusal({**LEAST, **given_input}) == f"{place}: unknown field"


CONTRACTS: set[type[Model]] = {
    kind
    for module in (activities.contracts, activities.queue_contracts, workflows.contracts)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Model) and kind is not Model
}


@pytest.mark.parametrize("kind", sorted(CONTRACTS, key=repr), ids=repr)
def test_every_contract_refuses_what_it_does_not_know_and_is_immutable(kind: type[Model]) -> None:
    assert "surprise: unknown field" in refusal({"surprise": 1}, kind)
    assert kind.model_config.get("frozen")


def test_a_contract_cannot_be_changed() -> None:
    task = TaskInput(**LEAST)
    with pytest.raises(ValidationError):
        task.title = "another"  # type: ignore[misc]


NUMBERS = (
    *("max_cost_usd", "max_cost_usd_per_day", "max_fixup_cost_usd"),
    *("max_agent_minutes", "max_limit_wait_minutes"),
)
"""Limits that need not be whole."""


@pytest.mark.parametrize(
    ("given_input", "place"),
    [
        ({"repo": ""}, "repo"),
        ({"repo": "app"}, "repo"),
        ({"repo": "./app"}, "repo"),
        ({"title": ""}, "title"),
        ({"title": "one\ntwo"}, "title"),
        ({"gates": "make test"}, "gates"),
        ({"gates": [{"name": "", "command": "make"}]}, "gates.0.name"),
        ({"gates": [{"name": "a b", "command": "make"}]}, "gates.0.name"),
        ({"gates": [{"name": "a/b", "command": "make"}]}, "gates.0.name"),
        ({"gates": [{"name": "a", "command": ""}]}, "gates.0.command"),
        ({"gates": [{"name": "a", "command": "make", "timeout_seconds": 0}]}, "gates.0.timeout_seconds"),
        ({"gates": [{"name": "a", "command": "x"}, {"name": "a", "command": "y"}]}, "gates"),
        ({"agent": 5}, "agent"),
        ({"agent": {"max_turns": 0}}, "agent.max_turns"),
        ({"agent": {"turn_timeout_minutes": 0}}, "agent.turn_timeout_minutes"),
        ({"agent": {"idle_timeout_minutes": 0}}, "agent.idle_timeout_minutes"),
        ({"agent": {"env": {"KEY": 5}}}, "agent.env.KEY"),
        ({"agent": "command"}, "agent"),
        ({"agent": {"runtime": "command"}}, "agent"),
        ({"agent": {"runtime": "codex", "command": ["x"]}}, "agent"),
        *[
            ({"agent": {"account": account}}, "agent.account")
            for account in ("", "/", "a/", "/b", "a/b/c", "a b", "a\n")
        ],
        ({"reviewers": "codex"}, "reviewers"),
        ({"fallbacks": "codex"}, "fallbacks"),
        ({"fallbacks": ["command"]}, "fallbacks.0"),
        ({"compactor": ":opus"}, "compactor"),
        ({"limits": {"max_working_resumes": -1}}, "limits.max_working_resumes"),
        ({"limits": {"max_needs_followups": -1}}, "limits.max_needs_followups"),
        ({"limits": {"max_review_rounds": 0}}, "limits.max_review_rounds"),
        ({"limits": {"max_gate_failures": 0}}, "limits.max_gate_failures"),
        ({"limits": {"max_merge_attempts": 0}}, "limits.max_merge_attempts"),
        ({"limits": {"max_cost_usd": 0}}, "limits.max_cost_usd"),
        ({"limits": {"max_tokens": 0}}, "limits.max_tokens"),
        ({"limits": {"max_tokens": 1.5}}, "limits.max_tokens"),
        ({"limits": {"max_agent_minutes": 0}}, "limits.max_agent_minutes"),
        ({"limits": {"max_fixup_turns": 0}}, "limits.max_fixup_turns"),
        ({"limits": {"max_fixup_cost_usd": 0}}, "limits.max_fixup_cost_usd"),
        ({"limits": {"max_limit_wait_minutes": -1}}, "limits.max_limit_wait_minutes"),
        ({"limits": {"max_cost_usd_per_day": 0}}, "limits.max_cost_usd_per_day"),
        *[({"limits": {field: float("nan")}}, f"limits.{field}") for field in NUMBERS],
        ({"delivery": {"kind": "pull-request"}}, "delivery.kind"),
        ({"delivery": {"strategy": "octopus"}}, "delivery.strategy"),
        ({"delivery": {"priority": 1001}}, "delivery.priority"),
        ({"on_blocked": "panic"}, "on_blocked"),
        ({"interactive": "perhaps"}, "interactive"),
        ({"plan_timeout_hours": 0}, "plan_timeout_hours"),
    ],
)
def test_a_wrong_value_is_refused_and_its_field_named(given_input: dict[str, Any], place: str) -> None:
    text = refusal({**LEAST, **given_input})
    assert text.startswith(f"{place}: ")
    assert "; " not in text.replace("line; put", "")


def test_the_least_that_is_allowed() -> None:
    least: dict[str, Any] = {
        "repo": "/",
        "title": "x",
        "agent": {"max_turns": 1, "turn_timeout_minutes": 0.01, "idle_timeout_minutes": 0.01},
        "gates": [{"name": "a", "command": "x", "timeout_seconds": 0.01}],
        "limits": {
            **{"max_working_resumes": 0, "max_needs_followups": 0, "max_review_rounds": 1, "max_gate_failures": 1},
            **{"max_merge_attempts": 1, "max_cost_usd": 0.01, "max_tokens": 1, "max_agent_minutes": 0.01},
            **{"max_fixup_turns": 1, "max_fixup_cost_usd": 0.01, "max_limit_wait_minutes": 0},
            "max_cost_usd_per_day": 0.01,
        },
        "plan_timeout_hours": 0.01,
    }
    assert TaskInput.model_validate(least).model_dump(exclude_unset=True) == least


@pytest.mark.parametrize(
    ("given_input", "why"),
    [
        ({"agent": "command"}, 'the runtime "command" needs `command`, an argv such as ["./agent.sh"]'),
        ({"agent": {"command": ["x"]}}, '`command` belongs to the runtime "command" only'),
        ({"agent": "a:b:c:d"}, "the short form of an agent is runtime[:model[:reasoning]]"),
        ({"gates": [{"name": "a", "command": "x"}] * 2}, "two gates have the same name"),
        ({"title": "one\ntwo"}, "must be one line; put the rest into `description`"),
        ({"repo": "app"}, "must be an absolute path on the worker's host"),
    ],
)
def test_our_own_rules_are_told_with_the_remedy(given_input: dict[str, Any], why: str) -> None:
    said = refusal({**LEAST, **given_input})
    assert said.split(": ", 1)[1].startswith(why)


def test_every_problem_is_told_at_once() -> None:
    text = refusal({"repo": "/src/app", "titel": "x", "agent": {"max_turns": 0, "modle": "x"}})
    assert text.split("; ") == [
        "agent.max_turns: Input should be greater than or equal to 1",
        "agent.modle: unknown field",
        "title: required, but not given",
        "titel: unknown field",
    ]


@pytest.mark.parametrize("given_input", ["fix the login", 5, None, ["repo"]])
def test_an_input_that_is_no_object_is_refused(given_input: Any) -> None:
    assert refusal(given_input).startswith("input: ")


PLACES: list[tuple[str | int, ...]] = [
    *[(name,) for name in TaskInput.model_fields],
    *[("agent", name) for name in AgentSpec.model_fields],
    *[(place, 0, name) for place in ("reviewers", "fallbacks") for name in AgentSpec.model_fields],
    *[("compactor", name) for name in AgentSpec.model_fields],
    *[("gates", 0, name) for name in GateSpec.model_fields],
    *[("limits", name) for name in Limits.model_fields],
    *[("delivery", name) for name in Delivery.model_fields],
    ("agent", "env", "KEY"),
    ("acceptance", 0),
    ("unknown",),
]


def nested(place: tuple[str | int, ...], value: Any) -> Any:
    for step in reversed(place):
        value = {step: value} if isinstance(step, str) else [value]
    return value


BAD_VALUES = [SECRET, [SECRET], {"KEY": SECRET}, f"\n{SECRET}\n", f"a:b:c:{SECRET}", [[SECRET]], {"KEY": [SECRET]}]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_a_refusal_names_the_field_and_never_its_value(place: tuple[str | int, ...]) -> None:
    """An agent's `env` may hold a key, and the failure is in the history for all to read."""
    refused = 0
    for value in BAD_VALUES:
        try:
            TaskInput.model_validate({**LEAST, **nested(place, value)})
        except ValidationError as error:
            refused += 1
            text = explain(error)
            assert str(place[0]) in text
            assert SECRET not in text
            assert "\n" not in text
    assert refused


def test_a_refusal_is_one_line_whatever_a_field_is_called() -> None:
    assert len(refusal({**LEAST, "a\nb": 1}).splitlines()) == 1


@pytest.mark.parametrize("title", ["  ", "\t", "one\rtwo", "one\u2028two"])
def test_a_title_is_one_line_that_says_something(title: str) -> None:
    assert refusal({**LEAST, "title": title}).startswith("title: ")


@pytest.mark.parametrize("short", ["", ":opus"])
def test_a_short_form_names_a_runtime(short: str) -> None:
    assert refusal({**LEAST, "agent": short}).startswith("agent: ")


@pytest.mark.parametrize("length", [float("inf"), 1e300])
@pytest.mark.parametrize(
    "place",
    [
        ("agent", "turn_timeout_minutes"),
        ("agent", "idle_timeout_minutes"),
        ("gates", 0, "timeout_seconds"),
        ("plan_timeout_hours",),
        ("limits", "max_limit_wait_minutes"),
    ],
)
def test_a_time_that_no_timer_can_hold_is_refused(place: tuple[str | int, ...], length: float) -> None:
    given_input = nested(place, length)
    if "gates" in given_input:
        given_input["gates"][0] |= {"name": "test", "command": "make"}
    assert refusal({**LEAST, **given_input}).startswith(".".join(map(str, place)) + ": ")


@pytest.mark.parametrize("field", NUMBERS)
def test_a_cap_without_an_end_is_refused_or_is_none_after_it_has_travelled(field: str) -> None:
    """JSON has no word for it, and writes nothing instead."""
    try:
        limits = Limits(**{field: float("inf")})
    except ValidationError as error:
        assert explain(error).startswith(f"{field}: ")
    else:
        assert getattr(Limits.model_validate_json(limits.model_dump_json()), field) is None


# --- small by construction ---------------------------------------------------------------------------


@given(st.text(), st.integers(1, 50))
def test_a_tail_is_the_end_and_a_cut_is_marked(text: str, limit: int) -> None:
    cut = tail(text, limit)
    assert len(cut) <= limit
    if len(text) <= limit:
        assert cut == text
    else:
        assert cut[0] == "…"
        assert text.endswith(cut[1:])
        assert len(cut) == limit


def test_a_tail_has_three_thousand_characters() -> None:
    assert TAIL == 3_000
    assert tail("x" * 3_000) == "x" * 3_000
    assert tail("x" * 3_001) == "…" + "x" * 2_999


@pytest.mark.parametrize("kind", [TurnInput, TurnResult, MergeAnswer, QueueState])
def test_what_travels_names_what_it_needs(kind: type[Model]) -> None:
    assert "required, but not given" in refusal({}, kind)
