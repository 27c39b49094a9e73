"""An agent without a model that does whatever cards it is told: argv of a `command` runtime, with a file of settings.

    plan      lists of cards: the n-th planner's turn writes the n-th, later ones nothing
    claims    how many tasks it claims at once
    sleep     seconds of each turn
    odds      {"fail": 0.1, "silent": 0.1, "limited": 0.1}: troubles, by the dice of `seed` and the count of turns
    reject    ids whose first review asks for changes

A turn that is killed is not counted.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
from pathlib import Path
from typing import Any

DONE = "COMPLETE_AND_READY_FOR_MERGE"
CARD = re.compile(r"^## ([A-Za-z0-9][\w.-]*): ", re.MULTILINE)
LISTED = re.compile(r"^- ([\w.-]+): ", re.MULTILINE)


def main(file: Path) -> int:
    prompt = sys.stdin.read()
    settings: dict[str, Any] = json.loads(file.read_text())
    time.sleep(settings.get("sleep", 0))
    counter = file.with_suffix(f".{os.getpid()}.turn")
    turn = len(list(file.parent.glob(f"{file.stem}.*.turn")))
    told = file.with_suffix(f".{Path.cwd().name}.cards")  # a session remembers
    with told.open("a") as memory:
        memory.writelines(f"{name}\n" for name in CARD.findall(prompt))
    code, said = act(prompt, settings, turn, list(dict.fromkeys(told.read_text().split())))
    counter.touch()
    print(said)
    return code


def act(prompt: str, settings: dict[str, Any], turn: int, cards: list[str]) -> tuple[int, str]:
    if os.environ["MERGEWRIGHT_ROLE"] == "reviewer":
        sent_back = any(
            f"+once {name}" in prompt and f"+again {name}" not in prompt for name in settings.get("reject", [])
        )
        return 0, f"VERDICT: {'NEEDS_CHANGES' if sent_back else 'APPROVED'}"
    if "You plan for a swarm" in prompt:
        return 0, plan(settings)
    trouble = troubled(settings, turn)
    if trouble is not None:
        return trouble
    if not cards:
        newest = prompt.rpartition("Left to claim")[2] if "Nothing else is left" not in prompt else ""
        listed = LISTED.findall(newest)[: settings.get("claims", 1)]
        return 0, f"CLAIM({', '.join(listed)})" if listed else "NOTHING_TO_CLAIM the board has nothing"
    for name in cards:
        made = Path("done") / f"{name}.txt"
        made.parent.mkdir(exist_ok=True)
        made.write_text((made.read_text() + f"again {name}\n") if made.exists() else f"once {name}\n")
    return 0, DONE


def troubled(settings: dict[str, Any], turn: int) -> tuple[int, str] | None:
    odds, dice = settings.get("odds", {}), random.Random(f"{settings.get('seed', 0)}/{turn}").random()
    for name, chance in odds.items():
        dice -= chance
        if dice < 0:
            if name == "limited":
                print("retry-after: 1", file=sys.stderr)
            return {"fail": (1, ""), "silent": (0, "I am thinking."), "limited": (75, "")}[name]
    return None


def plan(settings: dict[str, Any]) -> str:
    plans = settings.get("plan", [])
    done = Path(settings["memory"]) if "memory" in settings else None
    number = len(done.read_bytes()) if done and done.exists() else 0
    for card in plans[number] if number < len(plans) else []:
        path = Path("tasks/pending") / f"{card['id']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(card))
    if done:
        with done.open("ab") as counted:
            counted.write(b".")
    return DONE


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
