"""Whole tasks, from their input to main, with a real server, real git and scripted agents."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowUpdateFailedError

from tests.git.repos import commit, git
from tests.kit import PATIENCE, Kit, status_when
from tests.queue_kit import Queue
from workflows.contracts import Stage, TaskResult, TaskStatus

WRITE = {"write": {"new.txt": "work\n"}}
APPROVE = {"say": "Good.\nVERDICT: APPROVED"}
CHANGES = {"say": "Not yet: say more.\nVERDICT: NEEDS_CHANGES"}


async def failure(kit: Kit, **fields: Any) -> str:
    with pytest.raises(WorkflowFailureError) as caught:
        await kit.run(**fields)
    return str(getattr(caught.value.cause, "message", caught.value.cause))


async def test_a_plain_task_lands_with_its_trailers(kit: Kit) -> None:
    async with kit.worker():
        result = await kit.run(
            agent=kit.agent(executor=[WRITE]), gates=[{"name": "test", "command": "test -f new.txt"}]
        )
    assert result.outcome == "merged"
    assert result.sha == git(kit.repo, "rev-parse", "main")
    assert kit.show("new.txt") == "work"
    assert (result.turns, result.review_rounds, result.salvage_ref) == (1, 0, None)
    assert len(kit.trailers("Task-Id")) == len(kit.trailers("Merge-Op")) == 1
    assert kit.trailers("Agent") == ["command"]
    assert result.seconds.total >= result.seconds.agent > 0
    assert kit.refs() == []
    kit.assert_clean()
    assert git(kit.repo, "status", "--porcelain") == ""  # main is checked out, and was brought along


async def test_a_reviewer_asks_for_changes_and_gets_them(kit: Kit) -> None:
    agent = kit.agent(executor=[WRITE], reviewer=[CHANGES, APPROVE], fixer=[{"write": {"new.txt": "more\n"}}])
    async with kit.worker():
        result = await kit.run(agent=agent, reviewers=[agent])
    assert (result.outcome, result.review_rounds, result.turns) == ("merged", 1, 4)
    assert kit.show("new.txt") == "more"
    assert kit.trailers("Reviewed-by") == ["command"]
    prompts = sorted((kit.home.root / "runs").glob("*/turns/*/prompt.md"))
    assert "Not yet: say more." in prompts[2].read_text()  # the fixer gets what the reviewer said
    assert "+work" in prompts[1].read_text()  # the reviewer gets the diff
    assert result.seconds.review > 0
    assert result.seconds.fix > 0


async def test_a_red_gate_goes_back_to_the_agent(kit: Kit) -> None:
    agent = kit.agent(executor=[{"write": {"new.txt": "bad\n"}}], fixer=[{"write": {"new.txt": "good\n"}}])
    gate = {"name": "check", "command": "cat new.txt; grep -q good new.txt"}
    async with kit.worker():
        result = await kit.run(agent=agent, gates=[gate])
    assert (result.outcome, result.turns) == ("merged", 2)
    assert kit.show("new.txt") == "good"
    fixer = next((kit.home.root / "runs").glob("*/turns/002-fixer/prompt.md"))
    assert "bad" in fixer.read_text()  # the gate's output


async def test_what_the_policy_finds_goes_back_to_the_agent_as_a_table(kit: Kit) -> None:
    """A secret, which is in a commit by the time that it is found: it must be out of the history too."""
    secret = "ghp_" + "0aB1" * 9
    commit(kit.repo, {"mergewright.toml": "[policy]\nmax_lines = 50\n"})
    rewrite = "git reset -q --soft $(git merge-base HEAD origin/main) && sed -i s/ghp.*/none/ new.txt"
    agent = kit.agent(
        executor=[{"write": {"new.txt": f"{secret}\n"}, "commit": "one"}],
        fixer=[{"write": {"new.txt": "none\n"}, "commit": "two"}, {"shell": rewrite, "commit": "all of it"}],
    )
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent))
        seen = await status_when(handle, lambda now: bool(now.findings))
        result = await asyncio.wait_for(handle.result(), PATIENCE)
        status = await handle.query("status", result_type=TaskStatus)
    assert (result.outcome, result.turns) == ("merged", 3)
    assert (status.gate_failures, status.findings) == (2, [])
    assert [(one.rule, one.path, one.line) for one in seen.findings] == [("secret", "new.txt", 1)]
    assert git(kit.repo, "log", "--format=%s", "main^1..main^2") == "all of it"
    first, second = (
        next((kit.home.root / "runs").glob(f"*/turns/{turn}-fixer/prompt.md")).read_text() for turn in ("002", "003")
    )
    begun = next((kit.home.root / "runs").glob("*/turns/001-executor/prompt.md")).read_text()
    assert "## What may land\n\n`mergewright.toml` on main says so:\n\n- At most 50 lines may be" in begun
    assert "| secret | new.txt:1 | GitHub Token, fingerprint " in first
    assert "git merge-base HEAD origin/main" in first
    assert "| secret | new.txt:1 | GitHub Token in commit " in second
    assert "the same kind of failure as the last time" in second
    assert secret not in first + second + seen.model_dump_json()
    kit.assert_clean()


async def test_what_the_policy_finds_while_work_waits_goes_back_to_the_agent(kit: Kit) -> None:
    agent = kit.agent(
        executor=[{"write": {"vendor/a": "x\n", "new.txt": "work\n"}}], fixer=[{"shell": "git rm -q vendor/a"}]
    )
    queue = Queue(kit)
    async with kit.worker():
        await queue.open("paused")
        handle = await kit.start(kit.input(agent=agent))
        await queue.when(lambda now: bool(now.places))
        commit(kit.repo, {"mergewright.toml": "[policy]\ndeny = ['vendor/']\n"})
        await queue.handle.execute_update("resume")
        result = await asyncio.wait_for(handle.result(), PATIENCE)
        status = await handle.query("status", result_type=TaskStatus)
    assert (result.outcome, result.turns, status.merge_attempts) == ("merged", 2, 1)
    prompt = next((kit.home.root / "runs").glob("*/turns/002-fixer/prompt.md")).read_text()
    assert "| deny | vendor/a | must not change |" in prompt
    assert "vendor" not in git(kit.repo, "ls-tree", "-r", "--name-only", "main")
    assert kit.refs() == []


async def test_what_the_policy_finds_when_work_is_handed_in_goes_back_to_the_agent(kit: Kit) -> None:
    agent = kit.agent(
        executor=[{"write": {"vendor/a": "x\n", "new.txt": "work\n"}}], fixer=[{"shell": "git rm -q vendor/a"}]
    )
    running, stricter = kit.folder / "running", kit.folder / "stricter"
    gate = {"name": "test", "command": f"touch {running}; until test -e {stricter}; do sleep 0.05; done"}
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, gates=[gate]))
        first = await status_when(handle, lambda now: now.stage is Stage.GATES and running.exists())
        commit(kit.repo, {"mergewright.toml": "[policy]\ndeny = ['vendor/']\n"})
        stricter.touch()
        result = await asyncio.wait_for(handle.result(), PATIENCE)
        status = await handle.query("status", result_type=TaskStatus)
    assert first.findings == []
    assert (result.outcome, result.turns, status.merge_attempts, status.gate_failures) == ("merged", 2, 1, 0)
    prompt = next((kit.home.root / "runs").glob("*/turns/002-fixer/prompt.md")).read_text()
    assert "| deny | vendor/a | must not change |" in prompt
    assert kit.refs() == []


async def test_two_that_conflict_are_resolved_and_both_land(kit: Kit) -> None:
    def agent(text: str) -> dict[str, Any]:
        return kit.agent(executor=[{"sleep": 1, "append": {"README.md": text}}], resolver=[{"resolve": True}])

    async with kit.worker():
        both = await asyncio.gather(kit.run(agent=agent("one\n")), kit.run(agent=agent("two\n")))
    assert [result.outcome for result in both] == ["merged", "merged"]
    assert sorted(kit.show("README.md").splitlines()[1:]) == ["one", "two"]
    assert len(set(kit.trailers("Merge-Op"))) == 2
    assert max(result.seconds.resolve for result in both) > 0
    assert kit.refs() == []
    kit.assert_clean()


async def test_a_rate_limit_is_waited_out_and_costs_nothing(kit: Kit) -> None:
    agent = kit.agent(executor=[{"fail": 75, "stderr": "retry-after: 1"}, WRITE])
    async with kit.worker():
        result = await kit.run(agent=agent)
    assert (result.outcome, result.turns) == ("merged", 1)
    assert result.seconds.waiting >= 1


async def test_a_plan_is_sent_back_approved_and_carried_out(kit: Kit) -> None:
    agent = kit.agent(
        planner=[{"say": "Plan A", "write": {"sneaky.txt": "code before approval"}}, {"say": "Plan B"}],
        executor=[WRITE],
    )
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, interactive=True))
        status = await status_when(handle, lambda now: now.stage is Stage.APPROVAL)
        assert status.plan == "Plan A"
        assert "approve_plan" in status.next_command
        await handle.signal("reject_plan", "smaller steps")
        await status_when(handle, lambda now: now.plan == "Plan B" and now.stage is Stage.APPROVAL)
        with pytest.raises(Exception, match="Workflow update failed") as refused:
            await handle.execute_update("approve_plan", "0000")
        assert "the plan has changed" in str(refused.value.__cause__)
        assert "approved" in await handle.execute_update("approve_plan")
        result = await handle.result()
    assert result.outcome == "merged"
    assert "sneaky.txt" not in git(kit.repo, "ls-tree", "--name-only", "main")
    prompts = sorted((kit.home.root / "runs").glob("*/turns/*/prompt.md"))
    assert "smaller steps" in prompts[1].read_text()


async def test_a_plan_rejected_without_feedback_ends_the_task(kit: Kit) -> None:
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(planner=[{"say": "Plan"}]), interactive=True))
        await status_when(handle, lambda now: now.stage is Stage.APPROVAL)
        await handle.signal("reject_plan")
        assert (await handle.result()).outcome == "rejected"
    kit.assert_clean()


async def test_done_without_a_change_is_no_success(kit: Kit) -> None:
    async with kit.worker():
        result = await kit.run(agent=kit.agent(executor=[{}]))
    assert (result.outcome, result.sha) == ("no-changes", None)
    kit.assert_clean()


async def test_silence_is_resumed_nudged_and_then_stuck(kit: Kit) -> None:
    agent = kit.agent(executor=[{"say": "thinking"}] * 3 + [{**WRITE, "say": "COMPLETE_AND_READY_FOR_MERGE"}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent, limits={"max_working_resumes": 1}))
        status = await status_when(handle, lambda now: now.blocked is not None)
        assert status.blocked is not None
        assert status.blocked.reason == "stuck"
        assert "continue_task" in status.next_command
        await handle.signal("continue_task", "just write it")
        result = await handle.result()
    assert (result.outcome, result.turns) == ("merged", 4)
    prompts = sorted((kit.home.root / "runs").glob("*/turns/*/prompt.md"))
    assert "just write it" in prompts[3].read_text()
    sessions = {path.read_text() for path in (kit.home.root / "runs").glob("*/turns/*/session")}
    assert len(sessions) == 1


async def test_a_blocked_task_may_fail_instead_and_its_work_is_saved(kit: Kit) -> None:
    agent = kit.agent(executor=[{**WRITE, "say": "NEEDS_FOLLOWUP tests are missing"}])
    async with kit.worker():
        text = await failure(kit, agent=agent, on_blocked="fail")
    assert "tests are missing" in text
    [ref] = kit.refs("refs/mergewright/salvage")
    assert ref in text
    assert kit.show("new.txt", ref) == "work"
    kit.assert_clean()


@pytest.mark.parametrize("ending", ["abandon", pytest.param("cancel", marks=pytest.mark.long), "terminate"])
async def test_whatever_ends_a_task_its_work_is_saved(kit: Kit, ending: str) -> None:
    agent = kit.agent(executor=[{**WRITE, "shell": "echo draft > draft.txt; sleep 60"}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent))
        await status_when(handle, lambda now: now.worktree is not None)
        for _ in range(600):
            if list((kit.home.root / "worktrees").glob("*/draft.txt")):
                break
            await asyncio.sleep(0.1)
        if ending == "abandon":
            await handle.signal("abandon")
        elif ending == "cancel":
            await handle.cancel()
        else:
            await handle.terminate()
        if ending == "terminate":
            for _ in range(900):
                if not kit.worktrees():
                    break
                await asyncio.sleep(0.1)
        else:
            result: TaskResult = await handle.result()
            assert result.outcome == {"abandon": "abandoned", "cancel": "cancelled"}[ending]
            assert [result.salvage_ref] == kit.refs("refs/mergewright/salvage")
    [ref] = kit.refs("refs/mergewright/salvage")
    assert kit.show("draft.txt", ref) == "draft"
    assert kit.show("new.txt", ref) == "work"
    kit.assert_clean()


@pytest.mark.parametrize("strategy", [pytest.param("merge", marks=pytest.mark.long), "squash", "rebase", "ff-only"])
async def test_every_strategy_lands_with_trailers(kit: Kit, strategy: str) -> None:
    def agent(name: str) -> dict[str, Any]:
        first = {"write": {f"{name}1": "x\n"}, "commit": f"{name} one", "say": "more to come"}
        return kit.agent(executor=[first, {"write": {f"{name}2": "y\n"}}])

    async with kit.worker():
        both = await asyncio.gather(
            *(kit.run(agent=agent(name), delivery={"strategy": strategy}) for name in ("left", "right"))
        )
    assert [result.outcome for result in both] == ["merged", "merged"]
    assert {"left1", "left2", "right1", "right2"} <= set(git(kit.repo, "ls-tree", "--name-only", "main").splitlines())
    count = int(git(kit.repo, "rev-list", "--count", "--first-parent", "main")) - 1
    assert count >= 2
    assert len(kit.trailers("Merge-Op")) == len(kit.trailers("Task-Id")) == count
    assert len(set(kit.trailers("Merge-Op"))) == 2
    kit.assert_clean()


async def test_a_reviewer_without_a_verdict_falls_back_to_the_next(kit: Kit) -> None:
    vague = kit.agent(reviewer=[{"say": "APPROVED, I would say"}])
    clear = kit.agent(reviewer=[{**APPROVE, "write": {"by-reviewer.txt": "must not land\n"}}])
    async with kit.worker():
        result = await kit.run(agent=kit.agent(executor=[WRITE]), reviewers=[vague, clear])
    assert (result.outcome, result.turns) == ("merged", 3)
    assert "by-reviewer.txt" not in git(kit.repo, "ls-tree", "--name-only", "main")


async def test_reviewers_that_give_no_verdict_block_the_task(kit: Kit) -> None:
    vague = kit.agent(reviewer=[{"say": "hm"}, APPROVE])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[WRITE]), reviewers=[vague]))
        status = await status_when(handle, lambda now: now.blocked is not None)
        assert status.blocked is not None
        assert status.blocked.reason == "no reviewer gave a verdict"
        await handle.signal("continue_task")
        assert (await handle.result()).outcome == "merged"


ONCE_LONG = {**WRITE, "shell": "test -e seen.ignored || { touch seen.ignored && sleep 60; }"}
"""Takes a minute, but for the second time it is done."""


async def test_a_budget_ends_the_running_turn_and_continue_grants_it_again(kit: Kit) -> None:
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[ONCE_LONG]), limits={"max_agent_minutes": 0.05}))
        status = await status_when(handle, lambda now: now.blocked is not None)
        assert status.blocked is not None
        assert status.blocked.reason == "budget used up"
        assert status.warnings == [status.blocked.text]
        [turn] = await handle.query("timeline")
        assert turn["end"] == "budget"
        assert turn["seconds"] < 30  # it was ended, and did not run to its end
        await handle.signal("continue_task")
        result = await handle.result()
    assert (result.outcome, result.turns) == ("merged", 2)


async def test_a_raised_budget_goes_on_by_itself(kit: Kit) -> None:
    limits = {"max_agent_minutes": 0.05, "max_working_resumes": 0}
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[ONCE_LONG]), limits=limits))
        await status_when(handle, lambda now: now.blocked is not None)
        for wrong in ({"max_agent_minutes": 0.01}, {"max_tokens": 5}, {"max_minutes": 5}, "much"):
            with pytest.raises(WorkflowUpdateFailedError) as refused:
                await handle.execute_update("raise_budget", wrong)
            assert "max_" in str(refused.value.cause)
        assert "same session" in await handle.execute_update("raise_budget", {"max_agent_minutes": 5})
        assert (await handle.result()).outcome == "merged"


async def test_pause_stops_before_the_next_turn_and_resume_goes_on(kit: Kit) -> None:
    agent = kit.agent(executor=[{"sleep": 1, "say": "thinking"}, WRITE])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent))
        await status_when(handle, lambda now: now.stage is Stage.WORK)
        assert "pauses" in await handle.execute_update("pause")
        status = await status_when(handle, lambda now: now.stage is Stage.PAUSED)
        assert status.turns == 1
        assert "resume" in status.next_command
        await handle.execute_update("resume")
        assert (await handle.result()).outcome == "merged"


async def test_what_lands_meanwhile_is_told_at_the_next_turn(kit: Kit) -> None:
    slow = kit.agent(executor=[{"sleep": 4, "say": "thinking"}, WRITE])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=slow))
        await status_when(handle, lambda now: now.worktree is not None)
        other = kit.agent(executor=[{"write": {"other.txt": "x\n"}}])
        assert (await kit.run(agent=other, title="Another thing")).outcome == "merged"
        await handle.result()
    prompt = next((kit.home.root / "runs").glob(f"{handle.id}*/turns/002-executor/prompt.md")).read_text()
    assert "New on main since your last turn" in prompt
    assert "Another thing" in prompt


async def test_work_that_is_a_task_of_old_is_saved_before_the_id_is_used_again(kit: Kit) -> None:
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[{"say": "NEEDS_FOLLOWUP x", **WRITE}])), "again")
        await status_when(handle, lambda now: now.blocked is not None or now.turns > 1)
    await handle.terminate()
    async with kit.worker():
        again = await kit.start(kit.input(agent=kit.agent(executor=[{"write": {"second.txt": "x\n"}}])), "again")
        assert (await again.result()).outcome == "merged"
    [ref] = kit.refs("refs/mergewright/salvage")
    assert kit.show("new.txt", ref) == "work"
    kit.assert_clean()


async def test_an_operator_goes_back_to_an_earlier_turn(kit: Kit) -> None:
    more = {"say": "NEEDS_FOLLOWUP x"}
    steps = [
        {"write": {"a.txt": "one\n"}, **more},
        {"write": {"a.txt": "two\n", "b.txt": "x\n"}, **more},
        {"write": {"c.txt": "x\n"}},
    ]
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=steps)))
        status = await status_when(handle, lambda now: now.blocked is not None)
        assert status.turns == 2
        await handle.signal("rewind", 7)
        status = await status_when(handle, lambda now: bool(now.problems))
        assert "nothing is kept of turn 7; there is of: 1, 2" in status.problems[0]
        assert "the next turn begins" in await handle.execute_update("rewind", 1)
        await handle.signal("continue_task")
        assert (await handle.result()).outcome == "merged"
    assert kit.show("a.txt") == "one"
    assert set(git(kit.repo, "ls-tree", "--name-only", "main").split()) >= {"a.txt", "c.txt"}
    assert "b.txt" not in git(kit.repo, "ls-tree", "--name-only", "main").split()
    prompt = next((kit.home.root / "runs").glob(f"{handle.id}*/turns/003-executor/prompt.md")).read_text()
    assert "put your worktree back to how it was after turn 1" in prompt
    assert kit.refs() == []
    kit.assert_clean()


async def test_a_rewind_to_what_is_not_there_any_more_is_told_once_and_the_task_waits(kit: Kit) -> None:
    steps = [{"write": {"a.txt": f"{number}\n"}, "say": "NEEDS_FOLLOWUP x"} for number in (1, 2)]
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[*steps, {"write": {"c.txt": "x\n"}}])))
        await status_when(handle, lambda now: now.blocked is not None)
        [ref] = [ref for ref in kit.refs("refs/mergewright/turn") if ref.endswith("/1")]
        git(kit.repo, "update-ref", "-d", ref)
        await handle.signal("rewind", 1)
        await handle.signal("continue_task", "go on")
        status = await status_when(handle, lambda now: bool(now.problems))
        assert "nothing is kept of turn 1; there is of: 2" in status.problems[0]
        assert (status.paused, status.blocked, status.turns) == (True, None, 2)
        assert "resume" in status.next_command
        await handle.signal("rewind", 2)
        await handle.signal("resume")
        assert (await handle.result()).outcome == "merged"
    assert len(status.problems) == 1
    assert (kit.show("a.txt"), kit.show("c.txt")) == ("2", "x")
    [prompt] = (kit.home.root / "runs").glob(f"{handle.id}*/turns/003-executor/prompt.md")
    assert "after turn 2" in prompt.read_text()
    assert "after turn 1" not in prompt.read_text()
    kit.assert_clean()


async def test_settings_that_are_broken_meanwhile_block_the_task_until_they_are_mended(kit: Kit) -> None:
    steps = [{"say": "NEEDS_FOLLOWUP x"}, WRITE]
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=steps), limits={"max_needs_followups": 0}))
        await status_when(handle, lambda now: now.blocked is not None)
        commit(kit.repo, {"mergewright.toml": "[policy]\ncolour = 1\n"})
        await handle.signal("continue_task")
        status = await status_when(handle, lambda now: now.blocked is not None and now.turns == 2)
        assert status.blocked is not None
        assert "mergewright.toml: policy.colour" in status.blocked.text
        commit(kit.repo, {"mergewright.toml": ""})
        await handle.signal("continue_task")
        assert (await handle.result()).outcome == "merged"
    kit.assert_clean()


async def test_our_own_trouble_blocks_the_task_and_continue_tries_again(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data folder that cannot be written: no fault of the agent's, and nothing that a retry would not mend."""
    monkeypatch.setattr("workflows.turn_taking.MAX_ATTEMPTS", 3)
    agent = kit.agent(executor=[{**WRITE, "sleep": 1}])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=agent))
        status = await status_when(handle, lambda now: now.worktree is not None)
        run = next((kit.home.root / "runs").glob(f"{handle.id}*"))
        while not (run / "turns").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        (run / "turns").rename(run / "away")
        (run / "turns").write_text("a file where a folder should be")
        status = await status_when(handle, lambda now: now.blocked is not None)
        assert status.blocked is not None
        assert status.blocked.reason == "our own trouble"
        (run / "turns").unlink()
        (run / "away").rename(run / "turns")
        await handle.signal("continue_task")
        assert (await handle.result()).outcome == "merged"
