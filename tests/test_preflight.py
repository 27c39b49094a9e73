"""The policy preflight: each rule once where it fires and once where it does not, on plain repositories."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.exceptions import ApplicationError

from activities import contents
from activities.contracts import Finding
from activities.faults.policy import RULES
from activities.git.repository import Repository, open_repository
from activities.policy import Rules, twins, visible
from activities.preflight import TABLE_BYTES, for_leave, preflight, refusals, rules_on, table
from activities.protected import policy_settings
from activities.secret_scan import OVERLAP, WINDOW, scan
from activities.settings import DETECTORS, PROTECTED, Policy, PolicyRule, Strategy
from tests.git.repos import commit, git, make_repo, run_git

ROOT = Path(__file__).parent.parent
TOKEN = "ghp_" + "0aB1" * 9
KEY = "-----BEGIN RSA " + "PRIVATE KEY-----"
MARKED = "<<<<<<< HEAD\na\n=======\nb\n>>>>>>> main\n"
FUTURE = {f"GIT_{who}_DATE": "4000000000 +0000" for who in ("AUTHOR", "COMMITTER")}
Files = Mapping[str, bytes | str | None]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each test adds commits beside its main, which stays where it is."""
    files = {"README.md": "hello\n", "src/app.py": f"old = '{TOKEN}'\n", "ci/run": "true\n", "twin/a": "", "Twin/b": ""}
    return make_repo(tmp_path_factory.mktemp("preflight") / "repo", files)


def made(repo: Path, files: Files, base: str = "main", mode: str = "100644") -> str:
    """The sha of a commit with `files` on top of `base`, by one process; of a submodule the content is its commit."""
    stream = [
        f"commit refs/made/x\nmark :1\ncommitter Una <una@example.org> 1700000000 +0000\ndata 4\nmore\nfrom {base}^0\n"
    ]
    for path, content in files.items():
        name = '"' + "".join(f"\\{byte:03o}" for byte in path.encode()) + '"'
        text = content.decode() if isinstance(content, bytes) else content
        if text is None:
            stream.append(f"D {name}\n")
        elif mode == "160000":
            stream.append(f"M {mode} {text} {name}\n")
        else:
            stream.append(f"M {mode} inline {name}\ndata {len(text.encode())}\n{text}\n")
    return git(repo, "fast-import", "--quiet", "--force", stdin="".join([*stream, "get-mark :1\n"]).encode())


@lru_cache
def opened(repo: Path) -> Repository:
    return open_repository(str(repo))


def look(repo: Path, head: str, strategy: Strategy = "merge", base: str = "main", **policy: Any) -> list[Finding]:
    repository = opened(repo)
    rules = Rules(Policy.model_validate(policy), PROTECTED, "main")
    return preflight(repository, repository.tip(base), head, strategy, rules)


def told(found: list[Finding]) -> list[str]:
    return [one.told() for one in found]


CASES: list[tuple[PolicyRule, dict[str, Any], Files, Files]] = [
    ("deny", {"deny": ["vendor/", "!vendor/ours"]}, {"vendor/x": "1\n"}, {"src/vendored.py": "1\n"}),
    ("deny", {"deny": ["*.md"]}, {"README.md": None}, {"README.rst": "1\n"}),
    ("allow", {"allow": ["src/", "docs/"]}, {"other": "1\n"}, {"src/deep/er": "1\n"}),
    ("lines", {"max_lines": 3}, {"a": "1\n2\n3\n4\n"}, {"a": "1\n2\n3\n"}),
    ("lines", {"max_lines": 3, "exempt": {"secret": ["x"]}}, {"a": "1\n" * 4}, {"a.lock": "1\n" * 4}),
    ("lines", {"max_lines": 3, "exempt": {"lines": ["a"]}}, {"a.lock": "1\n" * 4}, {"a": "1\n" * 4}),
    ("files", {"max_files": 1}, {"a": "1\n", "b": "1\n"}, {"a": "1\n"}),
    ("size", {"max_file_kb": 1}, {"a": "x" * 1_025}, {"a": "x" * 1_024}),
    ("binary", {}, {"a.bin": b"\0\1"}, {"a.png": b"\0\1"}),
    ("binary", {"binaries": ["*.bin"]}, {"a.png": b"\0\1"}, {"a.bin": b"\0\1"}),
    ("secret", {}, {"a.py": f"token = '{TOKEN}'\n"}, {"a.py": "token = os.environ['TOKEN']\n"}),
    ("secret", {}, {"a.pem": f"{KEY}\n"}, {"a.pem": "-----BEGIN CERTIFICATE-----\n"}),
    ("secret", {}, {"src/app.py": f"new = '{TOKEN}'\n"}, {"src/app.py": f"more = 1\nold = '{TOKEN}'\n"}),
    ("secret", {"exempt": {"secret": ["tests/"]}}, {"a": TOKEN}, {"tests/a": TOKEN}),
    ("secret", {"secret_pragma": "allow"}, {"a": TOKEN}, {"a": f"{TOKEN}  # pragma: allowlist secret"}),
    ("markers", {}, {"a": MARKED}, {"a.rst": "Title\n=======\n>>>>>>> quoted\n"}),
    ("case", {}, {"readme.MD": "1\n"}, {"READ.me": "1\n"}),
    ("case", {}, {"SRC/other.py": "1\n"}, {"twin/c": "1\n"}),
    ("protected", {}, {".github/workflows/x.yml": "1\n"}, {".github/README": "1\n"}),
    ("protected", {}, {"swarm.toml": "1\n"}, {"docs/swarm.toml": "1\n"}),
    ("protected", {"off": ["protected"]}, {"mergewright.toml": "1\n"}, {"Jenkinsfile": "1\n"}),
    ("protected", {"off": ["protected"]}, {".worktreeinclude": "1\n"}, {"sub/.worktreeinclude": "1\n"}),
    ("hook", {}, {".husky/pre-commit": "1\n"}, {"husky/pre-commit": "1\n"}),
]


@pytest.mark.parametrize(("rule", "policy", "bad", "good"), CASES)
def test_a_rule_for_files(repo: Path, rule: PolicyRule, policy: dict[str, Any], bad: Files, good: Files) -> None:
    [finding] = look(repo, made(repo, bad), **policy)
    assert (finding.rule, finding.severity) == (rule, RULES[rule].severity)
    assert look(repo, made(repo, good), **policy) == []


def test_every_rule_can_be_left_to_a_person_or_switched_off(repo: Path) -> None:
    many: dict[str, bytes | str | None] = {}
    for _, policy, bad, _ in CASES:
        many |= {} if "off" in policy else bad
    head = made(repo, many | {"large": "x\n" * 600})
    policy = {"allow": ["x"], "deny": ["*"], "max_lines": 1, "max_files": 1, "max_file_kb": 1, "subject": "^fix"}
    policy |= {"authors": ["x@y"], "max_subject": 1}
    found = look(repo, head, **policy)
    assert {one.rule for one in found} == RULES.keys() - {"author", "date", "submodule", "link", "plan"}
    assert [one.severity for one in found] == sorted((one.severity for one in found), reverse=True)
    left = look(repo, head, **policy, approve=list(RULES))
    assert {one.severity for one in left} == {"approve"}
    assert len(left) == len(found)
    assert look(repo, head, **policy, off=list(RULES)) == []


def committed(repo: Path, env: Mapping[str, str], message: str = "more") -> str:
    """A commit with such an environment, beside main."""
    done = run_git(repo, "commit-tree", "-p", "main", "-m", message, "main^{tree}", env=env)
    return done.stdout.decode().strip()


COMMITS: list[tuple[PolicyRule, dict[str, Any], dict[str, str], str, dict[str, str], str]] = [
    ("author", {"authors": ["*@b.org"]}, {"GIT_AUTHOR_EMAIL": "eve@c.org"}, "x", {"GIT_AUTHOR_EMAIL": "A@B.org"}, "x"),
    ("author", {"authors": ["*@b.org"]}, {"GIT_COMMITTER_EMAIL": "eve@c.org"}, "x", {}, "x"),
    ("date", {}, FUTURE, "x", {}, "x"),
    ("message", {"subject": "^(feat|fix): "}, {}, "did it", {}, "fix: it\n\nwhy"),
    ("message", {"max_subject": 5}, {}, "123456", {}, "12345\n\nand more"),
]


@pytest.mark.parametrize(("rule", "policy", "bad_env", "bad", "good_env", "good"), COMMITS)
def test_a_rule_for_commits(
    repo: Path,
    rule: PolicyRule,
    policy: dict[str, Any],
    bad_env: dict[str, str],
    bad: str,
    good_env: dict[str, str],
    good: str,
) -> None:
    head = committed(repo, bad_env, bad)
    [finding] = look(repo, head, **policy)
    assert (finding.rule, finding.severity, finding.path) == (rule, "mend", "")
    assert head[:10] in finding.text
    assert look(repo, committed(repo, good_env, good), **policy) == []
    assert look(repo, head, "squash", **policy) == []  # it does not land


@pytest.mark.parametrize(
    ("link", "out"),
    [("/etc/passwd", True), ("../../x", True), ("../x", False), ("x/y", False), ("maybe-a-link/../y", True)],
)
def test_a_link_out_of_the_tree_waits_for_a_person(repo: Path, link: str, out: bool) -> None:
    found = look(repo, made(repo, {"ci/link": link}, mode="120000"))
    assert [(one.rule, one.severity, one.path) for one in found] == ([("link", "approve", "ci/link")] if out else [])


@pytest.mark.parametrize("rule", ["deny", "hook"])
def test_a_link_in_the_place_of_a_folder_is_that_folder(repo: Path, rule: PolicyRule) -> None:
    head = made(repo, {".husky": "src", "husky": "src"}, mode="120000")
    policy = {"deny": [".husky/"], "off": ["hook"]} if rule == "deny" else {}
    assert [(one.rule, one.path) for one in look(repo, head, **policy)] == [(rule, ".husky")]


def test_a_submodule_that_moves_waits_for_a_person(repo: Path) -> None:
    head = made(repo, {"ci/lib": "a" * 40}, mode="160000")
    assert told(look(repo, head)) == ["submodule: ci/lib: submodule moves from nothing to aaaaaaaaaa"]
    assert for_leave(look(repo, head)) == ["ci/lib (submodule)"]
    moved = made(repo, {"ci/lib": "b" * 40}, head, mode="160000")
    assert told(look(repo, moved, base=head)) == ["submodule: ci/lib: submodule moves from aaaaaaaaaa to bbbbbbbbbb"]


def test_a_secret_that_is_only_in_the_history_would_land_too(repo: Path) -> None:
    first = made(repo, {"a.py": f"x = 1\ntoken = '{TOKEN}'\n"})
    head = made(repo, {"a.py": "x = 1\n"}, base=first)
    [finding] = look(repo, head)
    assert finding.told().startswith(f"secret: a.py:2: GitHub Token in commit {first[:10]}, fingerprint ")
    assert "git merge-base HEAD origin/main" in finding.remedy
    assert look(repo, head, "squash") == []


@pytest.mark.parametrize(("rule", "content"), [("size", "x" * 2_000), ("binary", b"\0")])
def test_what_is_only_in_the_history_stays_there(repo: Path, rule: PolicyRule, content: bytes | str) -> None:
    first = made(repo, {"a": content, "b.png": b"\0", "ci/run": "x" * 1_000})
    head = made(repo, {"a": "1\n", "b.png": None, "ci/run": None}, base=first)
    last = made(repo, {"ci/run": "true\n"}, base=head)  # as it was before
    [finding] = look(repo, last, max_file_kb=1)
    assert (finding.rule, finding.severity, finding.path) == (rule, "mend", "a")
    assert f" in commit {first[:10]}" in finding.text
    assert "git merge-base HEAD origin/main" in finding.remedy
    assert look(repo, last, "squash", max_file_kb=1) == look(repo, last, max_file_kb=1, off=[rule]) == []
    assert look(repo, last, max_file_kb=1, exempt={rule: ["a"]}) == []


def test_a_large_binary_file_of_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "SMALL_BYTES", 100)
    repo = make_repo(tmp_path / "repo")
    head = made(repo, {"a": None}, base=made(repo, {"a": b"\0" * 2_000_000, "b": "x\n" * 99}))
    head = made(repo, {"b": None}, base=head)
    assert [(one.rule, one.path) for one in look(repo, head, max_file_kb=9_000)] == [("binary", "a")]


def test_a_secret_in_a_message_would_land_too(repo: Path) -> None:
    first = committed(repo, {}, f"more\n\nwith {TOKEN}")
    head = made(repo, {"a": "1\n"}, base=first)
    [finding] = look(repo, head)
    assert finding.told().startswith(f"secret: GitHub Token in the message of commit {first[:10]}, fingerprint ")
    assert TOKEN not in finding.model_dump_json()
    assert look(repo, head, not_secret=[finding.text.split()[-1]]) == []
    assert look(repo, head, off=["secret"]) == []
    assert look(repo, head, "squash") == []  # of the commits that are squashed their subjects are told
    assert [one.rule for one in look(repo, committed(repo, {}, f"use {TOKEN}"), "squash")] == ["secret"]


WIDE = "\ufeff" + "x = 1\r\n" * 3
BINARY: list[tuple[bytes, bytes]] = [
    (b"\0\1\2" * 3_000 + TOKEN.encode(), b"\0\1\2" * 3_000 + b"ghp_"),
    (b"\0ELF" + KEY.encode() + b"\0", b"\0ELF-----BEGIN CERTIFICATE-----\0"),
    ((WIDE + TOKEN).encode("utf-16-le"), WIDE.encode("utf-16-le")),
]


@pytest.mark.parametrize(("bad", "good"), BINARY)
def test_a_secret_in_a_binary_file(tmp_path: Path, bad: bytes, good: bytes) -> None:
    repo = make_repo(tmp_path / "repo", {"old.bin": bad})
    for number, content in enumerate((bad, good, bad + b"\0more")):
        (repo / "old.bin").write_bytes(bad)
        git(repo, "checkout", "-qB", f"b{number}", "main")
        commit(repo, {"new.bin": content} if number < 2 else {"old.bin": content})
    found = [look(repo, f"b{number}", binaries=["*.bin"]) for number in range(3)]
    assert [[(one.rule, one.path) for one in some] for some in found] == [[("secret", "new.bin")], [], []]


def test_a_large_file_is_looked_through_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("SMALL_BYTES", 2_000), ("LARGE_BYTES", 3_000_000)):
        monkeypatch.setattr(contents, name, number)
    lines = ["x" * 99] * 11_000
    old = [*lines, TOKEN]
    repo = make_repo(tmp_path / "repo", {"old.txt": "\n".join(old)})
    lines[10_500] = f"key = '{TOKEN}'"
    long = "x" * (2**20 - 20) + TOKEN + "x" * 5_000
    head = made(repo, {"a.txt": "\n".join(lines), "b.txt": long, "old.txt": "\n".join([*old, "more"])})
    found = look(repo, head, max_file_kb=10_000, max_lines=100_000)
    assert [(one.rule, one.severity, one.path, one.line) for one in found] == [
        ("secret", "mend", "a.txt", 10_501),
        ("secret", "mend", "b.txt", 1),
        ("secret", "approve", "old.txt", 0),
    ]
    assert "too large to be looked through" in found[-1].text
    assert look(repo, made(repo, {"old.txt": "\n".join([*old, "more"])}), max_file_kb=10_000, max_lines=100_000) == []


def test_what_a_merge_brings_from_the_target_is_not_looked_at(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo", {"a": "1\n"})
    head = made(repo, {"b": "1\n"})
    commit(repo, {"c": f"{TOKEN}\n", ".husky/x": "1\n", "d.bin": b"\0"})
    for slipped_in, found in (({}, []), ({"c": f"{TOKEN}\nmore\nx{TOKEN}\n"}, [("c", 3)])):
        git(repo, "checkout", "-q", "--detach", head)
        git(repo, "merge", "-q", "--no-commit", "main")
        merged = commit(repo, slipped_in)
        last = made(repo, {"c": f"{TOKEN}\n"}, merged)
        assert [(one.path, one.line) for one in look(repo, last)] == found


def test_a_twin_of_what_has_landed_meanwhile(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo", {"a": "1\n", "Old.md": "1\n"})
    head = made(repo, {"docs/new.md": "1\n", "old.md": "1\n", "Old.md": None})
    commit(repo, {"docs/New.md": "1\n"})
    assert told(look(repo, head)) == ["case: docs/new.md: differs only in case from docs/New.md"]


def test_a_file_that_was_too_large_before_may_change(repo: Path) -> None:
    large = made(repo, {"a": "x" * 3_000})
    assert look(repo, made(repo, {"a": "y" * 4_000}, large), base=large, max_file_kb=2) == []
    assert [one.rule for one in look(repo, large, max_file_kb=2)] == ["size"]


def test_a_moved_file_brings_no_new_secret(repo: Path) -> None:
    assert look(repo, made(repo, {"src/app.py": None, "src/moved.py": f"old = '{TOKEN}'\n"})) == []


def test_a_secret_is_never_shown_and_can_be_let_through(repo: Path) -> None:
    head = made(repo, {"a.py": f"token = '{TOKEN}'\n"})
    [finding] = look(repo, head)
    assert TOKEN not in finding.model_dump_json()
    fingerprint = finding.text.split()[-1]
    assert look(repo, head, not_secret=[fingerprint]) == []
    [claimed] = look(repo, made(repo, {"a.py": f"token = '{TOKEN}'  # pragma: allowlist secret\n"}))
    assert (claimed.severity, for_leave([claimed])) == ("approve", ["a.py (secret)"])
    first = made(repo, {"a.py": f"token = '{TOKEN}'\n"})
    later = made(repo, {"a.py": f"token = '{TOKEN}'  # pragma: allowlist secret\n"}, first)
    assert [one.severity for one in look(repo, later)] == ["approve"]  # it says so of the earlier commit too
    before = f"# pragma: allowlist nextline secret\ntoken = '{TOKEN}'\n"
    assert [one.severity for one in look(repo, made(repo, {"a.py": before}))] == ["approve"]


TOKENS = {
    "AWS Access Key": "AKIA" + "QWERTYUIOP123456",
    "Anthropic API Key": "sk-ant-" + "api03-" + "aB3_" * 20,
    "GitHub Token": "github_pat_" + "aB3d" * 5 + "xy_" + "aB3d" * 14 + "xyz",
    "GitLab Token": "glpat-" + "aB3d" * 6,
    "Google API Key": "AIza" + "aB3-" * 8 + "xyz",
    "Slack Token": "xoxb-" + "123456789012-123456789012-aB3dE",
    "Stripe Access Key": "sk_live_" + "aB3d" * 6,
}


@pytest.mark.parametrize(("kind", "token"), TOKENS.items())
def test_a_token_is_known_by_its_form(kind: str, token: str) -> None:
    lines = ["import os", f'"key": "{token}",', "", f'"key": "{token[::-1]}"']
    [one] = scan("a.json", lines, range(4), DETECTORS)
    assert (one.kind, one.line) == (kind, 2)
    [other] = scan("a.json", [token.replace("B", "C").replace("W", "X").replace("E", "F")], [0], DETECTORS)
    assert other.fingerprint != one.fingerprint


@pytest.mark.parametrize("place", [0, WINDOW - 20, WINDOW - OVERLAP, 3 * WINDOW])
def test_a_secret_in_a_long_line(place: int) -> None:
    line = " " * place + TOKEN + " " * WINDOW
    assert [one.kind for one in scan("a", [line], [0], DETECTORS)] == ["GitHub Token"]


def test_a_placeholder_is_no_secret() -> None:
    key = "AKIA" + "IOSFODNN7EXAMPLE"
    assert list(scan("a", [f"key = {key}"], [0], DETECTORS)) == []


EVIL = "we`ird\n\x1b[31m|~~~\u202e.bin"


def test_a_path_is_shown_escaped(repo: Path) -> None:
    found = look(repo, made(repo, {EVIL: b"\0", "b.bin": b"\0"}))
    shown = visible(EVIL)
    assert shown == "we`ird\\n\\x1b[31m|~~~\\u202e.bin"
    assert [one.path for one in found] == ["b.bin", shown]
    [line] = [line for line in table(found).splitlines() if "ird" in line]
    assert line == "| binary | we\\`ird\\n\\x1b[31m\\|~~~\\u202e.bin | binary file of 1 bytes |"
    assert all("\n" not in one and "\x1b" not in one for one in refusals(found))


@given(st.lists(st.text(max_size=300), max_size=60))
def test_the_table_is_whole_lines_and_fits_into_a_prompt(paths: list[str]) -> None:
    rules = Rules(Policy(), [], "main")
    made: list[Callable[[str], Finding]] = [
        lambda path: rules.finding("binary", path, path),
        lambda path: rules.finding("secret", "x", path, 3),
    ]
    text = table([made[number % 2](path) for number, path in enumerate(paths)])
    assert len(text.encode()) <= TABLE_BYTES
    rows = [line for line in text.splitlines() if line.startswith("| binary |") or line.startswith("| secret |")]
    more = [int(line.split()[1]) for line in text.splitlines() if line.startswith("and ")]
    assert len(rows) + sum(more) == len(paths)


names = st.text("aAbB", min_size=1, max_size=3)


@given(st.sets(st.lists(names, min_size=1, max_size=3).map("/".join)), st.data())
def test_twins_are_what_a_file_system_without_case_would_merge(there: set[str], data: st.DataObject) -> None:
    new = {path for path in there if data.draw(st.booleans())}
    found = twins(there, new)
    assert all(name.lower() == other.lower() and name != other for name, other in found)
    assert twins(there, set()) == []
    files = {name for name, _ in found}
    for path in new:
        if any(path.lower() == other.lower() and path != other for other in there):
            prefixes = {"/".join(path.split("/")[:count]) for count in range(1, path.count("/") + 2)}
            assert prefixes & files or any(other.startswith(f"{path}/") for other in there - new)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[policy]\nmax_lines = 0", "policy.max_lines: Input should be greater than or equal to 1"),
        ("[policy]\ncolour = 1", "policy.colour: unknown field"),
        ("[policy]\noff = ['colour']", "policy.off.0: Input should be 'deny'"),
        ("[policy]\nsubject = '('", "policy.subject: is no regular expression: "),
        ("[policy]\ndetectors = ['X']", "policy.detectors: there is no 'X' in detect-secrets, but AWSKeyDetector, "),
        ("policy = 3", "policy: must be a table, [policy]"),
    ],
)
def test_a_wrong_policy_is_told_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ApplicationError) as refused:
        policy_settings(text.encode())
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_rules_are_those_of_the_target(tmp_path: Path) -> None:
    repo = make_repo(tmp_path / "repo", {"mergewright.toml": "[policy]\ndeny = ['x']\n[queue]\nprotected = ['ci/']\n"})
    head = made(repo, {"mergewright.toml": "[policy]\noff = ['deny']\n", "x": "1\n", "ci/run": "1\n"})
    repository: Repository = open_repository(str(repo))
    rules = rules_on(repository, "refs/heads/main", repository.tip("main"))
    found = preflight(repository, repository.tip("main"), head, "merge", rules)
    assert [(one.rule, one.path) for one in found] == [
        ("deny", "x"),
        ("protected", "ci/run"),
        ("protected", "mergewright.toml"),
    ]


def test_every_rule_has_its_words() -> None:
    assert list(RULES) == list(get_args(PolicyRule))


def test_the_example_in_the_readme_is_a_policy() -> None:
    [example] = re.findall(r"```toml\n(\[policy\]\n.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    policy = policy_settings(example.encode())
    assert policy.exempt["secret"] == ["tests/keys/"]
    assert {"max_lines", "subject", "not_secret"} <= policy.model_fields_set


def test_what_lands_counts_where_the_target_has_renamed_a_file(repo: Path) -> None:
    workflow = ".github/workflows/x.yml"
    files = {"plain": "a\nb\nc\n"}
    old = made(repo, files)
    moved = made(repo, {"plain": None, workflow: files["plain"]}, base=old)
    head = made(repo, {"plain": "a\nb\nc\nevil\n"}, base=old)
    assert [(one.rule, one.path) for one in look(repo, head, base=moved)] == [("protected", workflow)]


def test_what_lands_counts_where_a_merge_undoes_what_the_target_took(repo: Path) -> None:
    files = [f".github/workflows/{name}.yml" for name in "ab"]
    sides = [made(repo, {file: "true\n"}) for file in files]
    parents = ("-p", sides[0], "-p", sides[1])
    all_of_it = made(repo, dict.fromkeys(files, "true\n"))
    both = git(repo, "commit-tree", f"{all_of_it}^{{tree}}", *parents, "-m", "both")
    none = git(repo, "commit-tree", "main^{tree}", *parents, "-m", "none")
    assert [one.path for one in look(repo, none, base=both)] == files


def test_two_paths_are_never_one(repo: Path) -> None:
    blobs = [git(repo, "hash-object", "-w", "--stdin", stdin=content) for content in (b"\0binary", b"text\n")]
    names = (rb"\xff", b"\xff")
    entries = [b"100644 blob %s\t%s\0" % (sha.encode(), name) for sha, name in zip(blobs, names, strict=True)]
    head = git(repo, "commit-tree", git(repo, "mktree", "-z", stdin=b"".join(entries)), "-p", "main", "-m", "more")
    assert [one.path for one in look(repo, head) if one.rule == "binary"] == [r"\xff"]
