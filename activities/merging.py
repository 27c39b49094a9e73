"""What the merge queue does with git: take candidates in, build the commits that would land, land them.

A queue may be long, so it carries little of each candidate; the whole of it lies in the data folder, under its op.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from activities.attributes import of_queue
from activities.contracts import TASK_QUEUE, Finding
from activities.git import candidate as candidates
from activities.git.candidate import unpin
from activities.git.chain import ChainBuilder, pin_chains
from activities.git.history import have_landed, landed_between
from activities.git.landing import SourcesMoved, base_of, follow, land
from activities.git.repository import Repository, RepositoryProblem, open_repository
from activities.git.run import UnsupportedRepository
from activities.home import repository_id, safe_name, task_key
from activities.last_look import LastLook
from activities.preflight import as_gate, asked_for, for_leave, look, refusals, rules_on, ruling, settings_on, to_mend
from activities.protected import SETTINGS_FILE, for_a_task, gate_digests
from activities.queue_contracts import (
    BuildInput,
    BuildResult,
    Candidate,
    ChainToBuild,
    EjectInput,
    Evidence,
    FollowInput,
    Landed,
    LandingInput,
    LandingResult,
    LandInput,
    QueueEntry,
    SubmitInput,
    Submitted,
)
from activities.results import Results
from activities.site import Site, blocking, invalid, short_ref, worktree_of, write_model


def queue_id(repository: Repository, target: str, task_queue: str = TASK_QUEUE) -> str:
    """One merge queue for each git directory and branch, whichever checkout the task named.

    Workers of another task queue have one of their own, for theirs may be gone; only one of them can have the
    repository at a time (`git.owner`).
    """
    named = f"{safe_name(repository.path.name)}-{repository_id(repository.common_dir)[:8]}/{short_ref(target)}"
    return f"merge-queue/{named}" if task_queue == TASK_QUEUE else f"merge-queue/{named}@{task_queue}"


async def enqueue(site: Site, candidate: Candidate, entry: QueueEntry) -> Submitted:
    """Hand it to the merge queue, which is started if it does not run. The same one again is known there."""
    repository = await blocking(open_repository, candidate.ref.repo)
    write_model(site.home.candidate(repository.common_dir, candidate.op), candidate)
    for gate in candidate.gates:
        write_model(site.home.gate(repository.common_dir, gate.digest()), gate)
    queue, target = queue_id(repository, candidate.ref.target, site.task_queue), short_ref(candidate.ref.target)
    await site.client.start_workflow(
        "MergeQueueWorkflow",
        {"repo": candidate.ref.repo, "target": candidate.ref.target},
        id=queue,
        task_queue=site.task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        start_signal="submit",
        start_signal_args=[entry],
        static_summary=f"merge queue of {target} in {candidate.ref.repo}",
        search_attributes=of_queue(candidate.ref.repo, target) if site.attributes.is_set() else None,
    )
    return Submitted(op=candidate.op, queue=queue, attributes=site.attributes.is_set())


@lru_cache(maxsize=256)
def gates_on(repository: Repository, commit: str) -> list[str]:
    """Digests of the gates that `mergewright.toml` names there."""
    return gate_digests(repository.read_file(commit, SETTINGS_FILE))


class MergeActivities:
    def __init__(self, site: Site) -> None:
        self.site = site

    @activity.defn
    async def submit(self, given: SubmitInput) -> Submitted:
        """Pin the head in the repository and hand it to the merge queue.

        The same head again is the same candidate: the queue knows it. One that is not in the queue and that the policy
        of the target, as it is by now, refuses is not handed over: its agent mends it.
        """
        candidate, entry, found = await blocking(self._candidate, given)
        if refused := await blocking(self._refused, candidate, found):
            return refused
        return await enqueue(self.site, candidate, entry)

    def _refused(self, candidate: Candidate, found: list[Finding]) -> Submitted | None:
        repository = open_repository(candidate.ref.repo)
        log = self.site.home.run(candidate.ref.key) / "policy" / f"{candidate.head[:12]}.md"
        gate = as_gate(found, log, 0.0)
        if gate is None or self.site.home.candidate(repository.common_dir, candidate.op).exists():
            return None  # who is in the queue is looked at there
        with repository.git() as git:
            unpin(git, candidate.op)
        return Submitted(op=candidate.op, queue="", refused=refusals(found), preflight=gate)

    def _candidate(self, given: SubmitInput) -> tuple[Candidate, QueueEntry, list[Finding]]:
        ref = given.ref
        worktree = worktree_of(self.site.home, ref)
        repository = worktree.repository
        self.site.claim(repository)
        op = candidates.op_id(repository.common_dir, ref.target, ref.task_id, given.head, given.strategy)
        worktree.publish(f"refs/mergewright/source/{op}", given.head)
        name, mail = repository.identity()
        candidate = Candidate(
            op=op,
            ref=ref,
            head=given.head,
            strategy=given.strategy,
            title=given.title,
            agent=given.agent,
            reviewers=given.reviewers,
            author=f"{name} <{mail}>",
            date=given.date,
            gates=given.gates,
            host=given.host,
            answer_to=ref.task_id,
        )
        with for_a_task():
            base, settings = ruling(repository, ref.target), settings_on(repository, repository.tip(ref.target))
            rules = rules_on(repository, ref.target, base)
        looked = look(repository, base, given.head, given.strategy, rules)
        with repository.git() as git:
            tip = base_of(repository, ref.target, settings.checkout, settings.push) if given.after else base
            landed = have_landed(git, tip, given.after)
        entry = QueueEntry(
            op=op,
            task_id=ref.task_id,
            title=given.title,
            answer_to=ref.task_id,
            host=given.host,
            submission=given.submission,
            gates=[gate.digest() for gate in given.gates],
            priority=given.priority,
            after=[task for task in given.after if task not in landed],
            overlaps=given.overlaps,
            checked_on=given.checked_on,
            protected=for_leave(looked.found),
            asked=asked_for(looked.found),
        )
        noted = {"looked": "" if to_mend(looked.found) else looked.digest, "asked": entry.asked}
        return candidate.model_copy(update=noted), entry, looked.found

    @activity.defn
    async def build(self, given: BuildInput) -> BuildResult:
        """The commits that would land on the target as it is now. Same inputs, same shas.

        Raises InvalidTask, in one line, for what is wrong with the repository, its settings or its remotes.
        """
        try:
            return await blocking(self._build, given)
        except (RepositoryProblem, UnsupportedRepository) as problem:
            invalid("repo", str(problem))

    def _build(self, given: BuildInput) -> BuildResult:
        repository = self._open(given.repo)
        settings = settings_on(repository, repository.tip(given.target))
        base = base_of(repository, given.target, settings.checkout, settings.push)
        settings = settings_on(repository, base)
        results = self._results(repository)
        with repository.git() as git:
            last_look = LastLook(repository, git, self.site.home, given.target, base, given.allowed)
            builder = ChainBuilder(git, base, self._candidates_of(repository, _ops(given.chains)), last_look)
            known = base == given.base and all(not chain.on or git.objects.has(chain.on) for chain in given.chains)
            chains = [builder.chain(chain if known else ChainToBuild(ops=chain.ops)) for chain in given.chains]
            green = [
                chain.model_copy(update={"green": results.green(chain.steps[-1].tree, precheck=settings.precheck)})
                if chain.steps
                else chain
                for chain in chains
            ]
            pin_chains(git, given.target, {*given.keep, *(chain.steps[-1].sha for chain in chains if chain.steps)})
        return BuildResult(
            base=base,
            chains=green,
            queue=settings,
            slots=settings.gate_slots or self.site.gate_slots,
            gates=gates_on(repository, base),
        )

    @activity.defn
    async def land(self, given: LandingInput) -> LandingResult:
        """Move the target to the tip, and the user's checkouts of it along. A second run finds it landed.

        Nothing moves when one of the tasks has ended meanwhile, or a branch is not where it was sent in.
        """
        repository = await blocking(self._open, given.land.repo)
        found = self._candidates_of(repository, given.land.ops)
        alive = await asyncio.gather(*map(self._is_wanted, found.values()))
        gone = [op for op, wanted in zip(found, alive, strict=True) if not wanted]
        gone += [op for op in given.land.ops if op not in found]  # or an earlier attempt has landed it
        if gone and not await blocking(_has_landed, repository, given.land):
            return LandingResult(gone=gone)
        return await blocking(self._land, repository, given, found)

    def _land(self, repository: Repository, given: LandingInput, found: Mapping[str, Candidate]) -> LandingResult:
        sources = {op: (candidate.branch, candidate.head) for op, candidate in found.items() if candidate.branch}
        try:
            landed = land(repository, given.land, self.site.home.repository(repository.common_dir), sources)
        except SourcesMoved as error:
            return LandingResult(moved=error.ops)
        if landed.kind == "blocked":
            return LandingResult(landed=landed, blocking=_blocking_ops(repository, given, landed))
        if landed.kind == "landed":
            self._forget(repository, given.land.ops)
        return LandingResult(landed=landed)

    async def _is_wanted(self, candidate: Candidate) -> bool:
        """The run that has sent it in goes on; another one under its id has work of its own."""
        try:
            found = await self.site.client.get_workflow_handle(candidate.answer_to).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        first = found.raw_description.workflow_execution_info.first_run_id or found.run_id
        same = task_key(candidate.answer_to, first) == candidate.ref.key
        return same and found.status is WorkflowExecutionStatus.RUNNING

    @activity.defn
    async def follow(self, given: FollowInput) -> str:
        """Bring the local branch, and its checkouts, to what has landed. Empty: it is there; else why not."""
        return await blocking(self._follow, given)

    def _follow(self, given: FollowInput) -> str:
        repository = self._open(given.repo)
        folder = self.site.home.repository(repository.common_dir)
        return follow(repository, given.target, given.tip, given.checkout, folder)

    @activity.defn
    async def eject(self, given: EjectInput) -> Evidence:
        """What explains it; and nothing is kept for the candidate any more. A second run finds less to let go of."""
        return await blocking(self._eject, given)

    def _eject(self, given: EjectInput) -> Evidence:
        repository = self._open(given.repo)
        file = self.site.home.candidate(repository.common_dir, given.op)
        since = given.since
        if not since and file.exists():
            since = repository.merge_base(given.base, self._candidate_of(repository, given.op).head) or ""
        with repository.git() as git:
            landed = landed_between(git, since, given.base, given.files) if since else []
            unpin(git, given.op)
            pin_chains(git, given.target, given.keep)
        self._forget(repository, [given.op])
        return Evidence(base=given.base, files=given.files, landed_by=landed)

    # --- where things are ------------------------------------------------------------------------------

    def _open(self, path: str) -> Repository:
        repository = open_repository(path)
        self.site.claim(repository)
        return repository

    def _results(self, repository: Repository) -> Results:
        return Results(self.site.home.results(repository.common_dir))

    def _candidate_of(self, repository: Repository, op: str) -> Candidate:
        return Candidate.model_validate_json(self.site.home.candidate(repository.common_dir, op).read_bytes())

    def _candidates_of(self, repository: Repository, ops: Sequence[str]) -> dict[str, Candidate]:
        """Without those that are gone."""
        there = [op for op in ops if self.site.home.candidate(repository.common_dir, op).exists()]
        return {op: self._candidate_of(repository, op) for op in there}

    def _forget(self, repository: Repository, ops: Sequence[str]) -> None:
        for op in ops:
            self.site.home.candidate(repository.common_dir, op).unlink(missing_ok=True)


def _ops(chains: Sequence[ChainToBuild]) -> list[str]:
    return list(dict.fromkeys(op for chain in chains for op in chain.ops))


def _has_landed(repository: Repository, given: LandInput) -> bool:
    base = base_of(repository, given.target, given.checkout, given.push)
    return repository.contains(given.tip, base)


def _blocking_ops(repository: Repository, given: LandingInput, landed: Landed) -> list[str]:
    """Those of the chain that change what is in the way; all of them when it is not a matter of files."""
    found, before = [], given.land.base
    for step in given.steps:
        changed = repository.changed_files(before, step.sha)
        if any(_meets(path.partition(" (filter=")[0], changed) for path in landed.in_the_way):
            found.append(step.op)
        before = step.sha
    return found or list(given.land.ops)


def _meets(path: str, changed: Sequence[str]) -> bool:
    """A file is met, and so is a folder in the place of a file, or the other way round."""
    return any(path == file or file.startswith(f"{path}/") or path.startswith(f"{file}/") for file in changed)
