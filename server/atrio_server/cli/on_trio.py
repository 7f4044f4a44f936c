"""Starts Trio for a command, so that Ctrl-C ends it in one place.

As Trio comes, Ctrl-C strikes wherever Python code happens to run, which may be
the reader of the connection: that looks as if the server had hung up, and can
be lost. Here it strikes the command's own task, where that waits, and nothing
else. Commands that heed signals themselves are not touched by it.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

__all__ = ["run_on_trio"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def run_on_trio(work: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Do this on Trio and return what it returns.

    Raises:
        KeyboardInterrupt: Ctrl-C. All that was begun has been cleaned up.
    """
    import trio

    return trio.run(work, *args, restrict_keyboard_interrupt_to_checkpoints=True)
