"""One connection to an MCP server, through the MCP SDK.

The SDK speaks the protocol; what carries it is ours for a process
(`atrio_agent.mcp.process`) and the SDK's for HTTP. The handshake is the one that
all servers know; a server that knows only the newer discovery is asked for that.
Calls run in tasks of the connection, so that whoever gave one up waits for
nothing, and one that goes wrong takes nobody along.

A server may ask for the workspace's directory; its other requests are refused.
Output schemas are not checked: their patterns come from the server, and a slow
one would hold up the event loop. Importing this module imports the SDK: only a
thread does it.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, Generic, TypeVar, cast

import msgspec
import structlog
import trio
from mcp import ClientSession, MCPError, types
from mcp.client.session import ClientRequestContext, IncomingMessage
from mcp.shared._stream_protocols import WriteStream
from mcp.shared.message import SessionMessage
from pydantic import FileUrl, ValidationError

from atrio_agent.mcp.base import Line, LinkLost, Offer
from atrio_agent.mcp.messages import Incoming, Outgoing, from_process
from atrio_agent.mcp.process import ServerProcess, open_process
from atrio_agent.mcp.results import outcome_of
from atrio_agent.mcp.web import open_web
from atrio_agent.tools.base import ToolFailed, ToolOutcome
from atrio_agent.tools.output import MAX_TITLE_CHARS, bounded, shown
from atrio_protocol.version import VERSION

__all__ = ["open_link"]

T = TypeVar("T")

_MAX_TOOLS: Final = 512
_MAX_PAGES: Final = 100
_MAX_SCHEMA_BYTES: Final = 64_000
_MAX_DESCRIPTION_CHARS: Final = 4_000
_MAX_TOOL_NAME_CHARS: Final = 200
_MAX_REASON_CHARS: Final = 1_000
_BETWEEN_LISTS_S: Final = 0.1
"""A server that says all the time that its tools have changed is asked no more often."""

log = structlog.get_logger("atrio.mcp")


class _Task(Generic[T]):
    """Something that is done for somebody in a task that is not theirs."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._scope = trio.CancelScope()
        self._done = trio.Event()
        self._result: list[T] = []
        self._error: Exception | None = None

    async def run(self) -> None:
        try:
            with self._scope:
                self._result.append(await self._work())
        except Exception as exc:  # noqa: BLE001  whatever it is, it belongs to whoever waits
            self._error = exc
        finally:
            self._done.set()

    async def wait(self) -> T:
        try:
            await self._done.wait()
        finally:
            self._scope.cancel()
        if self._error is not None:
            raise self._error
        if not self._result:
            raise LinkLost("the connection ended")
        return self._result[0]


class SdkLink:
    """A connection that is ready. Made by `open_link`, not by hand."""

    def __init__(
        self,
        session: ClientSession,
        nursery: trio.Nursery,
        line: Line,
        *,
        ended: trio.Event,
        process: ServerProcess | None,
    ) -> None:
        self.ended = ended
        self.stale = trio.Event()
        """Set when the server says that its tools have changed."""
        self._session = session
        self._nursery = nursery
        self._line = line
        self._process = process
        self._offers: tuple[Offer, ...] = ()
        self._why: str | None = None
        self._is_open = True

    @property
    def offers(self) -> tuple[Offer, ...]:
        """The tools that the server has at the moment."""
        return self._offers

    async def why(self) -> str:
        """Why it ended: a piece of a sentence."""
        if self._process is None:
            return self._why or "the connection ended"
        await self._process.settle()
        return self._why or self._process.why

    def close(self) -> None:
        """Take no more calls."""
        self._is_open = False

    async def call(self, tool: str, arguments: dict[str, Any]) -> ToolOutcome:
        """Have a tool called. Cancelled, the server is told, and nobody waits for it.

        Raises:
            LinkLost: The connection ended first. Nothing is known of what was done.
            ToolFailed: The server refused, or answered what cannot be understood.
        """
        if not self._is_open or self.ended.is_set():
            raise LinkLost("the connection ended")
        # By hand and not by `call_tool`, which would check the answer against the server's own schema.
        request = types.CallToolRequest(params=types.CallToolRequestParams(name=tool, arguments=arguments))
        task = _Task(partial(self._session.send_request, request, types.CallToolResult))
        self._nursery.start_soon(task.run, name=f"mcp call {tool}")
        try:
            return outcome_of(await task.wait())
        except MCPError as exc:
            if exc.code == types.CONNECTION_CLOSED or (self._process is None and exc.code == types.INVALID_REQUEST):
                # By HTTP this is also how a server says that it has forgotten us.
                self._lose(exc.message)
                raise LinkLost(shown(exc.message, max_chars=_MAX_REASON_CHARS)) from None
            raise ToolFailed(f"The server refused: {shown(exc.message, max_chars=_MAX_REASON_CHARS)}") from None
        except (ValidationError, ValueError, RecursionError):
            raise ToolFailed("The server's answer does not follow the protocol.") from None

    async def list_tools(self) -> None:
        """Ask for the tools, page by page."""
        capabilities = self._session.server_capabilities
        if capabilities is None or capabilities.tools is None:
            return
        offers: dict[str, Offer] = {}
        cursors: set[str | None] = {None}
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            params = types.PaginatedRequestParams(cursor=cursor)
            page = await self._session.list_tools(params=params)
            for tool in page.tools:
                offer = _offer(tool)
                if offer is not None and len(offers) < _MAX_TOOLS:
                    offers.setdefault(offer.name, offer)
            cursor = page.next_cursor
            if cursor in cursors:
                break
            cursors.add(cursor)
        self._offers = tuple(offers.values())

    async def follow(self) -> None:
        """Ask for the tools again whenever the server says that they have changed."""
        while True:
            await self.stale.wait()
            self.stale = trio.Event()
            try:
                with trio.move_on_after(self._line.server.start_s) as limit:
                    await self.list_tools()
            except (MCPError, ValidationError) as exc:
                log.warning("tools not listed again", server=self._line.server.name, kind=type(exc).__name__)
            else:
                if not limit.cancelled_caught:
                    self._line.changed()
            await trio.sleep(_BETWEEN_LISTS_S)

    def _lose(self, why: str) -> None:
        self._why = self._why or (None if self._process is not None else shown(why, max_chars=_MAX_REASON_CHARS))
        self.ended.set()


@asynccontextmanager
async def open_link(line: Line) -> AsyncGenerator[SdkLink]:
    """Connect to a server and learn its tools. On the way out the connection ends, and the process with it.

    Raises:
        OSError: The command cannot be started.
        Exception: It could not be connected to, or the connection broke; often in a group.
    """
    if line.server.command is None:
        async with (
            open_web(line.server) as (receive, outgoing),
            _open_session(line, Incoming(receive), outgoing, None) as link,
        ):
            yield link
        return
    async with open_process(line.server, line.root, life=line.life, ends_by=line.ends_by) as process:
        line.said = lambda: process.said
        incoming = Incoming(from_process(process))
        try:
            async with _open_session(line, incoming, Outgoing(process), process) as link:
                yield link
        except Exception:
            if not incoming.ended.is_set():
                raise
        else:
            return
        # What went wrong went wrong because it ended.
        await process.settle()
        raise LinkLost(process.why)


@asynccontextmanager
async def _open_session(
    line: Line, incoming: Incoming, outgoing: WriteStream[SessionMessage], process: ServerProcess | None
) -> AsyncGenerator[SdkLink]:
    async def heard(message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            link.stale.set()
        await trio.lowlevel.checkpoint()

    async def roots(context: ClientRequestContext) -> types.ListRootsResult:  # noqa: ARG001  the SDK's signature
        await trio.lowlevel.checkpoint()
        return types.ListRootsResult(roots=[types.Root(uri=FileUrl(line.root.as_uri()), name=line.root.name)])

    session = ClientSession(
        incoming,
        outgoing,
        list_roots_callback=roots,
        message_handler=heard,
        client_info=types.Implementation(name="atrio", version=VERSION),
    )
    async with trio.open_nursery() as nursery:
        link = SdkLink(session, nursery, line, ended=incoming.ended, process=process)
        async with session:
            await _greet(session)
            await link.list_tools()
            nursery.start_soon(link.follow)
            try:
                yield link
            finally:
                link.close()
                nursery.cancel_scope.cancel()


async def _greet(session: ClientSession) -> None:
    try:
        await session.initialize()
    except MCPError as exc:
        if exc.code not in {types.UNSUPPORTED_PROTOCOL_VERSION, types.METHOD_NOT_FOUND}:
            raise
        await session.discover()


def _offer(tool: types.Tool) -> Offer | None:
    """The tool as a model may be told of it; None if it cannot be."""
    schema = {key: value for key, value in tool.input_schema.items() if key != "$schema"}
    schema["type"] = "object"
    if not isinstance(schema.get("properties"), dict):
        schema["properties"] = {}
    required = schema.pop("required", None)
    if isinstance(required, list):
        schema["required"] = [name for name in cast("list[Any]", required) if isinstance(name, str)]
    title = tool.title or (tool.annotations.title if tool.annotations else None) or tool.name
    try:
        size = len(msgspec.json.encode(schema))
    except (ValueError, RecursionError, TypeError):
        return None
    if not tool.name.strip() or len(tool.name) > _MAX_TOOL_NAME_CHARS or size > _MAX_SCHEMA_BYTES:
        return None
    return Offer(
        name=tool.name,
        title=shown(title, max_chars=MAX_TITLE_CHARS),
        description=bounded((tool.description or "").strip(), max_chars=_MAX_DESCRIPTION_CHARS).text,
        schema=schema,
    )
