"""Heads merged in memory: which of them are in conflict, in which files, and that the repository stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from activities.git.radar import conflicts, in_flight
from activities.git.repository import Repository, open_repository, pin
from tests.git.repos import commit, git, make_repo

LINES = "".join(f"line {number}\n" for number in range(30))
FIRST = {"a.txt": LINES, "b.txt": LINES, "image": b"\0\1\2" * 50, "sub/é.txt": "x\n"}
Files = Mapping[str, bytes | str | None]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo", FIRST)


def work(repo: Path, key: str, files: Files, on: str = "main") -> str:
    """A commit that the repository holds for the worktree `key`, and no branch."""
    git(repo, "checkout", "-q", "--detach", on)
    sha = commit(repo, files)
    git(repo, "update-ref", pin("task", key), sha)
    git(repo, "checkout", "-q", "main")
    return sha


def opened(repo: Path) -> Repository:
    return open_repository(str(repo))


def between(repo: Path, ours: Files, theirs: Files) -> list[str] | None:
    """The paths in conflict, the same whoever asks; None: it merges."""
    one, two = work(repo, "one", ours), work(repo, "two", theirs)
    found = conflicts(opened(repo), one, {"two": two}).get("two")
    assert conflicts(opened(repo), two, {"one": one}).get("one") == found
    return found


def test_the_same_line(repo: Path) -> None:
    ours, theirs = (LINES.replace("line 7\n", f"{who}\n") for who in ("ours", "theirs"))
    assert between(repo, {"a.txt": ours, "c": "x"}, {"a.txt": theirs, "d": "x"}) == ["a.txt"]


def test_other_lines_and_other_files_merge(repo: Path) -> None:
    ours, theirs = (LINES.replace(f"line {number}\n", "new\n") for number in (3, 20))
    assert between(repo, {"a.txt": ours, "c": "x"}, {"a.txt": theirs, "d": "x"}) is None


def test_the_same_change_merges(repo: Path) -> None:
    assert between(repo, {"a.txt": "same\n"}, {"a.txt": "same\n"}) is None


def test_both_add_a_file(repo: Path) -> None:
    assert between(repo, {"new": "ours\n"}, {"new": "theirs\n"}) == ["new"]


def test_one_deletes_what_the_other_changes(repo: Path) -> None:
    assert between(repo, {"a.txt": None}, {"a.txt": LINES + "more\n"}) == ["a.txt"]


def test_a_renamed_file_that_the_other_changes_merges(repo: Path) -> None:
    assert between(repo, {"a.txt": None, "moved.txt": LINES}, {"a.txt": LINES + "more\n"}) is None


def test_a_file_that_both_rename(repo: Path) -> None:
    found = between(repo, {"a.txt": None, "left": LINES + "l\n"}, {"a.txt": None, "right": LINES + "r\n"})
    assert found is not None
    assert {"left", "right"} <= set(found)


def test_binary_files(repo: Path) -> None:
    assert between(repo, {"image": b"\0\3"}, {"image": b"\0\4"}) == ["image"]


def test_a_file_and_a_folder_of_one_name(repo: Path) -> None:
    assert between(repo, {"place": "x\n"}, {"place/inside": "x\n"}) is not None


def test_names_with_all_that_a_name_can_hold(repo: Path) -> None:
    names = ["sub/é.txt", "with space", 'quo"te', "line\nbreak"]
    found = between(repo, dict.fromkeys(names, "ours\n"), dict.fromkeys(names, "theirs\n"))
    assert found is not None
    assert sorted(found) == sorted(names)


def test_what_one_contains_of_the_other_merges(repo: Path) -> None:
    first = work(repo, "one", {"a.txt": "one\n"})
    second = work(repo, "two", {"a.txt": "two\n"}, on=first)
    assert conflicts(opened(repo), first, {"two": second}) == {}
    assert conflicts(opened(repo), second, {"one": first}) == {}


def test_no_history_in_common_spoils_nothing_for_the_others(repo: Path) -> None:
    git(repo, "checkout", "-q", "--orphan", "alone")
    alone = commit(repo, {"a.txt": "alone\n"})
    git(repo, "checkout", "-q", "main")
    one, two = work(repo, "one", {"b.txt": "one\n"}), work(repo, "two", {"b.txt": "two\n"})
    found = conflicts(opened(repo), one, {"alone": alone, "two": two})
    assert found["two"] == ["b.txt"]
    assert "a.txt" in found["alone"]


def test_work_in_flight_is_what_the_target_does_not_contain(repo: Path) -> None:
    landed = work(repo, "landed", {"c": "x"})
    git(repo, "merge", "-q", "--ff-only", landed)
    git(repo, "update-ref", pin("base", "begun.1"), landed)
    one = work(repo, "one.1", {"d": "x"})
    assert in_flight(opened(repo), landed) == {"one.1": one}


def test_sixty_at_once_and_nothing_is_left_in_the_repository(repo: Path) -> None:
    made = []
    for number in range(60):
        lines = LINES.replace(f"line {number % 20}\n", f"task {number}\n")
        made += [f"commit {pin('task', f't{number}')}", "committer U <u@example.org> 1700000000 +0000", "data 0"]
        made += ["from refs/heads/main", "M 100644 inline a.txt", f"data {len(lines)}", lines]
    git(repo, "fast-import", "--quiet", stdin="\n".join(made).encode())
    others = in_flight(opened(repo), git(repo, "rev-parse", "main"))
    before = sorted((repo / ".git").rglob("*"))
    found = conflicts(opened(repo), others.pop("t7"), others)
    assert {"t27", "t47"} <= found.keys() <= {f"t{number}" for number in range(60) if number % 20 in (6, 7, 8)}
    assert set(map(tuple, found.values())) == {("a.txt",)}
    assert sorted((repo / ".git").rglob("*")) == before


def test_nobody_else_is_nothing(repo: Path) -> None:
    assert conflicts(opened(repo), git(repo, "rev-parse", "main"), {}) == {}
