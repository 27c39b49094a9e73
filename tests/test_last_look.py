"""What will land is looked at once more where it is not what was looked at: by chains on real repositories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.exceptions import ApplicationError

from activities.contracts import TaskRef
from activities.git.chain import ChainBuilder
from activities.git.landing import base_known
from activities.git.repository import open_repository
from activities.home import Home
from activities.last_look import LastLook, may_be_twins, rules_at
from activities.policy import twins
from activities.preflight import asked_for, look, rules_on
from activities.queue_contracts import BuiltChain, Candidate, ChainToBuild
from activities.settings import Strategy
from tests.git.landings import MAIN, candidate, work
from tests.git.repos import commit, git, make_repo

WORKFLOW = ".github/workflows/x.yml"
Files = Mapping[str, bytes | str | None]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo", {"README.md": "hello\n", "plain": "a\nb\nc\n", "docs/old.md": "x\n" * 9})


def handed_in(repo: Path, files: Files, strategy: Strategy = "merge") -> Candidate:
    """A candidate such as `submit` makes it, with the target as it is now."""
    head = work(repo, files)
    repository = open_repository(str(repo))
    tip = repository.tip(MAIN)
    looked = look(repository, tip, head, strategy, rules_on(repository, MAIN, tip))
    name = f"task-{head[:10]}"
    ref = TaskRef(task_id=name, key=name, repo=str(repo), target=MAIN)
    noted = {"looked": looked.digest, "asked": asked_for(looked.found)}
    return candidate(repo, head, task=name, strategy=strategy, ref=ref, **noted)


def built(repo: Path, *handed: Candidate, allowed: Mapping[str, str] | None = None) -> tuple[BuiltChain, list[bool]]:
    """The chain as `build` makes it; and of each step, whether there was anything new to look at."""
    repository = open_repository(str(repo))
    with repository.git() as hardened:
        base = repository.tip(MAIN)
        last_look = LastLook(repository, hardened, Home(repo.parent / "home"), MAIN, base, allowed or {})
        chain = ChainBuilder(hardened, base, {one.op: one for one in handed}, last_look).chain(
            ChainToBuild(ops=[one.op for one in handed])
        )
        new, below = [], base
        for one, step in zip(handed, chain.steps, strict=False):
            new.append(last_look.anything_new(one, below, step, rules_at(hardened.objects, below, MAIN)))
            below = step.sha
    return chain, new


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_what_was_looked_at_already_is_not_looked_at_again(repo: Path, strategy: Strategy) -> None:
    one = handed_in(repo, {"docs/new.md": "x\n", "plain": None, "README.md": "hello\nyou\n"}, strategy)
    other = handed_in(repo, {"docs/other.md": "x\n"}, "squash" if strategy == "ff-only" else strategy)
    chain, new = built(repo, one, other)
    assert (len(chain.steps), new) == (2, [False, False])
    commit(repo, {"elsewhere/x": "x\n", "mergewright.toml": "[queue]\nstrict_each = true\n"})
    if strategy != "ff-only":
        assert built(repo, one)[1] == [False]


def test_a_policy_that_became_stricter_meanwhile(repo: Path) -> None:
    one, other = handed_in(repo, {"vendor/a": "x\n"}), handed_in(repo, {"src/a": "x\n"})
    commit(repo, {"mergewright.toml": "[policy]\ndeny = ['vendor/']\n"})
    chain, new = built(repo, other, one)
    assert (len(chain.steps), new) == (1, [True])
    assert chain.alone is not None
    assert (chain.alone.kind, chain.alone.paths) == ("policy", ["vendor/a"])
    assert chain.alone.reason.startswith("deny: vendor/a: must not change. Take these files out of the change ")
    assert chain.alone.preflight is not None
    assert "| deny | vendor/a | must not change |" in Path(chain.alone.preflight.log).read_text()


def test_the_rules_are_those_of_the_commit_below(repo: Path) -> None:
    """Of one that lands with the policy that came before it in the same chain."""
    one = handed_in(repo, {"vendor/a": "x\n"})
    for text, told in (
        ("[policy]\ndeny = ['vendor/']\n", "deny: vendor/a"),
        ("[policy]\nx = 1\n", "policy.x: unknown"),
    ):
        strict = handed_in(repo, {"mergewright.toml": text})
        chain, _ = built(repo, strict, one, allowed={strict.op: strict.asked})
        assert (len(chain.steps), chain.alone) == (1, None)
        assert chain.stopped is not None
        assert (chain.stopped.kind, told in chain.stopped.reason) == ("policy", True)


def test_settings_that_are_wrong_on_the_target_are_nobodys_fault(repo: Path) -> None:
    one = handed_in(repo, {"a": "x\n"})
    commit(repo, {"mergewright.toml": "[policy]\ncolour = 1\n"})
    with pytest.raises(ApplicationError, match=r"policy\.colour: unknown field"):
        built(repo, one)


def test_twins_of_two_that_wait_together(repo: Path) -> None:
    one, twin = (handed_in(repo, {f"docs/{name}.md": f"{name}\n"}) for name in ("new", "New"))
    chain, _ = built(repo, one, twin)
    assert (len(chain.steps), chain.alone) == (1, None)
    assert chain.stopped is not None
    assert chain.stopped.reason.startswith("case: docs/New.md: differs only in case from docs/new.md.")
    assert len(built(repo, twin)[0].steps) == 1
    commit(repo, {"docs/NEW.md": "z\n"})
    assert [built(repo, each)[0].alone is None for each in (one, twin)] == [False, False]


def test_a_file_that_the_target_renamed_to_a_protected_one_waits_for_leave(repo: Path) -> None:
    one = handed_in(repo, {"plain": "a\nb\nc\nevil\n"})
    git(repo, "mv", "plain", "moved")
    commit(repo, {WORKFLOW: (repo / "moved").read_text(), "moved": None})
    chain, _ = built(repo, one)
    alone = chain.alone
    assert alone is not None
    assert (alone.kind, alone.leave) == ("leave", [WORKFLOW])
    chain, new = built(repo, one, allowed={one.op: alone.asked})
    assert (len(chain.steps), new) == (1, [True])


def test_leave_for_one_thing_is_no_leave_for_another(repo: Path) -> None:
    one = handed_in(repo, {"plain": "a\nb\nc\nevil\n", "Jenkinsfile": "x\n"})
    assert built(repo, one, allowed={one.op: one.asked})[1] == [False]
    first = built(repo, one)[0].alone
    assert first is not None
    assert (first.kind, first.leave, first.asked) == ("leave", ["Jenkinsfile"], one.asked)
    git(repo, "mv", "plain", "moved")
    commit(repo, {WORKFLOW: (repo / "moved").read_text(), "moved": None})
    more = built(repo, one, allowed={one.op: one.asked})[0].alone
    assert more is not None
    assert (more.kind, more.leave) == ("leave", [WORKFLOW, "Jenkinsfile"])


def test_the_rules_before_are_those_of_the_remote_as_it_was_seen(repo: Path) -> None:
    repository, seen = open_repository(str(repo)), "refs/mergewright/remote/origin/main"
    tip = repository.tip(MAIN)
    assert base_known(repository, MAIN, tip, "origin") == tip
    newer = work(repo, {"a": "x\n"})
    git(repo, "update-ref", seen, newer)
    assert [base_known(repository, MAIN, tip, push) for push in ("origin", "")] == [newer, tip]
    git(repo, "reset", "-q", "--hard", newer)
    pulled = commit(repo, {"b": "x\n"})
    assert base_known(repository, MAIN, pulled, "origin") == pulled


names = st.text("aAbB", min_size=1, max_size=2)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths=st.sets(st.lists(names, min_size=1, max_size=3).map("/".join), min_size=1, max_size=6), data=st.data())
def test_no_twin_goes_unsuspected(repo: Path, paths: set[str], data: st.DataObject) -> None:
    there = {path for path in paths if not any(other.startswith(f"{path}/") for other in paths)}
    new = {path for path in sorted(there) if data.draw(st.booleans())}
    lines = "".join(f"M 100644 inline {path}\ndata 0\n" for path in there)
    stream = f"commit refs/made/x\nmark :1\ncommitter U <u@e> 1 +0000\ndata 0\n{lines}\nget-mark :1\n"
    head = git(repo, "fast-import", "--quiet", "--force", stdin=stream.encode())
    with open_repository(str(repo)).git() as hardened:
        suspected = may_be_twins(hardened.objects, hardened.objects.tree(head), new)
    assert suspected or not twins(there, new)


def test_a_candidate_of_a_version_that_noted_nothing_is_looked_at(repo: Path) -> None:
    good, bad = (handed_in(repo, files) for files in ({"a": "x\n"}, {"b": "\0"}))
    chains = [built(repo, one.model_copy(update={"looked": "", "asked": ""})) for one in (good, bad)]
    assert [(len(chain.steps), new) for chain, new in chains] == [(1, [True]), (0, [])]


@pytest.mark.parametrize(
    ("path", "found"),
    [("a/b/c", False), ("a/b/C", True), ("A/x", True), ("two/x", True), ("Two/y/z", True), ("three/x", False)],
)
def test_twins_are_suspected_by_the_folders_on_the_way(tmp_path: Path, path: str, found: bool) -> None:
    repo = make_repo(tmp_path / "repo", {**dict.fromkeys(("a/b/c", "two/k", "Two/l", "three/y"), "x\n"), path: "y\n"})
    repository = open_repository(str(repo))
    with repository.git() as hardened:
        assert may_be_twins(hardened.objects, repository.tree("main"), {path}) is found
