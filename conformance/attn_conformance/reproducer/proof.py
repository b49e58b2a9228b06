"""Proof: a script is shown only if it was seen to fail on the target and to pass with the reference in its place."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

Execute = Callable[[str, list[str], float], int]
"""Runs a script by itself: its text, the arguments of its command line, a limit in seconds. Returns the exit status,
negative for a signal, TIMED_OUT for one that ran out of time."""

TIMED_OUT = -9

LIMIT = 60.0
"""Seconds that a script may take."""

MISHAP = 70
"""Exit status of a script under proof that ended in an exception, which shows nothing."""

GUARD = """import os, traceback
try:
    exec(compile({text!r}, "script.py", "exec"), {{"__name__": "__main__"}})
except Exception:
    traceback.print_exc()
    os._exit({mishap})
"""
"""A script under proof: it exits 1 by its own verdict, and otherwise by an exception that it did not expect."""


def execute_in_subprocess(text: str, argv: list[str], seconds: float = LIMIT) -> int:
    """Run a script in a fresh interpreter that imports from where this one does, and from the working directory."""
    places = [Path.cwd(), *(Path(place).absolute() for place in sys.path if place)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "script.py")
        path.write_text(text, encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, str(path), *argv],
                capture_output=True,
                check=False,
                env=environment,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            return TIMED_OUT
    return done.returncode


def proved(text: str, execute: Execute, *, deadly: str | None = None) -> bool:
    """Whether the script fails on the target, twice in a row, and passes with the reference in its place.

    deadly: "crash" where the target kills the process, so that a death by a signal is its failure.
    """
    guarded = GUARD.format(text=text, mishap=MISHAP)
    for _ in range(1 if deadly == "hang" else 2):
        status = execute(guarded, [], LIMIT)
        died = deadly == "crash" and status < 0 and status != TIMED_OUT
        if status != 1 and not died:
            return False
    return execute(guarded, ["reference"], LIMIT) == 0
