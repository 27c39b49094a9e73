"""The branch of a remote that work lands on: fetched from it, and moved by a push.

Fetch and push run as the user who runs us: with their keys and credential helpers, so with their configuration and
the system's. The repository's own is not read by git, as an agent may have written it; we take the address of the
remote from it, and only one that names a place and no command. A remote that is a path runs its own hooks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from activities.git.locks import outwait
from activities.git.repository import Repository, RepositoryProblem
from activities.git.run import Git, GitError, read_config, shadow
from activities.queue_contracts import Landed
from activities.settings import tail

NETWORK_SECONDS = 300.0
"""For one fetch or push: what is new is small, and a hook of the remote may take its time."""

_ADDRESS = re.compile(
    r"https://[^-/][^\0-\x1f]*"
    r"|http://(?:[^-/@][^/@]*@)?(?:localhost|127\.0\.0\.1|\[::1\])(?::\d+)?/[^\0-\x1f]*"
    r"|ssh://[^-/][^\0-\x1f]*"
    r"|file:///[^\0-\x1f]*"
    r"|/[^\0-\x1f]*"
    r"|(?:[\w.][\w.+-]*@)?[A-Za-z0-9_][\w.-]*:(?![-:]|//)[^\0-\x1f]+"  # scp-like
)
_REFUSED = re.compile(r"\[remote rejected\]")
"""By the remote's own rules. A login that is missing or has expired is not the candidate's fault."""
_REASON = re.compile(r"\[remote rejected\] \((.*)\)")
_BUSY = re.compile(r"\block\b|failed to update ref|incorrect old value")
"""Another push to the same branch is just under way."""


def fetch(repository: Repository, remote: str, target: str) -> str:
    """The sha of the remote's branch `target` (a full ref). Every object that comes is checked.

    Raises RepositoryProblem when there is no such remote or branch; GitError when it fails.
    """
    with _online(repository) as git:
        return _fetch(repository, git, _address(repository, remote, "url"), remote, target)


def last_seen(repository: Repository, remote: str, target: str) -> str | None:
    """The sha of the remote's branch when it was fetched or pushed last; None: never."""
    return repository.sha(_ref(remote, target))


def push(repository: Repository, remote: str, target: str, base: str, tip: str) -> Landed:
    """Moves the remote's `target` from `base` to its descendant `tip`, or says why not. A second run finds it landed.

    Whatever became of the push, what counts is where the branch is then. Raises as `fetch`.
    """
    with _online(repository) as git:
        url = _address(repository, remote, "pushurl")
        said = _push(git, url, target, base, tip)
        if said is None:
            git.update_refs(f"update {_ref(remote, target)} {tip}")  # it may be held by nothing else here
            return Landed(kind="landed", sha=tip)
        listed = git("ls-remote", "--refs", "--", url, target).split()
        if dict(zip(listed[1::2], listed[::2], strict=True)).get(target) != base:
            now = _fetch(repository, git, url, remote, target)
            landed = git.test("merge-base", "--is-ancestor", tip, now)
            return Landed(kind="landed" if landed else "lost_race", sha=now)
        if _REFUSED.search(said) and not any(map(_BUSY.search, _REASON.findall(said))):
            return Landed(kind="rejected", sha=base, reason=_told(said))
        raise GitError(("push", remote), 1, said)


@contextmanager
def _online(repository: Repository) -> Iterator[Git]:
    with shadow(repository.common_dir) as git:
        yield git.online()


def _push(git: Git, url: str, target: str, base: str, tip: str) -> str | None:
    """None when the branch is at `tip`; else what was said about it."""
    # The user's own settings may want more to be pushed than this one branch.
    only = ("--no-verify", "--no-follow-tags", "--recurse-submodules=no", f"--force-with-lease={target}:{base}")
    try:
        done = git.run(
            "push", "--porcelain", *only, "--", url, f"{tip}:{target}", ok=range(-64, 256), timeout=NETWORK_SECONDS
        )
    except GitError as error:
        return error.stderr
    return None if done.returncode == 0 else (done.stdout + done.stderr).decode("utf-8", "replace")


def _fetch(repository: Repository, git: Git, url: str, remote: str, target: str) -> str:
    ref = _ref(remote, target)
    outwait(repository.common_dir / f"{ref}.lock")
    only = ("--quiet", "--no-tags", "--no-prune", "--no-write-fetch-head", "--no-recurse-submodules")
    try:
        git.run("fetch", *only, "--", url, f"+{target}:{ref}", timeout=NETWORK_SECONDS)
    except GitError as error:
        if "couldn't find remote ref" in error.stderr:
            raise RepositoryProblem(f"{remote} has no branch {target}: push it there first") from None
        raise
    return repository.tip(ref)


def _ref(remote: str, target: str) -> str:
    return f"refs/mergewright/remote/{remote}/{target.removeprefix('refs/heads/')}"


def _address(repository: Repository, remote: str, kind: str) -> str:
    """Of the remote, from the repository's configuration, read as data."""
    entries = read_config(repository.common_dir / "config")
    for key in dict.fromkeys((kind, "url")):
        found = [value for name, value in entries if name == f"remote.{remote}.{key}"]
        if len(found) > 1:
            raise RepositoryProblem(f"remote {remote!r} has several {key}s: it can only land on one")
        if found:
            if not _ADDRESS.fullmatch(found[0]):
                raise RepositoryProblem(f"remote {remote!r} is no https, ssh or file URL, nor an absolute path")
            return found[0]
    raise RepositoryProblem(f"{repository.path} has no remote {remote!r}: git remote add {remote} URL")


def _told(said: str) -> str:
    """What the remote said, without what git says around it; all of it, if that is nothing."""
    lines = [line.removeprefix("remote:").strip() for line in said.splitlines() if line.startswith("remote:")]
    told = [*_REASON.findall(said), *filter(None, lines)] or [said.strip()]
    return tail("\n".join(told), 2000)
