"""The singleton that puts work on one branch of one repository.

Candidates come by signal-with-start from the `submit` activity, and are answered by signal. Chains of them are built
on the target as it is now, and tested, several at once; a green chain lands with one move of the branch, to the very
commit that was tested. What is tested together and who is to blame is decided in `policy.speculation`, who may go in
`policy.queue`. Each answer is remembered, so a task that asks twice, or a crash in between, never lands anything
twice. All that is known of chains is only on the present target (`Sight`), and can be found out again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.contracts import (
        BuildInput,
        BuildResult,
        Built,
        ChainToBuild,
        EjectInput,
        Evidence,
        FollowInput,
        GateResult,
        LandingInput,
        LandingResult,
        LandInput,
        QueueEntry,
        Tested,
        TestInput,
    )
    from activities.gates import GateActivities
    from activities.merging import MergeActivities
    from activities.settings import GateSpec
    from workflows import options
    from workflows.contracts import Code, MergeAnswer, QueueState
    from workflows.policy import gate_faults
    from workflows.policy import queue as policy
    from workflows.policy import speculation as chains
    from workflows.policy.speculation import Chain, View
    from workflows.queue_desk import QueueDesk, Sight, Test

IDLE = timedelta(minutes=30)
"""A queue with nothing to do ends; the next candidate starts it again, with the code of then."""
_TARGET: Chain = ()
"""The chain of nobody: the target itself."""


@workflow.defn
class MergeQueueWorkflow(QueueDesk):
    @workflow.init
    def __init__(self, state: QueueState) -> None:
        super().__init__(state)
        self.follow_at = 0.0
        self.look_at = 0.0
        self.follow_pause = self.trouble_pause = self.look_pause = policy.HOLD_SECONDS

    @workflow.run
    async def run(self, state: QueueState) -> None:  # noqa: ARG002 (it has been taken in `__init__`)
        while True:
            self.woken = False
            while await self._step():
                pass
            self.show()
            if self._is_long and not self.tests and not self.ending:
                await workflow.wait_condition(workflow.all_handlers_finished)
                if not self.withdrawn and not self.leftover:
                    workflow.continue_as_new(self.carried())
            elif not await self._something_to_do():
                return

    @property
    def _is_long(self) -> bool:
        """Nothing new is begun then, so that what runs can be waited for."""
        return workflow.info().is_continue_as_new_suggested()

    async def _something_to_do(self) -> bool:
        """Wait for a candidate, a result, an operator or a held one's time; False when the queue was idle for long."""
        now = workflow.time()
        times = [policy.wake_at(self.entries.values(), now), self.follow_at if self.s.behind else None]
        times.append(self.try_at if self.s.trouble else None)
        times.append(self.look_at if self.s.frozen_on else None)
        # What is due and was not done now has to wait for something else: a queue that is paused, say.
        wake = min((time for time in times if time is not None and time > now), default=None)
        idle = not self.entries and self.s.mode == "open"
        patience = timedelta(seconds=max(wake - now, 0.01)) if wake is not None else IDLE if idle else None
        try:
            await workflow.wait_condition(
                lambda: self.woken or any(test.handle.done() for test in [*self.tests.values(), *self.ending]),
                timeout=patience,
                timeout_summary="try again what is held" if wake is not None else "idle",
            )
        except TimeoutError:
            return wake is not None or not idle
        return True

    # --- one step --------------------------------------------------------------------------------------

    async def _step(self) -> bool:
        """Do what is next; True: there may be more to do at once."""
        self._note_results()
        if self.withdrawn:
            return await self._take_back()
        while self.leftover:
            entry = self.leftover.pop()
            if entry.op not in self.entries:
                await self._let_go(entry, MergeAnswer(op=entry.op, kind="noop"))
        if self.s.behind and (self.follow_now or self.follow_at <= workflow.time()):
            await self._follow()
        if self.s.mode == "paused":
            self._stop(list(self.tests))
            return False
        if self.s.trouble and workflow.time() < self.try_at:
            return False
        if self.s.frozen_on and self.look_at <= workflow.time() and not await self._look():
            return False
        view = self._view()
        if chain := chains.landable(view):
            return await self._land(chain, chains.passed_over(view, chain))
        if (head := chains.suspect(view)) and await self._blame(head):
            return True
        if self._is_long:
            return False
        wanted = chains.wanted(view)
        if any(chain not in self.sight.steps for chain in wanted):
            return await self._build(wanted)
        self._test(wanted)
        return False

    def _view(self) -> View:
        order, _ = self.going()
        self.order = [entry.op for entry in order]
        by_task = {entry.task_id: entry.op for entry in order}
        return View(
            queue=tuple(self.order),
            known=self.sight.known,
            running=[chain for chain in self.tests if chain != _TARGET],
            slots=max(self.sight.slots - (_TARGET in self.tests), 1),
            p=self.s.odds.p,
            each=self.sight.settings.strict_each,
            after={
                entry.op: [by_task[task] for task in entry.after if task in by_task] for entry in order if entry.after
            },
            doubted=self.sight.doubted,
        )

    def _entry(self, op: str) -> QueueEntry:
        return self.entries[op]

    async def _take_back(self) -> bool:
        for op, why in list(self.withdrawn.items()):
            if entry := self.entries.get(op):
                await self._send_back(entry, MergeAnswer(op=op, kind="withdrawn", reason=why))
            self.withdrawn.pop(op, None)
        return True

    # --- building --------------------------------------------------------------------------------------

    async def _build(self, wanted: list[Chain]) -> bool:
        missing = [chain for chain in wanted if chain not in self.sight.steps]
        given = BuildInput(
            repo=self.s.repo,
            target=self.s.target,
            chains=[self._to_build(chain) for chain in missing],
            base=self.sight.base,
            keep=self._tips(),
        )
        try:
            result: BuildResult = await workflow.execute_activity_method(
                MergeActivities.build,
                given,
                summary=f"build chains: {len(missing)}, of candidates: {max(map(len, missing))} at most",
                **options.queue_options(workflow.info().task_queue, self.s.host),
            )
        except ActivityError as error:
            return self._in_trouble(error)
        self._out_of_trouble()
        if result.base != self.sight.base:
            self._moved(result.base)
        self.sight.settings, self.sight.slots = result.queue, result.slots
        self.sight.gates = result.gates
        for chain, built in zip(missing, result.chains, strict=True):
            if not all(op in self.entries for op in chain):
                continue  # one of them has been sent back just now
            for count, step in enumerate(built.steps, built.made + 1):
                self.sight.steps[chain[:count]] = step
            count = built.made + len(built.steps)
            if built.steps and set(self._gates(chain[:count])) <= set(built.green):
                self.sight.known[chain[:count]] = "green"
            if built.stopped:
                await self._apart(chain[: count + 1], built.alone)
        useful = {
            chain[:count] for chain in [*wanted, *self.tests, *self.sight.known] for count in range(1, len(chain) + 1)
        }
        self.sight.steps = {chain: step for chain, step in self.sight.steps.items() if chain in useful}
        return True

    async def _look(self) -> bool:
        """Is the red target still where it was? Nothing is tested that would find out. False: in trouble."""
        self.look_pause = min(2 * self.look_pause, policy.MAX_LOOK_SECONDS)
        self.look_at = workflow.time() + self.look_pause
        given = BuildInput(repo=self.s.repo, target=self.s.target, chains=[], base=self.sight.base, keep=self._tips())
        try:
            result: BuildResult = await workflow.execute_activity_method(
                MergeActivities.build,
                given,
                summary="is the target still red?",
                **options.queue_options(workflow.info().task_queue, self.s.host),
            )
        except ActivityError as error:
            return self._in_trouble(error)
        self._out_of_trouble()
        if result.base != self.sight.base:
            self._moved(result.base)
        return True

    def _in_trouble(self, error: ActivityError) -> bool:
        """Of the repository, its remote, or its settings: nobody in the queue is to blame."""
        self.trouble_pause = min(2 * self.trouble_pause, policy.MAX_TROUBLE_SECONDS)
        self.try_at = workflow.time() + self.trouble_pause
        self.put(trouble=options.retried(error))
        workflow.logger.error("the merge queue is in trouble: %s", self.s.trouble)
        return False

    def _out_of_trouble(self) -> None:
        self.trouble_pause = policy.HOLD_SECONDS
        if self.s.trouble:
            self.put(trouble="")

    def _to_build(self, chain: Chain) -> ChainToBuild:
        made = next((count for count in range(len(chain), 0, -1) if chain[:count] in self.sight.steps), 0)
        on = self.sight.steps[chain[:made]].sha if made else ""
        return ChainToBuild(ops=list(chain), made=made, on=on)

    async def _apart(self, chain: Chain, alone: Built | None) -> None:
        """The last of the chain cannot be put on the others; or on the target itself: then it is sent back."""
        if alone is None:
            self.sight.known[chain] = "apart"
        else:
            await self._send_back(self._entry(chain[-1]), _unbuildable(chain[-1], alone))

    def _gates(self, chain: Chain) -> list[str]:
        """Each once, in the order of the candidates."""
        return list(dict.fromkeys(digest for op in chain for digest in self._entry(op).gates))

    def _tips(self) -> list[str]:
        """Of the chains that are known: to pin them keeps gc away from all commits in them."""
        steps = self.sight.steps
        inner = {chain[:-1] for chain in steps}
        return sorted({step.sha for chain, step in steps.items() if chain not in inner})

    def _moved(self, base: str) -> None:
        """The target is elsewhere, not by our doing: what was known is not true any more. Costs nobody an attempt."""
        self._stop(list(self.tests))
        now = self.sight
        self.sight = Sight(base=base, settings=now.settings, slots=now.slots, doubted=now.doubted)
        if base and self.s.mode == "frozen" and self.s.frozen_on not in ("", base):
            self.put(mode="open", mode_reason="", frozen_on="")

    # --- testing ---------------------------------------------------------------------------------------

    def _test(self, wanted: list[Chain]) -> None:
        """Start the gates of those that do not run yet, as far as there are slots; stop what nobody needs any more."""
        self._stop([chain for chain in self.tests if chain != _TARGET and chain not in wanted])
        for chain in wanted:
            if len(self.tests) + len(self.ending) >= self.sight.slots:
                break
            if chain not in self.tests:
                step = self.sight.steps[chain]
                number = self.sight.reds.get(chain[0], 0) if len(chain) == 1 else 0
                self._start(chain, step.sha, step.tree, self._gates(chain), number)

    def _start(self, chain: Chain, tip: str, tree: str, gates: list[str], number: int) -> None:
        given = TestInput(
            repo=self.s.repo,
            target=self.s.target,
            base=self.sight.base,
            tip=tip,
            tree=tree,
            ops=list(chain),
            gates=gates,
            number=number,
            queue=self.sight.settings,
        )
        tasks = ", ".join(self._entry(op).task_id for op in chain) or "the target itself"
        handle = workflow.start_activity_method(
            GateActivities.test_chain,
            given,
            summary=f"gates on {tip[:12]}: {tasks[:120]}" + (", confirming red" if number else ""),
            **options.gate_options(workflow.info().task_queue, self.s.host, _LONGEST),
        )
        self.tests[chain] = Test(handle, tip, gates, workflow.time(), number)

    def _stop(self, stopped: list[Chain]) -> None:
        for chain in stopped:
            test = self.tests.pop(chain)
            test.handle.cancel()
            self.ending.append(test)

    def _note_results(self) -> None:
        for test in [test for test in self.ending if test.handle.done()]:
            with suppress(asyncio.CancelledError):
                test.handle.exception()  # nobody wants to know, but asyncio wants somebody to have asked
            self.ending.remove(test)
        for chain, test in [(chain, test) for chain, test in self.tests.items() if test.handle.done()]:
            del self.tests[chain]
            tested = _result(test)
            if tested.kind == "moved":
                self._moved("")
                return
            if tested.seconds:
                mean = self.s.gate_seconds or tested.seconds
                self.put(gate_seconds=0.7 * mean + 0.3 * tested.seconds)
            self._note(chain, test, tested)

    def _note(self, chain: Chain, test: Test, tested: Tested) -> None:
        name = chain[0] if chain else ""
        if tested.kind == "green":
            if len(chain) < 2 and self.sight.reds.pop(name, 0):
                self._remember_flaky(self.sight.red[chain])
            self.sight.doubted.discard(name)
            if chain == _TARGET:
                known = self.s.green if self.s.green_on == test.tip else []
                self.put(green=sorted({*test.gates, *known}), green_on=test.tip)
            else:
                self.sight.known[chain] = "green"
            return
        self.sight.red[chain] = tested
        if chain == _TARGET:
            self.sight.target_gates = test.gates
            self.sight.red_gates = [
                digest for digest, gate in zip(test.gates, tested.results, strict=False) if not gate.passed
            ]
        if len(chain) < 2:
            self.sight.reds[name] = self.sight.reds.get(name, 0) + 1
            self.sight.doubted.add(name)
        if chain != _TARGET:
            self.sight.known[chain] = "red"

    def _remember_flaky(self, red: Tested) -> None:
        names = [gate.name for gate in red.results if not gate.passed]
        self.put(flaky={**self.s.flaky, **{name: self.s.flaky.get(name, 0) + 1 for name in names}})

    # --- blame -----------------------------------------------------------------------------------------

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
            red = [gate for gate in sight.red[_TARGET].results if not gate.passed]
            if not red or gate_faults.broken(red) or not {*sight.red_gates} & {*sight.gates, *self.s.green}:
                # They are its own gates, and were never green: that says nothing of the target.
                return await self._eject(entry, "gate_infra", Code.GATE_INFRA)
            self._freeze()
            return True
        if _TARGET not in self.tests and len(self.tests) + len(self.ending) < sight.slots:
            self._start(_TARGET, sight.base, "", entry.gates, sight.reds.get("", 0))
        return False

    def _freeze(self) -> None:
        red = [gate.name for gate in self.sight.red[_TARGET].results if not gate.passed]
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
        self.put(mode="frozen", mode_reason=reason, mode_since=self.s.arrivals, frozen_on=self.sight.base)

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
        self._stop([chain for chain in self.tests if entry.op in chain])
        sight = self.sight
        sight.known = chains.without(sight.known, entry.op)
        sight.steps = chains.without(sight.steps, entry.op)
        sight.red = chains.without(sight.red, entry.op)
        sight.reds.pop(entry.op, None)
        sight.doubted.discard(entry.op)
        await self.answer(entry, await self._let_go(entry, answer))

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

    # --- landing ---------------------------------------------------------------------------------------

    async def _land(self, chain: Chain, passed_over: Chain) -> bool:
        entries = [self._entry(op) for op in chain]
        steps = [self.sight.steps[chain[: count + 1]] for count in range(len(chain))]
        title, settings = entries[0].title, self.sight.settings
        after = {chains.rest(other, chain) for other in (*self.tests, *self.sight.known)} - {None}
        keep = [self.sight.steps[chain + rest].sha for rest in after if rest and chain + rest in self.sight.steps]
        land = LandInput(
            repo=self.s.repo,
            target=self.s.target,
            base=self.sight.base,
            tip=steps[-1].sha,
            ops=list(chain),
            title=title if len(chain) == 1 else f"{title}, and {len(chain) - 1} more",
            keep=sorted(keep),
            checkout=settings.checkout,
            push=settings.push,
        )
        self.landing = chain
        try:
            result: LandingResult = await workflow.execute_activity_method(
                MergeActivities.land,
                LandingInput(land=land, steps=steps),
                summary=f"land {steps[-1].sha[:12]}: {', '.join(entry.task_id for entry in entries)[:120]}",
                **options.queue_options(workflow.info().task_queue, self.s.host),
            )
        except ActivityError as error:
            return self._in_trouble(error)
        finally:
            self.landing = ()
        self._out_of_trouble()
        await self._landed(chain, passed_over, result)
        return True

    async def _landed(self, chain: Chain, passed_over: Chain, result: LandingResult) -> None:
        for op in result.gone:
            await self._send_back(self._entry(op), MergeAnswer(op=op, kind="withdrawn", reason="its task is over"))
        for op in result.moved:
            reason = "the branch is not where it was when it was sent in: send it in again"
            answer = MergeAnswer(op=op, kind="head_moved", code=Code.HEAD_MOVED, reason=reason)
            if entry := self.entries.get(op):
                await self._send_back(entry, answer)
        landed = result.landed
        if landed is None:
            return
        match landed.kind:
            case "landed":
                self.sight.doubted |= set(passed_over)
                await self._all_landed(chain, landed.sha, landed.behind)
            case "lost_race":
                self._moved("")
            case "blocked":
                text = landed.reason or "your changes are in the way"
                files = ", ".join(landed.in_the_way[:20]) + (" …" if len(landed.in_the_way) > 20 else "")
                why = f"{Code.CHECKOUT_BLOCKED}: a free checkout of the target: {text} in {landed.checkout}: {files}"
                now = workflow.time()  # they are tried again together
                for op in result.blocking:
                    await self._hold(self._entry(op), why, now)
            case "rejected":
                await self._rejected(chain, landed.reason)

    async def _all_landed(self, chain: Chain, sha: str, behind: str) -> None:
        sight = self.sight
        entries = [self._entry(op) for op in chain]
        steps = [sight.steps[chain[: count + 1]].sha for count in range(len(chain))]
        tip, gates = steps[-1], self._gates(chain)
        kept = set(self.s.green) if self.s.green_on == sight.base and not gates else set()
        self.put(
            odds=self.s.odds.with_landed(len(chain)) if gates else self.s.odds,
            green=sorted({*gates, *kept}),
            green_on=tip,
            behind=behind,
        )
        if self.s.mode == "frozen" and self.s.frozen_on:
            self.put(mode="open", mode_reason="", frozen_on="")
        self.follow_pause = policy.HOLD_SECONDS
        self.follow_at = workflow.time() + self.follow_pause
        self._stop([other for other in self.tests if chains.rest(other, chain) is None])
        self.tests = chains.after_landing(self.tests, chain)
        self.sight = Sight(
            base=tip,
            settings=sight.settings,
            slots=sight.slots,
            known=chains.after_landing(sight.known, chain),
            steps=chains.after_landing(sight.steps, chain),
            red=chains.after_landing(sight.red, chain),
            doubted=sight.doubted - set(chain),
        )
        for left in [left for left, verdict in self.sight.known.items() if verdict == "red" and len(left) == 1]:
            if left not in self.sight.red:  # the remote refused it together with what has landed: now by itself
                del self.sight.known[left]
        # Red on top of what has just landed is red alone on the target now.
        self.sight.reds = {left[0]: 1 for left in self.sight.red if len(left) == 1}
        if sha != tip:  # it had landed before, and somebody pushed since
            self._moved("")
        for entry, step in zip(entries, steps, strict=True):
            await self.answer(entry, MergeAnswer(op=entry.op, kind="landed", sha=step, base=sight.base))

    async def _hold(self, entry: QueueEntry, why: str, now: float) -> None:
        await self.note(entry, why)
        self.entries[entry.op] = policy.held(self._entry(entry.op), why, now)

    async def _rejected(self, chain: Chain, reason: str) -> None:
        """By the remote. Of a longer chain it may be because of any of them."""
        if len(chain) > 1:
            self.sight.known[chain] = "red"
            return
        answer = MergeAnswer(op=chain[0], kind="push_rejected", code=Code.PUSH_REJECTED, base=self.sight.base,
                             reason=reason)  # fmt: skip
        await self._send_back(self._entry(chain[0]), answer)

    async def _follow(self) -> None:
        """Bring the local branch to where the work has landed; later again while something is in the way."""
        self.follow_now = False
        given = FollowInput(
            repo=self.s.repo, target=self.s.target, tip=self.s.green_on, checkout=self.sight.settings.checkout
        )
        try:
            behind = await workflow.execute_activity_method(
                MergeActivities.follow,
                given,
                summary=f"bring {self.s.target} along",
                **options.queue_options(workflow.info().task_queue, self.s.host),
            )
        except ActivityError as error:
            behind = options.retried(error)
        self.follow_pause = min(2 * self.follow_pause, policy.MAX_FOLLOW_SECONDS)
        self.follow_at = workflow.time() + self.follow_pause
        self.put(behind=behind)


_LONGEST = [GateSpec(name="all", command="all", timeout_seconds=86_400)]
"""The queue does not know the gates' own time limits, which the activity keeps; this one is for a lost worker's."""


def _result(test: Test) -> Tested:
    """Of a run that has ended; one that could not be done is red, without results."""
    try:
        return test.handle.result()
    except (ActivityError, asyncio.CancelledError) as error:
        workflow.logger.warning("the gates on %s could not be run: %s", test.tip, error)
        return Tested(kind="red")


def _unbuildable(op: str, built: Built) -> MergeAnswer:
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
            evidence = Evidence(base=built.base, files=built.paths)
            return MergeAnswer(
                op=op, kind="policy", code=Code.POLICY, base=built.base, reason=built.reason, evidence=evidence
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
