"""HTTP for the providers' SDKs, with a short way for streamed bodies.

The SDKs stand on httpx2, and that on httpcore2 and h11. All of it stays in use
for connections, TLS, pooling, request and response heads. Only the body of a
streamed answer goes another way: through those layers each tiny chunk costs
ten times what it costs read straight off the connection. It is done with public
means: a network backend of our own hands each response head to h11 *alone*, so
that `StreamedBody` may read and unpack what follows; at the end h11 gets the
last chunk, sees an empty body, and the connection goes back into the pool.

Importing this module imports httpx2 (about 0.2 s), so only a thread does it.
Invariant: bytes behind a head go to h11 or to `StreamedBody`, never to both.
"""

import os
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import suppress
from typing import Any, Final, cast

import httpcore2
import httpx2
import trio

from atrio_agent.models.chunked import ChunksMalformed, Dechunker

__all__ = ["FastTransport", "StreamedBody"]

_BLOCK_BYTES: Final = 64 * 1024
_MAX_ERROR_BODY_BYTES: Final = 256 * 1024
_HEAD_END: Final = b"\r\n\r\n"
_HTTPCORE_ERRORS: Final = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.UnsupportedProtocol,
)


class _Connection(httpcore2.AsyncNetworkStream):
    """One connection, as httpcore2 uses it.

    After a write, `read` gives out bytes up to the end of the next head and
    keeps back what came with them.
    """

    def __init__(
        self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream], plain: socket.socket | None = None
    ) -> None:
        self._stream = stream
        self._plain = plain
        self._in_head = False
        self._head = b""
        self._kept: bytes = b""
        self._head_alone = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore2's
        self._head_alone = False
        if self._kept:
            data, self._kept = self._kept[:max_bytes], self._kept[max_bytes:]
            return data
        data = await self._receive(max_bytes, timeout)
        if not self._in_head:
            return data
        known = len(self._head)
        self._head += data
        end = self._head.find(_HEAD_END, max(0, known - len(_HEAD_END) + 1))
        if end < 0:
            return data
        end += len(_HEAD_END) - known
        self._in_head, self._head, self._head_alone = False, b"", True
        self._kept = data[end:]
        return data[:end]

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore2's
        self._in_head, self._head = True, b""
        try:
            with trio.CancelScope(deadline=_deadline(timeout)) as scope:
                await self._stream.send_all(buffer)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise httpcore2.WriteError("the connection broke") from exc
        if scope.cancelled_caught:
            raise httpcore2.WriteTimeout("the server takes nothing")

    async def aclose(self) -> None:
        # Forcefully: closing never waits for the peer, so it needs no budget.
        await trio.aclose_forcefully(self._stream)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's
    ) -> httpcore2.AsyncNetworkStream:
        assert isinstance(self._stream, trio.SocketStream)
        stream = trio.SSLStream(self._stream, ssl_context, server_hostname=server_hostname, https_compatible=True)
        try:
            with trio.CancelScope(deadline=_deadline(timeout)) as scope:
                await stream.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise httpcore2.ConnectError(f"no TLS with {server_hostname}: {exc.__cause__ or exc}") from exc
        if scope.cancelled_caught:
            raise httpcore2.ConnectTimeout(f"no TLS with {server_hostname} in time")
        return _Connection(stream)

    def get_extra_info(self, info: str) -> Any:
        # "is_readable" is how the pool notices that the server hung up on an idle connection.
        if info != "is_readable":
            return None
        stream = self._stream if isinstance(self._stream, trio.SocketStream) else self._stream.transport_stream
        return stream.socket.is_readable()

    def take_body(self) -> Dechunker | None:
        """Begin to read a chunked body past h11; None if h11 has seen some of it already."""
        return Dechunker() if self._head_alone else None

    async def next_block(self, body: Dechunker, *, idle_s: float) -> bytes:
        """Further content of a body; none at its end, where `read` goes on with the last chunk."""
        while not body.ended:
            data = self._kept or await self._receive(_BLOCK_BYTES, idle_s)
            self._kept = b""
            if not data:
                raise httpcore2.RemoteProtocolError("the answer was cut off")
            if content := body.feed(data):
                return content
        self._kept = body.rest
        return b""

    async def _receive(self, max_bytes: int, idle_s: float | None) -> bytes:
        try:
            # A bare scope, not `fail_after`: this runs once a token.
            with trio.CancelScope(deadline=_deadline(idle_s)) as scope:
                if self._plain is None:
                    return bytes(await self._stream.receive_some(max_bytes))
                return await _receive_plain(self._plain, max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as exc:
            raise httpcore2.ReadError("the connection broke") from exc
        assert scope.cancelled_caught
        raise httpcore2.ReadTimeout(f"nothing came for {idle_s:g} s")


async def _receive_plain(plain: socket.socket, max_bytes: int) -> bytes:
    # Tokens come slower than they are read. So wait first: a stream tries first, in vain, for 6 µs more.
    while True:
        await trio.lowlevel.wait_readable(plain)
        with suppress(BlockingIOError):
            return plain.recv(max_bytes)


def _deadline(seconds: float | None) -> float:
    return float("inf") if seconds is None else trio.current_time() + seconds


class _Backend(httpcore2.AsyncNetworkBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,  # noqa: ARG002 - none are ever asked for
    ) -> httpcore2.AsyncNetworkStream:
        try:
            with trio.CancelScope(deadline=_deadline(timeout)) as scope:
                stream = await trio.open_tcp_stream(host, port, local_address=local_address)
                plain = socket.socket(fileno=stream.socket.detach())
                return _Connection(trio.SocketStream(trio.socket.from_stdlib_socket(plain)), plain)
        except OSError as exc:
            raise httpcore2.ConnectError(_reason(exc)) from exc
        assert scope.cancelled_caught
        raise httpcore2.ConnectTimeout(f"no connection within {timeout:g} s")


def _reason(exc: OSError) -> str:
    # Trio says only that all attempts failed; the attempts say why.
    cause: BaseException | None = exc.__cause__
    if isinstance(cause, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", cause)
        cause = group.exceptions[0]
    if isinstance(cause, OSError) and cause.errno is not None:
        return os.strerror(cause.errno)
    return exc.strerror or str(exc)


class FastTransport(httpx2.AsyncBaseTransport):
    """What an `httpx2.AsyncClient` sends through. Connects directly, never through a proxy."""

    def __init__(self, *, max_connections: int, max_keepalive: int, keepalive_s: float) -> None:
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            max_connections=max_connections,
            max_keepalive_connections=max_keepalive,
            keepalive_expiry=keepalive_s,
            network_backend=_Backend(),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        assert isinstance(request.stream, AsyncIterable)
        outgoing = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            response = await self._pool.handle_async_request(outgoing)
        except _HTTPCORE_ERRORS as exc:
            raise _as_httpx(exc) from exc
        # The body of an error is read whole by the SDK, however large it is.
        limit = _MAX_ERROR_BODY_BYTES if response.status >= 400 else float("inf")
        extensions = cast("dict[str, Any]", response.extensions)  # pyright: ignore[reportUnknownMemberType] - theirs
        return httpx2.Response(
            response.status, headers=response.headers, stream=_LongWay(response, limit), extensions=extensions
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _LongWay(httpx2.AsyncByteStream):
    """A body as httpx2 reads it, cut off where ``limit_bytes`` are reached."""

    def __init__(self, response: httpcore2.Response, limit_bytes: float) -> None:
        self._response = response
        self._parts = response.aiter_stream()
        self._left = limit_bytes

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._left <= 0:
            raise StopAsyncIteration
        try:
            part = await anext(self._parts)
        except _HTTPCORE_ERRORS as exc:
            raise _as_httpx(exc) from exc
        self._left -= len(part)
        return part

    async def aclose(self) -> None:
        await self._parts.aclose()
        await self._response.aclose()


def _as_httpx(exc: Exception) -> httpx2.TransportError:
    # httpx2 has a class of the same name for each of httpcore2's.
    error: httpx2.TransportError = getattr(httpx2, type(exc).__name__)(str(exc))
    return error


class StreamedBody:
    """The content of a streamed answer, in blocks as they arrive.

    Takes the short way where the answer allows it, the ordinary one otherwise (a
    proxy, another coding, a body with a length).

    Args:
        response: Not read yet. Closing it stays the caller's business.
        idle_s: Seconds without a byte after which the server counts as gone.
    """

    def __init__(self, response: httpx2.Response, *, idle_s: float) -> None:
        self._idle_s = idle_s
        self._rest = response.aiter_bytes()
        connection = response.extensions.get("network_stream")
        coding = response.headers.get("transfer-encoding", "").lower(), response.headers.get("content-encoding", "")
        self._connection = connection if isinstance(connection, _Connection) and coding == ("chunked", "") else None
        self._chunks = self._connection and self._connection.take_body()

    async def next(self) -> bytes | None:
        """The next block, None at the end.

        Raises:
            httpx2.TransportError: The rest of the answer is lost.
        """
        if self._connection is not None and self._chunks is not None:
            try:
                if block := await self._connection.next_block(self._chunks, idle_s=self._idle_s):
                    return block
            except _HTTPCORE_ERRORS as exc:
                raise _as_httpx(exc) from exc
            except ChunksMalformed as exc:
                raise httpx2.RemoteProtocolError(str(exc)) from exc
            # What is left is the last chunk. Read the long way, it gives the connection back to the pool.
            self._chunks = None
        return await anext(self._rest, None)

    async def aclose(self) -> None:
        """Read no further."""
        await self._rest.aclose()
