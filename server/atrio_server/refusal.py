"""The door's own answers: small JSON, one connection each.

A request that is not let in is answered from here, by bytes that no engine and
no framework has touched. The answer never repeats what was sent, never carries
a CORS header and always ends the connection.

It says nothing about when to refuse; that is `atrio_server.door` and what it asks.
"""

from http import HTTPStatus

import msgspec

__all__ = ["Refused"]


class Refused(Exception):
    """A request that is answered by the door itself. Nobody else has seen it.

    Args:
        status: The HTTP status.
        error: What is wrong, for programs.
        message: The same for people, with the way out where there is one.
        headers: Header lines that this status calls for.
    """

    def __init__(self, status: int, error: str, message: str, *, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status = HTTPStatus(status)
        self.error = error
        self.message = message
        self.headers = headers
        self.asked_by_head = False
        """Set by whoever knows the request: an answer to HEAD has no body."""

    def to_bytes(self, *, with_body: bool = True) -> bytes:
        """The whole answer. ``with_body`` is false for an answer to HEAD."""
        body = msgspec.json.encode({"error": self.error, "message": self.message})
        lines = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            *(f"{name}: {value}" for name, value in self.headers),
            # An Upgrade header must be named here, or a proxy may keep it to itself.
            "connection: close, upgrade" if "upgrade" in dict(self.headers) else "connection: close",
        ]
        head = "\r\n".join(lines).encode("ascii") + b"\r\n\r\n"
        return head + body if with_body else head
