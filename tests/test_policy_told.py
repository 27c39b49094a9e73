"""What an agent is told of the policy before it begins."""

from __future__ import annotations

from typing import Any

import pytest

from activities.policy import Rules
from activities.policy_told import MOST_NAMED, told
from activities.settings import Policy, Strategy


def said(strategy: Strategy = "merge", **policy: Any) -> list[str]:
    return told(Rules(Policy.model_validate(policy), [], "main"), strategy)


def test_nothing_is_said_where_nothing_is_set() -> None:
    assert said() == said(not_secret=["x"], exempt={"size": ["a"]}, allow=[], deny=[], authors=[], subject="") == []


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        ({"allow": ["src/", "docs/"]}, "Only these paths may change: `src/`, `docs/`."),
        ({"deny": ["vendor/"]}, "These paths must not change: `vendor/`."),
        ({"max_lines": 400}, "At most 400 lines may be added and deleted in all."),
        ({"max_files": 9}, "At most 9 files may change."),
        ({"max_file_kb": 64}, "No file may become larger than 64 KB."),
        ({"binaries": []}, "No binary files."),
        ({"binaries": ["*.png"]}, "No binary files but `*.png`."),
        ({"hooks": ["x\n"]}, r"A change of these waits for a person: `x\n`."),
        ({"deny": ["a"], "approve": ["deny"]}, "These paths must not change: `a`. Else it waits for a person."),
    ],
)
def test_each_rule_that_is_set_has_a_line(policy: dict[str, Any], line: str) -> None:
    assert said(**policy) == said("squash", **policy) == [line]


def test_what_is_only_for_single_commits_is_said_where_they_land() -> None:
    policy = {"authors": ["*@b.org"], "subject": "^fix: ", "max_subject": 50}
    assert [line.split()[0] for line in said(**policy)] == ["Commits", "Commit", "The"]
    assert "must match `^fix: `" in said(**policy)[1]
    assert said("squash", **policy) == []


def test_what_is_off_is_not_said_and_a_long_list_is_cut() -> None:
    assert said(deny=["a"], max_lines=3, off=["deny", "lines"]) == []
    [line] = said(deny=["x"] * (MOST_NAMED + 3))
    assert line.endswith("`x` and 3 more (all are in mergewright.toml).")
