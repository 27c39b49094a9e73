"""What happened between two commits, for prompts and reports."""

from __future__ import annotations

from activities.git.repository import Repository


def subjects(repository: Repository, base: str, head: str, limit: int = 50) -> list[str]:
    """`<short sha> <subject>` of the newest commits of base..head, newest first."""
    with repository.git() as git:
        return git("log", f"--max-count={limit}", "--format=%h %s", f"{base}..{head}", "--").splitlines()
