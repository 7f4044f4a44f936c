"""A WebSocket behind the door: trio-websocket, and what it needs to be left alone with strangers.

`BoundedWebSocket` is a `WebSocketConnection` like any other to whoever serves
it. Each method that it overrides mends one thing of trio-websocket 0.12.2, and
says which and when it may go; all of them stand on that one version, which is
why the dependency has an upper bound.

It knows no message's meaning. The invariant: whatever a peer sends, at most one
message of the largest size, `READ_AHEAD_BYTES` of unread ones and one read from
the network are in memory.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

import trio
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, TextMessage
from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason as Code
from wsproto.frame_protocol import FrameDecoder, FrameProtocol, Opcode, RsvBits
from wsproto.utilities import ProtocolError

from atrio_server.byte_stream import LINGER_S, GuardedStream

__all__ = ["STALLED", "BoundedWebSocket", "open_web_socket"]

STALLED: Final = 4408
"""Close code for a peer that took no bytes. It can be told only to ourselves: nothing more goes to such a peer."""

READ_BYTES: Final = 8 * 1024
"""Little enough that the smallest frames a peer can make of it are parsed in some milliseconds."""

READ_AHEAD_BYTES: Final = 1024 * 1024
"""How much may lie unread before the network is no longer read, and pings no longer answered."""

MESSAGE_COST_BYTES: Final = 512
"""What an unread message counts beyond its own bytes."""

LOOSE_PARTS: Final = 1024
"""So many pieces of a message are kept before they are joined: an empty piece costs the peer 6 bytes."""


class _SizeLimit(Extension):
    """Refuses a message by what the heads of its frames announce, before a byte of what is too much has come.

    It is an extension only in that wsproto asks it about every head: it has a name
    that nobody can offer, and changes no frame.
    """

    name = ""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._announced = 0

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> Code | RsvBits:
        del proto, rsv
        if not opcode.iscontrol():
            before = self._announced if opcode is Opcode.CONTINUATION else 0
            self._announced = before + payload_length
            if self._announced > self._max_bytes:
                return Code.MESSAGE_TOO_BIG
        return RsvBits(rsv1=False, rsv2=False, rsv3=False)


class BoundedWebSocket(WebSocketConnection):
    """A server's WebSocket whose memory, waits and last words are bounded. Made by `open_web_socket`."""

    def __init__(self, stream: GuardedStream, protocol: WSConnection, *, max_message_bytes: int) -> None:
        # The library's own limits never act: ours are in bytes, and lower.
        super().__init__(
            stream,
            protocol,
            message_queue_size=2 * READ_AHEAD_BYTES // MESSAGE_COST_BYTES,
            max_message_size=max_message_bytes,
            receive_buffer_size=READ_BYTES,
        )
        self._guarded = stream
        self._too_big = f"a message may have {max_message_bytes} bytes"
        self._size_limit = _SizeLimit(max_message_bytes)
        self._text_parts: list[str] = []
        self._loose_parts = 0
        self._unread: deque[int] = deque()
        self._unread_bytes = 0
        self._taken = trio.Event()
        self._goodbye: CloseReason | None = None
        self.finished = trio.Event()
        """Set when nothing is read any more: the peer has closed, or we have and it had its time to."""

    @property
    def closed(self) -> CloseReason | None:
        """Why the connection is closed or closing: by us, by the peer, or by 4408.

        trio-websocket says 1000 for every close of ours. May go when it says the code that it sent.
        """
        return self._goodbye or self._close_reason

    async def run(self) -> None:
        """Read until the connection ends.

        trio-websocket answers a ping even when it has closed, which wsproto forbids
        by an error that ends the nursery of the reader. May go when `_reader_task`
        returns whatever the peer sends.
        """
        try:
            await self._reader_task()
            broken = False
        except (ConnectionClosed, ProtocolError):
            broken = True
        finally:
            self.finished.set()
        if broken:
            await self._abort_web_socket()

    async def accept(self, subprotocol: str | None) -> None:
        """Answer the handshake. The caller bounds it in time."""
        request = await self._get_request()
        await request.accept(subprotocol=subprotocol)

    async def _send(self, event: Event) -> None:
        """Send an event; the handshake's answer brings the size limit into force.

        trio-websocket counts characters where the contract counts bytes (12 MiB
        passed a limit of 4), and only once they have come, so that a frame that
        announces a terabyte and sends nothing waits for the next ping. May go when it
        counts bytes, and refuses a frame by its head.
        """
        if isinstance(event, AcceptConnection):
            event = replace(event, extensions=[self._size_limit])
        await super()._send(event)

    async def get_message(self) -> str | bytes:
        """Receive the next message. Taking it lets the reader go on where it had read far enough ahead."""
        message = await super().get_message()
        self._unread_bytes -= self._unread.popleft()
        self._taken.set()
        return message

    async def send_messages(self, messages: Sequence[str]) -> None:
        """Send messages in one write.

        trio-websocket writes each by itself, and a write costs more than all else
        about a small message. May go when it takes several.

        Raises:
            ConnectionClosed: The connection is closed or closing. Some may have been sent.
        """
        if self._close_reason is not None:
            raise ConnectionClosed(self._close_reason)
        data = b"".join([self._wsproto.send(TextMessage(data=message)) for message in messages])
        try:
            self._stream_lock.acquire_nowait()  # as a rule nobody has it, and waiting in vain costs a round of the loop
        except trio.WouldBlock:
            await self._stream_lock.acquire()
        broken = False
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            broken = True
        finally:
            self._stream_lock.release()
        if broken:
            await self._abort_web_socket()
            assert self._close_reason is not None
            raise ConnectionClosed(self._close_reason)

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None:
        """Close, and wait at most `LINGER_S` for the peer to do the same.

        trio-websocket waits for ever. May go when its close has a deadline.
        """
        if self._close_reason is None:
            self._goodbye = CloseReason(code, reason)
        self._taken.set()  # the reader is wanted again: the peer's own close frame is still to come
        with trio.move_on_after(LINGER_S):
            await super().aclose(code, reason)

    async def _handle_message_event(self, event: BytesMessage | TextMessage) -> None:
        """Collect a message, in bounds.

        trio-websocket keeps every empty fragment, and with a full queue stops
        reading, and so answering pings, at the second message. May go when it has a
        queue that is bounded by bytes.
        """
        if self.closed is not None:
            return  # we have said goodbye; what still comes is dropped
        if isinstance(event, BytesMessage):
            # Whoever takes messages closes at the first binary one; its bytes are neither waited for nor kept.
            await self._hand_over(b"", MESSAGE_COST_BYTES)
            return
        data = event.data
        self._message_size += len(data) if data.isascii() else len(data.encode())
        if data:
            self._text_parts.append(data)
            self._loose_parts += 1
        if event.message_finished or self._loose_parts == LOOSE_PARTS:
            # What was joined before stays as it is, or a long message would be copied a thousand times.
            joined = len(self._text_parts) - self._loose_parts
            self._text_parts[joined:] = ["".join(self._text_parts[joined:])]
            self._loose_parts = 0
        if event.message_finished:
            message = "".join(self._text_parts)
            size = self._message_size + MESSAGE_COST_BYTES
            self._message_size = 0
            self._text_parts = []
            await self._hand_over(message, size)

    async def _hand_over(self, message: str | bytes, size: int) -> None:
        self._unread.append(size)
        self._unread_bytes += size
        try:
            await self._send_channel.send(message)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return  # nobody wants messages any more
        while self._unread_bytes > READ_AHEAD_BYTES and self.closed is None:
            self._taken = trio.Event()
            await self._taken.wait()

    async def _handle_close_connection_event(self, event: CloseConnection) -> None:
        """Answer a close frame, or a fault in what the peer sent.

        For a fault (1002, 1007, 1009) trio-websocket closes the stream without a close
        frame, so that the peer sees 1006; it also closes it over a close frame of our
        own that is still to be written. May go when it sends the one and waits for the other.
        """
        if self._wsproto.state is ConnectionState.OPEN and self._close_reason is None:
            await self._fail(event.code, self._too_big if event.code == Code.MESSAGE_TOO_BIG else event.reason or "")
        elif self._wsproto.state is ConnectionState.LOCAL_CLOSING:
            await self._drop_the_rest()  # a fault behind our goodbye, which the peer is still to read
        else:
            if self._wsproto.state is ConnectionState.CLOSED:
                async with self._stream_lock:  # whoever writes our goodbye has it
                    pass
            await super()._handle_close_connection_event(event)

    async def _drop_the_rest(self) -> None:
        """Read on without looking, until the peer ends or our own close has waited long enough."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await self._stream.receive_some(READ_BYTES):
                pass

    async def _abort_web_socket(self) -> None:
        """Give up a connection that is broken; say so by 4408 where the peer took no bytes."""
        if self._guarded.stalled and self._close_reason is None:
            await self._close_web_socket(STALLED, "stalled reader")
        self._taken.set()
        await super()._abort_web_socket()

    async def _fail(self, code: int, reason: str) -> None:
        self._text_parts = []
        self._close_reason = CloseReason(code, reason)
        with suppress(ConnectionClosed):
            await self._send(CloseConnection(code=code, reason=reason))
        await self._close_web_socket(code, reason)
        self._close_handshake.set()
        await self._close_stream()


async def open_web_socket(
    nursery: trio.Nursery,
    stream: GuardedStream,
    *,
    path: str,
    key: bytes,
    subprotocol: str | None,
    max_message_bytes: int,
) -> BoundedWebSocket:
    """Answer a screened handshake, and read from then on in ``nursery``. The caller bounds it in time.

    The handshake that wsproto sees is written here: no byte of the peer's own
    reaches it but the key. No extension is in it, so none is negotiated.

    Raises:
        ConnectionClosed: The peer went away meanwhile.
    """
    protocol = WSConnection(ConnectionType.SERVER)
    headers = [
        (b"host", b"localhost"),
        (b"upgrade", b"websocket"),
        (b"connection", b"upgrade"),
        (b"sec-websocket-key", key),
        (b"sec-websocket-version", b"13"),
    ]
    if subprotocol is not None:
        headers.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
    protocol.initiate_upgrade_connection(headers, path)
    web_socket = BoundedWebSocket(stream, protocol, max_message_bytes=max_message_bytes)
    nursery.start_soon(web_socket.run)
    await web_socket.accept(subprotocol)
    return web_socket
