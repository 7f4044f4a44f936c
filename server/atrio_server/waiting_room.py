"""How many strangers are heard at a time, and who gives way to the rest.

Until a token has vouched for a connection it is a stranger's, and strangers
could take every place there is. So they share a few. An honest client needs its
place for an instant; whoever comes to a full room waits for one, and gets the
place of the stranger who has stayed longest, once that one has had a moment to
say what it wants. So a blockade by clients that say nothing does not last.

The invariant: as many places are taken or free as it was made with.
"""

from collections import OrderedDict
from typing import Final

import trio

__all__ = ["STAY_S", "Stay", "WaitingRoom"]

STAY_S: Final = 0.25
"""How long a place is certain, however many wait. An honest head needs a few milliseconds."""

PATIENCE_S: Final = 10.0
"""The longest that somebody waits for a place."""


class Stay:
    """A place that is taken. ``scope`` is cancelled when somebody else needs it more."""

    def __init__(self) -> None:
        self.since = trio.current_time()
        self.scope = trio.CancelScope()


class _Waiter:
    """Somebody in the line. ``news`` is set when there is a place, and on becoming the first."""

    def __init__(self) -> None:
        self.news = trio.Event()
        self.called = False


class WaitingRoom:
    """Places for strangers, given in the order of arrival."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._stays: OrderedDict[Stay, None] = OrderedDict()
        self._line: OrderedDict[_Waiter, None] = OrderedDict()

    async def enter(self) -> Stay | None:
        """Take a place, waiting for one if need be; None when that took too long.

        What is done in the place runs under the stay's ``scope``. Give it back with `leave`.
        """
        if self._free and not self._line:
            self._free -= 1
            return self._begin()
        waiter = _Waiter()
        self._line[waiter] = None
        try:
            with trio.move_on_after(PATIENCE_S):
                await self._wait_in_line(waiter)
        except BaseException:
            if waiter.called:
                self._pass_on()
            raise
        finally:
            if not waiter.called:
                del self._line[waiter]
                self._tell_first()
        return self._begin() if waiter.called else None

    def leave(self, stay: Stay) -> None:
        """Give the place back, or hand it to who has waited longest."""
        del self._stays[stay]
        self._pass_on()

    def _begin(self) -> Stay:
        stay = Stay()
        self._stays[stay] = None
        return stay

    def _pass_on(self) -> None:
        if not self._line:
            self._free += 1
            return
        waiter, _ = self._line.popitem(last=False)
        waiter.called = True
        waiter.news.set()
        self._tell_first()

    def _tell_first(self) -> None:
        if self._line:
            next(iter(self._line)).news.set()

    async def _wait_in_line(self, waiter: _Waiter) -> None:
        """Wait to be called; whoever is first in the line sends those away who have stayed long enough."""
        while not waiter.called:
            waiter.news = trio.Event()
            check_at = float("inf")
            if next(iter(self._line)) is waiter:
                check_at = self._send_away()
            with trio.move_on_at(check_at):
                await waiter.news.wait()

    def _send_away(self) -> float:
        """Send away who has stayed longest, if that is long enough; returns when to look again."""
        oldest = next((stay for stay in self._stays if not stay.scope.cancel_called), None)
        now = trio.current_time()
        if oldest is None:
            return now + STAY_S
        if now < oldest.since + STAY_S:
            return oldest.since + STAY_S
        oldest.scope.cancel()
        return now + STAY_S
