"""How a merge queue tests chains: which gates run where, and what their results say on the present target."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.gates import GateActivities
    from activities.queue_contracts import QueueEntry, Tested, TestInput
    from activities.settings import GateSpec
    from workflows import options
    from workflows.policy.speculation import Chain, View
    from workflows.queue_desk import QueueDesk, Sight, Test

TARGET: Chain = ()
"""The chain of nobody: the target itself."""

_LONGEST = [GateSpec(name="all", command="all", timeout_seconds=86_400)]
"""The queue does not know the gates' own time limits, which the activity keeps; this one is for a lost worker's."""


class QueueTesting(QueueDesk):
    def _view(self) -> View:
        order, _ = self.going()
        self.order = [entry.op for entry in order]
        by_task = {entry.task_id: entry.op for entry in order}
        return View(
            queue=tuple(self.order),
            known=self.sight.known,
            running=[chain for chain in self.tests if chain != TARGET],
            slots=max(self.sight.slots - (TARGET in self.tests), 1),
            p=self.s.odds.p,
            each=self.sight.settings.strict_each,
            after={
                entry.op: [by_task[task] for task in entry.after if task in by_task] for entry in order if entry.after
            },
            doubted=self.sight.doubted,
        )

    def _entry(self, op: str) -> QueueEntry:
        return self.entries[op]

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
            self.thaw()

    def _test(self, wanted: list[Chain]) -> None:
        """Start the gates of those that do not run yet, as far as there are slots; stop what nobody needs any more."""
        self._stop([chain for chain in self.tests if chain != TARGET and chain not in wanted])
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
            if chain == TARGET:
                known = self.s.green if self.s.green_on == test.tip else []
                self.put(green=sorted({*test.gates, *known}), green_on=test.tip)
            else:
                self.sight.known[chain] = "green"
            return
        self.sight.red[chain] = tested
        if chain == TARGET:
            self.sight.target_gates = test.gates
            self.sight.red_gates = [
                digest for digest, gate in zip(test.gates, tested.results, strict=False) if not gate.passed
            ]
        if len(chain) < 2:
            self.sight.reds[name] = self.sight.reds.get(name, 0) + 1
            self.sight.doubted.add(name)
        if chain != TARGET:
            self.sight.known[chain] = "red"

    def _remember_flaky(self, red: Tested) -> None:
        names = [gate.name for gate in red.results if not gate.passed]
        self.put(flaky={**self.s.flaky, **{name: self.s.flaky.get(name, 0) + 1 for name in names}})


def _result(test: Test) -> Tested:
    """Of a run that has ended; one that could not be done is red, without results."""
    try:
        return test.handle.result()
    except (ActivityError, asyncio.CancelledError) as error:
        workflow.logger.warning("the gates on %s could not be run: %s", test.tip, error)
        return Tested(kind="red")
