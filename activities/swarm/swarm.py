"""What a swarm's workflow has done on its host: it is opened, tasks are taken in, things are looked at, it is ended."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from pydantic import ValidationError
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.contracts import OpenQuotaInput
from activities.cycles import only_tasks
from activities.disk import DiskFull, check_room
from activities.git.history import landed_since
from activities.git.repository import Repository, RepositoryProblem, open_repository
from activities.git.run import UnsupportedRepository
from activities.home import task_key
from activities.merging import queue_id
from activities.preflight import ruling
from activities.prepare import PrepareActivities, configured, target_and_settings
from activities.runs import asking
from activities.server import Server, server_of
from activities.settings import explain
from activities.site import Site, blocking, invalid, read_json, short_ref, write_atomically
from activities.swarm import mirror as mirroring
from activities.swarm.cards import Cards
from activities.swarm.contracts import (
    CycleEnd,
    FinishInput,
    Looked,
    LookInput,
    Mirrored,
    MirrorInput,
    OpenedSwarm,
    OpenSwarmInput,
    Refused,
    SwarmRef,
    TakeInInput,
    TakenIn,
)
from activities.swarm.files_on_target import Found, files_in
from activities.swarm.given import chosen, complete, installed_agents
from activities.swarm.known import Note, as_run, at_work, known_swarms, note, noted
from activities.swarm.ledger import Ledger
from activities.swarm.looking import account_seen, ends_of, in_queue, spent_by
from activities.swarm.opening import agents_in, as_task, check_agents, check_task, with_accounts
from activities.swarm.reading import cards_of
from activities.swarm.settings import SwarmInput

MOST_REFUSED = 50
LONGEST_ID = 200


class SwarmActivities:
    def __init__(self, site: Site) -> None:
        self.site = site

    # --- opening ---------------------------------------------------------------------------------------

    @activity.defn
    async def open_swarm(self, given: OpenSwarmInput) -> OpenedSwarm:
        """Check all that can be checked before money is spent, and make the swarm's folder.

        A second run finds the folder of the first. Raises InvalidTask, in one line, for what a user must mend.
        """
        try:
            wanted = SwarmInput.model_validate(given.given)
        except ValidationError as error:
            invalid("input", explain(error))
        opened, accounts = await blocking(self._open, given, wanted, await server_of(self.site.client))
        if wanted.continues:
            left = await self._continue(opened.ref, wanted.continues)
            opened = opened.model_copy(update={"notes": [*opened.notes, left]})
        for account in accounts:
            await PrepareActivities(self.site).open_quota(OpenQuotaInput(quota=account))
        return opened.model_copy(update={"attributes": self.site.attributes.is_set()})

    def _open(self, given: OpenSwarmInput, wanted: SwarmInput, server: Server) -> tuple[OpenedSwarm, list[str]]:
        if len(given.swarm_id) > LONGEST_ID:
            invalid("workflow id", f"must have at most {LONGEST_ID} characters: those of its tasks are made of it")
        try:
            repository = open_repository(wanted.repo)
            self.site.claim(repository)
        except (RepositoryProblem, UnsupportedRepository) as problem:
            invalid("repo", str(problem))
        config = configured(self.site)
        target, tip, of_tasks = target_and_settings(repository, as_task(wanted.repo, wanted.target, {}))
        read = partial(repository.read_file, tip)
        name, content, notes = chosen(read, wanted.file)
        settings, more = complete(
            given.given,
            name,
            content,
            spec_there=lambda path: read(path) is not None,
            installed=installed_agents(),
            reviewed=bool(of_tasks.reviewers),
        )
        task = as_task(wanted.repo, settings.target or short_ref(target), settings.task)
        target, base, of_tasks = target_and_settings(repository, task)
        check_task(of_tasks, config, repository, base)
        told = check_agents(settings, config, repository, base)
        settings = with_accounts(settings)
        key = task_key(given.swarm_id, given.run_id)
        ref = SwarmRef(swarm_id=given.swarm_id, key=key, repo=str(repository.path), target=target)
        note(self.site.home, Note(ref=ref, started=time.time(), base=base), server)
        opened = OpenedSwarm(
            ref=ref,
            host=self.site.host,
            settings=settings.model_copy(update={"target": short_ref(target)}),
            folder=str(self.site.home.swarm(key)),
            notes=[*notes, *more, *told],
            notify=config.wanted(ref.repo),
        )
        return opened, sorted({agent.account for agent in agents_in(settings).values() if agent.account})

    async def _continue(self, ref: SwarmRef, earlier_id: str) -> str:
        """Put on the board what an earlier swarm has left open. Raises InvalidTask."""
        home, ask = self.site.home, await asking(self.site.client)
        repository = await blocking(self._repository, ref)
        runs = [one for key, one in (await blocking(known_swarms, home)).items() if key != ref.key]
        theirs = [one for one in runs if one.ref.swarm_id == earlier_id]
        theirs.sort(key=lambda one: one.started, reverse=True)
        earlier = [one for one in theirs if as_run(home, one).common_dir == repository.common_dir]
        if not earlier:
            where = f"it is one of {theirs[0].ref.repo}" if theirs else "this data folder knows no swarm of this name"
            invalid("continues", f"{earlier_id}: {where}; see: starter.py swarms")
        for one in earlier:
            if (working := await at_work(home, one, ask)) == earlier_id:
                invalid("continues", f"{earlier_id} is not over: stop it first, or add your tasks to it")
            if working:
                invalid("continues", f"{working}, which {earlier_id} began, is not over: wait for it, or cancel it")
        return await blocking(self._take_over, repository, ref, [one.ref for one in earlier])

    def _take_over(self, repository: Repository, ref: SwarmRef, runs: Sequence[SwarmRef]) -> str:
        """`runs`: of the earlier swarm, the newest first. One that could not even be opened has no cards."""
        home, ledger = self.site.home, Ledger(self.site.home, repository.common_dir)
        earlier = next((one for one in runs if Cards(home.swarm(one.key)).all()), runs[0])
        board = read_json(home.swarm(earlier.key) / "board.json").get("board")
        left = [card for card in Cards(home.swarm(earlier.key)).all() if board is None or card.id in board]
        lost = _lost(ledger, repository, ref)
        done, runs_over = ledger.done(lost), {one.key for one in runs}
        left = [card for card in left if not (card.id in done and done[card.id].of(card))]
        others = ledger.take(ref.swarm_id, ref.key, [card for card in left if card.path], runs_over, lost)
        Cards(home.swarm(ref.key)).add([card for card in left if card.id not in others])
        return f"{len(left) - len(others)} tasks that {earlier.swarm_id} has left open are on the board"

    # --- taking in -------------------------------------------------------------------------------------

    @activity.defn
    async def take_in(self, given: TakeInInput) -> TakenIn:
        """Files on the target and the cards that were given come into the store. A second run finds them there.

        What is wrong with a file is told once for each content that it has.
        """
        repository = await blocking(self._repository, given.ref)
        found = await blocking(self._found, repository, given)
        others = await self._others_that_run(repository, given.ref, found)
        return await blocking(self._take_in, repository, given, found, others)

    def _found(self, repository: Repository, given: TakeInInput) -> list[Found]:
        if not given.read_target:
            return []
        with repository.git() as git:
            return files_in(git, _tip(repository, given.ref.target), cards_of)

    async def _others_that_run(
        self, repository: Repository, ref: SwarmRef, found: Sequence[Found]
    ) -> Mapping[str, bool]:
        """Of the runs of other swarms that have a card of these files: whether they, or cycles of theirs, still run."""
        ledger, home = Ledger(self.site.home, repository.common_dir), self.site.home
        ids = [card.id for file in found for card in file.cards]
        claims = await blocking(lambda: [ledger.entry(one).claim for one in ids])
        theirs = {claim.key for claim in claims if claim and claim.key != ref.key}
        if not theirs:
            return {}
        ask, runs = await asking(self.site.client), dict[str, bool]()
        for key in theirs:
            known = await blocking(noted, home, key)
            # Its folder goes only when it has been over for long.
            runs[key] = known is not None and bool(await at_work(home, known, ask))
        return runs

    def _take_in(
        self, repository: Repository, given: TakeInInput, found: Sequence[Found], others: Mapping[str, bool]
    ) -> TakenIn:
        ref, ledger = given.ref, Ledger(self.site.home, repository.common_dir)
        cards = Cards(self.site.home.swarm(ref.key))
        lost = _lost(ledger, repository, ref)
        known, over = {card.id for card in cards.all()}, [key for key, runs in others.items() if not runs]
        theirs = [card for file in found for card in file.cards]
        not_ours = ledger.take(ref.swarm_id, ref.key, [card for card in theirs if card.id not in known], over, lost)
        why = {file.path: list(file.refused) for file in found}
        for card in theirs:
            if swarm := not_ours.get(card.id):
                why[card.path].append(Refused(id=card.id, why=f"swarm {swarm} has it"))
        for card, problem in cards.add([card for card in theirs if card.id not in not_ours]):
            why[card.path].append(Refused(id=card.path, why=problem))
        refused = [Refused(id=card.id, why=problem) for card, problem in cards.add(given.cards)]
        if given.read_target:
            refused += _Told(self.site, ref).news(found, why, MOST_REFUSED - len(refused))
        rows, upto, more = cards.rows(given.upto, ledger.done(lost))
        return TakenIn(rows=rows, upto=upto, more=more, refused=refused[:MOST_REFUSED])

    # --- looking, ending -------------------------------------------------------------------------------

    @activity.defn
    async def look(self, given: LookInput) -> Looked:
        """How accounts, agents' slots, the disk and the money stand, and how cycles ended that say nothing.

        One that was ended with work in the merge queue is told of when the queue has let go of it.
        """
        client, repository = self.site.client, await blocking(self._repository, given.ref)
        seen = await asyncio.gather(*(account_seen(client, one, self.site.task_queue) for one in given.accounts))
        ended, spent = await asyncio.gather(ends_of(client, given.cycles), spent_by(client, given.spending))
        if silent := [end.cycle for end in ended if end.result is None]:
            queue = queue_id(repository, given.ref.target, self.site.task_queue)
            undecided = await in_queue(client, queue, silent)
            ended = [end for end in ended if end.cycle not in undecided]
        return Looked(
            accounts=dict(zip(given.accounts, seen, strict=True)),
            room=await blocking(self._room, repository),
            slots=self.site.slots.free,
            waiting=[cycle for cycle in given.begun if not self.site.slots.had_one(cycle)],
            spent=spent,
            ended=await blocking(self._as_landed, repository, given, ended),
        )

    def _room(self, repository: Repository) -> str:
        try:
            check_room(self.site.home, configured(self.site).disk, repository.common_dir)
        except DiskFull as problem:
            return str(problem)
        except ApplicationError as problem:  # of the worker's configuration
            return problem.message
        return ""

    def _as_landed(self, repository: Repository, given: LookInput, ended: list[CycleEnd]) -> list[CycleEnd]:
        """What landed has landed, also when a cycle could not say so: the commits of the target tell (FEATURES C10).

        Files of tasks alone are `planned`: what the cycle held is not done by them. All else is in the ledger then.
        """
        ref, unsaid = given.ref, [end.cycle for end in ended if end.outcome != "merged"]
        known = noted(self.site.home, ref.key)
        with repository.git() as git:
            landed = landed_since(git, known.base if known else "", _tip(repository, ref.target), unsaid)
        ledger, found = Ledger(self.site.home, repository.common_dir), list[CycleEnd]()
        for end in ended:
            if end.cycle in landed:
                end = end.model_copy(update={"outcome": "merged", "sha": landed[end.cycle]})
            if end.outcome == "merged" and end.sha and _planned(repository, end.sha):
                end = end.model_copy(update={"outcome": "planned"})
            elif end.outcome == "merged":
                ledger.finished(ref.swarm_id, ref.key, given.held.get(end.cycle, []), end.sha)
            found.append(end)
        return found

    @activity.defn
    async def finish(self, given: FinishInput) -> None:
        """Let go of what the swarm has taken in and not done, and keep its last board. A second run finds less."""
        await blocking(self._finish, given)

    def _finish(self, given: FinishInput) -> None:
        folder = self.site.home.swarm(given.ref.key)
        write_atomically(folder / "board.json", json.dumps({"at": time.time(), "board": given.board}, indent=1))
        with suppress(RepositoryProblem):  # it is gone: so is what was claimed there
            repository = open_repository(given.ref.repo)
            Ledger(self.site.home, repository.common_dir).release(given.ref.key, keep=given.held)
            if not given.lands_later:  # else the janitor does, with the swarm's folder
                mirroring.forget(repository, given.ref.key)

    # --- mirror ----------------------------------------------------------------------------------------

    @activity.defn
    async def mirror(self, given: MirrorInput) -> Mirrored:
        """Make the commit that writes the board to `tasks/`. A second run finds that of the first."""
        repository = await blocking(self._repository, given.ref)
        return await blocking(self._mirror, repository, given)

    def _mirror(self, repository: Repository, given: MirrorInput) -> Mirrored:
        home, ref = self.site.home, given.ref
        cards = [card for card in Cards(home.swarm(ref.key)).all() if card.id in given.places]
        # Written to the target they are files that another swarm could take in: first they are this one's.
        theirs = [card for card in cards if given.places[card.id] != "complete"]
        ledger = Ledger(home, repository.common_dir)
        others = ledger.take(ref.swarm_id, ref.key, theirs, (), _lost(ledger, repository, ref))
        mine = [card for card in cards if card.id not in others]
        return mirroring.mirror(repository, _tip(repository, ref.target), mine, given, cards_of)

    def _repository(self, ref: SwarmRef) -> Repository:
        try:
            repository = open_repository(ref.repo)
            self.site.claim(repository)
        except (RepositoryProblem, UnsupportedRepository) as problem:
            invalid("repo", str(problem))
        return repository


class _Told:
    """What the swarm was told of files. One attempt after another of the same activity tells the same."""

    def __init__(self, site: Site, ref: SwarmRef) -> None:
        info = activity.info()
        self.by = f"{info.workflow_run_id}/{info.activity_id}"
        self.file = site.home.swarm(ref.key) / "told.json"

    def news(self, found: Sequence[Found], why: Mapping[str, list[Refused]], most: int) -> list[Refused]:
        """What has not been told yet, about so much of it; the rest is told the next time."""
        before, now, news = read_json(self.file), dict[str, Any](), list[Refused]()
        for file in found:
            if not (refused := why[file.path]):
                continue
            said = "\0".join([file.blob, *(f"{one.id}\0{one.why}" for one in refused)])
            what = hashlib.sha256(said.encode()).hexdigest()[:16]
            earlier = before.get(file.path, {})
            if earlier.get("what") == what and earlier.get("by") != self.by:
                now[file.path] = earlier
            elif len(news) < most:
                now[file.path] = {"what": what, "by": self.by}
                news += refused
        if now != before:
            write_atomically(self.file, json.dumps(now))
        return news


def _planned(repository: Repository, sha: str) -> bool:
    """Whether what landed with this merge are files of tasks alone. A commit that is no merge may be one of several."""
    with repository.git() as git:
        if not git.objects.has(f"{sha}^2"):
            return False
    return only_tasks(repository.changed_files(f"{sha}^1", sha))


def _lost(ledger: Ledger, repository: Repository, ref: SwarmRef) -> set[str]:
    with repository.git() as git:
        return ledger.lost(git, _tip(repository, ref.target))


def _tip(repository: Repository, target: str) -> str:
    """Of what has landed; a settings file that cannot be read there stops no swarm."""
    try:
        return ruling(repository, target)
    except ApplicationError:
        return repository.tip(target)
