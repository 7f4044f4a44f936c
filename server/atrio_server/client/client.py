"""A connection to an Atrio server that mends itself.

`open_client` connects once, and says so at once if that fails. From then on a
lost connection is dialled again, with growing delays, for at most ``give_up_s``:
meanwhile calls wait, and afterwards the streams attach where they were and what
was not answered and may be repeated is sent again. When the time is over, or the
server refuses the token, everything that waits gets the error.

Nothing of this changes what the server does: what it has accepted it goes on
with, whether anybody is connected or not.
"""

import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import msgspec
import trio

from atrio_protocol.errors import error_from_object
from atrio_protocol.jsonrpc import Notification, Response, encode_notification, encode_request, parse_message
from atrio_protocol.limits import HISTORY_LIMIT_DEFAULT
from atrio_protocol.methods import (
    METHODS,
    CancelRequestParams,
    InitializeParams,
    InitializeResult,
    PeerInfo,
    Position,
)
from atrio_protocol.struct import UNSET, UnsetType, WireStruct, given
from atrio_protocol.version import PROTOCOL_VERSION, VERSION
from atrio_server.client.errors import AnswerBroken, FrameTooLarge, ServerGone
from atrio_server.client.keep import Address, Route, keep_connected
from atrio_server.client.link import Dial, Link, dial_tcp
from atrio_server.client.nursery import open_plain_nursery
from atrio_server.client.pending import Answer, Pending
from atrio_server.client.stream import EventStream, Frame, Key, SessionStream, WorkspaceStream
from atrio_server.client.typed import TypedCalls, begins, may_repeat, sweeps, with_run_id

__all__ = ["Client", "open_client"]

CLOSE_S: Final = 1.0
"""How long a clean close may take, with what is still in line."""

AnyStream = TypeVar("AnyStream", bound=EventStream[Any])


class _StreamNote(msgspec.Struct, rename="camel"):
    epoch: str = ""
    events: list[msgspec.Raw] = []  # msgspec gives each its own
    session_id: str | UnsetType = UNSET
    workspace_id: str | UnsetType = UNSET
    reason: str = ""


class Client(TypedCalls):
    """What `open_client` yields. It belongs to the Trio run that made it."""

    def __init__(self) -> None:
        self.server: InitializeResult
        """What the server said of itself when the newest connection began."""
        self.on_connection: Callable[[bool], None] = lambda _: None
        """Called with False when the connection is lost, and with True when there is one again."""
        self.closing = False
        """The block of `open_client` is being left."""
        self._pending = Pending()
        self._streams: dict[Key, EventStream[Any]] = {}
        self._nameless: list[EventStream[Any]] = []
        self._link: Link | None = None
        self._ended: Exception | None = None
        self._decided = trio.Event()

    @property
    def client_id(self) -> str:
        """The author of what this client does, over all its connections."""
        return self.server.client_id

    def session(
        self,
        session_id: str,
        *,
        after: Position | None = None,
        history_limit: int = HISTORY_LIMIT_DEFAULT,
        watch: tuple[str, ...] = (),
    ) -> SessionStream:
        """Attach to a session, after what the reader has, and read its events.

        Args:
            session_id: The session.
            after: The last event that the reader has; without it the first item is a `Resync`.
            history_limit: How many messages a snapshot has at most, newest kept.
            watch: Runs that every snapshot is to show, also when they have completed. They need not exist yet.

        Raises:
            ValueError: This client reads that session already.
        """
        stream = SessionStream(self, session_id, after, history_limit, watch)
        if stream.key in self._streams:
            raise ValueError(f"session {session_id} is being read already")
        self._streams[stream.key] = stream
        return self._attach(stream)

    def workspace(self, path: str, *, after: Position | None = None) -> WorkspaceStream:
        """Open and claim the workspace of a directory, and read its events.

        Whether it is one that this client reads already is known only then: its first item is a ValueError.
        """
        stream = WorkspaceStream(self, path, after)
        self._nameless.append(stream)
        return self._attach(stream)

    def _attach(self, stream: AnyStream) -> AnyStream:
        if self._ended is not None:
            stream.fail(self._ended)
        elif self._link is not None:
            stream.attach_soon()
        return stream

    async def _call(self, method: str, params: WireStruct) -> WireStruct:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._ended is not None:
            raise self._ended.with_traceback(None)
        params = with_run_id(params)
        request_id = self._pending.next_id()
        frame = encode_request(request_id, method, params)
        limit_bytes = self.server.limits.max_frame_bytes
        if len(frame) > limit_bytes:
            raise FrameTooLarge(f"the request is larger than the {limit_bytes} bytes that the server takes")
        came = trio.Event()
        answers: list[Answer] = []

        def done(answer: Answer) -> None:
            answers.append(answer)
            came.set()

        self._pending.add(
            request_id,
            frame.decode(),
            done,
            method=method,
            repeatable=may_repeat(method, params),
            begins=begins(params),
            sweeps=sweeps(method, params),
        )
        if self._link is not None:
            self._pending.send(request_id, self._link)
        try:
            await came.wait()
        finally:
            self._give_up(request_id)  # nothing, where the answer has come
        match answers[0]:
            case Exception() as error:
                raise error.with_traceback(None)  # all who wait may share it
            case result:
                try:
                    return msgspec.json.decode(result, type=METHODS[method].result)
                except (msgspec.DecodeError, RecursionError) as exc:
                    raise AnswerBroken(f"the server's answer to {method} is not what the contract says: {exc}") from exc

    def _give_up(self, request_id: str) -> None:
        if self._link is not None and self._pending.tries(request_id):
            params = CancelRequestParams(request_id=msgspec.Raw(msgspec.json.encode(request_id)))
            self._link.send_soon(encode_notification("$/cancel_request", params).decode())
        self._pending.forget(request_id)

    # What a stream needs (`atrio_server.client.stream.Line`).

    def ask_once_soon(self, method: str, params: WireStruct, done: Callable[[Answer], None]) -> None:
        """Send a request on the present connection, if there is one."""
        if self._link is not None:
            request_id = self._pending.next_id()
            frame = encode_request(request_id, method, params)
            self._pending.add(request_id, frame.decode(), done, method=method, one_link=True)
            self._pending.send(request_id, self._link)

    def route(self, stream: EventStream[Any]) -> bool:
        """Bring the frames of its key to this stream; False if they go to another one already."""
        if stream in self._nameless:
            self._nameless.remove(stream)
        if stream.key is None:
            return False
        other = self._streams.setdefault(stream.key, stream)
        if other is not stream:
            other.lagged()  # what was opened twice goes on where the second time began
        return other is stream

    def is_wanted(self, key: Key) -> bool:
        """Whether a stream reads what has this key, or may turn out to."""
        return key in self._streams or (key.of == "workspace" and bool(self._nameless))

    def forget(self, stream: EventStream[Any]) -> None:
        """Bring nothing to this stream any more."""
        if stream in self._nameless:
            self._nameless.remove(stream)
        if stream.key is not None and self._streams.get(stream.key) is stream:
            del self._streams[stream.key]

    # What keeps the connection (`atrio_server.client.keep.Owner`).

    def connection_made(self, link: Link, server: InitializeResult) -> None:
        """Attach every stream where it was, then send what was not answered."""
        again = self._decided.is_set()
        self._decided.set()
        self.server = server
        self._link = link
        for stream in [*self._streams.values(), *self._nameless]:
            stream.attach_soon()
        self._pending.send_all(link)
        if again:
            self.on_connection(True)

    def connection_lost(self, *, soon: bool) -> None:
        """Sort out what can wait for the next connection."""
        self._link = None
        for stream in list(self._streams.values()) + self._nameless:
            stream.detach_nowait()
        self._pending.connection_lost(soon=soon)
        if not self.closing:
            self.on_connection(False)

    def gone(self, error: Exception) -> None:
        """Tell everybody who waits. Nothing, when it was told before."""
        if self._ended is not None:
            return
        self._ended = error
        self._decided.set()
        for stream in list(self._streams.values()) + self._nameless:
            stream.fail(error)
        self._pending.fail(error)

    def frame_came(self, text: str) -> None:
        """Hand an answer to who asked, and events to their stream."""
        match parse_message(text):
            case Response(key=key, result=result, error=None):
                self._pending.answer(key, bytes(result or b"null"))
            case Response(key=key, error=error) if error is not None:
                self._pending.answer(key, error_from_object(error))
            case Notification(method=method, params=params):
                self._stream_note(method, params)
            case _:
                pass  # a server asks nothing of a client in this version

    def _stream_note(self, method: str, params: msgspec.Raw) -> None:
        of, _, what = method.partition("/")
        if of not in {"session", "workspace"} or what not in {"events", "detached"}:
            return
        note = msgspec.json.decode(params, type=_StreamNote)
        key = Key("session", given(note.session_id, ""))
        if of == "workspace":
            key = Key("workspace", given(note.workspace_id, ""))
        stream = self._streams.get(key)
        if stream is None:
            return  # closed here, and the server does not know it yet
        if what == "events":
            stream.take(Frame(note.epoch, note.events))
        elif note.reason == "lagged":
            stream.lagged()
        else:
            stream.detached(note.reason)

    async def wait_connected(self) -> None:
        """Wait until the first try has succeeded, or raise why it has not. `open_client` does it."""
        await self._decided.wait()
        if self._ended is not None:
            raise self._ended

    async def aclose(self) -> None:
        """Send what is in line, then close the connection. `open_client` does it, bounded."""
        self.closing = True
        await trio.lowlevel.checkpoint()
        if self._link is not None:
            await self._link.aclose()


@asynccontextmanager
async def open_client(
    url: str,
    token: str,
    *,
    client_name: str,
    client_id: str | None = None,
    user_name: str | None = None,
    give_up_s: float = 30.0,
    locate: Callable[[], Address] | None = None,
    dial: Dial = dial_tcp,
) -> AsyncGenerator[Client]:
    """Connect to a server, and stay connected until the block is left.

    Args:
        url: Such as ``ws://127.0.0.1:4317/v1/ws``.
        token: What opens the server; see ``atrio token show``.
        client_name: The program, shown to others as the author when there is no ``user_name``.
        client_id: A UUID that names this process over all its connections; made here when absent.
        user_name: The person.
        give_up_s: For how long a lost server is looked for, in seconds.
        locate: Asked before each further try, where a server that restarts may move.
        dial: Opens the byte stream to the server.

    Raises:
        ServerGone: There is no server there. Later on it comes out of what waits, not out of here.
        AuthRequired, Forbidden: It does not let us in.
        WireError: It refuses the connection for another reason, such as `UnsupportedProtocol`.
    """
    hello = InitializeParams(
        protocol_version=PROTOCOL_VERSION,
        client_info=PeerInfo(name=client_name, version=VERSION),
        client_id=client_id or str(uuid.uuid4()),
        user_name=UNSET if user_name is None else user_name,
    )
    first = Address(url, token)
    route = Route(
        locate=locate or (lambda: first),
        dial=dial,
        hello=encode_request("initialize", "initialize", hello).decode(),
        give_up_s=give_up_s,
    )
    async with open_plain_nursery() as nursery:
        client = Client()
        nursery.start_soon(keep_connected, client, route)
        try:
            await client.wait_connected()
            yield client
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await client.aclose()
            client.gone(ServerGone("this client was closed"))
            nursery.cancel_scope.cancel()
