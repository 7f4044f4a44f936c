"""Says now and then how far a long test has come, where pytest does not keep it to itself (`-s`).

A test at full length takes minutes or an hour, and nobody should have to wonder
whether it still goes on. In the short mode nothing is said.
"""

import os
import time

__all__ = ["Progress"]

EVERY_S = 10


class Progress:
    """How far one test has come."""

    def __init__(self, what: str, count: int, *, is_long: bool) -> None:
        self._what = what
        self._count = count
        self._next_at = time.monotonic() + EVERY_S if is_long else float("inf")

    def at(self, done: int, more: str = "") -> None:
        """Say so, if it is time to."""
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + EVERY_S
            os.write(2, f"{self._what}: {done} of {self._count} {more}\n".encode())
