"""The daily digest: what it says, that it is sent once, and that its Schedule is what the configuration says."""

from __future__ import annotations

import uuid

import pytest
from temporalio.service import RPCError

from service.digest import Waiting, digest_id, digest_text, ensure_digest
from service.past import Past, PastTurn
from tests.kit import Kit, status_when
from tests.test_notify import Inbox, inbox
from workflows.contracts import Blocked, BlockedReason, Stage, TaskStatus
from workflows.digest import DigestInput

__all__ = ["inbox"]


@pytest.mark.long
async def test_what_landed_what_waits_and_what_it_cost(inbox: Inbox, kit: Kit) -> None:
    kit.configure(f'[[notify]]\nurl = "$INBOX"\nevents = ["digest"]\nrepositories = ["{kit.repo}"]\n')
    good = kit.agent(executor=[{"write": {"a.txt": "x\n"}, "usage": {"cost_usd": 0.25, "input_tokens": 900}}])
    stuck = kit.agent(executor=[{"say": "NEEDS_FOLLOWUP why?"}])
    inbox.answers = [500]
    async with kit.worker():
        assert (await kit.run(agent=good, title="Good")).outcome == "merged"
        waiting = await kit.start(kit.input(agent=stuck, title="Stuck"))
        await status_when(waiting, lambda now: now.blocked is not None)
        text = await kit.client.execute_workflow(
            "DigestWorkflow", DigestInput(host="here"), id=uuid.uuid4().hex, task_queue=kit.task_queue, result_type=str
        )
        await waiting.signal("abandon")
        await waiting.result()
    assert [message["message"] for message in inbox.got] == [text, text]  # the first one was refused
    assert text.startswith("1 landed; they cost $0.25, 900 tokens. 1 wait for you.")
    assert f"- repo: {waiting.id}: Stuck: needs follow-up\n    temporal workflow signal -w {waiting.id} " in text


def test_each_destination_hears_of_its_repositories() -> None:
    turn = PastTurn(cost_usd=1.5, tokens=100)
    ended = [
        Past(
            task_id=f"t{number}", run_id=str(number), repo=repo, title="T", outcome=outcome, turns=[turn], reason="why"
        )
        for number, (repo, outcome) in enumerate([("/a/x", "merged")] * 20 + [("/b/y", "failed")])
    ]
    status = TaskStatus(
        task_id="w",
        title="W",
        stage=Stage.BLOCKED,
        next_command="do",
        blocked=Blocked(reason=BlockedReason.STUCK, text=""),
    )
    waiting = [Waiting("/b/y", status)]
    everything = digest_text(ended, waiting, [])
    assert everything.splitlines()[0] == "20 landed, 1 failed; they cost $31.50, 2,100 tokens. 1 wait for you."
    assert "- and 5 more" in everything
    assert digest_text(ended, waiting, ["/b/y"]).splitlines() == [
        "1 failed; they cost $1.50, 100 tokens. 1 wait for you.",
        "", "Waiting for you", "- y: w: W: stuck", "    do",
        "", "Not landed", "- y: t20: T: failed, why",
    ]  # fmt: skip
    assert digest_text(ended, waiting, ["/c"]) == "no task has ended; they cost $0.00, 0 tokens. 0 wait for you."


async def test_its_schedule_is_as_the_configuration_says(kit: Kit) -> None:
    handle = kit.client.get_schedule_handle(digest_id(kit.task_queue, "here", kit.home.root))

    async def ensured(config: str) -> None:
        kit.configure(config)
        await ensure_digest(kit.client, kit.task_queue, "here", kit.home)

    await ensured("")
    await ensured('[notify_digest]\nat = "08:05"\ntimezone = "Europe/Berlin"\n')
    await handle.pause()
    await ensured('[notify_digest]\nat = "17:30"\n')
    schedule = (await handle.describe()).schedule
    [calendar] = schedule.spec.calendars
    assert (calendar.hour[0].start, calendar.minute[0].start, schedule.state.paused) == (17, 30, True)
    await ensured("")
    with pytest.raises(RPCError, match="not found"):
        await handle.describe()
