"""Blocks of ports: each task and each gate slot of this data folder has its own, so that their servers do not meet.

A holder is the path of its tree. The range is the operator's: `[ports]` in `config.toml`. Who holds what is in
`ports.json`; it is written under a lock.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable

from activities.config import PortRange
from activities.git.locks import exclusive
from activities.home import Home
from activities.site import read_json, write_atomically


class NoPortsFree(Exception):
    """One line with the remedy."""


def claim(home: Home, holder: str, count: int, within: PortRange) -> None:
    """A second claim of the same holder finds the block of the first. Raises NoPortsFree."""
    with exclusive(home.ports.with_suffix(".lock")):
        held = read_json(home.ports)
        first, had = held.pop(holder, (0, 0))
        if had == count and within.first <= first and first + count - 1 <= within.last:
            return
        if count:
            taken = sorted((begin, begin + size) for begin, size in held.values())
            held[holder] = [_gap(taken, count, within), count]
        write_atomically(home.ports, json.dumps(held))


def release(home: Home, holder: str) -> None:
    """What is not held is none to give back."""
    if holder in read_json(home.ports):
        claim(home, holder, 0, PortRange())


def holders(home: Home) -> list[str]:
    return list(read_json(home.ports))


def environment(home: Home, holder: str) -> dict[str, str]:
    first, count = read_json(home.ports).get(holder, (0, 0))
    if not count:
        return {}
    each = {f"MERGEWRIGHT_PORT_{number}": str(first + number) for number in range(count)}
    return {"MERGEWRIGHT_PORT_BASE": str(first), **each}


def _gap(taken: Iterable[tuple[int, int]], count: int, within: PortRange) -> int:
    """The lowest block that nobody holds and nobody listens on."""
    first = within.first
    for begin, end in (*taken, (within.last + 1, 0)):
        while first + count <= min(begin, within.last + 1):
            busy = next((port for port in reversed(range(first, first + count)) if _in_use(port)), None)
            if busy is None:
                return first
            first = busy + 1
        first = max(first, end)
    raise NoPortsFree(
        f"no {count} ports in a row are free from {within.first} to {within.last}: "
        "widen [ports] in config.toml of the data folder, or let tasks end"
    )


def _in_use(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", port))
        except OSError:
            return True
    return False
