"""What the policy of a repository may find in a change: one table of its rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from activities.settings import PolicyRule

Severity = Literal["mend", "approve"]


@dataclass(frozen=True)
class Rule:
    severity: Severity
    """Who must act, unless `[policy]` says otherwise: the agent, or an operator."""
    what: str
    remedy: str
    """`{target}` is the branch to land on."""


_REWRITE = "rewrite your commits (`git reset --soft $(git merge-base HEAD origin/{target})`, then commit again)"

RULES: dict[PolicyRule, Rule] = {
    "deny": Rule(
        "mend",
        "a path that `deny` names",
        "Take these files out of the change (`git checkout origin/{target} -- <path>`, or `git rm` a new one).",
    ),
    "allow": Rule(
        "mend",
        "a path that `allow` does not name",
        "Only some paths may change. Take these files out of the change, and do the task without them.",
    ),
    "plan": Rule(
        "mend",
        "a path that the approved plan does not name in its section Files",
        "Take these files out of the change (`git checkout origin/{target} -- <path>`, or `git rm` a new one). Where "
        "the task cannot be done without them, end with NEEDS_FOLLOWUP and say why: an operator may allow them.",
    ),
    "lines": Rule(
        "mend",
        "more than `max_lines` changed lines",
        "Take out what does not belong to the task: generated files, build output, reformatted code.",
    ),
    "files": Rule(
        "mend",
        "more than `max_files` changed files",
        "Take out what does not belong to the task: generated files, build output, dependencies.",
    ),
    "size": Rule(
        "mend",
        "a file that becomes larger than `max_file_kb`, in any commit that would land",
        f"Do not commit large files. Take them out, or make them smaller; and out of the history too: {_REWRITE}.",
    ),
    "binary": Rule(
        "mend",
        "a binary file that `binaries` does not name, in any commit that would land",
        "Do not commit binary files. Take them out, and have .gitignore name them if a tool makes them; and out of the "
        f"history too: {_REWRITE}.",
    ),
    "secret": Rule(
        "mend",
        "what looks like a key, a token or a private key: added in any commit that would land, or in its message",
        f"Take it out of the files and out of the history: {_REWRITE}. Have the program read it from its environment. "
        "What only looks like a secret: end its line with a comment `pragma: allowlist secret`, and a person decides.",
    ),
    "markers": Rule(
        "mend",
        "conflict markers",
        "Resolve each conflict so that both sides' intent is kept, and remove the markers.",
    ),
    "case": Rule(
        "mend",
        "a new path that differs from another only in upper and lower case",
        "Rename one of them: they are the same file on macOS and Windows.",
    ),
    "author": Rule(
        "mend",
        "a commit whose author or committer `authors` does not name",
        f"Use the name and mail that git is configured with here: {_REWRITE}.",
    ),
    "date": Rule(
        "mend",
        "a commit dated more than a day into the future",
        f"Do not set dates: {_REWRITE}.",
    ),
    "message": Rule(
        "mend",
        "a commit whose message does not match `subject`, or is longer than `max_subject`",
        f"Commit your work yourself, with a message as the policy wants it: {_REWRITE}.",
    ),
    "protected": Rule(
        "approve",
        "a path that `protected` in `[queue]` names, `mergewright.toml` or `.worktreeinclude`",
        "An operator looks at it: starter.py queue allow.",
    ),
    "hook": Rule(
        "approve",
        "a path that `hooks` names: it runs on the machines of others",
        "An operator looks at it: starter.py queue allow.",
    ),
    "submodule": Rule(
        "approve",
        "a submodule that is added, moved or removed",
        "An operator looks at it: starter.py queue allow.",
    ),
    "link": Rule(
        "approve",
        "a symbolic link that leaves the tree",
        "An operator looks at it: starter.py queue allow.",
    ),
}
