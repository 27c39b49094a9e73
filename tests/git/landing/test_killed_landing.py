from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from activities.git import run
from activities.git.candidate import SOURCES, build
from activities.git.chain import pin_chains
from activities.git.landing import follow, land, parking_branch
from activities.git.locks import exclusive
from activities.git.repository import Repository
from activities.git.run import Git
from activities.queue_contracts import Landed, LandInput
from tests.git.landings import (
    MAIN,
    USERS,
    chained,
    contents,
    dirty,
    is_clean,
    land_it,
    landed_ops,
    landing,
    left_in,
    one_task,
    other_task,
    state,
    tip_of,
)
from tests.git.repos import commit, git, run_git, write

ROOT = Path(__file__).parents[3]


# --- killed between any two steps ----------------------------------------------------------------------------------

Crash = Callable[..., dict[str, str | int]]


@pytest.fixture
def crash(repo: Path, folder: Path, tmp_path: Path) -> Iterator[Crash]:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.git.crash"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin
    assert driver.stdout

    def run(given: LandInput, step: int | str) -> dict[str, str | int]:
        asked = {"repo": str(repo), "folder": str(folder), "landing": given.model_dump(mode="json")}
        print(json.dumps(asked | {"step": step}), file=driver.stdin, flush=True)
        answer: dict[str, str | int] = json.loads(driver.stdout.readline())
        return answer

    yield run
    driver.stdin.close()
    assert driver.wait(10) == 0


def put_back(repo: Path, base: str) -> None:
    """The user's checkout and the pins as at the start."""
    git(repo, "stash", "-q", "-u")
    git(repo, "reset", "-q", "--hard", base)
    git(repo, "stash", "pop", "-q", "--index")


@pytest.mark.parametrize("then", ["the same", pytest.param("another", marks=pytest.mark.long)])
def test_killed_before_any_step(repo: Path, repository: Repository, folder: Path, crash: Crash, then: str) -> None:
    """Whatever comes next finds the repository in order, and each lands exactly once."""
    given, other = one_task(repo), other_task(repo)
    dirty(repo)
    users = {name: state(repo)[name] for name in USERS}
    killed = []
    base, tip = tip_of(repository, given)
    step: int | str = "landing.new"  # before it writes the journal it only looks
    while "killed" in (died := crash(landing(given, base, tip), step)):
        step = int(died["step"]) + 1
        killed.append(str(died["killed"]))
        if then == "another":
            assert land_it(repo, folder, other).kind == "landed"
        if (now := repository.tip(MAIN)) == base or then == "the same":
            assert land(repository, landing(given, base, tip), folder).kind == "landed", killed[-1]
        else:
            assert land(repository, landing(given, base, tip), folder).kind in ("lost_race", "landed"), (
                killed[-1],
                now,
            )
            assert land_it(repo, folder, given).kind == "landed", killed[-1]
        ops = [given.op] + ([other.op] if then == "another" else [])
        assert sorted(landed_ops(repository)) == sorted(ops), killed[-1]
        is_clean(repo)
        assert {name: state(repo)[name] for name in USERS} == users, killed[-1]
        assert not (folder / "landing.json").exists()
        put_back(repo, base)
        users = {name: state(repo)[name] for name in USERS}
        base, tip = tip_of(repository, given)
    assert len(killed) >= 15
    for step in ("read-tree', '-m", "update-ref', '-m", "index.lock", "landing.json", "mergewright-index-before"):
        assert any(step in what for what in killed), step
    assert run_git(repo, "fsck", "--no-dangling").stderr == b""


@pytest.mark.parametrize("checkout", ["park", "bare"])
def test_killed_where_the_user_is_in_the_way(
    repo: Path, repository: Repository, folder: Path, crash: Crash, checkout: str
) -> None:
    """A chain of two, which goes to the parking branch, or to the target without the checkout."""
    given = [one_task(repo), other_task(repo)]
    dirty(repo)
    write(repo, {"mod": "mine\n"})
    before, base = (contents(repo), (repo / ".git/index").read_bytes()), repository.tip(MAIN)
    moved = parking_branch(MAIN) if checkout == "park" else MAIN
    asked = landing(given, base, chained(repo, given).steps[-1].sha, checkout=checkout)
    killed = []
    step: int | str = "update-ref', '--stdin" if checkout == "park" else "landing.new"
    while True:
        for one in given:
            git(repo, "update-ref", SOURCES + one.op, one.head)
        with repository.git() as hardened:
            pin_chains(hardened, MAIN, [asked.tip])
        died = crash(asked, step)
        if "killed" not in died:
            break
        step = int(died["step"]) + 1
        killed.append(str(died["killed"]))
        assert land(repository, asked, folder).kind == "landed", killed[-1]
        assert repository.tip(moved) == asked.tip, killed[-1]
        assert (contents(repo), (repo / ".git/index").read_bytes()) == before, killed[-1]
        assert left_in(repo) == []
        assert not (folder / "landing.json").exists()
        record = "refs/mergewright/parked/main"
        kept = {record: asked.tip} if checkout == "park" else {}
        listed = git(repo, "for-each-ref", "--format=%(refname) %(objectname)", "refs/mergewright").splitlines()
        assert dict(line.split() for line in listed) == kept, killed[-1]
        git(repo, "update-ref", MAIN, base)
        if checkout == "park":
            git(repo, "update-ref", "-d", moved)
            git(repo, "update-ref", "-d", record)
    assert len(killed) >= 6
    assert any("update-ref', '-m" in what for what in killed)


def test_a_journal_of_a_former_version(repo: Path, repository: Repository, folder: Path, crash: Crash) -> None:
    """It landed one candidate at a time."""
    given = one_task(repo)
    dirty(repo)
    base, tip = tip_of(repository, given)
    assert "killed" in crash(landing(given, base, tip), "update-ref', '-m")
    journal = json.loads((folder / "landing.json").read_text())
    (journal["op"],) = journal.pop("ops")
    (folder / "landing.json").write_text(json.dumps(journal))
    git(repo, "update-ref", MAIN, tip)
    assert follow(repository, MAIN, tip, "hold", folder) == ""
    assert git(repo, "for-each-ref", SOURCES) == ""
    assert not (folder / "landing.json").exists()
    assert land(repository, landing(given, base, tip), folder).kind == "landed"
    is_clean(repo)


@pytest.mark.long
def test_killed_again_before_any_step_of_the_undoing(
    repo: Path, repository: Repository, folder: Path, crash: Crash
) -> None:
    given = one_task(repo)
    dirty(repo)
    base, tip = tip_of(repository, given)
    killed = []
    for step in range(100):
        before = contents(repo), (repo / ".git/index").read_bytes()
        assert "killed" in crash(landing(given, base, tip), "update-ref', '-m")
        died = crash(landing(given, base, tip), step)
        killed.append(str(died["killed"]))
        if "landing.new" in killed[-1]:  # it is undone, and a new landing begins
            break
        assert land(repository, landing(given, base, tip), folder).kind == "landed"
        is_clean(repo)
        put_back(repo, base)
        base, tip = tip_of(repository, given)
    assert (contents(repo), (repo / ".git/index").read_bytes()) == before
    assert len(killed) > 5
    for step_name in ("checkout-index", "mergewright-index-before", "index.lock"):
        assert any(step_name in what for what in killed), killed


# --- what a killed git leaves --------------------------------------------------------------------------------------


def test_git_killed_in_the_middle_of_a_file(repo: Path, repository: Repository, folder: Path) -> None:
    """The kernel kills git inside of write(2), at the same place each time: some files done, one torn, locks left."""
    commit(repo, {"big": "short\n", "a": "a\n"})
    given, other = one_task(repo, a="A\n", big="x" * 100_000), other_task(repo)
    base, tip = tip_of(repository, given)
    dirty(repo)
    before = contents(repo)
    if (worker := os.fork()) == 0:
        real = Git.run

        def run(self: Git, *args: str, **more: object) -> object:
            if args[:3] == ("read-tree", "-m", "-u"):
                resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
                real(self, *args, ok=range(-64, 256), **more)  # type: ignore[arg-type]
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, *args, **more)  # type: ignore[arg-type]

        Git.run = run  # type: ignore[method-assign, assignment]
        land(repository, landing(given, base, tip), folder)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -signal.SIGKILL
    assert (repo / "big").read_bytes() == b"x" * 50_000
    assert (repo / "a").read_text() == "A\n"
    assert (repo / ".git/mergewright-index.lock").exists()
    assert run_git(repo, "commit", "-qam", "the user has to wait", check=False).returncode == 128
    assert land_it(repo, folder, other).kind == "landed"
    after = contents(repo)
    for name in before.keys() - {"sub/file"}:
        assert after[name] == before[name]
    assert land_it(repo, folder, given).kind == "landed"
    is_clean(repo)


def stale_ref_lock(repo: Path, tip: str) -> None:
    """What `update-ref` leaves when it is killed with everything prepared."""
    with subprocess.Popen(
        ["git", "update-ref", "--stdin"], cwd=repo, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as dying:
        assert dying.stdin
        assert dying.stdout
        print(f"start\nupdate {MAIN} {tip}\nprepare", file=dying.stdin, flush=True)
        assert [dying.stdout.readline() for _ in range(2)] == ["start: ok\n", "prepare: ok\n"]
        dying.kill()


@pytest.mark.parametrize("lock", ["written", "empty"])
def test_git_killed_while_it_moves_the_branch(
    repo: Path, repository: Repository, folder: Path, crash: Crash, lock: str
) -> None:
    given = one_task(repo)
    base, tip = tip_of(repository, given)
    dirty(repo)
    assert "killed" in crash(landing(given, base, tip), "update-ref', '-m")
    if lock == "written":
        stale_ref_lock(repo, tip)
        (repo / ".git/HEAD.lock").unlink()  # ours never locks the user's HEAD
        assert (repo / ".git/refs/heads/main.lock").read_text() == f"{tip}\n"
    else:
        (repo / ".git/refs/heads/main.lock").touch()
    assert land(repository, landing(given, base, tip), folder).kind == "landed"
    is_clean(repo)


def test_a_lock_that_was_there_before_is_not_ours(
    repo: Path, repository: Repository, folder: Path, crash: Crash
) -> None:
    given = one_task(repo)
    base, tip = tip_of(repository, given)
    dirty(repo)
    lock = repo / ".git/refs/heads/main.lock"
    lock.touch()
    os.utime(lock, (time.time() - 60, time.time() - 60))
    assert "killed" in crash(landing(given, base, tip), "update-ref', '-m")
    assert land(repository, landing(given, base, tip), folder).kind == "blocked"
    assert lock.exists()
    lock.unlink()
    assert land(repository, landing(given, base, tip), folder).kind == "landed"
    is_clean(repo)


def test_git_killed_while_it_deletes_the_pins(
    repo: Path, repository: Repository, folder: Path, crash: Crash, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = one_task(repo)
    base, tip = tip_of(repository, given)
    dirty(repo)
    git(repo, "pack-refs", "--all")
    assert "killed" in crash(landing(given, base, tip), "update-ref', '--stdin")
    for name in ("packed-refs.lock", "packed-refs.new", f"{SOURCES}{given.op}.lock"):
        (repo / ".git" / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / ".git" / name).touch()
    monkeypatch.setattr(run, "PACKED_STALE_SECONDS", 1.0)
    assert land(repository, landing(given, base, tip), folder).kind == "landed"
    is_clean(repo)
    assert not (repo / ".git/packed-refs.new").exists()


def test_a_git_that_outlives_its_worker_is_waited_for(tmp_path: Path) -> None:
    """It was given the lock: nobody else gets it while it works."""
    code = (
        "import os, subprocess, sys, signal\n"
        "from pathlib import Path\n"
        "from activities.git.locks import exclusive\n"
        "from activities.git.run import Git\n"
        "with exclusive(Path(sys.argv[1])) as lock:\n"
        "    git = Git(Path('/nowhere'), None).holding(lock)\n"
        "    subprocess.Popen(['sleep', '1'], pass_fds=git.fds, start_new_session=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    worker = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], cwd=ROOT, check=False)
    assert worker.returncode == -signal.SIGKILL
    with (tmp_path / "lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with exclusive(tmp_path / "lock"):
        pass


def test_every_git_of_a_landing_holds_the_lock(
    repo: Path, repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that write, that is: the others are harmless."""
    seen = []
    real = Git.run

    def run(self: Git, *args: str, **more: object) -> object:
        seen.append((args[0], bool(self.fds)))
        return real(self, *args, **more)  # type: ignore[arg-type]

    given = one_task(repo)
    base, tip = tip_of(repository, given)
    monkeypatch.setattr(Git, "run", run)
    assert land(repository, landing(given, base, tip), folder).kind == "landed"
    assert {name for name, held in seen if not held} <= {"rev-parse"}
    assert {"read-tree", "update-ref"} <= {name for name, held in seen if held}


# --- what the user may do between a kill and the next run ----------------------------------------------------------


def test_the_user_removed_the_lock_and_committed(
    repo: Path, repository: Repository, folder: Path, crash: Crash
) -> None:
    """In the worst moment, with everything staged: the commit has the task's work, which is then found there."""
    given = one_task(repo)
    base, tip = tip_of(repository, given)
    assert "killed" in crash(landing(given, base, tip), "update-ref', '-m")
    (repo / ".git/index.lock").unlink()
    assert git(repo, "status", "--porcelain") != ""
    git(repo, "commit", "-qam", "mine")
    now = repository.tip(MAIN)
    assert land(repository, landing(given, base, tip), folder) == Landed(kind="lost_race", sha=now)
    assert git(repo, "status", "--porcelain") == ""
    assert left_in(repo) == []
    with repository.git() as hardened:
        assert build(hardened, given, now).kind == "noop"


def test_a_checkout_that_is_gone(repo: Path, repository: Repository, folder: Path, crash: Crash) -> None:
    git(repo, "checkout", "-q", "-b", "elsewhere")
    linked = repo.with_name("linked")
    git(repo, "worktree", "add", "-q", str(linked), "main")
    given = one_task(repo)
    base, tip = tip_of(repository, given)
    assert "killed" in crash(landing(given, base, tip), "update-ref', '-m")
    git(repo, "worktree", "remove", "--force", "--force", str(linked))
    assert land(repository, landing(given, base, tip), folder).kind == "landed"
    assert list((repo / ".git").rglob("*.lock")) == []


# --- at random -----------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_at_random(tmp_path: Path) -> None:
    """About 20 s; MERGEWRIGHT_FUZZ_SECONDS makes it longer, MERGEWRIGHT_FUZZ_SEED another one."""
    seconds = float(os.environ.get("MERGEWRIGHT_FUZZ_SECONDS", "20"))
    seed = os.environ.get("MERGEWRIGHT_FUZZ_SEED", str(time.time_ns()))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    argv = [sys.executable, "-m", "tests.git.fuzz_landing", str(tmp_path / "fuzz"), str(seconds), seed]
    done = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stdout}\n{done.stderr}"
    report = json.loads(done.stdout)
    print(report)
    assert report["kills"] >= 20
    assert report["landed"] >= 20
