"""What a task used so far: turns, tokens, money, seconds. The only place where they are added up."""

from __future__ import annotations

from dataclasses import dataclass, field

from activities.contracts import TurnResult, Usage
from activities.settings import AgentSpec, Role
from workflows.contracts import CostLine, Seconds, TurnRecord

_BUCKET: dict[Role, str] = {
    "planner": "agent",
    "executor": "agent",
    "reviewer": "review",
    "fixer": "fix",
    "resolver": "resolve",
    "compactor": "agent",
}


@dataclass
class Ledger:
    started: float = 0.0
    """Seconds since the epoch."""
    turns: list[TurnRecord] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    spent: dict[str, float] = field(default_factory=dict)

    def record(self, turn: int, role: Role, agent: AgentSpec, result: TurnResult, attempts: int, ended: float) -> None:
        self.turns.append(
            TurnRecord(
                turn=turn,
                role=role,
                agent=agent.label(),
                runtime=agent.runtime,
                model=result.model or agent.model or "",
                account=agent.account or "",
                end=result.end,
                verdict=result.verdict,
                usage=result.usage,
                seconds=result.seconds,
                attempts=attempts,
                ended=ended,
            )
        )
        self.usage += result.usage
        self.add(_BUCKET[role], result.seconds)
        self.add("waiting", result.waited_seconds)

    def add(self, bucket: str, seconds: float) -> None:
        self.spent[bucket] = self.spent.get(bucket, 0.0) + seconds

    @property
    def turn_count(self) -> int:
        """Turns in which an agent really worked: a refused one is none."""
        return sum(record.end not in ("limited", "credit", "login", "lost_session") for record in self.turns)

    @property
    def agent_seconds(self) -> float:
        return sum(record.seconds for record in self.turns)

    def costs(self) -> list[CostLine]:
        """By runtime and model, in the order of their first turns."""
        lines: dict[tuple[str, str], CostLine] = {}
        for turn in self.turns:
            key = turn.runtime, turn.model
            line = lines.get(key) or CostLine(
                runtime=turn.runtime, model=turn.model, turns=0, attempts=0, usage=Usage(), seconds=0.0
            )
            lines[key] = line.model_copy(
                update={
                    "turns": line.turns + 1,
                    "attempts": line.attempts + turn.attempts,
                    "usage": line.usage + turn.usage,
                    "seconds": round(line.seconds + turn.seconds, 3),
                }
            )
        return list(lines.values())

    def seconds(self, now: float) -> Seconds:
        total = now - self.started if self.started else 0.0
        own = max(total - sum(self.spent.values()), 0.0)
        return Seconds(
            **{name: round(value, 3) for name, value in self.spent.items()}, own=round(own, 3), total=round(total, 3)
        )
