"""From nothing to a worktree that is ready, beside a bare `git worktree add` of the same commit in the same run.

    .venv/bin/python -m bench.worktree [--files 50000] [--rounds 5] [--folder /dev/shm]

Ready is what the activity `prepare` makes so: the settings read, a shared clone checked out, an untracked file copied,
a block of ports; in the second row also a command whose result, `--made` files, is copied from the cache. The ratio of
the two is what counts; seconds are of this machine on this day. `--folder`: in memory, where a disk is busy.

Below it, what it would cost to take over the files of a task that has ended, where one in a hundred differs: the least
that git has to do. *trusted*: by an index of ours, files whose times are as they were are taken for unchanged. *read*:
all files are read, which needs no trust in times.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment

from activities.contracts import PrepareInput
from activities.home import Home
from activities.prepare import PrepareActivities
from activities.settle import settle
from activities.site import Site
from service.converter import data_converter
from service.devserver import temporal_cli
from tests.git.repos import commit, make_repo, write

GOAL_RATIO = 2.0
PLAIN = '[worktree]\ncopy = [".env"]\nports = 10\n'
CACHED = """
setup = ["mkdir modules; for n in $(seq {made}); do echo $n > modules/$n; done"]
cache = [{{ key = ["lock"], paths = ["modules"] }}]
"""


def bare(repo: Path, place: Path) -> float:
    started = time.perf_counter()
    subprocess.run(["git", "worktree", "add", "-q", "--detach", str(place), "main"], cwd=repo, check=True)
    seconds = time.perf_counter() - started
    subprocess.run(["git", "worktree", "remove", "--force", str(place)], cwd=repo, check=True)
    return seconds


def reused(repo: Path, place: Path, *, read: bool) -> float:
    """The bare minimum: index, files that differ, and what is not tracked."""
    git = ["git", "-C", str(place)]
    subprocess.run(["git", "worktree", "add", "-q", "--detach", str(place), "main~1"], cwd=repo, check=True)
    subprocess.run(["touch", str(place / "untracked")], check=True)
    steps = [["read-tree", "-m", "-u", "main~1", "main"], ["clean", "-q", "-ffdx"]]
    if read:
        index = subprocess.check_output([*git, "rev-parse", "--git-path", "index"], text=True).strip()
        steps = [["read-tree", "main~1"], ["update-index", "-q", "--refresh"], *steps]
        Path(index).unlink()
    started = time.perf_counter()
    for step in steps:
        subprocess.run([*git, *step], check=True)
    seconds = time.perf_counter() - started
    subprocess.run([*git, "diff", "--quiet", "main"], check=True)
    subprocess.run(["git", "worktree", "remove", "--force", str(place)], cwd=repo, check=True)
    return seconds


async def ours(site: Site, repo: Path, number: int) -> float:
    given = PrepareInput(
        task_id=f"bench-{number}",
        run_id=f"run-{number:012d}",
        task={"repo": str(repo), "title": "t", "agent": {"runtime": "command", "command": ["true"]}},
    )
    started = time.perf_counter()
    prepared = await ActivityEnvironment().run(PrepareActivities(site).prepare, given)
    seconds = time.perf_counter() - started
    assert (Path(prepared.worktree) / ".env").exists()
    await asyncio.to_thread(settle, site.home, prepared.ref, "measured")
    return seconds


async def main(files: int, made: int, rounds: int, place: Path | None) -> None:
    environment = await WorkflowEnvironment.start_local(
        dev_server_existing_path=temporal_cli(), dev_server_log_level="error", data_converter=data_converter
    )
    with tempfile.TemporaryDirectory(prefix="mergewright-bench-", dir=place) as folder:
        table = Table(
            "worktree", "ours", "git worktree add", "ratio", title=f"{files:,} files, {rounds} rounds, medians"
        )
        repo = make_repo(Path(folder) / "repo", {".gitignore": ".env\nmodules/\n", "lock": "1\n"})
        write(repo, {f"d{n // 100}/f{n}.txt": f"file {n}\n" * 20 for n in range(files)})
        write(repo, {".env": "KEY=1\n"})
        for name, settings in (("plain", PLAIN), (f"with {made:,} cached files", PLAIN + CACHED.format(made=made))):
            commit(repo, {"mergewright.toml": settings})
            table.add_row(name, *await measured(environment.client, repo, Path(folder), rounds))
        commit(repo, {f"d{n // 100}/f{n}.txt": f"changed {n}\n" for n in range(0, files, 100)})
        table.add_section()
        for name in ("trusted", "read"):
            pairs = [
                (reused(repo, Path(folder) / "reused", read=name == "read"), bare(repo, Path(folder) / "bare"))
                for _ in range(rounds)
            ]
            table.add_row(f"files of another, {name}", *_row(pairs))
        Console().print(table)
    await environment.shutdown()


async def measured(client: Client, repo: Path, folder: Path, rounds: int) -> tuple[str, str, str]:
    """One after the other in turns, after one of each that does not count."""
    site = Site(Home(folder / "home"), "here", "bench", client)
    site.home.create()
    pairs = []
    for number in range(rounds + 1):
        mine = await ours(site, repo, number)
        pairs.append((mine, bare(repo, folder / "bare")))
    mine, theirs, ratio = _row(pairs[1:])
    return mine, theirs, f"{ratio} (goal: under {GOAL_RATIO:g})"


def _row(pairs: list[tuple[float, float]]) -> tuple[str, str, str]:
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    return f"{mine:.2f} s", f"{theirs:.2f} s", f"{ratio:.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--made", type=int, default=2_000, help="files in the cache")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to do it; none: where temporary files are")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.files, arguments.made, arguments.rounds, arguments.folder))
