"""The short way for streamed bodies, beside the ordinary one, against a server that answers byte by byte."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import httpx2
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from atrio_agent.models.transport import FastTransport, StreamedBody

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MOST_S = 60

Serve = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def open_client(serve: Serve) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of a server that calls ``serve`` once for each connection."""

    async def serve_quietly(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):
                await serve(stream)

    with trio.fail_after(MOST_S):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        base_url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        transport = FastTransport(max_connections=4, max_keepalive=4, keepalive_s=30)
        async with trio.open_nursery() as nursery, httpx2.AsyncClient(transport=transport, base_url=base_url) as client:
            await nursery.start(trio.serve_listeners, serve_quietly, listeners)
            yield client
            nursery.cancel_scope.cancel()


async def get(client: httpx2.AsyncClient, *, idle_s: float = MOST_S) -> bytes:
    async with client.stream("GET", "/") as response:
        body = StreamedBody(response, idle_s=idle_s)
        content = b""
        while (block := await body.next()) is not None:
            content += block
        return content


def answering(*answers: tuple[bytes, ...]) -> Serve:
    """A server that answers one request after the other, each piece in a segment of its own."""

    async def serve(stream: trio.SocketStream) -> None:
        for pieces in answers:
            await stream.receive_some(65536)
            for piece in pieces:
                await stream.send_all(piece)
                await wait_all_tasks_blocked()

    return serve


async def test_a_body_is_read_whole_wherever_it_is_cut() -> None:
    answer = CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    cuts = range(1, len(answer))
    async with open_client(answering(*((answer[:cut], answer[cut:]) for cut in cuts))) as client:
        assert [await get(client) for _ in cuts] == [b"abcde"] * len(cuts)


async def test_the_connection_serves_the_next_request() -> None:
    answer = CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"
    async with open_client(answering((answer,), (answer,), (answer,))) as client:
        assert [await get(client) for _ in range(3)] == [b"abc"] * 3


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Length: 3\r\n\r\nabc",
        HEAD + b"Connection: close\r\n\r\nabc",
        CHUNKED + b"3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n",
    ],
)
async def test_other_forms_of_a_body_are_read_too(answer: bytes) -> None:
    async with open_client(answering((answer,))) as client:
        assert await get(client) == b"abc"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"SSH-2.0-server\r\n\r\n",
        CHUNKED,
        CHUNKED + b"3\r\nab",
        CHUNKED + b"3\r\nabc\r\n",
        CHUNKED + b"3\r\nabcdef\r\n",
        CHUNKED + b"no size\r\nabc\r\n",
        HEAD + b"Content-Length: 9\r\n\r\nabc",
    ],
)
async def test_a_broken_answer_is_a_transport_error(answer: bytes) -> None:
    async with open_client(answering((answer,))) as client:
        with pytest.raises(httpx2.TransportError):
            await get(client)


async def test_a_server_that_falls_silent_is_given_up() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(CHUNKED + b"3\r\nabc\r\n")
        await stream.receive_some(1)

    async with open_client(serve) as client:
        with pytest.raises(httpx2.ReadTimeout, match=r"nothing came for 0\.05 s"):
            await get(client, idle_s=0.05)


async def test_leaving_in_the_middle_closes_the_connection() -> None:
    left = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(CHUNKED + b"3\r\nabc\r\n")
        assert await stream.receive_some(1) == b""
        left.set()

    async with open_client(serve) as client:
        async with client.stream("GET", "/") as response:
            assert await StreamedBody(response, idle_s=MOST_S).next() == b"abc"
        await left.wait()
