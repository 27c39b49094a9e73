"""Every git command of ours runs here, and none of it reads a configuration that an agent may have written.

An agent can put hooks, filters, merge drivers and includes into the `.git` of the repository it works in; `-c`
flags cannot switch them all off, because the agent chooses their names. So git never sees that configuration: it
is given a *shadow* git directory, made for one use in a private folder, with our own config and links to the
real objects and refs. The environment is built from empty.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from activities.git.locks import PACKED_STALE_SECONDS, outwait
from activities.git.objects import Objects

IDENTITY = ("mergewright", "mergewright@localhost")
"""Committer of what we commit ourselves."""

_FLAGS = (
    "-c core.hooksPath=/dev/null -c core.fsmonitor=false -c core.commitGraph=false -c core.multiPackIndex=false "
    "-c gc.auto=0 -c maintenance.auto=false -c protocol.ext.allow=never -c core.attributesFile=/dev/null "
    "-c safe.bareRepository=explicit -c submodule.recurse=false -c fetch.fsckObjects=true "
    "-c transfer.fsckObjects=true -c commit.gpgSign=false -c core.filesRefLockTimeout=2000 "
    "-c core.packedRefsTimeout=10000 --no-pager"
).split()

_ENV = {
    "PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin"),
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "/bin/false",
    "SSH_ASKPASS": "/bin/false",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "false",
    "GIT_ALLOW_PROTOCOL": "file:https:ssh",
    "GIT_PROTOCOL_FROM_USER": "0",
}

# How files are written, and how git tells that one has changed, must be as the user has it; the rest is left out.
_CARRIED = {
    "core.ignorecase",
    "core.precomposeunicode",
    "core.filemode",
    "core.symlinks",
    "core.trustctime",
    "core.checkstat",
    "core.autocrlf",
    "core.eol",
    "core.sparsecheckout",
    "core.sparsecheckoutcone",
    "core.sharedrepository",
    "extensions.objectformat",
}


_OURS = "[core]\nsparseCheckout = false\ntrustCtime = true\ncheckStat = default\n"
"""An agent or a gate can give a file any size and any time of change but this one."""

_SPARSE = "sparseCheckout = true\nsparseCheckoutCone = true\n"

# What says where the user's and the system's config are.
_USERS_CONFIG = {"HOME", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"}

_USERS_SSH = {"GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT"}


class GitError(Exception):
    """A git command that failed; the message names the command and what git said."""

    def __init__(self, args: Sequence[str], returncode: int, stderr: str) -> None:
        super().__init__(f"git {' '.join(args[:3])}: exit {returncode}: {stderr.strip()[-500:]}")
        self.returncode = returncode
        self.stderr = stderr


@dataclass(frozen=True)
class Git:
    """Runs git against one shadow directory."""

    git_dir: Path
    objects: Objects
    """For what can be asked for one object at a time."""
    env: dict[str, str] = field(default_factory=dict)
    fds: tuple[int, ...] = ()
    """Handed to every git process: a lock of ours stays held as long as one of them lives."""
    surroundings: dict[str, str] = field(default_factory=lambda: _ENV)

    def run(
        self,
        *args: str,
        stdin: bytes | None = None,
        ok: Sequence[int] = (0,),
        timeout: float = 300,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Raises GitError when the exit code is not in `ok`, and after `timeout` seconds."""
        surroundings = {**self.surroundings, "GIT_DIR": str(self.git_dir), **self.env, **(env or {})}
        cwd = self.env.get("GIT_WORK_TREE", "/")
        with _start(args, surroundings, cwd=cwd, fds=self.fds, asked=stdin is not None) as process:
            try:
                out, err = process.communicate(stdin, timeout)
            except BaseException as error:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # with what it has started, such as an ssh
                if isinstance(error, subprocess.TimeoutExpired):  # which tells all arguments, a URL's password too
                    raise GitError(args[:1], -1, f"it took more than {timeout:.0f} seconds") from None
                raise
        if process.returncode not in ok:
            raise GitError(args, process.returncode, err.decode("utf-8", "replace"))
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    def __call__(self, *args: str, stdin: bytes | None = None, env: dict[str, str] | None = None) -> str:
        """Standard output as text, without the last newline; bytes that are no UTF-8 survive as surrogates."""
        return self.run(*args, stdin=stdin, env=env).stdout.decode("utf-8", "surrogateescape").rstrip("\n")

    def test(self, *args: str) -> bool:
        """True for exit 0, False for exit 1."""
        return self.run(*args, ok=(0, 1)).returncode == 0

    def ok(self, *args: str) -> bool:
        """True for exit 0, False for any other: also where what it is asked about is no object."""
        return self.run(*args, ok=range(256)).returncode == 0

    def update_refs(self, *commands: str) -> None:
        """`update-ref --stdin` for refs under `refs/mergewright/`: all of them, or GitError and none.

        Locks that a killed git has left in the way are removed. A folder of refs goes with its last ref, also while
        another process puts one into it: then once more. Git itself gives up after three times.
        """
        if not commands:
            return
        for command in commands:
            outwait(self.git_dir / f"{command.split()[1]}.lock")
        if any(command.startswith("delete ") for command in commands):
            outwait((self.git_dir / "packed-refs").resolve().with_name("packed-refs.lock"), stale=PACKED_STALE_SECONDS)
        for last in (*[False] * 9, True):
            try:
                self("update-ref", "--stdin", stdin="".join(f"{command}\n" for command in commands).encode())
                return
            except GitError as error:
                if last or "No such file or directory" not in error.stderr:
                    raise

    def holding(self, *fds: int) -> Git:
        return replace(self, fds=(*self.fds, *fds))

    def online(self) -> Git:
        """For fetch and push: with the environment and the configuration of the user who runs us, and of the system.

        Keys, credential helpers and proxies are found by these. Nobody is asked for anything.
        """
        kept = _USERS_CONFIG | _USERS_SSH
        users = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in kept}
        ours = {name: value for name, value in _ENV.items() if name not in _USERS_CONFIG}
        git = replace(self, surroundings={**users, **ours, "GIT_ALLOW_PROTOCOL": "file:http:https:ssh"})
        if _USERS_SSH & users.keys() or git.test("config", "--get", "core.sshCommand"):
            return git
        return replace(git, env={**git.env, "GIT_SSH_COMMAND": "ssh -oBatchMode=yes"})


@contextmanager
def shadow(
    git_dir: Path,
    *,
    work_tree: Path | None = None,
    index: Path | None = None,
    own_dir: Path | None = None,
    ours: bool = False,
    sparse: bytes | None = None,
    head: str = "ref: refs/mergewright/none",
) -> Iterator[Git]:
    """A git that works on `git_dir` (a common git directory: not a linked worktree's own).

    `work_tree` and `index` together let it read and write a checkout, as its user's settings say (line ends,
    sparse checkout); a linked worktree has settings of its own in `own_dir`. A checkout of `ours` is whole, and no
    change in it is overlooked, however the user's is; with `sparse`, patterns of git's cone mode, it holds only what
    they name. `head` is what HEAD says in the shadow; the real HEAD is neither read nor locked.
    """
    with tempfile.TemporaryDirectory(prefix="mergewright-git-") as made:
        directory = Path(made)
        config = _config(git_dir, own_dir or git_dir, checkout=work_tree is not None)
        own = f"{_OURS}{_SPARSE if sparse is not None else ''}" if ours else ""
        (directory / "config").write_text(f"{config}{own}")
        (directory / "HEAD").write_text(head + "\n")
        (directory / "info").mkdir()
        if work_tree is not None:
            # The attributes may name drivers; none of them is defined here.
            for source in (git_dir / "info" / "attributes", (own_dir or git_dir) / "info" / "sparse-checkout"):
                if source.is_file():
                    (directory / "info" / source.name).write_bytes(source.read_bytes())
        if sparse is not None:
            (directory / "info" / "sparse-checkout").write_bytes(sparse)
        (directory / "logs").mkdir()
        for name in ("objects", "refs", "packed-refs", "shallow"):
            (directory / name).symlink_to(git_dir / name)
        if (git_dir / "logs" / "refs").is_dir():  # a bare repository keeps none, and a dangling link is an error
            (directory / "logs" / "refs").symlink_to(git_dir / "logs" / "refs")
        env = {}
        if work_tree is not None:
            env["GIT_WORK_TREE"] = str(work_tree)
        if index is not None:
            env["GIT_INDEX_FILE"] = str(index)
        surroundings = {**_ENV, "GIT_DIR": str(directory)}
        with closing(Objects(lambda: _start(_READ, surroundings, errors=subprocess.DEVNULL))) as objects:
            yield Git(directory, objects, env)


_READ = ("cat-file", "--batch-command", "-z")


def _start(
    args: Sequence[str],
    env: dict[str, str],
    *,
    cwd: str = "/",
    fds: tuple[int, ...] = (),
    asked: bool = True,
    errors: int = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["git", *_FLAGS, *args],
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE if asked else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
        start_new_session=True,
        pass_fds=fds,
    )


class UnsupportedRepository(Exception):
    """The repository uses something that we cannot handle safely; the message says what."""


def _config(git_dir: Path, own_dir: Path, *, checkout: bool) -> str:
    lines = [
        "[core]",
        "bare = false",
        "logAllRefUpdates = true",
        "[gc]",
        "auto = 0",
        "[uploadpack]",
        "allowAnySHA1InWant = true",
        "[user]",
        f"name = {IDENTITY[0]}",
        f"email = {IDENTITY[1]}",
    ]
    version = "0"
    entries = own_config(git_dir, own_dir)
    if checkout:
        entries = read_config(None) + entries
    for key, value in entries:
        if key == "core.repositoryformatversion":
            version = value
        if key == "extensions.refstorage" and value != "files":
            raise UnsupportedRepository(f"refs are stored as {value!r}: only `files` is supported")
        if key == "extensions.partialclone":
            raise UnsupportedRepository("it is a partial clone: fetch everything first (git fetch --refetch)")
        if key in _CARRIED and value.isalnum():  # a value with a line break could bring a section of its own
            section, name = key.split(".")
            lines += [f"[{section}]", f"{name} = {value}"]
    return "\n".join([*lines, "[core]", f"repositoryformatversion = {version}", ""])


def own_config(git_dir: Path, own_dir: Path) -> list[tuple[str, str]]:
    """What the repository's own files set, those of the worktree with `own_dir` included. As data: no file that they
    include is read."""
    entries = read_config(git_dir / "config")
    if dict(entries).get("extensions.worktreeconfig", "").lower() in ("true", "yes", "on", "1"):
        entries += read_config(own_dir / "config.worktree")
    return entries


def read_config(file: Path | None) -> list[tuple[str, str]]:
    """The entries of one config file; None: the system's and the user's own."""
    users = {name: os.environ[name] for name in sorted(_USERS_CONFIG & os.environ.keys())}
    files = [file] if file else _users_files(users)
    return list(_parse(file, tuple(users.items()), tuple(map(_signature, files))))


def _users_files(users: dict[str, str]) -> list[Path]:
    home = Path(users.get("HOME", "/nonexistent"))
    system = users.get("GIT_CONFIG_SYSTEM", "/etc/gitconfig")
    own = [users.get("XDG_CONFIG_HOME") or str(home / ".config"), "git/config"]
    one = users.get("GIT_CONFIG_GLOBAL")
    return [Path(system), *([Path(one)] if one is not None else [Path(*own), home / ".gitconfig"])]


def _signature(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@lru_cache(maxsize=256)
def _parse(
    file: Path | None, users: tuple[tuple[str, str], ...], _signatures: tuple[tuple[int, ...], ...]
) -> tuple[tuple[str, str], ...]:
    """Read once for each state of the files: most commands would else need one more process."""
    # Reading a file as data runs nothing of it: no includes, no git directory around it.
    done = subprocess.run(
        ["git", "config", "--no-includes", "-z", "--list", *(("-f", str(file)) if file else ())],
        cwd="/",
        env={"PATH": _ENV["PATH"], "GIT_DIR": "/dev/null", **(_ENV if file else dict(users))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    entries = done.stdout.decode("utf-8", "replace").split("\0")
    # A key without a value ("[core] autocrlf") has no line break: git takes it as true.
    return tuple(
        (key, value if valued else "true")
        for key, valued, value in (entry.partition("\n") for entry in entries if entry)
    )
