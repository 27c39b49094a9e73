"""What a plan says that it changes, however it is written down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.plan_files import MOST, planned, unplanned

PLAN = """Do this, then that.

## Files

{}

## Risks

- `other.py` may break
"""


@pytest.mark.parametrize(
    ("lines", "patterns"),
    [
        ("src/app.py\ntests/\n", ["src/app.py", "tests/"]),
        ("- `src/app.py`\n* ./docs/use.md\n1. Makefile", ["src/app.py", "docs/use.md", "Makefile"]),
        ("- `src/app.py`: calls `main()`\n- src/b.py (new)\n- src/c.py - gone", ["src/app.py", "src/b.py", "src/c.py"]),
        ("- `a.py`, `b.py` and `c.py`\n- `a file.txt`", ["a.py", "b.py", "c.py", "a file.txt"]),
        ("```\nsrc/**/*.py\n*.md\n```", ["src/**/*.py", "*.md"]),
        ("These change:\n\n- **src/app.py**: a line", ["src/app.py"]),
        ("None.", []),
        ("- /etc/passwd\n- ../other\n- !keep", []),
    ],
)
def test_its_section_is_read_leniently(lines: str, patterns: list[str]) -> None:
    assert planned(PLAN.format(lines)) == patterns


@pytest.mark.parametrize("heading", ["# Files", "### Files to change", "**Files**", "Files:", "4. Files", "**Files:**"])
@pytest.mark.parametrize("next_one", ["## Tests", "**Tests**", "Tests:"])
def test_its_heading_is_known_in_many_forms(heading: str, next_one: str) -> None:
    """Below a heading, `Tests:` is a part of the list; below `Files:` it is the next heading."""
    part = next_one == "Tests:" and heading.startswith(("#", "*"))
    assert planned(f"x\n\n{heading}\n- a.py\n\n{next_one}\n- b.py") == ["a.py", *(["b.py"] if part else [])]


def test_a_plan_without_the_section_or_with_far_too_much_in_it_names_nothing() -> None:
    assert planned("Change `a.py`.\nAll files are in src.") == []
    assert planned(PLAN.format("\n".join(f"- f{number}.py" for number in range(MOST + 1)))) == []


def test_what_is_not_named_is_unplanned() -> None:
    files = ["src/app.py", "src/deep/b.py", "new.txt"]
    assert unplanned(["src/"], files) == ["new.txt"]
    assert unplanned(["*.py", "new.txt"], files) == []
    assert unplanned([], files) == []


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert unplanned(planned(f"# Files\n{text}"), ["a"]) in ([], ["a"])
