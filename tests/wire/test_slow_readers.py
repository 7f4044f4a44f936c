"""Readers that stop reading while others go on: nobody else notices, and they end with the same messages.

Time is virtual but in the last test, whose reader stands behind a real socket.
"""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked
from trio_websocket import WebSocketConnection, wrap_client_stream

from atrio_agent.streams import RING_BYTES, Stream
from atrio_protocol.events import decode_event
from atrio_protocol.limits import REPLAY_EVENTS
from atrio_protocol.methods import Attached, Position, SessionSnapshot
from atrio_protocol.reducer import SessionState, apply_event
from atrio_server.attachments import EVENTS_FRAME_BYTES
from atrio_server.byte_stream import WRITE_S
from atrio_server.keepalive import PING_EVERY_S, PONG_WITHIN_S
from atrio_server.socket import BURST_BYTES
from socket_rig import Peer, contiguous
from wire.client import MAX_MESSAGE_BYTES
from wire.conftest import Harness
from wire.in_memory import InMemory, open_in_memory
from wire.steps import new_session

Json = dict[str, Any]

ANN, BOB, CAROL = (f"3f2b8c1e-6a57-4b0e-9d53-00000000000{n}" for n in range(3))
LIMIT_S = 1e6
PAUSE_S = 15
SMOOTH_S = 0.5
"""So long at most a reader that reads is without news while a word comes every few milliseconds."""


def words(count: int, delay_ms: float) -> Json:
    """A model that says so many words, each by itself."""
    return {"name": "test", "turns": [{"responses": [[{"say": "word ", "times": count, "delayMs": delay_ms}]]}]}


class Reader:
    """A client and what it makes of a session."""

    def __init__(self, peer: Peer, session: str) -> None:
        self.peer = peer
        self.session = session
        self.lagged = 0

    async def attach(self) -> None:
        """Begin, or begin again; what was received before does not count any more."""
        self._from = len(self.peer.frames)
        attached = await self.peer.call("session/attach", sessionId=self.session)
        stream = msgspec.convert(attached["stream"], Position)
        snapshot = msgspec.convert(attached, Attached).snapshot
        assert isinstance(snapshot, SessionSnapshot)
        self.state = SessionState.from_snapshot(snapshot, stream)

    @property
    def events(self) -> list[Json]:
        """What came on the present attachment."""
        frames = [frame for _, frame in self.peer.frames[self._from :] if frame.get("method") == "session/events"]
        return [event for frame in frames for event in frame["params"]["events"]]

    async def messages(self) -> list[Json]:
        """What it would draw when the run is over; attaches again if it is told to."""

        def over() -> str | None:
            if len(self.peer.detached()) > self.lagged:
                return "lagged"
            newest, self._looked = self.peer.frames[self._looked :], len(self.peer.frames)
            return "ended" if any("run.completed" in str(frame) for _, frame in newest) else None

        self._looked = self._from
        if await self.peer.until(over) == "lagged":
            self.lagged += 1
            assert self.peer.detached()[-1] == {"sessionId": self.session, "reason": "lagged"}
            await self.attach()
            if self.state.runs:  # it is not over yet
                return await self.messages()
        assert contiguous(self.events)
        for event in self.events:
            if event["seq"] > self.state.seq:
                apply_event(self.state, decode_event(json.dumps(event).encode()))
        drawn: list[Json] = json.loads(msgspec.json.encode(self.state.messages))
        return drawn


async def begin(server: InMemory) -> tuple[str, list[Reader]]:
    """Three clients in one session; its id, and they."""
    peers = [await server.connect(name) for name in (ANN, BOB, CAROL)]
    for peer in peers:  # each claims, or the workspace would end with its hold
        await peer.call("session/list", workspaceId=server.workspace_id)
    session: str = (await peers[0].call("session/new", workspaceId=server.workspace_id))["session"]["sessionId"]
    readers = [Reader(peer, session) for peer in peers]
    for reader in readers:
        await reader.attach()
    return session, readers


def stream_of(server: InMemory, session: str) -> Stream:
    loaded = server.workspaces.get(server.workspace_id).coordinator.loaded(session)
    assert loaded is not None
    return loaded.stream


def longest_wait(peer: Peer, since: float, until: float) -> float:
    """The longest time within these that a client was without events."""
    times = [at for at, frame in peer.frames if frame.get("method") == "session/events" and since <= at <= until]
    return max(later - earlier for earlier, later in pairwise([since, *times, until]))


@pytest.mark.scenario("M6")
@pytest.mark.parametrize(("count", "delay_ms", "falls_out"), [(2000, 10, False), (9000, 2, True)])
async def test_a_reader_that_stops_for_a_while_costs_nobody_anything_and_ends_with_the_same_messages(
    tmp_path: Path, autojump_clock: MockClock, count: int, delay_ms: float, falls_out: bool
) -> None:
    with trio.fail_after(LIMIT_S):
        async with open_in_memory(tmp_path, words(count, delay_ms)) as server:
            session, (ann, bob, carol) = await begin(server)
            await ann.peer.call("session/prompt", sessionId=session, prompt=[{"type": "text", "text": "go"}])
            await trio.sleep(1)
            stopped = trio.current_time()
            server.transports[BOB].take_bytes(False)
            await trio.sleep(PAUSE_S)

            # Its connection holds one burst, the streams what they hold for everybody.
            stream = stream_of(server, session)
            (slow,) = [one for one in server.server.connections.values() if one.most_behind > 100]
            assert slow._burst_bytes <= BURST_BYTES + EVENTS_FRAME_BYTES
            assert stream.ring_bytes <= RING_BYTES and stream.seq - stream.oldest_seq < REPLAY_EVENTS
            for other in (ann, carol):
                assert longest_wait(other.peer, stopped, trio.current_time()) < SMOOTH_S
                assert other.events[-1]["seq"] > stream.seq - SMOOTH_S * 1000 / delay_ms
            went_on = trio.current_time()
            server.transports[BOB].take_bytes(True)

            drawn = [await reader.messages() for reader in (ann, bob, carol)]
            assert drawn[0] == drawn[1] == drawn[2]
            assert drawn[0][-1]["parts"][0]["text"] == "word " * count
            assert [reader.lagged for reader in (ann, bob, carol)] == [0, int(falls_out), 0]
            if not falls_out:  # the pause came in a few large pieces
                merged = [event for event in bob.events if event.get("firstSeq", event["seq"]) < event["seq"] - 100]
                assert merged and len(bob.events) < len(ann.events)
            assert longest_wait(ann.peer, went_on, went_on + 1) < SMOOTH_S


@pytest.mark.scenario("M7")
async def test_a_socket_that_takes_no_bytes_is_closed_with_4408_within_30_to_35_seconds(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    assert (WRITE_S, PING_EVERY_S, PONG_WITHIN_S) == (30.0, 20.0, 20.0)
    with trio.fail_after(LIMIT_S), capture_logs() as logged:
        async with open_in_memory(tmp_path, words(4500, 10)) as server:
            session, (ann, bob, carol) = await begin(server)
            await ann.peer.call("session/prompt", sessionId=session, prompt=[{"type": "text", "text": "go"}])
            await trio.sleep(1)
            stopped = trio.current_time()
            server.transports[BOB].take_bytes(False)
            bob.peer.answers_pings = False

            assert await bob.peer.closing() == 1006  # the code cannot reach who takes nothing
            assert 30 <= trio.current_time() - stopped <= 35
            await wait_all_tasks_blocked()
            assert [entry["code"] for entry in logged if entry["event"] == "connection closed"] == [4408]
            assert len(server.server.connections) == 2
            for other in (ann, carol):
                assert longest_wait(other.peer, stopped, trio.current_time()) < SMOOTH_S
            assert stream_of(server, session).readers == 2

            again = Reader(await server.connect(BOB), session)
            await again.attach()
            drawn = [await reader.messages() for reader in (ann, again, carol)]
            assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.scenario("M6")
async def test_a_reader_that_stops_behind_a_real_socket_is_told_and_catches_up(bench: Harness) -> None:
    piece = "x" * 8000 + " "
    large = {"responses": [[{"say": piece, "times": 150}]]}
    async with bench.serve(model=bench.script(large), limit_s=60) as running, bench.open(running) as (ann, workspace):
        session = await new_session(ann, workspace)
        loaded = running.server.workspaces.get(workspace).coordinator.loaded(session)
        assert loaded is not None
        stream = loaded.stream

        def behind() -> int:
            return max(one.most_behind for one in running.server.connections.values())

        async with trio.open_nursery() as nursery:
            slow = await raw_client(nursery, running.ws, running.token)
            await ask(slow, "initialize", protocolVersion=1, clientInfo={"name": "slow", "version": "1"})
            await ask(slow, "session/attach", sessionId=session)
            # More than kernels buffer, however much that is, and nobody waits for the one who does not read.
            for number in range(60):
                await ann.prompt(session, "go", runId=f"r{number}")
                await ann.completed(session, f"r{number}")
                if behind() > stream.seq - stream.oldest_seq + 1:
                    break
            assert running.server.rings.used_bytes < 16 * RING_BYTES
            assert behind() > stream.seq - stream.oldest_seq + 1

            while (frame := json.loads(await slow.get_message())).get("method") != "session/detached":
                assert frame["method"] == "session/events"
            assert frame["params"] == {"sessionId": session, "reason": "lagged"}
            attached = await ask(slow, "session/attach", sessionId=session)
            listed = await ann.call("session/messages", sessionId=session)
            assert attached["snapshot"]["messages"] == listed["messages"]
            await trio.aclose_forcefully(slow._stream)
            nursery.cancel_scope.cancel()


async def raw_client(nursery: trio.Nursery, url: str, token: str) -> WebSocketConnection:
    """A client with small buffers that reads only when it is told to."""
    where = urlsplit(url)
    assert where.hostname is not None and where.port is not None
    stream = await trio.open_tcp_stream(where.hostname, where.port)
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 64 * 1024)
    return await wrap_client_stream(
        nursery,
        stream,
        f"{where.hostname}:{where.port}",
        where.path,
        extra_headers=[(b"Authorization", f"Bearer {token}".encode())],
        message_queue_size=1,
        max_message_size=MAX_MESSAGE_BYTES,
    )


async def ask(ws: WebSocketConnection, method: str, **params: Any) -> Json:
    """Send a request and read on to its answer."""
    await ws.send_message(json.dumps({"jsonrpc": "2.0", "id": method, "method": method, "params": params}))
    while (frame := json.loads(await ws.get_message())).get("id") != method:
        pass
    result: Json = frame["result"]
    return result
