"""The events of a session or of a workspace, read in order across reconnects.

A stream remembers the last event it holds and attaches after it whenever there
is a connection again, so the reader sees no gap and no repeat. Where the server
cannot go on from there, the reader gets a `Resync` with a snapshot instead; that
is also the first item when it starts from nothing.

All but the reader's own methods run in the task that reads the connection, and
never wait: the answer to an attach must have taken effect before the frame after
it is looked at. A reader that is slow is not waited for either. What it has not
taken is kept up to `BUFFER_BYTES`; beyond, the stream stops listening and, once
the reader has caught up, attaches after what it has.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import msgspec
import trio

from atrio_protocol.errors import ServerClosing
from atrio_protocol.events import Event, decode_event
from atrio_protocol.methods import (
    Attached,
    AttachedStream,
    AttachParams,
    OpenParams,
    OpenResult,
    Position,
    SessionParams,
    SessionSnapshot,
    WorkspaceParams,
    WorkspaceSnapshot,
)
from atrio_protocol.struct import UNSET, UnsetType, WireStruct, given
from atrio_protocol.things import Workspace
from atrio_server.client.errors import StreamBroken

__all__ = ["Detached", "EventStream", "Frame", "Key", "Line", "Resync", "SessionStream", "WorkspaceStream"]

S = TypeVar("S")

BUFFER_BYTES: Final = 8 * 1024 * 1024
"""What is kept for a reader that is slow, in bytes of JSON."""


class Key(NamedTuple):
    """Which stream of a connection a frame belongs to."""

    of: Literal["session", "workspace"]
    thing_id: str


class Frame(msgspec.Struct):
    """The events that one notification brought."""

    epoch: str
    events: list[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Resync(Generic[S]):
    """The server cannot go on from where the reader was: this is the state as of ``position``."""

    snapshot: S
    position: Position


@dataclass(frozen=True, slots=True)
class Detached:
    """The last item: the server ended the stream."""

    reason: str


class Line(Protocol):
    """What a stream needs of its client."""

    def ask_once_soon(self, method: str, params: WireStruct, done: Callable[[bytes | Exception], None]) -> None:
        """Send a request if there is a connection; ``done`` is not called if it breaks first."""
        ...

    def route(self, stream: "EventStream[Any]") -> bool:
        """From now on, bring it the frames of its key; False if another stream has them."""
        ...

    def is_wanted(self, key: Key) -> bool:
        """Whether a stream reads what has this key."""
        ...

    def forget(self, stream: "EventStream[Any]") -> None:
        """Bring it nothing any more."""
        ...


class EventStream(Generic[S]):
    """Iterate it with ``async for``: events, `Resync`s, and at most one `Detached`, at the end.

    Leave it with ``with`` or `close`. One reader at a time.
    """

    def __init__(self, line: Line, after: Position | None) -> None:
        self.position = after
        """The last event that the reader has taken."""
        self.raw = b""
        """The item last taken, as the server wrote it."""
        self.recovered: bool | None = None
        """How the newest attach went: on from where the stream was, or with a `Resync`. None before there was one."""
        self._line = line
        self._tail = after
        self._items: deque[tuple[Event | Resync[S] | Detached, bytes]] = deque()
        self.buffered_bytes = 0
        """What waits here for the reader, in bytes of JSON."""
        self._state: Literal["away", "asking", "live", "full", "over"] = "away"
        self._error: Exception | None = None
        self._is_read = False
        self._news = trio.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | Resync[S] | Detached:
        """The next item.

        Raises:
            StopAsyncIteration: The server ended the stream, or `close` was called.
            WireError: The server refuses to attach, such as for a session that is not there.
            ServerGone: There is no server any more.
            StreamBroken: The server broke its promise of an unbroken order.
            trio.BusyResourceError: Another task reads this stream.
        """
        await trio.lowlevel.checkpoint()
        if self._is_read:
            raise trio.BusyResourceError("another task reads this stream")
        self._is_read = True
        try:
            await self._wait_for_item()
        finally:
            self._is_read = False
        item, self.raw = self._items.popleft()
        self.buffered_bytes -= len(self.raw)
        if isinstance(item, Resync):
            self.position = item.position
        elif isinstance(item, Event) and self.position is not None:
            self.position = Position(epoch=self.position.epoch, seq=item.seq)
        return item

    async def _wait_for_item(self) -> None:
        while not self._items:
            if self._error is not None:
                raise self._error.with_traceback(None)
            if self._state == "over":
                raise StopAsyncIteration
            if self._state == "full":
                self._state = "away"
                self.attach_soon()
            self._news = trio.Event()
            await self._news.wait()

    def close(self) -> None:
        """Stop reading. Does not wait; safe to call twice."""
        asking = self._state == "asking"
        if self._state != "over":
            self._over(None)
            if not asking:
                self._detach_soon()
        self._items.clear()

    # Below: called by the client, in the task that reads the connection.

    def attach_soon(self) -> None:
        """There is a connection: ask to go on after what is here. Changes nothing while the buffer is full."""
        if self._state == "away":
            self._state = "asking"
            self._line.ask_once_soon(*self._attach_request(self._tail), self._attached)

    def detach_nowait(self) -> None:
        """The connection broke, or the server no longer sends: nothing comes until `attach_soon`."""
        if self._state in {"asking", "live"}:
            self._state = "away"

    def lagged(self) -> None:
        """The server ended the attachment because it could not keep up; go on from here."""
        if self._state == "live":
            self._state = "away"
            self.attach_soon()

    def detached(self, reason: str) -> None:
        """The server ended the stream for good."""
        if self._state != "over":
            self._items.append((Detached(reason), b""))
            self._over(None)

    def fail(self, error: Exception) -> None:
        """There is nothing more to come: the reader gets what is here, then ``error``."""
        if self._state != "over":
            self._over(error)

    def take(self, frame: Frame) -> None:
        """Events of this stream have come."""
        if self._state != "live" or self._tail is None:
            return
        tail = self._tail.seq
        for raw in frame.events:
            event = decode_event(raw)
            if frame.epoch != self._tail.epoch or given(event.first_seq, event.seq) != tail + 1:
                self._over(StreamBroken(f"after event {tail} came {given(event.first_seq, event.seq)}"))
                return
            tail = event.seq
            self._keep(event, bytes(raw))
        self._tail = Position(epoch=frame.epoch, seq=tail)
        if self.buffered_bytes > BUFFER_BYTES:
            self._state = "full"

    def _attached(self, answer: bytes | Exception) -> None:
        if self._state == "over":
            if not isinstance(answer, Exception):
                self._read_answer(answer)
                self._detach_soon()  # closed before the answer came
            return
        if isinstance(answer, ServerClosing):
            self._state = "away"  # its socket closes next; then there is another connection, or none
            return
        if isinstance(answer, Exception):
            self._over(answer)
            return
        stream, snapshot = self._read_answer(answer)
        if not self._line.route(self):
            self._over(ValueError("this client reads that workspace already"))
            return
        self._state = "live"
        self.recovered = stream.recovered
        if not stream.recovered:
            self._tail = Position(epoch=stream.epoch, seq=stream.seq)
            if snapshot is not UNSET:
                self._keep(Resync(snapshot, self._tail), answer)

    def _keep(self, item: Event | Resync[S], raw: bytes) -> None:
        self._items.append((item, raw))
        self.buffered_bytes += len(raw)
        self._news.set()

    def _detach_soon(self) -> None:
        request = self._detach_request()
        # Another stream may have taken its place: on the server there is one for each key.
        if request is not None and self.key is not None and not self._line.is_wanted(self.key):
            self._line.ask_once_soon(*request, lambda _: None)

    def _over(self, error: Exception | None) -> None:
        self._state = "over"
        self._error = error
        self._line.forget(self)
        self._news.set()

    # What sessions and workspaces do differently.

    @property
    def key(self) -> Key | None:
        """Which frames are its own; None before that is known."""
        raise NotImplementedError

    def _attach_request(self, after: Position | None) -> tuple[str, WireStruct]:
        raise NotImplementedError

    def _detach_request(self) -> tuple[str, WireStruct] | None:
        raise NotImplementedError

    def _read_answer(self, answer: bytes) -> tuple[AttachedStream, S | UnsetType]:
        raise NotImplementedError


class SessionStream(EventStream[SessionSnapshot]):
    """The events of one session."""

    def __init__(
        self, line: Line, session_id: str, after: Position | None, history_limit: int, watch: tuple[str, ...]
    ) -> None:
        super().__init__(line, after)
        self.session_id = session_id
        self._history_limit = history_limit
        self._watch = watch

    def _attach_request(self, after: Position | None) -> tuple[str, WireStruct]:
        return "session/attach", AttachParams(
            session_id=self.session_id,
            after=after or UNSET,
            history_limit=self._history_limit,
            watch=self._watch,
        )

    @property
    def key(self) -> Key:
        return Key("session", self.session_id)

    def _detach_request(self) -> tuple[str, WireStruct]:
        return "session/detach", SessionParams(session_id=self.session_id)

    def _read_answer(self, answer: bytes) -> tuple[AttachedStream, SessionSnapshot | UnsetType]:
        result = msgspec.json.decode(answer, type=Attached)
        return result.stream, result.snapshot


class WorkspaceStream(EventStream[WorkspaceSnapshot]):
    """The events of one workspace. Closing it gives up the claim, and the client's sessions there."""

    def __init__(self, line: Line, path: str, after: Position | None) -> None:
        super().__init__(line, after)
        self.workspace: Workspace | None = None
        """Known from the first item on."""
        self._path = path

    def _attach_request(self, after: Position | None) -> tuple[str, WireStruct]:
        return "workspace/open", OpenParams(path=self._path, after=after or UNSET)

    @property
    def key(self) -> Key | None:
        return Key("workspace", self.workspace.workspace_id) if self.workspace else None

    def _detach_request(self) -> tuple[str, WireStruct] | None:
        if self.workspace is None:
            return None
        return "workspace/close", WorkspaceParams(workspace_id=self.workspace.workspace_id)

    def _read_answer(self, answer: bytes) -> tuple[AttachedStream, WorkspaceSnapshot | UnsetType]:
        result = msgspec.json.decode(answer, type=OpenResult)
        if result.stream is UNSET:
            raise msgspec.ValidationError("over a socket an open attaches")
        self.workspace = result.workspace
        return result.stream, result.snapshot
