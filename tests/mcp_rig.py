"""What tests of MCP stand on: servers that are told what to do, and waits for states.

Servers are real processes. Waits are for states and for what a server wrote
down, never for time; all are bounded by the rig.
"""

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from atrio_agent.mcp.server import McpServer
from atrio_agent.mcp.servers import Mcp, open_mcp
from atrio_agent.tools.base import Place, ToolOutcome
from atrio_agent.tools.registry import Tools
from atrio_protocol.content import TextBlock
from atrio_protocol.things import McpState

LIMIT_S = 60
SERVER = str(Path(__file__).with_name("mcp_server.py"))


def naughty(*words: str, name: str = "n", log: Path | None = None, **more: Any) -> McpServer:
    """A server of `mcp_server`, told by words what to do."""
    env = {**more.pop("env", {}), **({"MCP_TEST_LOG": str(log)} if log else {})}
    return McpServer(name=name, command=sys.executable, args=("-S", "-E", SERVER, *words), env=env, **more)


class Rig:
    """The servers of one workspace, and what was told about them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notices: list[tuple[str, str, str]] = []
        self.states: list[McpState] = []
        self._mcp: Mcp | None = None
        self._changed = trio.Event()

    @property
    def mcp(self) -> Mcp:
        assert self._mcp is not None
        return self._mcp

    @property
    def tools(self) -> Tools:
        return Tools([], more=self.mcp.tools)

    def opened(self, mcp: Mcp) -> None:
        self._mcp = mcp

    def notify(self, severity: str, title: str, detail: str) -> None:
        self.notices.append((severity, title, detail))
        self.changed()

    def changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until something holds."""
        while not done():
            await self._changed.wait()

    async def state(self, *names: str) -> None:
        """Wait until the servers are in these states, in order."""
        await self.until(lambda: tuple(state.state for state in self.mcp.states()) == names)

    async def run(self, name: str, *, permitted: bool = True, **given: Any) -> ToolOutcome:
        place = Place(root=self.root, session_id="s", run_id="r", tool_call_id="t", permitted=permitted)
        return await self.tools.run(name, given, place)

    async def said(self, name: str, **given: Any) -> str:
        """The text that a call gives."""
        (block,) = (await self.run(name, **given)).content
        assert isinstance(block, TextBlock)
        return block.text


@asynccontextmanager
async def servers(
    root: Path, *configured: McpServer, waits_s: tuple[float, ...] = (0.0,), secrets: tuple[str, ...] = ()
) -> AsyncGenerator[Rig]:
    """Servers of a workspace, in a limited time."""
    rig = Rig(root)
    with trio.fail_after(LIMIT_S):
        async with open_mcp(
            configured, root=root, notify=rig.notify, changed=rig.changed, waits_s=waits_s, secrets=secrets
        ) as mcp:
            rig.opened(mcp)
            yield rig


def lines_of(log: Path) -> list[str]:
    """What servers wrote down so far."""
    return log.read_text().splitlines() if log.exists() else []


async def noted(log: Path, word: str) -> list[str]:
    """The lines that servers wrote down, once a word is among them."""
    lines: list[str] = []
    with trio.fail_after(LIMIT_S):
        while not any(word in line for line in lines):
            await trio.lowlevel.checkpoint()
            lines = lines_of(log)
    return lines
