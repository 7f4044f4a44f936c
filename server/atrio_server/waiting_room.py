"""How many strangers are heard at a time, and what happens to the rest.

Until a token has vouched for a connection it is a stranger's, and strangers
could take every place there is. So they share a few. A crowd of honest clients
passes through those in no time, and waits its turn; a blockade by clients that
say nothing does not move, and whoever comes then is turned away at once.

The invariant: places taken plus places free is what it was made with.
"""

from collections import OrderedDict
from typing import Final

import trio

__all__ = ["STILL_S", "WaitingRoom"]

STILL_S: Final = 1.0
"""When no place has been taken or left for so long, nobody waits any more."""

PATIENCE_S: Final = 10.0
"""The longest that somebody waits in a line that does move."""


class WaitingRoom:
    """Places for strangers, handed over in the order of arrival."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._line: OrderedDict[trio.Event, None] = OrderedDict()
        self._moved_at = trio.current_time()

    async def enter(self) -> bool:
        """Take a place, waiting for one as long as there is hope; return whether there was one."""
        if self._free:
            self._free -= 1
            self._moved_at = trio.current_time()
            return True
        called = trio.Event()
        self._line[called] = None
        try:
            await self._wait_in_line(called)
        except BaseException:
            if called.is_set():
                self.leave()
            raise
        finally:
            self._line.pop(called, None)
        return called.is_set()

    def leave(self) -> None:
        """Give the place back, or hand it to who has waited longest."""
        self._moved_at = trio.current_time()
        if self._line:
            called, _ = self._line.popitem(last=False)
            called.set()
        else:
            self._free += 1

    async def _wait_in_line(self, called: trio.Event) -> None:
        give_up_at = trio.current_time() + PATIENCE_S
        while not called.is_set():
            deadline = min(self._moved_at + STILL_S, give_up_at)
            if trio.current_time() >= deadline:
                return
            with trio.move_on_at(deadline):
                await called.wait()
