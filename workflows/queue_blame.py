"""How a merge queue finds out who is to blame, and what it says to those that it sends back."""

from __future__ import annotations

from typing import Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.contracts import GateResult
    from activities.merging import MergeActivities
    from activities.queue_contracts import Built, EjectInput, Evidence, QueueEntry
    from workflows import options
    from workflows.contracts import Code, MergeAnswer, QueueState
    from workflows.policy import gate_faults
    from workflows.policy import queue as policy
    from workflows.policy import speculation as chains
    from workflows.queue_testing import TARGET, QueueTesting


class QueueBlame(QueueTesting):
    def __init__(self, state: QueueState) -> None:
        super().__init__(state)
        self.look_at = 0.0
        self.look_pause = policy.HOLD_SECONDS

    async def _blame(self, op: str) -> bool:
        """The head is red on the target by itself. Once more, to be sure; and is the target itself green?

        True: there is something new to look at; False: what is to be known is being tested.
        """
        entry, sight = self._entry(op), self.sight
        red = [gate for gate in sight.red[op,].results if not gate.passed]
        if not red or gate_faults.broken(red):
            return await self._eject(entry, "gate_infra", Code.GATE_INFRA)
        if sight.reds.get(op, 0) <= policy.CONFIRMING_RUNS:
            sight.known.pop((op,))
            return True
        if self.s.green_on == sight.base and set(entry.gates) <= set(self.s.green):
            others = bool(entry.checked_on) and entry.checked_on != sight.base
            return await self._eject(entry, "gate_red", Code.SEMANTIC_CONFLICT if others else Code.GATE_RED)
        if self.s.mode == "frozen":
            # It came to mend the target, and did not: it waits like the others.
            self.change(entry, failed_on=sight.base)
            return True
        if sight.target_gates != entry.gates:
            sight.reds.pop("", None)  # that was for somebody else's gates
        if sight.reds.get("", 0) > policy.CONFIRMING_RUNS:
            red = [gate for gate in sight.red[TARGET].results if not gate.passed]
            if not red or gate_faults.broken(red) or not {*sight.red_gates} & {*sight.gates, *self.s.green}:
                # They are its own gates, and were never green: that says nothing of the target.
                return await self._eject(entry, "gate_infra", Code.GATE_INFRA)
            self._freeze()
            return True
        if TARGET not in self.tests and len(self.tests) + len(self.ending) < sight.slots:
            self._start(TARGET, sight.base, "", entry.gates, sight.reds.get("", 0))
        return False

    def _freeze(self) -> None:
        red = [gate.name for gate in self.sight.red[TARGET].results if not gate.passed]
        reason = f"{Code.MAIN_RED}: {', '.join(red) or 'gates'} red on {self.sight.base[:12]} itself"
        if self.s.green_on:
            reason += f"; last green: {self.s.green_on[:12]}"
        last = next((answer for answer in reversed(self.s.recent) if answer.sha == self.sight.base), None)
        reason += f"; it came with {last.task_id}" if last else "; it was pushed from outside the queue"
        what = last.task_id if last else self.sight.base[:12]
        reason += f'. Mend it, or let a task revert it: starter.py start "Revert {what}" --repo {self.s.repo}'
        self._stop(list(self.tests))
        self.look_pause = policy.HOLD_SECONDS
        self.look_at = workflow.time() + self.look_pause
        drained = self.s.mode_since if self.s.mode == "draining" else None
        since, red_on = self.s.arrivals, self.sight.base
        self.put(mode="frozen", mode_reason=reason, mode_since=since, frozen_on=red_on, drained=drained)

    async def _eject(self, entry: QueueEntry, kind: Literal["gate_red", "gate_infra"], code: Code) -> bool:
        tested = self.sight.red[entry.op,]
        red = [gate for gate in tested.results if not gate.passed]
        if code is not Code.GATE_INFRA:
            self.put(odds=self.s.odds.with_ejected())
        evidence = Evidence(
            base=self.sight.base,
            tip=self.sight.steps[entry.op,].sha,
            gates=red,
            runs=self.sight.reds[entry.op],
            fails_alone=None if code is Code.GATE_INFRA else True,
        )
        reason = "red: " + ", ".join(gate.name for gate in red) if red else "the gates could not be run"
        answer = MergeAnswer(
            op=entry.op, kind=kind, code=code, base=self.sight.base, gates=_short(red), reason=reason, evidence=evidence
        )
        await self._send_back(entry, answer)
        return True

    async def _send_back(self, entry: QueueEntry, answer: MergeAnswer) -> None:
        """Out of the queue, with what explains it."""
        self._forget(entry.op)
        await self.answer(entry, await self._let_go(entry, answer))

    async def _ask(self, entry: QueueEntry, built: Built) -> None:
        """What would land has more that only a person lets through than they have been told of: it waits for them."""
        self._forget(entry.op)
        self.change(entry, allowed=False, protected=policy.few(built.leave, policy.MOST_PATHS), asked=built.asked)
        asking = self._entry(entry.op)
        await self.note(asking, policy.why_not(asking, self.s, workflow.time()))

    def _forget(self, op: str) -> None:
        """Nothing is known any more of the chains with it."""
        self._stop([chain for chain in self.tests if op in chain])
        sight = self.sight
        sight.known = chains.without(sight.known, op)
        sight.steps = chains.without(sight.steps, op)
        sight.red = chains.without(sight.red, op)
        sight.reds.pop(op, None)
        sight.doubted.discard(op)

    async def _let_go(self, entry: QueueEntry, answer: MergeAnswer) -> MergeAnswer:
        """Nothing is kept for it in the repository any more. The answer comes back with what explains it."""
        given = EjectInput(
            repo=self.s.repo,
            target=self.s.target,
            op=entry.op,
            base=answer.base or self.sight.base or self.s.target,
            files=answer.evidence.files,
            since=entry.checked_on,
            keep=self._tips(),
        )
        try:
            found = await workflow.execute_activity_method(
                MergeActivities.eject,
                given,
                summary=f"send {entry.task_id} back: {answer.code or answer.kind}",
                **options.queue_options(workflow.info().task_queue, self.s.host),
            )
        except ActivityError as error:
            workflow.logger.warning("%s goes back without all evidence: %s", entry.task_id, options.retried(error))
            return answer
        explained = answer.evidence.model_copy(update={"landed_by": found.landed_by})
        return answer.model_copy(update={"evidence": explained})


def unbuildable(op: str, built: Built) -> MergeAnswer:
    match built.kind:
        case "landed":
            return MergeAnswer(op=op, kind="landed", sha=built.tip, base=built.base)
        case "noop":
            reason = "the target has all of it already"
            return MergeAnswer(op=op, kind="noop", code=Code.NOOP, base=built.base, reason=reason)
        case "stale":
            return MergeAnswer(op=op, kind="stale", code=Code.CAS_LOST, base=built.base, reason="the target has moved")
        case "lost":
            reason = "what was kept of it is gone: send it in again"
            return MergeAnswer(op=op, kind="failed", base=built.base, reason=reason)
        case "policy":
            evidence = Evidence(base=built.base, files=built.paths, messages=built.findings)
            red = [built.preflight] if built.preflight else []
            return MergeAnswer(
                op=op,
                kind="policy",
                code=Code.POLICY,
                base=built.base,
                gates=red,
                reason=built.reason,
                evidence=evidence,
            )
    files = built.conflict.files if built.conflict else []
    messages = built.conflict.messages if built.conflict else []
    stages = built.conflict.stages if built.conflict else []
    return MergeAnswer(
        op=op,
        kind="conflict",
        code=Code.CONFLICT,
        base=built.base,
        conflict=built.conflict,
        evidence=Evidence(base=built.base, files=files, stages=stages, messages=messages),
        reason="conflict in " + ", ".join(files[:10]),
    )


def _short(gates: list[GateResult]) -> list[GateResult]:
    """Without the tails: the task reads the logs."""
    return [gate.model_copy(update={"tail": ""}) for gate in gates]
