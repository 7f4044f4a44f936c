"""A server that gives every request the same answer, as a local model server gives its list of models."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import trio

__all__ = ["open_list_server"]


@asynccontextmanager
async def open_list_server(
    body: bytes, *, head: bytes | None = None, says_length: bool = True, lets_wait: bool = False
) -> AsyncGenerator[int]:
    """Run the server on a free loopback port, which is yielded.

    Args:
        body: The answer.
        head: The status and headers; else those that fit.
        says_length: Whether the head tells the length, and the connection stays open.
        lets_wait: Whether there is no answer at all.
    """
    length = b"\r\nContent-Length: %d" % len(body) if says_length else b""
    answer = (head or b"HTTP/1.1 200 OK\r\nContent-Type: application/json" + length) + b"\r\n\r\n" + body

    async def answer_on(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if not lets_wait:
            await stream.send_all(answer)
        if lets_wait or says_length:
            await stream.receive_some()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            # Who has read enough goes away, and may leave some of it unread.
            with suppress(trio.BrokenResourceError):
                await answer_on(stream)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()
