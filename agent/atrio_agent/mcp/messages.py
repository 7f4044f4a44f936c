"""Messages of the MCP SDK from and to lines, and a limit on what one may hold.

The SDK checks whole messages on the event loop, so one with a hundred thousand
small pieces would hold up everybody: lists are cut before it sees them. A line
that cannot be read answers the request that it was meant for with an error, when
its edges tell which; else it is passed over.

Importing this module imports the SDK: only a thread does it.
"""

import re
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self, cast

import msgspec
import trio
from mcp import types
from mcp.shared.message import SessionMessage

from atrio_agent.mcp.process import LongLine, ServerProcess
from atrio_agent.tools.output import counted

__all__ = ["MAX_ITEMS", "Incoming", "Outgoing", "from_process"]

MAX_ITEMS: Final = 512
"""Items of a list in a result: content blocks, tools of a page."""

_MAX_STRANGE_LINES: Final = 1_000
"""Lines in a row that are no message: then it speaks something else."""

_EDGE_BYTES: Final = 1024
_ID_FIRST: Final = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(\d{1,15})\s*,')
_ID_LAST: Final = re.compile(rb',\s*"id"\s*:\s*(\d{1,15})\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z')

Received = SessionMessage | Exception


class Incoming:
    """What the SDK's session reads from. ``ended`` is set when nothing comes any more."""

    def __init__(self, receive: Callable[[], Awaitable[Received]]) -> None:
        self._receive = receive
        self.ended = trio.Event()

    async def receive(self) -> Received:
        """The next message.

        Raises:
            StopAsyncIteration: There will be none.
        """
        try:
            received = await self._receive()
        except StopAsyncIteration:
            self.ended.set()
            raise
        if isinstance(received, SessionMessage) and isinstance(received.message, types.JSONRPCResponse):
            _cut_lists(received.message.result)
        return received

    async def aclose(self) -> None:
        """Nothing to do: who opened what is behind it closes that."""
        self.ended.set()
        await trio.lowlevel.checkpoint()

    def __aiter__(self) -> "Incoming":
        return self

    async def __anext__(self) -> Received:
        return await self.receive()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self.ended.set()


class Outgoing:
    """What the SDK's session writes to, for a process. It never waits for the server."""

    def __init__(self, process: ServerProcess) -> None:
        self._process = process

    async def send(self, item: SessionMessage, /) -> None:
        """Queue a message."""
        line = item.message.model_dump_json(by_alias=True, exclude_unset=True)
        self._process.send_soon(line.encode() + b"\n")
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Nothing to do, as for `Incoming`."""
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        pass


def from_process(process: ServerProcess) -> Callable[[], Awaitable[Received]]:
    """The messages that a server writes, one a call, as `Incoming` takes them."""
    strange = 0

    async def receive() -> SessionMessage:
        nonlocal strange
        while strange < _MAX_STRANGE_LINES:
            line = await process.receive()
            if line is None:
                raise StopAsyncIteration
            message = _unreadable(line) if isinstance(line, LongLine) else _message(line)
            if message is not None:
                strange = 0
                return SessionMessage(message)
            strange += bool(line)
        process.give_up("what it writes is no JSON-RPC")
        raise StopAsyncIteration

    return receive


def _message(line: bytes) -> types.JSONRPCMessage | None:
    try:
        fields = msgspec.json.decode(line)
        if isinstance(fields, dict):
            kind = _kind(cast("dict[str, Any]", fields))
            if kind is not None:
                return kind.model_validate(fields, by_name=False)
    except (ValueError, RecursionError):  # of the decoder or of the SDK's model
        pass
    return _unreadable(LongLine(line[:_EDGE_BYTES], line[-_EDGE_BYTES:], len(line)))


def _kind(
    fields: dict[str, Any],
) -> type[types.JSONRPCRequest | types.JSONRPCNotification | types.JSONRPCResponse | types.JSONRPCError] | None:
    if "method" in fields:
        return types.JSONRPCRequest if "id" in fields else types.JSONRPCNotification
    if "result" in fields:
        return types.JSONRPCResponse
    return types.JSONRPCError if "error" in fields else None


def _unreadable(line: LongLine) -> types.JSONRPCError | None:
    """An error in place of an answer that cannot be read, if it is one."""
    if b'"method"' in line.head:
        return None
    found = _ID_FIRST.match(line.head) or _ID_LAST.search(line.tail)
    if found is None:
        return None
    why = f"the answer, of {counted(line.size, 'byte')}, is too large or malformed"
    error = types.ErrorData(code=types.INTERNAL_ERROR, message=why)
    return types.JSONRPCError(jsonrpc="2.0", id=int(found[1]), error=error)


def _cut_lists(result: dict[str, Any]) -> None:
    for key, value in result.items():
        if isinstance(value, list) and len(items := cast("list[Any]", value)) > MAX_ITEMS:
            left_out = len(items) - MAX_ITEMS
            del items[MAX_ITEMS:]
            if key == "content":
                items.append({"type": "text", "text": f"[… {counted(left_out, 'block')} left out …]"})
