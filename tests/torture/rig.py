"""A server process whose life is written down: started, signalled, gone, and started again on the same state.

Whatever a test does to it goes through here, so that the history knows of it.
What is sent and received is noted by `torture.clients`; nothing is judged here.
"""

import json
import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from torture.clients import Client, Server, open_client
from torture.history import History
from wire.process import Process, spawn

__all__ = ["Rig", "ServerProcess", "open_session", "read_all"]

Json = dict[str, Any]


class ServerProcess(Server):
    """A running server. Made by `Rig.serve`."""

    def __init__(self, process: Process, history: History, number: int) -> None:
        super().__init__(ws=process.ws, http=process.http, token=process.token, number=number)
        self.process = process
        self._history = history
        self._gone = False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; it is noted first."""
        self._history.note("signal", server=self.number, name=number.name)
        self.process.signal(number)

    async def gone(self) -> int:
        """Wait until the process is gone, and return its exit code."""
        code = await self.process.ended()
        if not self._gone:
            self._gone = True
            self._history.note("ended", server=self.number, code=code)
        return code

    async def kill(self) -> None:
        """Kill -9, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await self.gone()


class Rig:
    """A state directory, some workspaces and a script, for one server after the other."""

    def __init__(
        self,
        root: Path,
        history: History,
        *turns: Json,
        flags: Sequence[str] = (),
        program: Sequence[str] = ("-m", "atrio_server"),
    ) -> None:
        """``turns``: of the scripted model. ``program``: another server than the real one."""
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.history = history
        self.state_dir = root / "state"
        script = root / "script.json"
        script.write_text(json.dumps({"name": "torture", "turns": list(turns)}))
        self._flags = ("--test-hooks", "--model", f"script:{script}", "--permissions", "allow", *flags)
        self._program = tuple(program)
        self._number = 0

    def directory(self, name: str) -> str:
        """A directory to be a workspace, made if need be."""
        path = self.root / name
        path.mkdir(exist_ok=True)
        return str(path)

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[ServerProcess]:
        """Run the next server until the end of the block; if it still runs there it is killed, unnoted."""
        log = self.root / "server.log"
        async with spawn(self.state_dir, *self._flags, log=log, program=self._program) as process:
            server = ServerProcess(process, self.history, self._number)
            self._number += 1
            self.history.note("start", server=server.number, pid=process.pid)
            yield server


async def open_session(client: Client, directory: str, *, attach: bool = True) -> str:
    """Open a workspace and make a session in it; returns the session's id."""
    opened = await client.call("workspace/open", path=directory)
    made = await client.call("session/new", workspaceId=opened["workspace"]["workspaceId"])
    session: str = made["session"]["sessionId"]
    if attach:
        await client.call("session/attach", sessionId=session)
    return session


async def read_all(history: History, server: Server, sessions: Sequence[str], runs: Sequence[str]) -> None:
    """Ask for everything that must be known in the end: by one connection, wherever the sessions are.

    Raises:
        Gone: The server is not there.
    """
    with trio.fail_after(120):
        async with open_client(history, server, name="reader") as client:
            for run_id in runs:
                answer = await client.ask("run/wait", runId=run_id)
                if "result" in answer:
                    await client.call("run/get", runId=run_id)
            for session in sessions:
                before: Json = {}
                while True:
                    page = await client.call("session/messages", sessionId=session, limit=100, **before)
                    if not page["more"]:
                        break
                    before = {"before": page["messages"][0]["order"]}
