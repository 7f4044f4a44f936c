"""Nothing is left of those who have gone: tasks, threads, open files, processes and memory are as they were before.

A server in a process of its own, looked at from outside and by its own figures.
It is warm first (what is imported, compiled and cached once is no leak); then
come the rounds; then everything must come back, for which it has its time.
"""

import base64
import json
import struct
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import trio
from prometheus_client.parser import text_string_to_metric_families

from atrio_protocol.limits import REPLAY_EVENTS
from mcp_rig import SERVER
from scale import Scale
from wire.client import Wire, connect
from wire.http import http
from wire.process import Process, spawn

Json = dict[str, Any]

LIMIT_S = 600
SETTLE_S = 60
"""How long what was there may take to be gone: Trio's own worker threads end after ten idle seconds."""

AT_ONCE = 20
SESSIONS = 4
RSS_GROWTH = 1.10

SCRIPT = {
    "name": "leaks",
    "turns": [
        {
            "match": "^shell",
            "responses": [[{"tool": "shell", "input": {"command": "echo said; sleep 0"}}], [{"say": "ran"}]],
        },
        {"match": "^fill", "responses": [[{"say": "word ", "times": 5_000}]]},
        {"responses": [[{"say": "word ", "times": 3}]]},
    ],
}


@dataclass(frozen=True)
class Figures:
    """What could leak, but for memory."""

    tasks: int
    threads: int
    files: int
    children: int
    workspaces: int
    sessions: int
    readers: int

    def within(self, before: "Figures") -> bool:
        """Whether nothing is left that was not there before."""
        return all(getattr(self, name) <= getattr(before, name) for name in self.__dataclass_fields__)


class Server:
    """The server, and what it holds."""

    def __init__(self, process: Process, root: Path) -> None:
        self.process = process
        self.root = root

    async def figures(self) -> Figures:
        answer = await http(
            self.process.http, "GET", "/metrics", headers={"Authorization": f"Bearer {self.process.token}"}
        )
        found = {
            sample.name: 0.0
            for family in text_string_to_metric_families(answer.body.decode())
            for sample in family.samples
        }
        for family in text_string_to_metric_families(answer.body.decode()):
            for sample in family.samples:
                found[sample.name] += sample.value
        home = Path(f"/proc/{self.process.pid}")
        return Figures(
            tasks=int(found["atrio_tasks"]),
            threads=len([*(home / "task").iterdir()]),
            files=len([*(home / "fd").iterdir()]),
            children=len(children_of(self.process.pid)),
            workspaces=int(found["atrio_workspaces"]),
            sessions=int(found["atrio_sessions"]),
            readers=int(found["atrio_readers"]),
        )

    def rss_kb(self) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])

    async def settled(self, before: Figures | None = None) -> Figures:
        """Wait until nothing more ends by itself, and with ``before`` until all is as it was."""
        last = await self.figures()
        with trio.move_on_after(SETTLE_S):
            while True:
                await trio.sleep(1)
                now = await self.figures()
                if now.within(before) if before is not None else now == last:
                    return now
                last = now
        assert before is None, f"left behind: {last}, before: {before}; the tasks' names are those of the open things"
        return last

    def client(self, number: int) -> Any:
        return connect(self.process.ws, self.process.token, name=f"client {number}")


def children_of(pid: int) -> list[str]:
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


async def many(rounds: int, work: Callable[[int, int], Awaitable[None]], *, at_once: int = AT_ONCE) -> None:
    """Do ``work(worker, round)`` for every round, several at a time."""
    numbers = iter(range(rounds))

    async def worker(me: int) -> None:
        for number in numbers:
            await work(me, number)

    async with trio.open_nursery() as nursery:
        for me in range(at_once):
            nursery.start_soon(worker, me)


@asynccontextmanager
async def open_server(tmp_path: Path, scale: Scale, *, environ: dict[str, str] | None = None) -> AsyncGenerator[Server]:
    """Run a server whose model is played and who allows everything."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps(SCRIPT))
    flags = ("--model", f"script:{script}", "--permissions", "allow")
    # What the allocator keeps for each of its threads is no leak, and another amount each time.
    environ = {"MALLOC_ARENA_MAX": "1", **(environ or {})}
    with trio.fail_after(scale.count(LIMIT_S, 10 * LIMIT_S)):
        async with spawn(tmp_path / "state", *flags, environ=environ) as process:
            yield Server(process, tmp_path)


async def open_workspace(wire: Wire, path: Path) -> str:
    """Open a directory; the workspace's id."""
    await trio.Path(path).mkdir(exist_ok=True)
    workspace: str = (await wire.call("workspace/open", path=str(path)))["workspace"]["workspaceId"]
    return workspace


async def fill_workspace_stream(wire: Wire, workspace: str, session: str) -> None:
    """Publish as many events as a workspace's stream keeps."""
    for _ in range(0, REPLAY_EVENTS, 50):
        views = [
            await wire.send("session/view", workspaceId=workspace, sessionId=[session, None][n % 2]) for n in range(50)
        ]
        for view in views:
            await wire.reply(view)


def port_of(process: Process) -> int:
    return int(process.http.rsplit(":", 1)[1])


def handshake(process: Process) -> bytes:
    """The upgrade of a client that is as cheap as can be, so that there may be many."""
    lines = [
        "GET /v1/ws HTTP/1.1",
        f"Host: 127.0.0.1:{port_of(process)}",
        f"Authorization: Bearer {process.token}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def visit(path: str, session: str, run_id: str) -> bytes:
    """All that such a client asks for, in one piece."""
    prompt = [{"type": "text", "text": "go"}]
    asked: list[tuple[str, Json]] = [
        ("initialize", {"protocolVersion": 1, "clientInfo": {"name": "visitor", "version": "1"}}),
        ("workspace/open", {"path": path}),
        ("session/attach", {"sessionId": session, "historyLimit": 5}),
        ("session/prompt", {"sessionId": session, "prompt": prompt, "runId": run_id}),
    ]
    frames = b""
    for number, (method, params) in enumerate(asked):
        data = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode()
        frames += (
            b"\x81\xfe" + struct.pack("!H", len(data)) + bytes(4) + data
            if len(data) > 125
            else (b"\x81" + bytes([0x80 | len(data)]) + bytes(4) + data)
        )
    return frames


async def read_until(stream: trio.SocketStream, *wanted: bytes) -> None:
    """Read until one of these has come."""
    data = b""
    while not any(each in data for each in wanted):
        piece = await stream.receive_some()
        assert piece, f"closed before {wanted}: {data[-500:]!r}"
        data = data[-500:] + piece


async def mcp_ready(wire: Wire, workspace: str) -> None:
    """Wait until the workspace's MCP server is there."""
    while True:
        (server,) = (await wire.call("workspace/get", workspaceId=workspace))["mcp"]
        if server["state"] == "ready":
            return
        await trio.sleep(0.05)


async def new_session(wire: Wire, workspace: str) -> str:
    session: str = (await wire.call("session/new", workspaceId=workspace))["session"]["sessionId"]
    return session


async def test_a_thousand_clients_that_come_prompt_and_leave_leave_nothing_behind(tmp_path: Path, scale: Scale) -> None:
    rounds = scale.count(1_000, 10_000)
    async with open_server(tmp_path, scale) as server, server.client(-1) as keeper:
        workspace = await open_workspace(keeper, tmp_path / "project")
        sessions = [await new_session(keeper, workspace) for _ in range(SESSIONS)]
        for session in sessions:  # what a stream keeps for its readers is bounded, and full from now on
            run = (await keeper.prompt(session, "fill", delivery="queue"))["run"]["runId"]
            await keeper.call("run/wait", runId=run)

        await fill_workspace_stream(keeper, workspace, sessions[0])

        async def come_and_go(me: int, number: int) -> None:
            async with await trio.open_tcp_stream("127.0.0.1", port_of(server.process)) as stream:
                await stream.send_all(handshake(server.process))
                await read_until(stream, b"\r\n\r\n")
                await stream.send_all(visit(str(tmp_path / "project"), sessions[me % SESSIONS], uuid4().hex))
                # A third leaves in the middle of it all; so many of them may fill a queue.
                await read_until(
                    stream, *([b'"run.completed"'] if number % 3 else [b'"run.accepted"', b'"queue_full"'])
                )

        with scale.trying("clients that connect, prompt and leave", rounds):
            await many(rounds // 2, come_and_go)
            before, rss_kb = await server.settled(), server.rss_kb()
            await many(rounds, come_and_go)
            await server.settled(before)
            grown = server.rss_kb() / rss_kb
            assert grown < RSS_GROWTH, f"memory grew to {grown:.2f} of {rss_kb} KiB"


async def test_workspaces_sessions_commands_and_mcp_servers_leave_nothing_behind(tmp_path: Path, scale: Scale) -> None:
    rounds = scale.count(12, 300)
    config = tmp_path / "config/atrio/config.toml"
    config.parent.mkdir(parents=True)
    arguments = json.dumps(["-S", "-E", SERVER])
    config.write_text(f"[mcp.servers.own]\ncommand = {json.dumps(sys.executable)}\nargs = {arguments}\n")
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}

    async with open_server(tmp_path, scale, environ=environ) as server:

        async def open_and_close(me: int, number: int) -> None:
            async with server.client(number) as wire:
                workspace = await open_workspace(wire, tmp_path / f"project-{me}")
                await mcp_ready(wire, workspace)
                for text in ("shell", "go", "shell"):
                    session = await new_session(wire, workspace)
                    await wire.attach(session)
                    run = (await wire.prompt(session, text, delivery="queue"))["run"]["runId"]
                    await wire.completed(session, run)
                    forked = (await wire.call("session/fork", sessionId=session))["session"]["sessionId"]
                    await wire.attach(forked)
                    for gone in (session, forked):
                        await wire.call("session/delete", sessionId=gone)
                await wire.call("workspace/close", workspaceId=workspace)

        with scale.trying("workspaces with MCP servers, sessions and commands, opened and closed", rounds):
            await many(3, open_and_close, at_once=3)
            before = await server.settled()
            # What takes longer than a second to end looks settled, too.
            while (before.workspaces, before.sessions, before.children) != (0, 0, 0):
                before = await server.settled()
            await many(rounds, open_and_close, at_once=3)
            after = await server.settled(before)
            assert (after.workspaces, after.sessions, after.children) == (0, 0, 0)
