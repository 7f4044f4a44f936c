"""The accept loop, and everything between a connection and whoever serves it.

A connection is accepted, its request head read and screened, its Host, Origin
and token checked, and only then handed on: a WebSocket to `serve_socket`, any
other request to the ASGI application through an engine. What is refused is
answered here. One connection is one request, so that every request passes.

Nothing that goes wrong on one connection is noticed by another, or ends the
accept loop: each has a barrier of its own, which lets through only what ends
the whole process. The invariant: when a connection's task ends, its socket is
closed and nothing of it is left.
"""

import itertools
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Final, NamedTuple, cast

import structlog
import trio
from hypercorn.typing import ASGIFramework
from trio_websocket import ConnectionClosed

from atrio_protocol.limits import MAX_CONNECTIONS, MAX_FRAME_BYTES
from atrio_server.auth import Access, Identity
from atrio_server.byte_stream import LINGER_S, WRITE_S, GuardedStream, Transport
from atrio_server.engine import answer
from atrio_server.figures import DoorFigures
from atrio_server.handshake import asks_upgrade, check_version, offered_tokens, select_subprotocol, upgrade_required
from atrio_server.head import Body, Head, PeerGone, read_body, read_head
from atrio_server.listen import is_loopback, network_of
from atrio_server.refusal import Refused
from atrio_server.waiting_room import Stay, WaitingRoom
from atrio_server.web_socket import BoundedWebSocket, open_web_socket

__all__ = ["PUBLIC_PATHS", "SOCKET_PATHS", "DoorLimits", "PeerAddress", "ServeSocket", "serve_door"]

SOCKET_PATHS: Final = frozenset({"/v1/ws"})
"""Paths that speak WebSocket, and nothing else."""

PUBLIC_PATHS: Final = frozenset({"/v1/health", "/v1/version", "/v1/schema.json"})
"""Paths that may be read without a token. Every other one needs it, whether there is something or not."""

PER_ADDRESS: Final = 1_024
"""Connections from one address of another machine, unless it was set otherwise."""

PEER_GONE: Final = (
    PeerGone,
    ConnectionClosed,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    OSError,
)

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class PeerAddress(NamedTuple):
    """Where a connection comes from."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


ServeSocket = Callable[[BoundedWebSocket, Identity, PeerAddress], Awaitable[None]]
"""Serves one open WebSocket and returns when it is done with it; the door closes it then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """Numbers that nobody negotiates."""

    connections: int = MAX_CONNECTIONS
    per_address: int | None = None
    """Connections from one address; None: `PER_ADDRESS`, and this machine's own are not counted."""
    strangers: int = 64
    """Connections for which no token has vouched (yet)."""
    head_s: float = 5.0
    body_s: float = 30.0
    stranger_s: float = 30.0
    """The whole life of a connection without a token."""
    write_s: float = WRITE_S
    body_bytes: int = MAX_FRAME_BYTES
    message_bytes: int = MAX_FRAME_BYTES


async def serve_door(
    listeners: Sequence[trio.abc.Listener[Transport]],
    *,
    access: Access,
    app: ASGIFramework,
    serve_socket: ServeSocket,
    look_again: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    limits: DoorLimits = DoorLimits(),
    figures: DoorFigures | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections and serve them, until cancelled.

    Cancelled, it closes the listeners at once, aborts what is open and returns
    within about a second however the peers behave. WebSockets should have been
    closed by then; requests in work get that second.

    Args:
        listeners: Open ones; they belong to this call from now on.
        access: Who may come in.
        app: Answers what is no WebSocket. Finds the `Identity` or None as ``scope["state"]["identity"]``.
        serve_socket: Serves what is one. A bug in it closes that socket with 1011.
        look_again: Called before somebody is refused for a token that is not known: it may be quite new. Bounded.
        limits: For tests, smaller.
        figures: Where it counts what comes and goes.
        task_status: Started once connections are accepted.
    """
    door = _Door(access, app, serve_socket, look_again, limits, DoorFigures() if figures is None else figures)
    async with trio.open_nursery() as connections:
        accept = partial(trio.serve_listeners, handler_nursery=connections)
        await connections.start(accept, door.serve, list(listeners))
        task_status.started()


class _Guest(NamedTuple):
    """Somebody for whom a token vouches, and what they came for."""

    head: Head
    body: Body
    identity: Identity
    is_socket: bool


@dataclass(slots=True, eq=False)
class _Door:
    access: Access
    app: ASGIFramework
    serve_socket: ServeSocket
    look_again: Callable[[], Awaitable[None]]
    limits: DoorLimits
    figures: DoorFigures
    strangers: WaitingRoom = field(init=False)
    open: int = 0
    by_address: Counter[str] = field(default_factory=Counter[str])
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.strangers = WaitingRoom(self.limits.strangers)

    async def serve(self, accepted: Transport) -> None:
        """Serve one connection. Raises only what ends the process."""
        stream = GuardedStream(accepted, write_s=self.limits.write_s, figures=self.figures)
        self.figures.accepted += 1
        self.open += 1
        try:
            with structlog.contextvars.bound_contextvars(connection=f"c{next(self.numbers)}"):
                await self._serve_behind_barrier(stream)
        finally:
            self.open -= 1
            stream.close()
            if stream.stalled:
                self.figures.stalled += 1
                log.info("door.peer_stalled")

    async def _serve_behind_barrier(self, stream: GuardedStream) -> None:
        try:
            await self._serve(stream)
        except (trio.Cancelled, KeyboardInterrupt, SystemExit):
            raise
        except BaseExceptionGroup as group:
            ending, rest = group.split((trio.Cancelled, KeyboardInterrupt, SystemExit))
            if rest is not None:
                _log_failure(rest)
            if ending is not None:
                raise ending from None
        except BaseException as exc:  # noqa: BLE001  a barrier that lets some errors through is none
            _log_failure(exc)

    async def _serve(self, stream: GuardedStream) -> None:
        peer = PeerAddress(*stream.socket.getpeername()[:2])
        with self._counted(peer) as count:
            await self._serve_peer(stream, peer, count)

    @contextmanager
    def _counted(self, peer: PeerAddress) -> Generator[int]:
        """Count a connection of this address; gives how many there are, or 0 where it does not matter."""
        address = network_of(peer.host)
        if self.limits.per_address is None and is_loopback(peer.host):
            yield 0
            return
        self.by_address[address] += 1
        try:
            yield self.by_address[address]
        finally:
            self.by_address[address] -= 1
            if not self.by_address[address]:
                del self.by_address[address]

    def _check_address(self, count: int) -> None:
        if count > (PER_ADDRESS if self.limits.per_address is None else self.limits.per_address):
            raise Refused(503, "too_many_connections", "too many connections from your address; close some")

    async def _serve_peer(self, stream: GuardedStream, peer: PeerAddress, count: int) -> None:
        try:
            self._check_address(count)
            guest = await self._hear(stream, str(stream.socket.getsockname()[0]))
            if guest is None:
                return
            if guest.is_socket:
                await self._open_socket(stream, guest.head, guest.identity, peer)
            else:
                await self._answer(stream, guest.head, guest.body, guest.identity)
        except Refused as exc:
            refused = exc
        else:
            return
        self.figures.refused[refused.error] += 1
        # Neither path nor header is logged: whoever is confused enough to be refused may have put a token there.
        log.info("door.refused", status=int(refused.status), error=refused.error, peer=str(peer))
        await _say(stream, refused.to_bytes(with_body=not refused.asked_by_head))

    async def _hear(self, stream: GuardedStream, local_address: str) -> _Guest | None:
        """Find out who comes; None when a stranger was answered, or sent away for others who wait."""
        stay = await self._take_place(stream)
        try:
            with stay.scope:
                head, body = await self._read_head(stream)
                try:
                    identity, is_socket = await self._admit(head, body, local_address)
                    if identity is not None:
                        return _Guest(head, body, identity, is_socket)
                    with trio.move_on_after(self.limits.stranger_s):
                        await self._answer(stream, head, body, None)
                except Refused as exc:
                    exc.asked_by_head = head.method == "HEAD"
                    raise
        finally:
            self.strangers.leave(stay)
        return None

    async def _take_place(self, stream: GuardedStream) -> Stay:
        if self.open > self.limits.connections + self.limits.strangers:
            stream.abort()  # so many cannot even be told
            self.figures.refused["not_even_told"] += 1
            raise PeerGone
        stay = None if self.open > self.limits.connections else await self.strangers.enter()
        if stay is None:
            raise Refused(503, "too_many_connections", "too many connections; try again later")
        return stay

    async def _read_head(self, stream: GuardedStream) -> tuple[Head, Body]:
        with trio.move_on_after(self.limits.head_s):
            return await read_head(stream)
        raise Refused(400, "head_too_slow", f"a request head must be complete within {self.limits.head_s:g} s")

    async def _admit(self, head: Head, body: Body, local_address: str) -> tuple[Identity | None, bool]:
        try:
            return self._check(head, body, local_address)
        except Refused as exc:
            # Who brings no token gets no other answer by a look, and could have the disk looked at for nothing.
            if exc.status != HTTPStatus.UNAUTHORIZED or not _may_bring_token(head):
                raise
        await self.look_again()
        return self._check(head, body, local_address)

    def _check(self, head: Head, body: Body, local_address: str) -> tuple[Identity | None, bool]:
        """Who sends this, and whether it becomes a WebSocket; in the order that the contract asks for."""
        if not self.access.check_host(head.host, local_address=local_address):
            raise Refused(403, "foreign_host", "this server does not go by the name in Host; see --allow-host")
        if head.origin is not None and not self.access.check_origin(head.origin, local_address=local_address):
            raise Refused(403, "foreign_origin", "a page of another site may not ask this; see --allow-origin")
        speaks_socket = head.path in SOCKET_PATHS
        is_upgrade = asks_upgrade(head, may=speaks_socket, rest=body.rest)
        identity = self._identify(head, is_upgrade=is_upgrade)
        if identity is None and not (head.path in PUBLIC_PATHS and head.method in {"GET", "HEAD"}):
            raise Refused(
                401,
                "auth_required",
                "this needs the token of the server's state directory, as Authorization: Bearer",
                headers=(("www-authenticate", "Bearer"),),
            )
        if speaks_socket and not is_upgrade:
            raise upgrade_required()
        if is_upgrade:
            check_version(head)
        return identity, is_upgrade

    def _identify(self, head: Head, *, is_upgrade: bool) -> Identity | None:
        """Whom the tokens of this request vouch for: all of them, or nobody."""
        tokens = offered_tokens(head) if is_upgrade else []
        for credentials in head.values(b"authorization"):
            scheme, _, token = credentials.partition(b" ")
            tokens.append(token if scheme.lower() == b"bearer" else b"")
        found = {self.access.check_token(token) for token in tokens}
        return found.pop() if len(found) == 1 else None

    async def _answer(self, stream: GuardedStream, head: Head, body: Body, identity: Identity | None) -> None:
        # Who brings no token brings no body either: it would be kept in memory for nothing.
        max_bytes = 0 if identity is None else self.limits.body_bytes
        content = None
        with trio.move_on_after(self.limits.body_s):
            content = await read_body(stream, head, body, max_bytes=max_bytes)
        if content is None:
            raise Refused(408, "body_too_slow", f"a request body must be complete within {self.limits.body_s:g} s")
        await answer(stream, head.rewritten(len(content)) + content, self.app, {"identity": identity})
        await stream.aclose()

    async def _open_socket(self, stream: GuardedStream, head: Head, identity: Identity, peer: PeerAddress) -> None:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(self.limits.head_s):
                web_socket = await open_web_socket(
                    nursery,
                    stream,
                    path=head.path,
                    key=head.values(b"sec-websocket-key")[0],
                    subprotocol=select_subprotocol(head),
                    max_message_bytes=self.limits.message_bytes,
                )
            code, reason = await self._serve_socket(web_socket, identity, peer)
            await web_socket.aclose(code, reason)
            with trio.move_on_after(LINGER_S):
                await web_socket.finished.wait()
            nursery.cancel_scope.cancel()

    async def _serve_socket(
        self, web_socket: BoundedWebSocket, identity: Identity, peer: PeerAddress
    ) -> tuple[int, str | None]:
        """Serve it; the code and reason to close it with, where that has not happened."""
        try:
            await self.serve_socket(web_socket, identity, peer)
        except Exception as exc:
            if _is_peer_gone(exc):
                return 1000, None
            error_id = secrets.token_hex(4)
            log.exception("door.socket_failed", error_id=error_id)
            return 1011, f"internal error {error_id}"
        return 1000, None


def _may_bring_token(head: Head) -> bool:
    return any(head.values(name) for name in (b"authorization", b"sec-websocket-protocol"))


async def _say(stream: GuardedStream, last_words: bytes) -> None:
    with trio.move_on_after(LINGER_S):
        await stream.send_all(last_words)
    await stream.aclose()


def _log_failure(exc: BaseException) -> None:
    if not _is_peer_gone(exc):
        log.error("door.connection_failed", error_id=secrets.token_hex(4), exc_info=exc)


def _is_peer_gone(exc: BaseException) -> bool:
    """Whether all that happened is that the other side is not there any more."""
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return all(_is_peer_gone(each) for each in group.exceptions)
    return isinstance(exc, PEER_GONE)
