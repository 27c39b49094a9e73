"""What a task's activities do differently where the task is a cycle of a swarm's worker."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from activities.agents.signals import NOWHERE, Place
from activities.contracts import CollectInput, Finding, SettleInput
from activities.git.repository import open_repository
from activities.home import Home
from activities.policy import visible
from activities.settings import Membership
from activities.site import read_json
from activities.swarm import ledger
from activities.swarm.cards import Cards
from activities.swarm.contracts import Card, Source
from activities.swarm.files_on_target import PENDING
from activities.swarm.reading import cards_of

Read = Callable[[str], bytes | None]

REMEDIES = {
    "only": "You plan: nothing but task files lands. Take the other files out of your change.",
    "none": "What is on the board is not yours to change. Take these files out of the change "
    "(`git checkout origin/{target} -- <path>`, or `git rm` a new one).",
    "unfit": "The board takes no such task: correct its file.",
    "many": "Keep the most important ones: there will be more planning.",
}


def member(home: Home, key: str) -> Membership | None:
    """As the task was given it. None: it is of no swarm."""
    told = read_json(home.run(key) / "task.json").get("swarm")
    return Membership.model_validate(told) if told else None


def place_of(swarm: Membership | None, holds: Sequence[str]) -> Place:
    return Place(swarm.may_claim, bool(holds), swarm.plans) if swarm else NOWHERE


def cards(home: Home, swarm: Membership | None, ids: Iterable[str]) -> list[Card]:
    """Those that there are."""
    wanted = list(ids)
    known = {card.id: card for card in Cards(home.swarm(swarm.key)).all()} if swarm and wanted else {}
    return [known[name] for name in wanted if name in known]


def is_task_file(path: str) -> bool:
    """Right in the folder, as swarms take them in."""
    return posixpath.dirname(path) == PENDING and path.endswith(".json")


def only_tasks(files: Sequence[str]) -> bool:
    return bool(files) and all(map(is_task_file, files))


def findings(given: CollectInput, files: Sequence[str], read: Read, target: str) -> list[Finding]:
    """For the agent to mend. A planner changes nothing but task files, whoever cannot plan none; and what is written in
    them is what the board can take. `read`: a file of the work, None where it is gone."""

    def finding(remedy: str, text: str, path: str = "") -> Finding:
        told = {"path": visible(path)[:500], "text": visible(text)[:500]}
        return Finding(rule="allow", severity="mend", remedy=REMEDIES[remedy].format(target=target), **told)

    if given.task_files == "free":
        return []
    if given.task_files == "none":
        return [finding("none", "is a task of the board", file) for file in files if file.startswith(f"{PENDING}/")]
    tasks = [file for file in files if is_task_file(file)]
    found = []
    if given.task_files == "only":
        found = [finding("only", "is no file of a task", file) for file in files if file not in set(tasks)]
    contents = ((file, read(file)) for file in tasks)
    all_cards = {file: cards_of(data, file) if data is not None else ([], []) for file, data in contents}
    if given.task_files == "only" and given.max_new_tasks:
        many = sum(max(len(made), 1) for made, _ in all_cards.values())  # a file may be a list of tasks
        if many > given.max_new_tasks:
            found.append(finding("many", f"{many} tasks, and {given.max_new_tasks} may be added now"))
    return [*found, *(finding("unfit", one.why, file) for file, (_, refused) in all_cards.items() for one in refused)]


def card_of(proposed: dict[str, Any], source: Source) -> Card:
    """Of a proposal, by an id that the same proposal always gets."""
    title = " ".join(str(proposed["title"]).split())
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60].strip("-") or "task"
    digest = hashlib.sha256(f"{title}\0{proposed['description']}".encode()).hexdigest()[:6]
    return Card.model_validate(
        {**proposed, "title": title, "id": proposed["id"] or f"{words}-{digest}", "source": source}
    )


def done(home: Home, given: SettleInput) -> None:
    """Into the repository's ledger: neither this swarm nor another one does these tasks again."""
    common_dir = open_repository(given.ref.repo).common_dir
    ledger.done(home, common_dir, given.swarm, given.swarm_key, given.claims, given.sha)


def prompt_values(home: Home, key: str, holds: Sequence[str], got: Sequence[str]) -> dict[str, Any]:
    """For the templates: whose worker it is, and the whole cards of what it holds and has just got."""
    swarm = member(home, key)
    return {"swarm": swarm, "cards": cards(home, swarm, holds), "got": cards(home, swarm, got)}
