"""A whole swarm with the real agent CLIs, as oompa's users have it: an `oompa.json`, a spec, the bundled prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from console.swarm_view import result_view
from tests.agents.desk import path
from tests.agents.test_real_tasks import DONE
from tests.git.repos import commit, git
from tests.kit import Kit
from tests.models import ModelServer, Request, Step, bash, call, clients, say, script, use, write
from tests.swarm import kit as swarms
from tests.swarm.test_swarm_view import printed, words
from workflows.swarm_contracts import BoardPage, SwarmResult

pytestmark = [pytest.mark.agents, pytest.mark.timeout(600)]

PATIENCE = 560
"""Seconds; of two busy cores. It takes three quarters of a minute of processor time."""
PROMPTS = "config/prompts"
SPEC = "# Sums\n\nThree functions of two numbers, each in a file of its own: `add`, `sub`, `mul`, with a docstring.\n"


def oompa(executors: Sequence[str]) -> str:
    told = {"prompt": [f"{PROMPTS}/executor.md"], "can_plan": False}
    file = {
        "planner": {"model": "claude:sonnet:low", "prompt": [f"{PROMPTS}/planner.md"], "max_pending": 5},
        "workers": [{"model": model, **told} for model in executors],
        "reviewer": {"model": "codex:gpt-5.5:medium", "prompt": [f"{PROMPTS}/reviewer.md"]},
    }
    return json.dumps(file, indent=2)


def card(name: str, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "description": f"`calc/{name}.py` with the function `{name}(a, b)`, as spec.md says.",
        "acceptance": [f"`from calc.{name} import {name}` works"],
        "files": [f"calc/{name}.py"],
        **more,
    }


def made(name: str) -> str:
    return f"def {name}(a, b): ..."


class Cycle:
    """What a worker's cycle left in its run folder, of all turns but the reviewer's."""

    def __init__(self, folder: Path) -> None:
        turns = [turn for turn in sorted((folder / "turns").iterdir()) if not turn.name.endswith("-reviewer")]
        self.prompts = [(turn / "prompt.md").read_text() for turn in turns]
        self.sessions = [(turn / "session").read_text() for turn in turns]


def life(request: Request) -> Step:
    """Each turn is known by what its agent is told; the CLIs share the server, and come in any order."""
    prompt = request.prompt
    if "You plan for a swarm" in request.system:
        begun = re.search(r"\d (current|complete)", prompt)
        return say("Nothing is missing.\nCOMPLETE_AND_READY_FOR_MERGE") if begun else plan(request)
    if "Judge commit" in prompt:
        missing = "calc/sub.py" in prompt and '+"""' not in prompt
        return say("calc/sub.py has no docstring.\nVERDICT: NEEDS_CHANGES" if missing else "Good.\nVERDICT: APPROVED")
    if "asks for changes" in prompt:
        return script(use(bash('printf \'"""Subtraction."""\\n\' >> calc/sub.py')), DONE)(request)
    if held := re.search(r"Do now what you hold \((\w+)\)", prompt):
        return script(use(write(f"calc/{held[1]}.py", made(held[1]) + "\n")), DONE)(request)
    # Both want `add`: one of them is told who has it, and takes the next.
    listed = re.findall(r"^- (\w+): ", prompt.rpartition("Left to claim")[2] or prompt, re.MULTILINE)
    return say(f"CLAIM({min(listed)})" if listed else "NOTHING_TO_CLAIM there is none")


def plan(request: Request) -> Step:
    """Two tasks as files, one by the tool."""
    by_tool = {**card("mul", after=["add"]), "title": "Multiply"}
    return script(
        use(write("tasks/pending/add.json", json.dumps(card("add", summary="Add", priority="P1")))),
        use(write("tasks/pending/sub.json", json.dumps(card("sub", summary="Subtract")))),
        use(call("propose_task", **by_tool)),
        DONE,
    )(request)


@pytest.fixture
def server(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    """The CLIs of an oompa.json have what the worker has: its PATH, its home, its keys."""
    home = kit.folder / "agent-home"
    home.mkdir()
    with ModelServer(life) as server:
        for name, value in {**clients(server.url, home), "PATH": path()}.items():
            monkeypatch.setenv(name, value)
        kit.configure(f'network = ["*", "{server.url.removeprefix("http://")}"]\n')
        yield server


@pytest.mark.parametrize(
    "executors",
    [
        ("claude:sonnet", "codex:gpt-5.5:low"),
        pytest.param(("gemini:gemini-2.5-pro", "opencode:test/deepseek-chat"), marks=pytest.mark.long),
        pytest.param(("codex:gpt-5.5", "qwen:qwen3-coder-plus"), marks=pytest.mark.long),
    ],
    ids=lambda executors: "-".join(model.partition(":")[0] for model in executors),
)
async def test_a_swarm_of_two_clis_meets_its_spec(kit: Kit, server: ModelServer, executors: tuple[str, str]) -> None:
    commit(kit.repo, {"spec.md": SPEC, "oompa.json": oompa(executors)})
    async with kit.worker():
        handle = await kit.client.start_workflow(
            "SwarmWorkflow", {"repo": str(kit.repo)}, id="swarm", task_queue=kit.task_queue, result_type=SwarmResult
        )
        result = await swarms.over(kit, handle, PATIENCE)
        page = await handle.query("board", result_type=BoardPage)
    assert result.reason == "the spec is met"
    tasks = git(kit.repo, "ls-tree", "--name-only", "main", "tasks/pending/").split()
    assert tasks == ["tasks/pending/add.json", "tasks/pending/sub.json"]  # the third came by the tool
    places = [(name, "complete") for name in ("add", "mul", "sub")]
    assert sorted((line.id, line.place) for line in page.lines) == places
    assert [kit.show(f"calc/{name}.py") for name in ("add", "mul")] == [made("add"), made("mul")]
    assert kit.show("calc/sub.py") == made("sub") + '\n"""Subtraction."""'  # what the reviewer had asked for
    clis = {name if name != "claude" else "claude-code" for name, _, _ in (model.partition(":") for model in executors)}
    assert {agent.partition(" ")[0] for agent in kit.trailers("Agent")} == {"claude-code", *clis}

    cycles = [Cycle(folder) for folder in sorted((kit.home.root / "runs").glob("swarm-worker-*"))]
    for cycle in cycles:
        assert "# Task" in cycle.prompts[0]
        assert not any("# Task" in prompt for prompt in cycle.prompts[1:])  # resumed: it knows that already
        assert len(set(cycle.sessions)) == 1
    told = [prompt for cycle in cycles for prompt in cycle.prompts]
    assert sum("You have claimed:" in prompt for prompt in told) == 3
    refused = [prompt for prompt in told if "You have got none" in prompt]
    assert re.search(r"^- add: (taken by|complete, by) worker-\d", refused[0], re.MULTILINE)
    asked = [request for request in server.requests if "You have claimed:" in request.prompt]
    assert len({request.path for request in asked}) == 2
    for request in asked:  # what it said to get it is in the session
        assert re.search(r"CLAIM\((add|sub|mul)\)", json.dumps(request.body))

    tallies = {member.name: member.tally for member in result.members}
    planner, *workers = (tallies[name] for name in ("planner", "worker-1.1", "worker-2.1"))
    assert (planner.merges, planner.claims, planner.errors) == (1, 0, 0)
    assert all(tally.merges and tally.cost_usd for tally in workers)
    done = [sum(figures) for figures in zip(*([t.merges, t.claims, t.rejects, t.runs] for t in workers), strict=True)]
    # Each: claim, work, review; besides claims that were refused, a fix and its review.
    assert done == [3, 3, 1, 3 * 3 + len(refused) + 2]
    last = words(printed(result_view("swarm", result), 120))
    assert last[0] == "swarm has ended, the spec is met"
    assert last[1].startswith("0 pending, 0 current, 0 blocked, 3 complete; $0.0")
    for name, t in tallies.items():
        figures = f"{name} {t.runs} {t.cycles} {t.merges} {t.claims} {t.rejects} 0 0 {t.review_rounds} "
        assert any(line.startswith(figures) for line in last)
    kit.assert_clean()
