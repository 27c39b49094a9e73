"""What a swarm's activities take and return, and what its parts say to each other.

A card is a task of the board as somebody wrote it; cards lie in the swarm's folder on the worker's host. The workflow
knows a row of each: what it decides by. Cards are numbered as they come, so whoever asks says up to which number it
knows them, and a retry gives the same answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from activities.contracts import NoticeEvent
from activities.settings import CardId, Model
from activities.swarm.settings import SwarmSettings

Source = Literal["file", "operator", "planner", "agent", "issues"]
"""Where a card comes from: a file on the target, `starter.py add`, a planner, an agent that does another task, or a
list of issues."""


class Card(Model):
    """One task of the board."""

    id: CardId
    title: Annotated[str, Field(min_length=1, max_length=300)]
    """One line."""
    description: str = Field("", max_length=32_000)
    acceptance: list[Annotated[str, Field(max_length=4_000)]] = Field([], max_length=100)
    files: list[Annotated[str, Field(max_length=500)]] = Field([], max_length=200)
    """What it will probably change: paths, or patterns as in .gitignore."""
    difficulty: str = Field("", max_length=40)
    priority: int = Field(0, ge=-1000, le=1000, strict=True)
    """Higher is done sooner. `P1` in a file is 90, `P2` 80 …"""
    after: list[CardId] = Field([], max_length=100)
    """Tasks of the board that must be complete before this one is begun."""
    labels: list[Annotated[str, Field(max_length=100)]] = Field([], max_length=20)
    source: Source = "operator"
    path: str = ""
    """Of its file on the target, where it comes from one."""

    # As it is read again from a file that a swarm has written: else it would be another task.

    @field_validator("title")
    @classmethod
    def _one_line(cls, title: str) -> str:
        if not (line := " ".join(title.split())):
            raise ValueError("must not be blank")
        return line

    @field_validator("description", "difficulty")
    @classmethod
    def _trimmed(cls, text: str) -> str:
        return text.replace("\r\n", "\n").strip()

    @field_validator("acceptance", "files", "after", "labels")
    @classmethod
    def _each_once(cls, texts: list[str]) -> list[str]:
        return list(dict.fromkeys(filter(None, map(str.strip, texts))))


class Row(Model):
    """What the workflow knows of a card."""

    id: str
    title: str
    """At most 100 characters."""
    priority: int = 0
    after: list[str] = Field(default_factory=list)
    """Without those that were complete before the swarm began."""
    files: list[str] = Field(default_factory=list)
    """At most 20, and 1,500 characters."""
    source: Source = "operator"


class Refused(Model):
    """A card that was not taken, or a claim that was not granted."""

    id: str
    why: str


class SwarmRef(Model):
    """Names one run of one swarm, and where its things are."""

    swarm_id: str
    """The Temporal workflow id."""
    key: str
    """Folder name of this run, as of a task."""
    repo: str
    target: str
    """Full ref name."""


class OpenSwarmInput(Model):
    swarm_id: str
    run_id: str
    """First run id of the workflow's chain."""
    given: dict[str, Any]
    """What the operator gave, without defaults: those of the repository's file come first."""


class OpenedSwarm(Model):
    ref: SwarmRef
    host: str
    settings: SwarmSettings
    """Complete: of each agent the account is the whole name."""
    folder: str
    """On that host."""
    attributes: bool | None = None
    """Whether the search attributes are registered."""
    notes: list[str] = []
    """What a person should know: a default that was chosen, a key that means nothing here."""
    notify: list[NoticeEvent] = []


class TakeInInput(Model):
    """Read what is new: on the target under `tasks/pending/`, and `cards` besides."""

    ref: SwarmRef
    upto: int
    """Number of the newest card that the workflow knows; 0: none."""
    cards: list[Card] = []
    read_target: bool = True


class TakenIn(Model):
    rows: list[Row]
    """At most 100, and not more than fit in one answer: those after `upto`, in their order."""
    upto: int
    """Number of the last of them."""
    more: bool = False
    """There are more rows: ask again."""
    refused: list[Refused] = []
    """Files and cards that were not taken, and why. At most 50."""


class AccountSeen(Model):
    """What a quota says of an account."""

    free: int | None = None
    """Turns that could begin now; None: nobody knows, its quota does not run."""
    parked_until: float | None = None
    """Seconds since the epoch."""
    why: str = ""


class LookInput(Model):
    """How things stand outside: before cycles are begun, and for those that say nothing."""

    ref: SwarmRef
    accounts: list[str] = []
    cycles: list[str] = []
    """Workflow ids of tasks that may have ended without saying so."""
    held: dict[str, list[str]] = {}
    """What these hold: where their work is on the target, it is done."""
    begun: list[str] = []
    """Workflow ids of the swarm's tasks that run: which of them are yet to take their first turn?"""
    spending: list[str] = []
    """Workflow ids of tasks that run: what have they cost so far?"""


class CycleEnd(Model):
    """How a cycle's task ended, as the server and git know it."""

    cycle: str
    outcome: str
    """As of a `TaskResult`, or `terminated`. Work that is on the target is `merged`, whatever the server says."""
    sha: str = ""
    reason: str = ""
    result: dict[str, Any] | None = None
    """Its `TaskResult`, where it has one."""


class Looked(Model):
    accounts: dict[str, AccountSeen] = {}
    room: str = ""
    """Why no worktree can be made now; empty: there is room on the disk."""
    slots: int | None = None
    """Turns that could begin on the host now; None: an older worker does not say."""
    waiting: list[str] = []
    """Those of `begun` that have had no turn yet, as far as the worker knows."""
    spent: dict[str, float] = {}
    """Dollars, of `spending`: of the turns that have ended. Those that nobody knows are missing."""
    ended: list[CycleEnd] = []
    """Those of `cycles` that run no more."""


class MirrorInput(Model):
    """Write the board to `tasks/` on the target, as one commit through the merge queue."""

    ref: SwarmRef
    places: dict[str, Literal["pending", "current", "complete"]]
    """Where each card's file is to lie."""
    holders: dict[str, str] = {}
    """Of the current ones."""
    done_by: dict[str, str] = {}
    """Worker, of the complete ones."""
    number: int
    """Of this write: unique in the swarm, so that a retry is known."""


class Mirrored(Model):
    branch: str = ""
    """What is to land, a ref of ours; empty: the target has it all already."""
    head: str = ""
    files: int = 0
    more: bool = False
    """There is more to write: ask again when this has landed."""


class FinishInput(Model):
    """The swarm is over: its claims on files of the target are let go, and its last board is kept in its folder."""

    ref: SwarmRef
    board: dict[str, str]
    """Place by card, of those that are not complete."""
    held: list[str] = []
    """Of those: what cycles still hold that go on after the swarm. No other swarm begins it meanwhile."""
    lands_later: bool = False
    """The merge queue still has the last board, and lands it only while its ref is there."""
