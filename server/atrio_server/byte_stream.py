"""The bytes of one connection, with an end to every wait.

A peer can stop reading or stop sending at any byte. `GuardedStream` stands
between the socket and whatever speaks over it: a write that gets nowhere ends
in `PeerStalled`, and a close lets the peer read our last words before the
connection is gone, but not for long.

It knows no protocol and reads no byte for itself, except those it drops while
closing. The invariant: when `aclose` returns or raises, the socket is closed.
"""

import os
import socket
import struct
from contextlib import suppress
from typing import Final

import trio

from atrio_server.figures import DoorFigures

__all__ = ["LINGER_S", "SLICE_BYTES", "WRITE_S", "GuardedStream", "PeerStalled", "Transport"]

Transport = trio.SocketStream | trio.SSLStream[trio.SocketStream]

SLICE_BYTES: Final = 64 * 1024
"""A write is cut into pieces of this size, and each has the time of its own."""

WRITE_S: Final = 30.0
"""How long the peer may take for one slice."""

LINGER_S: Final = 1.0
"""How long a close goes on reading what still comes.

A socket that is closed with unread bytes in it resets the connection, and the
reset overtakes the answer or close frame that was sent before it.
"""

KERNEL_GRACE_S: Final = 10.0
"""How much later than we the kernel gives a silent peer up, so that we are the ones to say why."""


class PeerStalled(trio.BrokenResourceError):
    """The peer took no bytes for too long. The connection is closed."""


class GuardedStream(trio.abc.Stream):
    """A connection whose writes and close are bounded in time.

    Args:
        inner: The accepted connection, with or without TLS. It belongs to this object from now on.
        write_s: Seconds that the peer may take for one slice.
        figures: Where its bytes are counted.
    """

    def __init__(self, inner: Transport, *, write_s: float = WRITE_S, figures: DoorFigures | None = None) -> None:
        self._inner = inner
        self._write_s = write_s
        self._figures = DoorFigures() if figures is None else figures
        # Bytes that go through nothing on their way to the kernel may be handed to it directly.
        self._plain = inner if isinstance(inner, trio.SocketStream) else None
        self._sending = False
        self._receiving = 0
        self._closing = False
        self.stalled = False
        """Whether the connection was closed because the peer took no bytes."""
        self.socket: trio.socket.SocketType = (
            inner.transport_stream.socket if isinstance(inner, trio.SSLStream) else inner.socket
        )
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            with suppress(OSError):  # the peer may be gone already, which the first read tells
                self.socket.setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int((write_s + KERNEL_GRACE_S) * 1000)
                )

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write ``data``, slice by slice.

        Raises:
            PeerStalled: A slice was not taken in time. The connection is closed.
            trio.BrokenResourceError: The peer is gone.
            trio.ClosedResourceError: The connection was closed here.
        """
        view = memoryview(data)
        if self._plain is not None and not self._sending:
            await trio.lowlevel.checkpoint_if_cancelled()
            view = view[self._write_at_once(view) :]
            if not view:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return
        self._sending = True
        try:
            await self._send_patiently(view)
        finally:
            self._sending = False

    def _write_at_once(self, view: memoryview) -> int:
        """Write what the kernel takes without a wait, as a rule all; the long way takes twice as long for that.

        Whatever is wrong is told by the long way, which takes the rest.
        """
        try:
            written = os.write(self.socket.fileno(), view)
        except OSError:
            return 0
        self._figures.sent_bytes += written
        return written

    async def _send_patiently(self, view: memoryview) -> None:
        for start in range(0, max(len(view), 1), SLICE_BYTES):
            with trio.move_on_after(self._write_s) as patience:
                await self._inner.send_all(view[start : start + SLICE_BYTES])
                self._figures.sent_bytes += min(SLICE_BYTES, len(view) - start)
            if patience.cancelled_caught:
                self.stalled = True
                self.abort()
                raise PeerStalled(f"the peer took no bytes for {self._write_s:g} s")

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read what there is, at most ``max_bytes``; empty at the end of what the peer sends."""
        self._receiving += 1
        try:
            received = bytes(await self._inner.receive_some(max_bytes))
            self._figures.received_bytes += len(received)
            return received
        finally:
            self._receiving -= 1

    async def aclose(self) -> None:
        """Say that no more comes, drop what the peer still sends for at most `LINGER_S`, and close."""
        if self._closing:
            await trio.lowlevel.checkpoint()
            return
        self._closing = True
        try:
            # Where another task reads, that one drains; and who never read has nothing to drain for.
            if not self.stalled and not self._receiving:
                with (
                    trio.move_on_after(LINGER_S),
                    suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError),
                ):
                    self.socket.shutdown(socket.SHUT_WR)
                    while await self._inner.receive_some(SLICE_BYTES):
                        pass
            await trio.lowlevel.checkpoint()
        finally:
            self.close()

    def close(self) -> None:
        """Close at once. What was written still reaches a peer that reads, unless it sent what nobody read."""
        self._closing = True
        self.socket.close()

    def abort(self) -> None:
        """Close at once and tell the peer by a reset. What it has not read yet is lost."""
        self._closing = True
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
