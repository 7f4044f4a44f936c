"""The connection to an MCP server by HTTP: the SDK's transport, with limits of ours.

Redirects are followed only where they stay with the server that is configured
(the SDK sees to that), so its headers go nowhere else. An answer over the limit
ends that request.

Importing this module imports the SDK: only a thread does it.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._stream_protocols import WriteStream
from mcp.shared.message import SessionMessage

from atrio_agent.mcp.process import MAX_LINE_BYTES
from atrio_agent.mcp.server import McpServer

__all__ = ["open_web"]

_CONNECT_S: Final = 10
_SILENCE_S: Final = 300
"""Streams may be silent for long. Calls have their own limit."""

Receive = Callable[[], Awaitable[SessionMessage | Exception]]


class AnswerTooLarge(httpx2.StreamError):
    """An answer went on beyond the limit."""


class _Limited(httpx2.AsyncByteStream):
    """The body of an answer, up to the limit."""

    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self._body = body
        self._pieces = aiter(body)
        self._size = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = await anext(self._pieces)
        self._size += len(piece)
        if self._size > MAX_LINE_BYTES:
            raise AnswerTooLarge("the answer is too large")
        return piece

    async def aclose(self) -> None:
        await self._body.aclose()


@asynccontextmanager
async def open_web(server: McpServer) -> AsyncGenerator[tuple[Receive, WriteStream[SessionMessage]]]:
    """Open the SDK's transport: what receives a message, and what messages are sent to. Asks nothing yet."""
    assert server.url is not None
    async with (
        httpx2.AsyncClient(
            headers=dict(server.headers),
            timeout=httpx2.Timeout(_SILENCE_S, connect=_CONNECT_S),
            event_hooks={"response": [_limit]},
        ) as client,
        streamable_http_client(server.url, http_client=client, max_sse_event_size=MAX_LINE_BYTES) as (reader, writer),
    ):
        yield reader.__anext__, writer


async def _limit(response: httpx2.Response) -> None:
    """Limit an answer that is read as a whole; the SDK limits each event of a stream."""
    kind = response.headers.get("content-type", "")
    if not kind.lower().startswith("text/event-stream") and isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Limited(response.stream)
