"""Finding out that the peer is gone when nothing says so: a ping, and a time for its answer.

The time stands still while we do not read the socket ourselves, and while a
write to it is stuck: then the answer may lie there unread, and other limits
decide. `pause` and `resume` say so; they may nest, and short ones cost nothing.

Nothing here closes a connection.
"""

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Literal

import trio
from trio_websocket import ConnectionClosed

__all__ = ["PING_EVERY_S", "PONG_WITHIN_S", "KeepAlive"]

PING_EVERY_S: Final = 20.0
PONG_WITHIN_S: Final = 20.0

LONG_PAUSE_S: Final = 1.0
"""After a pause of this length the answer gets its whole time anew."""


class KeepAlive:
    """Pings one peer. ``ping`` sends a ping and returns when it is answered."""

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        self._ping = ping
        self._pauses = 0
        self._paused_at = 0.0
        self._resumed_at = -math.inf

    def pause(self) -> None:
        """Say that answers may not get through from now on."""
        if not self._pauses:
            self._paused_at = trio.current_time()
        self._pauses += 1

    def resume(self) -> None:
        """Say that one `pause` is over."""
        self._pauses -= 1
        if not self._pauses:
            at = trio.current_time()
            if at - self._paused_at > LONG_PAUSE_S:
                self._resumed_at = at

    async def until_lost(self, nursery: trio.Nursery, gone: trio.Event) -> Literal["silent", "gone"]:
        """Ping until the peer leaves one unanswered for `PONG_WITHIN_S`, or until ``gone`` says that it is.

        The pings are sent in ``nursery``; one may be left waiting there.
        """
        while True:
            with trio.move_on_after(PING_EVERY_S):
                await gone.wait()
                return "gone"
            answered = trio.Event()
            nursery.start_soon(self._ask, answered)
            asked_at = trio.current_time()
            while not answered.is_set():
                at = trio.current_time()
                since = at if self._pauses else max(asked_at, self._resumed_at)
                if at >= since + PONG_WITHIN_S + LONG_PAUSE_S:
                    # The process was stopped, and was not there to hear the answer.
                    since = self._resumed_at = at
                elif at >= since + PONG_WITHIN_S:
                    return "silent"
                with trio.move_on_at(since + PONG_WITHIN_S):
                    await answered.wait()

    async def _ask(self, answered: trio.Event) -> None:
        with suppress(ConnectionClosed):
            await self._ping()
        answered.set()
