"""The client's streams: no gap and no repeat through cuts, lag, slow readers and forgetful servers, in virtual time."""

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from atrio_protocol import methods as m
from atrio_protocol.errors import RunNotFound, SessionNotFound
from atrio_protocol.events import Event, MessageDelta, RunCompleted
from atrio_server.client import (
    Detached,
    Resync,
    StreamBroken,
)
from client_rig import connected, prompt, read_until_end, text_of
from fake_server import FakeServer, FakeSession, begin, end, say_pong, stall


@pytest.mark.parametrize("cut_after", range(1, 14))
async def test_a_cut_after_any_frame_leaves_no_gap_and_no_repeat(autojump_clock: MockClock, cut_after: int) -> None:
    server = FakeServer()
    server.cut_after = lambda connection: cut_after if connection == 0 else None
    async with connected(server) as client:
        with client.session("s1") as events:
            await client.call("session/prompt", prompt())
            seen = await read_until_end(events)
    logged = server.sessions["s1"].log
    resync = seen[0]
    assert isinstance(resync, Resync)
    assert [item.seq for item in seen[1:] if isinstance(item, Event)] == [
        event["seq"] for event in logged if event["seq"] > resync.position.seq
    ]
    assert [method for method, _ in server.asked].count("initialize") == server.connections


@pytest.mark.parametrize("frames", [3, 4, 5])
async def test_connections_that_are_all_cut_still_come_to_the_end(autojump_clock: MockClock, frames: int) -> None:
    server = FakeServer()
    server.cut_after = lambda connection: frames
    async with connected(server) as client:
        with client.session("s1") as events:
            await client.call("session/prompt", prompt())
            seen = await read_until_end(events)
    assert isinstance(seen[-1], RunCompleted)
    assert server.connections > 2


async def test_events_lost_for_good_come_as_a_snapshot_that_tells_the_end_of_a_watched_run(
    autojump_clock: MockClock,
) -> None:
    server = FakeServer()
    server.on_prompt = stall
    async with connected(server) as client:
        with client.session("s1", watch=("r1",)) as events:
            await client.call("session/prompt", prompt())
            while not isinstance(await anext(events), MessageDelta):
                pass
            session = server.sessions["s1"]
            end(session, "r1", "po", "interrupted")
            session.forget(epoch="e2")
            await server.drop_all()
            seen = await read_until_end(events)
            assert events.position == m.Position(epoch="e2", seq=0)
    assert len(seen) == 1
    assert isinstance(seen[0], Resync)
    assert seen[0].snapshot.runs[0].stop_reason == "interrupted"


async def test_a_reader_that_lagged_attaches_again_where_it_was(autojump_clock: MockClock) -> None:
    server = FakeServer()
    server.on_prompt = stall
    async with connected(server) as client:
        with client.session("s1") as events:
            await client.call("session/prompt", prompt())
            while not isinstance(await anext(events), MessageDelta):
                pass
            await server.note_all("session/detached", sessionId="s1", reason="lagged")
            end(server.sessions["s1"], "r1", "po")
            server.wake()
            seen = await read_until_end(events)
    assert [type(item).__name__ for item in seen] == ["MessageCompleted", "RunCompleted"]
    assert server.connections == 1


@pytest.mark.parametrize("reason", ["deleted", "workspace_closed"])
async def test_the_end_of_a_stream_is_its_last_item(autojump_clock: MockClock, reason: str) -> None:
    server = FakeServer()
    async with connected(server) as client:
        with client.session("s1") as events:
            assert isinstance(await anext(events), Resync)
            await server.note_all("session/detached", sessionId="s1", reason=reason)
            assert [item async for item in events] == [Detached(reason)]


async def test_attaching_to_a_session_that_is_not_there_is_told_to_its_reader(autojump_clock: MockClock) -> None:
    async with connected(FakeServer()) as client:
        with client.session("nobody") as events, pytest.raises(SessionNotFound):
            await anext(events)
        with pytest.raises(RunNotFound):
            await client.call("run/get", m.RunParams(run_id="none"))


async def test_a_gap_in_the_events_is_an_error_and_not_passed_over(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server) as client:
        with client.session("s1") as events:
            assert isinstance(await anext(events), Resync)
            session = server.sessions["s1"]
            session.publish("notice", severity="info", title="one")
            session.log[-1]["seq"] = 7
            server.wake()
            with pytest.raises(StreamBroken):
                await anext(events)


async def test_a_slow_reader_is_kept_within_bounds_and_misses_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atrio_server.client.stream.BUFFER_BYTES", 2_000)
    server = FakeServer()

    def talk(session: FakeSession, run: dict[str, Any]) -> None:
        begin(session, run, ["x"] * 300)

    server.on_prompt = talk
    async with connected(server) as client:
        with client.session("s1") as events:
            await client.call("session/prompt", prompt())
            await wait_all_tasks_blocked()
            await trio.sleep(5)
            assert events.buffered_bytes < 3_000
            end(server.sessions["s1"], "r1", "x" * 300)
            server.wake()
            seen = await read_until_end(events)
    assert text_of(seen) == "x" * 300


async def test_a_reader_may_begin_after_what_it_has(autojump_clock: MockClock) -> None:
    server = FakeServer()
    say_pong(server.sessions["s1"], {"runId": "r1", "state": "queued"} | _old_run())
    async with connected(server) as client:
        with client.session("s1", after=m.Position(epoch="e1", seq=3)) as events:
            seen = [await anext(events) for _ in range(3)]
    assert [item.seq for item in seen if isinstance(item, Event)] == [4, 5, 6]
    assert msgspec.json.decode(events.raw) == server.sessions["s1"].log[5]


def _old_run() -> dict[str, Any]:
    return {
        "runId": "r1",
        "sessionId": "s1",
        "acceptSeq": 1,
        "state": "queued",
        "delivery": "queue",
        "kind": "prompt",
        "author": {"clientId": "c", "name": "n"},
        "promptText": "ping",
        "attachments": [],
        "acceptedAt": "2026-11-20T09:30:00.000Z",
    }


async def test_a_session_is_read_by_one_stream_at_a_time(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server) as client:
        with client.session("s1") as events:
            await anext(events)
            with pytest.raises(ValueError, match="being read already"):
                client.session("s1")
        with client.session("s1") as again:
            assert isinstance(await anext(again), Resync)


async def test_a_session_may_be_read_again_before_the_first_attach_was_answered(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server) as client:
        client.session("s1").close()
        with client.session("s1") as events:
            await client.call("session/prompt", prompt())
            assert isinstance((await read_until_end(events))[-1], RunCompleted)
    assert [method for method, _ in server.asked].count("session/detach") == 1


async def test_a_workspace_is_read_by_one_stream_at_a_time(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server) as client:
        with client.workspace("/here") as first, client.workspace("/./here") as second:
            assert isinstance(await anext(first), Resync)
            with pytest.raises(ValueError, match="already"):
                await anext(second)
            await client.call("ping", m.NoParams())
            assert first.recovered is not None
        await client.call("ping", m.NoParams())
    opens = [params["path"] for method, params in server.asked if method == "workspace/open"]
    assert opens == ["/here", "/./here", "/here"], "the first goes on where the second was refused"


async def test_a_stream_has_one_reader(autojump_clock: MockClock) -> None:
    async with connected(FakeServer()) as client:
        with client.session("s1") as events:
            await anext(events)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(anext, events)
                await wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await anext(events)
                nursery.cancel_scope.cancel()


async def test_a_stream_tells_whether_it_went_on_or_began_anew(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server) as client:
        with client.session("s1") as events:
            assert events.recovered is None
            await anext(events)
            assert events.recovered is False
            await server.drop_all()
            await wait_all_tasks_blocked()
            await client.call("ping", m.NoParams())
            assert events.recovered is True
