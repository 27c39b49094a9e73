"""A branch of the user's on its way into the merge queue. It is read and pinned, and no worktree is made of it."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.contracts import TaskRef
from activities.git import candidate as candidates
from activities.git.history import have_landed
from activities.git.landing import base_of
from activities.git.repository import Repository, RepositoryProblem, open_repository
from activities.git.run import UnsupportedRepository
from activities.home import task_key
from activities.merging import enqueue
from activities.preflight import asked_for, for_leave, look, refusals, rules_on, ruling, settings_on
from activities.prepare import check_gate, target_and_settings
from activities.queue_contracts import Candidate, LandRequest, QueueEntry, SubmitBranchInput, Submitted
from activities.server import Server, note_server, server_of
from activities.settings import INVALID_TASK, Model, TaskInput, explain
from activities.site import Site, blocking, invalid, short_ref, write_model
from activities.swarm.mirror import REFS as BOARDS


class _Sent(Model):
    """Kept in the run folder: who asks again asks for the branch as it was, wherever it is by then."""

    candidate: Candidate
    entry: QueueEntry
    refused: list[str] = []
    """What the policy finds in it, for its author to mend."""


class BranchActivities:
    def __init__(self, site: Site) -> None:
        self.site = site

    @activity.defn
    async def submit_branch(self, given: SubmitBranchInput) -> Submitted:
        """Pin the branch's head and hand it to the merge queue. A second run hands over what the first one found.

        What the policy of the target refuses is not handed over. Raises InvalidTask, in one line, for what a user must
        mend.
        """
        sent = await blocking(self._sent, given, await server_of(self.site.client))
        if sent.refused:
            registered = self.site.attributes.is_set()
            return Submitted(op=sent.candidate.op, queue="", refused=sent.refused, attributes=registered)
        return await enqueue(self.site, sent.candidate, sent.entry)

    def _sent(self, given: SubmitBranchInput, server: Server) -> _Sent:
        task = _as_task(given.request)
        try:
            repository = open_repository(task.repo)
            self.site.claim(repository)
        except (RepositoryProblem, UnsupportedRepository) as problem:
            invalid("repo", str(problem))
        key = task_key(given.task_id, given.run_id)
        file = self.site.home.run(key) / "branch.json"
        found = file.exists()
        sent = _Sent.model_validate_json(file.read_bytes()) if found else self._look(repository, given, task, key)
        with repository.git() as git:
            if not sent.refused:
                git.update_refs(f"update {candidates.SOURCES}{sent.candidate.op} {sent.candidate.head}")
        if not found:
            note_server(self.site.home, key, server)
            write_model(file, sent)
        return sent

    def _look(self, repository: Repository, given: SubmitBranchInput, task: TaskInput, key: str) -> _Sent:
        """The branch as it is now."""
        request = given.request
        target, base, settings = target_and_settings(repository, task)
        for index, gate in enumerate(settings.gates):
            check_gate(f"gates.{index}.command", gate)
        branch = _branch(repository, request.branch, target)
        head = repository.tip(branch)
        if repository.merge_base(base, head) is None:
            invalid("branch", f"{short_ref(branch)} has no history in common with {short_ref(target)}")
        strategy = settings.delivery.strategy
        lands_on = ruling(repository, target)
        looked = look(repository, lands_on, head, strategy, rules_on(repository, target, lands_on))
        name, mail, subject = _newest(repository, head)
        candidate = Candidate(
            op=candidates.op_id(repository.common_dir, target, given.task_id, head, strategy),
            ref=TaskRef(task_id=given.task_id, key=key, repo=str(repository.path), target=target),
            head=head,
            strategy=strategy,
            title=request.title.strip() or subject or short_ref(branch),
            agent=name or mail,
            reviewers=[],
            author=f"{name} <{mail}>",
            date=given.date,
            gates=settings.gates,
            host=self.site.host,
            answer_to=given.task_id,
            branch=branch,
            looked=looked.digest,
            asked=asked_for(looked.found),
        )
        with repository.git() as git:
            queue = settings_on(repository, base)
            tip = base_of(repository, target, queue.checkout, queue.push) if request.after else base
            landed = have_landed(git, tip, request.after)
        entry = QueueEntry(
            op=candidate.op,
            task_id=given.task_id,
            title=candidate.title,
            answer_to=given.task_id,
            host=self.site.host,
            submission=given.run_id,
            gates=[gate.digest() for gate in settings.gates],
            priority=request.priority,
            after=[task_id for task_id in request.after if task_id not in landed],
            protected=for_leave(looked.found),
            asked=candidate.asked,
        )
        return _Sent(candidate=candidate, entry=entry, refused=refusals(looked.found))


def _as_task(request: LandRequest) -> TaskInput:
    """What is asked for has the rules of a task's input."""
    given: dict[str, Any] = {"repo": request.repo, "title": request.title or "a branch", "target": request.target}
    if request.gates is not None:
        given["gates"] = request.gates
    if request.strategy is not None:
        given["delivery"] = {"strategy": request.strategy}
    try:
        return TaskInput.model_validate(given)
    except ValidationError as error:
        raise ApplicationError(explain(error), type=INVALID_TASK, non_retryable=True) from None


def _branch(repository: Repository, name: str, target: str) -> str:
    """Full ref; a swarm's board is one of our own refs, which is no branch."""
    if name.startswith(BOARDS):
        if repository.sha(name) is None:
            invalid("branch", f"there is no {name}: it has landed, or its swarm is over")
        return name
    try:
        branch = repository.branch(name)
    except RepositoryProblem as problem:
        invalid("branch", str(problem))
    if branch == target:
        invalid("branch", f"{short_ref(branch)} is the target itself: name another `target`")
    return branch


def _newest(repository: Repository, head: str) -> tuple[str, str, str]:
    """Name and mail of who wrote the newest commit, and its subject."""
    with repository.git() as git:
        shown = git.run("log", "-1", "--format=%an%x00%ae%x00%s", head).stdout.decode("utf-8", "replace")
    name, mail, subject = (candidates.one_line(part) for part in shown.split("\0"))
    return name, mail, subject
