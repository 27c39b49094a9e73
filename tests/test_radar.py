"""Two tasks that change the same lines know of each other before either is in the merge queue."""

from __future__ import annotations

from pathlib import Path

from activities.contracts import Message, Overlap, TaskRef
from activities.git.repository import open_repository, pin
from activities.home import Home
from activities.overlaps import note_ref, overlaps
from activities.prompts import render
from activities.site import write_atomically
from tests.git.repos import commit, git, make_repo
from tests.kit import Kit, status_when
from workflows.contracts import Stage, TaskStatus
from workflows.story import task_story


async def test_the_later_task_shows_the_earlier_one_and_tells_its_agent(kit: Kit) -> None:
    leave = kit.folder / "leave"
    waits = {"name": "waits", "command": f"until test -e {leave}; do sleep 0.1; done"}
    mended = {"name": "mended", "command": "test -e mended"}
    one = kit.agent(executor=[{"write": {"app.py": "VALUE = 2\n"}}], resolver=[{"resolve": True}])
    two = kit.agent(executor=[{"write": {"app.py": "VALUE = 3\n"}}], fixer=[{"write": {"mended": "x\n"}}])
    async with kit.worker():
        first = await kit.start(kit.input(title="Make it two", agent=one, gates=[waits]))
        await status_when(first, lambda now: now.stage is Stage.GATES and now.turns == 1)
        second = await kit.start(kit.input(title="Make it three", agent=two, gates=[mended]))
        status = await status_when(second, lambda now: bool(now.overlaps))
        assert status.overlaps == [f"{first.id} (Make it two): app.py"]
        assert (await second.result()).outcome == "merged"
        leave.touch()
        assert (await first.result()).outcome == "merged"
        ended: TaskStatus = await second.query("status", result_type=TaskStatus)
    assert ended.overlaps == []
    prompts = {path.parent.name: path.read_text() for path in (kit.home.root / "runs").glob("*/turns/*/prompt.md")}
    assert f"- {first.id} (Make it two): `app.py`" in prompts["002-fixer"]
    assert "Keep your change in these files small" in prompts["002-fixer"]
    assert not any("change the same lines" in text for name, text in prompts.items() if name != "002-fixer")
    kit.assert_clean()


def test_only_tasks_in_flight_for_the_same_branch_count_and_the_oldest_is_first(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo", {"a.txt": "x\n"})
    git(repo, "branch", "other")
    home, main = Home(tmp_path / "home"), git(repo, "rev-parse", "main")
    refs = {}
    for key in ("old", "mine", "new", "settled", "elsewhere", "unknown"):
        git(repo, "checkout", "-q", "--detach", main)
        git(repo, "update-ref", pin("task", key), commit(repo, {"a.txt": f"{key}\n"}))
        target = "refs/heads/other" if key == "elsewhere" else "refs/heads/main"
        refs[key] = TaskRef(task_id=f"task-{key}", key=key, repo=str(repo), target=target)
        if key != "unknown":
            note_ref(home, refs[key])
            write_atomically(home.run(key) / "task.json", f'{{"title": "Do {key}\\n# it"}}')
        if key != "settled":
            home.worktree(key).mkdir(parents=True)
    note_ref(home, refs["old"])  # a second run of `prepare` does not make it any younger
    git(repo, "checkout", "-q", "main")
    head = git(repo, "rev-parse", pin("task", "mine"))
    repository = open_repository(str(repo))
    assert overlaps(home, repository, refs["mine"], head, main) == [
        Overlap(task="task-old", title="Do old # it", files=["a.txt"], earlier=True),
        Overlap(task="task-new", title="Do new # it", files=["a.txt"], earlier=False),
    ]
    assert overlaps(home, repository, refs["mine"], main, main) == []
    assert overlaps(home, repository, refs["mine"], "no commit", main) == []  # it warns, and is never in the way


def test_the_prompt_names_tasks_and_files() -> None:
    others = [
        Overlap(task="task-7", title="Add login", files=["src/app.py", "src/b.py"], earlier=True),
        Overlap(task="task-8", title="Add logout", files=["src/app.py"], earlier=True),
    ]
    heard = [Message(id="m1", text="Mind the gap")]
    text = render("news", messages=heard, commits=["abc one"], overlaps=others, target="main", mcp=False)
    assert "\n\n## Other tasks change the same lines\n\n" in text
    assert "\n\n- task-7 (Add login): `src/app.py`, `src/b.py`\n- task-8 (Add logout): `src/app.py`\n\nKeep" in text
    assert "same lines" not in render("news", messages=heard, commits=[], overlaps=[], target="main", mcp=False)


def test_the_story_names_tasks_and_files() -> None:
    status = TaskStatus(task_id="t", title="T", stage=Stage.WORK, overlaps=["task-7 (Add *login*): a_b.py"])
    assert "#### In conflict with\n\n- task-7 (Add \\*login\\*): a\\_b.py" in task_story(status, [])
