"""The requests of one connection that are in work, and the replies that wait for its writer.

A request is in work from its reading until its reply is written; how many may
be so at a time is what keeps a client that sends and never reads from filling
our memory. Requests that wait by design are counted apart, and an answer to
something that could not be read as a request is counted too.

Every request that is opened here is answered exactly once. Synchronous but for
`Outbox.room`; nothing here sends.
"""

from collections import deque
from collections.abc import Callable, Hashable

import msgspec
import trio

from atrio_protocol.errors import InvalidRequest, Overloaded, WireError
from atrio_protocol.jsonrpc import Request
from atrio_server.calls import Key, Later, Reply

__all__ = ["Outbox", "Work"]


class Work:
    """One request on its way to its reply.

    ``request_id`` is None for what could not be read as a request. ``scope``
    ends its `Later`, if it has one. ``touches``, ``detaches`` and ``behind`` are
    those of the `Later`.
    """

    __slots__ = ("behind", "by_design", "detaches", "key", "outcome", "request_id", "scope", "touches")

    def __init__(self, request_id: msgspec.Raw | None, key: Hashable) -> None:
        self.request_id = request_id
        self.key = key
        self.by_design = False
        self.outcome: Reply | WireError | None = None
        self.scope: trio.CancelScope | None = None
        self.touches: frozenset[Key] = frozenset()
        self.detaches: tuple[Key, ...] = ()
        self.behind: tuple[Key, ...] = ()


class Outbox:
    """What a connection owes its client. ``on_news`` is called when there is a reply to take."""

    def __init__(self, on_news: Callable[[], None], *, max_in_flight: int, max_waiting: int) -> None:
        self._on_news = on_news
        self._max_in_flight = max_in_flight
        self._max_waiting = max_waiting
        self._in_flight = 0
        self._waiting = 0
        self._by_key: dict[Hashable, Work] = {}
        self._ordered: dict[Work, trio.Event] = {}
        self._replies: deque[Work] = deque()
        self._room = trio.Event()
        self._abandoned = False

    @property
    def settled(self) -> bool:
        """Whether every reply is written that does not wait by design."""
        return not self._in_flight and not self._replies

    @property
    def full(self) -> bool:
        """Whether nothing more may be read now."""
        return self._in_flight >= self._max_in_flight and not self._abandoned

    async def room(self) -> None:
        """Wait until another request may be read."""
        while self.full:
            self._room = trio.Event()
            await self._room.wait()

    def open(self, request: Request) -> Work:
        """Take a request into work.

        Raises:
            InvalidRequest: One with this id is in work already. That one is not affected.
        """
        if request.key in self._by_key:
            raise InvalidRequest("A request with this id is still in work.")
        work = Work(request.id, request.key)
        self._by_key[request.key] = work
        self._in_flight += 1
        return work

    def refuse(self, request_id: msgspec.Raw | None, error: WireError) -> None:
        """Answer something that is not taken into work."""
        work = Work(request_id, None)
        self._in_flight += 1
        self._put(work, error)

    def postpone(self, work: Work, later: Later) -> list[trio.Event]:
        """Note how a request goes on; returns what it has to wait for, in turn, before it may start.

        Raises:
            Overloaded: Too many wait by design. The request is not answered yet.
        """
        if later.by_design:
            self.check_waiting()
            work.by_design = True
            self._waiting += 1
            self._in_flight -= 1
            self._room.set()
        work.scope = trio.CancelScope()
        work.detaches, work.behind = later.detaches, later.behind
        work.touches = frozenset(later.after + later.detaches)
        if not work.touches:
            return []
        earlier = [answered for other, answered in self._ordered.items() if other.touches & work.touches]
        self._ordered[work] = trio.Event()
        return earlier

    def check_waiting(self) -> None:
        """Refuse a request that would wait by design when too many do.

        Raises:
            Overloaded: Too many wait.
        """
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} requests of this connection wait already.")

    def answer(self, work: Work, outcome: Reply | WireError) -> None:
        """Settle a request. Once for each."""
        answered = self._ordered.pop(work, None)
        if answered is not None:
            answered.set()
        self._put(work, outcome)

    def give_up(self, key: Hashable) -> None:
        """Cancel what a request still waits for. Nothing if it has its answer, or is unknown."""
        work = self._by_key.get(key)
        if work is not None and work.scope is not None:
            work.scope.cancel()

    def take(self) -> Work | None:
        """The next reply to write, or None. From now on its id may be used again."""
        if not self._replies:
            return None
        work = self._replies.popleft()
        if self._by_key.get(work.key) is work:
            del self._by_key[work.key]
        return work

    def written(self, work: Work) -> None:
        """Say that the reply that was taken has been sent."""
        if work.by_design:
            self._waiting -= 1
        else:
            self._in_flight -= 1
            self._room.set()

    def abandon(self) -> None:
        """Nobody takes replies any more: drop them, and let what was received still be read and begun."""
        self._abandoned = True
        self._replies.clear()
        self._room.set()

    def _put(self, work: Work, outcome: Reply | WireError) -> None:
        work.outcome = outcome
        if self._abandoned:
            return
        self._replies.append(work)
        self._on_news()
