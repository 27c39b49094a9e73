"""A few landings through the whole product while its worker is killed in the midst of git's work."""

from __future__ import annotations

import os

import pytest

from tests.fuzz_queue import fuzz
from tests.kit import Kit


@pytest.mark.timeout(600)
async def test_killed_in_the_midst_of_git(kit: Kit) -> None:
    """Killed for 10 s, then left in peace; MERGEWRIGHT_FUZZ_SECONDS and MERGEWRIGHT_FUZZ_SEED make it another one."""
    seconds = float(os.environ.get("MERGEWRIGHT_FUZZ_SECONDS", "10"))
    seed = int(os.environ.get("MERGEWRIGHT_FUZZ_SEED", "7"))
    report = await fuzz(kit, 8, seconds, seed)
    print(report)
    assert report.wrong == [], f"seed {seed}: {report}"
    assert report.kills >= 3
