"""One WebSocket connection: what it reads, what it writes, how it is kept alive and how it ends.

One task reads: it starts each request in the order received and spawns only
what has to wait. One task writes, and no other sends messages: replies first,
then whatever is new in the attached streams. A send that is cancelled half-way
would corrupt the socket, so the writer is cancelled only together with it.

The end of a connection cancels its waiting requests and drops its cursors; no
run, claim or workspace ends here. What was received before the end is still
begun. Sizes, time limits of writes and the stream itself are the door's affair.
"""

import math
import secrets
from typing import Final

import msgspec
import structlog
import trio
from trio_websocket import ConnectionClosed

from atrio_protocol.errors import (
    InternalError,
    InvalidRequest,
    ParseFailed,
    RequestCancelled,
    ServerClosing,
    WireError,
)
from atrio_protocol.jsonrpc import (
    SMALL_BYTES,
    Message,
    Notification,
    Request,
    encode_error,
    encode_result,
    parse_message,
    request_key,
)
from atrio_protocol.limits import MAX_IN_FLIGHT, MAX_WAITING
from atrio_protocol.methods import CancelRequestParams
from atrio_protocol.struct import WireStruct
from atrio_server.attachments import Attachments
from atrio_server.calls import AttachReply, Begin, Caller, Key, Later, Notify, Reply
from atrio_server.keepalive import KeepAlive
from atrio_server.outbox import Outbox, Work
from atrio_server.turnstile import LARGE_BYTES, Turnstile
from atrio_server.web_socket import BoundedWebSocket

__all__ = ["CLOSE_S", "Connection", "serve_connection"]

BURST_BYTES: Final = 64 * 1024
"""So much is collected at most before it is written. A write may wake the peer, which costs more than the message."""

CLOSE_S: Final = 1.0
"""How long a close frame may wait for its echo; what still comes is read and dropped meanwhile."""

log = structlog.get_logger("atrio.socket")


class Connection:
    """A connection that is being served. Made by `serve_connection`."""

    def __init__(
        self,
        ws: BoundedWebSocket,
        caller: Caller,
        begin: Begin,
        notify: Notify,
        *,
        parsing: trio.CapacityLimiter,
        turnstile: Turnstile,
    ) -> None:
        self.caller = caller
        self._ws = ws
        self._begin = begin
        self._notify = notify
        self._parsing = parsing
        self._turnstile = turnstile
        self._attachments = Attachments(self._wake)
        self._outbox = Outbox(self._wake, max_in_flight=MAX_IN_FLIGHT, max_waiting=MAX_WAITING)
        caller.check_waiting = self._outbox.check_waiting
        caller.check_attaching = self._attachments.check_room
        self._news: trio.Event | None = None
        self._burst: list[str] = []
        self._burst_bytes = 0
        self._burst_has_events = False
        self._in_burst: list[Work] = []
        self._reading = trio.CancelScope()
        self._closing: tuple[int, str] | None = None
        self._drain_until = -math.inf
        self._drained = trio.Event()
        self._gone = trio.Event()
        self._keep_alive = KeepAlive(ws.ping)

    @property
    def attachments(self) -> tuple[Key, ...]:
        """The streams that it is attached to now."""
        return self._attachments.keys

    @property
    def most_behind(self) -> int:
        """By how many events its client lags in the stream in which it lags most."""
        return self._attachments.most_behind

    def close_soon(self, code: int, reason: str = "") -> bool:
        """Stop reading and close with this code. Does not wait; a close that has begun stays as it is.

        Returns:
            Whether it begins now.
        """
        if self._closing is not None:
            return False
        self._closing = code, reason
        self._reading.cancel()
        return True

    async def drain_and_close(self, code: int, deadline: float) -> None:
        """Stop reading, let the client have what there is for it, close, and wait until the connection is gone.

        What there is: everything in the attached streams, and the replies of
        requests that do not wait by design. Shortly before ``deadline`` it is
        closed, and at ``deadline`` dropped, with whatever is still to be sent.
        """
        self._drain_until = deadline
        self.close_soon(code)
        self._wake()
        await self._gone.wait()

    async def serve(self) -> None:
        """Serve until either side closes. Raises nothing that the peer can cause."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch, nursery)
                with self._reading:
                    await self._read(nursery)
                await self._close()
                nursery.cancel_scope.cancel()
        finally:
            self._attachments.end_all()
            closed = self._ws.closed
            log.info("connection closed", connection=self.caller.connection_id, code=closed and int(closed.code))
            for gone in self.caller.on_close:
                gone()
            self._gone.set()

    # Reading.

    async def _read(self, nursery: trio.Nursery) -> None:
        """Start requests in the order in which they come, until the peer closes or breaks the rules."""
        self._keep_alive.pause()
        while True:
            await self._outbox.room()
            self._keep_alive.resume()
            try:
                data = await self._ws.get_message()
            except ConnectionClosed:
                return
            self._keep_alive.pause()
            if isinstance(data, bytes):
                self.close_soon(1003, "one JSON message in a text frame")
                return
            try:
                message = await self._parse(data)
            except (ParseFailed, InvalidRequest) as exc:
                self._outbox.refuse(exc.request_id, exc)
                continue
            if isinstance(message, Request):
                await self._start(message, nursery)
            elif isinstance(message, Notification):
                await self._note(message)

    async def _parse(self, data: str) -> Message:
        if len(data) <= SMALL_BYTES:
            return parse_message(data)
        return await trio.to_thread.run_sync(parse_message, data, limiter=self._parsing)

    async def _start(self, request: Request, nursery: trio.Nursery) -> None:
        outbox = self._outbox
        try:
            work = outbox.open(request)
        except InvalidRequest as exc:
            outbox.refuse(request.id, exc)
            return
        try:
            outcome = await self._begin(self.caller, request)
            if isinstance(outcome, Later):
                nursery.start_soon(self._finish, work, outcome, outbox.postpone(work, outcome))
            else:
                outbox.answer(work, outcome)
        except WireError as exc:
            outbox.answer(work, exc)
        except trio.Cancelled:
            # We stop reading. What it waited for has not happened, so it can be sent again elsewhere.
            outbox.answer(work, ServerClosing("The connection is being closed."))
            raise

    async def _finish(self, work: Work, later: Later, earlier: list[trio.Event]) -> None:
        assert work.scope is not None
        with work.scope:
            for answered in earlier:
                await answered.wait()
            try:
                outcome: Reply | WireError = await later.run()
            except WireError as exc:
                outcome = exc
            self._outbox.answer(work, outcome)
            return
        self._outbox.answer(work, RequestCancelled("The request was given up."))

    async def _note(self, notification: Notification) -> None:
        if notification.method != "$/cancel_request":
            await self._notify(self.caller, notification)
            return
        try:
            wanted = msgspec.json.decode(notification.params, type=CancelRequestParams).request_id
            self._outbox.give_up(request_key(wanted))
        except (msgspec.DecodeError, InvalidRequest):
            return  # a notification has no answer, not even this one

    # Writing.

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()

    async def _write(self) -> None:
        """Send whatever there is, a reply before a frame of events. The only task that sends messages."""
        outbox, attachments = self._outbox, self._attachments
        try:
            while True:
                work = outbox.take()
                if work is not None:
                    await self._reply(work)
                frame = attachments.next_frame(trio.current_time(), along=self._burst_has_events)
                if frame is not None:
                    self._burst_has_events = True
                    await self._put(frame)
                if work is not None or frame is not None:
                    continue
                if self._burst:
                    await self._flush()
                    continue
                if self._closing is not None and outbox.settled and attachments.drained:
                    self._drained.set()
                self._news = trio.Event()
                if attachments.next_at == math.inf:
                    await self._news.wait()
                else:
                    with trio.move_on_at(attachments.next_at):
                        await self._news.wait()
                self._news = None
        except ConnectionClosed:
            self._write_no_more()

    def _write_no_more(self) -> None:
        """The peer takes nothing any more. What it sent before that is still read."""
        self._outbox.abandon()
        self._attachments.end_all()
        self._drained.set()

    async def _reply(self, work: Work) -> None:
        attachments, outcome = self._attachments, work.outcome
        assert outcome is not None
        for key in work.behind:
            head = attachments.head(key)
            while (frame := attachments.frame_up_to(key, head)) is not None:
                await self._put(frame)
        if isinstance(outcome, WireError):
            data = encode_error(work.request_id, outcome.to_object())
        else:
            for key in work.detaches:
                attachments.end(key)
            if isinstance(outcome, AttachReply):
                attachments.begin(outcome.key, outcome.cursor)
                outcome = outcome.result
            data = self._encode(work, outcome)
        self._in_burst.append(work)
        await self._put(data.decode())

    def _encode(self, work: Work, result: WireStruct) -> bytes:
        assert work.request_id is not None
        try:
            return encode_result(work.request_id, result)
        except (TypeError, ValueError):
            # Text that is none, such as half a surrogate pair, got into a result: our bug, not the socket's end.
            error_id = secrets.token_hex(6)
            log.exception("result cannot be encoded", connection=self.caller.connection_id, error_id=error_id)
            error = InternalError("The server failed to put its answer into words.", id=error_id)
            return encode_error(work.request_id, error.to_object())

    async def _put(self, text: str) -> None:
        """Add a message to what is written next."""
        self._burst.append(text)
        self._burst_bytes += len(text)
        if self._burst_bytes >= BURST_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        if self._burst_bytes >= LARGE_BYTES:
            await self._turnstile.enter(self._burst_bytes)
        burst, self._burst = self._burst, []
        self._burst_bytes, self._burst_has_events = 0, False
        replies, self._in_burst = self._in_burst, []
        self._keep_alive.pause()
        await self._ws.send_messages(burst)
        self._keep_alive.resume()
        for work in replies:
            self._outbox.written(work)

    # Life and end.

    async def _watch(self, nursery: trio.Nursery) -> None:
        """Notice the end of a connection that nobody reads or writes at the moment."""
        if await self._keep_alive.until_lost(nursery, self._ws.finished) == "silent":
            self.close_soon(1011, "no answer to a ping")
        else:
            self._write_no_more()

    async def _close(self) -> None:
        """Say goodbye as far as was asked for. The peer's own close needs nothing more."""
        if self._closing is None:
            return
        code, reason = self._closing
        until = trio.current_time() + CLOSE_S
        if self._drain_until > -math.inf:
            # Some of the time is kept for the goodbye itself.
            left_s = self._drain_until - trio.current_time()
            with trio.move_on_at(self._drain_until - min(CLOSE_S, left_s / 4)) as draining:
                await self._drained.wait()
            if draining.cancelled_caught:
                log.warning("client not drained in time", connection=self.caller.connection_id)
            until = min(trio.current_time() + CLOSE_S, self._drain_until)
        with trio.CancelScope(deadline=until, shield=True):
            await self._ws.aclose(code, reason or None)


async def serve_connection(
    ws: BoundedWebSocket,
    caller: Caller,
    begin: Begin,
    notify: Notify,
    *,
    connections: dict[str, Connection],
    parsing: trio.CapacityLimiter,
    turnstile: Turnstile | None = None,
) -> None:
    """Serve one connection until it is over; it is in ``connections`` meanwhile.

    Args:
        ws: An accepted connection. Its stream is the door's to close.
        caller: Who is at the other end. Its ``on_close`` is called when the connection is gone.
        begin: Starts a request.
        notify: Starts what a notification asks for; `$/cancel_request` is served here.
        connections: Where the service finds the open connections, by id.
        parsing: Shared by all connections: how many large messages are parsed at a time, in threads.
        turnstile: Shared by all connections: how much they write in a round of the event loop.
    """
    connection = Connection(ws, caller, begin, notify, parsing=parsing, turnstile=turnstile or Turnstile())
    connections[caller.connection_id] = connection
    try:
        await connection.serve()
    finally:
        del connections[caller.connection_id]
