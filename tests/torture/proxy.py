"""A TCP proxy that cuts connections at bytes that it is told beforehand.

Each connection through it gets a number of bytes in each direction after which
it is cut, in the middle of whatever that is: a handshake, a frame's head, a
character. Cutting is closing both ends at once. It reads nothing of what goes
through.
"""

import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio

__all__ = ["NEVER", "Cut", "CuttingProxy", "open_proxy"]


class Cut(NamedTuple):
    """When a connection is cut: after so many bytes up or down. ``abrupt``: by a reset."""

    up: int
    down: int
    abrupt: bool = False


NEVER = Cut(1 << 60, 1 << 60)


class CuttingProxy:
    """A running proxy. ``cuts`` counts the connections that it has cut."""

    def __init__(self, host: str, port: int, allowance: Callable[[], Cut]) -> None:
        self._target = host, port
        self._allowance = allowance
        self.cuts = 0
        self.port = 0
        self._changed = trio.Event()
        self._open: set[trio.CancelScope] = set()

    async def dial(self, _url: str) -> trio.SocketStream:
        """The way to the server through this, for clients that call it by its own address."""
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def cut(self, count: int) -> None:
        """Wait until so many connections were cut."""
        while self.cuts < count:
            await self._changed.wait()

    def cut_all(self) -> None:
        """Cut what is open now."""
        for scope in self._open:
            scope.cancel()

    async def serve(self, client: trio.SocketStream) -> None:
        """Carry one connection until it ends or its bytes are used up."""
        up, down, abrupt = self._allowance()
        try:
            server = await trio.open_tcp_stream(*self._target)
        except OSError:
            await trio.aclose_forcefully(client)
            return
        async with trio.open_nursery() as nursery:
            self._open.add(nursery.cancel_scope)
            nursery.start_soon(self._carry, client, server, up, nursery.cancel_scope)
            nursery.start_soon(self._carry, server, client, down, nursery.cancel_scope)
        self._open.discard(nursery.cancel_scope)
        for stream in (client, server):
            close(stream, abrupt=abrupt)

    async def _carry(
        self, source: trio.SocketStream, sink: trio.SocketStream, allowed: int, both: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(65_536):
                await sink.send_all(data[:allowed])
                allowed -= len(data)
                if allowed <= 0:
                    self.cuts += 1
                    self._changed.set()
                    self._changed = trio.Event()
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        both.cancel()


def close(stream: trio.SocketStream, *, abrupt: bool) -> None:
    """Close at once."""
    if abrupt:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@asynccontextmanager
async def open_proxy(ws: str, allowance: Callable[[], Cut]) -> AsyncGenerator[CuttingProxy]:
    """Run a proxy to a server until the end of the block. ``allowance`` says when the next connection is cut."""
    host, port = ws.removeprefix("ws://").partition("/")[0].split(":")
    proxy = CuttingProxy(host, int(port), allowance)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        proxy.port = listeners[0].socket.getsockname()[1]
        await nursery.start(trio.serve_listeners, proxy.serve, listeners)
        yield proxy
        nursery.cancel_scope.cancel()
