"""A whole server without sockets, threads or real time: for tests that try very many things.

Real are the dispatcher, the handlers, the workspace with all that is in it, and
the connection with its WebSocket. In place of the kernel and SQLite there is
memory, so time may be virtual. Opening a *directory* takes a thread, which looks
idle to the test clock; so the workspace is known beforehand and opened by an id.
"""

import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from atrio_agent.gates import Gates
from atrio_agent.lifetime import Deadlines
from atrio_agent.models.choose import Models
from atrio_agent.models.script import parse_script
from atrio_agent.models.scripted import ScriptedModel
from atrio_agent.permissions import PermissionRules
from atrio_agent.store.memory import MemoryDisk, MemoryRunIndex, MemoryStore, open_memory_store
from atrio_agent.streams import Rings
from atrio_agent.tools.registry import read_only_tools
from atrio_protocol.errors import ModelNotFound
from atrio_protocol.ids import new_id, workspace_id_for
from atrio_server.byte_stream import GuardedStream, Transport
from atrio_server.calls import Caller
from atrio_server.dispatch import Dispatcher
from atrio_server.outfit import Outfit
from atrio_server.server import Server
from atrio_server.socket import serve_connection
from atrio_server.web_socket import open_web_socket
from atrio_server.workspace import Means, Workspace
from atrio_server.workspaces import Workspaces
from core_rig import RulesAlone
from socket_rig import MemoryTransport, Peer

__all__ = ["InMemory", "open_in_memory"]

ALL_SCOPES = frozenset(["observe", "prompt", "approve", "admin"])


class OneModel:
    """The models of a server that has one, by the name ``script``."""

    default_id = "script"

    def __init__(self, script: dict[str, Any], gates: Gates) -> None:
        self._model = ScriptedModel(parse_script(script), model_id="script", gates=gates)

    def get(self, model_id: str | None) -> ScriptedModel:
        if model_id not in (None, "script"):
            raise ModelNotFound(f"There is no model {model_id}.")
        return self._model

    def small(self, model: ScriptedModel) -> ScriptedModel:
        return model


class InMemory:
    """The server. Made by `open_in_memory`."""

    def __init__(self, nursery: trio.Nursery, path: Path, script: dict[str, Any]) -> None:
        self.disk = MemoryDisk()
        self.gates = Gates()
        self.workspace_id = workspace_id_for(str(path))
        self._path = path
        self._index = MemoryRunIndex()
        self._nursery = nursery
        self.transports: dict[str, MemoryTransport] = {}
        """The server's end of the newest connection of each client, which can be made to take no bytes."""
        self._names = (f"c-{number}" for number in itertools.count(1))
        models = cast("Models", OneModel(script, self.gates))
        outfit = Outfit(
            models=models,
            make_tools=lambda _jobs: read_only_tools(),
            child_tools=read_only_tools(),
            rules=PermissionRules(),
        )
        means = Means(
            open_outfit=lambda _root: nullcontext(outfit),
            gates=self.gates,
            rings=Rings(),
            detach_grace_s=10.0,
            keep_alive="runs",
            record_requests=True,
            briefer=RulesAlone,
        )
        self.workspaces = Workspaces(means, nursery=nursery, index=self._index, allowed=(), open_store=self._open_store)
        self.server = Server(
            workspaces=self.workspaces, models=models, gates=self.gates, test_hooks=True, stop_soon=lambda: None
        )
        self._dispatcher = Dispatcher(self.server)
        self._parsing = trio.CapacityLimiter(1)

    @asynccontextmanager
    async def _open_store(self, workspace: Workspace) -> AsyncGenerator[MemoryStore]:
        async with open_memory_store(
            disk=self.disk, index=self._index, workspace_id=workspace.workspace_id, tell=workspace.note_kept
        ) as store:
            yield store

    async def open(self) -> None:
        """Open the workspace; the first claim ends the hold on it."""
        await self._index.register_workspace(self.workspace_id, str(self._path), "one")
        await self.workspaces.of_run(new_id(self.workspace_id, "r"))

    async def connect(self, client_id: str) -> Peer:
        """Connect a client, introduced."""
        ours, theirs = memory_stream_pair()
        peer = Peer(theirs)
        transport = self.transports[client_id] = MemoryTransport(ours)
        await self._nursery.start(self._serve, peer, transport)
        self._nursery.start_soon(peer.run)
        await wait_all_tasks_blocked()  # the handshake
        await peer.call(
            "initialize", protocolVersion=1, clientInfo={"name": "test", "version": "1"}, clientId=client_id
        )
        return peer

    async def _serve(self, peer: Peer, transport: MemoryTransport, task_status: trio.TaskStatus[None]) -> None:
        stream = GuardedStream(cast("Transport", transport))
        caller = Caller(connection_id=next(self._names), scopes=ALL_SCOPES, is_socket=True)  # type: ignore[arg-type]  # a set of literals is a set of str to the checker
        async with trio.open_nursery() as reading:
            ws = await open_web_socket(
                reading, stream, path="/v1/ws", key=peer.key(), subprotocol=None, max_message_bytes=4 * 1024 * 1024
            )
            task_status.started()
            await serve_connection(
                ws,
                caller,
                self._dispatcher.begin,
                self._dispatcher.notify,
                connections=self.server.connections,
                parsing=self._parsing,
            )
            await ws.aclose()
            reading.cancel_scope.cancel()
        stream.close()

    async def aclose(self) -> None:
        """Close the workspace, as a shutdown does."""
        self.workspaces.close(Deadlines.for_shutdown())
        await self.workspaces.closed()


@asynccontextmanager
async def open_in_memory(path: Path, script: dict[str, Any]) -> AsyncGenerator[InMemory]:
    """Run a server with one workspace until the end of the block."""
    async with trio.open_nursery() as nursery:
        server = InMemory(nursery, path, script)
        await server.open()
        yield server
        await server.aclose()
        nursery.cancel_scope.cancel()
