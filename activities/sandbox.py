"""What an agent or a gate sees of this machine: a description, and bubblewrap's arguments for it.

The machine's file system is there, read-only: a toolchain may lie anywhere. Empty in it are what is nobody's business:
all homes, the data folder, temporary files, sockets under /run, and what else the operator hides. Into these places
comes back, each at its own path, what the command needs: its worktree, its CLI's login and settings, the toolchain that
the worker's PATH names, and what the operator has named.

The command has process ids and shared memory of its own, so it sees, signals and traces nobody else; of root's rights
it has those that installing a package or running a database needs.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path("/")
TEMPORARY = (Path("/tmp"), Path("/var/tmp"))
EMPTIED = (Path("/home"), Path("/root"), *TEMPORARY, Path("/run"))
_BACK = ("systemd/resolve", "NetworkManager/resolv.conf", "resolvconf", "current-system", "opengl-driver")
"""Below /run: where names are resolved, and NixOS's toolchain."""
_SECRETS = ("/etc/shadow", "/etc/gshadow", "/etc/ssl/private", *map(str, Path("/etc/ssh").glob("ssh_host_*_key")))
"""Of the machine; without a sandbox only root could read them."""
_ROOT_MAY = "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETGID SETUID".split()
"""A worker that is root gives no more to a sandbox: not to mount, make devices, trace, or change limits."""

_BASE = "--unshare-pid --as-pid-1 --unshare-ipc --cap-drop ALL --ro-bind / / --dev /dev --proc /proc".split()
"""No --die-with-parent: see `process.py`. The devices are null, zero, random and terminals of its own."""

_SMALL = ("--size", str(64 * 2**20))
"""An empty folder is in memory."""
PROXY_PORT = 3128
"""Where a sandbox with a list of hosts finds its proxy, on its own 127.0.0.1."""

Network = Literal["full", "none"] | tuple[str, ...]
"""All, nothing, or only these hosts, by way of a proxy; `*` among them is every host of the internet."""


@dataclass(frozen=True)
class Sandbox:
    """All paths are absolute. What is not there is left out."""

    instead: Mapping[Path, Path]
    """Writable folders that take the place of others: of the home, of /tmp."""
    write: tuple[Path, ...] = ()
    read: tuple[Path, ...] = ()
    """Outweighs `write` for the same path; else what lies deeper outweighs what it lies in."""
    hide: tuple[Path, ...] = ()
    """Besides `EMPTIED`. Outweighs both."""
    network: Network = "full"

    def outside(self, path: Path) -> Path:
        """Where a file really is that the command sees at `path`."""
        shown = {_real(place): _real(source) for place, source in self.instead.items()}
        shown |= {_real(place): _real(place) for place in (*self.write, *self.read) if place.exists()}
        real = _real(path)
        for place in (real, *real.parents):
            if place in shown:
                return shown[place] / real.relative_to(place)
        return path


@dataclass(frozen=True)
class Limits:
    """What one command may use, with all that it starts. None: as much as it likes; sizes are bytes."""

    memory: int | None = None
    """Not counting what programs and files take that are mapped."""
    processes: int | None = None
    """With their threads."""
    output: int | None = None
    disk: int | None = None
    """Of its writable folders together; and of any one file."""
    open_files: int | None = None
    """Of each process."""
    nice: int = 0


UNLIMITED = Limits()


def proxy_environment(network: Network) -> dict[str, str]:
    """What a command must be told of its network. Its own servers on 127.0.0.1 it reaches without the proxy."""
    if isinstance(network, str):
        return {}
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    proxy = dict.fromkeys((*names, *map(str.lower, names)), f"http://127.0.0.1:{PROXY_PORT}")
    return {**proxy, **dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1"), "NODE_USE_ENV_PROXY": "1"}


def own_ports(network: Network) -> dict[int, str]:
    """Ports of this host's 127.0.0.1 that a network names, and by which name: they are at the same place inside."""
    named = [entry.lower().rpartition(":") for entry in network] if not isinstance(network, str) else []
    found = {int(port): name for name, _, port in named if name in ("localhost", "127.0.0.1")}
    return {port: name for port, name in found.items() if port != PROXY_PORT and 0 < port < 2**16}


def arguments(sandbox: Sandbox, cwd: Path) -> list[str]:
    """For bubblewrap, up to and without `--`."""
    argv = [*_BASE, *(arg for mount in _mounts(sandbox) for arg in mount)]
    if os.geteuid() == 0:
        argv += [arg for name in _ROOT_MAY for arg in ("--cap-add", f"CAP_{name}")]
    if sandbox.network != "full":
        argv += ["--unshare-net"]
    return [*argv, "--chdir", str(cwd)]


def _mounts(sandbox: Sandbox) -> list[tuple[str, ...]]:
    """A folder before what is in it, which so lies on top of it."""
    emptied = {_real(path) for path in (*EMPTIED, Path.home(), *sandbox.hide, *sandbox.instead)} - {ROOT}
    sources: dict[Path, Path | None] = dict.fromkeys(emptied)  # None: nothing
    writable: set[Path] = set()

    def show(path: Path, source: Path, write: bool) -> None:
        if not source.exists():
            return
        for place in {_real(path), path} - {ROOT}:
            # By way of a link that is hidden the place would not be found, so it is made. A link that is seen leads on.
            if place == _real(path) or _nearest(place, sources) in emptied:
                sources[place] = _real(source)
                (writable.add if write else writable.discard)(place)
                emptied.discard(place)

    for name in _SECRETS:
        sources[Path(name)] = None
    for place, source in sandbox.instead.items():
        show(place, source, True)
        emptied.add(_real(place))
    for path in (*(Path("/run", name) for name in _BACK), *_ours(), *toolchain(os.environ, frozenset(emptied))):
        show(path, path, False)
    for path in sandbox.write:
        show(path, path, True)
    for path in sandbox.read:
        show(path, path, False)
    sources |= dict.fromkeys({_real(path) for path in sandbox.hide} - {_real(place) for place in sandbox.instead})
    return [_mount(place, sources[place], place in writable) for place in sorted(sources) if _there(place, sources)]


def _mount(place: Path, source: Path | None, write: bool) -> tuple[str, ...]:
    if source is None:
        return (*_SMALL, "--tmpfs", str(place)) if place.is_dir() else ("--ro-bind", "/dev/null", str(place))
    return ("--bind" if write else "--ro-bind", str(source), str(place))


def _there(place: Path, sources: Mapping[Path, Path | None]) -> bool:
    """What is to be emptied must be there."""
    return sources[place] is not None or place.exists()


def _nearest(path: Path, places: Container[Path]) -> Path | None:
    """The deepest of `places` that `path` is in."""
    return next((parent for parent in path.parents if parent in places), None)


# --- where programs are ----------------------------------------------------------------------------------------------

_PROGRAMS = ("bin", "sbin", "shims")
_LIBRARIES = ("lib", "libexec")
_MIXED = (".local", ".cargo")
"""Below a home: beside programs there may be secrets, so only their folder of programs comes back."""
_FALLBACKS = (
    ".rustup", ".nvm", ".pyenv", ".rbenv", ".asdf", ".sdkman", ".volta", ".local/lib", ".local/share/uv",
    ".local/share/pipx", ".local/share/mise", ".local/share/fnm",
)  # fmt: skip
"""Below a home: what programs of a PATH need beside themselves, and no secrets."""


def _ours() -> list[Path]:
    """What the supervisor needs, which runs inside."""
    return [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).with_name("supervise.py")]


def toolchain(env: Mapping[str, str], emptied: Container[Path]) -> list[Path]:
    """What programs of the PATH need that lies in emptied folders: they themselves, and what is installed with them."""

    def hidden(path: Path) -> bool:
        return _nearest(path, emptied) is not None or _nearest(_real(path), emptied) is not None

    found = [Path(env["HOME"], name) for name in _FALLBACKS] if "HOME" in env else []
    for entry in map(Path, env.get("PATH", "").split(os.pathsep)):
        if entry.is_absolute() and hidden(entry):
            found += [_installation(entry) or entry, entry]
            found += [_installation(_real(link).parent) or _real(link) for link in _links(entry)]
    return [path for path in dict.fromkeys(found) if hidden(path) and path not in emptied]


def _links(folder: Path) -> Iterator[Path]:
    with suppress(OSError), os.scandir(folder) as programs:
        yield from (Path(program.path) for program in programs if program.is_symlink() and program.is_file())


def _installation(folder: Path) -> Path | None:
    """By a folder of programs, if it lies in one."""
    if "node_modules" in folder.parts:
        return Path(*folder.parts[: folder.parts.index("node_modules") + 1])
    above = folder.parent
    whole = folder.name in _PROGRAMS and above.name not in _MIXED and any((above / lib).is_dir() for lib in _LIBRARIES)
    return above if whole else None


# --- paths -----------------------------------------------------------------------------------------------------------


def expand(path: str, env: Mapping[str, str]) -> Path | None:
    """`~/name` and `$VARIABLE/name` by `env`; None when a variable is not set, or it is no absolute path."""
    if named := re.match(r"\$(\w+)", path):
        if not env.get(named[1]):
            return None
        path = env[named[1]] + path[named.end() :]
    home = env.get("HOME") or str(Path.home())
    made = Path(home + path[1:] if path == "~" or path.startswith("~/") else path)
    return made if made.is_absolute() else None


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
