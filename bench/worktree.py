"""From nothing to a worktree that is ready, beside a bare `git worktree add` of the same commit in the same run.

    .venv/bin/python -m bench.worktree [--files 50000] [--rounds 5] [--folder /dev/shm]

Ready is what the activity `prepare` makes so: the settings read, a shared clone checked out, an untracked file copied,
a block of ports; in the second row also a command whose result, `--made` files, is copied from the cache. The ratio of
the two is what counts; seconds are of this machine on this day. `--folder`: in memory, where a disk is busy.
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
    mine, theirs = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
    ratio = statistics.median(one / other for one, other in pairs[1:])
    return f"{mine:.2f} s", f"{theirs:.2f} s", f"{ratio:.2f} (goal: under {GOAL_RATIO:g})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--made", type=int, default=2_000, help="files in the cache")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to do it; none: where temporary files are")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.files, arguments.made, arguments.rounds, arguments.folder))
