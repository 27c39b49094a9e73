"""Writes the tables of runtimes.md and failures.md that are made from the code: `make docs`; a test sees to it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from activities.agents import RUNTIMES  # noqa: E402
from activities.faults import agent, policy, project  # noqa: E402
from activities.settings import AgentSpec  # noqa: E402


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


def abilities() -> str:
    rows = {
        "session id": [runtime.abilities.session for runtime in RUNTIMES.values()],
        "stops at `max_turns`": ["yes" if runtime.abilities.max_turns else "no" for runtime in RUNTIMES.values()],
        "stops at money by itself": ["yes" if runtime.abilities.budget else "no" for runtime in RUNTIMES.values()],
        "use is seen while it works in": [runtime.abilities.live for runtime in RUNTIMES.values()],
        "cost": [runtime.abilities.cost for runtime in RUNTIMES.values()],
        "standing instructions": [runtime.abilities.system for runtime in RUNTIMES.values()],
        "`reasoning`": ["yes" if runtime.abilities.reasoning else "no" for runtime in RUNTIMES.values()],
        "has our tools": ["yes" if runtime.takes_tools(AgentSpec(), {}) else "no" for runtime in RUNTIMES.values()],
        "API key goes into": [f"`{runtime.key}`" if runtime.key else "" for runtime in RUNTIMES.values()],
        "taken away for a subscription": [
            ", ".join(f"`{name}`" for name in runtime.outranking) for runtime in RUNTIMES.values()
        ],
    }
    return table(["", *RUNTIMES], ([title, *cells] for title, cells in rows.items()))


def agent_faults() -> str:
    rows = ([row.name, f"`{row.end}`", ", ".join(map(str, row.statuses)), row.done] for row in agent.FAULTS)
    return table(["fault", "the turn ends as", "HTTP status", "what is done"], rows)


def project_faults() -> str:
    rows = ([row.name, "a person" if row.hard else "the agent", row.hint] for row in project.FAULTS)
    return table(["class of failure", "who must act", "what is said"], rows)


def policy_rules() -> str:
    who = {"mend": "the agent", "approve": "an operator"}
    rows = ([f"`{name}`", row.what, who[row.severity], row.remedy] for name, row in policy.RULES.items())
    return table(["rule", "finds", "who must act", "what is said"], rows)


TABLES = {
    "runtimes.md": {"abilities": abilities},
    "failures.md": {"agent faults": agent_faults, "project faults": project_faults, "policy rules": policy_rules},
}


def written(name: str) -> str:
    """The document with its tables as the code has them now."""
    text = (HERE / name).read_text()
    for mark, made in TABLES[name].items():
        begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{name} has no place for the table {mark!r}")
        text = re.sub(f"{begin}.*?{end}", lambda _, b=begin, m=made, e=end: b + m() + e, text, flags=re.DOTALL)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    for document in TABLES:
        (HERE / document).write_text(written(document))
