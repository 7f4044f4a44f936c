"""How long to wait before the next try to reach a server.

Pure arithmetic: no clock, no I/O. Each delay is drawn from the upper half of a
range that doubles up to `LONGEST_S`, so that the clients of a server that comes
back do not all knock in the same instant. The first try follows at once.
"""

import random
from collections.abc import Iterator
from typing import Final

__all__ = ["LONGEST_S", "delays_s"]

SHORTEST_S: Final = 0.1

LONGEST_S: Final = 3.0
"""No delay is longer than this, in seconds."""


def delays_s(rng: random.Random) -> Iterator[float]:
    """Yield the delay before each further try, in seconds, without end."""
    yield rng.uniform(0, SHORTEST_S / 2)
    range_s = SHORTEST_S
    while True:
        yield rng.uniform(range_s / 2, range_s)
        range_s = min(range_s * 2, LONGEST_S)
