"""The agent CLIs that we can drive. A new one is a module here with a `RUNTIME`, and its test.

Other packages may bring their own: an entry point of the group `mergewright.runtimes`, whose name is the runtime's and
which leads to a `Runtime` (see docs/runtimes.md). Nothing in this package knows Temporal or git.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from activities.agents.base import Runtime

GROUP = "mergewright.runtimes"


def _ours() -> dict[str, Runtime]:
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found: list[Runtime] = [module.RUNTIME for module in modules if hasattr(module, "RUNTIME")]
    return {runtime.name: runtime for runtime in found}


RUNTIMES: dict[str, Runtime] = _ours()


class UnknownRuntime(ValueError):
    """No such runtime, or one that cannot be loaded; the message says what there is, or what is wrong with it."""


def runtime(name: str) -> Runtime:
    """One of ours, or one of another package's. Raises UnknownRuntime."""
    return RUNTIMES[name] if name in RUNTIMES else _of_others(name)


def runtime_names() -> list[str]:
    return sorted({*RUNTIMES, *_entry_points()})


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {found.name: found for found in entry_points(group=GROUP)}


@cache
def _of_others(name: str) -> Runtime:
    found = _entry_points().get(name)
    if found is None:
        raise UnknownRuntime(f"unknown runtime {name!r}: there are {', '.join(runtime_names())}")
    try:
        loaded = found.load()
        made: Runtime = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:  # it is not our code
        raise UnknownRuntime(f"the runtime {name!r} ({found.value}) cannot be loaded: {error!r}") from error
    missing = [part for part in Runtime.__annotations__ if not hasattr(made, part)]
    missing += [part for part in ("vendor", "problem", "launch", "reader") if not callable(getattr(made, part, None))]
    if missing:
        raise UnknownRuntime(f"the runtime {name!r} ({found.value}) lacks {', '.join(missing)}")
    return made
