"""A branch without a task through the merge queue: by `LandWorkflow`, and by `starter.py` as its operators use it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from typer.testing import CliRunner

import starter
from activities.branches import BranchActivities
from activities.queue_contracts import LandRequest, SubmitBranchInput
from activities.site import Site
from tests.git.repos import commit, git
from tests.kit import Kit
from tests.queue_kit import Queue, ended, on_main
from workflows.contracts import Code, LandStatus


async def shown(landing: Any) -> LandStatus:
    found: LandStatus = await landing.query("status", result_type=LandStatus)
    return found


async def test_a_persons_branch_lands_with_its_author_and_stays(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("test -f a.txt")
    git(kit.repo, "config", "user.name", "Ann Other")
    head = queue.branch("feature/one", {"a.txt": "x\n"})
    git(kit.repo, "config", "user.name", "Una User")
    async with kit.worker():
        landing = await queue.send("feature/one", priority=3)
        [result] = await ended(landing)
        status = await shown(landing)
    assert (result.outcome, result.sha) == ("merged", git(kit.repo, "rev-parse", "main"))
    assert git(kit.repo, "rev-parse", "feature/one", "main^2").split() == [head, head]
    assert git(kit.repo, "log", "-1", "--format=%an|%s|%(trailers:key=Agent,valueonly)").strip() == (
        "Ann Other|Merge task 'work on feature/one'|Ann Other"
    )
    assert kit.trailers("Task-Id") == [landing.id]
    assert (status.result, status.queue, status.waiting_for) == (result, queue.id, "")
    assert kit.refs() == []
    kit.assert_clean()


async def test_what_is_asked_for_wins_over_the_repositorys_settings(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("false")
    queue.branch("one", {"a.txt": "x\n"})
    async with kit.worker():
        gates = [{"name": "own", "command": "test -f a.txt"}]
        [result] = await ended(await queue.send("one", strategy="squash", gates=gates, title="By hand"))
    assert result.outcome == "merged"
    assert git(kit.repo, "log", "-1", "--format=%s %p").split() == [
        "By",
        "hand",
        git(kit.repo, "rev-parse", "--short", "main^"),
    ]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"branch": "no-such"}, "branch: "),
    ({"branch": "main"}, "branch: main is the target itself"),
    ({"branch": "stranger"}, "branch: stranger has no history in common with main"),
    ({"target": "no-such"}, "target: "),
    ({"repo": "app"}, "repo: must be an absolute path"),
    ({"repo": "/nowhere"}, "repo: /nowhere does not exist"),
    ({"title": "one\ntwo"}, "title: must be one line"),
    ({"strategy": "octopus"}, "strategy: "),
    ({"priority": 5000}, "priority: "),
    ({"gates": [{"name": "t", "command": "no-such-tool"}]}, "gates.0.command: no-such-tool"),
    ({"gates": [{"name": "t", "command": "true"}] * 2}, "gates: two gates have the same name"),
    ({"branhc": "x"}, "branhc: unknown field"),
]


async def test_a_bad_field_is_named(kit: Kit) -> None:
    queue = Queue(kit)
    tree = git(kit.repo, "rev-parse", "main^{tree}")
    git(kit.repo, "branch", "one")
    git(kit.repo, "branch", "stranger", git(kit.repo, "commit-tree", "-m", "alone", tree))
    async with kit.worker():
        for change, told in BAD:
            with pytest.raises(WorkflowFailureError) as caught:
                await (await queue.send("one", **change)).result()
            text = str(getattr(caught.value.cause, "message", caught.value.cause))
            assert told in text
            assert "\n" not in text
    assert kit.refs() == []


async def test_what_the_policy_refuses_comes_back_with_a_line_for_each_finding(kit: Kit) -> None:
    queue = Queue(kit)
    commit(kit.repo, {"mergewright.toml": "[policy]\ndeny = ['vendor/']\napprove = ['binary']\n"})
    queue.branch("one", {"vendor/a": "x\n", "b.bin": "\0"})
    queue.branch("two", {"b.bin": "\0", ".husky/x": "x\n"})
    async with kit.worker():
        landing = await queue.send("one")
        [result] = await ended(landing)
        status = await shown(landing)
        waiting = await queue.send("two")
        seen = await queue.when(lambda now: bool(now.places) and now.places[0].state == "approval")
        await queue.handle.execute_update("allow", waiting.id)
        [allowed] = await ended(waiting)
    assert (result.outcome, result.code, allowed.outcome) == ("sent-back", Code.POLICY, "merged")
    assert result.reason.startswith("deny: vendor/a: must not change. Take these files out of the change ")
    assert (status.result, status.queue) == (result, "")
    assert "leave to change b.bin (binary), .husky/x (hook): `allow` it" in seen.places[0].why
    assert kit.refs() == []


async def test_a_branch_that_moves_while_it_waits_is_sent_back(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("true")
    queue.branch("one", {"a.txt": "x\n"})
    async with kit.worker():
        await queue.open("paused")
        landing = await queue.send("one")
        await queue.gathered("one")
        moved = queue.branch("one", {"b.txt": "x\n"})
        await queue.handle.execute_update("resume")
        [result] = await ended(landing)
        assert (result.outcome, result.code) == ("sent-back", Code.HEAD_MOVED)
        assert {"a.txt", "b.txt"}.isdisjoint(on_main(kit.repo))
        [again] = await ended(await queue.send("one"))
    assert again.outcome == "merged"
    assert git(kit.repo, "rev-parse", "main^2") == moved


async def test_who_asks_again_asks_for_the_branch_as_it_was(kit: Kit) -> None:
    queue = Queue(kit)
    head = queue.branch("one", {"a.txt": "x\n"})
    activities = BranchActivities(Site(kit.home, "here", kit.task_queue, kit.client))
    request = LandRequest(repo=str(kit.repo), branch="one")
    given = SubmitBranchInput(task_id="land-one", run_id="0123456789abcdef", request=request, date=1_700_000_000)
    sent = await activities.submit_branch(given)
    queue.branch("one", {"b.txt": "x\n"})
    commit(kit.repo, {"mergewright.toml": "[delivery]\nstrategy = 'squash'\n"})
    assert await activities.submit_branch(given.model_copy(update={"date": 1_800_000_000})) == sent
    assert kit.refs() == [f"refs/mergewright/source/{sent.op}"]
    assert git(kit.repo, "rev-parse", *kit.refs()) == head
    other = await activities.submit_branch(given.model_copy(update={"run_id": "fedcba9876543210"}))
    assert other.op != sent.op
    await queue.handle.terminate()


async def test_it_is_taken_back_by_signal_by_update_and_by_cancelling(kit: Kit) -> None:
    queue = Queue(kit)
    names = ("one", "two", "three")
    for name in names:
        queue.branch(name, {f"{name}.txt": "x\n"})
    async with kit.worker():
        await queue.open("paused")
        one, two, three = landings = [await queue.send(name) for name in names]
        await queue.gathered(*names)
        await one.signal("aband")
        await one.signal("abandon")
        assert "taken back" in await two.execute_update("abandon")
        await three.cancel()
        results = await ended(*landings)
        status = await shown(one)
        places = (await queue.status()).places
    assert ([result.outcome for result in results], places) == (["withdrawn"] * 3, [])
    assert "there is: abandon" in status.problems[0]
    assert kit.refs() == []
    assert "one.txt" not in on_main(kit.repo)


async def test_what_the_target_has_already_is_no_change(kit: Kit) -> None:
    queue = Queue(kit)
    git(kit.repo, "branch", "one")
    commit(kit.repo, {"a.txt": "x\n"})
    async with kit.worker():
        [result] = await ended(await queue.send("one"))
    assert (result.outcome, result.code) == ("no-changes", Code.NOOP)


# --- by starter.py ---------------------------------------------------------------------------------------


def environment(kit: Kit) -> dict[str, str]:
    return {"TEMPORAL_ADDRESS": kit.client.service_client.config.target_host}


async def do(queue: Queue, *args: str, code: int = 0) -> str:
    """What `starter.py` prints, with single spaces."""
    where = ("--repo", str(queue.kit.repo), "--task-queue", queue.kit.task_queue)
    done = await asyncio.to_thread(CliRunner().invoke, starter.app, [*args, *where], env=environment(queue.kit))
    assert done.exit_code == code, done.output
    return " ".join(done.output.split())


async def test_land_follows_and_ends_with_the_sha_or_the_evidence(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("true")
    for name in ("first", "second"):
        queue.branch(name, {"app.py": f"VALUE = '{name}'\n"})
    async with kit.worker():
        assert "no merge queue runs for main" in await do(queue, "queue")
        assert "no merge queue runs for main" in await do(queue, "queue", "pause", code=1)
        landed = await do(queue, "land", "first")
        assert f"merged as {git(kit.repo, 'rev-parse', 'main')}" in landed
        told = await do(queue, "land", "second", code=1)
        assert "has no branch 'none'" in await do(queue, "land", "none", code=1)
        seen = await do(queue, "queue", str(kit.repo))
        [name] = kit.trailers("Task-Id")
        followed = await asyncio.to_thread(CliRunner().invoke, starter.app, ["follow", name], env=environment(kit))
    assert "merged as" in followed.output
    assert landed.startswith(name)
    assert "CONFLICT: it does not merge with the target" in told
    assert f"landed meanwhile, and touch these files: {name}" in told
    assert "What to do: merge the target into the branch" in told
    assert "nobody waits" in seen
    assert f"{name} LANDED" in seen


async def test_an_operator_steers_the_queue(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("true", protected=["ci/"])
    queue.branch("one", {"ci/run": "x\n"})
    queue.branch("two", {"b.txt": "x\n"})
    async with kit.worker():
        await queue.open("paused")
        one, two = await queue.send("one"), await queue.send("two")
        await queue.gathered("one", "two")
        assert "priority 7" in await do(queue, "queue", "priority", two.id, "7")
        waiting = await do(queue, "queue")
        assert "paused" in waiting
        assert f"{two.id} work on two waiting 7" in waiting
        assert f"{one.id} work on one approval 0" in waiting
        listed = json.loads(await do(queue, "queue", "--json"))
        assert [place["task_id"] for place in listed["places"]] == [two.id, one.id]
        refused = await do(queue, "queue", "cancel", "nobody", code=1)
        assert refused.startswith("starter: nobody is not in the queue")
        assert "frozen" in await do(queue, "queue", "freeze", "CI is red")
        assert "frozen: CI is red" in await do(queue, "queue")
        assert "ci/run" in await do(queue, "queue", "allow", one.id)
        assert "0 held" in await do(queue, "queue", "retry-checkout")
        assert "taken out" in await do(queue, "queue", "cancel", two.id)
        assert "draining" in await do(queue, "queue", "drain")
        results = await ended(one, two)
        assert "goes on" in await do(queue, "queue", "resume")
        assert f"{two.id} WITHDRAWN taken out by an operator" in await do(queue, "queue")
    assert [result.outcome for result in results] == ["merged", "withdrawn"]
    assert "ci/run" in on_main(kit.repo)
