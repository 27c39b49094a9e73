"""What goes between tasks, the merge queue and the activities that build, test and land its chains.

Like all contracts it is small by construction: a whole candidate lies in the data folder.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from activities.contracts import GateResult, TaskRef
from activities.settings import Checkout, GateSpec, Model, QueueSettings, Strategy


class Candidate(Model):
    """One piece of work that wants to land. Its id is the idempotency key of the landing."""

    op: str
    """sha256(repository, target, task, head, strategy), 16 hex digits."""
    ref: TaskRef
    head: str
    strategy: Strategy
    title: str
    agent: str
    reviewers: list[str]
    author: str
    """`Name <mail>`, of the task's commits."""
    date: int
    """Seconds since the epoch: every commit of the landing carries this date, so the same inputs give the same sha."""
    gates: list[GateSpec] = []
    host: str
    """Of the repository: the merge queue's work runs there."""
    answer_to: str
    """Workflow that is told how it ended."""
    branch: str = ""
    """Full ref of the branch that was sent in; it must still be at `head` when it lands."""
    looked: str = ""
    """Digest of what the preflight looked at, and by which rules, when it found nothing to mend; empty: it is to be
    looked at."""
    asked: str = ""
    """See `QueueEntry`."""


class QueueEntry(Model):
    """A candidate as the merge queue holds it. All of it lies in the data folder: a queue may be long."""

    op: str
    task_id: str
    title: str
    answer_to: str
    host: str
    submission: str = ""
    """The same when it is only asked for again; another when it is to be tried again."""
    gates: list[str] = []
    """Digests."""
    priority: int = 0
    after: list[str] = []
    """Tasks that must land first."""
    overlaps: int = 0
    """Other tasks in flight that it is in conflict with."""
    checked_on: str = ""
    """Sha of the target with which its own gates were green; empty: they did not run."""
    protected: list[str] = []
    """Paths that it changes and that wait for an operator."""
    asked: str = ""
    """Digest of all that an operator is asked to allow: leave for this is no leave for more. Empty: nothing."""
    number: int = 0
    """In order of arrival."""
    since: float = 0.0
    """Seconds since the epoch."""
    allowed: bool = False
    failed_on: str = ""
    """Sha of a red target that it was to mend, and did not."""
    holds: int = 0
    """How often its landing was blocked by a checkout."""
    not_before: float = 0.0
    """Held until then: seconds since the epoch."""
    why: str = ""
    """Why it waits, when it is not its turn that it waits for."""


class SubmitInput(Model):
    ref: TaskRef
    head: str
    strategy: Strategy
    title: str
    agent: str
    reviewers: list[str]
    gates: list[GateSpec]
    host: str
    date: int
    """Seconds since the epoch: of the commits that the landing makes."""
    submission: str = ""
    """See `QueueEntry`."""
    checked_on: str = ""
    """Sha of the target with which the task's own gates were green."""
    overlaps: int = 0
    priority: int = 0
    after: list[str] = []


class LandRequest(Model):
    """Input of `LandWorkflow`: put a branch, a person's too, through the merge queue."""

    repo: str = Field(min_length=1)
    branch: str = Field(min_length=1)
    target: str | None = None
    title: str = ""
    """Of the merge commit; none: the subject of the branch's newest commit."""
    strategy: Strategy | None = None
    """None, as `gates`: what `mergewright.toml` says."""
    gates: list[GateSpec] | None = None
    priority: int = Field(0, ge=-1000, le=1000, strict=True)
    after: list[str] = []


class SubmitBranchInput(Model):
    task_id: str
    """Workflow id, which is told how it ended."""
    run_id: str
    request: LandRequest
    date: int


class Submitted(Model):
    op: str
    queue: str
    """Workflow id of the merge queue."""
    refused: list[str] = []
    """Not handed over: what the policy finds in it, a line each."""
    preflight: GateResult | None = None
    """The same as a red gate, for a task's agent."""
    attributes: bool | None = None
    """Whether the search attributes are registered; None: by a worker that did not know of them."""


class Conflict(Model):
    """Why a head does not merge: every path with the kinds of its conflicts."""

    files: list[str]
    messages: list[str]
    stages: list[str] = []
    """`<stage> <mode> <sha> <path>` as in `git ls-files --unmerged`: 1 is the base, 2 the target's, 3 the task's."""


class ChainToBuild(Model):
    ops: list[str]
    """The first one that cannot be put on the others ends the chain."""
    made: int = 0
    """So many of them are built already,"""
    on: str = ""
    """up to this commit."""


class BuildInput(Model):
    """Build these chains on the target as it is now."""

    repo: str
    target: str
    chains: list[ChainToBuild]
    base: str = ""
    """Where the target was when what is made of the chains was made."""
    allowed: dict[str, str] = {}
    """By op: `asked` of those that an operator has allowed."""
    keep: list[str] = []
    """Tips of other chains that are still wanted."""


class BuiltChain(Model):
    made: int = 0
    """So many of its candidates were built before."""
    steps: list[Step] = []
    """Of those that could be put on them."""
    green: list[str] = []
    """Digests of the gates that have passed on this very tree before."""
    stopped: Built | None = None
    """Why the next one could not be put on them."""
    alone: Built | None = None
    """Why that one cannot be put on the target alone either."""


class BuildResult(Model):
    base: str
    chains: list[BuiltChain]
    queue: QueueSettings
    slots: int
    gates: list[str] = []
    """Digests of those that `mergewright.toml` names there."""


class TestInput(Model):
    """Run the gates of these candidates on the tip of their chain; of none, on the target itself."""

    __test__ = False

    repo: str
    target: str
    base: str
    tip: str
    tree: str
    ops: list[str]
    gates: list[str]
    """Digests."""
    number: int = 0
    """Tells runs on the same commit apart."""
    queue: QueueSettings = QueueSettings()


class Tested(Model):
    kind: Literal["green", "red", "moved"]
    """`moved`: somebody pushed to the target, so that the result would be of no use."""
    results: list[GateResult] = []
    seconds: float = 0.0
    waited_seconds: float = 0.0


class LandingInput(Model):
    land: LandInput
    steps: list[Step]


class LandingResult(Model):
    landed: Landed | None = None
    """None: nothing was tried, because of these."""
    gone: list[str] = []
    """Candidates whose task has ended: nobody wants them any more."""
    moved: list[str] = []
    """Candidates whose branch is not where it was."""
    blocking: list[str] = []
    """Candidates that touch what is in the way."""


class FollowInput(Model):
    repo: str
    target: str
    tip: str
    checkout: Checkout


class EjectInput(Model):
    """Look for what explains an ejection, and let go of what the repository kept for the candidate."""

    repo: str
    target: str
    op: str
    base: str
    files: list[str] = []
    """In conflict."""
    since: str = ""
    """Sha of the target when the candidate's own gates were green; none: where its branch began."""
    keep: list[str] = []


class Evidence(Model):
    """What is known about an ejection."""

    base: str = ""
    tip: str = ""
    files: list[str] = []
    stages: list[str] = []
    """Of a conflict, as in `Conflict`."""
    messages: list[str] = []
    landed_by: list[str] = []
    """Tasks that landed on the target since, newest first: those that touch `files`, where there are any."""
    gates: list[GateResult] = []
    runs: int = 0
    """How often the gates were red on this tip."""
    fails_alone: bool | None = None
    """On the target by itself, which is green without it."""


class Built(Model):
    """A commit that would land, or why there is none."""

    kind: Literal["built", "conflict", "noop", "stale", "landed", "policy", "leave", "lost"]
    """`noop`: nothing left to land. `stale`: ff-only, and the target has moved. `landed`: an earlier run did it.
    `policy`: the policy there does not let it land, or the merge would change files that the task did not touch.
    `leave`: an operator must allow it first."""
    base: str
    tip: str | None = None
    tree: str | None = None
    conflict: Conflict | None = None
    paths: list[str] = []
    """`policy`: at most 50 of those files."""
    reason: str = ""
    findings: list[str] = []
    """`policy`: what the preflight found, a line each, with what to do."""
    preflight: GateResult | None = None
    """`policy`: the same as a red gate, for an agent to mend."""
    leave: list[str] = []
    """`leave`: what is to be allowed,"""
    asked: str = ""
    """and its digest."""


class Step(Model):
    """One candidate of a chain."""

    op: str
    sha: str
    """The commit that it ends with there."""
    tree: str


class LandInput(Model):
    repo: str
    target: str
    """Full ref name."""
    base: str
    tip: str
    ops: list[str]
    """Of all candidates between `base` and `tip`."""
    title: str
    """For the reflog."""
    keep: list[str] = []
    """Tips of chains of this target that stay pinned."""
    checkout: Literal["hold", "park", "bare"] = "hold"
    """Where the user's changes in a checkout of the target are in the way.

    `hold`: nothing moves. `park`: `refs/heads/mergewright/<target>` takes the commit until the target can follow.
    `bare`: the target moves and that checkout is left as it is: for checkouts that nobody works in."""
    push: str = ""
    """Name of a remote, whose branch it lands on first; empty: none."""


class Landed(Model):
    kind: Literal["landed", "lost_race", "blocked", "rejected"]
    """`rejected`: the remote refused it, for the `reason`."""
    sha: str
    """Where the target is now; of a remote or a parked branch, where that is."""
    checkout: str | None = None
    """The worktree that blocks."""
    in_the_way: list[str] = []
    """Files of the user's checkout that the landing would have touched; or what else is going on there."""
    reason: str = ""
    behind: str = ""
    """Landed, but the local branch or a checkout did not come along: why."""
