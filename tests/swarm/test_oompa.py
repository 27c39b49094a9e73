"""oompa.json works as it is, and a swarm's settings are complete: the operator's over the file's over defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from temporalio.exceptions import ApplicationError

from activities.settings import AgentSpec
from activities.swarm.given import chosen, complete, fields_of
from activities.swarm.settings import PlannerSpec, SwarmSettings, WorkerSpec

EXAMPLE = """
{
  "workers": [
    {"model": "claude:opus", "prompt": ["config/prompts/planner.md"], "max_cycle": 4, "count": 1, "wait_between": 30},
    {"model": "codex:gpt-5.3-codex:medium", "prompt": ["config/prompts/executor.md"], "max_cycle": 8, "count": 2,
     "can_plan": false},
    {"model": "opencode:opencode/kimi-k2.5-free", "prompt": "prompts/own.md", "iterations": 9, "can_plan": false},
    {"model": "gemini:gemini-3-pro-preview", "runs": 7, "can_plan": false}
  ]
}
"""

ONE_KIND = """
{
  "workers": [
    {"model": "codex:gpt-5.3-codex-spark", "prompt": ["prompts/house.md", "config/prompts/executor.md"],
     "max_cycle": 120, "count": 4, "can_plan": false}
  ],
  "reviewer": {"model": "gemini:gemini-3.1", "prompt": ["prompts/judge.md"]}
}
"""

NEWEST = """
{
  "//": "a lead and many hands",
  "planner": {"model": "codex:gpt-5.4:xhigh", "prompt": ["prompts/plan.md"], "max_pending": 60},
  "reviewers": ["claude:opus", {"model": "codex:gpt-5.4:high", "prompt": "prompts/judge.md"}],
  "workers": [
    {"_role": "lead", "model": "claude:opus", "prompt": ["config/prompts/worker.md"], "max_resumes": 3},
    {"model": "codex:gpt-5.4-mini:low", "max_cycle": 30, "count": 8, "can_plan": false, "can_claim_gpu": true,
     "max_wait_for_tasks": 1200, "max_working_resumes": 2, "max_needs_followups": 4, "needs_review": false},
    {"model": "codex:gpt-5.4-mini", "max_cycle": 30, "review_model": "gemini:gemini-3.1"}
  ]
}
"""


def read(text: str, given: Mapping[str, Any] | None = None, **more: Any) -> tuple[SwarmSettings, list[str]]:
    options = {"spec_there": lambda _: True, "installed": ["codex"], **more}
    return complete(given or {}, "oompa.json", text.encode(), **options)


def one(worker: Mapping[str, Any]) -> WorkerSpec:
    return read(json.dumps({"workers": [worker]}))[0].workers[0]


def refusal(text: str | bytes, name: str = "oompa.json") -> str:
    with pytest.raises(ApplicationError) as caught:
        fields_of(name, text if isinstance(text, bytes) else text.encode())
    assert "\n" not in caught.value.message
    assert caught.value.message.startswith(f"{name}: ")
    return caught.value.message


def test_workers_of_four_vendors_and_their_planner() -> None:
    found, notes = read(EXAMPLE)
    assert found.planner == PlannerSpec(
        agent=AgentSpec(runtime="claude-code", model="opus"),
        prompts=["config/prompts/planner.md"],
        max_cycle=4,
        wait_between=30,
    )
    assert found.workers == [
        WorkerSpec(
            name="worker-1",
            agent=AgentSpec(runtime="codex", model="gpt-5.3-codex", reasoning="medium"),
            prompts=["config/prompts/executor.md"],
            count=2,
            claims=True,
            max_cycle=8,
        ),
        WorkerSpec(
            name="worker-2",
            agent=AgentSpec(runtime="opencode", model="opencode/kimi-k2.5-free"),
            prompts=["prompts/own.md"],
            claims=True,
            max_cycle=9,
        ),
        WorkerSpec(
            name="worker-3",
            agent=AgentSpec(runtime="gemini", model="gemini-3-pro-preview"),
            prompts=["executor"],
            claims=True,
            max_cycle=7,
        ),
    ]
    assert notes == ["oompa.json: workers.0 has the planner's prompt: it is the swarm's planner, and writes no code"]


def test_one_kind_of_worker_and_a_reviewer() -> None:
    found, notes = read(ONE_KIND)
    [worker] = found.workers
    assert (worker.count, worker.max_cycle, worker.can_plan) == (4, 120, False)
    assert worker.prompts == ["prompts/house.md", "config/prompts/executor.md"]
    assert found.reviewers == [AgentSpec(runtime="gemini", model="gemini-3.1", prompts=["prompts/judge.md"])]
    assert found.planner is None
    assert notes == []


def test_a_planner_reviewers_and_what_means_nothing_here() -> None:
    found, notes = read(NEWEST)
    agent = AgentSpec(runtime="codex", model="gpt-5.4", reasoning="xhigh")
    assert found.planner == PlannerSpec(agent=agent, prompts=["prompts/plan.md"], max_pending=60)
    assert found.reviewers is not None
    assert [reviewer.prompts for reviewer in found.reviewers] == [["reviewer"], ["prompts/judge.md"]]
    lead, hands, last = found.workers
    assert (lead.can_plan, lead.max_working_resumes, lead.reviewers) == (True, 3, None)
    assert (hands.max_wait_for_tasks, hands.max_working_resumes, hands.max_needs_followups) == (1200, 2, 4)
    assert hands.reviewers == []
    assert last.reviewers == [AgentSpec(runtime="gemini", model="gemini-3.1", prompts=["reviewer"])]
    assert notes == ["oompa.json: these mean nothing here: //, workers.0._role, workers.1.can_claim_gpu"]


def test_what_oompa_does_without_a_key() -> None:
    worker = one({"model": "codex:gpt-5.4", "prompt": None, "count": None})
    assert (worker.count, worker.max_cycle, worker.can_plan, worker.claims) == (1, 10, True, True)
    assert worker.prompts == ["worker"]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("claude:opus", ("claude-code", "opus", None)),
        ("claude:opus:high", ("claude-code", "opus", "high")),
        ("opencode:openrouter/z-ai/glm:free", ("opencode", "openrouter/z-ai/glm:free", None)),
        ("opencode:openrouter/z-ai/glm:free:low", ("opencode", "openrouter/z-ai/glm:free", "low")),
        ("gemini2:gemini-3.1", ("gemini", "gemini-3.1", None)),
        ("qwen:qwen3-coder", ("qwen", "qwen3-coder", None)),
        ("gpt-5.4", ("codex", "gpt-5.4", None)),
        ("gpt-5.4:xhigh", ("codex", "gpt-5.4", "xhigh")),
        ("codex:", ("codex", None, None)),
    ],
)
def test_a_model(model: str, expected: tuple[str, str | None, str | None]) -> None:
    agent = one({"model": model}).agent
    assert (agent.runtime, agent.model, agent.reasoning) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"workers": [{"model": "codex:a", "count": "two"}]}', "workers.0.count: "),
        ('{"workers": [{"model": "codex:a", "can_plan": "false"}]}', "workers.0.can_plan: "),
        ('{"workers": [{"model": "codex:a", "iterations": 0}]}', "workers.0.iterations: "),
        ('{"workers": [{"model": "cursor:fast"}]}', "workers.0.model: unknown harness 'cursor'"),
        ('{"workers": [{"model": 3}]}', "workers.0.model: "),
        ('{"workers": [{"count": 2}]}', "workers.0.model: required"),
        (
            '{"workers": [{"model": "codex:a", "count": 999}]}',
            "workers.0.count: Input should be less than or equal to 200",
        ),
        ('{"reviewers": "claude:opus", "workers": []}', "reviewers: "),
        ('{"planner": {"model": "codex:a", "max_pending": -1}}', "planner.max_pending: "),
        ("[]", "must be a JSON object"),
        ('{"workers": [', "is not JSON: line 1, column 14"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_value_is_named_with_its_file(text: str | bytes, expected: str) -> None:
    assert expected in refusal(text)


TOML = b"""
spec = "docs/spec.md"
mirror = true
reviewers = ["claude-code:opus"]
[[workers]]
name = "fast"
agent = "codex:gpt-5.4-mini"
count = 3
[planner]
agent = { runtime = "codex", model = "gpt-5.4" }
max_pending = 20
[task]
gates = [{ name = "test", command = "true" }]
[task.limits]
max_review_rounds = 2
max_gate_failures = 3
"""


def test_the_operators_input_wins_over_the_file() -> None:
    own = {
        "repo": "/r",
        "file": "swarm.toml",
        "spec": "other.md",
        "planner": {"agent": {"runtime": "claude-code"}, "max_cycle": 5},
        "task": {"limits": {"max_review_rounds": 9}},
    }
    found, notes = complete(own, "swarm.toml", TOML, spec_there=lambda path: path == "other.md", installed=[])
    assert found.workers == [
        WorkerSpec(name="fast", agent=AgentSpec(runtime="codex", model="gpt-5.4-mini"), prompts=["executor"], count=3)
    ]
    assert found.planner == PlannerSpec(agent=AgentSpec(), prompts=["planner"], max_pending=20, max_cycle=5)
    assert found.task["limits"] == {"max_review_rounds": 9, "max_gate_failures": 3}
    assert (found.mirror, notes) == (True, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[workers]]\nagent = "codex"\ncuont = 3', "workers.0.cuont: unknown field"),
        ('[[workers]]\nname = "planner"', "workers.0.name: the planner has this name"),
        ('[task]\nagent = "codex"', "task.agent: is not of the single task"),
        ('[task]\ngates = [{ name = "test" }]', "task: gates.0.command: required"),
        ("[workers]\nagent = 'codex'", "workers: must be a list: in TOML [[workers]]"),
        ('[[workers]]\nname = "a"\n[[workers]]\nname = "a"', "swarm.toml: workers: two have the name a: give each"),
        ("[[workers]]\ncount = 150\n[[workers]]\ncount = 51", "workers: 201 in all: at most 200"),
        ('on_blocked = "skip"', "on_blocked: Input should be 'wait' or 'fail'"),
        ('planner = "codex"', "planner: must be an object with fields (in TOML a table)"),
        ("workers = ", "is not TOML"),
        ("a = " + "[" * 100_000, "is not TOML"),
    ],
)
def test_a_bad_swarm_toml_is_named(text: str, expected: str) -> None:
    assert expected in refusal(text, "swarm.toml")


def test_names_that_are_missing_are_given_once() -> None:
    text = b'[[workers]]\nname = "worker-2"\n[[workers]]\n[[workers]]'
    found, _ = complete({}, "swarm.toml", text, spec_there=bool, installed=[])
    assert [worker.name for worker in found.workers] == ["worker-2", "worker-3", "worker-4"]


def test_without_a_file_there_is_a_team_of_the_agent_that_is_installed() -> None:
    found, [note] = complete({"repo": "/r"}, "", None, spec_there=lambda path: path == "spec.md", installed=["codex"])
    agent = AgentSpec(runtime="codex")
    assert found.workers == [WorkerSpec(name="worker-1", agent=agent, count=2, prompts=["executor"])]
    assert found.planner == PlannerSpec(agent=agent, prompts=["planner"])
    assert found.reviewers == [AgentSpec(runtime="codex", prompts=["reviewer"])]
    assert note.startswith("no workers are named, so there are of codex: two executors, one reviewer, a planner")


def test_without_a_spec_nobody_plans_and_the_repositorys_reviewers_stay() -> None:
    found, notes = complete({}, "", None, spec_there=lambda _: False, installed=["codex"], reviewed=True)
    assert (found.planner, found.reviewers) == (None, None)
    assert "nobody plans: spec.md is not on the target branch" in notes
    given = {"workers": [{"agent": "codex", "can_plan": True}], "planner": {"agent": "codex"}}
    found, [note] = complete(given, "", None, spec_there=lambda _: False, installed=[])
    assert (found.spec, note.partition(":")[0]) == ("", "nobody plans")


def test_without_workers_or_an_agent_there_is_no_swarm() -> None:
    with pytest.raises(ApplicationError, match="workers: none are named, and no agent CLI is installed"):
        complete({}, "", None, spec_there=bool, installed=[])


def test_oompas_numbered_logins_are_told() -> None:
    _, [note] = read('{"workers": [{"model": "gemini2:gemini-3.1"}, {"model": "gemini:gemini-3.1"}]}')
    assert note == "oompa.json: gemini2: all is gemini here; accounts are named in swarm.toml"


def test_which_file_counts() -> None:
    there = {"swarm.toml": b"1", "oompa.json": b"2", "mine.json": b"3"}
    assert chosen(there.get, None) == ("swarm.toml", b"1", ["oompa.json is not read: swarm.toml is there"])
    assert chosen(there.get, "mine.json") == ("mine.json", b"3", [])
    assert chosen({}.get, None) == ("", None, [])
    with pytest.raises(ApplicationError, match=r"file: no\.json is not on the target branch"):
        chosen(there.get, "no.json")
    with pytest.raises(ApplicationError, match="file: /etc/passwd is not on the target branch"):
        chosen({"/etc/passwd": b""}.get, "/etc/passwd")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("codex:a"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["workers", "model", "prompt", "reviewers", "planner", "count", "//"]), inner)
    ),
    max_leaves=10,
)


@given(
    st.binary(max_size=60) | _JSON.map(lambda value: json.dumps(value).encode()), st.sampled_from([".json", ".toml"])
)
@settings(max_examples=100, deadline=None)
def test_no_bytes_crash_a_reader(data: bytes, ending: str) -> None:
    try:
        found, notes = fields_of(f"swarm{ending}", data)
    except ApplicationError as problem:
        assert len(problem.message.splitlines()) == 1
    else:
        assert SwarmSettings.model_validate(found).model_dump_json()
        assert json.dumps(notes, ensure_ascii=False).encode()
