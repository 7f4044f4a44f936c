"""A door on a real socket of this machine, and a client that sends exactly the bytes it is told.

The application behind the door is the real one, its backend and the WebSocket
service are stand-ins that echo. Every wait here is bounded.
"""

import json
import math
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio
from hypercorn.typing import ASGIFramework
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs
from structlog.typing import EventDict
from trio.lowlevel import Task
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from atrio_server.auth import Access, Identity
from atrio_server.door import DoorLimits, PeerAddress, ServeSocket, serve_door
from atrio_server.identity import Keyring
from atrio_server.listen import Listening, TlsFiles, open_listeners
from atrio_server.web import make_app

TOKEN = "T" * 43
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""What RFC 6455 says that `KEY` is answered with."""

WAIT_S = 30.0
"""How long anything may take that must come in the end."""

SOON_S = 4.5
"""How long what nothing holds up may take: more than a machine stands still, less than the five seconds of the door's
shortest limits, by whose end something that was held up would go on."""

DEFAULTS = DoorLimits()


@dataclass
class Answer:
    """What came back over one connection until the server closed it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    reset: bool = False

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name.lower()]
        return found[0] if found else None

    @property
    def json(self) -> dict[str, str]:
        return json.loads(self.body)


def parse_answer(data: bytes, *, reset: bool = False) -> Answer:
    """Read the last answer in ``data``; status 0 where there is none."""
    while data.startswith(b"HTTP/1.1 100"):
        data = data.partition(b"\r\n\r\n")[2]
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if not lines[0].startswith("HTTP/1.1 "):
        return Answer(0, [], data, reset)
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
    return Answer(int(lines[0].split()[1]), headers, body, reset)


async def echo(web_socket: WebSocketConnection, identity: Identity, peer: PeerAddress) -> None:
    """Send every message back; ``who`` is answered with the token's name."""
    while True:
        message = await web_socket.get_message()
        await web_socket.send_message(identity.token_name if message == "who" else message)


@dataclass
class EchoBackend:
    """Answers a message with itself, but for some that do as they are told."""

    closing: bool = False
    asked: list[tuple[Identity, str | None]] = field(default_factory=list[tuple[Identity, str | None]])
    cancelled: int = 0
    wait_s: float = math.inf

    async def metrics(self) -> tuple[bytes, str]:
        return b"echo_figures 1\n", "text/plain"

    async def rpc(self, body: bytes, identity: Identity, client_id: str | None) -> bytes | None:
        self.asked.append((identity, client_id))
        match body:
            case b'"wait"':
                try:
                    with trio.move_on_after(self.wait_s):
                        await trio.sleep_forever()
                except trio.Cancelled:
                    self.cancelled += 1
                    raise
            case b'"huge"':
                return b'"' + b"x" * 64 * 1024 * 1024 + b'"'
            case b'"bug"':
                raise RuntimeError("a bug")
            case b'"notify"':
                return None
            case _:
                pass
        return body


OWN = ""
"""Stands for the client's own token."""


@dataclass
class DoorClient:
    """A client of a door on this machine that sends exactly the bytes it is told."""

    port: int
    token: str = TOKEN

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    def head(self, path: str = "/v1/health", *lines: str, method: str = "GET", token: str | None = None) -> bytes:
        """A request head as an honest client writes it."""
        all_lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *lines]
        if token is not None:
            all_lines.append(f"Authorization: Bearer {token or self.token}")
        return "\r\n".join(all_lines).encode("latin-1") + b"\r\n\r\n"

    def handshake(self, *lines: str, path: str = "/v1/ws", token: str | None = OWN, version: str = "13") -> bytes:
        """A WebSocket handshake as an honest client writes it."""
        standard = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}")
        return self.head(path, *standard, f"Sec-WebSocket-Version: {version}", *lines, token=token)

    async def ask(self, data: bytes, *, finish: bool = False) -> Answer:
        """Send bytes over a connection of their own and read until the server closes it."""
        stream = await self.connect()
        with trio.fail_after(WAIT_S):
            async with stream:
                try:
                    await stream.send_all(data)
                    if finish:
                        await stream.send_eof()
                except trio.BrokenResourceError:
                    pass  # refused before it was all said; the answer is there nevertheless
                return await read_answer(stream)

    async def rpc(self, body: bytes, *lines: str) -> Answer:
        """POST a message as an honest client does."""
        lines = ("Content-Type: application/json", f"Content-Length: {len(body)}", *lines)
        return await self.ask(self.head("/v1/rpc", *lines, method="POST", token=OWN) + body)

    @asynccontextmanager
    async def socket(self) -> AsyncGenerator[WebSocketConnection]:
        """An open WebSocket of an honest client."""
        stream = await self.connect()
        async with trio.open_nursery() as nursery:
            with trio.fail_after(WAIT_S):
                web_socket = await wrap_client_stream(
                    nursery,
                    stream,
                    f"127.0.0.1:{self.port}",
                    "/v1/ws",
                    extra_headers=[(b"Authorization", f"Bearer {self.token}".encode())],
                    max_message_size=64 * 1024 * 1024,
                )
            yield web_socket
            nursery.cancel_scope.cancel()
            await trio.aclose_forcefully(stream)

    @asynccontextmanager
    async def raw_socket(self) -> AsyncGenerator[trio.SocketStream]:
        """A WebSocket after its handshake, as plain bytes."""
        async with await self.connect() as stream:
            with trio.fail_after(WAIT_S):
                await stream.send_all(self.handshake())
                answered = b""
                while not answered.endswith(b"\r\n\r\n"):
                    answered += await stream.receive_some(1)
                assert answered.startswith(b"HTTP/1.1 101"), answered
            yield stream


@dataclass(kw_only=True)
class DoorRig(DoorClient):
    """An open door, and its client."""

    access: Access
    backend: EchoBackend
    task: Task
    listening: Listening
    log: list[EventDict]
    idle_tasks: int = 0

    def errors(self) -> list[EventDict]:
        """What the server has logged as its own fault."""
        return [entry for entry in self.log if entry["log_level"] in {"error", "critical"}]

    async def settle(self, *, connections: int = 0) -> None:
        """Wait until so many connections are left. Fails where more stay."""
        await until(lambda: self.connections() <= connections)

    def connections(self) -> int:
        """How many connections the door has a task for."""
        (nursery,) = self.task.child_nurseries
        return len(nursery.child_tasks) - self.idle_tasks


@asynccontextmanager
async def open_door(
    *,
    limits: DoorLimits = DEFAULTS,
    serve_socket: ServeSocket = echo,
    app: ASGIFramework | None = None,
    tls: TlsFiles | None = None,
    allow_hosts: tuple[str, ...] = (),
    allow_origins: tuple[str, ...] = (),
    host: str = "127.0.0.1",
    insecure: bool = False,
) -> AsyncGenerator[DoorRig]:
    """Open a door on a free port; on the way out, it is cancelled and must be gone soon."""
    backend = EchoBackend()
    listening = await open_listeners(host, 0, tls=tls, insecure=insecure)
    access = Access(
        keyring=Keyring(TOKEN),
        port=listening.port,
        bound=listening.addresses,
        secure=listening.secure,
        allow_hosts=allow_hosts,
        allow_origins=allow_origins,
    )
    serve = partial(
        serve_door,
        listening.listeners,
        access=access,
        app=app or make_app(backend),
        serve_socket=serve_socket,
        limits=limits,
    )
    with capture_logs([merge_contextvars]) as log:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            (task,) = nursery.child_tasks
            rig = DoorRig(port=listening.port, access=access, backend=backend, task=task, listening=listening, log=log)
            rig.idle_tasks = rig.connections()
            yield rig
            started_at = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - started_at < SOON_S


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nobody announces. Fails where it does not come."""
    with trio.fail_after(WAIT_S):
        while not condition():  # noqa: ASYNC110  that is what this is for
            await trio.sleep(0.005)


async def read_answer(stream: trio.abc.ReceiveStream) -> Answer:
    """Read until the server closes. The caller bounds it in time, as `DoorRig.ask` does."""
    received = bytearray()
    try:
        while data := await stream.receive_some(65536):
            received += data
    except trio.BrokenResourceError:
        return parse_answer(bytes(received), reset=True)
    return parse_answer(bytes(received))


async def close_code(web_socket: WebSocketConnection) -> int:
    """Read until the server closes the WebSocket, and return its close code."""
    with trio.fail_after(WAIT_S):
        try:
            while True:
                await web_socket.get_message()
        except ConnectionClosed as exc:
            return exc.reason.code if exc.reason else 1006


async def read_frames(stream: trio.abc.ReceiveStream) -> list[tuple[int, bytes]]:
    """Every frame until the server closes: opcode and payload."""
    received = bytearray()
    with trio.fail_after(WAIT_S):
        try:
            while data := await stream.receive_some(65536):
                received += data
        except trio.BrokenResourceError:
            pass
    return list(_frames(bytes(received)))


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, masked: bool = True) -> bytes:
    """One WebSocket frame of a client; the mask is zero, so that its bytes can be read."""
    first = bytes([opcode | (0x80 if fin else 0)])
    mask = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        length = bytes([mask | size])
    elif size < 65536:
        length = bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([mask | 127]) + size.to_bytes(8, "big")
    return first + length + (b"\0\0\0\0" if masked else b"") + payload


def _frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) > 1:  # a reset may cut the last one anywhere
        size, start = data[1] & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        yield data[0] & 0x0F, data[start : start + size]
        data = data[start + size :]
