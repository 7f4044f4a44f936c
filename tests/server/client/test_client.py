"""The client through everything that a connection can do, in virtual time.

The server here is `fake_server`, over memory streams: it can be told after which
frame to cut, whom to refuse and what to forget.
"""

import typing
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from atrio_protocol import methods as m
from atrio_protocol.content import TextBlock
from atrio_protocol.errors import AuthRequired, RunNotFound, SessionNotFound, UnsupportedProtocol
from atrio_protocol.events import Event, MessageDelta, RunCompleted
from atrio_protocol.struct import given
from atrio_server.client import (
    Address,
    Client,
    Detached,
    FrameTooLarge,
    ReplyLost,
    Resync,
    ServerGone,
    SessionStream,
    StreamBroken,
    open_client,
)
from atrio_server.client.typed import REPEATABLE, TypedCalls, may_repeat
from fake_server import FakeServer, FakeSession, RpcError, begin, end, say_pong, stall

URL = "ws://127.0.0.1:4317/v1/ws"


@asynccontextmanager
async def connected(server: FakeServer, **more: Any) -> AsyncGenerator[Client]:
    """A client of a fake server; the whole of it takes at most ten virtual minutes."""
    with trio.fail_after(600):
        async with (
            server.serving(),
            open_client(URL, "a-token", client_name="test", dial=server.dial, **more) as client,
        ):
            yield client


def prompt(run_id: str | None = "r1", text: str = "ping") -> m.PromptParams:
    return m.PromptParams(session_id="s1", prompt=(TextBlock(text=text),), run_id=run_id)


async def read_until_end(events: SessionStream, run_id: str = "r1") -> list[Event | Resync[m.SessionSnapshot]]:
    """Everything up to the run's end, checked for gaps and repeats as it comes."""
    seen: list[Event | Resync[m.SessionSnapshot]] = []
    position = events.position
    async for item in events:
        assert not isinstance(item, Detached)
        if isinstance(item, Event):
            assert position is not None
            assert given(item.first_seq, item.seq) == position.seq + 1
        position = events.position
        assert position is not None
        seen.append(item)
        if isinstance(item, RunCompleted) and item.run.run_id == run_id:
            return seen
        if isinstance(item, Resync) and any(r.run_id == run_id and r.state == "completed" for r in item.snapshot.runs):
            return seen
    raise AssertionError("the stream ended before the run")


def text_of(seen: list[Event | Resync[m.SessionSnapshot]]) -> str:
    return "".join(item.text for item in seen if isinstance(item, MessageDelta))


async def test_a_prompt_is_answered_and_its_events_are_read_to_the_end(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server, user_name="Ada") as client:
        with client.session("s1") as events:
            result = await client.call("session/prompt", prompt())
            seen = await read_until_end(events)
    assert not result.duplicate
    assert isinstance(seen[0], Resync)
    assert text_of(seen) == "pong pong"
    assert server.hellos[0]["userName"] == "Ada"


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


async def test_a_prompt_whose_answer_was_lost_is_sent_again_and_runs_once(autojump_clock: MockClock) -> None:
    server = FakeServer()
    server.swallow = {"session/prompt"}
    async with connected(server) as client:
        result = await client.call("session/prompt", prompt())
    assert result.duplicate
    assert [params["runId"] for method, params in server.asked if method == "session/prompt"] == ["r1", "r1"]
    assert list(server.sessions["s1"].runs) == ["r1"]


async def test_a_prompt_without_a_run_id_is_never_sent_twice(autojump_clock: MockClock) -> None:
    server = FakeServer()
    server.swallow = {"session/prompt"}
    async with connected(server) as client:
        with pytest.raises(ReplyLost):
            await client.call("session/prompt", prompt(run_id=None))
        await client.call("ping", m.NoParams())
    assert len(server.sessions["s1"].runs) == 1


async def test_a_request_that_breaks_every_connection_is_given_up(autojump_clock: MockClock) -> None:
    server = FakeServer()
    always = {"run/get"}
    server.answers["run/get"] = lambda _: server.swallow.update(always) or {}
    async with connected(server) as client:
        server.swallow.update(always)
        with pytest.raises(ReplyLost):
            await client.call("run/get", m.RunParams(run_id="r1"))
    assert [method for method, _ in server.asked].count("run/get") == 20


async def test_a_delete_whose_answer_was_lost_is_done_when_nothing_is_there_any_more(
    autojump_clock: MockClock,
) -> None:
    server = FakeServer()

    def delete(params: dict[str, Any]) -> dict[str, Any]:
        if server.sessions.pop(params["sessionId"], None) is None:
            raise RpcError("session_not_found", -32002)
        return {}

    server.answers["session/delete"] = delete
    server.swallow = {"session/delete"}
    async with connected(server) as client:
        assert await client.call("session/delete", m.SessionParams(session_id="s1")) == m.Empty()
        with pytest.raises(SessionNotFound):
            await client.call("session/delete", m.SessionParams(session_id="s1"))


async def test_calls_made_while_there_is_no_connection_wait_for_the_next_one(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server) as client:
        server.refused_dials = 3
        await server.drop_all()
        await wait_all_tasks_blocked()
        assert await client.call("ping", m.NoParams()) == m.Empty()
    assert server.refused_dials == 0


async def test_the_client_keeps_its_id_over_reconnects_and_says_when_it_is_cut_off(autojump_clock: MockClock) -> None:
    server = FakeServer()
    states: list[bool] = []
    async with connected(server) as client:
        client.on_connection = states.append
        await server.drop_all()
        await wait_all_tasks_blocked()
        await client.call("ping", m.NoParams())
    assert states == [False, True]
    assert {hello["clientId"] for hello in server.hellos} == {client.client_id}
    assert len(server.hellos) == 2


async def test_a_server_that_is_gone_for_good_is_given_up_after_the_agreed_time(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server, give_up_s=30.0) as client:
        with client.session("s1") as events:
            assert isinstance(await anext(events), Resync)
            server.refused_dials = 1_000
            lost_at = trio.current_time()
            await server.drop_all()
            with pytest.raises(ServerGone, match="Connection refused"):
                await client.call("run/wait", m.RunWaitParams(run_id="r1"))
            assert 27 <= trio.current_time() - lost_at <= 30
            with pytest.raises(ServerGone):
                await anext(events)
            with pytest.raises(ServerGone):
                await client.call("ping", m.NoParams())
            with client.session("s2") as other, pytest.raises(ServerGone):
                await anext(other)


async def test_a_server_that_is_not_there_at_first_is_told_at_once(autojump_clock: MockClock) -> None:
    server = FakeServer()
    server.refused_dials = 1
    with pytest.raises(ServerGone, match="Connection refused"):
        async with connected(server):
            pass
    assert trio.current_time() == 0


async def test_a_wrong_token_is_told_at_once(autojump_clock: MockClock) -> None:
    server = FakeServer()
    server.token = "another"
    with pytest.raises(AuthRequired):
        async with connected(server):
            pass
    assert trio.current_time() == 0


async def test_a_token_that_is_refused_at_a_reconnect_ends_the_waiting(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server) as client:
        server.token = "rotated"
        await server.drop_all()
        with pytest.raises(AuthRequired):
            await client.call("ping", m.NoParams())
    assert trio.current_time() < 1


async def test_an_unsupported_protocol_is_told_as_such(autojump_clock: MockClock) -> None:
    server = FakeServer()

    def refuse(_: dict[str, Any]) -> dict[str, Any]:
        raise RpcError("unsupported_protocol", -32022)

    server.answers["initialize"] = refuse
    with pytest.raises(UnsupportedProtocol):
        async with connected(server):
            pass


async def test_a_server_that_hangs_up_in_the_handshake_is_not_waited_for(autojump_clock: MockClock) -> None:
    async def hang_up(url: str) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.aclose()
        return theirs

    with pytest.raises(ServerGone, match="hung up"):
        async with open_client(URL, "t", client_name="test", dial=hang_up):
            pass
    assert trio.current_time() == 0


async def test_a_server_that_never_answers_the_handshake_is_given_up(autojump_clock: MockClock) -> None:
    kept: list[trio.abc.Stream] = []

    async def accept_only(url: str) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        ours, theirs = trio.testing.memory_stream_pair()
        kept.append(ours)
        return theirs

    with pytest.raises(ServerGone, match="did not answer"):
        async with open_client(URL, "t", client_name="test", dial=accept_only):
            pass
    assert trio.current_time() == 10


async def test_a_connection_that_falls_silent_is_dialled_again(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server) as client:
        with client.session("s1") as events:
            assert isinstance(await anext(events), Resync)
            server.deaf = True
            await trio.sleep(39)
            assert server.connections == 1
            server.deaf = False  # too late for the question that was asked after 20 s
            await trio.sleep(5)
            assert server.connections == 2
            await client.call("session/prompt", prompt())
            assert isinstance((await read_until_end(events))[-1], RunCompleted)


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


async def test_a_call_that_is_given_up_tells_the_server(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server) as client:
        server.deaf = True
        with trio.move_on_after(1) as waiting:
            await client.call("run/wait", m.RunWaitParams(run_id="r1"))
        assert waiting.cancelled_caught
        await wait_all_tasks_blocked()
    waited, note = server.asked[-2:]
    assert waited[0] == "run/wait"
    assert note[0] == "$/cancel_request"


async def test_a_call_may_be_given_up_in_the_moment_in_which_its_answer_comes(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server) as client:
        server.deaf = True
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                await client.call("ping", m.NoParams())

            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            client.frame_came('{"jsonrpc":"2.0","id":"1","result":{}}')
        server.deaf = False
        await client.call("ping", m.NoParams())


async def test_what_is_too_large_for_the_server_is_not_sent(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server) as client:
        with pytest.raises(FrameTooLarge):
            await client.call("session/prompt", prompt(text="é" * 2_200_000))
        await client.call("ping", m.NoParams())
    assert server.connections == 1


async def test_a_plain_error_in_the_block_comes_out_as_itself(autojump_clock: MockClock) -> None:
    async def block() -> None:
        async with connected(FakeServer()) as client:
            await client.call("ping", m.NoParams())
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await block()


async def test_leaving_the_block_sends_what_is_in_line_and_says_goodbye(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server) as client:
        with client.session("s1"):
            await client.call("ping", m.NoParams())
    assert [method for method, _ in server.asked] == ["initialize", "session/attach", "ping", "session/detach"]
    assert trio.current_time() == 0


async def test_what_does_not_speak_the_protocol_is_told(autojump_clock: MockClock) -> None:
    server = FakeServer()
    server.answers["initialize"] = lambda _: {"not": "ours"}
    with pytest.raises(ServerGone, match="does not speak the protocol"):
        async with connected(server):
            pass


async def test_a_server_that_moved_is_found_where_it_is_now(autojump_clock: MockClock) -> None:
    server = FakeServer()
    places = ["ws://127.0.0.1:1/v1/ws", "ws://127.0.0.1:2/v1/ws"]
    dialled: list[str] = []

    async def dial(url: str) -> trio.abc.Stream:
        dialled.append(url)
        return await server.dial(url)

    with trio.fail_after(60):
        async with (
            server.serving(),
            open_client(
                URL, "", client_name="t", dial=dial, locate=lambda: Address(places.pop(0), "a-token")
            ) as client,
        ):
            await server.drop_all()
            await wait_all_tasks_blocked()
            await client.call("ping", m.NoParams())
    assert dialled == ["ws://127.0.0.1:1/v1/ws", "ws://127.0.0.1:2/v1/ws"]


def test_the_typed_calls_are_the_table_of_methods() -> None:
    rows = {
        typing.get_args(hints["method"])[0]: (hints["params"], hints["return"])
        for hints in map(typing.get_type_hints, typing.get_overloads(TypedCalls.call))
    }
    # The connection itself, and the streams, send these.
    own = {"initialize", "session/attach", "session/detach"}
    assert rows == {name: (row.params, row.result) for name, row in m.METHODS.items() if name not in own}


def test_every_method_is_known_to_be_repeatable_or_not() -> None:
    once = {
        *("initialize", "session/new", "session/fork", "session/prompt", "session/summarize", "session/shell"),
        "permission/revoke",
        *("server/shutdown", "test/release", "test/hold"),
    }
    assert set(m.METHODS) - REPEATABLE == once
    assert may_repeat("session/prompt", prompt())
    assert not may_repeat("session/prompt", prompt(run_id=None))
