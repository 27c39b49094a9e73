from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from activities.git import remote
from activities.git.landing import NotAFastForward, base_of, follow, land
from activities.git.repository import Repository, RepositoryProblem, open_repository
from activities.git.run import Git, GitError
from activities.queue_contracts import Landed, LandInput
from tests.git.landings import FILES, MAIN, candidate, everything, landing, left_in, tip_of, work
from tests.git.remotes import SECRET, smart_http
from tests.git.repos import commit, git, make_repo, run_git, write


@dataclass
class Place:
    """A repository, and its remote `origin`."""

    repo: Path
    bare: Path
    folder: Path

    @property
    def repository(self) -> Repository:
        return open_repository(str(self.repo))

    @property
    def there(self) -> str:
        return git(self.bare, "rev-parse", "main")

    def prepare(self, files: dict[str, str] | None = None, task: str = "task-1") -> LandInput:
        base = base_of(self.repository, MAIN, "hold", "origin")
        given = candidate(self.repo, work(self.repo, files or {"new": f"{task}\n"}, base=base), task=task)
        return landing(given, *tip_of(self.repository, given, base), push="origin")

    def land(self, given: LandInput) -> Landed:
        return land(self.repository, given, self.folder)

    def outside(self, on: str = "main") -> str:
        """Somebody else pushes."""
        new = git(self.bare, "commit-tree", f"{on}^{{tree}}", "-p", on, "-m", f"on {on}")
        git(self.bare, "update-ref", MAIN, new)
        return new

    def hook(self, name: str, text: str) -> None:
        hook = self.bare / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\n{text}\n")
        hook.chmod(0o755)


@pytest.fixture
def place(tmp_path: Path, own_home: Path) -> Place:
    repo = make_repo(tmp_path / "repo", FILES)
    (own_home / ".gitconfig").write_text("[user]\nname = x\nemail = x@example.org\n")
    bare = tmp_path / "remotes" / "project.git"
    bare.parent.mkdir()
    git(repo, "clone", "-q", "--bare", str(repo), str(bare))
    for key in ("user.name", "user.email", "http.receivepack"):
        git(bare, "config", key, "true")
    git(repo, "remote", "add", "origin", f"file://{bare}")
    return Place(repo, bare, tmp_path / "home")


@pytest.fixture(params=["file", "http"])
def any_place(request: pytest.FixtureRequest, place: Place, own_home: Path) -> Iterator[Place]:
    if request.param == "file":
        yield place
        return
    with smart_http(place.bare.parent) as url:
        git(place.repo, "remote", "set-url", "origin", f"{url}/project.git")
        user, _, password = SECRET.partition(":")
        with (own_home / ".gitconfig").open("a") as config:
            config.write(f'[credential]\nhelper = "!echo username={user}; echo password={password}; :"\n')
        yield place


def test_it_lands_on_the_remote_and_the_branch_follows(any_place: Place) -> None:
    place = any_place
    ahead = place.outside()  # the local branch does not even know of it
    given = place.prepare()
    assert given.base == ahead
    for _ in range(2):
        assert place.land(given) == Landed(kind="landed", sha=given.tip)
        assert (place.there, place.repository.tip(MAIN)) == (given.tip, given.tip)
        assert git(place.repo, "status", "--porcelain") == ""
        assert git(place.repo, "for-each-ref", "--format=%(refname)", "refs/mergewright") == (
            "refs/mergewright/remote/origin/main"
        )
    later = place.outside()
    assert place.land(given) == Landed(kind="landed", sha=later)
    assert place.repository.tip(MAIN) == later


def test_somebody_else_was_faster(any_place: Place) -> None:
    place = any_place
    given, before = place.prepare(), everything(place.repo)
    now = place.outside()
    assert place.land(given) == Landed(kind="lost_race", sha=now)
    assert everything(place.repo) == before
    again = place.prepare()
    assert again.base == now
    assert place.land(again).sha == place.there == again.tip


def test_the_remote_refuses_it(any_place: Place) -> None:
    place = any_place
    place.hook("pre-receive", "echo 'not on a Friday' >&2; exit 1")
    given, before = place.prepare(), everything(place.repo)
    refused = Landed(kind="rejected", sha=given.base, reason="pre-receive hook declined\nnot on a Friday")
    assert place.land(given) == refused
    assert (everything(place.repo), place.there) == (before, given.base)
    assert git(place.repo, "for-each-ref", f"refs/mergewright/chain/main/{given.tip}") != ""
    place.hook("pre-receive", "exit 0")
    assert place.land(given).kind == "landed"


@pytest.mark.parametrize("then", ["", "outside"])
def test_git_is_killed_when_the_remote_has_it(place: Place, then: str) -> None:
    """Its group is that of the whole push. Where the remote's branch is decides."""
    outside = "git update-ref refs/heads/main $(git commit-tree -p main -m x main^{tree})" if then else ""
    place.hook("post-receive", f"{outside}\nkill -9 -$(cut -d' ' -f5 /proc/$$/stat)")
    given = place.prepare()
    assert place.land(given) == Landed(kind="landed", sha=place.there)
    assert (place.there == given.tip) != bool(then)
    assert place.repository.tip(MAIN) == place.there


def test_the_worker_is_killed_when_the_remote_has_it(place: Place) -> None:
    given = place.prepare()
    if (worker := os.fork()) == 0:
        Git.update_refs = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        place.land(given)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -signal.SIGKILL
    assert (place.there, place.repository.tip(MAIN)) == (given.tip, given.base)
    assert place.land(given) == Landed(kind="landed", sha=given.tip)
    assert place.repository.tip(MAIN) == given.tip


def test_the_remote_cannot_be_reached(place: Place) -> None:
    """Nobody knows, so it is neither landed nor refused."""
    given = place.prepare()
    place.bare.rename(place.bare.with_name("away"))
    with pytest.raises(GitError):
        place.land(given)
    with pytest.raises(GitError):
        base_of(place.repository, MAIN, "hold", "origin")


def test_a_push_that_takes_too_long_is_ended(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that it has started."""
    os.mkfifo(place.bare / "never")
    place.hook("pre-receive", f"echo $$ >{place.bare}/pid; exec cat {place.bare}/never")
    given = place.prepare()
    monkeypatch.setattr(remote, "NETWORK_SECONDS", 2.0)
    with pytest.raises(GitError, match="more than 2 seconds"):
        place.land(given)
    with suppress(ProcessLookupError):
        hook = os.pidfd_open(int((place.bare / "pid").read_text()))
        assert select.select([hook], [], [], 30)[0], "its process has ended"
        os.close(hook)
    place.hook("pre-receive", "exit 0")
    monkeypatch.undo()
    assert place.land(given).kind == "landed"


def test_the_branch_here_went_its_own_way(place: Place) -> None:
    mine = commit(place.repo, {"mine": "mine\n"})
    given = place.prepare()
    landed = place.land(given)
    assert (landed.kind, landed.sha, place.there) == ("landed", given.tip, given.tip)
    assert "has commits that" in landed.behind
    assert place.repository.tip(MAIN) == mine


def test_a_checkout_is_in_the_way(place: Place) -> None:
    write(place.repo, {"mod": "mine\n"})
    given = place.prepare({"mod": "theirs\n"})
    assert place.land(given) == Landed(kind="landed", sha=given.tip, behind=f"in the way in {place.repo}: mod")
    assert (place.there, place.repository.tip(MAIN)) == (given.tip, given.base)
    run_git(place.repo, "gc", "-q", "--prune=now")  # what landed is held until the branch follows
    git(place.repo, "checkout", "mod")
    assert follow(place.repository, MAIN, given.tip, "hold", place.folder) == ""
    assert place.repository.tip(MAIN) == given.tip
    assert left_in(place.repo) == []


def test_there_is_no_branch_here(place: Place) -> None:
    git(place.repo, "checkout", "-q", "-b", "other")
    git(place.repo, "branch", "-q", "-D", "main")
    base = base_of(place.repository, MAIN, "hold", "origin")
    tip = work(place.repo, {"new": "x\n"}, base=base)
    given = landing(candidate(place.repo, tip), base, tip, push="origin")
    landed = place.land(given)
    assert (landed.kind, place.there) == ("landed", tip)
    assert "is no commit" in landed.behind


def test_nothing_is_taken_off_the_remote(place: Place) -> None:
    """The lease alone would allow it."""
    given = place.prepare()
    evil = git(place.repo, "commit-tree", "main^{tree}", "-m", "a history of its own")
    with pytest.raises(NotAFastForward):
        place.land(given.model_copy(update={"tip": evil}))
    assert place.there == given.base


def test_what_the_user_has_set_pushes_nothing_else(place: Place, own_home: Path) -> None:
    with (own_home / ".gitconfig").open("a") as config:
        config.write("[push]\nfollowTags = true\n[fetch]\nprune = true\n[remote]\npushDefault = nowhere\n")
    git(place.repo, "tag", "-a", "-m", "mine", "mine")
    assert place.land(place.prepare()).kind == "landed"
    assert git(place.bare, "tag") == ""


def test_what_is_fetched_is_checked(place: Place) -> None:
    """A tree with a `.git` in it, as an attacker would make it."""
    blob = git(place.bare, "hash-object", "-w", "--stdin", stdin=b"x")
    raw = b"100644 .git\0" + bytes.fromhex(blob)
    tree = git(place.bare, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=raw)
    git(place.bare, "update-ref", MAIN, git(place.bare, "commit-tree", tree, "-p", "main", "-m", "evil"))
    with pytest.raises(GitError):
        base_of(place.repository, MAIN, "hold", "origin")


def test_addresses() -> None:
    good = [
        "https://x.org/a",
        "https://u:p@x.org:8/a b",
        "http://localhost/a",
        "http://u@[::1]:8/a",
        "/a/b c",
        "file:///a",
    ]
    good += ["ssh://git@x.org:22/a", "git@x.org:a/b.git", "git@x.org:/a", "host:a"]
    bad = ["http://x.org/a", "http://localhost.x.org/a", "http://localhost@x.org/a", "http://localhost:8@x.org/a"]
    bad += ["git://x.org/a", "ftp://x.org/a", "ext::sh -c x", "transport::file:///a", "file://host/a", "https://-x/"]
    bad += [
        "ssh://-oProxyCommand=x/a",
        "-oX:a",
        "--upload-pack=x",
        "host:-a",
        "a@-b:c",
        "a/b",
        "../a",
        "./a:b",
        "",
        "/a\nb",
    ]
    assert [address for address in good if not remote._ADDRESS.fullmatch(address)] == []
    assert [address for address in bad if remote._ADDRESS.fullmatch(address)] == []


def test_no_such_remote_or_branch(place: Place) -> None:
    with pytest.raises(RepositoryProblem, match="no remote 'else'"):
        base_of(place.repository, MAIN, "hold", "else")
    with pytest.raises(RepositoryProblem, match="has no branch refs/heads/else"):
        base_of(place.repository, "refs/heads/else", "hold", "origin")
    git(place.repo, "config", "remote.bad.url", "ext::sh -c x")
    with pytest.raises(RepositoryProblem, match="no https, ssh or file URL"):
        base_of(place.repository, MAIN, "hold", "bad")
    git(place.repo, "config", "--add", "remote.origin.url", "/another")
    with pytest.raises(RepositoryProblem, match="several"):
        base_of(place.repository, MAIN, "hold", "origin")


def test_nobody_is_asked_for_a_password(place: Place) -> None:
    git(place.repo, "config", "credential.helper", f"!touch {place.repo}/helped; :")
    git(place.repo, "config", "core.askPass", f"touch {place.repo}/asked")
    with smart_http(place.bare.parent) as url:
        git(place.repo, "remote", "set-url", "origin", f"{url}/project.git")
        with pytest.raises(GitError, match="could not read Username"):
            base_of(place.repository, MAIN, "hold", "origin")
        assert git(place.repo, "status", "--porcelain") == ""
        run_git(place.repo, "fetch", "origin", check=False)
        assert git(place.repo, "status", "--porcelain") == "?? helped"


def test_ssh_as_the_user_has_it(place: Place, own_home: Path, tmp_path: Path) -> None:
    with place.repository.git() as hardened:
        assert hardened.online().env["GIT_SSH_COMMAND"] == "ssh -oBatchMode=yes"
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nfor last; do :; done; exec sh -c "$last"\n')
    ssh.chmod(0o755)
    with (own_home / ".gitconfig").open("a") as config:
        config.write(f"[core]\nsshCommand = {ssh}\n")
    git(place.repo, "config", "core.sshCommand", "false")  # not by the repository's own configuration
    git(place.repo, "remote", "set-url", "origin", f"git@example.org:{place.bare}")
    given = place.prepare()
    assert place.land(given) == Landed(kind="landed", sha=given.tip)
