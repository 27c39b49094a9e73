"""How a merge queue lands a green chain, and brings the checkouts of the target along."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.merging import MergeActivities
    from activities.queue_contracts import FollowInput, LandingInput, LandingResult, LandInput, QueueEntry
    from workflows import options
    from workflows.contracts import Code, MergeAnswer, QueueState
    from workflows.policy import queue as policy
    from workflows.policy import speculation as chains
    from workflows.policy.speculation import Chain
    from workflows.queue_blame import QueueBlame
    from workflows.queue_desk import Sight


class QueueLanding(QueueBlame):
    def __init__(self, state: QueueState) -> None:
        super().__init__(state)
        self.follow_at = 0.0
        self.follow_pause = self.trouble_pause = policy.HOLD_SECONDS

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
            self.thaw()
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
