from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from activities.git.repository import Repository, RepositoryProblem, open_repository
from activities.git.run import IDENTITY
from tests.git.repos import USER, Canary, commit, git, make_repo, run_git, write


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repo(tmp_path / "repo", {"README.md": "hello\n", "src/app.py": "print(1)\n"})


@pytest.fixture
def repository(repo: Path) -> Repository:
    return open_repository(str(repo))


# --- opening -------------------------------------------------------------------------------------


def test_a_checkout(repo: Path) -> None:
    found = open_repository(str(repo))
    assert found == Repository(repo, repo / ".git", repo / ".git", repo)


def test_a_checkout_named_by_a_link(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(repo)
    assert open_repository(str(tmp_path / "link")).path == repo


def test_a_linked_worktree_shares_the_common_directory(repo: Path, tmp_path: Path) -> None:
    git(repo, "worktree", "add", "-q", "-b", "feature", str(tmp_path / "linked"))
    found = open_repository(str(tmp_path / "linked"))
    assert (found.common_dir, found.work_tree) == (repo / ".git", tmp_path / "linked")
    assert found.default_branch() == "refs/heads/feature"


def test_a_bare_repository(tmp_path: Path) -> None:
    bare = make_repo(tmp_path / "bare.git", bare=True)
    found = open_repository(str(bare))
    assert (found.common_dir, found.work_tree) == (bare, None)
    assert found.default_branch() == "refs/heads/main"


def test_a_git_directory_that_lies_elsewhere(tmp_path: Path) -> None:
    run_git(tmp_path, "init", "-q", "-b", "main", "--separate-git-dir", str(tmp_path / "store"), str(tmp_path / "repo"))
    git(tmp_path / "repo", "config", "user.name", "x")
    git(tmp_path / "repo", "config", "user.email", "x@example.org")
    commit(tmp_path / "repo", {"a": "a"})
    found = open_repository(str(tmp_path / "repo"))
    assert found.common_dir == tmp_path / "store"
    assert [checkout.work_tree for checkout in found.checkouts("refs/heads/main")] == [tmp_path / "repo"]


def test_a_shallow_clone_will_do(repo: Path, tmp_path: Path) -> None:
    commit(repo, {"b": "b"})
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{repo}", "shallow")
    found = open_repository(str(tmp_path / "shallow"))
    assert found.tip(found.default_branch()) == git(repo, "rev-parse", "main")


def _plain_folder(path: Path) -> Path:
    path.mkdir()
    return path


def _below(path: Path) -> Path:
    return make_repo(path, {"src/a": "a"}) / "src"


def _git_directory(path: Path) -> Path:
    return make_repo(path) / ".git"


def _empty(path: Path) -> Path:
    path.mkdir()
    git(path, "init", "-q")
    return path


def _partial(path: Path) -> Path:
    git(make_repo(path), "config", "extensions.partialClone", "origin")
    return path


def _reftable(path: Path) -> Path:
    git(make_repo(path), "config", "extensions.refStorage", "reftable")
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path, "does not exist on this host"),
        (_plain_folder, "is not a git repository"),
        (_below, "is inside of a repository: name its top, {path}"),
        (_git_directory, "is inside of a repository: name its top, {path}"),
        (_empty, "has no commit on any branch yet"),
        (_partial, "is a partial clone"),
        (_reftable, "refs are stored as 'reftable'"),
    ],
)
def test_what_cannot_be_worked_on_is_told_in_one_line(tmp_path: Path, make: Callable[[Path], Path], says: str) -> None:
    named = make(tmp_path / "it")
    with pytest.raises(RepositoryProblem) as problem:
        open_repository(str(named))
    assert says.format(path=tmp_path / "it") in str(problem.value)
    assert str(named) in str(problem.value)
    assert "\n" not in str(problem.value)


# --- branches ------------------------------------------------------------------------------------


def test_branches_by_either_name(repository: Repository) -> None:
    assert repository.branch("main") == repository.branch("refs/heads/main") == "refs/heads/main"
    assert repository.default_branch() == "refs/heads/main"


def test_a_symbolic_branch_is_what_it_stands_for(repository: Repository) -> None:
    git(repository.path, "symbolic-ref", "refs/heads/trunk", "refs/heads/main")
    assert repository.branch("trunk") == "refs/heads/main"


@pytest.mark.parametrize("name", ["nope", "m*", "refs/tags/v1", "feature", "--all", ""])
def test_an_unknown_branch_is_told_with_those_that_exist(repository: Repository, name: str) -> None:
    for number in range(7):
        git(repository.path, "branch", f"feature/{number}")
    git(repository.path, "tag", "v1")
    with pytest.raises(RepositoryProblem) as problem:
        repository.branch(name)
    told = str(problem.value)
    assert repr(name) in told
    assert len(told.partition("it has: ")[2].split(", ")) == 5


def test_a_detached_head_has_no_default_branch(repository: Repository) -> None:
    git(repository.path, "checkout", "-q", "--detach")
    with pytest.raises(RepositoryProblem, match="name `target`"):
        repository.default_branch()


def test_an_unborn_branch_is_no_default(repository: Repository) -> None:
    git(repository.path, "symbolic-ref", "HEAD", "refs/heads/unborn")
    with pytest.raises(RepositoryProblem, match=r"unborn.*main"):
        repository.default_branch()


def test_tip_of_something_else(repository: Repository) -> None:
    assert repository.tip("refs/heads/main") == git(repository.path, "rev-parse", "main")
    with pytest.raises(RepositoryProblem, match="refs/heads/gone"):
        repository.tip("refs/heads/gone")


# --- reading -------------------------------------------------------------------------------------


def test_files_of_a_commit(repository: Repository) -> None:
    write(repository.path, {"mergewright.toml": b"a = 1\r\n\xff", "[x]*.txt": "literal", "xy.txt": "not me"})
    (repository.path / "link").symlink_to("README.md")
    sha = commit(repository.path)
    assert repository.read_file(sha, "mergewright.toml") == b"a = 1\r\n\xff"
    assert repository.read_file(sha, "src/app.py") == b"print(1)\n"
    assert repository.read_file(sha, "[x]*.txt") == b"literal"
    for other in ("nope", "src", "link", "*.txt", "README.md/x"):
        assert repository.read_file(sha, other) is None


def test_the_user_s_uncommitted_files_are_not_read(repository: Repository) -> None:
    write(repository.path, {"README.md": "edited\n"})
    assert repository.read_file(repository.tip("refs/heads/main"), "README.md") == b"hello\n"


def test_a_diff_is_whole_and_only_ours_to_shape(repository: Repository, tmp_path: Path) -> None:
    canary = Canary(tmp_path / "canary")
    base = repository.tip("refs/heads/main")
    lines = [f"{number:050d}\n" for number in range(100_000)]
    work = {"big.txt": "".join(lines), ".gitattributes": "*.txt -diff\n*.py diff=evil\n", "src/app.py": "print(2)\n"}
    head = commit(repository.path, work)
    canary.poison(repository.common_dir, repository.path)
    diff = repository.diff(base, head)
    assert len(diff) > 5_000_000
    assert diff.count(b"\n+0") == 100_000
    assert b"-print(1)\n+print(2)\n" in diff
    assert canary.fired() == set()
    run_git(repository.path, "diff", base, head)
    assert "diff-command" in canary.fired()  # the trap is a real one


def test_changed_files(repository: Repository) -> None:
    base = repository.tip("refs/heads/main")
    (repository.path / "README.md").rename(repository.path / "renamed.md")
    (repository.path / os.fsdecode(b"caf\xe9 \xc3\xa9\n")).write_text("x")
    head = commit(repository.path)
    assert repository.changed_files(base, head) == ["README.md", "caf\\xe9 é\n", "renamed.md"]
    assert repository.changed_files(head, head) == []


def test_ancestry(repository: Repository) -> None:
    first = repository.tip("refs/heads/main")
    second = commit(repository.path, {"b": "b"})
    git(repository.path, "checkout", "-q", "-b", "other", first)
    third = commit(repository.path, {"c": "c"})
    git(repository.path, "checkout", "-q", "--orphan", "unrelated")
    fourth = commit(repository.path, {"d": "d"})
    assert repository.merge_base(second, third) == first
    assert repository.merge_base(second, fourth) is None
    assert repository.contains(first, second)
    assert not repository.contains(second, third)


# --- settings ------------------------------------------------------------------------------------


def test_identity_is_the_repository_s_own(repository: Repository) -> None:
    assert repository.identity() == USER


def test_identity_from_the_user_s_settings(repository: Repository, own_home: Path) -> None:
    git(repository.path, "config", "--unset", "user.name")
    git(repository.path, "config", "--unset", "user.email")
    assert repository.identity() == IDENTITY
    (own_home / ".gitconfig").write_text('[user]\n\tname = "Zoë <Z>"\n[include]\n\tpath = more\n')
    (own_home / "more").write_text("[user]\n\temail = 1@example.org\n")
    assert repository.identity() == ("Zoë Z", "1@example.org")


def test_identity_from_a_config_named_by_the_environment(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(repository.path, "config", "--unset", "user.name")
    (tmp_path / "global").write_text("[user]\n\tname = Ann\n\temail = ann@example.org\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "global"))
    assert repository.identity() == ("Ann", USER[1])


def test_excludes_are_those_of_user_and_repository(repository: Repository, own_home: Path) -> None:
    write(own_home, {".config/git/ignore": "*.everywhere\n"})
    write(repository.common_dir, {"info/exclude": "*.here\n"})
    assert repository.excludes().split() == [b"*.everywhere", b"*.here"]
    (own_home / ".gitconfig").write_text("[core]\n\texcludesFile = ~/mine\n")
    (own_home / "mine").write_text("*.mine\n")
    assert repository.excludes().split() == [b"*.mine", b"*.here"]


# --- checkouts -----------------------------------------------------------------------------------


def test_checkouts_of_a_branch(repo: Path, tmp_path: Path, repository: Repository) -> None:
    git(repo, "branch", "other")
    for name, args in {
        "same": ["--force", "main"],
        "else": ["other"],
        "detached": ["--detach", "main"],
        "deleted": ["--force", "main"],
        "half": ["--force", "main"],
        "unreadable": ["--force", "main"],
    }.items():
        at = [arg for arg in args if not arg.startswith("-")]
        git(repo, "worktree", "add", "-q", *(arg for arg in args if arg.startswith("-")), str(tmp_path / name), *at)
    run_git(tmp_path, "-c", "x.y=z", "version")
    for file in (tmp_path / "deleted").iterdir():
        if file.is_file():
            file.unlink()
    (repo / ".git" / "worktrees" / "half" / "gitdir").unlink()
    (repo / ".git" / "worktrees" / "unreadable" / "HEAD").write_bytes(b"\xff\xfe")
    found = repository.checkouts("refs/heads/main")
    linked = repo / ".git" / "worktrees" / "same"
    assert [(one.work_tree, one.git_dir, one.index) for one in found] == [
        (repo, repo / ".git", repo / ".git" / "index"),
        (tmp_path / "same", linked, linked / "index"),
    ]
    assert [one.work_tree for one in repository.checkouts("refs/heads/other")] == [tmp_path / "else"]
    assert open_repository(str(tmp_path / "else")).checkouts("refs/heads/main") == found


def test_a_bare_repository_has_only_linked_checkouts(tmp_path: Path) -> None:
    bare = make_repo(tmp_path / "bare.git", bare=True)
    repository = open_repository(str(bare))
    assert repository.checkouts("refs/heads/main") == []
    git(bare, "worktree", "add", "-q", str(tmp_path / "linked"), "main")
    assert [one.work_tree for one in repository.checkouts("refs/heads/main")] == [tmp_path / "linked"]


def test_a_work_tree_named_by_the_config(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    git(repo, "config", "core.worktree", "../../elsewhere")
    (tmp_path / "elsewhere" / ".git").write_text(f"gitdir: {repo}/.git\n")
    found = open_repository(str(tmp_path / "elsewhere"))
    assert [one.work_tree for one in found.checkouts("refs/heads/main")] == [tmp_path / "elsewhere"]
