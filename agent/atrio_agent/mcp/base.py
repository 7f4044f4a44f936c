"""What a connection to an MCP server is to those who keep it, and what it says of a tool.

The implementation (`atrio_agent.mcp.link`) brings the MCP SDK with it, which takes
most of a second to import; so those who only look after connections do not know it.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import trio

from atrio_agent.mcp.server import McpServer
from atrio_agent.tools.base import ToolOutcome

__all__ = ["Line", "Link", "LinkLost", "Offer", "OpenLink"]


class LinkLost(Exception):
    """There is no connection, or it ended. The message is a piece of a sentence that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A tool as its server tells of it. ``schema`` is a JSON Schema of an object."""

    name: str
    title: str
    description: str
    schema: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Line:
    """Whom to connect to, and what to tell.

    ``changed`` is called when other tools are offered. ``ends_by`` is asked, when
    the end begins, until when it may take. ``said`` gives the end of what the
    server's process wrote to stderr; whoever starts one sets it. ``life`` is whose
    that process is, should we be killed.
    """

    server: McpServer
    root: Path
    life: str = ""
    changed: Callable[[], None] = lambda: None
    ends_by: Callable[[], float | None] = lambda: None
    said: Callable[[], str] = lambda: ""


class Link(Protocol):
    """A connection that is ready. ``ended`` is set when it is lost."""

    @property
    def ended(self) -> trio.Event: ...

    @property
    def offers(self) -> tuple[Offer, ...]:
        """The tools that the server has at the moment."""
        ...

    async def why(self) -> str:
        """Why it ended: a piece of a sentence."""
        ...

    async def call(self, tool: str, arguments: dict[str, Any]) -> ToolOutcome:
        """Have a tool called. Cancelled, the server is told, and nobody waits for it.

        Raises:
            LinkLost: The connection ended first. Nothing is known of what was done.
            ToolFailed: The server refused, or answered what cannot be understood.
        """
        ...


OpenLink = Callable[[Line], AbstractAsyncContextManager[Link]]
"""Connects. What it raises, in groups too, says why there is no connection."""
