"""A worker process: four task queues, and the housekeeping that keeps a data folder clean."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import structlog
from temporalio.client import Client
from temporalio.worker import Interceptor, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities import boxes, cgroup
from activities.branches import BranchActivities
from activities.config import BadConfig, load
from activities.gates import GateActivities
from activities.home import Home
from activities.janitor import JanitorActivities
from activities.masking import MASKS
from activities.merging import MergeActivities
from activities.notify import NotifyActivities
from activities.prepare import PrepareActivities
from activities.process import base_environment, sandbox_problem
from activities.site import Site
from activities.slots import Slots
from activities.swarm.swarm import SwarmActivities
from activities.turn import TurnActivities
from activities.worksite import WorksiteActivities
from service.attributes import ensure_attributes
from service.converter import InputGuard
from service.digest import DigestActivities, ensure_digest
from service.lifeline import BEAT_SECONDS, BEATS, DRAINING, Lifeline, give_up_lost_activities
from service.schedule import ensure_schedule
from service.sweep import sweep
from workflows import options
from workflows.digest import DigestWorkflow
from workflows.janitor import JanitorWorkflow
from workflows.land import LandWorkflow
from workflows.merge_queue import MergeQueueWorkflow
from workflows.quota import QuotaWorkflow
from workflows.swarm import SwarmWorkflow
from workflows.task import TaskWorkflow
from workflows.unknown import UnknownWorkflow

log = structlog.get_logger()

WORKFLOWS: list[type] = [
    TaskWorkflow, SwarmWorkflow, LandWorkflow, MergeQueueWorkflow, QuotaWorkflow, JanitorWorkflow, DigestWorkflow,
    UnknownWorkflow,
]  # fmt: skip
BUILD_ID = "mergewright-0.1.0"
GRACE = timedelta(seconds=1)
"""For activities when the worker is told to stop: agents are ended and resumed by the next worker, so it is short."""
DRAIN_WITHIN = timedelta(hours=2)
"""For turns and gates when the worker is told to drain: longer than most may take; then they are ended too."""
DRAIN_EVERY = 1.0
STICKY = timedelta(seconds=2)
"""How long a workflow waits for the worker that has it in memory. So long all of them stand still after one was killed;
less, and a busy worker replays what it had at hand."""
GIVE_UP_EVERY = 5.0
SWEEP_EVERY = 30.0
CLEAN_EVERY = timedelta(hours=1)
REGISTER_EVERY = 60.0
RESCHEDULE_EVERY = 3600.0
"""Seconds: a schedule that somebody has deleted is made again."""
GIT_AT_ONCE = 16
OUR_KEYS = ("TEMPORAL_API_KEY", "MERGEWRIGHT_ENCRYPTION_KEY")
THREADS = 64


def workflow_runner() -> SandboxedWorkflowRunner:
    """Our packages are imported once, not again for each workflow: they run no code at import."""
    return SandboxedWorkflowRunner(
        restrictions=SandboxRestrictions.default.with_passthrough_modules("workflows", "activities", "pydantic")
    )


def make_workers(site: Site, agents: int, gate_slots: int, interceptors: list[Interceptor]) -> list[Worker]:
    """`agents` turns and `gate_slots` gate runs at once on this host."""
    prepare, turn, worksite = PrepareActivities(site), TurnActivities(site), WorksiteActivities(site)
    gates, merging, swarm = GateActivities(site), MergeActivities(site), SwarmActivities(site)
    shared: dict[str, Any] = {
        "interceptors": interceptors,
        # Else the SDK hashes the code of every module that is loaded, which takes it a second and a half.
        "build_id": BUILD_ID,
        "graceful_shutdown_timeout": GRACE,
        "max_heartbeat_throttle_interval": timedelta(seconds=BEAT_SECONDS),
        "default_heartbeat_throttle_interval": timedelta(seconds=BEAT_SECONDS),
    }
    queue, host = site.task_queue, site.host
    return [
        Worker(
            site.client,
            task_queue=queue,
            workflows=WORKFLOWS,
            activities=[prepare.prepare, prepare.open_quota, BranchActivities(site).submit_branch, swarm.open_swarm],
            workflow_runner=workflow_runner(),
            sticky_queue_schedule_to_start_timeout=STICKY,
            max_concurrent_activities=GIT_AT_ONCE,
            **shared,
        ),
        Worker(
            site.client,
            task_queue=options.work_queue(queue, host),
            activities=[
                prepare.check_agent, worksite.collect, worksite.update_branch, worksite.settle,
                merging.submit, merging.build, merging.land, merging.follow, merging.eject,
                swarm.take_in, swarm.look, swarm.mirror, swarm.finish,
                JanitorActivities(site).clean_up, NotifyActivities(site).notify, DigestActivities(site).digest,
            ],
            max_concurrent_activities=GIT_AT_ONCE,
            **shared,
        ),
        Worker(
            site.client,
            task_queue=options.agent_queue(queue, host),
            activities=[turn.take_turn],
            max_concurrent_activities=agents,
            **shared | {"graceful_shutdown_timeout": DRAIN_WITHIN},
        ),
        Worker(
            site.client,
            task_queue=options.gate_queue(queue, host),
            activities=[gates.run_gates, gates.test_chain],
            max_concurrent_activities=gate_slots,
            **shared
            | {
                "max_heartbeat_throttle_interval": timedelta(seconds=min(BEATS.values())),
                "graceful_shutdown_timeout": DRAIN_WITHIN,
            },
        ),
    ]  # fmt: skip


async def run_worker(
    client: Client,
    home: Home,
    host: str,
    task_queue: str,
    agents: int,
    gate_slots: int,
    stop: asyncio.Event,
    sweep_every: float = SWEEP_EVERY,
    clean_every: timedelta | None = CLEAN_EVERY,
) -> None:
    """Serves until `stop` is set; then agents are ended, and the next worker resumes them. `clean_every`: how often the
    janitor comes; None: its schedule is left as it is."""
    # Git and the disk are waited for in threads: a remote that does not answer must not keep others from theirs.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "blocking"))
    home.create()
    _learn_secrets(home)
    sandbox = _sandbox(home)
    cgroups = cgroup.adopt() or "on"
    lifeline = Lifeline(home)
    slots = Slots(agents)
    site = Site(home=home, host=host, task_queue=task_queue, client=client, gate_slots=gate_slots, slots=slots)
    try:
        async with AsyncExitStack() as stack:
            await give_up_lost_activities(client, home)
            await ensure_attributes(client, site.attributes)
            workers = make_workers(site, agents, gate_slots, [lifeline, InputGuard()])
            for worker in workers:
                await stack.enter_async_context(worker)
            log.info("worker is up", task_queue=task_queue, host=host, agents=agents, gate_slots=gate_slots,
                     sandbox=sandbox, cgroups=cgroups, home=str(home.root), pid=os.getpid())  # fmt: skip
            chores = [
                asyncio.create_task(_every(GIVE_UP_EVERY, lambda: give_up_lost_activities(client, home))),
                asyncio.create_task(_every(sweep_every, lambda: sweep(client, home))),
                asyncio.create_task(
                    _every(REGISTER_EVERY, lambda: ensure_attributes(client, site.attributes, warn=False))
                ),
                asyncio.create_task(_drain(lifeline, workers[2:], stop)),
            ]
            if clean_every is not None:

                def schedule() -> Awaitable[object]:
                    return ensure_schedule(client, task_queue, host, home.root, clean_every)

                digesting = _every(RESCHEDULE_EVERY, lambda: ensure_digest(client, task_queue, host, home))
                chores.append(asyncio.create_task(digesting))
                chores.append(asyncio.create_task(_every(RESCHEDULE_EVERY, schedule)))
            await stop.wait()
            log.info("worker stops: agents are ended, the next worker resumes them")
            for chore in chores:
                chore.cancel()
            ending = asyncio.create_task(lifeline.end_after(GRACE))
        ending.cancel()
    finally:
        lifeline.close()


async def _drain(lifeline: Lifeline, workers: Sequence[Worker], stop: asyncio.Event) -> None:
    """When somebody wants it: no turn and no gate begins here any more, and when the last has ended the worker stops.
    What else runs tasks and git goes on until then, for the results are still to be taken."""
    while True:
        if lifeline.drains:
            break
        await asyncio.sleep(DRAIN_EVERY)
    log.info("worker drains: it takes no new turns and gates, and stops when those that run have ended")
    ending = [asyncio.create_task(worker.shutdown()) for worker in workers]
    await asyncio.sleep(0)  # they are told now
    (lifeline.folder / DRAINING).touch()
    await asyncio.gather(*ending)
    stop.set()


def _learn_secrets(home: Home) -> None:
    """What every command gets, what opens Temporal, and what the configuration names: an earlier worker gave it too."""
    MASKS.learn(base_environment())
    MASKS.learn({name: os.environ[name] for name in OUR_KEYS if name in os.environ}, all_of_it=True)
    try:
        load(home.root)
    except BadConfig as problem:
        log.warning("tasks cannot start", reason=str(problem))


def _sandbox(home: Home) -> str:
    """Whether agents and gates have one, for the log; a warning when they have none. Each turn looks anew."""
    try:
        settings = load(home.root).sandbox
        if boxes.wanted(settings):
            if why := boxes.open_to_host(settings):
                log.warning("agents or gates reach what listens on this host, Temporal perhaps", why=why)
            return "on"
    except BadConfig as problem:
        log.error("agents and gates cannot run", why=str(problem))
        return "unknown"
    why = 'mode = "off" in the configuration' if settings.mode == "off" else sandbox_problem()
    log.warning("no sandbox: agents and gates see and write all that the worker may", why=why)
    return "off"


async def _every(seconds: float, chore: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await chore()
        except Exception as error:  # a server that is away for a moment ends no worker
            log.warning("housekeeping failed, and is tried again", error=str(error))
        await asyncio.sleep(seconds)
