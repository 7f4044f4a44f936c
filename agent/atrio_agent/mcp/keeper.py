"""One MCP server kept running: connected, connected again when it is lost, ended with its workspace.

Nothing that a server does or leaves undone ends the keeper's task or holds up
anybody: its faults become a state and a notice. How often it is tried again is
bounded; when that is used up it has failed, and its tools are gone. A server
that has run for a while has earned all its tries again.

Calls are answered at once while there is no connection: a model can do
something else, and nobody has to wait for a server that may never come.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, NamedTuple, Protocol, cast

import structlog
import trio

from atrio_agent.mcp.base import Line, Link, LinkLost, Offer, OpenLink
from atrio_agent.mcp.server import McpServer
from atrio_agent.tools.base import ToolFailed, ToolOutcome
from atrio_agent.tools.output import bounded, shown
from atrio_agent.tools.redact import Redactor
from atrio_agent.trouble import Severity, Trouble
from atrio_protocol.struct import UNSET
from atrio_protocol.things import McpState

__all__ = ["Keeper", "Notify"]

_STEADY_S: Final = 60.0
"""Who has run for so long is not one that cannot run."""

_GOODBYE_S: Final = 1.0
"""What a server by HTTP gets to be told that we go."""

_SAID_CHARS: Final = 1_500
_WHY_CHARS: Final = 500

State = Literal["starting", "ready", "failed", "stopped", "disabled"]

log = structlog.get_logger("atrio.mcp")


class Notify(Protocol):
    """Tells people. It does not wait and raises nothing."""

    def __call__(self, severity: Severity, title: str, detail: str) -> None: ...


class _Ended(NamedTuple):
    """How a connection ended. ``is_final``: trying again is of no use."""

    was_ready: bool
    is_final: bool
    why: str


class Keeper:
    """Keeps one server. `run` is its task.

    Args:
        line: The server, and where it works. Its callbacks are the keeper's own to set.
        waits_s: How long to wait before each new try, in seconds. There are as many tries.
        changed: Called when the state or the tools are others.
        notify: Tells people what happened.
        redactor: Takes secrets out of what is told.
    """

    def __init__(
        self,
        line: Line,
        *,
        waits_s: tuple[float, ...],
        changed: Callable[[], None],
        notify: Notify,
        redactor: Redactor,
    ) -> None:
        line.changed = self._offers_changed
        line.ends_by = lambda: self._by
        self._line = line
        self._waits_s = waits_s
        self._changed = changed
        self._notify = notify
        self._redactor = redactor
        self._state: State = "starting" if line.server.enabled else "disabled"
        self._detail = ""
        self._trouble: tuple[Severity, str] | None = None
        self._link: Link | None = None
        self._offers: tuple[Offer, ...] = ()
        self._closing = trio.Event()
        self._by: float | None = None
        self._scope = trio.CancelScope()

    @property
    def server(self) -> McpServer:
        """Whom it keeps."""
        return self._line.server

    @property
    def offers(self) -> tuple[Offer, ...]:
        """The server's tools; those it had, while it is being connected again."""
        return self._offers

    @property
    def state(self) -> McpState:
        """How it is."""
        return McpState(
            name=self.server.name,
            transport=self.server.transport,
            state=self._state,
            tools=len(self._offers),
            detail=self._detail or UNSET,
        )

    @property
    def trouble(self) -> Trouble | None:
        """What was told about it and still holds."""
        return None if self._trouble is None else Trouble(*self._trouble, self._detail)

    def close(self, *, by: float | None = None) -> None:
        """Begin to end it. Does not wait; safe to call again.

        Args:
            by: Until when that may take, in Trio's time; five seconds from now, if None.
        """
        self._by = by if self._by is None else self._by if by is None else min(by, self._by)
        if self._closing.is_set():
            return
        self._closing.set()
        if self._link is None:
            self._scope.cancel()
        else:
            self._scope.deadline = min(trio.current_time() + _GOODBYE_S, math.inf if by is None else by)

    async def call(self, tool: str, arguments: dict[str, Any]) -> ToolOutcome:
        """Have a tool of the server called.

        Raises:
            ToolFailed: There is no connection, or the server refused, failed or took too long.
        """
        name, limit_s = self.server.name, self.server.call_s
        if self._link is None:
            how = {"starting": "being started again", "failed": "not running any more"}.get(self._state, "not running")
            raise ToolFailed(f"The MCP server {name} is {how}. The call was not made.")
        try:
            with trio.fail_after(limit_s):
                return await self._link.call(tool, arguments)
        except trio.TooSlowError:
            raise ToolFailed(
                f"The MCP server {name} did not answer within {limit_s:g} s. The call was given up."
            ) from None
        except LinkLost as exc:
            why = self._told(str(exc))
            raise ToolFailed(
                f"The MCP server {name} was lost during the call ({why}). It may have done its work."
            ) from None

    async def run(self, opener: Callable[[], Awaitable[OpenLink]]) -> None:
        """Keep the server until it is closed or has failed for good. Raises nothing but a cancellation.

        Args:
            opener: Gives what connects; asked before each try.
        """
        if not self.server.enabled:
            return
        failures = 0
        try:
            while not self._closing.is_set():
                began_at = trio.current_time()
                ended = await self._stay(opener, is_back=failures > 0)
                if self._closing.is_set():
                    break
                if ended.was_ready and trio.current_time() - began_at >= _STEADY_S:
                    failures = 0
                failures += 1
                if ended.is_final or failures > len(self._waits_s):
                    self._fail(ended.why)
                    return
                self._lost(ended.why, is_news=failures == 1)
                with trio.CancelScope() as self._scope:
                    await trio.sleep(self._waits_s[failures - 1])
        finally:
            if self._state != "failed":
                self._offers = ()
                self._set("stopped", "")

    async def _stay(self, opener: Callable[[], Awaitable[OpenLink]], *, is_back: bool) -> _Ended:
        """Connect, and stay until the connection is lost or given up."""
        was_ready, is_final, why = False, False, ""
        self._line.said = str
        try:
            with trio.CancelScope(deadline=trio.current_time() + self.server.start_s) as self._scope:
                open_link = await opener()
                async with open_link(self._line) as link:
                    self._scope.deadline = math.inf
                    was_ready = True
                    self._ready(link, is_back=is_back)
                    try:
                        await self._until_over(link)
                    finally:
                        self._link = None
                    why = await link.why()
            if self._scope.cancelled_caught and not was_ready:
                why = f"it was not ready within {self.server.start_s:g} s"
        except Exception as exc:  # noqa: BLE001  the barrier: what is wrong with a server stays with it
            is_final, why = _judged(exc)
        except BaseExceptionGroup as group:
            # A plain cancellation must go on, but the errors that came with it are the server's.
            faults, rest = group.split(Exception)
            if rest is not None:
                raise rest from None
            assert faults is not None
            is_final, why = _judged(faults)
        return _Ended(was_ready, is_final, why)

    async def _until_over(self, link: Link) -> None:
        async with trio.open_nursery() as nursery:

            async def leave() -> None:
                await self._closing.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(leave)
            await link.ended.wait()
            nursery.cancel_scope.cancel()

    def _ready(self, link: Link, *, is_back: bool) -> None:
        self._link = link
        self._offers = link.offers
        self._set("ready", "")
        self._trouble = None
        if is_back:
            self._notify("info", f"The MCP server {self.server.name} is back", "Its tools can be used again.")

    def _lost(self, why: str, *, is_news: bool) -> None:
        self._set("starting", self._explained(why))
        self._trouble = "warning", f"The MCP server {self.server.name} is not there; trying again"
        if is_news:
            self._notify(*self._trouble, self._detail)

    def _fail(self, why: str) -> None:
        self._offers = ()
        self._set("failed", self._explained(why))
        self._trouble = "error", f"The MCP server {self.server.name} has failed"
        self._notify(*self._trouble, self._detail)

    def _offers_changed(self) -> None:
        if self._link is not None:
            self._offers = self._link.offers
            self._changed()

    def _set(self, state: State, detail: str) -> None:
        self._state, self._detail = state, detail
        log.info("mcp server", server=self.server.name, state=state)
        self._changed()

    def _explained(self, why: str) -> str:
        """Why, and what the process said last. Nothing secret of its configuration is in it."""
        said = self._told(self._line.said())
        return self._told(why) + (f"\nIt said: {bounded(said, max_chars=_SAID_CHARS).text}" if said else "")

    def _told(self, text: str) -> str:
        return self._redactor.text(text)


def _judged(exc: Exception) -> tuple[bool, str]:
    """Whether trying again is of no use, and why there is no connection: a piece of a sentence."""
    while isinstance(exc, ExceptionGroup):
        exc = cast("ExceptionGroup[Exception]", exc).exceptions[0]
    match exc:
        case LinkLost():
            return False, str(exc)
        case OSError():
            return True, f"it cannot be started: {exc.strerror or exc}"
        case ValueError():
            return False, "what it answers does not follow the protocol"
        case _:
            return False, shown(str(exc) or type(exc).__name__, max_chars=_WHY_CHARS)
