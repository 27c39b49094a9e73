"""Task files, lists of tasks and lists of issues become cards, or are refused by name; nothing is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities.swarm.contracts import Card
from activities.swarm.reading import cards_of

TASK = {
    "id": "C1-login",
    "summary": "Login answers\nwith a session",
    "description": "Write src/login.py.\r\n\r\nSee spec.md, section 3.",
    "difficulty": "medium",
    "target_files": ["src/login.py", "tests/test_login.py"],
    "files": "src/login.py",
    "acceptance": ["a wrong password is a 401"],
    "priority": "P1",
    "depends_on": ["C0-skeleton"],
    "blocked_by": "C0-db",
    "tags": ["#eng-task"],
    "completed_by": None,
    "execution_type": "spell",
}


def one(entry: Any, name: str = "tasks/pending/c1.json") -> Card:
    [card], refused = cards_of(json.dumps(entry).encode(), name)
    assert refused == []
    return card


def why(entry: Any, name: str = "tasks/pending/c1.json") -> str:
    cards, [refused] = cards_of(entry if isinstance(entry, bytes) else json.dumps(entry).encode(), name)
    assert cards == []
    assert refused.id.startswith(name)
    return refused.why


def test_a_task_file_with_oompas_keys() -> None:
    assert one(TASK) == Card(
        id="C1-login",
        title="Login answers with a session",
        description="Write src/login.py.\n\nSee spec.md, section 3.",
        acceptance=["a wrong password is a 401"],
        files=["src/login.py", "tests/test_login.py"],
        difficulty="medium",
        priority=90,
        after=["C0-skeleton", "C0-db"],
        labels=["#eng-task"],
        source="file",
        path="tasks/pending/c1.json",
    )


def test_what_a_task_does_not_say() -> None:
    card = one({"description": "# Build the login\n\nIt asks for a password."}, "tasks/pending/my task (2).json")
    assert (card.id, card.title, card.priority, card.after) == ("my-task-2-", "Build the login", 0, [])
    assert one({"id": "fix-login"}).title == "fix-login"


@pytest.mark.parametrize(
    ("given", "expected"),
    [("P0", 100), ("p2", 80), ("P9", 10), (7, 7), (-3.0, -3), ("12", 12), ("High", 90), ("medium", 0), ("low", -90)],
)
def test_a_priority(given: Any, expected: int) -> None:
    assert one({"priority": given}).priority == expected


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"id": "two words"}, "id: must be one word"),
        ({"id": ["a"]}, "id: must be one word"),
        ({"summary": {"en": "x"}}, "summary: must be text"),
        ({"description": "x" * 32_001}, "description: is longer than 32,000 characters"),
        ({"summary": "x" * 301}, "title: "),
        ({"files": [{"path": "a"}]}, "files: must be a list of texts"),
        ({"files": [str(number) for number in range(201)]}, "files: "),
        ({"acceptance": ["x" * 4_001]}, "acceptance.0: "),
        ({}, "title: required"),
        ({"issues": [{"number": 1, "title": "x"}]}, "title: required"),
        ([{}] * 5_001, "is a list of more than 5,000"),
        ({"priority": "soon"}, "priority: must be a whole number"),
        ({"priority": 5_000}, "priority: "),
        ({"priority": True}, "priority: "),
        ({"id": "a", "after": ["a"]}, "after: it waits for itself"),
        ({"after": ["b c"]}, "after: must be one word"),
        ("write the login", "must be a task, or a list"),
        (b'{"id": "a",}', "is not JSON: line 1, column 12"),
        (b'{"priority": NaN}', "has a number that is none"),
        (b'{"summary": "\\ud800"}', "one half of a surrogate pair"),
        (b"\xff", "is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_task_that_is_refused_says_why(entry: Any, expected: str) -> None:
    assert expected in why(entry)


def test_edn_is_refused_with_the_remedy() -> None:
    assert "write the task as JSON" in why(b'{:id "a"}', "tasks/pending/a.edn")


def test_a_list_of_tasks_takes_what_is_good() -> None:
    given = [{"id": "a", "title": "A"}, {"id": "b", "title": "B", "after": "a"}, {"title": "C"}, {"id": "a"}, 3]
    cards, refused = cards_of(json.dumps(given).encode(), "more.json", "operator")
    assert [(card.id, card.source, card.path) for card in cards] == [("a", "operator", ""), ("b", "operator", "")]
    assert [(item.id, item.why) for item in refused] == [
        ("more.json[2]", "id: required, but not given"),
        ("more.json: a", "id: a is in the list twice: give the second another"),
        ("more.json[4]", "must be a JSON object"),
    ]


def test_githubs_list_on_the_command_line() -> None:
    issues = [
        {"number": 12, "title": "Login", "body": "Depends on #3 and #4, #99\r\nblocked by: #12x", "state": "OPEN",
         "labels": [{"id": "L1", "name": "P1"}, {"id": "L2", "name": "good first issue"}]},
        {"number": 3, "title": "Database", "body": None, "labels": []},
        {"number": 4, "title": "Sessions", "body": "see #3", "labels": [{"name": "priority: high"}]},
    ]  # fmt: skip
    cards, refused = cards_of(json.dumps(issues).encode(), "issues.json")
    assert refused[0].why == "after: it waits for itself: leave that out"
    assert [(card.id, card.priority, card.after, card.source) for card in cards] == [
        ("issue-3", 0, [], "issues"),
        ("issue-4", 90, [], "issues"),
    ]
    issues[0]["body"] = "Depends on #3 and #4, #99"
    login = cards_of(json.dumps(issues).encode(), "issues.json")[0][0]
    assert (login.after, login.priority, login.labels) == (["issue-3", "issue-4"], 90, ["P1", "good first issue"])


def test_githubs_and_giteas_api() -> None:
    issues = [
        {"id": 901, "number": 1, "title": "A pull request", "state": "open", "pull_request": {"url": "…"}},
        {"id": 902, "number": 2, "title": "Done", "state": "closed", "pull_request": None, "labels": []},
        {"id": 903, "number": 3, "title": "Open", "state": "open", "pull_request": None, "body": "Blocked by #2",
         "labels": [{"id": 7, "name": "Priority/Critical", "color": "ff0000"}, {"name": "kind/bug"}]},
        {"id": 904, "number": 4, "title": "Long", "state": "open", "body": "x" * 40_000},
    ]  # fmt: skip
    [card], [refused] = cards_of(json.dumps(issues).encode(), "issues.json")
    assert (card.id, card.priority, card.after) == ("issue-3", 100, [])
    assert (refused.id, refused.why[:12]) == ("issues.json: issue-4", "description:")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "title", "number", "body", "labels", "state", "priority", "after", "files"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=80) | _JSON.map(lambda value: json.dumps(value).encode()), st.text(max_size=10))
@settings(max_examples=100, deadline=None)
def test_no_bytes_crash_the_reader(data: bytes, name: str) -> None:
    cards, refused = cards_of(data, name)
    for found in (*cards, *refused):
        assert found.model_dump_json().encode()
    assert all("\n" not in item.why for item in refused)
