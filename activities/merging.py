"""What the merge queue does with git: take a candidate in, build the commit that would land, land it."""

from __future__ import annotations

from temporalio import activity
from temporalio.common import WorkflowIDConflictPolicy

from activities.contracts import BuildInput, Built, Candidate, Landed, LandInput, SubmitInput, Submitted
from activities.git import candidate as candidates
from activities.git.landing import land
from activities.git.repository import Repository, open_repository
from activities.home import repository_id, safe_name
from activities.site import Site, blocking, short_ref, worktree_of


def queue_id(repository: Repository, target: str) -> str:
    """One merge queue for each git directory and branch, whichever checkout the task named."""
    return (
        f"merge-queue/{safe_name(repository.path.name)}-{repository_id(repository.common_dir)[:8]}/{short_ref(target)}"
    )


class MergeActivities:
    def __init__(self, site: Site) -> None:
        self.site = site

    @activity.defn
    async def submit(self, given: SubmitInput) -> Submitted:
        """Pin the head in the repository and hand it to the merge queue, which is started if it does not run.

        The same head again is the same candidate: the queue knows it.
        """
        candidate, queue = await blocking(self._candidate, given)
        await self.site.client.start_workflow(
            "MergeQueueWorkflow",
            {"repo": candidate.ref.repo, "target": candidate.ref.target},
            id=queue,
            task_queue=self.site.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="submit",
            start_signal_args=[candidate],
            static_summary=f"merge queue of {short_ref(candidate.ref.target)} in {candidate.ref.repo}",
        )
        return Submitted(op=candidate.op, queue=queue)

    def _candidate(self, given: SubmitInput) -> tuple[Candidate, str]:
        ref = given.ref
        worktree = worktree_of(self.site.home, ref)
        repository = worktree.repository
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
        return candidate, queue_id(repository, ref.target)

    @activity.defn
    async def build(self, given: BuildInput) -> Built:
        """The commit that would land on the target as it is now. Same inputs, same sha."""
        return await blocking(self._build, given.candidate)

    def _build(self, candidate: Candidate) -> Built:
        repository = open_repository(candidate.ref.repo)
        with repository.git() as git:
            built = candidates.build(git, candidate, repository.tip(candidate.ref.target))
            if built.kind == "built" and built.tip is not None:
                candidates.pin(git, candidate.op, built.tip)
            return built

    @activity.defn
    async def land(self, given: LandInput) -> Landed:
        """Move the target to the tip, and the user's checkouts of it along. A second run finds it landed."""
        return await blocking(self._land, given)

    def _land(self, given: LandInput) -> Landed:
        repository = open_repository(given.candidate.ref.repo)
        folder = self.site.home.repository(repository.common_dir)
        return land(repository, given.candidate, given.base, given.tip, folder)
