"""A tool of an MCP server as a tool of ours.

Whatever it does, it does outside our reach: so every call asks, and a grant holds
for this tool of this server. What the server says of itself (that a tool only
reads, for one) decides nothing.
"""

from typing import Any, Protocol

import msgspec

from atrio_agent.ask import Ask
from atrio_agent.mcp.base import Offer
from atrio_agent.tools.base import Place, RawInput, ToolFailed, ToolInput, ToolOutcome
from atrio_agent.tools.output import bounded, shown
from atrio_protocol.parts import Location, ToolKind

__all__ = ["Caller", "McpTool"]


class Caller(Protocol):
    """What has a server's tools called."""

    async def call(self, tool: str, arguments: dict[str, Any]) -> ToolOutcome:
        """Have it called.

        Raises:
            ToolFailed: It cannot be done.
        """
        ...


class McpTool:
    """One tool of one server.

    Args:
        name: What it is called here.
        server: The server's name.
        offer: What the server says of it.
        caller: Has it called.
    """

    kind: ToolKind = "other"
    input_type: type[ToolInput] = RawInput

    def __init__(self, name: str, server: str, offer: Offer, caller: Caller) -> None:
        self.name = name
        self.description = offer.description or f"{offer.title}, a tool of the MCP server {server}."
        self.schema = offer.schema
        self._server = server
        self._offer = offer
        self._caller = caller

    def title(self, given: RawInput) -> str:  # noqa: ARG002  a tool's signature
        """Such as ``Search issues (tracker)``."""
        return f"{self._offer.title} ({self._server})"

    def locations(self, given: RawInput, place: Place) -> tuple[Location, ...]:  # noqa: ARG002  a tool's signature
        """None: what its input means is known to its server alone."""
        return ()

    async def ask(self, given: RawInput, place: Place) -> Ask:  # noqa: ARG002  a tool's signature
        """The call itself, whatever it is."""
        return Ask(
            action="mcp",
            title=f"Call {shown(self._offer.name)} of the MCP server {self._server}",
            where=self._server,
            detail=bounded(msgspec.json.format(msgspec.json.encode(given.raw), indent=2).decode()).text,
        )

    async def run(self, given: RawInput, place: Place) -> ToolOutcome:
        """Have it called.

        Raises:
            ToolFailed: It was not permitted, or it cannot be done.
        """
        if not place.permitted:
            raise ToolFailed("This call needs a permission that nobody has given. It was not made.")
        return await self._caller.call(self._offer.name, given.raw)
