"""An agent without a model that does whatever cards it is told: argv of a `command` runtime, with a file of settings.

    plan      lists of cards: the n-th planner's turn writes the n-th, later ones nothing
    claims    how many tasks it claims at once
    asks      ids that it claims at first, wherever they are
    sleep     seconds of each turn
    until     file that each turn waits for
    alone     folder that is there during a turn: it fails where another turn has made it
    usage     what each turn tells as used
    split     lists of cards by id: who has the card for the first time only adds these to the board
    odds      {"fail": 0.1, "silent": 0.1, "limited": 0.1, "stuck": 0.1}: troubles, by the dice of `seed` and the count
              of turns
    never     ids that it does not do, and says nothing of
    reject    ids whose first review asks for changes
    cost      dollars of each turn, and 100 tokens

A turn that is killed is not counted, unless it was stuck.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DONE = "COMPLETE_AND_READY_FOR_MERGE"
STUCK = "stuck"
CARD = re.compile(r"^## ([A-Za-z0-9][\w.-]*): ", re.MULTILINE)
LISTED = re.compile(r"^- ([\w.-]+): ", re.MULTILINE)


def main(file: Path) -> int:
    prompt = sys.stdin.read()
    settings: dict[str, Any] = json.loads(file.read_text())
    if "usage" in settings:
        print("usage:", json.dumps(settings["usage"]), file=sys.stderr, flush=True)
    with alone(settings.get("alone")):
        wait(settings)
    counter = file.with_suffix(f".{uuid.uuid4().hex}.turn")  # in its sandbox each turn has the same process id
    turn = len(list(file.parent.glob(f"{file.stem}.*.turn")))
    told = file.with_suffix(f".{Path.cwd().name}.cards")  # a session remembers
    with told.open("a") as memory:
        memory.writelines(f"{name}\n" for name in CARD.findall(prompt))
    code, said = act(prompt, settings, turn, list(dict.fromkeys(told.read_text().split())))
    counter.touch()
    if said == STUCK:
        time.sleep(600)
    if "cost" in settings:
        print(f"usage: {json.dumps({'cost_usd': settings['cost'], 'output_tokens': 100})}", file=sys.stderr)
    print(said)
    return code


@contextlib.contextmanager
def alone(folder: str | None) -> Iterator[None]:
    if folder:
        Path(folder).mkdir()
    yield
    if folder:
        Path(folder).rmdir()


def wait(settings: dict[str, Any]) -> None:
    time.sleep(settings.get("sleep", 0))
    while "until" in settings and not Path(settings["until"]).exists():
        time.sleep(0.1)


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
        if "asks" in settings and "Left to claim" not in prompt:
            return 0, f"CLAIM({', '.join(settings['asks'])})"
        newest = prompt.rpartition("Left to claim")[2] if "Nothing else is left" not in prompt else ""
        listed = LISTED.findall(newest)[: settings.get("claims", 1)]
        return 0, f"CLAIM({', '.join(listed)})" if listed else "NOTHING_TO_CLAIM the board has nothing"
    for name, parts in settings.get("split", {}).items():
        if name in cards and not Path("tasks/pending", f"{parts[0]['id']}.json").exists():
            add(parts)
            return 0, DONE
    if not set(cards).isdisjoint(settings.get("never", [])):
        return 0, "I am thinking."
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
            return {"fail": (1, ""), "silent": (0, "I am thinking."), "limited": (75, ""), "stuck": (0, STUCK)}[name]
    return None


def plan(settings: dict[str, Any]) -> str:
    plans = settings.get("plan", [])
    done = Path(settings["memory"]) if "memory" in settings else None
    number = len(done.read_bytes()) if done and done.exists() else 0
    add(plans[number] if number < len(plans) else [])
    if done:
        with done.open("ab") as counted:
            counted.write(b".")
    return DONE


def add(cards: list[dict[str, Any]]) -> None:
    """To the board."""
    for card in cards:
        path = Path("tasks/pending") / f"{card['id']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(card))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
