"""The head of a request, read under limits and screened byte by byte.

Every engine behind the door has died of a head at least once: of a byte over
127, of a bare line feed, of a second Host. So a head is read here, checked for
its characters, parsed by h11 and kept as a plain value; what goes on to an
engine is written anew from that value (`Head.rewritten`). Bodies are read here
too, whole and under limits, so that an engine never reads from the network.

It decides nothing about who may come in. The invariant: a `Head` is ASCII and
has one Host, one request line that h11 accepts, and at most one length.
"""

import re
from dataclasses import dataclass
from typing import Final

import h11

from atrio_server.byte_stream import GuardedStream
from atrio_server.refusal import Refused

__all__ = ["MAX_HEAD_BYTES", "Body", "Head", "PeerGone", "parse_head", "read_body", "read_head"]

MAX_HEAD_BYTES: Final = 16 * 1024
"""The request line and all header lines, with the empty line that ends them."""

READ_BYTES: Final = 16 * 1024
"""Little enough that the smallest chunks a peer can make of it are parsed in some milliseconds."""

END: Final = b"\r\n\r\n"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# Beyond ASCII or a control character; CR or LF alone; a line that goes on in the next one.
FOREIGN_BYTES: Final = re.compile(rb"[^\t\r\n -~]|\r(?!\n|\Z)|(?<!\r)\n|\n[ \t]")

ONCE: Final = (b"authorization", b"origin", b"content-length", b"transfer-encoding")

HOP_BY_HOP: Final = frozenset(
    {b"connection", b"expect", b"http2-settings", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
NOT_FOR_THE_APP: Final = HOP_BY_HOP | {b"authorization", b"content-length", b"proxy-authorization"}


class PeerGone(Exception):
    """The peer went away before it had sent what it began. There is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Head:
    """A screened request head. Names of headers are in lower case."""

    method: str
    target: str
    version: str
    headers: tuple[tuple[bytes, bytes], ...]

    @property
    def path(self) -> str:
        """The target without its query, as it was sent: nothing is decoded or normalised."""
        return self.target.partition("?")[0]

    def values(self, name: bytes) -> list[bytes]:
        """Every value of this header, in order."""
        return [value for key, value in self.headers if key == name]

    def listed(self, name: bytes) -> list[str]:
        """The elements of a header that is a list, over all its lines."""
        elements = b",".join(self.values(name)).decode("ascii").split(",")
        return [stripped for element in elements if (stripped := element.strip())]

    @property
    def host(self) -> str:
        return self.values(b"host")[0].decode("ascii")

    @property
    def origin(self) -> str | None:
        values = self.values(b"origin")
        return values[0].decode("ascii") if values else None

    @property
    def has_body(self) -> bool:
        """Whether any byte of a body may follow."""
        return bool(self.values(b"transfer-encoding")) or self.length > 0

    @property
    def length(self) -> int:
        """What Content-Length announces; 0 without one."""
        values = self.values(b"content-length")
        return int(values[0]) if values else 0

    def rewritten(self, body_bytes: int) -> bytes:
        """The same request as an engine gets it: no credentials, nothing about the connection."""
        dropped = NOT_FOR_THE_APP | {name.lower().encode("ascii") for name in self.listed(b"connection")} - {b"host"}
        lines = [f"{self.method} {self.target} HTTP/{self.version}".encode("ascii")]
        lines += [name + b": " + value for name, value in self.headers if name not in dropped]
        if body_bytes or self.has_body:
            lines.append(b"content-length: %d" % body_bytes)
        return b"\r\n".join(lines) + END


@dataclass(frozen=True, slots=True)
class Body:
    """Where a body is read from: h11 after the head, and the bytes that came with the head."""

    parser: h11.Connection
    rest: bytes


async def read_head(stream: GuardedStream) -> tuple[Head, Body]:
    """Read one head. The caller bounds it in time.

    Raises:
        Refused: It is too large, or it is none. Nothing after it was read.
        PeerGone: The peer closed before it was complete.
        trio.BrokenResourceError: So did the network.
    """
    received = bytearray()
    while True:
        data = await stream.receive_some(MAX_HEAD_BYTES + 1 - len(received))
        if not data:
            raise PeerGone
        searched = max(0, len(received) - len(END) + 1)
        received += data
        end = received.find(END, searched)
        size = end + len(END) if end >= 0 else len(received)
        if size > MAX_HEAD_BYTES:
            raise Refused(431, "head_too_large", f"a request head may have {MAX_HEAD_BYTES} bytes")
        if end >= 0:
            head, parser = parse_head(bytes(received[:size]))
            return head, Body(parser, bytes(received[size:]))
        _check_characters(received)  # whoever speaks something else hears it now, not after the time limit


def parse_head(data: bytes) -> tuple[Head, h11.Connection]:
    """Make a `Head` of exactly one head's bytes, and the parser that goes on with its body.

    Raises:
        Refused: It is not one that we let near an engine.
    """
    _check_characters(data)
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    parser.receive_data(data)
    try:
        request = parser.next_event()
    except h11.RemoteProtocolError:
        raise _malformed("the request head is malformed") from None
    if not isinstance(request, h11.Request):
        raise _malformed("the request head is malformed")
    head = Head(
        request.method.decode("ascii"),
        request.target.decode("ascii"),
        request.http_version.decode("ascii"),
        tuple((bytes(name), bytes(value)) for name, value in request.headers),
    )
    if head.version not in {"1.0", "1.1"}:
        raise _malformed("this server speaks HTTP/1.1")
    if head.method not in METHODS or not head.target.startswith("/"):
        raise _malformed("the request line has no method and path that this server knows")
    if len(head.values(b"host")) != 1:
        raise _malformed("a request has exactly one Host header")
    for name in ONCE:
        if len(head.values(name)) > 1:
            raise _malformed(f"a request has at most one {name.decode().title()} header")
    if head.values(b"transfer-encoding") and (head.values(b"content-length") or head.version == "1.0"):
        raise _malformed("the length of the body is said twice, or in a way that HTTP/1.0 does not know")
    return head, parser


async def read_body(stream: GuardedStream, head: Head, body: Body, *, max_bytes: int) -> bytes:
    """Read the whole body. The caller bounds it in time.

    Raises:
        Refused: It is too large, or its chunks are malformed. Part of it may be unread.
        PeerGone: The peer closed before it was complete.
        trio.BrokenResourceError: So did the network.
    """
    too_large = Refused(413, "body_too_large", f"a request body may have {max_bytes} bytes")
    if head.length > max_bytes:
        raise too_large
    if not head.has_body:
        return b""
    parser = body.parser
    read = bytearray()
    try:
        if body.rest:  # without it: an empty one would say that the peer has closed
            parser.receive_data(body.rest)
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Data):
                read += event.data
                if len(read) > max_bytes:
                    raise too_large
            elif isinstance(event, h11.EndOfMessage):
                return bytes(read)
            elif event is not h11.NEED_DATA:
                raise _malformed("the request body is malformed")
            else:
                if parser.they_are_waiting_for_100_continue:
                    await stream.send_all(parser.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                data = await stream.receive_some(READ_BYTES)
                if not data:
                    raise PeerGone
                parser.receive_data(data)
    except h11.RemoteProtocolError:
        raise _malformed("the request body is malformed") from None


def _check_characters(data: bytes | bytearray) -> None:
    if FOREIGN_BYTES.search(data) or data.startswith((b"\r", b" ", b"\t")):
        raise _malformed("a request head is printable ASCII in lines that end with CR LF")


def _malformed(message: str) -> Refused:
    return Refused(400, "bad_request", message)
