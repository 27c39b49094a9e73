"""Several candidates on top of each other: tested as one tip, and landed by one move of the target."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

from activities.git.candidate import build, landed
from activities.git.run import Git
from activities.queue_contracts import Built, BuiltChain, Candidate, ChainToBuild, Step

_TIP = re.compile(r"[0-9a-f]{40,64}")

Look = Callable[[Candidate, str, Step], Built | None]
"""Says why a step, built on that commit, must not land, where it must not."""


class ChainBuilder:
    """Chains on one commit of the target. What several begin with alike is built once; same inputs, same shas."""

    def __init__(self, git: Git, base: str, candidates: Mapping[str, Candidate], look: Look | None = None) -> None:
        """`candidates`, by op: all that the chains may name; what is not there is told to be lost."""
        self._git = git
        self._look = look
        self._base = base
        self._candidates = {op: one for op, one in candidates.items() if git.objects.commit(one.head)}
        self._landed = landed(git, list(self._candidates.values()), base)
        self._made: dict[tuple[str, ...], Step | Built] = {}

    def chain(self, given: ChainToBuild) -> BuiltChain:
        """Each candidate on the commit of the one before it; it ends at the first that cannot be put there.

        Raises GitError or Unreadable when an object is missing.
        """
        tip, steps = given.on or self._base, list[Step]()
        for count in range(given.made + 1, len(given.ops) + 1):
            made = self._step(given.ops[:count], tip)
            if isinstance(made, Built):
                single = self._step(given.ops[count - 1 : count], self._base) if count > 1 else made
                alone = single if isinstance(single, Built) else None
                # Who is sent back is told of `alone`: the same evidence twice for each chain would make a big answer.
                why = Built(kind=made.kind, base=made.base, tip=made.tip, tree=made.tree, reason=made.reason)
                return BuiltChain(made=given.made, steps=steps, stopped=why, alone=alone)
            steps.append(made)
            tip = made.sha
        return BuiltChain(made=given.made, steps=steps)

    def _step(self, ops: Sequence[str], base: str) -> Step | Built:
        """The last of these, on the commit of those before it."""
        key = tuple(ops)
        if key not in self._made:
            self._made[key] = self._build(key[-1], base)
        return self._made[key]

    def _build(self, op: str, base: str) -> Step | Built:
        candidate = self._candidates.get(op)
        if candidate is None:
            return Built(kind="lost", base=base)
        try:
            built = build(self._git, candidate, base, self._landed)
            if built.tip is None or built.tree is None:  # none, or landed earlier
                return built
            step = Step(op=op, sha=built.tip, tree=built.tree)
            return (self._look and self._look(candidate, base, step)) or step
        except (LookupError, ValueError, RecursionError) as error:  # of its commits alone: the others go on
            return Built(kind="policy", base=base, reason=f"its commits cannot be read: {type(error).__name__} {error}")


def pin_chains(git: Git, target: str, tips: Collection[str]) -> None:
    """Keeps gc away from exactly these tips; all others of `target` (a full ref) are let go."""
    place, pinned = _place(target), _pinned(git, target)
    new = [f"update {place}{tip} {tip}" for tip in sorted(set(tips) - pinned)]
    git.update_refs(*new, *(f"delete {place}{tip}" for tip in sorted(pinned - set(tips))))


def keep_chains(git: Git, target: str, tips: Collection[str]) -> None:
    """Lets go of all tips but these; of these, one that is not pinned stays so."""
    place = _place(target)
    git.update_refs(*(f"delete {place}{tip}" for tip in sorted(_pinned(git, target) - set(tips))))


def _place(target: str) -> str:
    return f"refs/mergewright/chain/{target.removeprefix('refs/heads/')}/"


def _pinned(git: Git, target: str) -> set[str]:
    place = _place(target)
    names = git("for-each-ref", "--format=%(refname)", place).splitlines()
    # What lies deeper belongs to a branch below this one's name: `a/b`, where this one is `a`.
    return {tip for name in names if _TIP.fullmatch(tip := name.removeprefix(place))}
