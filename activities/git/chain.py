"""Several candidates on top of each other: tested as one tip, and landed by one move of the target."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from activities.contracts import Candidate, Chained, Step
from activities.git.candidate import build
from activities.git.run import Git

_TIP = re.compile(r"[0-9a-f]{40,64}")


def build_chain(git: Git, candidates: Sequence[Candidate], base: str) -> Chained:
    """Each candidate on the commit of the one before it, the first one on `base`. Same inputs, same shas.

    It ends at the first that cannot be put there. Raises GitError when an object is missing.
    """
    steps: list[Step] = []
    tip = base
    for candidate in candidates:
        built = build(git, candidate, tip)
        if built.tip is None or built.tree is None:  # none, or landed earlier
            return Chained(base=base, steps=steps, stopped=built)
        tip = built.tip
        steps.append(Step(op=candidate.op, sha=tip, tree=built.tree))
    return Chained(base=base, steps=steps)


def pin_chains(git: Git, target: str, tips: Collection[str]) -> None:
    """Keeps gc away from exactly these tips; all others of `target` (a full ref) are let go."""
    pinned = _pinned(git, target)
    place, wanted = _place(target), set(tips)
    git.update_refs(
        *(f"update {place}{tip} {tip}" for tip in sorted(wanted - pinned)),
        *(f"delete {place}{tip}" for tip in sorted(pinned - wanted)),
    )


def keep_chains(git: Git, target: str, tips: Collection[str]) -> None:
    """Lets go of all tips but these; of these, one that is not pinned stays so."""
    pin_chains(git, target, _pinned(git, target) & set(tips))


def _place(target: str) -> str:
    return f"refs/mergewright/chain/{target.removeprefix('refs/heads/')}/"


def _pinned(git: Git, target: str) -> set[str]:
    place = _place(target)
    names = git("for-each-ref", "--format=%(refname)", place).splitlines()
    # What lies deeper belongs to a branch below this one's name: `a/b`, where this one is `a`.
    return {tip for name in names if _TIP.fullmatch(tip := name.removeprefix(place))}
