"""Where the tools' file I/O happens: in worker threads, a few at a time.

A slow disk must neither hold the event loop nor take the threads that others
need, so all tools share one limiter of their own. Work here only reads: a
caller that is cancelled goes at once and leaves its thread to end by itself.
Long work asks `trio.from_thread.check_cancelled` now and then, so that it does
not outlive its caller for long.
"""

from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

import trio

__all__ = ["in_files_thread"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_THREADS: Final = 8
_limiter: Final[trio.lowlevel.RunVar[trio.CapacityLimiter]] = trio.lowlevel.RunVar("files")


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
