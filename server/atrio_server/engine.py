"""One plain HTTP request through hypercorn, and nothing but that request.

hypercorn turns a request into an ASGI call and the call into a response. It
does so here for bytes that the door has read, screened and written anew, over a
stream that only pretends to be a network, in a scope that ends with the answer.
Each piece below keeps one thing away from it (0.18, with quart-trio 0.12) that
has ended a process or hung one, and says when it may go.

It never closes the connection; whoever calls `answer` does. The invariant: when
`answer` returns, nothing that it started runs any more.
"""

import secrets
from collections.abc import Callable
from typing import Any, Final, cast

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope

from atrio_server.byte_stream import SLICE_BYTES, GuardedStream
from atrio_server.head import MAX_HEAD_BYTES

__all__ = ["GRACE_S", "answer"]

GRACE_S: Final = 1.0
"""How long a request that is being answered may go on when the server stops."""

GONE_S: Final = 5.0
"""How long a peer that sends no more still gets its answer: it may be gone, or have closed only its own direction."""


def _config() -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = None  # it writes to stderr by itself; what goes wrong is logged by `_OneAnswer`
    config.include_server_header = False
    config.keep_alive_max_requests = 1  # says so in the answer; the second request would pass no door
    config.h11_max_incomplete_size = 2 * MAX_HEAD_BYTES  # what the door let in is never too large
    return config


CONFIG: Final = _config()

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def answer(stream: GuardedStream, request: bytes, app: ASGIFramework, state: dict[str, Any]) -> None:
    """Have ``app`` answer one request, and write its answer.

    Cancelled from outside, it goes on for at most `GRACE_S` and aborts the connection then.

    Args:
        stream: Where the answer goes. It is read only to notice that the peer is gone.
        request: Head and body of one request, complete.
        app: The ASGI application.
        state: What the application finds as ``scope["state"]``.
    """
    request_scope = trio.CancelScope(shield=True)
    finished = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_abort_after_grace, stream, request_scope, finished)
        with request_scope:
            # hypercorn asks for a stream with TLS or a socket, and uses what `_RequestStream` has.
            pretended = cast("trio.SSLStream[trio.SocketStream]", _RequestStream(stream, request, request_scope))
            await TCPServer(_OneAnswer(app, request_scope), CONFIG, WorkerContext(None), state, pretended).run()
        finished.set()
        nursery.cancel_scope.cancel()


class _RequestStream:
    """The network as hypercorn sees it: one request, then silence until the peer goes.

    Left alone with a network, hypercorn dies of what follows a WebSocket
    handshake, of h2c, of ``PRI`` and of bytes over 127 (hypercorn#225 and kin).
    May go when none of `tests/server/door/test_hostile_heads.py` ends a process
    that serves hypercorn directly.
    """

    def __init__(self, stream: GuardedStream, request: bytes, request_scope: trio.CancelScope) -> None:
        self._stream = stream
        self._request_scope = request_scope
        self._unread = memoryview(request)
        self.socket = stream.socket

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._request_scope.cancel()  # nothing that the application still says will be heard
            raise

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._unread:
            await trio.lowlevel.checkpoint()
            piece = bytes(self._unread[:SLICE_BYTES])
            self._unread = self._unread[SLICE_BYTES:]
            return piece
        while await self._stream.receive_some(max_bytes):
            pass  # a further request, which nobody asked for
        await trio.sleep(GONE_S)
        return b""

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()  # closing is the door's

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class _OneAnswer:
    """The application, for one request; with its return the request is over.

    quart-trio cancels the very task in which hypercorn would close, so that every
    connection stays open. A handler that returns before it has read its body
    leaves hypercorn waiting for somebody to take the rest. And a send to a peer
    that is gone returns without letting any other task run. May go when a
    connection that answered ``connection: close`` closes by itself, with an
    unread body too, and when such a send is a checkpoint.
    """

    def __init__(self, app: ASGIFramework, request_scope: trio.CancelScope) -> None:
        self._app = app
        self._request_scope = request_scope

    async def __call__(
        self,
        scope: Scope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        sync_spawn: Callable[..., object],
        call_soon: Callable[..., object],
    ) -> None:
        del sync_spawn, call_soon  # for applications in threads
        started = False

        async def send_and_let_others_run(event: ASGISendEvent) -> None:
            nonlocal started
            started = True
            await send(event)
            await trio.lowlevel.checkpoint()

        error_id = None
        try:
            await self._app(scope, receive, send_and_let_others_run)
        except Exception:
            error_id = secrets.token_hex(4)
            log.exception("door.app_failed", error_id=error_id)
        if error_id is not None and not started:
            await _send_internal_error(send, error_id)
        self._request_scope.cancel()


async def _send_internal_error(send: ASGISendCallable, error_id: str) -> None:
    body = b'{"error":"internal","message":"a bug of the server; its log has it as %s"}' % error_id.encode("ascii")
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _abort_after_grace(stream: GuardedStream, request_scope: trio.CancelScope, finished: trio.Event) -> None:
    """End a request that the server's end has overtaken.

    hypercorn writes under a shield, so that a peer that stops reading outlasts
    every cancellation; only closing the socket under it ends that write. May go
    when a cancelled `TCPServer.run` returns while its peer reads nothing.
    """
    try:
        await trio.sleep_forever()
    finally:
        request_scope.deadline = trio.current_time() + GRACE_S
        with trio.move_on_after(GRACE_S, shield=True):
            await finished.wait()
        if not finished.is_set():
            stream.abort()
