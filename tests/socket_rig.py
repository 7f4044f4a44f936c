"""One connection under virtual time: the real socket, over memory, with a peer that does as it is told.

The bytes pass a real `GuardedStream` and a real `BoundedWebSocket`; in place of
the kernel there is memory, which can be made to take no bytes. The requests are
served by a stand-in for the dispatcher whose every wait is a named gate.
"""

import itertools
import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage
from wsproto.events import Request as Handshake

from atrio_agent.streams import Rings, Stream
from atrio_protocol.errors import SessionNotFound
from atrio_protocol.jsonrpc import Notification, Request
from atrio_protocol.methods import Empty, Position, SessionExportResult
from atrio_protocol.struct import WireStruct
from atrio_server.byte_stream import GuardedStream, Transport
from atrio_server.calls import AttachReply, Caller, Key, Later, Reply
from atrio_server.socket import Connection, serve_connection
from atrio_server.web_socket import BoundedWebSocket, open_web_socket

__all__ = ["Gates", "Peer", "Rig", "open_rig"]

Json = dict[str, Any]

LIMIT_S = 30
"""Real seconds, or as many virtual days: a test that waits for what never comes ends."""
DAY_S = 86_400


class Attached(WireStruct, kw_only=True):
    """The reply to `attach`: from where, and whether it was recovered."""

    epoch: str
    seq: int
    recovered: bool


class MemorySocket:
    """What `GuardedStream` asks of a socket, for a stream in memory."""

    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close

    def setsockopt(self, *_args: object) -> None:
        pass

    def shutdown(self, _how: int) -> None:
        pass


class MemoryTransport:
    """The server's end of a connection in memory. ``takes_bytes`` unset: a peer whose buffers are full."""

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self._stream = stream
        self.socket = MemorySocket(self._close)
        self.takes_bytes = True
        self._changed = trio.Event()

    def take_bytes(self, yes: bool) -> None:
        self.takes_bytes = yes
        self._changed.set()
        self._changed = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        while not self.takes_bytes:
            await self._changed.wait()
        await self._stream.send_all(bytes(data))

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    def _close(self) -> None:
        self._stream.send_stream.close()
        self._stream.receive_stream.close()


class Peer:
    """A client that hides nothing: every frame as it came, and nothing sent that a test does not send."""

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self._stream = stream
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._ids = itertools.count(1)
        self._changed = trio.Event()
        self._text = ""
        self.answers_pings = True
        self.pings = 0
        self.frames: list[tuple[float, Json]] = []
        """Every message with the time at which it came."""
        self.closed: int | None = None
        """The close code, once it is closed."""

    async def run(self) -> None:
        """Take what comes until the end."""
        while self.closed is None:
            try:
                data = bytes(await self._stream.receive_some())
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            self._protocol.receive_data(data or None)
            for event in self._protocol.events():
                await self._take(event)
            if not data and self.closed is None:
                self.closed = 1006
            self._changed.set()
            self._changed = trio.Event()

    async def _take(self, event: object) -> None:
        match event:
            case TextMessage():
                self._text += event.data
                if event.message_finished:
                    self.frames.append((trio.current_time(), json.loads(self._text)))
                    self._text = ""
            case Ping():
                self.pings += 1
                if self.answers_pings:
                    await self._send(event.response())
            case CloseConnection():
                self.closed = event.code
                if self._protocol.state is ConnectionState.REMOTE_CLOSING:
                    await self._send(event.response())
            case AcceptConnection() | Pong():
                pass
            case _:
                raise AssertionError(f"unexpected: {event}")

    async def _send(self, event: Any) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stream.send_all(self._protocol.send(event))

    async def send_raw(self, *frames: str | bytes) -> None:
        """Send frames as they are, all in one piece."""
        events: list[Message[Any]] = [
            TextMessage(data=frame) if isinstance(frame, str) else BytesMessage(data=frame) for frame in frames
        ]
        await self._stream.send_all(b"".join(self._protocol.send(event) for event in events))

    async def send(self, method: str, request_id: Any = None, **params: Any) -> Any:
        """Send a request and return its id."""
        request_id = next(self._ids) if request_id is None else request_id
        await self.send_raw(request(method, request_id, **params))
        return request_id

    async def notify(self, method: str, **params: Any) -> None:
        await self.send_raw(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}))

    async def until(self, true: Callable[[], Any]) -> Any:
        """Wait until something that came makes ``true`` so."""
        while not (found := true()):
            if self.closed is not None:
                raise AssertionError(f"closed ({self.closed}) while waiting")
            await self._changed.wait()
        return found

    def answers(self, request_id: Any) -> list[Json]:
        """The answers to a request, as they came."""
        return [frame for _, frame in self.frames if "method" not in frame and frame.get("id") == request_id]

    async def answer(self, request_id: Any) -> Json:
        """Wait for the first answer to a request."""
        return (await self.until(lambda: self.answers(request_id)))[0]

    async def call(self, method: str, **params: Any) -> Any:
        """Send a request and wait for its result."""
        return (await self.answer(await self.send(method, **params)))["result"]

    async def closing(self) -> int:
        """Wait until the connection is closed; the code."""
        while self.closed is None:
            await self._changed.wait()
        return self.closed

    def close(self) -> None:
        """Cut the connection."""
        self._stream.send_stream.close()
        self._stream.receive_stream.close()

    async def say_goodbye(self, *frames_before: str) -> None:
        """Send some frames and a close frame behind them, in one piece."""
        data = b"".join(self._protocol.send(TextMessage(data=frame)) for frame in frames_before)
        await self._stream.send_all(data + self._protocol.send(CloseConnection(code=1000)))

    def key(self) -> bytes:
        """The handshake's key, as the server is to see it."""
        sent = self._protocol.send(Handshake(host="localhost", target="/v1/ws"))
        lines = dict(line.split(b": ", 1) for line in sent.split(b"\r\n")[1:] if b": " in line)
        return lines[b"Sec-WebSocket-Key"]

    # What came, of events.

    def events_frames(self, thing: str = "s") -> list[tuple[float, list[Json]]]:
        """The frames of events of a stream, with their times."""
        return [
            (at, frame["params"]["events"])
            for at, frame in self.frames
            if frame.get("method") in {"session/events", "workspace/events"}
            and thing in (frame["params"].get("sessionId"), frame["params"].get("workspaceId"))
        ]

    def events(self, thing: str = "s") -> list[Json]:
        return [event for _, events in self.events_frames(thing) for event in events]

    def detached(self) -> list[Json]:
        return [
            frame["params"]
            for _, frame in self.frames
            if frame.get("method") in {"session/detached", "workspace/detached"}
        ]

    async def event(self, seq: int, thing: str = "s") -> None:
        """Wait until everything up to ``seq`` has come."""
        await self.until(lambda: any(event["seq"] >= seq for event in self.events(thing)))


def request(method: str, request_id: Any, **params: Any) -> str:
    """A request as text."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})


def contiguous(events: list[Json]) -> bool:
    """Whether the ranges of these events join."""
    return all(
        later.get("firstSeq", later["seq"]) == earlier["seq"] + 1 for earlier, later in itertools.pairwise(events)
    )


class Gates:
    """Named events that open once."""

    def __init__(self) -> None:
        self._events: defaultdict[str, trio.Event] = defaultdict(trio.Event)
        self.cancelled: list[str] = []

    def open(self, name: str) -> None:
        self._events[name].set()

    async def pass_through(self, name: str) -> None:
        try:
            await self._events[name].wait()
        except trio.Cancelled:
            self.cancelled.append(name)
            raise


@dataclass
class Rig:
    """A connection, both of its ends, and what serves its requests."""

    peer: Peer
    transport: MemoryTransport
    caller: Caller
    gates: Gates = field(default_factory=Gates)
    rings: Rings = field(default_factory=Rings)
    streams: dict[str, Stream] = field(default_factory=dict[str, Stream])
    connections: dict[str, Connection] = field(default_factory=dict[str, Connection])
    begun: list[str] = field(default_factory=list[str])
    """What was begun, in order: the ``name`` of each request, or its method."""
    notified: list[str] = field(default_factory=list[str])
    web_socket: BoundedWebSocket | None = None
    served: trio.Event = field(default_factory=trio.Event)

    @property
    def connection(self) -> Connection:
        return self.connections["c"]

    def stream(self, thing: str = "s") -> Stream:
        """The stream of a thing, made when first asked for."""
        return self.streams.setdefault(thing, Stream(self.rings))

    def key(self, thing: str) -> Key:
        return Key("workspace" if thing.startswith("w") else "session", thing)

    async def begin(self, _caller: Caller, request: Request) -> Reply | Later:
        params = cast("Json", msgspec.json.decode(request.params))
        self.begun.append(params.get("name", request.method))
        return await getattr(self, f"_{request.method}")(params)

    async def notify(self, _caller: Caller, notification: Notification) -> None:
        self.notified.append(notification.method)

    async def _echo(self, params: Json) -> Reply:
        return SessionExportResult(content=params.get("text", ""))

    async def _surrogate(self, _params: Json) -> Reply:
        return SessionExportResult(content="\ud800")

    async def _refused(self, _params: Json) -> Reply:
        raise SessionNotFound("There is none.")

    async def _blocking(self, params: Json) -> Reply:
        """Waits in its beginning, which later requests share."""
        await self.gates.pass_through(params["name"])
        return Empty()

    async def _wait(self, params: Json) -> Later:
        """Waits beside the others."""

        async def run() -> Reply:
            await self.gates.pass_through(params["name"])
            if params.get("fail"):
                raise SessionNotFound("There is none any more.")
            return SessionExportResult(content=params["name"])

        behind = tuple(self.key(thing) for thing in params.get("behind", ()))
        return Later(run, by_design=params.get("byDesign", False), behind=behind)

    async def _attach(self, params: Json) -> Later:
        thing = params.get("thing", "s")
        key = self.key(thing)

        async def run() -> Reply:
            if "name" in params:
                await self.gates.pass_through(params["name"])
            stream = self.stream(thing)
            after = Position(**params["after"]) if "after" in params else None
            cursor = stream.cursor(after)
            result = Attached(epoch=stream.epoch, seq=cursor.seq, recovered=cursor.recovered)
            if "then" in params:
                await self.gates.pass_through(params["then"])
            return AttachReply(result, key, cursor)

        return Later(run, after=(key,))

    async def _detach(self, params: Json) -> Later:
        key = self.key(params.get("thing", "s"))

        async def run() -> Reply:
            return Empty()

        return Later(run, after=(key,), detaches=(key,))


@asynccontextmanager
async def open_rig() -> AsyncGenerator[Rig]:
    """Open a connection; at the end of the block it is cut."""
    ours, theirs = memory_stream_pair()
    transport = MemoryTransport(ours)
    peer = Peer(theirs)
    rig = Rig(peer, transport, Caller(connection_id="c", scopes=frozenset(), is_socket=True))

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        stream = GuardedStream(cast("Transport", transport))
        async with trio.open_nursery() as reading:
            rig.web_socket = await open_web_socket(
                reading, stream, path="/v1/ws", key=peer.key(), subprotocol=None, max_message_bytes=4 * 1024 * 1024
            )
            task_status.started()
            await serve_connection(
                rig.web_socket,
                rig.caller,
                rig.begin,
                rig.notify,
                connections=rig.connections,
                parsing=trio.CapacityLimiter(1),
            )
            rig.served.set()
            # As the door does it.
            await rig.web_socket.aclose()
            reading.cancel_scope.cancel()
        stream.close()

    is_virtual = isinstance(trio.lowlevel.current_clock(), MockClock)
    with trio.fail_after(LIMIT_S * DAY_S if is_virtual else LIMIT_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            nursery.start_soon(peer.run)
            await wait_all_tasks_blocked()
            yield rig
            nursery.cancel_scope.cancel()
