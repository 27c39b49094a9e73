"""The sandboxes of turns and gates: what each may see and write, by the worker's configuration.

Each has a *box*: a folder with a home and temporary files of its own, which take the place of the user's. That of a
task's agents is kept from turn to turn, and their sessions are in it; that of a gate is emptied before each run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from activities.agents.base import Keeps
from activities.config import CONFIG_FILE, BadConfig, SandboxSettings
from activities.git.clone import delete
from activities.git.repository import Repository
from activities.process import sandbox_problem
from activities.sandbox import ROOT, TEMPORARY, Network, Sandbox, expand


def wanted(settings: SandboxSettings) -> bool:
    """Whether there is to be a sandbox. Raises BadConfig when there must be one and cannot."""
    problem = 'mode = "off"' if settings.mode == "off" else sandbox_problem()
    if settings.mode == "on" and problem:
        raise BadConfig(f'sandbox: mode = "on", and there can be none: {problem}')
    networks = {settings.network_of_agents(), settings.network_of_gates()} - {"full"}
    # Where all of the internet may be reached a missing namespace takes away less than a missing sandbox.
    insisted = settings.mode == "on" or any("*" not in network for network in networks)
    if networks and insisted and (why := problem or sandbox_problem("none")):
        raise BadConfig(f'sandbox: only with one can the network be other than "full", and there can be none: {why}')
    return not problem


def open_to_host(settings: SandboxSettings) -> str:
    """Why commands in a sandbox reach what listens on this host and next to it; empty: they do not, or have none."""
    if settings.mode == "off" or sandbox_problem():
        return ""
    if "full" in (settings.network_of_agents(), settings.network_of_gates()):
        return f'network = "full" in {CONFIG_FILE}'
    return sandbox_problem("none")


def make(
    settings: SandboxSettings,
    box: Path,
    env: Mapping[str, str],
    *,
    data: Path,
    write: Sequence[Path],
    read: Sequence[Path] = (),
    keeps: Sequence[Keeps] = (),
    network: Network,
) -> Sandbox:
    """`box` gets what is missing in it. `env` is the command's, `data` the data folder, which is not seen.

    A network that cannot be kept from it is left open: who insists has been refused by `wanted`.
    """
    temporary = temporary_of(box)
    home = Path(env.get("HOME") or Path.home())
    places = {home: box / "home", **dict.fromkeys((*TEMPORARY, Path(env.get("TMPDIR") or temporary)), temporary)}
    instead = {place: source for place, source in places.items() if place != ROOT and place.is_dir()}
    named = {what: _named(getattr(settings, what)) for what in ("read", "write", "hide")}
    write, read = [*write, *named["write"]], [*read, *named["read"]]
    for kept in keeps:
        folder = next(filter(None, (expand(name, env) for name in kept.folder)), None)
        if folder is None:
            continue
        if not any(place in (folder, *folder.parents) for place in instead):
            if not folder.is_dir():
                continue
            instead[folder] = box / "folders" / str(folder).strip("/").replace("/", "-")
        write += [folder / name for name in kept.login]
        read += [folder / name for name in kept.settings]
        _copy(folder, kept.copied, instead)
    for source in instead.values():
        source.mkdir(parents=True, exist_ok=True)
    network = "full" if sandbox_problem("none") else network
    sandbox = Sandbox(instead, tuple(write), tuple(read), (data, *named["hide"]), network)
    _clear_way(sandbox)
    return sandbox


def temporary_of(box: Path) -> Path:
    """For the command's TMPDIR."""
    folder = box / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def of_repository(repository: Repository) -> Iterator[Path]:
    """What may be read of the user's repository, and of those that it borrows objects from."""
    yield from (repository.path, repository.common_dir)
    folders = [repository.common_dir / "objects"]
    for folder in folders:
        lent = folder / "info" / "alternates"
        lines = lent.read_text(errors="surrogateescape").splitlines() if lent.is_file() else []
        more = [Path(os.path.normpath(folder / line)) for line in lines if line and not line.startswith("#")]
        folders += [path for path in more if path not in folders]
    yield from folders[1:]


def _named(paths: Sequence[str]) -> list[Path]:
    """Of the configuration: in the worker's home, whatever home the command has."""
    return [found for path in paths if (found := expand(path, os.environ))]


def _copy(folder: Path, names: Sequence[str], instead: Mapping[Path, Path]) -> None:
    place = next(place for place in (folder, *folder.parents) if place in instead)
    for name in names:
        file, own = folder / name, instead[place] / folder.relative_to(place) / name
        if file.is_file() and not _is_led_astray(instead[place], own) and not own.exists():
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, own)


def _clear_way(sandbox: Sandbox) -> None:
    """Where bubblewrap makes places to mount on: no link that an agent has left in its box must lead it elsewhere."""
    for path in (*sandbox.write, *sandbox.read):
        for place, source in sandbox.instead.items():
            if place in path.parents:
                way = source / path.relative_to(place)
                while link := _is_led_astray(source, way):
                    link.unlink()
                if path.exists() and way.exists() and path.is_dir() != way.is_dir():
                    delete(way)


def _is_led_astray(top: Path, path: Path) -> Path | None:
    """The first link on the way from `top` to `path`, or there."""
    ways = [path, *path.parents]
    return next((way for way in reversed(ways[: ways.index(top)]) if way.is_symlink()), None)
