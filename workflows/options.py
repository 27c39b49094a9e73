"""Task queues, time limits and retries of our activities: one place, so that they can be compared.

A worker serves four task queues: the shared one (workflows, and `prepare`), and three of its own host, because a
worktree is where it was made. The agents' and gates' queues hold as many activities at once as there are slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NotRequired, TypedDict

from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError, TimeoutType
from temporalio.workflow import ActivityCancellationType

from activities.settings import INVALID_TASK, MOST_SETUP_SECONDS, NOTHING_KEPT, AgentSpec, GateSpec

HEARTBEAT = timedelta(seconds=30)
"""Every activity beats each 5 s; half a minute of silence means that its worker is gone."""

# Our own trouble (a crash, a full disk) costs the user nothing, so it is tried again for long; but not for ever:
# then the task is blocked with the reason.
_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=2,
    maximum_interval=timedelta(seconds=60),
    maximum_attempts=20,
    non_retryable_error_types=[INVALID_TASK],
)


class Options(TypedDict):
    task_queue: str
    start_to_close_timeout: timedelta
    heartbeat_timeout: timedelta
    retry_policy: RetryPolicy
    cancellation_type: ActivityCancellationType
    schedule_to_start_timeout: NotRequired[timedelta]


def work_queue(shared: str, host: str) -> str:
    return f"{shared}@{host}"


def agent_queue(shared: str, host: str) -> str:
    return f"{shared}-agents@{host}"


def gate_queue(shared: str, host: str) -> str:
    return f"{shared}-gates@{host}"


def _options(task_queue: str, longest: timedelta) -> Options:
    return Options(
        task_queue=task_queue,
        start_to_close_timeout=longest,
        heartbeat_timeout=HEARTBEAT,
        retry_policy=_RETRY,
        # What an activity had started (an agent, a git command) has ended when the workflow goes on.
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )


def prepare_options(shared: str) -> Options:
    return _options(shared, timedelta(hours=1))


def git_options(shared: str, host: str) -> Options:
    return _options(work_queue(shared, host), timedelta(hours=1))


def queue_options(shared: str, host: str) -> Options:
    """Of a merge queue, which must not stand still for long without saying why."""
    few = RetryPolicy(
        initial_interval=timedelta(seconds=1),
        maximum_interval=timedelta(seconds=5),
        maximum_attempts=5,
        non_retryable_error_types=[INVALID_TASK],
    )
    return {**git_options(shared, host), "retry_policy": few}


def agent_options(shared: str, host: str, agent: AgentSpec, start_within: timedelta | None) -> Options:
    """One attempt: a turn whose worker was lost gives its slot of the account back, and the workflow tries again.

    `start_within`: how long it may wait for a worker with room for it; None: for ever.
    """
    longest = timedelta(minutes=agent.turn_timeout_minutes + 10, seconds=MOST_SETUP_SECONDS)  # it may be rebuilt
    once = RetryPolicy(maximum_attempts=1)
    made: Options = {**_options(agent_queue(shared, host), longest), "retry_policy": once}
    return made if start_within is None else {**made, "schedule_to_start_timeout": start_within}


def notify_options(shared: str, host: str) -> Options:
    """Within what a task that has ended waits for it. A host that is away tells nothing later: it would be no news."""
    few = RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=3, maximum_attempts=4)
    return {
        **_options(work_queue(shared, host), timedelta(minutes=2)),
        "retry_policy": few,
        "schedule_to_start_timeout": timedelta(minutes=10),
    }


def never_started(error: ActivityError) -> bool:
    cause = error.cause
    return isinstance(cause, TimeoutError) and cause.type is TimeoutType.SCHEDULE_TO_START


def nothing_kept(error: ActivityError) -> str | None:
    """Why a turn could not begin with an earlier worktree."""
    cause = error.cause
    return cause.message if isinstance(cause, ApplicationError) and cause.type == NOTHING_KEPT else None


def gate_options(shared: str, host: str, gates: Sequence[GateSpec]) -> Options:
    longest = sum(gate.timeout_seconds for gate in gates) + 2 * MOST_SETUP_SECONDS
    return _options(gate_queue(shared, host), timedelta(seconds=longest, minutes=10))


def retried(error: Any) -> str:
    """The innermost message of a failed activity, in one line."""
    while getattr(error, "cause", None) is not None:
        error = error.cause
    text = str(getattr(error, "message", "") or error).strip()
    return text.splitlines()[-1] if text else type(error).__name__
