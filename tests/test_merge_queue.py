"""The merge queue with branches of people: chains, blame, freezes, protected paths, dirty checkouts, operators."""

from __future__ import annotations

import pytest
from temporalio.client import WorkflowUpdateFailedError

from tests.git.repos import commit, git, write
from tests.kit import Kit
from tests.queue_kit import Queue, ended, on_main
from workflows.contracts import Code, LandStatus, Priority


async def test_those_that_pass_together_land_together(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("sleep 0.3; ! ls bad* 2>/dev/null", gate_slots=2)
    names = [f"b{number}" for number in range(8)]
    for name in names:
        queue.branch(name, {f"{name}.txt": "x\n"})
    async with kit.worker():
        arrived, results = await queue.together(*names)
        status = await queue.status()
    assert [result.outcome for result in results.values()] == ["merged"] * 8
    assert {f"{name}.txt" for name in names} <= on_main(kit.repo)
    assert kit.trailers("Task-Id")[::-1] == arrived
    assert queue.runs() <= 4
    moves = git(kit.repo, "reflog", "show", "main").splitlines()
    assert len(moves) - 2 <= 4  # all but "first" and "settings"
    assert (status.landed, status.ejected, status.places) == (8, 0, [])
    assert git(kit.repo, "status", "--porcelain") == ""  # the checkout came along
    assert kit.refs() == []
    assert not list(kit.home.root.glob("repositories/*/candidates/*"))


async def test_the_bad_one_is_found_and_nobody_else_pays(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("sleep 0.2; ! ls bad* 2>/dev/null", gate_slots=2)
    names = ["b0", "b1", "bad", "b3", "b4"]
    for name in names:
        queue.branch(name, {f"{name}.txt": "x\n"})
    async with kit.worker():
        _, results = await queue.together(*names)
    bad = results.pop("bad")
    assert {result.outcome for result in results.values()} == {"merged"}
    assert (bad.outcome, bad.code) == ("sent-back", Code.GATE_RED)
    assert (bad.evidence.runs, bad.evidence.fails_alone) == (2, True)
    assert "bad.txt" in bad.evidence.gates[0].tail
    assert "bad.txt" not in on_main(kit.repo)
    assert kit.refs() == []


async def test_no_tree_is_tested_twice(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("true")
    queue.branch("one", {"a.txt": "x\n"})
    queue.branch("same", {"a.txt": "x\n", "b.txt": "x\n"})
    async with kit.worker():
        assert (await ended(await queue.send("one")))[0].outcome == "merged"
        before = queue.runs()
        git(kit.repo, "reset", "-q", "--hard", "HEAD^")
        assert (await ended(await queue.send("one", title="once more")))[0].outcome == "merged"
    assert (before, queue.runs()) == (1, 1)


async def test_a_conflict_says_who_was_there_first(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("true")
    for name in ("first", "second"):
        queue.branch(name, {"app.py": f"VALUE = '{name}'\n"})
    async with kit.worker():
        _, results = await queue.together("first", "second")
        first, second = sorted(results.values(), key=lambda result: result.outcome)
    assert (first.outcome, second.outcome, second.code) == ("merged", "sent-back", Code.CONFLICT)
    assert second.evidence.files == ["app.py"]
    assert second.evidence.landed_by == kit.trailers("Task-Id")
    assert queue.runs() == 1


async def test_a_red_target_blames_nobody_and_a_fix_lands(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("test -e good")
    queue.branch("innocent", {"a.txt": "x\n"})
    queue.branch("fix", {"good": "x\n"})
    async with kit.worker():
        innocent = await queue.send("innocent")
        frozen = await queue.when(lambda now: now.mode == "frozen")
        assert "MAIN_RED" in frozen.mode_reason
        assert "pushed from outside" in frozen.mode_reason
        assert frozen.places[0].why.startswith("the queue is frozen")
        results = await ended(await queue.send("fix"), innocent)
        status = await queue.status()
    assert [result.outcome for result in results] == ["merged", "merged"]
    assert (status.mode, status.ejected) == ("open", 0)


async def test_a_flaky_gate_costs_nobody_his_place_and_is_remembered(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure(f"if test -e {kit.folder}/once; then true; else touch {kit.folder}/once; false; fi")
    queue.branch("one", {"a.txt": "x\n"})
    async with kit.worker():
        assert (await ended(await queue.send("one")))[0].outcome == "merged"
        status = await queue.status()
    assert status.flaky == {"test": 1}


async def test_protected_paths_wait_for_an_operator(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("true", protected=["ci/"])
    queue.branch("one", {"ci/run": "true\n"})
    queue.branch("other", {"a.txt": "x\n"})
    queue.branch("third", {"ci/other": "true\n"})
    async with kit.worker():
        one, third = await queue.send("one"), await queue.send("third")
        assert (await ended(await queue.send("other")))[0].outcome == "merged"
        status = await queue.gathered("one", "third")
        assert {(place.state, "ci/" in place.why) for place in status.places} == {("approval", True)}
        assert "ci/run" in await queue.handle.execute_update("allow", queue.task("one"))
        assert (await ended(one))[0].outcome == "merged"
        assert "taken out" in await queue.handle.execute_update("cancel", queue.task("third"))
        assert (await ended(third))[0].outcome == "withdrawn"
        with pytest.raises(WorkflowUpdateFailedError) as refused:
            await queue.handle.execute_update("cancel", queue.task("third"))
    assert "is not in the queue" in str(refused.value.cause)


async def test_what_the_policy_finds_only_in_what_would_land_harms_nobody_else(kit: Kit) -> None:
    queue = Queue(kit)
    commit(kit.repo, {"plain": "a\nb\nc\n"})
    queue.branch("denied", {"vendor/a": "x\n"})
    queue.branch("renamed", {"plain": "a\nb\nc\nd\n"})
    for name in ("twin", "Twin"):
        queue.branch(f"{name}-of-2", {f"{name}.txt": f"{name}\n"})
    queue.branch("other", {"a.txt": "x\n"})
    names = ["twin-of-2", "Twin-of-2", "denied", "renamed", "other"]
    async with kit.worker():
        await queue.open("paused")
        landings = [await queue.send(name) for name in names]
        await queue.gathered(*names)
        commit(kit.repo, {"Jenkinsfile": (kit.repo / "plain").read_text(), "plain": None})
        queue.configure("true")
        with (kit.repo / "mergewright.toml").open("a") as file:
            file.write("[policy]\ndeny = ['vendor/']\n")
        git(kit.repo, "commit", "-qam", "stricter")
        await queue.handle.execute_update("resume")
        asking = await queue.when(lambda now: [place.state for place in now.places] == ["approval"])
        assert asking.places[0].why == "leave to change Jenkinsfile: `allow` it, or `cancel` it"
        await queue.handle.execute_update("allow", queue.task("renamed"))
        results = dict(zip(names, await ended(*landings), strict=True))
    assert {results[name].outcome for name in ("renamed", "other")} == {"merged"}
    twins = sorted((results["twin-of-2"], results["Twin-of-2"]), key=lambda one: one.outcome)
    assert [(one.outcome, one.code) for one in twins] == [("merged", None), ("sent-back", Code.POLICY)]
    assert twins[1].reason.startswith("case: ")
    assert (results["denied"].code, results["denied"].evidence.files) == (Code.POLICY, ["vendor/a"])
    assert "d" in kit.show("Jenkinsfile").splitlines()
    assert kit.refs() == []


async def test_work_of_the_users_in_the_way_holds_only_what_touches_it(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("true")
    queue.branch("touches", {"app.py": "VALUE = 2\n"})
    queue.branch("does-not", {"a.txt": "x\n"})
    async with kit.worker():
        write(kit.repo, {"app.py": "VALUE = 'in hand'\n"})
        touches = await queue.send("touches")
        held = await queue.when(lambda now: any(place.state == "held" for place in now.places))
        assert "CHECKOUT_BLOCKED" in held.places[0].why
        assert "app.py" in held.places[0].why
        assert (await ended(await queue.send("does-not")))[0].outcome == "merged"
        assert (kit.repo / "app.py").read_text() == "VALUE = 'in hand'\n"
        git(kit.repo, "checkout", "-q", "--", "app.py")
        await queue.handle.execute_update("retry_checkout")
        assert (await ended(touches))[0].outcome == "merged"
    assert (kit.repo / "app.py").read_text() == "VALUE = 2\n"
    assert (kit.repo / "a.txt").exists()


async def test_priority_and_dependencies(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("true", strict_each=True, gate_slots=1)
    for name in ("first", "needs-last", "last", "urgent"):
        queue.branch(name, {f"{name}.txt": "x\n"})
    async with kit.worker():
        await queue.open("paused")
        landings = [await queue.send("first")]
        await queue.gathered("first")
        landings.append(await queue.send("needs-last", after=[queue.task("last")]))
        landings.append(await queue.send("urgent"))
        await queue.gathered("needs-last", "urgent")
        await queue.handle.execute_update("set_priority", Priority(task=queue.task("urgent"), priority=5))
        await queue.handle.execute_update("resume")
        waiting = await queue.when(lambda now: now.landed == 2)
        assert waiting.places[0].why == f"task {queue.task('last')} to land first"
        landings.append(await queue.send("last"))
        assert {result.outcome for result in await ended(*landings)} == {"merged"}
    order = [task.rpartition(".")[2] for task in kit.trailers("Task-Id")[::-1]]
    assert order == ["urgent", "first", "last", "needs-last"]
    assert queue.runs() == 4  # each by itself


async def test_drained_newcomers_wait(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("true")
    queue.branch("inside", {"a.txt": "x\n"})
    queue.branch("late", {"b.txt": "x\n"})
    async with kit.worker():
        await queue.open("paused")
        inside = await queue.send("inside")
        await queue.gathered("inside")
        assert "draining" in await queue.handle.execute_update("drain")
        late = await queue.send("late")
        assert (await ended(inside))[0].outcome == "merged"
        assert "drained" in (await queue.gathered("late")).places[0].why
        await queue.handle.signal("resume")
        assert (await ended(late))[0].outcome == "merged"


async def test_a_push_from_outside_starts_the_chains_anew_and_costs_nobody_anything(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("test -e pushed || sleep 60")
    queue.branch("one", {"a.txt": "x\n"})
    async with kit.worker():
        one = await queue.send("one")
        await queue.when(lambda now: bool(now.tests) and queue.runs() == 1)
        pushed = commit(kit.repo, {"pushed": "by a person\n"})
        assert (await ended(one))[0].outcome == "merged"
        status = await queue.status()
    assert git(kit.repo, "rev-parse", "main^1") == pushed
    assert (status.ejected, queue.runs()) == (0, 2)


async def test_a_remote_gets_it_first_and_somebody_who_pushed_there_meanwhile_costs_nobody_anything(kit: Kit) -> None:
    queue = Queue(kit)
    remote = kit.folder / "remote.git"
    git(kit.folder, "clone", "-q", "--bare", str(kit.repo), str(remote))
    git(kit.repo, "remote", "add", "origin", str(remote))
    queue.configure("true", push="origin")
    git(kit.repo, "push", "-q", "origin", "main")
    queue.branch("one", {"a.txt": "x\n"})
    queue.branch("two", {"b.txt": "x\n"})
    other = kit.folder / "colleague"
    git(kit.folder, "clone", "-q", str(remote), str(other))
    for name in ("user.name", "user.email"):
        git(other, "config", name, "colleague")
    async with kit.worker():
        assert (await ended(await queue.send("one")))[0].outcome == "merged"
        git(other, "pull", "-q")
        pushed = commit(other, {"theirs.txt": "x\n"})
        git(other, "push", "-q", "origin", "main")
        assert (await ended(await queue.send("two")))[0].outcome == "merged"
        status = await queue.status()
    assert git(remote, "rev-parse", "main") == git(kit.repo, "rev-parse", "main")
    assert pushed in git(remote, "log", "--format=%H", "main").splitlines()
    assert {"a.txt", "b.txt", "theirs.txt"} <= on_main(kit.repo)
    assert (kit.repo / "theirs.txt").exists()
    assert (status.ejected, status.behind) == (0, "")


async def test_the_policy_is_that_of_the_remote_that_it_lands_on(kit: Kit) -> None:
    queue = Queue(kit)
    remote, other = kit.folder / "remote.git", kit.folder / "colleague"
    queue.configure("true", push="origin")
    git(kit.folder, "clone", "-q", "--bare", str(kit.repo), str(remote))
    git(kit.repo, "remote", "add", "origin", str(remote))
    git(kit.folder, "clone", "-q", str(remote), str(other))
    for name in ("user.name", "user.email"):
        git(other, "config", name, "colleague")
    text = (other / "mergewright.toml").read_text()
    commit(other, {"mergewright.toml": f"{text}[policy]\ndeny = ['vendor/']\n"})
    git(other, "push", "-q", "origin", "main")
    for name in ("one", "two"):
        queue.branch(name, {"vendor/a": "x\n"})
    async with kit.worker():
        landings = [await queue.send("one")]
        results = await ended(*landings)
        landings.append(await queue.send("two"))
        results += await ended(landings[1])
        sent = [(await landing.query("status", result_type=LandStatus)).queue for landing in landings]
    assert {(one.code, one.reason.split(".")[0]) for one in results} == {
        (Code.POLICY, "deny: vendor/a: must not change"),
    }
    assert sent == [queue.id, ""]  # by then it was known here what the remote has


async def test_what_the_remote_refuses_is_sent_back_with_its_words(kit: Kit) -> None:
    queue = Queue(kit)
    remote = kit.folder / "remote.git"
    queue.configure("true", push="origin")
    git(kit.folder, "clone", "-q", "--bare", str(kit.repo), str(remote))
    git(kit.repo, "remote", "add", "origin", str(remote))
    write(remote, {"hooks/pre-receive": "#!/bin/sh\necho no releases on saturdays >&2\nexit 1\n"})
    (remote / "hooks" / "pre-receive").chmod(0o755)
    before = git(kit.repo, "rev-parse", "main")
    queue.branch("one", {"a.txt": "x\n"})
    async with kit.worker():
        result = (await ended(await queue.send("one")))[0]
    assert (result.outcome, result.code) == ("sent-back", Code.PUSH_REJECTED)
    assert "no releases on saturdays" in result.reason
    assert git(kit.repo, "rev-parse", "main") == before


async def test_parked_work_follows_when_the_checkout_is_free(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("true", checkout="park")
    queue.branch("one", {"app.py": "VALUE = 2\n"})
    queue.branch("two", {"b.txt": "x\n"})
    async with kit.worker():
        write(kit.repo, {"app.py": "VALUE = 'in hand'\n"})
        before = git(kit.repo, "rev-parse", "main")
        assert (await ended(await queue.send("one")))[0].outcome == "merged"
        assert (await ended(await queue.send("two")))[0].outcome == "merged"
        assert "app.py" in (await queue.status()).behind
        assert git(kit.repo, "rev-parse", "main") == before
        assert (kit.repo / "app.py").read_text() == "VALUE = 'in hand'\n"
        git(kit.repo, "checkout", "-q", "--", "app.py")
        await queue.handle.execute_update("retry_checkout")
        await queue.when(lambda now: not now.behind)
    assert {"app.py", "b.txt"} <= on_main(kit.repo)
    assert (kit.repo / "app.py").read_text() == "VALUE = 2\n"
    assert git(kit.repo, "status", "--porcelain") == ""


async def test_a_remote_that_refuses_one_of_a_chain_gets_the_others(kit: Kit) -> None:
    queue = Queue(kit)
    remote = kit.folder / "remote.git"
    queue.configure("true", push="origin", gate_slots=1)
    git(kit.folder, "clone", "-q", "--bare", str(kit.repo), str(remote))
    git(kit.repo, "remote", "add", "origin", str(remote))
    refuse = (
        'while read old new ref; do git ls-tree --name-only $new | grep -q "^b1" && { echo no b1 >&2; exit 1; }; done\n'
    )
    write(remote, {"hooks/pre-receive": f"#!/bin/sh\n{refuse}exit 0\n"})
    (remote / "hooks" / "pre-receive").chmod(0o755)
    names = ["b0", "b1", "b2"]
    for name in names:
        queue.branch(name, {f"{name}.txt": "x\n"})
    async with kit.worker():
        _, results = await queue.together(*names)
    assert {name: result.outcome for name, result in results.items()} == {
        "b0": "merged", "b1": "sent-back", "b2": "merged",
    }  # fmt: skip
    assert results["b1"].code is Code.PUSH_REJECTED
    assert git(remote, "rev-parse", "main") == git(kit.repo, "rev-parse", "main")


async def test_trouble_of_the_repository_is_nobodys_fault(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("true", push="origin")
    queue.branch("one", {"a.txt": "x\n"})
    async with kit.worker():
        one = await queue.send("one")
        troubled = await queue.when(lambda now: bool(now.trouble))
        assert "no remote 'origin'" in troubled.trouble
        assert len(troubled.places) == 1
        remote = kit.folder / "remote.git"
        git(kit.folder, "clone", "-q", "--bare", str(kit.repo), str(remote))
        git(kit.repo, "remote", "add", "origin", str(remote))
        await queue.handle.execute_update("resume")
        assert (await ended(one))[0].outcome == "merged"
        assert not (await queue.status()).trouble


async def test_a_gate_of_ones_own_that_never_worked_freezes_nobody(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("true")
    queue.branch("one", {"a.txt": "x\n"})
    queue.branch("two", {"b.txt": "x\n"})
    async with kit.worker():
        wrong = await queue.send("one", gates=[{"name": "t", "command": "false"}])
        results = await ended(wrong, await queue.send("two"))
        status = await queue.status()
    assert [(result.outcome, result.code) for result in results] == [("sent-back", Code.GATE_INFRA), ("merged", None)]
    assert status.mode == "open"


async def test_a_push_that_mends_the_target_ends_the_freeze_and_a_drain_goes_on(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("test -e good")
    queue.branch("innocent", {"a.txt": "x\n"})
    async with kit.worker():
        await queue.open("paused")
        innocent = await queue.send("innocent")
        await queue.gathered("innocent")
        await queue.handle.execute_update("drain")
        await queue.when(lambda now: now.mode == "frozen")
        commit(kit.repo, {"good": "x\n"})
        assert (await ended(innocent))[0].outcome == "merged"
        assert (await queue.status()).mode == "draining"


async def test_a_branch_that_is_called_like_a_parking_one_never_lands_by_itself(kit: Kit) -> None:
    queue = Queue(kit)
    queue.configure("true", checkout="park")
    queue.branch("mergewright/main", {"unseen.txt": "x\n"})
    queue.branch("one", {"app.py": "VALUE = 2\n"})
    async with kit.worker():
        assert (await ended(await queue.send("one")))[0].outcome == "merged"
    assert "unseen.txt" not in on_main(kit.repo)
    assert git(kit.repo, "rev-parse", "mergewright/main")


async def test_who_is_sent_back_may_come_again_with_the_same_head(kit: Kit) -> None:
    queue = Queue(kit)
    marker = kit.folder / "mended"
    queue.configure(f"test -e {marker} || ! ls bad* 2>/dev/null")
    queue.branch("bad", {"bad.txt": "x\n"})
    async with kit.worker():
        assert (await ended(await queue.send("bad")))[0].code is Code.GATE_RED
        marker.touch()
        assert (await ended(await queue.send("bad")))[0].outcome == "merged"
