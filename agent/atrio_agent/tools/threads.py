"""Where the tools' file I/O happens: in worker threads, a few at a time.

A slow disk must neither hold the event loop nor take the threads that others
need, so all tools share limiters of their own. Work that only reads is left to
end by itself when its caller is cancelled; it asks
`trio.from_thread.check_cancelled` now and then, so that it does not outlive its
caller for long. Work that changes something is not left: one at a time, it goes
on to its end whoever is cancelled, for a few seconds at most, and what has not
been done by then is not done any more.
"""

import threading
from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import trio

from atrio_agent.tools.base import ToolFailed

__all__ = ["Chance", "in_changing_thread", "in_files_thread"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_THREADS: Final = 8
CHANGE_S: Final = 5.0
"""How long a change may take before it is given up; it holds up a cancel for so long."""

_limiter: Final[trio.lowlevel.RunVar[trio.CapacityLimiter]] = trio.lowlevel.RunVar("files")
_changing: Final[trio.lowlevel.RunVar[tuple[trio.Lock, trio.CapacityLimiter]]] = trio.lowlevel.RunVar("changes")


class Chance:
    """Whether a change may still be made. Taken once, by the thread, or withdrawn by who waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_open = True

    def take(self) -> bool:
        """Take it; whether it was there to be taken. Whoever gets False changes nothing."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
        return was_open


async def in_files_thread(work: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run ``work(*args)`` in a thread for file I/O and give back what it returns or raises.

    ``work`` must close itself what it opens: after a cancel nobody takes its result.
    """
    try:
        limiter = _limiter.get()
    except LookupError:
        limiter = trio.CapacityLimiter(_THREADS)
        _limiter.set(limiter)
    return await trio.to_thread.run_sync(work, *args, limiter=limiter, abandon_on_cancel=True)


async def in_changing_thread(work: Callable[[Chance], T]) -> T:
    """Run ``work`` in a thread, alone among its like, and give back what it returns or raises.

    A cancel is only heeded before it begins. ``work`` takes the chance right
    before it changes anything, and closes itself what it opens.

    Raises:
        ToolFailed: The disk did not answer in time. It says whether the change was made.
    """
    try:
        lock, limiter = _changing.get()
    except LookupError:
        lock, limiter = trio.Lock(), trio.CapacityLimiter(_THREADS)
        _changing.set((lock, limiter))
    chance = Chance()
    async with lock:
        with trio.move_on_after(CHANGE_S, shield=True):
            return await trio.to_thread.run_sync(work, chance, limiter=limiter, abandon_on_cancel=True)
    if chance.take():
        raise ToolFailed(f"The disk did not answer within {CHANGE_S:.0f} s. Nothing was changed.")
    raise ToolFailed(
        f"The disk did not answer within {CHANGE_S:.0f} s, and it is not known whether the change was made. Read the"
        " file before going on."
    )
