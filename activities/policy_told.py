"""The policy of the target in words, for an agent before it begins: what is known needs no round to mend it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from activities.policy import Rules, visible
from activities.settings import PolicyRule, Strategy

MOST_NAMED = 20


def told(rules: Rules, strategy: Strategy) -> list[str]:
    """A line for each rule that the repository has set for itself; of the others an agent hears when it breaks one.

    Rules for single commits are not told where these do not land.
    """
    single = strategy != "squash"
    lines = [
        (field, rule, line)
        for field, rule, line in _lines(rules)
        if field in rules.policy.model_fields_set and rules.on(rule) and (single or rule not in ("author", "message"))
    ]
    return [visible(line + (_ASKED if rule in rules.policy.approve else "")) for _, rule, line in lines]


_ASKED = " Else it waits for a person."


def _lines(rules: Rules) -> Iterator[tuple[str, PolicyRule, str]]:
    """The setting, the rule that it is for, and what to say."""
    policy = rules.policy
    if policy.allow:
        yield "allow", "allow", f"Only these paths may change: {_named(policy.allow)}."
    if policy.deny:
        yield "deny", "deny", f"These paths must not change: {_named(policy.deny)}."
    yield "max_lines", "lines", f"At most {policy.max_lines} lines may be added and deleted in all."
    yield "max_files", "files", f"At most {policy.max_files} files may change."
    yield "max_file_kb", "size", f"No file may become larger than {policy.max_file_kb} KB."
    but = f" but {_named(policy.binaries)}" if policy.binaries else ""
    yield "binaries", "binary", f"No binary files{but}."
    if policy.hooks:
        yield "hooks", "hook", f"A change of these waits for a person: {_named(policy.hooks)}."
    if policy.authors:
        who = f"{_named(policy.authors)}, or by whom git is configured with here"
        yield "authors", "author", f"Commits are by one of {who}."
    if policy.subject:
        yield "subject", "message", f"Commit yourself: the first line of each message must match `{policy.subject}`."
    if policy.max_subject:
        yield (
            "max_subject",
            "message",
            f"The first line of a commit's message has at most {policy.max_subject} characters.",
        )


def _named(patterns: Sequence[str]) -> str:
    """They are as in .gitignore."""
    more = len(patterns) - MOST_NAMED
    named = ", ".join(f"`{pattern}`" for pattern in patterns[:MOST_NAMED])
    return f"{named} and {more} more (all are in mergewright.toml)" if more > 0 else named
