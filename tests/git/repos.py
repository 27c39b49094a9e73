"""Real repositories for tests, driven with plain git: what a user or an agent would do by hand."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

USER = ("Una User", "una@example.org")
"""Identity that the repositories of `make_repo` have in their own config."""

_ENV = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_EDITOR": "true",
    "LC_ALL": "C",
}


def run_git(
    path: Path,
    *args: str,
    stdin: bytes | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Plain git in `path`, as a user runs it: with the repository's own config, hooks and filters."""
    return subprocess.run(
        ["git", *args],
        cwd=path,
        env={**_ENV, **(env or {})},
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        check=check,
        timeout=60,
    )


def git(path: Path, *args: str, stdin: bytes | None = None) -> str:
    """Its standard output without the last line break; an exit that is not 0 fails the test."""
    done = run_git(path, *args, stdin=stdin, check=False)
    assert done.returncode == 0, f"git {' '.join(args)}: {done.stderr.decode('utf-8', 'replace')}"
    return done.stdout.decode("utf-8", "surrogateescape").rstrip("\n")


def write(path: Path, files: Mapping[str, bytes | str | None]) -> None:
    """Puts `files` under `path`; None removes one."""
    for name, content in files.items():
        file = path / name
        if content is None:
            file.unlink()
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)


def commit(path: Path, files: Mapping[str, bytes | str | None] | None = None, message: str = "change") -> str:
    """Writes `files`, commits everything there is, and returns the sha."""
    write(path, files or {})
    git(path, "add", "-A")
    git(path, "commit", "-q", "--allow-empty", "-m", message)
    return git(path, "rev-parse", "HEAD")


def make_repo(path: Path, files: Mapping[str, bytes | str | None] | None = None, *, bare: bool = False) -> Path:
    """A repository at `path` with one commit on `main`; a bare one is cloned from such a one beside it."""
    if bare:
        source = make_repo(path.with_name(f"{path.name}-source"), files)
        run_git(source, "clone", "-q", "--bare", str(source), str(path))
    else:
        path.mkdir(parents=True)
        git(path, "init", "-q", "-b", "main")
        git(path, "config", "user.name", USER[0])
        git(path, "config", "user.email", USER[1])
        commit(path, {"README.md": "hello\n"} if files is None else files, "first")
    return path


_HOOKS = (
    "pre-commit prepare-commit-msg commit-msg post-commit pre-merge-commit post-merge pre-rebase post-checkout "
    "post-rewrite pre-push pre-receive update post-receive post-update reference-transaction post-index-change "
    "pre-auto-gc fsmonitor-watchman"
).split()

_DRIVERS = "* filter=evil merge=evil diff=evil\n"

_CONFIG = """
[core]
    fsmonitor = {core-fsmonitor}
    sshCommand = {core-ssh}
    pager = {core-pager}
    editor = {core-editor}
    alternateRefsCommand = {core-alternate-refs}
    attributesFile = {folder}/attributes
[filter "evil"]
    clean = {filter-clean}
    smudge = {filter-smudge}
    required = true
[merge]
    default = evil
[merge "evil"]
    driver = {merge-driver}
[diff]
    external = {diff-external}
[diff "evil"]
    command = {diff-command}
    textconv = {diff-textconv}
[uploadpack]
    packObjectsHook = {pack-objects}
[credential]
    helper = {credential}
[gpg]
    program = {gpg}
[commit]
    gpgSign = true
[gc]
    auto = 1
[remote "origin"]
    uploadpack = {remote-upload-pack}
[interactive]
    diffFilter = {diff-filter}
[include]
    path = {folder}/included
[extensions]
    worktreeConfig = true
"""


class Canary:
    """Fills a git directory with all that git can be told to run, and says what of it ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sang = folder / "sang"
        self.sang.mkdir(parents=True)

    def script(self, name: str) -> str:
        script = self.folder / name
        script.write_text(f"#!/bin/sh\ntouch '{self.sang}/{name}'\nexit 0\n")
        script.chmod(0o755)
        return str(script)

    def poison(self, git_dir: Path, work_tree: Path | None = None) -> None:
        """As an agent could, with write access to `git_dir`; its attributes ask for the drivers everywhere."""
        names = [part.partition("}")[0] for part in _CONFIG.split("{")[1:]]
        scripts = {name: self.script(name) for name in names if name != "folder"}
        text = _CONFIG.replace("{folder}", str(self.folder))
        for name, script in scripts.items():
            text = text.replace(f"{{{name}}}", script)
        with (git_dir / "config").open("a") as config:
            config.write(text)
        (self.folder / "included").write_text(f"[core]\n\tfsmonitor = {self.script('included-fsmonitor')}\n")
        (git_dir / "config.worktree").write_text(f"[core]\n\tfsmonitor = {self.script('worktree-fsmonitor')}\n")
        for place in (self.folder / "attributes", git_dir / "info" / "attributes"):
            place.parent.mkdir(exist_ok=True)
            place.write_text(_DRIVERS)
        if work_tree is not None:
            (work_tree / ".gitattributes").write_text(_DRIVERS)
        (git_dir / "hooks").mkdir(exist_ok=True)
        for hook in _HOOKS:
            (git_dir / "hooks" / hook).unlink(missing_ok=True)
            (git_dir / "hooks" / hook).symlink_to(self.script(f"hook-{hook}"))

    def fired(self) -> set[str]:
        return {file.name for file in self.sang.iterdir()}
