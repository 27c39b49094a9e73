"""The data folder: the only module that knows where things lie in it.

worktrees/<key>/            a task's worktree (a shared clone)
worktrees/<key>.lock        held by whatever works in it; the fence against a second attempt
runs/<key>/                 a task's bulk: ref.json (whose it is), server.json (on which server), task.json, setup/,
                            turns/, sessions/, gates/, policy/, overuse/ (which limit ended the last turn) …, and
                            box/: home and temporary files of its set-up, agents and gates
repositories/<id>/          per repository: repository.json (which one), landing.lock, landing.json, slots/,
                            candidates/ of its merge queues, gates/ (logs of the queues' runs), results/ (gates that
                            have passed, by tree), setups/ (what set-up commands have made, by what they depend on),
                            board/ (which swarm has which task of a file, and which tasks are done)
swarms/<key>/               of one run of a swarm: swarm.json (whose it is), server.json, cards.jsonl (its tasks),
                            told.json (which files it said that it did not take in), board.json (what it left open)
notices/                    what was told to operators that is of no single task; of a task: runs/<key>/notices/
ports.json                  who holds which block of ports
past/                       what ended tasks were, by server and run id: for reports, after the server has forgotten
temporal/                   the development server's database and log
janitor.json                what the last clean-up did; janitor-ages.json: since when it knows what it keeps
workers/                    which worker process runs which activities, to recover after a kill
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import platformdirs


def default_home() -> Path:
    """`MERGEWRIGHT_HOME`, else the platform's folder for user data."""
    return Path(os.environ.get("MERGEWRIGHT_HOME") or platformdirs.user_data_dir("mergewright", appauthor=False))


def safe_name(text: str) -> str:
    """A name that is safe as one part of a path and of a ref; distinct texts give distinct names."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:60] or "task"
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def task_key(task_id: str, run_id: str) -> str:
    """Of one run of a task. The end of the run id: its beginning is the time, the same for runs of one minute."""
    return f"{safe_name(task_id)}.{run_id[-12:]}"


def repository_id(common_dir: Path) -> str:
    """By the real path of the git directory, not of the checkout that named it."""
    return hashlib.sha256(os.fsencode(common_dir.resolve())).hexdigest()[:16]


@dataclass(frozen=True)
class Home:
    root: Path

    def create(self) -> None:
        """For its owner alone: prompts and transcripts are in it. One that exists is left as it is."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def worktree(self, key: str) -> Path:
        return self.root / "worktrees" / key

    def worktree_lock(self, key: str) -> Path:
        return self.root / "worktrees" / f"{key}.lock"

    def run(self, key: str) -> Path:
        return self.root / "runs" / key

    def rebuilt(self, key: str) -> Path:
        """There until a worktree that had to be rebuilt is set up again."""
        return self.run(key) / "rebuilt"

    def turn(self, key: str, turn: int, role: str) -> Path:
        return self.run(key) / "turns" / f"{turn:03d}-{role}"

    def box(self, key: str, role: str) -> Path:
        """Home and temporary files in a sandbox. What a reviewer or a gate finds there, no author has left."""
        return self.run(key) / "box" / (role if role in ("reviewer", "gate", "setup") else "agent")

    def overuse(self, key: str, role: str) -> Path:
        """What the box's last turn used more of than it may."""
        return self.run(key) / "overuse" / f"{self.box(key, role).name}.json"

    def repository(self, common_dir: Path) -> Path:
        return self.root / "repositories" / repository_id(common_dir)

    def candidate(self, common_dir: Path, op: str) -> Path:
        return self.repository(common_dir) / "candidates" / f"{op}.json"

    def gate(self, common_dir: Path, digest: str) -> Path:
        """Kept: a run may need it after its candidate has gone."""
        return self.repository(common_dir) / "gate-specs" / f"{digest}.json"

    def results(self, common_dir: Path) -> Path:
        return self.repository(common_dir) / "results"

    def setups(self, common_dir: Path) -> Path:
        return self.repository(common_dir) / "setups"

    def swarm(self, key: str) -> Path:
        """Of one run of a swarm."""
        return self.root / "swarms" / key

    def board(self, common_dir: Path) -> Path:
        """What all swarms of a repository know of its tasks, by card."""
        return self.repository(common_dir) / "board"

    @property
    def past(self) -> Path:
        return self.root / "past"

    @property
    def ports(self) -> Path:
        return self.root / "ports.json"

    def notices(self, key: str) -> Path:
        """Of one run of a task; without a key, of none."""
        return (self.run(key) if key else self.root) / "notices"

    @property
    def cleaned_up(self) -> Path:
        return self.root / "janitor.json"

    @property
    def ages(self) -> Path:
        return self.root / "janitor-ages.json"

    @property
    def temporal(self) -> Path:
        return self.root / "temporal"

    @property
    def workers(self) -> Path:
        return self.root / "workers"
