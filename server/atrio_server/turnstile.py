"""How much all connections together write in one round of the event loop.

One event may be a megabyte and have a thousand readers, whose writers all wake
at once: nobody else would be served until the last of them has written. So who
has much to write passes here first. What does not fit into this round waits for
the next one, first come first served, and everybody else has a turn between.

Bytes are counted when they are let through; what the peer takes, and when, is
no concern of this. The invariant: whoever waits is let through, a round later
for each `ROUND_BYTES` before it.
"""

from collections import deque
from typing import Final

import trio

__all__ = ["LARGE_BYTES", "ROUND_BYTES", "Turnstile"]

ROUND_BYTES: Final = 2 * 1024 * 1024
"""So much is written in a round, some milliseconds' worth, and as much more as the last write takes."""

LARGE_BYTES: Final = 16 * 1024
"""Smaller writes need not come here."""


class _Waiter:
    """Somebody in the line."""

    __slots__ = ("gone", "size", "turn")

    def __init__(self, size: int) -> None:
        self.size = size
        self.turn = trio.Event()
        self.gone = False


class Turnstile:
    """Shared by all connections of a server."""

    def __init__(self, *, round_bytes: int = ROUND_BYTES) -> None:
        self._round_bytes = round_bytes
        self._left = round_bytes
        self._line: deque[_Waiter] = deque()
        self._counting = False

    async def enter(self, size: int) -> None:
        """Wait until so much may be written, which is to be done in the step in which this returns."""
        if not self._line and self._left > 0:
            self._left -= size
            self._count_anew_soon()
            return
        waiter = _Waiter(size)
        self._line.append(waiter)
        self._count_anew_soon()
        try:
            await waiter.turn.wait()
        except trio.Cancelled:
            waiter.gone = True
            raise

    def _count_anew_soon(self) -> None:
        if not self._counting:
            self._counting = True
            trio.lowlevel.current_trio_token().run_sync_soon(self._begin_round)

    def _begin_round(self) -> None:
        """Let those through who fit. Trio calls this when it has served everybody else."""
        self._counting = False
        self._left = self._round_bytes
        while self._line and self._left > 0:
            waiter = self._line.popleft()
            if not waiter.gone:
                self._left -= waiter.size
                waiter.turn.set()
        if self._line:
            self._count_anew_soon()
