"""What only a person lets through, the queue's settings, and which results of gates are remembered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from temporalio.exceptions import ApplicationError

from activities import results
from activities.git.repository import open_repository
from activities.policy import Rules
from activities.preflight import for_leave, preflight
from activities.protected import gate_digests, queue_settings
from activities.results import Results
from activities.settings import GateSpec, Policy, QueueSettings
from tests.git.landings import work
from tests.git.repos import commit, make_repo


def protected(repo: Path, head: str, settings: QueueSettings) -> list[str]:
    opened = open_repository(str(repo))
    return for_leave(preflight(opened, opened.tip("main"), head, "merge", Rules(Policy(), settings.protected, "main")))


def test_what_decides_how_others_are_tested_waits_for_a_person(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo")
    (repo / "sub").mkdir()
    commit(repo, {"sub/keep": "x\n"})
    head = work(repo, {".gitattributes": "x\n", "sub/.gitattributes": "x\n", "code.py": "x\n", ".gitlab-ci.yml": "x\n"})
    assert protected(repo, head, QueueSettings()) == [".gitattributes", ".gitlab-ci.yml", "sub/.gitattributes"]


def test_the_settings_themselves_are_always_protected(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo")
    head = work(repo, {"mergewright.toml": "x = 1\n", "other/mergewright.toml": "x = 1\n", "ci/run": "x\n"})
    assert protected(repo, head, QueueSettings(protected=[])) == ["mergewright.toml"]
    assert protected(repo, head, QueueSettings(protected=["ci/"])) == ["ci/run", "mergewright.toml"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[queue]\ngate_slots = 0", "mergewright.toml: queue.gate_slots: Input should be greater than or equal to 1"),
        ("[queue]\ncolour = 1", "mergewright.toml: queue.colour: unknown field"),
        ("queue = 3", "mergewright.toml: queue: must be a table, [queue]"),
        ("[queue", "mergewright.toml: is not TOML: "),
    ],
)
def test_wrong_settings_are_told_in_one_line(text: str, told: str) -> None:
    with pytest.raises(ApplicationError) as refused:
        queue_settings(text.encode())
    assert str(refused.value).startswith(told) or told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_gates_are_known_by_their_command() -> None:
    file = b"[[gates]]\nname = 'a'\ncommand = 'make'\n[[gates]]\nname = 'b'\ncommand = 'make lint'\n"
    assert gate_digests(file) == [GateSpec(name="x", command=text).digest() for text in ("make", "make lint")]
    assert gate_digests(None) == gate_digests(b"[[gates]]\nname = 3\n") == []


def test_a_result_in_a_slot_outweighs_one_in_a_worktree(tmp_path: Path) -> None:
    known = Results(tmp_path)
    assert known.green("tree", precheck=True) == []
    known.keep("tree", ["a", "b"], "worktree")
    known.keep("tree", ["b"], "slot")
    known.keep("tree", ["b"], "worktree")
    assert known.green("tree", precheck=True) == ["a", "b"]
    assert known.green("tree", precheck=False) == ["b"]


def test_the_oldest_results_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MOST_KEPT", 4)
    known = Results(tmp_path)
    for number in range(5):
        known.keep(f"tree{number}", ["a"], "slot")
        os.utime(tmp_path / f"tree{number}.json", (number, number))
    kept = [number for number in range(5) if known.green(f"tree{number}", precheck=False)]
    assert kept[-1] == 4
    assert len(kept) <= 4
