"""Lands in a process of its own that kills itself with SIGKILL just before a certain step that has an effect.

Run as `python -m tests.git.crash`. A line of JSON in, {"repo", "folder", "landing", "step"}: the number of the step,
or a word that is in it. A line out: {"steps": n} when it came to its end in n steps, {"killed":
what, "step": n} when it did not.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from activities.git.landing import land
from activities.git.repository import open_repository
from activities.queue_contracts import LandInput

_EFFECTS = {"open", "os.rename", "os.remove", "os.symlink", "os.rmdir", "shutil.copyfile", "subprocess.Popen"}
_ASIDE = re.compile(rf"'(?:/dev/null|{re.escape(tempfile.gettempdir())}/)")
_DIED = 99


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.close(read)
            _land(asked, write)
        os.close(write)
        with os.fdopen(read) as said:
            steps = said.read().split("\n")[:-1]
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        assert killed or os.waitstatus_to_exitcode(status) == 0, steps
        answer = {"killed": steps[-1], "step": len(steps) - 1} if killed else {"steps": len(steps)}
        print(json.dumps(answer), flush=True)


def _land(asked: dict[str, Any], write: int) -> None:
    count = 0

    def step(event: str, args: tuple[object, ...]) -> None:
        nonlocal count
        if event not in _EFFECTS:
            return
        what = str(args[:2])
        if event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        if event != "subprocess.Popen" and ("'/" not in what or _ASIDE.search(what)):
            return
        os.write(write, f"{event} {what.rpartition('--no-pager')[2]}".replace("\n", " ").encode() + b"\n")
        if asked["step"] == count or (isinstance(asked["step"], str) and asked["step"] in what):
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    status = _DIED
    with contextlib.suppress(Exception):
        given = LandInput.model_validate(asked["landing"])
        repository = open_repository(asked["repo"])
        sys.addaudithook(step)
        land(repository, given, Path(asked["folder"]))
        status = 0
    os._exit(status)


if __name__ == "__main__":
    main()
