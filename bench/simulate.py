"""Candidates that land while the gates run once: our policy beside three known ones, on a virtual clock.

    .venv/bin/python -m bench.simulate [--gates 300] [--seeds 2] [--flakes 0] [--clashes 0] [--conflicts 0] [--each]

32 candidates always wait; a run takes one, give or take a fifth. The others: strictly one after the other, as most
do; batches of 8, halved while they are red, as bors; each candidate on top of all before it, in a window, as Zuul.
Serial and batches use one slot, whatever there is.
Red is confirmed by a second run of the same commit, as the merge queue does it; `--no-confirm` leaves that out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from rich.console import Console
from rich.table import Table

from bench.policies import BatchAndBisect, Linear, Ours, Policy, Serial
from bench.world import Setting, World, run

SHARES = (0.0, 0.02, 0.05, 0.10, 0.20)
SLOTS = (1, 2, 4, 8)
POLICIES: dict[str, Callable[[], Policy]] = {
    "serial": Serial,
    "batches": BatchAndBisect,
    "linear": Linear,
    "ours": Ours,
}


def landed(given: argparse.Namespace, make: Callable[[], Policy], slots: int, share: float) -> tuple[float, float]:
    """Candidates landed per duration of the gates, and runs that were started per candidate."""
    total, runs = 0, 0
    for seed in range(given.seeds):
        setting = Setting(bad=share, clash=given.clashes, flake=given.flakes, conflict=given.conflicts, seed=seed)
        world = run(World(make(), slots, confirm=given.confirm, each=given.each), setting, given.gates)
        total += len(world.landed)
        runs += world.runs
    return total / given.gates / given.seeds, runs / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=float, default=300, help="so many durations of the gates")
    parser.add_argument("--seeds", type=int, default=2)
    shares = partial(parser.add_argument, type=float, default=0.0)
    shares("--flakes", help="share of runs that are red for no reason")
    shares("--clashes", help="share of pairs that are red together only")
    shares("--conflicts", help="share of pairs that cannot be put on top of each other")
    parser.add_argument("--each", action="store_true", help="every commit that lands is tested by itself")
    parser.add_argument("--no-confirm", dest="confirm", action="store_false", help="eject after one red run")
    given = parser.parse_args()
    table = Table(title="landed per duration of the gates (runs started for each)")
    for column in ("bad", "policy"):
        table.add_column(column, no_wrap=True)
    for slots in SLOTS:
        table.add_column(f"{slots} slots" if slots > 1 else "1 slot", justify="right", no_wrap=True)
    for share in SHARES:
        for name, make in POLICIES.items():
            found = [landed(given, make, slots, share) for slots in SLOTS]
            table.add_row(f"{share:.0%}", name, *(f"{rate:.2f} ({runs:.2f})" for rate, runs in found))
        table.add_section()
    Console().print(table)


if __name__ == "__main__":
    main()
