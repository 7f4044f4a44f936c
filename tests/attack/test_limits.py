"""Every limit of the server is met by a typed error, and by nothing else: the rest goes on.

What the queue, a prompt's size and waiting requests are refused with is tested in
`wire/test_errors.py`, how many requests of a connection are read at a time in
`server/socket/test_requests.py`, and what the log takes in `server/test_logs.py`.
"""

import json
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed

from atrio_agent import coordinator
from atrio_protocol.limits import MAX_FRAME_BYTES
from atrio_server import attachments
from atrio_server.logs import NOTES_PER_MINUTE
from attack.rig import in_turns
from door_rig import WAIT_S, DoorClient, until
from wire.client import connect
from wire.conftest import Harness
from wire.http import http
from wire.process import spawn
from wire.steps import GATED, PLAIN, new_session


async def test_a_message_over_the_limit_is_refused_by_its_door_and_no_other_connection_ends(bench: Harness) -> None:
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (other, _):
        async with connect(running.ws, running.token) as wire:
            with suppress(ConnectionClosed):  # nobody has to take the rest of it
                await wire.send_raw(json.dumps({"x": "y" * MAX_FRAME_BYTES}))
            assert await wire.closing() == 1009
        headers = {"Authorization": f"Bearer {running.token}", "Content-Type": "application/json"}
        answer = await http(running.http, "POST", "/v1/rpc", headers=headers, body=b" " * (MAX_FRAME_BYTES + 1))
        assert (answer.status, answer.json()["error"]) == (413, "body_too_large")
        assert await other.call("ping") == {}


async def test_streams_of_a_connection_are_limited_and_leaving_one_makes_room(
    bench: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "MAX_ATTACHMENTS", 4)
    async with bench.serve(model=bench.script(PLAIN)) as running, bench.open(running) as (wire, workspace):
        sessions = [await new_session(wire, workspace) for _ in range(3)]
        made = (await wire.call("session/new", workspaceId=workspace))["session"]["sessionId"]
        refusal = await wire.refused("session/attach", sessionId=made)
        assert (refusal.kind, refusal.data["retryable"]) == ("overloaded", True)
        elsewhere = bench.root / "elsewhere"
        elsewhere.mkdir()
        assert (await wire.refused("workspace/open", path=str(elsewhere))).kind == "overloaded"
        await wire.attach(sessions[0])  # again: that takes no more room
        await wire.call("session/detach", sessionId=sessions[0])
        await wire.attach(made)
        await wire.prompt(made, "hello", runId="r1")
        assert (await wire.completed(made, "r1"))["text"] == "hello"
        async with connect(running.ws, running.token) as another:
            await another.attach(sessions[0])


async def test_sessions_in_use_are_limited_and_idle_ones_give_way(
    bench: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "MAX_LOADED", 3)
    async with bench.serve(model=bench.script(GATED, PLAIN)) as running, bench.open(running) as (wire, workspace):
        first, second = [await new_session(wire, workspace) for _ in range(2)]
        idle = (await wire.call("session/new", workspaceId=workspace))["session"]["sessionId"]
        refusal = await wire.refused("session/new", workspaceId=workspace)
        assert (refusal.kind, refusal.data["retryable"]) == ("overloaded", True)
        assert (await wire.refused("session/fork", sessionId=first)).kind == "overloaded"
        monkeypatch.setattr(coordinator, "UNLOAD_EARLY_S", 0.0)
        await wire.prompt(first, "gated", runId="r1")
        await wire.call("test/gates", wait="go")
        third: str | None = None
        while third is None:  # the next look at what is idle is a second after the last
            asked = await wire.send("session/new", workspaceId=workspace)
            await wire.until(lambda asked=asked: asked in wire._replies)
            answer = wire._replies.pop(asked)
            third = answer.get("result", {}).get("session", {}).get("sessionId")
        assert third not in {first, second, idle}
        await wire.call("test/release", gate="go")
        assert (await wire.completed(first, "r1"))["stopReason"] == "end_turn"
        assert wire.detached == []


async def test_connections_of_one_address_are_limited_and_another_address_still_gets_in(bench: Harness) -> None:
    async with bench.serve(
        model=bench.script(PLAIN), connections_per_address=3, host="0.0.0.0", insecure_bind=True
    ) as running:
        port = int(running.http.rpartition(":")[2])
        attacker = DoorClient(port=port, token=running.token)
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(attacker.raw_socket())
            answer = await attacker.ask(attacker.handshake())
            assert (answer.status, answer.json["error"]) == (503, "too_many_connections")
            assert (await attacker.ask(attacker.head("/v1/health"))).status == 503
            stream = await trio.open_tcp_stream("127.0.0.1", port, local_address="127.0.0.2")
            async with stream:
                await stream.send_all(attacker.handshake())
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 101")
        with trio.fail_after(WAIT_S):  # the door counts a connection until all of it is over
            while (await attacker.ask(attacker.head("/v1/health"))).status == 503:
                pass
        await until(lambda: len(running.server.connections) == 0)
        async with attacker.raw_socket():
            pass


async def test_a_client_that_provokes_log_lines_cannot_fill_the_disk(tmp_path: Path) -> None:
    log = tmp_path / "log"
    attempts = 2 * NOTES_PER_MINUTE
    with trio.fail_after(120):
        async with spawn(tmp_path / "state", "--model", "demo", "--log-format", "json", log=log) as server:
            attacker = DoorClient(port=int(server.http.rpartition(":")[2]), token="W" * 43)  # no token of this server

            async def knock(_number: int) -> None:
                assert (await attacker.ask(attacker.handshake())).status == 401

            await in_turns(8, knock, range(attempts))
            server.signal(signal.SIGTERM)
            assert await server.ended() == 0
    refused = [line for line in log.read_text().splitlines() if "door.refused" in line]
    assert len(refused) < attempts  # and not equal to the limit, where a minute ended meanwhile
