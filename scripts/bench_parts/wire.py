"""A WebSocket client that is as little as possible, so that what is measured is the server.

Plain sockets and `select`; messages are decoded only as far as counting needs.
It is no client to use: it trusts its peer, sends whole frames only
and masks with zeros, which the standard permits and which costs nothing.
"""

import base64
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

__all__ = ["Connection", "Message", "Seen", "drain"]

_RECEIVE_BYTES = 1024 * 1024
_WAIT_S = 30.0


class RunSeen(msgspec.Struct, rename="camel"):
    run_id: str
    stop_reason: str = ""


class Seen(msgspec.Struct, rename="camel"):
    """An event, as far as the benchmark looks at it."""

    seq: int
    type: str
    first_seq: int = 0
    text: str = ""
    run: RunSeen | None = None

    @property
    def stands_for(self) -> int:
        """How many events were merged into this one."""
        return self.seq - (self.first_seq or self.seq) + 1


class _Params(msgspec.Struct, rename="camel"):
    session_id: str = ""
    events: list[Seen] = msgspec.field(default_factory=list)


class Message(msgspec.Struct):
    """A reply, if it has an id; else a notification."""

    id: int | None = None
    method: str = ""
    params: _Params = msgspec.field(default_factory=_Params)
    result: msgspec.Raw = msgspec.Raw(b"{}")
    error: msgspec.Raw = msgspec.Raw(b"")

    @property
    def session_events(self) -> list[Seen]:
        """Its events, if they are a session's: the workspace's stream tells some of them again."""
        return self.params.events if self.method == "session/events" else []


_decoder = msgspec.json.Decoder(Message)


class Connection:
    """One socket, already upgraded, initialised and ready for requests."""

    def __init__(self, port: int, token: str, *, path: str = "/v1/ws") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.session_id = ""
        self._buffer = bytearray()
        self._next_id = 0
        self._kept: list[Message] = []
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(b'atrio-benchmark!').decode()}",
            "Sec-WebSocket-Version: 13",
            f"Authorization: Bearer {token}",
        ]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(head.splitlines()[0].decode())
        self._buffer[:] = rest
        self.call("initialize", protocolVersion=1, clientInfo={"name": "bench", "version": "1"})

    def close(self) -> None:
        self.socket.close()

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, method: str, **params: Any) -> int:
        """Send a request and return its id."""
        self._next_id += 1
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params})
        self.socket.sendall(_frame(0x1, body))
        return self._next_id

    def kept(self) -> list[Message]:
        """What came while a reply was waited for."""
        kept, self._kept = self._kept, []
        return kept

    def receive(self) -> list[Message]:
        """Wait for bytes and return the messages that are complete with them, perhaps none."""
        self._fill()
        return list(self._messages())

    def call(self, method: str, **params: Any) -> Any:
        """Send a request and wait for its result; what else comes is `kept`."""
        request = self.send(method, **params)
        kept: list[Message] = []
        reply: Message | None = None
        while reply is None:
            for message in self.receive():
                if message.id == request:
                    reply = message
                else:
                    kept.append(message)
        self._kept += kept
        if reply.error:
            raise RuntimeError(f"{method}: {bytes(reply.error).decode()}")
        return msgspec.json.decode(reply.result)

    def make_session(self, path: str) -> str:
        """Open the workspace and make a session with a title of its own."""
        workspace = self.call("workspace/open", path=path)["workspace"]["workspaceId"]
        session: str = self.call("session/new", workspaceId=workspace, title="bench")["session"]["sessionId"]
        return session

    def new_session(self, path: str) -> str:
        """Open the workspace, make a session and attach to it."""
        session = self.make_session(path)
        self.attach(session)
        return session

    def attach(self, session_id: str) -> None:
        self.session_id = session_id
        self.call("session/attach", sessionId=session_id, historyLimit=1)

    def prompt(self, model: str, *, text: str = "go on", **more: Any) -> int:
        """Send a prompt for this mock behaviour and return the request's id."""
        prompt = [{"type": "text", "text": text}]
        return self.send("session/prompt", sessionId=self.session_id, prompt=prompt, model=f"openai/{model}", **more)

    def _fill(self) -> None:
        data = self.socket.recv(_RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data

    def _messages(self) -> Iterator[Message]:
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 2:
            opcode, size, body = buffer[at] & 0x0F, buffer[at + 1] & 0x7F, at + 2
            if size == 126:
                size, body = int.from_bytes(buffer[at + 2 : at + 4]), at + 4
            elif size == 127:
                size, body = int.from_bytes(buffer[at + 2 : at + 10]), at + 10
            if len(buffer) < body + size:
                break
            at = body + size
            if opcode == 0x1:
                yield _decoder.decode(memoryview(buffer)[body:at].tobytes())
            elif opcode == 0x9:
                self.socket.sendall(_frame(0xA, bytes(buffer[body:at])))
            elif opcode == 0x8:
                raise ConnectionError(f"the server closed with {int.from_bytes(buffer[body : body + 2])}")
        del buffer[:at]


def _frame(opcode: int, body: bytes) -> bytes:
    size = len(body)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + size.to_bytes(2) if size < 65_536 else b"\xff" + size.to_bytes(8)
    return bytes([0x80 | opcode]) + length + bytes(4) + body


def drain(
    connections: Sequence[Connection],
    handle: Callable[[Connection, Message, int], None],
    done: Callable[[], bool],
    *,
    limit_s: float = _WAIT_S,
) -> None:
    """Read from all connections and hand on each message with the time (ns) at which it came, until ``done``.

    Raises:
        TimeoutError: It was not done within ``limit_s``.
    """
    deadline = time.monotonic() + limit_s
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, connection)
            for message in connection.kept():
                handle(connection, message, time.monotonic_ns())
        while not done():
            ready = selector.select(deadline - time.monotonic())
            if time.monotonic() >= deadline:
                raise TimeoutError("the server did not answer in time")
            for key, _ in ready:
                messages = key.data.receive()
                now_ns = time.monotonic_ns()
                for message in messages:
                    handle(key.data, message, now_ns)
