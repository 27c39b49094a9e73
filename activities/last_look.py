"""The last look at what will land: each commit of a chain, on the one below it, by the rules that hold there.

What a head changes was looked at when it was handed in. While it waits the target's policy may become stricter, another
may bring its twin in upper and lower case, or a file may be renamed, so that the merge changes a path that the head did
not. What is cheap to compare says whether anything is new, with a few questions to the git that stays; only then all of
it is looked at again. Here and not when it lands, for what is built lands on the commit that it was built on, or never.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from temporalio.exceptions import ApplicationError

from activities.contracts import Finding
from activities.git.change import FILES
from activities.git.objects import Objects
from activities.git.repository import Repository
from activities.git.run import Git
from activities.home import Home
from activities.policy import Rules
from activities.preflight import as_gate, asked_for, digest, for_leave, look, refusals, rules_in, to_mend
from activities.protected import SETTINGS_FILE
from activities.queue_contracts import Built, Candidate, Step


@dataclass(frozen=True)
class LastLook:
    repository: Repository
    git: Git
    home: Home
    """Where the findings of a candidate are kept, for its agent."""
    target: str
    """Full ref."""
    base: str
    """Where the target is."""
    allowed: Mapping[str, str]
    """See `BuildInput`."""

    def __call__(self, candidate: Candidate, base: str, step: Step) -> Built | None:
        """Why `step`, on `base`, must not land; None: it may. Raises InvalidTask for wrong settings of the target."""
        try:
            rules = rules_at(self.git.objects, base, self.target)
        except ApplicationError as error:
            if base == self.base:
                raise  # nobody in the queue is to blame
            return Built(kind="policy", base=base, reason=error.message)
        if not self.anything_new(candidate, base, step, rules):
            return None
        started = time.monotonic()
        found = look(self.repository, base, candidate.head, candidate.strategy, rules, tree=step.tree).found
        return self._refused(candidate, base, step, found, time.monotonic() - started)

    def anything_new(self, candidate: Candidate, base: str, step: Step, rules: Rules) -> bool:
        if candidate.asked != self.allowed.get(candidate.op, ""):
            return True
        changes = self.git.objects.changes(base, step.tree)
        gone = ("0" * 6, "0" * len(step.tree))
        if candidate.looked != digest(rules, ((one.path, *(one.new or gone)) for one in changes)):
            return True
        new = {one.path for one in changes if one.old is None}
        return rules.on("case") and may_be_twins(self.git.objects, step.tree, new)

    def _refused(
        self, candidate: Candidate, base: str, step: Step, found: list[Finding], seconds: float
    ) -> Built | None:
        if mend := to_mend(found):
            log = self.home.run(candidate.ref.key) / "policy" / f"{step.sha[:12]}.md"
            paths = list(dict.fromkeys(one.path for one in mend if one.path))
            reason, *more = refusals(found)
            gate = as_gate(found, log, seconds)
            return Built(kind="policy", base=base, paths=paths[:50], reason=reason, findings=more, preflight=gate)
        asked = asked_for(found)
        if asked and asked != self.allowed.get(candidate.op):
            return Built(kind="leave", base=base, leave=for_leave(found), asked=asked)
        return None


def rules_at(objects: Objects, commit: str, target: str) -> Rules:
    """As `preflight.rules_on`, without a git of its own."""
    mode, blob = objects.folder(objects.tree(commit)).get(SETTINGS_FILE, ("", ""))
    return rules_in(objects.read(blob) if mode in FILES else None, target)


def may_be_twins(objects: Objects, tree: str, paths: Collection[str]) -> bool:
    """Whether beside one of `paths`, or a folder that it is in, lies another of the same letters. Only the folders on
    the way are read."""
    folders: dict[str, tuple[dict[str, tuple[str, str]], Counter[str]]] = {}
    for path in paths:
        above, at = "", tree
        for name in path.split("/"):
            if above not in folders:
                there = objects.folder(at)
                folders[above] = there, Counter(map(str.lower, there))
            there, letters = folders[above]
            if letters[name.lower()] > 1:
                return True
            above, at = f"{above}{name}/", there[name][1]
    return False
