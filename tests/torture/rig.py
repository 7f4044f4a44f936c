"""A server process whose life is written down: started, signalled, gone, and started again on the same state.

Whatever a test does to it goes through here, so that the history knows of it.
What is sent and received is noted by `torture.clients`; nothing is judged here.
"""

import json
import signal
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from torture.clients import Client, Server, open_client
from torture.history import History
from wire.process import Process, spawn

__all__ = ["WAIT_S", "Rig", "ServerProcess", "open_session", "read_all"]

Json = dict[str, Any]

WAIT_S = 90
"""How long anything may take before it counts as hanging, on a machine that does much besides."""


def batched(things: Iterable[str], size: int) -> Iterator[list[str]]:
    """The things in lists of a size."""
    rest = list(things)
    while rest:
        yield rest[:size]
        del rest[:size]


class ServerProcess(Server):
    """A running server. Made by `Rig.serve`."""

    def __init__(self, process: Process, rig: "Rig", number: int) -> None:
        super().__init__(ws=process.ws, http=process.http, token=process.token, number=number)
        self.process = process
        self._rig = rig
        self._gone = False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; it is noted first."""
        self._rig.history.note("signal", server=self.number, name=number.name)
        self.process.signal(number)

    async def gone(self) -> int:
        """Wait until the process is gone, and return its exit code."""
        code = await self.process.ended()
        if not self._gone:
            self._gone = True
            self._rig.history.note("ended", server=self.number, code=code)
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

    def begin(self, history: History, server: ServerProcess) -> None:
        """Write a new history from now on; it begins with a server that runs already."""
        self.history = history
        history.note("start", server=server.number, pid=server.process.pid)

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[ServerProcess]:
        """Run the next server until the end of the block; if it still runs there it is killed, unnoted."""
        log = self.root / "server.log"
        async with spawn(self.state_dir, *self._flags, log=log, program=self._program) as process:
            server = ServerProcess(process, self, self._number)
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


async def read_all(
    history: History, server: Server, sessions: Iterable[str], runs: Iterable[str], *, method: str = "run/wait"
) -> None:
    """Wait for the ends of these runs and read the sessions: all that must be known in the end.

    ``method``: ``run/get`` does not wait.

    Raises:
        Gone: The server is not there.
    """
    with trio.fail_after(WAIT_S):
        async with open_client(history, server, name="reader") as client:
            for some in batched(runs, 50):
                asked = [await client.send(method, runId=run_id) for run_id in some]
                for request_id in asked:
                    await client.answer(request_id)
            for session in sessions:
                before: Json = {}
                while True:
                    page = await client.call("session/messages", sessionId=session, limit=100, **before)
                    if not page["more"]:
                        break
                    before = {"before": page["messages"][0]["order"]}
