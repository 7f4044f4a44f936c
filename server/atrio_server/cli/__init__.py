"""The command line. Each command imports what it needs when it is called, so that all of them start at once."""

import gc
from collections.abc import Sequence
from typing import Final

__all__ = ["USUAL_THRESHOLD", "main"]

USUAL_THRESHOLD: Final = gc.get_threshold()
"""When the garbage collector runs by default, for what runs for long."""

START_THRESHOLD: Final = 50_000
"""Importing makes much and drops nothing: collecting while it goes on costs a tenth of a command's start."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. ``argv`` is without the program's name; None is the real one."""
    gc.set_threshold(START_THRESHOLD, *USUAL_THRESHOLD[1:])
    try:
        from atrio_server.cli.app import run_command

        return run_command(argv)
    finally:
        gc.set_threshold(*USUAL_THRESHOLD)
