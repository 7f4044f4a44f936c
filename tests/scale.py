"""How much of a random test is done: a little on every run, far more by option.

A test takes the `scale` fixture, asks it how often to try and for its random
numbers, and says what it has done. `--long` turns the counts up, `--seed` makes
a run repeat itself; what was done, with the seed, is printed at the end. Nothing
here knows what is tried.
"""

import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["TRIED", "Scale"]

TRIED = "tried"
"""The property of a test's report under which a line of the book stands."""


@dataclass(frozen=True)
class Scale:
    """The scale of this run of the tests. ``note`` takes a property of the test's report."""

    seed: int
    is_long: bool
    note: Callable[[str, object], None]

    def count(self, short: int, long: int) -> int:
        """How often to try: the first on every run, the second with ``--long``."""
        return long if self.is_long else short

    def rng(self, *names: object) -> random.Random:
        """Random numbers for what is named so; the same for the same seed, whatever else was run before."""
        return random.Random(":".join(map(str, (self.seed, *names))))

    @contextmanager
    def trying(self, what: str, count: int) -> Generator[None]:
        """Write into the book that so much was tried, if the block ends well."""
        began = time.monotonic()
        yield
        self.note(TRIED, f"{count:>7,}  {time.monotonic() - began:>6.0f} s  {what}")
