"""The user's repository: found and read here, never written but for refs under `refs/mergewright/`.

GitPython finds it and reads its config, HEAD included; all that runs git goes through the shadow of `run`.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import git as gitpython

from activities.git.run import IDENTITY, Git, GitError, UnsupportedRepository, own_config, shadow


class RepositoryProblem(Exception):
    """One line: what is wrong with the repository, and the remedy."""


Pin = Literal["base", "origin", "task", "merge", "reset"]
PINS: tuple[Pin, ...] = get_args(Pin)
"""base: where the task's work began; origin: what its clone shows as the target; task: the work that was brought
over. The first two keep alive what the clone borrows. merge, reset: see `merging` and `worktree`."""


def pin(kind: Pin, key: str) -> str:
    """The ref under which the repository holds something for the worktree `key`."""
    return f"refs/mergewright/{kind}/{key}"


def printable(path: bytes) -> str:
    """A path of git's for people and payloads: bytes that are no UTF-8 are escaped."""
    return path.decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Checkout:
    """A working tree of the user's that has a certain branch checked out."""

    work_tree: Path
    git_dir: Path
    """Its own git directory: holds HEAD, index, MERGE_HEAD."""
    index: Path


@dataclass(frozen=True)
class Repository:
    path: Path
    """Real path of what was named: the top of a checkout, or a bare repository."""
    git_dir: Path
    """The git directory of `path`; `common_dir`, unless `path` is a linked worktree."""
    common_dir: Path
    """Real path of the git directory that holds objects, refs and config."""
    work_tree: Path | None

    @contextmanager
    def git(self) -> Iterator[Git]:
        with shadow(self.common_dir) as git:
            yield git

    def default_branch(self) -> str:
        """Full ref of the branch that HEAD points to."""
        with gitpython.Repo(self.path, expand_vars=False) as repo:
            if repo.head.is_detached:
                raise RepositoryProblem(f"{self.path} has no branch checked out (detached HEAD): name `target`")
            return self.branch(repo.head.reference.path)

    def branch(self, name: str) -> str:
        """Full ref of an existing local branch, from `main` or `refs/heads/main`; what a symbolic one stands for."""
        ref = name if name.startswith("refs/heads/") else f"refs/heads/{name}"
        with self.git() as git:
            # A pattern also matches what lies below it, and may hold wildcards: only the exact name counts.
            for line in git("for-each-ref", "--format=%(refname) %(symref)", ref).splitlines():
                found, _, stands_for = line.partition(" ")
                if found == ref:
                    return stands_for or ref
            newest = ("--count=5", "--sort=-committerdate", "--format=%(refname:lstrip=2)", "refs/heads")
            there = ", ".join(git("for-each-ref", *newest).splitlines())
        known = printable(os.fsencode(there)) or "none"
        raise RepositoryProblem(f"{self.path} has no branch {name!r}; it has: {known}")

    def tip(self, ref: str) -> str:
        with self.git() as git:
            done = git.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}", ok=(0, 1, 128))
        if done.returncode != 0:
            raise RepositoryProblem(f"{self.path}: {ref} is no commit")
        return done.stdout.decode().strip()

    def sha(self, ref: str) -> str | None:
        """None: there is no such ref."""
        with self.git() as git:
            done = git.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}", ok=(0, 1, 128))
        return done.stdout.decode().strip() or None

    def tree(self, commit: str) -> str:
        with self.git() as git:
            return git("rev-parse", "--verify", "--end-of-options", f"{commit}^{{tree}}")

    def read_file(self, commit: str, path: str) -> bytes | None:
        """Content of a file of `commit`; None when there is none, or no regular file."""
        with self.git() as git:
            entry = git("--literal-pathspecs", "ls-tree", "-z", "--full-tree", commit, "--", path).partition("\0")[0]
            mode, _, rest = entry.partition(" ")
            if mode not in ("100644", "100755"):
                return None
            return git.run("cat-file", "blob", rest.split()[1]).stdout

    def diff(self, base: str, head: str) -> bytes:
        """The whole patch: never cut; nothing that the work itself contains decides how it looks."""
        with self.git() as git:
            # Without a work tree no .gitattributes is read, so none can declare a file binary to hide it.
            return git.run("diff-tree", "-p", "-M", "--full-index", "--no-ext-diff", "--no-textconv", base, head).stdout

    def changed_files(self, base: str, head: str) -> list[str]:
        """Paths that differ, printable; a renamed file is two."""
        with self.git() as git:
            done = git.run("diff-tree", "-r", "-z", "--name-only", "--no-renames", base, head)
        return [printable(path) for path in done.stdout.split(b"\0") if path]

    def merge_base(self, a: str, b: str) -> str | None:
        """None: no history in common."""
        with self.git() as git:
            return git.run("merge-base", a, b, ok=(0, 1)).stdout.decode().strip() or None

    def contains(self, ancestor: str, descendant: str) -> bool:
        with self.git() as git:
            return git.test("merge-base", "--is-ancestor", ancestor, descendant)

    def identity(self) -> tuple[str, str]:
        """Name and mail that the user commits with here; ours, where the user has not set both."""
        name = os.environ.get("GIT_AUTHOR_NAME") or self._setting("user", "name")
        mail = os.environ.get("GIT_AUTHOR_EMAIL") or self._setting("user", "email")
        name, mail = (re.sub(r"[<>\x00-\x1f]", "", part).strip() for part in (name, mail))
        return (name, mail) if name and mail else IDENTITY

    def excludes(self) -> bytes:
        """What the user ignores here besides the .gitignore files: for all repositories, and for this one."""
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
        everywhere = self._setting("core", "excludesfile") or str(home / "git" / "ignore")
        files = (Path(everywhere).expanduser(), self.common_dir / "info" / "exclude")
        return b"\n".join(file.read_bytes() for file in files if file.is_file())

    def _setting(self, section: str, option: str) -> str:
        """As git reads it: system, user, repository, with includes; empty when it is not set."""
        with gitpython.Repo(self.path, expand_vars=False) as repo:
            config = repo.config_reader()
            if everywhere := os.environ.get("GIT_CONFIG_GLOBAL"):  # GitPython does not know it
                files = [everywhere, str(self.common_dir / "config")]
                config = gitpython.GitConfigParser(files, read_only=True, repo=repo)
            with config:
                try:
                    return str(config.get(section, option, fallback=""))
                except configparser.Error:
                    return ""

    def checkouts(self, ref: str) -> list[Checkout]:
        """Where the user has `ref` checked out: the main and every linked worktree whose HEAD names it.

        Read from the files: `git worktree list` fails now and then while another worktree is being added.
        """
        found = []
        main = self._main_work_tree()
        if main is not None and main.is_dir() and _head(self.common_dir) == ref:
            found.append(Checkout(main, self.common_dir, self.common_dir / "index"))
        for own in sorted((self.common_dir / "worktrees").glob("*")):
            try:
                gitfile = own / (own / "gitdir").read_text().strip()
            except (OSError, UnicodeDecodeError):
                continue
            if gitfile.is_file() and _head(own) == ref:
                found.append(Checkout(gitfile.parent.resolve(), own, own / "index"))
        return found

    def _main_work_tree(self) -> Path | None:
        settings = dict(own_config(self.common_dir, self.common_dir))
        if settings.get("core.bare", "").lower() in ("true", "yes", "on", "1"):
            return None
        if elsewhere := settings.get("core.worktree"):
            return (self.common_dir / elsewhere).resolve()
        if self.common_dir.name == ".git":
            return self.common_dir.parent
        return self.work_tree if self.git_dir == self.common_dir else None


def open_repository(path: str) -> Repository:
    """The repository whose top `path` is: a checkout, a linked worktree or a bare one; a shallow one will do.

    Raises RepositoryProblem.
    """
    real = Path(path).resolve()
    try:
        with gitpython.Repo(real, expand_vars=False) as repo:
            work_tree = Path(repo.working_tree_dir).resolve() if repo.working_tree_dir else None
            git_dir, common_dir = Path(repo.git_dir).resolve(), Path(repo.common_dir).resolve()
    except gitpython.NoSuchPathError:
        raise RepositoryProblem(f"{path} does not exist on this host") from None
    except gitpython.InvalidGitRepositoryError:
        raise RepositoryProblem(_no_repository(real)) from None
    except OSError as error:
        raise RepositoryProblem(f"{path} cannot be read: {error.strerror}") from None
    if work_tree is not None and work_tree != real:
        raise RepositoryProblem(f"{path} is inside of a repository: name its top, {work_tree}")
    repository = Repository(real, git_dir, common_dir, work_tree)
    try:
        with repository.git() as git:
            if not git("for-each-ref", "--count=1", "refs/heads"):
                raise RepositoryProblem(f"{path} has no commit on any branch yet: make a first one")
    except UnsupportedRepository as error:
        raise RepositoryProblem(f"{path} cannot be worked on: {error}") from None
    except GitError as error:
        raise RepositoryProblem(f"{path} is damaged: {error}") from None
    return repository


def _no_repository(path: Path) -> str:
    try:
        with gitpython.Repo(path, search_parent_directories=True, expand_vars=False) as above:
            return f"{path} is inside of a repository: name its top, {above.working_tree_dir or above.git_dir}"
    except (gitpython.InvalidGitRepositoryError, OSError):
        return f"{path} is not a git repository: make it one (git init) or name another"


def _head(git_dir: Path) -> str | None:
    """What HEAD says there: a ref, or a sha when it is detached; None for a half-made one."""
    try:
        return (git_dir / "HEAD").read_text().strip().removeprefix("ref: ")
    except (OSError, UnicodeDecodeError):
        return None
