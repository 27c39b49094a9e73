"""What all swarms of a repository know of its tasks: who has taken one in, and what is done.

A file for each card, `repositories/<id>/board/<card>.json` in the data folder, written whole and under one lock. So
neither a second swarm nor a later one does a task again whose file is still on the target.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from activities.git.locks import exclusive
from activities.git.run import Git
from activities.home import Home, safe_name
from activities.settings import Model
from activities.site import write_model
from activities.swarm.cards import Cards, digest
from activities.swarm.contracts import Card


class Claim(Model):
    """A swarm has taken the card in."""

    swarm: str
    """Workflow id."""
    key: str
    """Of its run."""
    digest: str


class Done(Model):
    """Work for the card is on the target."""

    sha: str
    digest: str = ""
    """Of the card as it was then; empty: nobody knows."""
    swarm: str = ""
    """Workflow id of the one that did it."""

    def of(self, card: Card) -> bool:
        """Not of one that was written anew since, under the same id."""
        return self.digest in ("", digest(card))


class Entry(Model):
    id: str
    claim: Claim | None = None
    done: Done | None = None


class Ledger:
    """`common_dir`: of the repository."""

    def __init__(self, home: Home, common_dir: Path) -> None:
        self.home = home
        self.folder = home.board(common_dir)
        self.lock = home.repository(common_dir) / "board.lock"

    def entries(self) -> Iterator[Entry]:
        for file in sorted(self.folder.glob("*.json")):
            with suppress(FileNotFoundError):  # let go of meanwhile
                yield Entry.model_validate_json(file.read_bytes())

    def entry(self, card_id: str) -> Entry:
        try:
            return Entry.model_validate_json(self._file(card_id).read_bytes())
        except FileNotFoundError:
            return Entry(id=card_id)

    def take(
        self, swarm: str, key: str, cards: Iterable[Card], over: Collection[str], lost: Collection[str]
    ) -> dict[str, str]:
        """Note the cards as this swarm's. Returns those that are not: the other swarm that has one; empty: it is done.

        `over`: keys of runs of swarms that have ended; what they had is anybody's. `lost`: as `lost` says. What others
        have done or taken since counts: all is looked at under the lock. A second run takes the same.
        """
        others = {}
        with exclusive(self.lock):
            for card in cards:
                entry, mine = self.entry(card.id), Claim(swarm=swarm, key=key, digest=digest(card))
                if entry.done and entry.done.sha not in lost and entry.done.of(card):
                    others[card.id] = ""
                elif entry.claim and entry.claim.key != key and entry.claim.key not in over:
                    others[card.id] = entry.claim.swarm
                elif entry.claim != mine:
                    self._write(entry.model_copy(update={"claim": mine}))
        return others

    def release(self, key: str, ids: Collection[str] | None = None, keep: Collection[str] = ()) -> None:
        """What this run of a swarm has taken in is anybody's again; None: all of it, but for `keep`."""
        with exclusive(self.lock):
            for entry in self.entries() if ids is None else map(self.entry, ids):
                if entry.claim and entry.claim.key == key and entry.id not in keep:
                    self._write(entry.model_copy(update={"claim": None}))

    def finished(self, swarm: str, key: str, ids: Iterable[str], sha: str) -> None:
        """Work for these is on the target. A second run changes nothing."""
        known = {card.id: card for card in Cards(self.home.swarm(key)).all()}
        with exclusive(self.lock):
            for card_id in ids:
                entry, card = self.entry(card_id), known.get(card_id)
                claim = None if entry.claim and entry.claim.key == key else entry.claim
                done = Done(sha=sha, digest=digest(card) if card else "", swarm=swarm)
                self._write(entry.model_copy(update={"claim": claim, "done": done}))

    def done(self, lost: Collection[str]) -> dict[str, Done]:
        """By id, what is done. `lost`: as `lost` says."""
        return {entry.id: entry.done for entry in self.entries() if entry.done and entry.done.sha not in lost}

    def lost(self, git: Git, tip: str) -> set[str]:
        """Commits of what was done that `tip`, the target, lacks: who throws history away has it done again."""
        shas = {one.sha for one in self.done(()).values()}
        there = {sha for sha in shas if sha and git.objects.has(sha)}
        asked = "".join(f"{line}\n" for line in (*sorted(there), f"^{tip}"))
        return (shas - there) | (shas & set(git("rev-list", "--stdin", stdin=asked.encode()).split()))

    def _file(self, card_id: str) -> Path:
        return self.folder / f"{safe_name(card_id)}.json"

    def _write(self, entry: Entry) -> None:
        if entry.claim is None and entry.done is None:
            self._file(entry.id).unlink(missing_ok=True)
        else:
            write_model(self._file(entry.id), entry)


def done(home: Home, common_dir: Path, swarm: str, key: str, ids: Iterable[str], sha: str) -> None:
    """A cycle of the swarm's run `key` has brought its work for these cards onto the target, as `sha`."""
    Ledger(home, common_dir).finished(swarm, key, ids, sha)
