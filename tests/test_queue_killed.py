"""A few landings through the whole product while its worker is killed in the midst of git's work."""

from __future__ import annotations

import os
import time

import pytest

from tests.fuzz_queue import fuzz
from tests.kit import Kit


@pytest.mark.timeout(600)
async def test_killed_in_the_midst_of_git(kit: Kit) -> None:
    """About 20 s; MERGEWRIGHT_FUZZ_LANDINGS makes it longer, MERGEWRIGHT_FUZZ_SEED another one."""
    landings = int(os.environ.get("MERGEWRIGHT_FUZZ_LANDINGS", "8"))
    seed = int(os.environ.get("MERGEWRIGHT_FUZZ_SEED", time.time_ns() % 10**6))
    report = await fuzz(kit, landings, 60, seed)
    print(report)
    assert report.wrong == [], f"seed {seed}: {report}"
    assert report.kills >= landings / 2
