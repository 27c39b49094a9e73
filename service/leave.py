"""How a program of ours that has used the SDK ends."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def run_and_leave(main: Callable[[], object]) -> NoReturn:
    """Runs `main` and leaves with its exit code, past the interpreter's own end.

    The SDK's core has threads that Python does not know. While the interpreter takes itself apart, one that is just
    calling back aborts the process (temporalio/sdk-python issue 300), and a good exit code becomes SIGABRT. So nothing
    that must be done may be left to `atexit`.
    """
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads it any more
            code = code or 1
    os._exit(code)
