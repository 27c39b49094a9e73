"""A swarm and its tasks as the operator's commands meet them: they answer, and do nothing."""

from __future__ import annotations

from typing import Any

from temporalio import workflow

from workflows.swarm_contracts import BoardLine, BoardPage, Member, SwarmResult, SwarmStatus, Tally

COUNTS: dict[Any, int] = {"pending": 0, "current": 1, "blocked": 1, "complete": 250}
MEMBERS = [Member(name="worker-1.1", kind="worker-1", agent="codex", state="working", cycle="c-1", holds=["fix-login"])]
LINES = [
    BoardLine(id="fix-login", title="Fix the login", place="current", worker="worker-1.1", holder="c-1", since=1.0)
]
LINES += [BoardLine(id="docs", title="Write it up", place="blocked", why="gates red", tries=2)]
LINES += [BoardLine(id=f"done-{n}", title="Done", place="complete", sha="c" * 40) for n in range(250)]


@workflow.defn(name="SwarmWorkflow")
class StubSwarm:
    def __init__(self) -> None:
        self.told: list[Any] = []
        self.ends = False

    @workflow.run
    async def run(self, given: dict[str, Any]) -> SwarmResult:
        name = workflow.info().workflow_id
        for number, stage in enumerate(given.get("task", {}).get("cycles", [])):
            await workflow.start_child_workflow(
                "TaskWorkflow",
                stage,
                id=f"{name}-worker-1.1-{number}",
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
            )
        await workflow.wait_condition(lambda: self.ends)
        open_lines = [] if "all" in self.told else LINES[:2]
        counts = COUNTS if open_lines else {"complete": 252}
        tally = Tally(runs=3, cycles=2, merges=1, claims=2, cost_usd=0.5)
        members = [MEMBERS[0].model_copy(update={"state": "stopped", "why": "all is done", "tally": tally})]
        return SwarmResult(reason="all is done", counts=counts, members=members, open=open_lines, wall_seconds=5.0)

    @workflow.query
    def swarm(self) -> SwarmStatus:
        return SwarmStatus(
            swarm_id=workflow.info().workflow_id, repo="/src/app", target="refs/heads/main", stage="waiting for you",
            waiting_for="a word about docs", next_command="starter.py continue c-1", counts=COUNTS, members=MEMBERS,
        )  # fmt: skip

    @workflow.query
    def board(self, given: dict[str, Any]) -> BoardPage:
        lines = [line for line in LINES if given.get("place") in (None, line.place)]
        page = lines[given["offset"] :][:200]
        return BoardPage(counts=COUNTS, lines=page, more=len(lines) - given["offset"] - len(page))

    @workflow.update
    async def add(self, given: Any) -> str:
        self.told.append(given)
        return f"{len(given)} are on the board"

    @workflow.update
    async def requeue(self, given: Any = None) -> str:
        return f"requeued: {given}"

    @workflow.update
    async def pause(self, _: Any = None) -> str:
        return "begins nothing"

    @workflow.update
    async def add_workers(self, given: Any) -> str:
        return f"added: {given}"

    @workflow.update
    async def set_count(self, given: Any) -> str:
        return f"counted: {given}"

    @workflow.update
    async def stop(self, given: Any = None) -> str:
        self.told.append("all" if given == "now" else "")
        self.ends = True
        return f"stops {given or ''}".strip()


@workflow.defn(name="TaskWorkflow")
class StubTask:
    def __init__(self) -> None:
        self.ended = False

    @workflow.run
    async def run(self, stage: str) -> None:
        command = "starter.py continue it" if stage == "blocked" else ""
        workflow.upsert_memo({"glance": {"stage": stage, "next_command": command}})
        await workflow.wait_condition(lambda: self.ended)

    @workflow.update
    async def abandon(self, _: Any = None) -> str:
        self.ended = True
        return "ends; unmerged work is saved under a salvage ref"
