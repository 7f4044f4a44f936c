"""The MCP servers of one workspace.

Opening waits for none of them: each is started in a task of the workspace and
its tools appear when it is ready. They end with the workspace, and with no other.

The SDK is imported in a thread, when the first server is started, and never
where none is configured.
"""

import gc
import sys
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final

import trio

from atrio_agent.mcp.base import Line, OpenLink
from atrio_agent.mcp.keeper import Keeper, Notify
from atrio_agent.mcp.server import McpServer, tool_name
from atrio_agent.mcp.tool import McpTool
from atrio_agent.tools.base import Tool
from atrio_agent.tools.orphans import become_reaper
from atrio_agent.tools.redact import Redactor
from atrio_agent.trouble import Trouble
from atrio_protocol.things import McpState

__all__ = ["WAITS_S", "Mcp", "open_mcp"]

WAITS_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each new try with a server that was lost or did not start."""

_LATE: Final = ("anyio._backends._trio", "encodings.idna")
"""What the SDK would import within the first request, while the event loop waits."""


class Mcp:
    """The servers. Made by `open_mcp`, not by hand."""

    def __init__(self, keepers: tuple[Keeper, ...]) -> None:
        self._keepers = keepers
        self._tools: tuple[Tool, ...] | None = None

    def tools(self) -> tuple[Tool, ...]:
        """The tools of all servers at this moment; the same tuple as long as they are the same."""
        if self._tools is None:
            servers = [keeper.server.name for keeper in self._keepers]
            self._tools = tuple(
                McpTool(tool_name(keeper.server.name, offer.name, servers), keeper.server.name, offer, keeper)
                for keeper in self._keepers
                for offer in keeper.offers
            )
        return self._tools

    def states(self) -> tuple[McpState, ...]:
        """How each server is, in the order of the configuration."""
        return tuple(keeper.state for keeper in self._keepers)

    def troubles(self) -> tuple[Trouble, ...]:
        """What is wrong with them at this moment."""
        return tuple(keeper.trouble for keeper in self._keepers if keeper.trouble is not None)

    def close(self, *, by: float | None = None) -> None:
        """Begin to end all. Does not wait; safe to call again.

        Args:
            by: Until when that may take, in Trio's time; five seconds from now, if None.
        """
        for keeper in self._keepers:
            keeper.close(by=by)

    def changed(self) -> None:
        """Look at the tools again when they are next asked for."""
        self._tools = None


@asynccontextmanager
async def open_mcp(
    servers: Iterable[McpServer],
    *,
    root: Path,
    notify: Notify,
    life: str = "",
    changed: Callable[[], None] = lambda: None,
    waits_s: tuple[float, ...] = WAITS_S,
    secrets: Iterable[str] = (),
) -> AsyncGenerator[Mcp]:
    """Start a workspace's servers in the background, and end them all on the way out.

    This process becomes the reaper of orphans, if there is a server. An exception
    of the body arrives as an `ExceptionGroup`: open it in the workspace's own task.

    Args:
        servers: In the order in which their tools are told. No two have the same name.
        root: The workspace's resolved directory.
        notify: Told when a server is lost, back, or has failed.
        life: Whose their processes are, for `leftovers` to find; "" for nobody's.
        changed: Called whenever a server's state or tools are others.
        waits_s: Seconds before each new try.
        secrets: What nothing of the workspace may tell, beside what each server is configured with.

    Raises:
        ValueError: Two servers have the same name. None was started.
    """
    configured, secrets = tuple(servers), tuple(secrets)
    if len({server.name for server in configured}) < len(configured):
        raise ValueError("two MCP servers have the same name")

    def has_changed() -> None:
        mcp.changed()
        changed()

    keepers = tuple(
        Keeper(
            Line(server=server, root=root, life=life),
            waits_s=waits_s,
            changed=has_changed,
            notify=notify,
            redactor=Redactor((*server.secrets, *secrets)),
        )
        for server in configured
    )
    mcp = Mcp(keepers)
    # Its own: a thread that is left behind holds its place, and must not hold that of other workspaces.
    opener = partial(_opener, trio.CapacityLimiter(1))
    async with trio.open_nursery() as nursery:
        for keeper in keepers:
            nursery.start_soon(keeper.run, opener, name=f"mcp {keeper.server.name}")
        try:
            yield mcp
        finally:
            mcp.close()


async def _opener(importing: trio.CapacityLimiter) -> OpenLink:
    return await trio.to_thread.run_sync(_import, limiter=importing, abandon_on_cancel=True)


def _import() -> OpenLink:
    become_reaper()
    for name in _LATE:
        import_module(name)
    is_new = "mcp" not in sys.modules
    open_link: OpenLink = import_module("atrio_agent.mcp.link").open_link
    if is_new:
        # 100,000 objects that stay: a full collection that walks through them would stop the loop.
        gc.freeze()
    return open_link
