"""The requests of a client that wait for their answers.

A request outlives the connection it was first sent on. When that breaks, each
one that may be repeated waits for the next connection and is sent again there,
in the old order; the others are answered with `ReplyLost`. Nothing here waits:
answers are handed to callbacks, in the task that reads the connection.

The invariant: a request is answered at most once, and one that nobody waits for
any more is not written.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from atrio_protocol.errors import PermissionNotFound, SessionNotFound, WireError
from atrio_server.client.errors import ReplyLost
from atrio_server.client.link import Link

__all__ = ["Answer", "Pending"]

_DONE_BEFORE: Final[dict[str, type[WireError]]] = {
    "session/delete": SessionNotFound,
    "permission/revoke": PermissionNotFound,
}
"""What a method answers the second time when its first answer was lost."""

Answer = bytes | Exception
"""The JSON of a result, or why there is none."""

MOST_BROKEN: Final = 12
"""A request that was on so many connections in a row that broke soon is not sent again: it may be what breaks them."""


@dataclass(slots=True, eq=False)
class _Request:
    method: str
    text: str
    done: Callable[[Answer], None]
    repeatable: bool
    one_link: bool
    begins: str
    sweeps: str
    tries: int = 0
    broken: int = 0


class Pending:
    """Requests by their id, oldest first."""

    def __init__(self) -> None:
        self._requests: dict[str, _Request] = {}
        self._newest_id = 0

    def next_id(self) -> str:
        """An id that no request of this client had."""
        self._newest_id += 1
        return str(self._newest_id)

    def add(
        self,
        request_id: str,
        text: str,
        done: Callable[[Answer], None],
        *,
        method: str,
        repeatable: bool = False,
        one_link: bool = False,
        begins: str = "",
        sweeps: str = "",
    ) -> None:
        """Remember a request.

        Args:
            request_id: Its id.
            text: The frame.
            done: Called with the answer, at most once.
            method: What it asks for.
            repeatable: It may be sent again when its answer was lost.
            one_link: It is dropped silently when its connection breaks.
            begins: The session in which it begins a run.
            sweeps: The session whose accepted runs it cancels, all that there are by then.
        """
        self._requests[request_id] = _Request(method, text, done, repeatable, one_link, begins, sweeps)

    def send(self, request_id: str, link: Link) -> None:
        """Put a remembered request in line."""
        request = self._requests[request_id]
        link.send_soon(request.text, on_write=lambda: self._write(request_id))

    def send_all(self, link: Link) -> None:
        """There is a new connection: put every request that waited for it in line, oldest first."""
        for request_id, request in self._requests.items():
            if not request.one_link:
                self.send(request_id, link)

    def forget(self, request_id: str) -> None:
        """Nobody waits for this answer any more."""
        self._requests.pop(request_id, None)

    def answer(self, request_id: Hashable, answer: Answer) -> None:
        """An answer has come. One that nobody waits for is dropped."""
        if isinstance(request_id, str) and (request := self._requests.pop(request_id, None)) is not None:
            done_before = _DONE_BEFORE.get(request.method)
            if done_before is not None and request.tries > 1 and isinstance(answer, done_before):
                answer = b"{}"  # the first try has done it, and its answer was lost
            request.done(answer)

    def tries(self, request_id: str) -> int:
        """How often a request that waits was written, over all connections; 0 if none waits (any more)."""
        request = self._requests.get(request_id)
        return 0 if request is None else request.tries

    def connection_lost(self, *, soon: bool) -> None:
        """Sort out what waits for the next connection, and answer the rest. ``soon``: it had just been made."""
        for request_id, request in list(self._requests.items()):
            request.broken = request.broken + 1 if soon and request.tries else 0
            if request.one_link:
                del self._requests[request_id]
            elif request.tries and (not request.repeatable or request.broken >= MOST_BROKEN):
                self.answer(request_id, ReplyLost(f"the connection broke before the answer to {request.method} came"))

    def fail(self, error: Exception) -> None:
        """There will be no further connection."""
        for request_id in list(self._requests):
            self.answer(request_id, error)

    def _write(self, request_id: str) -> bool:
        """Its turn to be written has come. False if nobody waits for it any more."""
        request = self._requests.get(request_id)
        if request is None:
            return False
        request.tries += 1
        if request.begins:
            for older in self._requests.values():
                if older is request:
                    break
                if older.sweeps == request.begins and older.tries:
                    older.repeatable = False  # it must not cover this run, which came after it
        return True
