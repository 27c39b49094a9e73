"""The singleton that puts work on one branch of one repository.

Candidates come by signal-with-start from the `submit` activity, and are answered by signal. Chains of them are built
on the target as it is now, and tested, several at once; a green chain lands with one move of the branch, to the very
commit that was tested. What is tested together and who is to blame is decided in `policy.speculation`, who may go in
`policy.queue`. Each answer is remembered, so a task that asks twice, or a crash in between, never lands anything
twice. All that is known of chains is only on the present target (`Sight`), and can be found out again.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.merging import MergeActivities
    from activities.queue_contracts import BuildInput, BuildResult, Built, ChainToBuild
    from workflows import options
    from workflows.contracts import MergeAnswer, QueueState
    from workflows.policy import queue as policy
    from workflows.policy import speculation as chains
    from workflows.policy.speculation import Chain
    from workflows.queue_blame import unbuildable
    from workflows.queue_landing import QueueLanding

IDLE = timedelta(minutes=30)
"""A queue with nothing to do ends; the next candidate starts it again, with the code of then."""


@workflow.defn
class MergeQueueWorkflow(QueueLanding):
    @workflow.init
    def __init__(self, state: QueueState) -> None:
        super().__init__(state)

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
            allowed=self._allowed(missing),
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

    def _to_build(self, chain: Chain) -> ChainToBuild:
        made = next((count for count in range(len(chain), 0, -1) if chain[:count] in self.sight.steps), 0)
        on = self.sight.steps[chain[:made]].sha if made else ""
        return ChainToBuild(ops=list(chain), made=made, on=on)

    def _allowed(self, wanted: list[Chain]) -> dict[str, str]:
        entries = {op: self._entry(op) for chain in wanted for op in chain}
        return {op: entry.asked for op, entry in entries.items() if entry.allowed and entry.asked}

    async def _apart(self, chain: Chain, alone: Built | None) -> None:
        """The last of the chain cannot be put on the others; or on the target itself: then it is sent back, or waits
        for leave."""
        if alone is None:
            self.sight.known[chain] = "apart"
        elif alone.kind == "leave":
            await self._ask(self._entry(chain[-1]), alone)
        else:
            await self._send_back(self._entry(chain[-1]), unbuildable(chain[-1], alone))
