"""A whole server for a test: real socket, real SQLite, scripted models, test hooks on.

It runs in the test's own process, so that a test can open several, stop one in
the middle and start it again on the same state directory. What needs a process
of its own (signals, kill -9) is in `test_process.py`.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from atrio_agent.lifetime import Deadlines
from atrio_server.config import Settings
from atrio_server.service import Running, open_service
from wire.client import Wire, connect

__all__ = ["Harness", "bench"]

LIMIT_S = 30
"""Real seconds after which a test of this folder is given up. Nothing is asserted about time."""


class Harness:
    """One server, its state directory and a workspace directory; see `bench`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state_dir = root / "state"
        self.directory = root / "project"
        self.directory.mkdir()
        self._scripts = 0

    def settings(self, **changes: Any) -> Settings:
        """Settings for a server on a free port of the loopback interface."""
        defaults: dict[str, Any] = {"port": 0, "state_dir": self.state_dir, "test_hooks": True, "model": "demo"}
        return Settings(**(defaults | changes))

    @asynccontextmanager
    async def serve(
        self, *, limit_s: float = LIMIT_S, environ: dict[str, str] | None = None, **changes: Any
    ) -> AsyncGenerator[Running]:
        """Run a server until the end of the block; in its environment are only these variables."""
        with trio.fail_after(limit_s):
            stop = trio.Event()
            async with open_service(self.settings(**changes), environ=environ or {}, stop=stop) as running:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_shut_down_when_asked, running, stop)
                    yield running
                    nursery.cancel_scope.cancel()

    def script(self, *turns: dict[str, Any], **more: Any) -> str:
        """Write a script and return its model name."""
        self._scripts += 1
        path = self.root / f"script-{self._scripts}.json"
        path.write_text(json.dumps({"name": "test", "turns": list(turns), **more}))
        return f"script:{path}"

    @asynccontextmanager
    async def open(self, running: Running, **client: Any) -> AsyncGenerator[tuple[Wire, str]]:
        """Connect and open the workspace; gives the connection and the workspace's id."""
        async with connect(running.ws, running.token, **client) as wire:
            opened = await wire.call("workspace/open", path=str(self.directory))
            yield wire, opened["workspace"]["workspaceId"]


async def _shut_down_when_asked(running: Running, stop: trio.Event) -> None:
    await stop.wait()
    await running.shut_down(Deadlines.for_shutdown())


@pytest.fixture
def bench(tmp_path: Path) -> Harness:
    """What a wire test works with."""
    return Harness(tmp_path)


def say(text: str, **more: Any) -> dict[str, Any]:
    """A script's turn that always fits and says one thing."""
    return {"responses": [[{"say": text, **more}]]}
