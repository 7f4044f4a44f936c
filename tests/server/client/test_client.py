"""The client's connection and calls through everything that a connection can do, in virtual time."""

import typing
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from atrio_protocol import methods as m
from atrio_protocol.errors import AuthRequired, SessionNotFound, UnsupportedProtocol
from atrio_protocol.events import RunCompleted
from atrio_server.client import (
    Address,
    AnswerBroken,
    Client,
    FrameTooLarge,
    ReplyLost,
    Resync,
    ServerGone,
    SessionStream,
    open_client,
)
from atrio_server.client.typed import REPEATABLE, TypedCalls, may_repeat
from client_rig import URL, connected, prompt, read_until_end, send_prompt, text_of
from fake_server import FakeServer, RpcError


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


async def test_a_prompt_whose_answer_was_lost_is_sent_again_and_runs_once(autojump_clock: MockClock) -> None:
    server = FakeServer()
    server.swallow = {"session/prompt"}
    async with connected(server) as client:
        result = await client.call("session/prompt", prompt())
    assert result.duplicate
    assert [params["runId"] for method, params in server.asked if method == "session/prompt"] == ["r1", "r1"]
    assert list(server.sessions["s1"].runs) == ["r1"]


async def test_a_prompt_without_a_run_id_is_given_one_and_runs_once(autojump_clock: MockClock) -> None:
    server = FakeServer()
    server.swallow = {"session/prompt"}
    async with connected(server) as client:
        result = await client.call("session/prompt", prompt(run_id=None))
    first, second = [params for method, params in server.asked if method == "session/prompt"]
    assert first == second
    assert list(server.sessions["s1"].runs) == [result.run.run_id] == [first["runId"]]
    assert first["delivery"] == "steer"  # what the contract has for a prompt without a run id


async def test_a_new_session_whose_answer_was_lost_is_not_asked_for_twice(autojump_clock: MockClock) -> None:
    server = FakeServer()
    server.swallow = {"session/new"}
    async with connected(server) as client:
        with pytest.raises(ReplyLost):
            await client.call("session/new", m.SessionNewParams(workspace_id="w1"))
        await client.call("ping", m.NoParams())
    assert len(server.sessions) == 2


async def test_a_cancel_whose_answer_was_lost_does_not_cover_the_prompt_after_it(autojump_clock: MockClock) -> None:
    server = FakeServer()
    lost: list[str] = []
    async with connected(server) as client, trio.open_nursery() as nursery:
        server.deaf = True

        async def cancel() -> None:
            with pytest.raises(ReplyLost):
                await client.call("session/cancel", m.CancelParams(session_id="s1"))
            lost.append("cancel")

        nursery.start_soon(cancel)
        await wait_all_tasks_blocked()
        nursery.start_soon(send_prompt, client)
        await wait_all_tasks_blocked()
        server.deaf = False
        await server.drop_all()
    assert lost == ["cancel"]
    asked = [method for method, _ in server.asked if method != "initialize"]
    assert asked == ["session/cancel", "session/prompt", "session/prompt"]


async def test_a_request_that_breaks_every_connection_is_given_up(autojump_clock: MockClock) -> None:
    server = FakeServer()
    always = {"run/get"}
    server.answers["run/get"] = lambda _: server.swallow.update(always) or {}
    async with connected(server) as client:
        server.swallow.update(always)
        with pytest.raises(ReplyLost):
            await client.call("run/get", m.RunParams(run_id="r1"))
    assert [method for method, _ in server.asked].count("run/get") == 12


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


async def test_who_still_waits_when_the_client_is_closed_is_told(autojump_clock: MockClock) -> None:
    server = FakeServer()
    told: list[str] = []

    async def wait(client: Client) -> None:
        with pytest.raises(ServerGone, match="was closed"):
            await client.call("run/wait", m.RunWaitParams(run_id="r1"))
        told.append("call")

    async def read(events: SessionStream) -> None:
        with pytest.raises(ServerGone, match="was closed"):
            async for _ in events:
                pass
        told.append("stream")

    async with trio.open_nursery() as nursery:
        async with connected(server) as client:
            outlived = client  # by tasks of the outer nursery, which is the point
            nursery.start_soon(read, outlived.session("s1"))
            await wait_all_tasks_blocked()
            server.deaf = True
            nursery.start_soon(wait, outlived)
            await wait_all_tasks_blocked()
        with pytest.raises(ServerGone, match="was closed"):
            await client.call("ping", m.NoParams())
    assert sorted(told) == ["call", "stream"]


async def test_a_server_that_hangs_up_each_time_is_given_up(autojump_clock: MockClock) -> None:
    server = FakeServer()
    server.cut_after = lambda connection: 1 if connection else None
    async with connected(server, give_up_s=30.0) as client:
        with client.session("s1") as events:
            await anext(events)
            await server.drop_all()
            lost_at = trio.current_time()
            with pytest.raises(ServerGone):
                await anext(events)
    assert 27 <= trio.current_time() - lost_at <= 30


async def test_an_answer_that_is_not_of_the_contract_is_told_to_who_asked(autojump_clock: MockClock) -> None:
    server = FakeServer()
    server.answers["server/info"] = lambda _: {"version": 3}
    async with connected(server) as client:
        with pytest.raises(AnswerBroken, match="server/info"):
            await client.call("server/info", m.NoParams())
        await client.call("ping", m.NoParams())


async def test_a_call_that_is_given_up_before_it_was_written_is_not_sent(autojump_clock: MockClock) -> None:
    server = FakeServer()
    async with connected(server) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_prompt, client)
            nursery.cancel_scope.cancel()
        with trio.CancelScope() as scope:
            server.refused_dials = 1
            await server.drop_all()
            await wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_prompt, client)
                await wait_all_tasks_blocked()
                scope.cancel()
        await client.call("ping", m.NoParams())
    assert [method for method, _ in server.asked if method != "initialize"] == ["ping"]


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
        *("server/shutdown", "test/release", "test/hold"),
    }
    assert set(m.METHODS) - REPEATABLE == once
    assert may_repeat("session/prompt", prompt())
    assert not may_repeat("session/prompt", prompt(run_id=None))
