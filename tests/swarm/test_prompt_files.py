"""Prompt files of a repository: includes, placeholders, and ours where it has none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities.git.repository import open_repository
from activities.settings import Listed, Membership, TaskInput
from activities.swarm.prompt_files import (
    BUNDLED,
    MAX_CHARACTERS,
    Loaded,
    bundled,
    bundled_name,
    check,
    exists,
    explained,
    filled,
    load,
    values_of,
)
from tests.git.repos import commit, make_repo
from tests.kit import Kit


def loaded(files: dict[str, str], path: str, **values: str) -> Loaded:
    found = load({name: text.encode() for name, text in files.items()}.get, path, values)
    assert found is not None
    return found


def test_files_are_included_in_both_forms_from_beside_and_from_the_top() -> None:
    files = {
        "config/prompts/own.md": 'First.\n#oompa_directive:include_file "rules.md"\n{{include docs/style.md}}\nLast.',
        "config/prompts/rules.md": '  #oompa_directive:include_file "config/prompts/_base.md"  \nRules.',
        "config/prompts/_base.md": "Base.",
        "docs/style.md": "Style of {worker}.",
    }
    assert loaded(files, "config/prompts/own.md", worker="w1") == Loaded(
        "First.\nBase.\nRules.\nStyle of w1.\nLast.", []
    )


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("gone.md", "which is not on the target branch"),
        ("a.md", "which includes it in turn"),
        ("b.md", "which includes it in turn"),
        ("../../etc/passwd", "which is no file of the repository"),
        ("/etc/passwd", "which is no file of the repository"),
        ("~/secret", "which is no file of the repository"),
        (".", "which is no file of the repository"),
        ("", "which is no file of the repository"),
    ],
)
def test_what_cannot_be_included_is_told_in_its_place(target: str, expected: str) -> None:
    files = {"a.md": f'Before.\n#oompa_directive:include_file "{target}"\nAfter.', "b.md": "{{include a.md}}"}
    found = loaded(files, "a.md")
    before, *_, after = found.text.splitlines()
    assert (before, after) == ("Before.", "After.")
    [note] = found.notes
    assert expected in note
    assert f"(mergewright: {note})" in found.text


def test_includes_are_bounded() -> None:
    many = {f"{n}.md": f"{{{{include {n + 1}.md}}}}\n" * 50 for n in range(50)}
    found = loaded(many, "0.md")
    assert "too deep, or too many" in found.text
    large = loaded({"a.md": "{{include b.md}}\n" * 90, "b.md": "x" * 10_000}, "a.md")
    assert len(large.text) < MAX_CHARACTERS + 1_000
    assert large.notes == [f"a.md is cut: it has more than {MAX_CHARACTERS:,} characters"]


@pytest.mark.timeout(20)
def test_a_line_that_is_almost_an_include_takes_no_time() -> None:
    line = "{{include" + " " * 20_000 + "x" + " " * 20_000
    assert loaded({"a.md": line}, "a.md") == Loaded(line.strip(), [])


def test_only_known_placeholders_are_filled_in_and_what_is_put_in_stays() -> None:
    text = 'In {worker} {{worker}}: {unknown} {{unknown}} {"json": 1} ${worker} {}'
    assert filled(text, {"worker": "{spec}", "spec": "no"}) == (
        'In {spec} {spec}: {unknown} {{unknown}} {"json": 1} ${spec} {}'
    )


def test_placeholders_of_a_task_and_of_a_swarms_cycle() -> None:
    task = TaskInput(repo="/r", title="Mend the login", files=["a.py", "b.py"])
    assert values_of(task.model_dump(mode="json"), "t-1") == {
        "task_id": "t-1",
        "summary": "Mend the login",
        "targets": "a.py, b.py",
    }
    member = Membership(
        swarm="swarm-1",
        key="k",
        worker="worker-1.2",
        cycle=3,
        claims=["api-1"],
        open=[Listed(id="api-2", title="Second"), Listed(id="api-3", title="Third")],
        counts={"pending": 2, "current": 1},
        spec="spec.md",
        max_new_tasks=4,
    )
    cycle = task.model_copy(update={"swarm": member}).model_dump(mode="json")
    text = "{task_id}|{worker}|{swarm}|{spec}|{max_new_tasks}|{task_status}|{pending_tasks}|{{TASKS_ROOT}}"
    assert filled(text, values_of(cycle, "t-1")) == (
        "api-1|worker-1.2|swarm-1|spec.md|4|Pending: 2, In progress: 1, Blocked: 0, Complete: 0"
        "|- api-2: Second\n- api-3: Third|tasks"
    )


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("planner", "planner"),
        ("config/prompts/executor.md", "executor"),
        ("prompts/Worker.md", "worker"),
        ("config/prompts/docs_architect.md", "docs"),
        ("config/prompts/magicgenie-executor.md", None),
        ("worker.py", None),
        ("", None),
    ],
)
def test_which_of_ours_stands_for_a_path(path: str, expected: str | None) -> None:
    assert bundled_name(path) == expected


def test_the_repositorys_file_comes_before_ours_but_a_bare_name_is_ours() -> None:
    files = {"prompts/worker.md": "Theirs.", "worker": "A program."}
    assert loaded(files, "prompts/worker.md").text == "Theirs."
    assert loaded(files, "other/worker.md").text == bundled("worker").strip()
    assert loaded(files, "worker").text == bundled("worker").strip()


@pytest.mark.parametrize("name", BUNDLED)
def test_ours_explain_themselves_and_leave_no_placeholder(name: str) -> None:
    task = TaskInput(repo="/r", title="x", swarm=Membership(swarm="s", key="k", worker="w", cycle=1))
    found = loaded({}, name, **values_of(task.model_dump(mode="json"), "t"))
    assert found.notes == []
    assert len(explained()[name]) <= 120
    assert explained()[name].endswith(".")
    for value in values_of(task.model_dump(mode="json"), "t"):
        assert "{" + value + "}" not in found.text


def test_prompts_are_read_from_git_and_never_from_the_disk(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "r", {"prompts/a.md": "{{include only-here.md}}\n{{include ../link.md}}\nEnd."})
    (tmp_path / "secret").write_text("secret")
    (repo / "link.md").symlink_to(tmp_path / "secret")
    commit(repo, {"b.md": "b"}, "more")
    (repo / "only-here.md").write_text("on the disk")
    repository = open_repository(str(repo))
    tip = repository.tip("main")

    def read(path: str) -> bytes | None:
        return repository.read_file(tip, path)

    found = load(read, "prompts/a.md", {})
    assert found is not None
    assert len(found.notes) == 2
    assert "secret" not in found.text
    assert exists(read, "planner")
    assert not exists(read, "prompts")
    assert not exists(read, "prompts/")
    problems, notes = check(read, ["prompts/a.md", "none.md", "none.md"])
    assert problems[0].startswith("none.md is not in the target branch: commit it, or correct the path; ours are")
    assert (len(problems), notes) == (1, found.notes)


async def test_an_agent_gets_its_own_prompts_and_ours(kit: Kit) -> None:
    commit(
        kit.repo, {"prompts/own.md": "{{include house.md}}\nIt is {summary}, at {targets}.", "prompts/house.md": "H!"}
    )
    agent = {**kit.agent(executor=[{"write": {"a.txt": "x\n"}}]), "prompts": ["prompts/own.md", "executor"]}
    async with kit.worker():
        result = await kit.run(agent=agent, title="Mend it", files=["a.txt"])
    assert result.outcome == "merged"
    [prompt] = [path.read_text() for path in (kit.home.root / "runs").glob("*/turns/*/prompt.md")]
    assert "H!\nIt is Mend it, at a.txt.\n" in prompt
    assert bundled("executor") in prompt


@given(st.dictionaries(st.sampled_from("abc"), st.binary(max_size=60) | st.sampled_from(
    [b'#oompa_directive:include_file "b"\n{x}', b"{{include c}}\n{{include a}}", b"{{include ./a/../b}}"]
)))  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_no_bytes_crash_the_loader(files: dict[str, bytes]) -> None:
    for path in (*files, "\0", "../x", "a/" * 50):
        found = load(files.get, path, {"x": "y"})
        assert (found is None) == (path not in files)
        assert found is None or isinstance(found.text.encode(), bytes)
