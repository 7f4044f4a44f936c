"""SIGTERM at any moment, while clients work and one of them has stopped reading.

The servers of a batch run side by side: most of what one takes is the wait for
its stalled client, which the server bounds, not we.
"""

import random
import signal
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import trio

from scale import Scale
from torture.checker import require
from torture.clients import Client, Gone, Refused, open_client
from torture.history import History
from torture.load import TURNS, Load
from torture.progress import Progress
from torture.rig import WAIT_S, Rig, ServerProcess, open_session

SIDE_BY_SIDE = 5
CLIENTS = 3
FLOOD = {"match": "^flood", "responses": [[{"say": "0123456789abcdef" * 1024, "times": 400, "delayMs": 1}]]}


class Stream(trio.abc.Stream):
    """A connection that may stop taking bytes."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._inner = trio.SocketStream(sock)
        self.goes_on = trio.Event()
        self.goes_on.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        await self.goes_on.wait()
        return await self._inner.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._inner.aclose()


async def stall(rig: Rig, server: ServerProcess, stalled: trio.Event) -> None:
    """Ask for more than the connection holds, and read none of it until the server is gone."""
    streams: list[Stream] = []

    async def dial(url: str) -> Stream:
        host, port = url.removeprefix("ws://").partition("/")[0].split(":")
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect((host, int(port)))
        streams.append(Stream(sock))
        return streams[0]

    try:
        async with open_client(rig.history, server, name="stalled", dial=dial, reads=False) as client:
            sessions = [await open_session(client, rig.directory("one")) for _ in range(3)]
            for session in sessions:
                await client.send("session/prompt", **Client.prompt_params(session, "flood"))
            await client.until(lambda: any(kind == "message.delta" for _, kind in client.types))
            streams[0].goes_on = trio.Event()
            stalled.set()
            await server.gone()
            streams[0].goes_on.set()
    except (Gone, Refused):  # the server was quicker
        stalled.set()


async def stop_once(rig: Rig, rng: random.Random) -> None:
    """One server, told to end at a random moment."""
    load = None
    async with rig.serve() as server:
        load = Load(rig.history, server, rng, [rig.directory(name) for name in ("one", "two")])
        stalled = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stall, rig, server, stalled)
            nursery.start_soon(load.run, CLIENTS)
            if rng.random() < 0.8:
                await stalled.wait()
            await trio.sleep(rng.uniform(0, 0.5))
            server.signal(signal.SIGTERM)
            assert await server.gone() == 0
    require(rig.history, ended=False)
    assert open_runs(rig.state_dir) == {}


def open_runs(state_dir: Path) -> dict[str, int]:
    """How each run ended that did not end as a shutdown lets runs end."""
    found: dict[str, int] = {}
    for path in state_dir.glob("workspaces/*/atrio.db"):
        with closing(sqlite3.connect(path)) as db:
            rows = db.execute("SELECT state || coalesce(json_extract(body, '$.stopReason'), '') FROM runs").fetchall()
            for (end,) in rows:
                if not end.startswith("completed") or end.endswith("interrupted"):
                    found[end] = found.get(end, 0) + 1
    return found


async def test_a_server_that_is_told_to_end_ends_in_order_whatever_its_clients_do(tmp_path: Path, scale: Scale) -> None:
    stops = scale.count(10, 500)
    progress = Progress("SIGTERM with a stalled reader", stops, is_long=scale.is_long)
    side_by_side = trio.CapacityLimiter(SIDE_BY_SIDE)
    done = 0

    async def stop(number: int) -> None:
        nonlocal done
        history = History(f"{scale.seed}, stop {number}")
        rig = Rig(tmp_path / f"stop-{number}", history, FLOOD, *TURNS)
        async with side_by_side:
            with history.kept(tmp_path / f"stop-{number}.jsonl"), trio.fail_after(WAIT_S):
                await stop_once(rig, scale.rng("stop", number))
        done += 1
        progress.at(done)

    with scale.trying("SIGTERM at random with a stalled reader", stops):
        async with trio.open_nursery() as nursery:
            for number in range(stops):
                nursery.start_soon(stop, number)
