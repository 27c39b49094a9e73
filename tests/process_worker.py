"""A small worker to be killed: runs one command as activities do, until it ends.

usage: process_worker.py FOLDER MARK GRACE_SECONDS ARGV...

Another child of it gets every file descriptor that is inheritable, and outlives it: as a library's might.
"""

import asyncio
import subprocess
import sys
from pathlib import Path

from activities import process


async def main() -> None:
    folder, mark, grace, argv = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4:]
    running = asyncio.create_task(
        process.run(
            process.Command(argv, folder, {**process.base_environment(), "MARK": mark}),
            stdout=folder / "out",
            stderr=folder / "err",
            lock=folder / "lock",
            wall_seconds=60,
            grace_seconds=grace,
        )
    )
    await asyncio.sleep(0.1)
    start_other(mark)
    await running


def start_other(mark: str) -> None:
    subprocess.Popen(["sleep", "60"], close_fds=False, env={"MARK": f"{mark}-other"})


asyncio.run(main())
