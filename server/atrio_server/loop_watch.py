"""How long the event loop is held, and by what.

Trio tells us at the beginning and the end of each round in which it runs tasks.
While a round lasts nobody is read from, written to or woken, so the length of a
round is exactly the stall that everybody feels. That costs two clock readings a
round and says how long, not where. Where is seen by a thread, which looks at the
loop's stack when a round has lasted too long: a task of the loop could not.

The thread is one of Trio's, with a limiter, and ends when told to. It changes
nothing; it waits on a lock, since there is no other loop to sleep in. What it
sees are places in the code, never values. One round gives one line of log, and
lines of one kind are limited.
"""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import PurePath
from types import FrameType
from typing import Final

import structlog
import trio

from atrio_server.figures import Histogram

__all__ = ["STALL_S", "LoopWatch"]

NOTABLE_S: Final = 0.01
"""Rounds shorter than this are counted, and that is all."""

STALL_S: Final = 0.25
"""A round of this length is a fault of ours, and said so."""

LOOK_S: Final = 0.05
"""How often the thread looks whether a round lasts too long."""

FRAMES_SHOWN: Final = 8

BOUNDS_S: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("atrio.loop")


class LoopWatch(trio.abc.Instrument):
    """Watches the loop that runs `serve`. ``rounds`` holds those of at least `NOTABLE_S`, by their length."""

    def __init__(self, *, stall_s: float = STALL_S) -> None:
        self.rounds = Histogram(BOUNDS_S)
        self.longest_s = 0.0
        self._stall_s = stall_s
        self._began: float | None = None  # when the present round began; None between two
        self._seen: tuple[float, str] | None = None  # a round that lasts too long, by its beginning, and its place
        self._over = threading.Event()
        self._looking = trio.CapacityLimiter(1)
        self._scope = trio.CancelScope()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until closed or cancelled."""
        loop = threading.get_ident()
        trio.lowlevel.add_instrument(self)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._look_on, loop)
                    task_status.started()
                    try:
                        await trio.sleep_forever()
                    finally:
                        self._over.set()  # the thread is told here, and waited for at the nursery's end
        finally:
            trio.lowlevel.remove_instrument(self)

    def close(self) -> None:
        """Watch no more. Does not wait; safe to call twice."""
        self._scope.cancel()

    # What Trio calls.

    def after_io_wait(self, timeout: float) -> None:
        del timeout
        self._began = time.perf_counter()

    def before_io_wait(self, timeout: float) -> None:
        del timeout
        began = self._began
        if began is None:
            return
        self._began = None
        took_s = time.perf_counter() - began
        if took_s >= NOTABLE_S:
            self._note(began, took_s)

    def _note(self, began: float, took_s: float) -> None:
        self.rounds.add(took_s)
        self.longest_s = max(self.longest_s, took_s)
        seen, self._seen = self._seen, None
        if took_s >= self._stall_s:
            where = seen[1] if seen is not None and seen[0] == began else "not seen"
            log.warning("event loop stalled", seconds=round(took_s, 3), where=where)

    # What the thread does.

    async def _look_on(self, loop: int) -> None:
        await trio.to_thread.run_sync(self._look, loop, limiter=self._looking)

    def _look(self, loop: int) -> None:
        looked_at = None
        while not self._over.wait(LOOK_S):
            began = self._began
            if began is None or began == looked_at or time.perf_counter() - began < self._stall_s:
                continue
            looked_at = began
            frame = sys._current_frames().get(loop)  # noqa: SLF001  # type: ignore[reportPrivateUsage]  # documented
            self._seen = began, _place(frame)
            del frame  # it holds all that the loop's functions hold


def _place(frame: FrameType | None) -> str:
    """Where a thread is, the innermost function first."""
    return " < ".join(
        f"{PurePath(one.f_code.co_filename).name}:{one.f_lineno} {one.f_code.co_name}" for one in _innermost(frame)
    )


def _innermost(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(FRAMES_SHOWN):
        if frame is None:
            return
        yield frame
        frame = frame.f_back
