"""Whether bubblewrap works on this machine, and how a command is started in it."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from activities.sandbox import TEMPORARY, Network, Sandbox, arguments

_NAMESPACE = "--unshare-pid --as-pid-1 --dev-bind / / --proc /proc".split()
"""The supervisor is the namespace's first process. No --die-with-parent: it would kill at once, where the supervisor
sees the worker's end by itself and gives a grace. Killing bwrap itself has no effect."""


def prefix(sandbox: Sandbox | None, cwd: Path) -> list[str]:
    """What to put before `--` and an argv, so that it is first in a PID namespace; empty when there can be none."""
    if sandbox is not None:
        return [shutil.which("bwrap") or "bwrap", *arguments(sandbox, cwd)]
    return [_bwrap() or "bwrap", *_NAMESPACE] if has_namespaces() else []


def has_namespaces() -> bool:
    """Whether commands run in a PID namespace: bubblewrap works here, and MERGEWRIGHT_NO_NAMESPACE is not set."""
    return not os.environ.get("MERGEWRIGHT_NO_NAMESPACE") and _bwrap() is not None


def sandbox_problem(network: Network = "full") -> str:
    """Why no command can have a sandbox here with this network; empty when it can."""
    if os.environ.get("MERGEWRIGHT_NO_NAMESPACE"):
        return "switched off by MERGEWRIGHT_NO_NAMESPACE"
    return "bubblewrap is missing" if shutil.which("bwrap") is None else _refusal(network)


@functools.cache
def _bwrap() -> str | None:
    """Tried out once: it may be missing, or a kernel or container may refuse it."""
    path = shutil.which("bwrap")
    return path if path is not None and not _tried(path, _NAMESPACE) else None


@functools.cache
def _refusal(network: Network) -> str:
    """Of a whole sandbox, tried out once: more may be refused than a namespace."""
    with tempfile.TemporaryDirectory() as folder:
        tried = Sandbox(dict.fromkeys(TEMPORARY, Path(folder)), network=network)
        return _tried(shutil.which("bwrap") or "bwrap", arguments(tried, Path("/")))


def _tried(bwrap: str, argv: list[str]) -> str:
    """What it says against these arguments; empty: nothing."""
    try:
        tried = subprocess.run(
            [bwrap, *argv, "--", "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not run: {error}"
    said = tried.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit {tried.returncode}"]
    return "" if tried.returncode == 0 else f"bubblewrap is refused: {said[-1]}"
