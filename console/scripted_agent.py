"""An agent without a model, for the demonstration and the tests: it does what a script says, turn by turn.

    python scripted_agent.py SCRIPT.json

is the argv of a `command` runtime. The script has a list of steps for each role; the n-th turn of a role does the n-th
step, and the last one again from then on. A step is an object, done in this order:

    usage     what is told as used, at once
    sleep     seconds
    fail      exit code, with `stderr` on standard error; nothing else is done
    write     {path: text}
    append    {path: text}
    delete    [path]
    shell     command
    resolve   true: keep both sides of every conflict in the tree
    commit    message
    say       the final text

A turn that is killed has not been: the next one does the same step.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CONFLICT = re.compile(r"^<{7} [^\n]*\n(.*?)^={7}\n(.*?)^>{7} [^\n]*\n", re.MULTILINE | re.DOTALL)


def main(script: Path) -> int:
    sys.stdin.read()
    role = os.environ["MERGEWRIGHT_ROLE"]
    steps: list[dict[str, Any]] = json.loads(script.read_text()).get(role) or [{}]
    counter = script.with_suffix(f".{role}.done")
    done = len(counter.read_bytes()) if counter.exists() else 0
    step = steps[min(done, len(steps) - 1)]
    code = perform(step)
    with counter.open("ab") as file:
        file.write(b".")
    return code


def perform(step: dict[str, Any]) -> int:
    if "usage" in step:
        print("usage:", json.dumps(step["usage"]), file=sys.stderr, flush=True)
    time.sleep(step.get("sleep", 0))
    if "fail" in step:
        print(step.get("stderr", ""), file=sys.stderr)
        return int(step["fail"])
    for mode, texts in (("w", step.get("write", {})), ("a", step.get("append", {}))):
        for name, text in texts.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            with Path(name).open(mode) as file:
                file.write(text)
    for name in step.get("delete", []):
        Path(name).unlink(missing_ok=True)
    if "shell" in step:
        subprocess.run(step["shell"], shell=True, check=True, stdout=sys.stderr)
    if step.get("resolve"):
        keep_both_sides()
    if "commit" in step:
        subprocess.run(["git", "add", "-A"], check=True)
        subprocess.run(["git", "commit", "-q", "-m", step["commit"]], check=True)
    print(step.get("say", "COMPLETE_AND_READY_FOR_MERGE"))
    return 0


def keep_both_sides() -> None:
    listed = subprocess.run(["git", "diff", "--name-only", "--diff-filter=U", "-z"], capture_output=True, check=True)
    for name in filter(None, listed.stdout.split(b"\0")):
        path = Path(os.fsdecode(name))
        path.write_text(CONFLICT.sub(r"\1\2", path.read_text()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
