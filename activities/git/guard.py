"""What no turn may change in the user's repository: looked at before a turn and after it.

An agent has a clone of its own, and no business in the user's git directory. Where no sandbox keeps it from there it
could plant what the user's next git command runs: hooks, settings that name programs, attributes that choose them,
foreign objects. Nothing of ours touches these, and few users do so in the very minutes of a turn: that it happened
stops the task, and it is undone where that loses nothing. What users change all the time (branches, HEAD, files of a
checkout) is only noted. Who did it cannot be seen: it may have been the user, or another task's agent.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path

from pydantic import ConfigDict

from activities.git.repository import Repository, printable
from activities.git.run import IDENTITY, Git, GitError, read_config, shadow
from activities.settings import Model

_CONTENT = 2**20
"""Bytes of a file that are kept to put it back; of a longer one only that it has changed is seen."""
_RUNS = re.compile(
    r"core\.(hookspath|fsmonitor|sshcommand|editor|pager|gitproxy|askpass|alternaterefscommand|worktree)|"
    r"(sequence\.editor|pager\..*|alias\..*|include\.path|includeif\..*|init\.templatedir|diff\.external)|"
    r"(filter\..*\.(clean|smudge|process)|merge\..*\.driver|diff\..*\.(command|textconv)|(diff|merge|gui)tool\..*)|"
    r"(credential\.(.*\.)?helper|gpg\.(.*\.)?(program|defaultkeycommand)|interactive\.difffilter|lfs\.(customtransfer|extension)\..*)|"
    r"(remote\..*\.(vcs|uploadpack|receivepack|proxy)|uploadpack\.packobjectshook|url\..*|protocol\.(.*\.)?allow)|"
    r"(http\.(.*\.)?(proxy|sslverify)|submodule\..*\.update|trailer\..*\.(command|cmd)|tar\..*\.command)|"
    r"((browser|man|instaweb|sendemail)\..*|(web|help)\.browser)",
    re.DOTALL,
)
"""Settings with which git runs a program, reads another file of settings, or turns to another server."""
_OURS_TO_MOVE = ("refs/mergewright/", "refs/heads/mergewright/", "refs/remotes/", "refs/prefetch/")
"""Our own, and what every fetch moves."""
_MOST = 10
_MOST_SUBMODULES = 500


class Plain(Model):
    """A file or a link as it is."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    mode: int
    content: bytes | None = None
    """What a link says; none: neither a link nor a plain file, or too long."""
    size: int = 0
    time: int = 0


class Guarded(Model):
    """How things were."""

    files: dict[str, Plain]
    """By their path in the git directory."""
    own: dict[str, Plain]
    """The same, of the worktree's own one."""
    settings: dict[str, list[tuple[str, str]]]
    own_settings: dict[str, list[tuple[str, str]]]
    refs: dict[str, str]
    heads: dict[str, str]
    changed: dict[str, str]
    """Files of the user's checkouts that are not as in the index, with size and time."""


class Difference(Model):
    escaped: list[str] = []
    """What no turn may do."""
    undone: list[str] = []
    """Of that, the files that were put back."""
    notes: list[str] = []
    """What may well have been the user."""


def look(repository: Repository, own: Path) -> Guarded:
    """As it is now; `own` is the git directory of the task's worktree. Nothing in either is run, or followed."""
    files, own_files = dict(_files(repository.common_dir)), dict(_files(own))
    with repository.git() as git:
        return Guarded(
            files=files,
            own=own_files,
            settings=_settings(repository.common_dir, files),
            own_settings=_settings(own, own_files),
            refs=_refs(git),
            heads=_heads(repository.common_dir),
            changed=_changed(repository),
        )


def compare(repository: Repository, before: Guarded, after: Guarded) -> Difference:
    escaped = _differences(before.files, after.files, before.settings, after.settings)
    planted = _differences(before.own, after.own, before.own_settings, after.own_settings)
    notes = [f"the worktree's own git: {text}" for text in planted]
    for ref in sorted(before.refs.keys() | after.refs.keys()):
        was, now = before.refs.get(ref, "nothing"), after.refs.get(ref, "nothing")
        if was != now and not _moved_by_us(repository, ref, now):
            notes.append(f"{ref} went from {was[:12]} to {now[:12]}")
    for name, was in before.heads.items():
        if (now := after.heads.get(name, was)) != was and was.startswith("ref: "):
            notes.append(f"{name} went from {was} to {now}")
    if dirty := [path for path, how in after.changed.items() if before.changed.get(path) != how]:
        notes.append(f"changed in your checkout: {', '.join(dirty[:_MOST])}" + (" …" if dirty[_MOST:] else ""))
    return Difference(escaped=escaped, notes=notes[:_MOST])


def put_back(repository: Repository, before: Guarded, after: Guarded, keep: Path) -> list[str]:
    """Undoes what `compare` found to be wrong, where nothing is lost by it; what was there goes to the folder `keep`.

    Not alternates: commits that were made since may need them. Not a config in which anything else has changed too.
    """
    undone = []
    for name in _changed_files(before.files, after.files, before.settings, after.settings):
        was, now, path = before.files.get(name), after.files.get(name), repository.common_dir / name
        if name.endswith("alternates") or (was is not None and was.content is None) or path.parent.is_symlink():
            continue
        if name in after.settings and _harmless(after.settings[name]) != _harmless(before.settings.get(name, [])):
            continue
        if now is not None:
            if now.content is None or _plain(path) != now:
                continue
            kept = keep / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(now.content)
        with suppress(OSError):
            _write(path, was)
            undone.append(name)
    return undone


# --- what there is -----------------------------------------------------------------------------------


def _files(git_dir: Path) -> Iterator[tuple[str, Plain]]:
    """What decides which programs git runs, in this git directory and in those of its submodules."""
    for folder in islice(_git_dirs(git_dir), _MOST_SUBMODULES):
        found = [hooks := folder / "hooks"]
        with suppress(OSError):  # in its own clone an agent may forbid us to look
            if hooks.is_dir() and not hooks.is_symlink():
                found = list(hooks.iterdir())
        names = ("config", "config.worktree", "info/attributes", "objects/info/alternates")
        found = [path for path in found if path.suffix != ".sample"] + [folder / name for name in names]
        for path in [*found, *folder.glob("worktrees/*/config.worktree")]:
            if (plain := _plain(path)) is not None:
                yield printable(os.fsencode(path.relative_to(git_dir))), plain


def _git_dirs(folder: Path, depth: int = 0) -> Iterator[Path]:
    if depth == 0 or (folder / "HEAD").is_file():
        yield folder
        folder /= "modules"
    with suppress(OSError):
        for child in sorted(folder.iterdir()) if depth < 8 and not folder.is_symlink() else ():
            if child.is_dir() and not child.is_symlink():
                yield from _git_dirs(child, depth + 1)


def _plain(path: Path) -> Plain | None:
    """None: there is nothing."""
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            return Plain(mode=found.st_mode, content=os.fsencode(path.readlink()))
        if not stat.S_ISREG(found.st_mode) or found.st_size > _CONTENT:
            return Plain(mode=found.st_mode, size=found.st_size, time=found.st_mtime_ns)
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return Plain(mode=found.st_mode, content=file.read(_CONTENT))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return Plain(mode=0)


def _write(path: Path, was: Plain | None) -> None:
    """In one step; a config under git's own lock, so that no command of the user's is overtaken."""
    lock = path.with_name(f"{path.name}.lock")
    if was is None:
        path.unlink()
        return
    if was.content is None:
        return
    path.parent.mkdir(exist_ok=True)
    if stat.S_ISLNK(was.mode):
        lock.symlink_to(os.fsdecode(was.content))
    else:
        with lock.open("xb") as file:
            file.write(was.content)
        lock.chmod(stat.S_IMODE(was.mode))
    lock.replace(path)


def _settings(git_dir: Path, files: Mapping[str, Plain]) -> dict[str, list[tuple[str, str]]]:
    """Of each config that is a plain file, as data: nothing that it includes is read."""
    return {
        name: [entry for entry in read_config(git_dir / name) if not _of_a_submodule(name, *entry)]
        for name, plain in files.items()
        if name.rpartition("/")[2] in ("config", "config.worktree") and plain.content is not None
        if stat.S_ISREG(plain.mode)
    }


def _of_a_submodule(name: str, key: str, value: str) -> bool:
    """`git submodule` writes it: where the submodule's files are, and a way to update that runs nothing."""
    placed = name.startswith("modules/") and key == "core.worktree"
    return placed or (key.startswith("submodule.") and key.endswith(".update") and not value.startswith("!"))


def _refs(git: Git) -> dict[str, str]:
    listed = git("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    found = dict(line.rsplit(" ", 1) for line in listed)
    return {printable(os.fsencode(ref)): sha for ref, sha in found.items() if not ref.startswith(_OURS_TO_MOVE)}


def _heads(common_dir: Path) -> dict[str, str]:
    found = {}
    for path in (common_dir / "HEAD", *common_dir.glob("worktrees/*/HEAD")):
        with suppress(OSError):
            found[str(path.relative_to(common_dir))] = path.read_text(errors="replace").strip()
    return found


def _changed(repository: Repository) -> dict[str, str]:
    """By size and time, as git itself does: no content is read but of files that are as old as the index."""
    tree = repository.work_tree
    index = repository.git_dir / "index"
    if tree is None or not index.is_file():
        return {}
    found = {}
    with (
        suppress(GitError),
        shadow(repository.common_dir, work_tree=tree, index=index, own_dir=repository.git_dir) as git,
    ):
        done = git.run("diff-files", "--name-only", "-z", "--ignore-submodules")
        for name in filter(None, done.stdout.split(b"\0")):
            with suppress(OSError):
                state = (tree / os.fsdecode(name)).lstat()
                found[printable(name)] = f"{state.st_size} {state.st_mtime_ns}"
            found.setdefault(printable(name), "gone")
    return found


def _moved_by_us(repository: Repository, ref: str, now: str) -> bool:
    """By a landing, of whichever task: its line in the reflog is ours. A bare repository usually keeps none."""
    try:
        last = (repository.common_dir / "logs" / ref).read_bytes().splitlines()[-1]
    except (OSError, IndexError):
        return False
    return now.encode() in last and f"{IDENTITY[0]} <{IDENTITY[1]}>".encode() in last


# --- what has changed --------------------------------------------------------------------------------


Settings = Mapping[str, list[tuple[str, str]]]


def _running(entries: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(key, value) for key, value in entries if _RUNS.fullmatch(key)]


def _harmless(entries: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(key, value) for key, value in entries if not _RUNS.fullmatch(key)]


def _changed_files(
    before: Mapping[str, Plain], after: Mapping[str, Plain], was: Settings, now: Settings
) -> Iterator[str]:
    """A config only if it makes git run something else than before: users set an upstream branch at any time."""
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) == after.get(name):
            continue
        config = all(name in settings or name not in files for settings, files in ((was, before), (now, after)))
        if not config or _running(was.get(name, [])) != _running(now.get(name, [])):
            yield name


def _differences(before: Mapping[str, Plain], after: Mapping[str, Plain], was: Settings, now: Settings) -> list[str]:
    found = []
    for name in _changed_files(before, after, was, now):
        what = "was added" if name not in before else "was removed" if name not in after else "was changed"
        old, new = _running(was.get(name, [])), _running(now.get(name, []))
        said = [f"{key} = {value}" for key, value in new if (key, value) not in old]
        said += [f"no {key} = {value}" for key, value in old if (key, value) not in new]
        found.append(f"{name} {what}" + (f" ({'; '.join(said)[:500]})" if said else ""))
    return found
