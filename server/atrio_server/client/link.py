"""One connection to a server, from the handshake to its end.

A link carries text frames both ways and notices when the other side is gone. It
knows neither requests nor sessions, and it never reconnects: that is
`atrio_server.client.client`. Only its writer task sends, because a send that is
cancelled half-way corrupts the stream; so a frame is put in line by `send_soon`
and the writer lives exactly as long as the connection.
"""

import math
import os
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, cast
from urllib.parse import urlsplit

import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from atrio_protocol.errors import AuthRequired, Forbidden
from atrio_server.client.nursery import open_plain_nursery

__all__ = ["Dial", "Link", "Unreachable", "dial_tcp", "open_link"]

Dial = Callable[[str], Awaitable[trio.abc.Stream]]
"""Opens a byte stream to the server of a ``ws://`` or ``wss://`` URL, or raises OSError."""

QUIET_S: Final = 20.0
"""After so much silence the link asks whether the server is still there."""

ANSWER_S: Final = 20.0
"""And after so much more silence it takes the server for gone."""

MAX_MESSAGE_CHARS: Final = 64 * 1024 * 1024
"""Largest message taken from a server. Its own frames stay under 1 MiB but for single large messages."""

PING: Final = '{"jsonrpc":"2.0","id":"ping","method":"ping","params":{}}'


class Unreachable(Exception):
    """There is no connection. Trying again may help."""


async def dial_tcp(url: str) -> trio.abc.Stream:
    """Connect by TCP, and by TLS where the URL says ``wss``."""
    parts = urlsplit(url)
    secure = parts.scheme == "wss"
    host = parts.hostname or "127.0.0.1"
    stream = await trio.open_tcp_stream(host, parts.port or (443 if secure else 80))
    if not secure:
        return stream
    return trio.SSLStream(stream, ssl.create_default_context(), server_hostname=host, https_compatible=True)


class Link:
    """An open connection. Made by `open_link`, not by hand."""

    def __init__(self, socket: WebSocketConnection, stream: trio.abc.Stream) -> None:
        self._socket = socket
        self._stream = stream
        self._outbox, self._line = trio.open_memory_channel[tuple[str, Callable[[], bool] | None]](math.inf)
        self._drained = trio.Event()
        self._closing = False
        self._closed = trio.Event()
        self._heard_at = trio.current_time()

    async def exchange(self, text: str) -> str:
        """Send one frame and return the next one that comes. Only before `run`.

        Raises:
            Unreachable: The connection broke. The link is of no more use.
        """
        try:
            await self._socket.send_message(text)
            answer = await self._socket.get_message()
        except ConnectionClosed as exc:
            raise Unreachable(f"the server closed the connection ({_why(exc)})") from None
        if isinstance(answer, bytes):
            raise Unreachable("the server does not speak the protocol (a binary frame)")
        return answer

    def send_soon(self, text: str, *, on_write: Callable[[], bool] | None = None) -> None:
        """Put a frame in line. ``on_write`` is called when its turn comes, and says whether to write it still."""
        try:
            self._outbox.send_nowait((text, on_write))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return  # the link is at its end; whoever waits for an answer learns it from `run`

    async def run(self, on_frame: Callable[[str], None]) -> str:
        """Carry frames until the connection ends, and return why it ended."""
        why = "it did not answer"
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._write)
            nursery.start_soon(self._notice_silence)
            try:
                while True:
                    frame = await self._socket.get_message()
                    self._heard_at = trio.current_time()
                    if isinstance(frame, str):
                        on_frame(frame)
            except ConnectionClosed as exc:
                why = _why(exc)
            if self._closing:
                await self._closed.wait()  # the goodbye needs the connection until it is answered
            nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint()
        return why

    async def aclose(self) -> None:
        """Write what is in line, then close. The caller bounds it in time."""
        self._closing = True
        self._outbox.close()
        try:
            await self._drained.wait()
            await self._socket.aclose()
        finally:
            self._closed.set()

    async def _write(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            while True:
                text, on_write = await self._line.receive()
                if on_write is not None and not on_write():
                    continue
                await self._socket.send_message(text)
        except (trio.EndOfChannel, ConnectionClosed):
            pass  # `run` reads the end of the connection as well, and says so
        finally:
            self._drained.set()

    async def _notice_silence(self) -> None:
        while True:
            await trio.sleep_until(self._heard_at + QUIET_S)
            asked_at = trio.current_time()
            if asked_at < self._heard_at + QUIET_S:
                continue
            self.send_soon(PING)
            await trio.sleep(ANSWER_S)
            if self._heard_at < asked_at:
                await trio.aclose_forcefully(self._stream)
                return


@asynccontextmanager
async def open_link(url: str, token: str, dial: Dial) -> AsyncGenerator[Link]:
    """Connect to ``url`` and shake hands. The caller bounds it in time.

    Raises:
        Unreachable: Nobody there, or nobody who speaks WebSocket at this path.
        AuthRequired, Forbidden: The server is there and refuses us; trying again is pointless.
    """
    parts = urlsplit(url)
    try:
        stream = await dial(url)
    except (OSError, ssl.SSLError, trio.BrokenResourceError) as exc:
        raise Unreachable(_sentence(exc)) from exc
    watched = _Watched(stream)
    try:
        async with open_plain_nursery() as nursery:
            socket: WebSocketConnection | None = None
            with trio.CancelScope() as shaking:
                watched.on_end = shaking.cancel
                socket = await wrap_client_stream(
                    cast("trio.Nursery", _Barrier(nursery, watched)),
                    # Any stream will do; the annotation there is narrower than the code.
                    cast("trio.SocketStream", watched),
                    parts.netloc.rpartition("@")[2],
                    parts.path or "/",
                    extra_headers=[(b"Authorization", b"Bearer " + token.encode("ascii", "replace"))],
                    message_queue_size=16,
                    max_message_size=MAX_MESSAGE_CHARS,
                    receive_buffer_size=65_536,
                )
            if isinstance(watched.error, ConnectionRejected):
                raise _refusal(watched.error)
            if socket is None:
                raise Unreachable(_sentence(watched.error) if watched.error else "it hung up during the handshake")
            yield Link(socket, stream)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time()):
            await trio.aclose_forcefully(stream)


class _Watched(trio.abc.Stream):
    """Tells when the stream ends: trio-websocket waits for ever for a server that hangs up in the handshake."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.on_end: Callable[[], None] = lambda: None
        self.error: BaseException | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._ended_by_errors():
            await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        with self._ended_by_errors():
            data = await self._stream.receive_some(max_bytes)
        if not data:
            self.on_end()
        return data

    async def aclose(self) -> None:
        self.on_end()
        await self._stream.aclose()

    @contextmanager
    def _ended_by_errors(self) -> Generator[None]:
        try:
            yield
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.error = exc.__cause__
            self.on_end()
            raise


class _Barrier:
    """A nursery for the reader of trio-websocket, which fails of many an odd byte that a server may send."""

    def __init__(self, nursery: trio.Nursery, watched: _Watched) -> None:
        self._nursery = nursery
        self._watched = watched

    def start_soon(self, read: Callable[[], Awaitable[None]]) -> None:
        """Start the reader; what it fails of ends the connection and nothing else."""
        self._nursery.start_soon(self._run, read)

    async def _run(self, read: Callable[[], Awaitable[None]]) -> None:
        try:
            await read()
        except ConnectionRejected as exc:
            self._watched.error = exc
        except Exception:  # noqa: BLE001 - h11 and wsproto raise what they like
            self._watched.error = Unreachable("it does not speak WebSocket")
        self._watched.on_end()


def _refusal(exc: ConnectionRejected) -> Exception:
    match exc.status_code:
        case 401:
            return AuthRequired("the server does not accept this token")
        case 403:
            return Forbidden("the server does not answer to this host name")
        case status:
            return Unreachable(f"it answered HTTP {status}")


def _why(exc: ConnectionClosed) -> str:
    reason = exc.reason
    if reason is None:
        return "connection closed"
    return f"close code {reason.code}" + (f", {reason.reason}" if reason.reason else "")


def _sentence(exc: BaseException) -> str:
    """What an operating system error says, without its number; of several, the first."""
    if isinstance(exc, BaseExceptionGroup):
        return _sentence(cast("BaseExceptionGroup[BaseException]", exc).exceptions[0])
    if isinstance(exc, OSError) and exc.errno is not None:
        # Trio puts the address into `strerror`; a failed look-up of a name has a negative number.
        return os.strerror(exc.errno) if exc.errno > 0 else exc.strerror or str(exc)
    if isinstance(exc, OSError) and exc.__cause__ is not None:
        return _sentence(exc.__cause__)
    return str(exc) or type(exc).__name__
