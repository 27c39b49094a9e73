"""A worktree that needs more than its commit: files, commands, what they have made before, ports."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from activities import ports, process
from activities.config import PortRange
from activities.contracts import TaskRef
from activities.git import salvaged
from activities.git.repository import open_repository
from activities.git.worktree import Worktree, create
from activities.home import Home
from activities.moved import merge_in
from activities.place import Place
from activities.settings import SETUP_FAILED, SetupCache, WorktreeSettings
from activities.settle import settle
from activities.setup import ready, set_up_worktree, worktree_settings
from activities.setup_cache import Cache, drop, kept_in
from tests.git.repos import commit, git, make_repo, write
from tests.git.test_killed import killed_at_each_step
from tests.kit import PROGRAMS, Kit, status_when
from workflows.contracts import Blocked, BlockedReason, TaskStatus

SETTINGS = """
[worktree]
copy = [".env"]
ports = 2
setup = ["echo made >> {made}; mkdir modules; cp lock modules/", "cp .env generated"]
cache = [{{ key = ["lock"], paths = ["modules"], command = "echo made >> {made}; mkdir modules; cp lock modules/" }}]
teardown = ["cat .env modules/lock >> {ended}; echo $MERGEWRIGHT_PORT_1 >> {ended}"]
"""
GATE = 'cat modules/lock generated && test -z "$(git status --porcelain)" && test $MERGEWRIGHT_PORT_BASE -ge 20000'


async def test_a_task_and_the_queue_find_all_that_they_need(kit: Kit, tmp_path: Path) -> None:
    made, ended = tmp_path / "made", tmp_path / "ended"
    commit(kit.repo, {"lock": "v1\n", "mergewright.toml": SETTINGS.format(made=made, ended=ended)})
    write(kit.repo, {".env": "KEY=1\n"})
    look = "cat .env modules/lock generated > seen.txt; echo $MERGEWRIGHT_PORT_0 $MERGEWRIGHT_PORT_1 >> seen.txt"
    gate = {"name": "look", "command": GATE}

    def task(name: str) -> dict[str, Any]:
        shell = look.replace("seen.txt", name)
        return {"agent": kit.agent(executor=[{"shell": shell}]), "gates": [gate]}

    async with kit.worker():
        both = await asyncio.gather(kit.run(**task("one.txt")), kit.run(**task("two.txt")))
    assert [result.outcome for result in both] == ["merged", "merged"], both
    seen = [kit.show(name).splitlines() for name in ("one.txt", "two.txt")]
    assert [lines[:3] for lines in seen] == [["KEY=1", "v1", "KEY=1"]] * 2
    assert len({port for lines in seen for port in lines[3].split()}) == 4
    assert made.read_text() == "made\n"  # by the one, and copied by the other and in the slots
    assert len([line for line in ended.read_text().splitlines() if line.isdigit()]) >= 3
    named = git(kit.repo, "ls-tree", "-r", "--name-only", "main").splitlines()
    assert not {".env", "modules/lock", "generated"} & set(named)
    assert ports.environment(kit.home, "slot-x-0") == {}
    assert kit.home.ports.read_text() == "{}"
    kit.assert_clean()


async def test_a_set_up_that_fails_blocks_with_the_end_of_its_log_and_begins_anew_when_mended(kit: Kit) -> None:
    commit(kit.repo, {"mergewright.toml": '[worktree]\nsetup = ["echo x > README.md; echo no such package; exit 3"]\n'})
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[{"write": {"new.txt": "x"}}])))
        status = await status_when(handle, lambda status: status.blocked is not None)
        assert isinstance(status.blocked, Blocked)
        assert status.blocked.reason is BlockedReason.SETUP
        assert "exit 3" in status.blocked.text
        assert "no such package" in status.blocked.text
        assert kit.worktrees() == []
        commit(kit.repo, {"mergewright.toml": '[worktree]\nsetup = ["true"]\n'})
        await handle.signal("continue_task", "")
        result = await handle.result()
    assert (result.outcome, kit.refs("refs/mergewright/salvage")) == ("merged", [])
    kit.assert_clean()


@pytest.mark.long
async def test_a_set_up_that_is_cut_off_leaves_nothing(kit: Kit, tmp_path: Path) -> None:
    shell = f"echo x > junk; echo y > README.md; touch {tmp_path}/begun; sleep 1000"
    commit(
        kit.repo,
        {"mergewright.toml": f'[worktree]\nports = 3\nsetup = ["{shell}"]\nteardown = ["rm {tmp_path}/begun"]\n'},
    )
    async with kit.worker():
        handle = await kit.start(kit.input(agent=kit.agent(executor=[{}])))
        await until((tmp_path / "begun").exists)
        await handle.signal("abandon")
        assert (await handle.result()).outcome == "abandoned"
        await until(lambda: not kit.worktrees())  # the worker's housekeeping
    assert (kit.refs(), kit.home.ports.read_text()) == ([], "{}")
    assert not (tmp_path / "begun").exists()
    kit.assert_clean()


@pytest.mark.skipif(bool(process.sandbox_problem()), reason="no sandbox on this machine")
async def test_set_up_and_tear_down_run_in_a_sandbox_and_what_is_linked_can_be_written(kit: Kit) -> None:
    look = "test ! -e {secret} && ! touch {repo}/touched {home}/touched && echo {who} >> data/log && test -e data/log"
    secret = kit.folder / "secret"
    shell = {
        who: look.format(secret=secret, repo=kit.repo, home=kit.home.root, who=who)
        for who in ("setup", "agent", "gate", "teardown")
    }
    lines = "".join(f"{name} = ['{shell[name]}']\n" for name in ("setup", "teardown"))
    commit(kit.repo, {"mergewright.toml": f"[queue]\nprecheck = false\n[worktree]\nlink = ['/data']\n{lines}"})
    write(kit.repo, {"data/log": ""})
    secret.write_text("x")
    scripts = kit.folder / "scripts"
    kit.configure(sandbox=f"read = {json.dumps(list(map(str, PROGRAMS)))}\nwrite = ['{scripts}']")
    agent = kit.agent(executor=[{"shell": shell["agent"], "write": {"new.txt": "new\n"}}])
    async with kit.worker():
        result = await kit.run(agent=agent, gates=[{"name": "look", "command": shell["gate"]}])
    assert result.outcome == "merged", result
    in_the_worktree, in_the_slot = ["setup", "agent", "gate"], ["setup", "gate", "teardown"]
    assert (kit.repo / "data/log").read_text().split() == [*in_the_worktree, *in_the_slot, "teardown"]
    assert not (kit.repo / "touched").exists()
    assert list(kit.home.root.glob("runs/*/box")) == []
    kit.assert_clean()


@pytest.mark.long
async def test_tasks_may_hold_some_folders_and_gates_judge_the_whole(kit: Kit) -> None:
    files = {"services/api/a": "a\n", "services/web/w": "w\n", "docs/d": "d\n"}
    commit(kit.repo, {**files, "mergewright.toml": '[worktree]\nsparse = ["services/api"]\n'})
    gates = [{"name": "whole", "command": "cat services/web/w docs/d services/api/a"}]
    look = "test ! -e services/web && test ! -e docs && test -e app.py && mkdir docs && echo new > docs/new"
    sparse = kit.agent(executor=[{"shell": look, "write": {"services/api/a": "changed\n"}}])
    docs = kit.agent(executor=[{"shell": "test ! -e services", "write": {"docs/d": "docs\n"}}])
    whole = kit.agent(executor=[{"shell": "test -e docs/d", "write": {"services/web/w": "web\n"}}])
    wrong = kit.input(agent=whole, sparse=["services/apo"])
    async with kit.worker():
        handle = await kit.start(kit.input(agent=sparse, gates=gates))
        others = [kit.run(agent=docs, sparse=["docs"]), kit.run(agent=whole, sparse=[], gates=gates)]
        results = await asyncio.gather(handle.result(), *others)
        status = await handle.query("status", result_type=TaskStatus)
        with pytest.raises(WorkflowFailureError) as failed:
            await (await kit.start(wrong)).result()
    assert [result.outcome for result in results] == ["merged"] * 3, results
    assert "sparse: services/apo is no folder of the target branch" in str(failed.value.cause)
    assert any("sparse checkout of services/api" in line for line in status.warnings)
    [prompt] = kit.home.root.glob(f"runs/{handle.id}*/turns/001-executor/prompt.md")
    assert "`git sparse-checkout add FOLDER`" in prompt.read_text()
    now = {path: kit.show(path) for path in (*files, "docs/new")}
    assert now == {"services/api/a": "changed", "services/web/w": "web", "docs/d": "docs", "docs/new": "new"}
    kit.assert_clean()


AGAIN = """
[worktree]
copy = [".env"]
link = ["/data"]
ports = 2
setup = ["mkdir -p modules; cp lock modules/; date > README.md; echo x > made; echo x >> {runs}"]
cache = [{{ key = ["lock"], paths = ["modules"] }}]
"""


def task_in(tmp_path: Path, settings: str) -> tuple[Home, TaskRef, Worktree]:
    repo = make_repo(tmp_path / "repo", {"README.md": "hello\n", "lock": "v1\n", "mergewright.toml": settings})
    write(repo, {".env": "KEY=1\n", "data/x": "x"})
    home, ref = Home(tmp_path / "home"), TaskRef(task_id="t", key="t.1", repo=str(repo), target="refs/heads/main")
    opened = open_repository(str(repo))
    made = create(opened, home.worktree("t.1"), "t.1", "mergewright/t", opened.tip(ref.target), ref.target)
    return home, ref, made


@pytest.mark.parametrize("gone", ["all of it", "its git directory"])
async def test_a_worktree_that_is_rebuilt_is_set_up_again(tmp_path: Path, gone: str) -> None:
    runs = tmp_path / "runs"
    home, ref, worktree = task_in(tmp_path, AGAIN.format(runs=runs))
    home.create()
    (home.root / "config.toml").write_text(f'[sandbox]\nwrite = ["{tmp_path}"]\n')
    settings = worktree_settings(worktree.repository, worktree.base())
    await set_up_worktree(home, worktree, worktree.base(), settings)
    write(worktree.path, {"lock": "v2\n"})
    published = worktree.commit_all("work")
    write(worktree.path, {"new": "not committed\n", ".env": "KEY=changed\n"})
    if gone == "all of it":
        shutil.rmtree(worktree.path)
    else:
        shutil.rmtree(worktree.path / ".git")
    for _ in range(2):
        worktree = await ready(home, ref)
    assert len(runs.read_text().split()) == 2
    assert not home.rebuilt(ref.key).exists()
    assert (worktree.path / "data").readlink() == worktree.repository.path / "data"
    assert (worktree.path / "modules/lock").read_text() == "v2\n"  # by its own lock: not from the cache, nor kept there
    assert len(kept_in(home.setups(worktree.repository.common_dir))) == 1
    assert ports.environment(home, str(worktree.path))
    assert ((worktree.path / "README.md").read_text(), worktree.head()) == ("hello\n", published)
    left = [] if gone == "all of it" else ["new"]
    assert (worktree.path / ".env").read_text() == ("KEY=changed\n" if left else "KEY=1\n")
    head = worktree.commit_all("more")
    assert worktree.repository.changed_files(published, head) == left
    settled = settle(home, ref, "abandoned")
    assert settled.salvage_ref
    assert not home.rebuilt(ref.key).exists()


async def test_what_a_second_set_up_has_left_half_done_is_no_work(tmp_path: Path) -> None:
    home, ref, worktree = task_in(tmp_path, '[worktree]\nsetup = ["true"]\n')
    home.create()
    settings = worktree_settings(worktree.repository, worktree.base())
    await set_up_worktree(home, worktree, worktree.base(), settings)
    write(worktree.path, {"new": "work\n"})
    shutil.rmtree(worktree.path / ".git")
    commit(worktree.repository.path, {"mergewright.toml": '[worktree]\nsetup = ["echo x > junk; exit 3"]\n'})
    with pytest.raises(ApplicationError, match="exit 3") as raised:
        await ready(home, ref)
    assert raised.value.type == SETUP_FAILED
    assert (worktree.path / "junk").exists()
    salvaged = settle(home, ref, "abandoned").salvage_ref
    listed = git(worktree.repository.path, "ls-tree", "--name-only", str(salvaged)).split()
    assert set(listed) == {"README.md", "lock", "mergewright.toml", "new"}


@pytest.mark.long
def test_killed_at_any_step_a_second_set_up_keeps_the_work(tmp_path: Path) -> None:
    settings = '[worktree]\ncopy = [".env"]\nsetup = ["date > README.md; echo x > junk"]\n'
    home, ref, worktree = task_in(tmp_path, settings)
    home.create()
    found = worktree_settings(worktree.repository, worktree.base())
    asyncio.run(set_up_worktree(home, worktree, worktree.base(), found))
    write(worktree.path, {"README.md": "work\n", "new": "work\n", "lock": None})
    shutil.rmtree(worktree.path / ".git")
    killed_at_each_step(tmp_path, lambda: asyncio.run(ready(home, ref)))
    assert not home.rebuilt(ref.key).exists()
    head = worktree.commit_all("work")
    assert worktree.repository.changed_files(worktree.base(), head) == ["README.md", "lock", "new"]
    assert git(worktree.repository.path, "show", f"{head}:README.md") == "work"
    assert (worktree.path / ".env").exists()


async def test_submodules_follow_the_target_and_what_was_done_in_them_is_saved(tmp_path: Path) -> None:
    home, ref, _ = task_in(tmp_path, "[worktree]\nsubmodules = true\n")
    shutil.rmtree(home.root)
    repository = open_repository(ref.repo)
    for name in ("moves", "goes", "becomes", "stays"):
        inner = make_repo(tmp_path / name, {"s": "1\n"})
        git(repository.path, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner), name)
    commit(repository.path)

    def second(name: str) -> str:
        """A commit that the user has of it, and what the user's own one is at."""
        write(repository.path / name, {"s": "2\n"})
        git(repository.path / name, "-c", "user.name=n", "-c", "user.email=e", "commit", "-qam", "two")
        return git(repository.path / name, "rev-parse", "HEAD")

    base = repository.tip(ref.target)
    with repository.git() as hardened:  # those of the worktree that began before there were submodules
        hardened.update_refs("delete refs/mergewright/base/t.1")
    worktree = create(repository, home.worktree("t.1"), "t.1", "mergewright/t", base, ref.target)
    await set_up_worktree(home, worktree, base, worktree_settings(repository, base))
    write(worktree.path, {"moves/mine": "x\n", "new": "work\n"})
    worktree.commit_all("work")
    moved = second("moves")
    git(repository.path, "rm", "-q", "goes", "becomes")
    commit(repository.path, {"becomes/deep/file": "no submodule any more\n"})
    target = worktree.refresh()
    away = (repository.common_dir / "modules/moves").rename(tmp_path / "away")
    with pytest.raises(ApplicationError, match="git submodule update --init"):
        merge_in(home, ref, worktree, target, "Merge main")
    away.rename(repository.common_dir / "modules/moves")
    for _ in range(2):
        assert merge_in(home, ref, worktree, target, "Merge main") == []
    assert git(worktree.path / "moves", "rev-parse", "HEAD") == moved
    assert (worktree.path / "moves/s").read_text() == "2\n"
    assert not (worktree.path / "goes").exists()
    assert (worktree.path / "stays/s").exists()
    assert [path.name for path in (worktree.path / "becomes").rglob("*")] == ["deep", "file"]
    assert git(worktree.path, "status", "--porcelain") == ""
    head = worktree.commit_all("nothing")
    assert repository.changed_files(target, head) == ["new"]
    [saved] = salvaged.listing(repository, "t")
    assert git(repository.path, "show", f"{saved.commit}:moves/mine") == "x"


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    for _ in range(int(seconds * 10)):
        if condition():
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"not in {seconds} s")


async def test_what_is_kept_is_made_once_and_only_from_work_that_has_landed(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo", {"package-lock": "1\n", "sub/package-lock": "1\n"})
    opened, cache = open_repository(str(repo)), Cache(tmp_path / "setups")
    entry = SetupCache(key=["package-lock"], paths=["deep/modules"])
    runs: list[str] = []

    async def restored(name: str, *, trusted: bool = True, entry: SetupCache = entry) -> str:
        place = Place(
            home=Home(tmp_path / "home"),
            repository=opened,
            tree=tmp_path / name,
            commit=git(repo, "rev-parse", "main"),
            logs=tmp_path / f"{name}.logs",
            box=tmp_path / f"{name}.box",
            lock=tmp_path / f"{name}.lock",
            trusted=trusted,
        )
        place.tree.mkdir(exist_ok=True)

        async def make() -> None:
            runs.append(name)
            write(place.tree, {"deep/modules/x": name})

        await cache.make_or_restore(place, entry, "make", make)
        return (place.tree / "deep/modules/x").read_text()

    assert await restored("unknown", trusted=False) == "unknown"
    first, second = await asyncio.gather(restored("one"), restored("two"))
    assert first == second == await restored("candidate", trusted=False)
    assert len(runs) == 2
    commit(repo, {"sub/package-lock": "2\n"})
    assert await restored("three") == "three"
    assert [path.name for path in (tmp_path / "setups").iterdir() if path.name.startswith(".")] == []
    with pytest.raises(ApplicationError, match="sub/package-lock is tracked"):
        await restored("four", entry=SetupCache(key=["package-lock"], paths=["sub/package-lock"]))
    with pytest.raises(ApplicationError, match="nothing in the commit matches"):
        await restored("five", entry=SetupCache(key=["yarn.lock"], paths=["x"]))
    (tmp_path / "six").mkdir()
    (tmp_path / "six/deep").symlink_to(tmp_path / "one/deep")
    with pytest.raises(ApplicationError, match="leads out of the tree"):
        await restored("six")
    assert (tmp_path / "one/deep/modules/x").read_text() == first
    kept = kept_in(tmp_path / "setups")
    assert len(kept) == 2
    assert [drop(one) for one in kept] == [True, True]
    assert kept_in(tmp_path / "setups") == {}


def test_ports_are_nobody_elses_until_they_are_given_back(tmp_path: Path) -> None:
    home, within = Home(tmp_path), PortRange(first=29_000, last=29_019)
    for holder in ("a", "b", "a"):
        ports.claim(home, holder, 8, within)
    first = {name: int(ports.environment(home, name)["MERGEWRIGHT_PORT_BASE"]) for name in "ab"}
    assert abs(first["a"] - first["b"]) >= 8
    with pytest.raises(ports.NoPortsFree, match="29000 to 29019"):
        ports.claim(home, "c", 8, within)
    ports.release(home, "a")
    ports.claim(home, "c", 8, within)
    assert ports.environment(home, "c")["MERGEWRIGHT_PORT_7"] == str(first["a"] + 7)
    assert ports.environment(home, "a") == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"setup": ["a", "b"], "cache": [{"key": ["x"], "paths": ["y"]}]}, "name in `command`"),
        ({"setup": ["a"], "cache": [{"key": ["x"], "paths": ["../y"]}]}, "no path inside"),
        ({"ports": "3"}, "ports"),
        ({"sparse": ["libs/"]}, "must be a folder as git names it"),
        ({"sparse": ["a/../b"]}, "must be a folder as git names it"),
        ({"sparse": ["a\nb"]}, "a character that no line"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        WorktreeSettings.model_validate(given)
