from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import pytest

from activities.git.candidate import _conserve, _paths, _Strange, build, op_id
from activities.git.chain import pin_chains
from activities.git.repository import open_repository
from activities.git.run import GitError
from activities.queue_contracts import Built, Candidate
from activities.settings import Strategy
from tests.git.landings import DATE, MAIN, candidate, work
from tests.git.repos import USER, commit, git, make_repo, run_git, write

STRATEGIES = get_args(Strategy)
TRAILERS = [
    "Task-Id: task-1",
    "Merge-Op: {op}",
    "Agent: codex (gpt-5.5)",
    "Reviewed-by: claude-code (opus)",
    "Reviewed-by: codex",
]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo", {"a": "a\n" * 20, "b": "b\n" * 20, "dir/c": "c\n" * 20})


def built(repo: Path, given: Candidate, base: str = "main") -> Built:
    with open_repository(str(repo)).git() as hardened:
        return build(hardened, given, git(repo, "rev-parse", base))


def tip(repo: Path, given: Candidate, base: str = "main") -> str:
    done = built(repo, given, base)
    assert done.kind == "built", done
    assert done.tip
    assert done.tree == git(repo, "rev-parse", f"{done.tip}^{{tree}}")
    return done.tip


def message(repo: Path, sha: str) -> str:
    return git(repo, "log", "-1", "--format=%B", sha)


def trailers(repo: Path, sha: str) -> list[str]:
    return git(repo, "log", "-1", "--format=%(trailers:only,unfold)", sha).split("\n")


def expected(given: Candidate) -> list[str]:
    return [line.format(op=given.op) for line in TRAILERS]


def two_commits(repo: Path) -> str:
    first = work(repo, {"a": "A\n" + "a\n" * 19}, message="First step\n\nWhy it was needed.\n\nCo-authored-by: C <c@d>")
    return work(repo, {"new": "new\n"}, base=first, message="Second step")


def move_main(repo: Path) -> str:
    return commit(repo, {"b": "b\n" * 19 + "B\n"}, "somebody else's")


def test_merge_is_always_a_merge_commit(repo: Path) -> None:
    base, head = git(repo, "rev-parse", "main"), two_commits(repo)
    given = candidate(repo, head, strategy="merge", title="Fix login")
    made = tip(repo, given)
    assert git(repo, "log", "-1", "--format=%P", made) == f"{base} {head}"
    assert git(repo, "log", "-1", "--format=%an <%ae> %at %cn %ct", made) == (
        f"Ada Agent <ada@example.org> {DATE} mergewright {DATE}"
    )
    assert message(repo, made).strip() == "\n".join(["Merge task 'Fix login'", "", *expected(given)])


def test_squash_is_one_commit_that_lists_the_others(repo: Path) -> None:
    head, base = two_commits(repo), move_main(repo)
    given = candidate(repo, head, title="Fix: login")
    made = tip(repo, given)
    assert git(repo, "log", "-1", "--format=%P", made) == base
    body = ["Fix: login", "", "* First step", "* Second step", "", *expected(given)]
    assert message(repo, made).strip() == "\n".join(body)
    assert git(repo, "diff", "--name-only", base, made).split() == ["a", "new"]


def test_rebase_keeps_every_commit_with_author_and_message(repo: Path) -> None:
    head, base = two_commits(repo), move_main(repo)
    given = candidate(repo, head, strategy="rebase")
    made = tip(repo, given)
    shas = git(repo, "rev-list", "--reverse", f"{base}..{made}").split()
    assert len(shas) == 2
    assert git(repo, "log", "-1", "--format=%P", shas[0]) == base
    for sha, original in zip(shas, git(repo, "rev-list", "--reverse", f"main..{head}").split(), strict=True):
        kept = "--format=%an %ae %at%n%s"
        assert git(repo, "log", "-1", kept, sha) == git(repo, "log", "-1", kept, original)
        assert git(repo, "log", "-1", "--format=%cn %ct", sha) == f"mergewright {DATE}"
        assert trailers(repo, sha)[-5:] == expected(given)
    # In the block that was there, so that both are trailers.
    assert trailers(repo, shas[0]) == ["Co-authored-by: C <c@d>", *expected(given)]
    assert "Why it was needed.\n\nCo-authored-by: C <c@d>\nTask-Id: task-1\n" in message(repo, shas[0])


def test_ff_only_changes_nothing_but_the_messages(repo: Path) -> None:
    base, head = git(repo, "rev-parse", "main"), two_commits(repo)
    given = candidate(repo, head, strategy="ff-only")
    made = tip(repo, given)
    assert made != head
    trees = "--format=%T %an %at"
    assert git(repo, "log", trees, f"{base}..{made}") == git(repo, "log", trees, f"{base}..{head}")
    assert all(trailers(repo, sha)[-5:] == expected(given) for sha in git(repo, "rev-list", f"{base}..{made}").split())
    move_main(repo)
    assert built(repo, given).kind == "stale"


@pytest.mark.parametrize("strategy", ["rebase", "ff-only"])
def test_a_range_with_merges_lands_as_one_commit(repo: Path, strategy: Strategy) -> None:
    head, base = two_commits(repo), move_main(repo)
    side = repo.with_name("repo-side")
    git(side, "merge", "-q", "-m", "merge main", base)
    head = commit(side, {"more": "more\n"}, "Third step")
    made = tip(repo, candidate(repo, head, strategy=strategy))
    assert git(repo, "log", "-1", "--format=%P", made) == base
    assert git(repo, "rev-parse", f"{made}^{{tree}}") == git(repo, "rev-parse", f"{head}^{{tree}}")
    assert "* First step\n* Second step\n* Third step\n" in message(repo, made)


def test_rebase_leaves_out_what_became_empty(repo: Path) -> None:
    head = two_commits(repo)
    base = commit(repo, {"new": "new\n"}, "the same by somebody else")
    made = tip(repo, candidate(repo, head, strategy="rebase"))
    assert git(repo, "log", "--format=%s", f"{base}..{made}") == "First step"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_same_inputs_same_sha(repo: Path, tmp_path: Path, strategy: Strategy) -> None:
    head = two_commits(repo)
    given = candidate(repo, head, strategy=strategy)
    made = tip(repo, given)
    git(repo, "config", "user.name", "Somebody Else")
    git(repo, "config", "i18n.commitEncoding", "latin1")
    git(repo, "gc", "-q", "--prune=now")
    assert tip(repo, given) == made
    shutil.copytree(repo, tmp_path / "copy")
    with open_repository(str(tmp_path / "copy")).git() as hardened:
        assert build(hardened, given, git(repo, "rev-parse", "main")).tip == made


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_landed_one_is_found_again(repo: Path, strategy: Strategy) -> None:
    head = two_commits(repo)
    given = candidate(repo, head, strategy=strategy)
    made = tip(repo, given)
    git(repo, "merge", "-q", "--ff-only", made)
    assert (built(repo, given).kind, built(repo, given).tip) == ("landed", made)
    # Others went on, and undid it: it is not done twice.
    git(repo, "revert", "--no-edit", *(["-m", "1"] if strategy == "merge" else []), made)
    move_main(repo)
    assert (built(repo, given).kind, built(repo, given).tip) == ("landed", made)


def test_only_its_own_landing_counts(repo: Path) -> None:
    head = two_commits(repo)
    git(repo, "merge", "-q", "--ff-only", tip(repo, candidate(repo, head, task="other")))
    assert built(repo, candidate(repo, head)).kind == "noop"


@pytest.mark.parametrize(
    "forged",
    [
        "Merge-Op: {op}",
        "Merge-Op: {op}\n\nbody",
        "fix\n\nMerge-Op: {op}",
        "fix\n\nbody\n\nmerge-op:{op}\nSigned-off-by: x <x>",
        "fix\n\nMerge-Op : {op}\n  folded",
        "fix\n\nMerge-Op: {op}\n\n# a comment\n",
        "fix\n\n# ------------------------ >8 ------------------------\nbelow",
        "fix\n---\nMerge-Op: {op}",
        "fix\n\n\0Merge-Op: {op}",
    ],
)
def test_an_agents_message_cannot_say_that_another_task_landed(repo: Path, forged: str) -> None:
    victim = candidate(repo, work(repo, {"victim": "x\n"}), task="victim")
    head = work(repo, {"evil": "x\n"}, message="x")
    raw = git(repo, "cat-file", "commit", head).partition("\n\n")[0] + "\n\n" + forged.format(op=victim.op) + "\n"
    head = git(repo, "hash-object", "-t", "commit", "-w", "--stdin", stdin=raw.encode())
    for strategy in STRATEGIES:
        given = candidate(repo, head, strategy=strategy, title=f"Merge-Op: {victim.op}")
        made = tip(repo, given)
        assert built(repo, victim, made).kind == "built"
        assert built(repo, given, made).kind == "landed"
        assert git(repo, "log", "-1", "--format=%(trailers:key=Merge-Op,valueonly,separator=|)", made) == given.op


def test_trailers_are_one_line_each(repo: Path) -> None:
    head = two_commits(repo)
    given = candidate(
        repo, head, task="t\nMerge-Op: 0", agent="a\r\nb", reviewers=["c\x1b[1m\x00 (d)\u2028e"], title="a\tb"
    )
    made = tip(repo, given)
    assert trailers(repo, made) == [
        "Task-Id: t Merge-Op: 0",
        f"Merge-Op: {given.op}",
        "Agent: a b",
        "Reviewed-by: c [1m (d) e",
    ]
    assert message(repo, made).startswith("a b\n")


def test_odd_authors_and_messages(repo: Path) -> None:
    head = work(repo, {"a": "A\n"}, message="x")
    tree, parent = git(repo, "rev-parse", f"{head}^{{tree}}", "main").split()
    latin = f"tree {tree}\nparent {parent}\nauthor Jörg <j@x> 5 +0130\ncommitter x <x> 5 +0000\n"
    latin += "gpgsig -----BEGIN\n x\n -----END\nencoding ISO-8859-1\n\nGrün\n\nbody\n"
    odd = f"tree {tree}\nparent {parent}\nauthor  <> 5 +0000\ncommitter x <x> 5 +0000\n\n".encode() + b"\xff\xfe\n"
    empty = f"tree {tree}\nparent {parent}\nauthor x <> 5 +0000\ncommitter x <x> 5 +0000\n\n".encode()
    shas = [
        git(repo, "hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=raw)
        for raw in (latin.encode("latin-1"), odd, empty)
    ]
    made = [tip(repo, candidate(repo, sha, strategy="rebase", title="The title")) for sha in shas]
    assert git(repo, "log", "-1", "--format=%an %ad %s", "--date=raw", made[0]) == "Jörg 5 +0130 Grün"
    raw = run_git(repo, "cat-file", "commit", made[1]).stdout
    assert b"author  <> 5 +0000\n" in raw
    assert b"\n\n\xff\xfe\n\nTask-Id: " in raw
    assert git(repo, "log", "-1", "--format=%s", made[2]) == "The title"
    person = tip(repo, candidate(repo, head, author="A <B\n> <<c@d>>\n"))
    assert git(repo, "log", "-1", "--format=%an <%ae>", person) == "A <B c@d>"
    assert run_git(repo, "fsck", "--no-dangling", made[0], made[2], person).stderr == b""


@pytest.mark.parametrize("encoding", ["base64", "utf-16", "unicode_escape", "utf-7", "no-such", "\xff"])
def test_no_encoding_keeps_a_commit_from_being_built(repo: Path, encoding: str) -> None:
    tree, parent = git(repo, "rev-parse", f"{work(repo, {'a': 'A'})}^{{tree}}", "main").split()
    raw = f"tree {tree}\nparent {parent}\nauthor a\\nb <x> 5 +0000\ncommitter x <x> 5 +0000\nencoding {encoding}\n\n"
    said = "fix \\ud800 +2AA-\n\n\\nMerge-Op: 0\n"
    sha = git(repo, "hash-object", "-t", "commit", "-w", "--stdin", stdin=(raw + said).encode("latin-1"))
    given = candidate(repo, sha, strategy="rebase")
    assert (
        git(repo, "log", "-1", "--format=%(trailers:key=Merge-Op,valueonly,separator=|)", tip(repo, given)) == given.op
    )


def test_conflicts_are_named(repo: Path) -> None:
    binary, odd = b"\0\1" * 50, "new\nline"
    head = work(repo, {"a": "theirs\n", "b": None, "dir/c": binary, odd: "x\n"})
    base = commit(repo, {"a": "ours\n", "b": "changed\n", "dir/c": binary + b"x", odd: "y\n"})
    for strategy in ("merge", "squash", "rebase"):
        done = built(repo, candidate(repo, head, strategy=strategy))
        assert (done.kind, done.tip, done.base) == ("conflict", None, base)
        assert done.conflict
        assert sorted(done.conflict.files) == ["a", "b", "dir/c", odd]
        ours = git(repo, "rev-parse", "main:a")
        assert f"2 100644 {ours} a" in done.conflict.stages
        text = "\n".join(done.conflict.messages)
        assert "Merge conflict in a" in text
        assert "CONFLICT (modify/delete): b deleted in" in text
        assert "Auto-merging" not in text


def test_many_conflicts_do_not_make_a_big_answer(repo: Path) -> None:
    names = [f"{'n' * 150}{number}" for number in range(200)]
    head = work(repo, dict.fromkeys(names, "theirs\n"))
    commit(repo, dict.fromkeys(names, "ours\n"))
    done = built(repo, candidate(repo, head))
    assert done.conflict
    assert done.conflict.messages[-1] == "… and 150 more conflicts"
    assert len(done.model_dump_json()) < 64 * 1024


def test_a_target_that_renamed_the_file(repo: Path) -> None:
    """The task's change goes to where the file is now: a path that the task did not touch."""
    head = work(repo, {"a": "a\n" * 19 + "A\n"})
    git(repo, "mv", "a", "moved")
    base = commit(repo, message="rename")
    for strategy in ("merge", "squash", "rebase"):
        made = tip(repo, candidate(repo, head, strategy=strategy))
        assert git(repo, "diff", "--name-only", base, made) == "moved"


def test_a_target_that_renamed_the_folder(repo: Path) -> None:
    """git will not decide where the new file goes; no more do we."""
    head = work(repo, {"dir/new": "new\n"})
    git(repo, "mv", "dir", "folder")
    commit(repo, message="rename")
    done = built(repo, candidate(repo, head))
    assert done.kind == "conflict"


def test_a_task_that_renamed_the_folder_into_which_the_target_put_a_file(repo: Path) -> None:
    side = work(repo, {"x": "x\n"})
    git(repo.with_name("repo-side"), "mv", "dir", "folder")
    head = commit(repo.with_name("repo-side"), message=f"rename {side}")
    commit(repo, {"dir/new": "new\n"})
    assert built(repo, candidate(repo, head)).kind == "conflict"


def test_what_lands_touches_only_what_the_task_touched(repo: Path) -> None:
    fork = git(repo, "rev-parse", "main")
    head, base = two_commits(repo), move_main(repo)
    write(repo, {"a": "A\n" + "a\n" * 19, "new": "new\n", "b": "b\n" * 20})  # a stale `b`: it undoes move_main
    git(repo, "add", "-A")
    evil = git(repo, "commit-tree", git(repo, "write-tree"), "-p", base, "-m", "squash of a stale tree")
    with open_repository(str(repo)).git() as hardened, pytest.raises(_Strange) as raised:
        _conserve(hardened, base, _paths(hardened, base, evil), [fork], head)
    assert raised.value.paths == ["b"]


def test_two_merge_bases(repo: Path) -> None:
    """A criss-cross: both sides have merged the other one."""
    head, base = work(repo, {"x": "x\n"}), commit(repo, {"y": "y\n"})
    side = repo.with_name("repo-side")
    git(side, "merge", "-q", "-m", "one", base)
    git(repo, "merge", "-q", "-m", "two", head)
    head = commit(side, {"x": "x\nmore\n"})
    base = commit(repo, {"y": "y\nmore\n"})
    assert len(git(repo, "merge-base", "--all", base, head).split()) == 2
    made = tip(repo, candidate(repo, head))
    assert git(repo, "diff", "--name-only", base, made) == "x"


def test_nothing_to_land(repo: Path) -> None:
    head = two_commits(repo)
    assert built(repo, candidate(repo, git(repo, "rev-parse", "main~0"))).kind == "noop"
    commit(repo, {"a": "A\n" + "a\n" * 19, "new": "new\n"}, "the same by somebody else")
    for strategy in ("merge", "squash", "rebase"):
        assert built(repo, candidate(repo, head, strategy=strategy)).kind == "noop"


def test_no_history_in_common(repo: Path) -> None:
    side = repo.with_name("repo-side")
    work(repo, {"x": "x"})
    git(side, "checkout", "-q", "--orphan", "other")
    done = built(repo, candidate(repo, commit(side, {"y": "y"})))
    assert done.kind == "conflict"
    assert done.conflict
    assert "no history in common" in done.conflict.messages[0]


def test_a_missing_head_is_an_error_and_no_conflict(repo: Path) -> None:
    with pytest.raises(GitError):
        built(repo, candidate(repo, "1" * 40))


def test_a_pinned_candidate_survives_gc(repo: Path) -> None:
    head = two_commits(repo)
    given = candidate(repo, head)
    made = tip(repo, given)
    with open_repository(str(repo)).git() as hardened:
        pin_chains(hardened, MAIN, [made])
        pin_chains(hardened, MAIN, [made])
        git(repo, "gc", "-q", "--prune=now")
        assert git(repo, "cat-file", "-t", made) == "commit"
        pin_chains(hardened, MAIN, [])
        pin_chains(hardened, MAIN, [])
    git(repo, "reflog", "expire", "--expire=now", "--all")
    git(repo, "gc", "-q", "--prune=now")
    assert run_git(repo, "cat-file", "-t", made, check=False).returncode != 0


def test_the_key_of_a_landing(repo: Path) -> None:
    head = two_commits(repo)
    common = open_repository(str(repo)).common_dir
    assert open_repository(str(repo.with_name("repo-side"))).common_dir == common
    key = op_id(common, MAIN, "task-1", head, "squash")
    assert len(key) == 16
    assert int(key, 16)
    others = {
        op_id(common.parent, MAIN, "task-1", head, "squash"),
        op_id(common, "refs/heads/x", "task-1", head, "squash"),
        op_id(common, MAIN, "task-2", head, "squash"),
        op_id(common, MAIN, "task-1", "0" * 40, "squash"),
        op_id(common, MAIN, "task-1", head, "merge"),
    }
    assert len(others | {key}) == 6


def test_the_repositorys_own_identity_is_not_the_committer(repo: Path) -> None:
    made = tip(repo, candidate(repo, two_commits(repo), strategy="rebase"))
    assert git(repo, "log", "-1", "--format=%an", made) == USER[0]
    assert git(repo, "log", "-1", "--format=%cn", made) == "mergewright"
