"""A program of ours leaves with the exit code that it has earned, whatever the SDK's threads are at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("main", "code", "said"),
    [
        ("lambda: print('all is well')", 0, "all is well"),
        ("lambda: sys.exit()", 0, ""),
        ("lambda: sys.exit(3)", 3, ""),
        ("lambda: sys.exit('because')", 1, "because"),
        ("lambda: 1 / 0", 1, "ZeroDivisionError"),
    ],
)
def test_exit_codes_and_output_survive(main: str, code: int, said: str) -> None:
    program = f"import sys; from service.leave import run_and_leave; run_and_leave({main})"
    done = subprocess.run([sys.executable, "-c", program], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stdout + done.stderr


def test_nothing_of_the_interpreters_end_is_run() -> None:
    program = (
        "import atexit, os; from service.leave import run_and_leave;"
        "atexit.register(os.abort); run_and_leave(lambda: None)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=TOP, check=False).returncode == 0
