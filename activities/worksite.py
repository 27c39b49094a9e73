"""The task's worktree between turns: commit what was left, bring it up to date, and at the end save and remove it."""

from __future__ import annotations

import time
from functools import partial

import structlog
from temporalio import activity

from activities import cycles
from activities.contracts import Collected, CollectInput, Settled, SettleInput, UpdateBranchInput, UpdatedBranch, Usage
from activities.git.history import subjects
from activities.git.merging import unresolved
from activities.git.worktree import Worktree
from activities.moved import merge_in
from activities.overlaps import overlaps
from activities.plan_files import findings, unplanned
from activities.preflight import MOST_SHOWN, as_gate, preflight, rules_on, ruling
from activities.protected import for_a_task
from activities.settle import settle
from activities.setup import ready
from activities.site import Site, blocking, read_json, short_ref, write_atomically

log = structlog.get_logger()


class WorksiteActivities:
    def __init__(self, site: Site) -> None:
        self.site = site

    @activity.defn
    async def collect(self, given: CollectInput) -> Collected:
        """Commit what the agent left (FEATURES A7), bring it over into the repository, and say what there is.

        With what the policy of the target finds in it (FEATURES A16). A merge whose conflicts are not resolved is left
        as it is. A second run finds the commit of the first.
        """
        return await blocking(self._collect, given, await ready(self.site.home, given.ref))

    def _collect(self, given: CollectInput, worktree: Worktree) -> Collected:
        repository = worktree.repository
        self.site.claim(repository)
        target = worktree.refresh()
        undecided = unresolved(worktree)
        head = worktree.published() if undecided else worktree.commit_all(given.message)
        base = repository.merge_base(target, head) or target
        files = repository.changed_files(base, head)
        started = time.monotonic()
        with for_a_task():
            lands_on = ruling(repository, given.ref.target)
            rules = rules_on(repository, given.ref.target, lands_on)
        found = [] if undecided else preflight(repository, lands_on, head, given.strategy, rules)
        beyond = unplanned(given.planned, files)
        if not undecided and given.plan_files == "enforce":
            found += findings(rules, beyond)
        if not undecided:
            found += cycles.findings(given, files, partial(repository.read_file, head), rules.target)
        log = self.site.home.run(given.ref.key) / "policy" / f"{head[:12]}.md"
        return Collected(
            head=head,
            base=base,
            changed=bool(files) or bool(undecided),
            files=files[:50],
            file_count=len(files),
            merged_target=base == target,
            unresolved=undecided,
            overlaps=overlaps(self.site.home, repository, given.ref, head, target),
            findings=found[:MOST_SHOWN],
            preflight=as_gate(found, log, time.monotonic() - started),
            unplanned=beyond[:50],
            only_tasks=cycles.only_tasks(files),
        )

    @activity.defn
    async def update_branch(self, given: UpdateBranchInput) -> UpdatedBranch:
        """Merge the target in. On conflict the worktree holds the merge, and a report tells the resolver about it."""
        return await blocking(self._update_branch, given, await ready(self.site.home, given.ref))

    def _update_branch(self, given: UpdateBranchInput, worktree: Worktree) -> UpdatedBranch:
        repository = worktree.repository
        self.site.claim(repository)
        target, head = worktree.refresh(), worktree.published()
        files = merge_in(self.site.home, given.ref, worktree, target, given.message)
        if not files:
            return UpdatedBranch(clean=True, head=worktree.published(), target=target)
        base = repository.merge_base(target, head) or target
        name = short_ref(given.ref.target)
        report = self.site.home.run(given.ref.key) / "conflicts" / f"{head[:12]}-{target[:12]}.md"
        sections = {
            "Files in conflict": files,
            f"What {name} did since": subjects(repository, base, target),
            "What this branch did": subjects(repository, base, head),
            f"Files changed on {name}": repository.changed_files(base, target),
            "Files changed on this branch": repository.changed_files(base, head),
        }
        text = "\n\n".join(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items())
        write_atomically(report, text.encode("utf-8", "replace"))
        return UpdatedBranch(clean=False, head=head, target=target, files=files, report=str(report))

    @activity.defn
    async def settle(self, given: SettleInput) -> Settled:
        """Save what did not land, remove the worktree. A second run finds what the first one saved."""
        if given.claims:
            await blocking(cycles.done, self.site.home, given)
        settled = await blocking(settle, self.site.home, given.ref, given.outcome, given.landed_head, given.ops)
        if given.cut_off:
            told = read_json(self.site.home.run(given.ref.key) / "turns" / given.cut_off / "usage.json")
            settled = settled.model_copy(update={"usage": Usage.model_validate(told)})
        log.info("task settled", task=given.ref.task_id, outcome=given.outcome, salvage_ref=settled.salvage_ref)
        return settled
