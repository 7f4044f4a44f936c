"""How many may come, how long they may take, and that one connection's fault is its own."""

import socket

import pytest
import trio
from trio_websocket import WebSocketConnection

from atrio_server import door as door_module
from atrio_server import waiting_room
from atrio_server.auth import Access, Identity
from atrio_server.door import DoorLimits, PeerAddress
from door_rig import SOON_S, TOKEN, WAIT_S, Answer, DoorRig, open_door, read_answer, until


async def said(stream: trio.SocketStream) -> Answer:
    with trio.fail_after(WAIT_S):
        return await read_answer(stream)


async def test_beyond_the_cap_a_connection_is_told_to_come_back_later() -> None:
    async with open_door(limits=DoorLimits(connections=2)) as door, door.socket():
        async with door.socket():
            for request in (door.head(), door.handshake()):
                answer = await door.ask(request)
                assert (answer.status, answer.json["error"]) == (503, "too_many_connections")
        await door.settle(connections=1)
        assert (await door.ask(door.head())).status == 200


async def test_far_beyond_the_cap_nobody_is_even_told() -> None:
    async with open_door(limits=DoorLimits(connections=1, strangers=2)) as door, door.socket() as canary:
        streams = [await door.connect() for _ in range(20)]
        answers = [await said(stream) for stream in streams]
        assert {answer.status for answer in answers} <= {0, 503}
        assert [answer for answer in answers if answer.status == 0 and answer.reset]
        await canary.send_message("who")
        with trio.fail_after(SOON_S):
            assert await canary.get_message() == "file"
        for stream in streams:
            await stream.aclose()
        await door.settle(connections=1)


async def test_strangers_that_say_nothing_keep_nobody_out() -> None:
    async with open_door(limits=DoorLimits(strangers=3, head_s=60)) as door, door.socket() as canary:
        silent = [await door.connect() for _ in range(30)]
        for _ in range(3):
            assert (await door.ask(door.head())).status == 200
        await canary.send_message("who")
        assert await canary.get_message() == "file"
        assert (await said(silent[0])).status == 0  # sent away without a word
        for stream in silent:
            await stream.aclose()


async def test_strangers_that_say_nothing_are_told_so_in_the_end() -> None:
    async with open_door(limits=DoorLimits(strangers=3, head_s=1)) as door:
        silent = [await door.connect() for _ in range(3)]
        assert [(await said(stream)).status for stream in silent] == [400, 400, 400]
        for stream in silent:
            await stream.aclose()


async def test_a_crowd_of_honest_clients_is_let_in_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where the machine stands still, everybody says nothing for a moment, and that is not what is meant here.
    monkeypatch.setattr(waiting_room, "STAY_S", 10.0)
    monkeypatch.setattr(waiting_room, "PATIENCE_S", WAIT_S)
    async with open_door(limits=DoorLimits(strangers=4)) as door:
        statuses: list[int] = []

        async def visit() -> None:
            statuses.append((await door.ask(door.head("/v1/health", token=TOKEN))).status)

        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(visit)
        assert statuses == [200] * 200
        await door.settle()


async def test_slow_heads_end_in_time_and_slow_nobody_down() -> None:
    async with open_door() as door, trio.open_nursery() as nursery:
        ends: list[int] = []

        async def drip() -> None:
            async with await door.connect() as stream, trio.open_nursery() as dripping:

                async def send() -> None:
                    for byte in door.head("/v1/health", *["X: y"] * 1000):
                        await stream.send_all(bytes([byte]))
                        await trio.sleep(0.05)

                dripping.start_soon(send)
                answer = await said(stream)
                ends.append(answer.status)  # the head would take a minute to come
                dripping.cancel_scope.cancel()

        for _ in range(20):
            nursery.start_soon(drip)
        await until(lambda: door.connections() == 20)
        for _ in range(20):
            with trio.fail_after(SOON_S):
                assert (await door.ask(door.head())).status == 200
        await until(lambda: len(ends) == 20)
        assert set(ends) == {400}
        await door.settle()


async def test_a_stranger_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_args: object) -> None:
        await trio.sleep_forever()

    async with open_door(limits=DoorLimits(strangers=1, stranger_s=0.2)) as door:
        monkeypatch.setattr(door_module, "answer", never)
        assert (await door.ask(door.head())).status == 0
        monkeypatch.undo()
        with trio.fail_after(WAIT_S):  # the place is free; on a machine that stands still that one is given up, too
            while (await door.ask(door.head())).status != 200:
                pass


@pytest.mark.parametrize(
    "bug", [RuntimeError("a bug"), ExceptionGroup("several", [ValueError("one"), OSError("two")]), RecursionError()]
)
async def test_a_bug_on_one_connection_is_logged_and_ends_only_that_one(
    monkeypatch: pytest.MonkeyPatch, bug: Exception
) -> None:
    async with open_door() as door, door.socket() as canary:

        def fail(*_args: object, **_more: object) -> bool:
            raise bug

        monkeypatch.setattr(Access, "check_host", fail)
        assert (await door.ask(door.head())).status == 0
        (entry,) = door.errors()
        assert entry["event"] == "door.connection_failed"
        assert entry["error_id"]
        monkeypatch.undo()
        assert (await door.ask(door.head())).status == 200
        await canary.send_message("who")
        with trio.fail_after(SOON_S):
            assert await canary.get_message() == "file"


async def test_a_cancellation_that_comes_with_a_bug_still_cancels() -> None:
    done: list[str] = []
    served = 0

    async def serve(_web_socket: WebSocketConnection, _identity: Identity, _peer: PeerAddress) -> None:
        nonlocal served
        served += 1
        try:
            await trio.sleep_forever()
        finally:
            done.append("cancelled")
            raise RuntimeError("a bug in a clean-up")

    async with open_door(serve_socket=serve) as door:
        for number in (1, 2):
            async with door.raw_socket():
                await until(lambda number=number: served == number)
    assert done


async def test_what_ends_the_process_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_args: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(door_module, "asks_upgrade", interrupt)
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True), trio.fail_after(WAIT_S):
        async with open_door() as door:
            await door.ask(door.head())
            await trio.sleep_forever()


async def test_small_packets_are_not_held_back() -> None:
    delay: list[int] = []
    peers: list[str] = []

    async def look(web_socket: WebSocketConnection, _identity: Identity, peer: PeerAddress) -> None:
        delay.append(web_socket._stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))  # type: ignore[attr-defined]  # ours
        peers.append(str(peer))
        await web_socket.get_message()

    async with open_door(serve_socket=look) as door, door.raw_socket() as client:
        local = client.socket.getsockname()
        await until(lambda: bool(peers))
    assert delay == [1]
    assert peers == [f"{local[0]}:{local[1]}"]
    assert str(PeerAddress("::1", 5)) == "[::1]:5"


async def test_everything_a_connection_logs_names_the_connection(door: DoorRig) -> None:
    await door.ask(door.head("/v1/rpc"))
    await door.ask(door.head("/v1/rpc"))
    names = [entry["connection"] for entry in door.log if entry["event"] == "door.refused"]
    assert len(set(names)) == len(names) == 2
    assert not [entry for entry in door.log if "/v1/rpc" in repr(entry)]
