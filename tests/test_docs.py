"""The documents' tables are the code's, and their example of a runtime works."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from workflows.contracts import BlockedReason, Stage
from workflows.glance import blocked_keyword, stage_keyword

ROOT = Path(__file__).parent.parent


def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["runtimes.md", "failures.md"])
def test_the_tables_are_as_the_code_has_them(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == tables().written(name), "run: make docs"


PLUGIN = """
from activities.agents import UnknownRuntime, runtime, runtime_names
from tests.agents.turns import a_turn
from activities.settings import AgentSpec

assert "parrot" in runtime_names()
parrot = runtime("parrot")
turn = a_turn(AgentSpec(runtime="parrot"))
assert parrot.launch(turn).stdin.startswith(turn.system)
assert "pipx install" in parrot.problem(turn.agent, {"PATH": ""})
reader = parrot.reader(turn)
for line in ("hello", "tokens: 7"):
    reader.feed(line)
report = reader.report(0, "")
assert (report.end, report.text, report.usage.output_tokens) == ("done", "hello", 7)
assert parrot.reader(turn).report(1, "429 Too Many Requests").end == "limited"
for name, what in (("broken", "cannot be loaded"), ("half", "lacks"), ("nobody", "unknown runtime 'nobody'")):
    try:
        runtime(name)
    except UnknownRuntime as unknown:
        assert what in str(unknown), unknown
    else:
        raise AssertionError(name)
"""


def test_the_example_of_a_runtime_of_ones_own_works(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "runtimes.md").read_text()
    [entry] = re.findall(r"```toml\n\[project\.entry-points\.\"(.+)\"\]\n(.+?)```", text, re.DOTALL)
    [code] = re.findall(r"```python\n(.+?)```", text, re.DOTALL)
    (tmp_path / "parrot_agent.py").write_text(code)
    (tmp_path / "half_agent.py").write_text("class Half:\n    name = 'half'\n")
    info = tmp_path / "parrot_agent-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot-agent\nVersion: 1\n")
    more = 'broken = "no_such_module:Agent"\nhalf = "half_agent:Half"\n'
    (info / "entry_points.txt").write_text(f"[{entry[0]}]\n{entry[1]}{more}".replace('"', ""))
    done = subprocess.run(
        [sys.executable, "-c", PLUGIN],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_tests_that_the_documents_name_are_there() -> None:
    named = {name for file in (ROOT / "docs").glob("*.md") for name in re.findall(r"`(tests/[^`]+)`", file.read_text())}
    assert named
    for name in sorted(named):
        file, _, test = name.partition("::")
        assert not test or f"def {test}(" in (ROOT / file).read_text(), name
        assert (ROOT / file).exists(), name


def test_the_readme_names_every_value_that_tasks_are_found_by() -> None:
    text = (ROOT / "README.md").read_text()
    values = [*map(stage_keyword, Stage), *map(blocked_keyword, BlockedReason)]
    assert [value for value in values if f"`{value}`" not in text] == []
