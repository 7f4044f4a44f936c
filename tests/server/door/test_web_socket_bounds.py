"""WebSockets that are misused: each ends with a code that arrives, in bounded memory and time.

The bugs of trio-websocket that `BoundedWebSocket` mends are provoked here: taking
out any one of its methods fails at least one of these tests.
"""

import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, WebSocketConnection

from atrio_protocol.limits import MAX_FRAME_BYTES
from atrio_server.auth import Identity
from atrio_server.door import DoorLimits, PeerAddress
from atrio_server.web_socket import LOOSE_PARTS, READ_AHEAD_BYTES, STALLED, BoundedWebSocket
from door_rig import SOON_S, WAIT_S, DoorRig, close_code, frame, open_door, read_frames, until

TEXT, BINARY, MORE, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def code_of(frames: list[tuple[int, bytes]]) -> int:
    """The code of the close frame that ends these frames; 1006 where none does."""
    opcode, payload = frames[-1] if frames else (0, b"")
    return int.from_bytes(payload[:2], "big") if opcode == CLOSE else 1006


class Sleeper:
    """Serves a WebSocket by not reading it until it is told to."""

    def __init__(self) -> None:
        self.opened = trio.Event()
        self.read = trio.Event()
        self.got: list[str | bytes] = []
        self.ended = trio.Event()
        self.reason: int | None = None
        self.web_socket: BoundedWebSocket

    async def __call__(self, web_socket: WebSocketConnection, _identity: Identity, _peer: PeerAddress) -> None:
        assert isinstance(web_socket, BoundedWebSocket)
        self.web_socket = web_socket
        self.opened.set()
        await self.read.wait()
        try:
            while True:
                self.got.append(await web_socket.get_message())
        except ConnectionClosed as exc:
            self.reason = exc.reason.code if exc.reason else None
            raise
        finally:
            self.ended.set()


@pytest.mark.parametrize("text", ["x" * MAX_FRAME_BYTES, "€" * (MAX_FRAME_BYTES // 3), ""])
async def test_a_message_of_the_largest_size_is_let_through(door: DoorRig, text: str) -> None:
    async with door.socket() as client:
        with trio.fail_after(WAIT_S):
            await client.send_message(text)
            assert await client.get_message() == text


@pytest.mark.parametrize("text", ["x" * (MAX_FRAME_BYTES + 1), "€" * (MAX_FRAME_BYTES // 3 + 1)])
async def test_a_message_is_measured_in_bytes_and_refused_with_1009(door: DoorRig, text: str) -> None:
    async with door.socket() as client:
        with trio.fail_after(WAIT_S):
            await client.send_message(text)
        assert await close_code(client) == 1009


async def test_a_message_in_fragments_is_measured_as_a_whole(door: DoorRig) -> None:
    async with door.raw_socket() as client:
        await client.send_all(frame(TEXT, b"x" * MAX_FRAME_BYTES, fin=False) + frame(MORE, b"x", fin=True))
        assert code_of(await read_frames(client)) == 1009


async def test_a_frame_that_announces_a_terabyte_is_refused_once_it_is_too_long(door: DoorRig) -> None:
    async with door.raw_socket() as client, trio.open_nursery() as nursery:

        async def pour() -> None:
            try:
                await client.send_all(b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"\0\0\0\0")
                for _ in range(1000):
                    await client.send_all(b"x" * 65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

        nursery.start_soon(pour)
        assert code_of(await read_frames(client)) == 1009
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\xff" + (MAX_FRAME_BYTES + 1).to_bytes(8, "big") + b"\0\0\0\0",
        b"\x02\xff" + (1 << 62).to_bytes(8, "big") + b"\0\0\0\0",
        frame(TEXT, b"x" * 100_000, fin=False) + b"\x80\xff" + MAX_FRAME_BYTES.to_bytes(8, "big") + b"\0\0\0\0",
        frame(PING) + b"\x01\xff" + (MAX_FRAME_BYTES + 1).to_bytes(8, "big") + b"\0\0\0\0",
    ],
)
async def test_a_message_that_announces_too_much_is_refused_before_it_comes(door: DoorRig, data: bytes) -> None:
    async with door.raw_socket() as client:
        await client.send_all(data)
        frames = await read_frames(client)
    assert code_of(frames) == 1009
    assert str(MAX_FRAME_BYTES).encode() in frames[-1][1]


async def test_only_the_fragments_of_one_message_are_added_up(door: DoorRig) -> None:
    async with door.socket() as client:
        with trio.fail_after(WAIT_S):
            for _ in range(3):
                await client.send_message("x" * (MAX_FRAME_BYTES - 1))
                assert len(await client.get_message()) == MAX_FRAME_BYTES - 1


@pytest.mark.parametrize(
    "data", [frame(BINARY, b"x", fin=False), b"\x82\xff" + (1 << 20).to_bytes(8, "big") + b"\0\0\0\0x"]
)
async def test_a_binary_message_is_known_by_its_first_bytes_and_not_kept(data: bytes) -> None:
    sleeper = Sleeper()
    async with open_door(serve_socket=sleeper) as door, door.raw_socket() as client:
        sleeper.read.set()
        await client.send_all(frame(TEXT, b"before") + data)
        await until(lambda: len(sleeper.got) == 2)
        assert sleeper.got == ["before", b""]


async def test_empty_fragments_take_no_memory() -> None:
    sleeper = Sleeper()
    async with open_door(serve_socket=sleeper) as door, door.raw_socket() as client:
        await client.send_all(frame(TEXT, b"", fin=False))
        with trio.fail_after(WAIT_S):
            for _ in range(20):
                await client.send_all(frame(MORE, b"", fin=False) * 1000)
            await client.send_all(frame(PING, b"done"))
            await client.receive_some()
            assert len(sleeper.web_socket._text_parts) <= LOOSE_PARTS
            await client.send_all(frame(MORE, b"x", fin=False) * 20_000 + frame(MORE, b"y"))
            await client.send_all(frame(PING, b"done"))
            await client.receive_some()
            sleeper.read.set()
            await client.send_all(frame(CLOSE, b"\x03\xe8"))
            await sleeper.ended.wait()
        assert sleeper.got == ["x" * 20_000 + "y"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(3, b"x"), 1002),
        (frame(11, b"x"), 1002),
        (frame(TEXT, b"x", masked=False), 1002),
        (b"\xc1\x80\0\0\0\0", 1002),
        (b"\x81\xfe\x00\x01\0\0\0\0x", 1002),
        (frame(MORE, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(PING, b"x", fin=False), 1002),
        (frame(CLOSE, b"\x00"), 1002),
        (frame(CLOSE, b"\x03\xed"), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(MORE, b"x"), 1007),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    ],
)
async def test_a_fault_is_answered_by_its_code_also_to_a_peer_that_goes_on_sending(
    door: DoorRig, data: bytes, code: int
) -> None:
    async with door.raw_socket() as client:
        with trio.fail_after(WAIT_S):
            await client.send_all(data + frame(TEXT, b"x" * 1_000_000))
        assert code_of(await read_frames(client)) == code


async def test_a_close_is_answered_with_its_own_code(door: DoorRig) -> None:
    async with door.raw_socket() as client:
        await client.send_all(frame(CLOSE, (4321).to_bytes(2, "big") + b"bye"))
        assert await read_frames(client) == [(CLOSE, (4321).to_bytes(2, "big") + b"bye")]


async def test_a_ping_is_answered_while_nobody_takes_the_messages() -> None:
    sleeper = Sleeper()
    async with open_door(serve_socket=sleeper) as door, door.raw_socket() as client:
        with trio.fail_after(WAIT_S):
            await client.send_all(frame(TEXT, b"x") * 1000 + frame(PING, b"there?"))
            assert await client.receive_some() == b"\x8a\x06there?"


async def test_unread_messages_are_bounded_and_none_is_lost_or_reordered() -> None:
    sleeper = Sleeper()
    texts = [f"{number}:" + "x" * 20_000 for number in range(300)]
    async with open_door(serve_socket=sleeper) as door, door.raw_socket() as client, trio.open_nursery() as nursery:

        async def pour() -> None:
            for text in texts:
                await client.send_all(frame(TEXT, text.encode()))
            await client.send_all(frame(CLOSE, b"\x03\xe8"))

        nursery.start_soon(pour)
        with trio.fail_after(WAIT_S):
            await sleeper.opened.wait()
            await until(lambda: sleeper.web_socket._unread_bytes > READ_AHEAD_BYTES)
            await wait_all_tasks_blocked(0.05)
            assert sleeper.web_socket._unread_bytes <= READ_AHEAD_BYTES + 2 * 20_000
            sleeper.read.set()
            await sleeper.ended.wait()
        assert sleeper.got == texts
        assert sleeper.reason == 1000


async def test_a_close_takes_a_second_where_the_peer_does_not_close() -> None:
    async def leave(_web_socket: WebSocketConnection, _identity: Identity, _peer: PeerAddress) -> None:
        await trio.lowlevel.checkpoint()

    async with open_door(serve_socket=leave) as door, door.raw_socket() as client:
        with trio.fail_after(SOON_S):
            assert await client.receive_some() == b"\x88\x02\x03\xe8"
            await door.settle()


async def test_a_ping_that_crosses_a_close_harms_nobody() -> None:
    async def leave(web_socket: WebSocketConnection, _identity: Identity, _peer: PeerAddress) -> None:
        await web_socket.aclose(1001, "going away")
        assert web_socket.closed is not None
        assert web_socket.closed.code == 1001

    async with open_door(serve_socket=leave) as door, door.raw_socket() as client:
        with trio.fail_after(WAIT_S):
            await client.send_all(frame(PING, b"late") * 3 + frame(TEXT, b"late"))
            assert code_of(await read_frames(client)) == 1001
        await door.settle()
        assert door.errors() == []


async def test_a_bug_in_who_serves_a_socket_closes_that_one_with_1011_and_an_id_that_the_log_has() -> None:
    async def fail(web_socket: WebSocketConnection, _identity: Identity, _peer: PeerAddress) -> None:
        while await web_socket.get_message() != "fail":
            await web_socket.send_message("fine")
        raise RuntimeError("a bug")

    async with open_door(serve_socket=fail) as door, door.socket() as other, door.socket() as client:
        await client.send_message("fail")
        assert await close_code(client) == 1011
        (entry,) = door.errors()
        assert client.closed is not None
        assert client.closed.reason is not None
        assert entry["error_id"] in client.closed.reason
        with trio.fail_after(WAIT_S):
            await other.send_message("you?")
            assert await other.get_message() == "fine"


@pytest.mark.parametrize("pending", [b"", frame(TEXT, b"x" * 100_000, fin=False), b"\x81", frame(3, b"x")])
async def test_a_peer_that_resets_harms_nobody(door: DoorRig, pending: bytes) -> None:
    async with door.raw_socket() as client:
        await client.send_all(pending)
        client.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.socket.close()


class Pourer:
    """Serves a WebSocket by sending without end, and remembers how that ended."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.code: int | None = None

    async def __call__(self, web_socket: WebSocketConnection, _identity: Identity, _peer: PeerAddress) -> None:
        if await web_socket.get_message() == "canary":
            await web_socket.send_message("here")
            return
        try:
            while True:
                await web_socket.send_message("x" * 200_000)
        except ConnectionClosed as exc:
            self.code = exc.reason.code if exc.reason else None
            raise
        finally:
            self.ended.set()


async def test_a_peer_that_takes_no_bytes_is_given_up_with_4408_and_nobody_else_waits() -> None:
    pourer = Pourer()
    async with open_door(serve_socket=pourer, limits=DoorLimits(write_s=1)) as door, door.raw_socket() as stalled:
        started_at = trio.current_time()
        await stalled.send_all(frame(TEXT, b"pour"))
        with trio.fail_after(WAIT_S):
            while not pourer.ended.is_set():
                async with door.socket() as canary:
                    with trio.fail_after(SOON_S):
                        await canary.send_message("canary")
                        assert await canary.get_message() == "here"
                await trio.sleep(0.1)
            await door.settle()
        assert pourer.code == STALLED
        assert trio.current_time() - started_at >= 1
        assert [entry["event"] for entry in door.log].count("door.peer_stalled") == 1


async def test_a_peer_that_reads_slowly_is_not_given_up() -> None:
    pourer = Pourer()
    # The limit is longer than a machine stands still, and the reading longer than the limit.
    async with open_door(serve_socket=pourer, limits=DoorLimits(write_s=3)) as door, door.raw_socket() as slow:
        await slow.send_all(frame(TEXT, b"pour"))
        with trio.move_on_after(6):
            while True:
                await slow.receive_some(400_000)
                await trio.sleep(0.05)
        assert not pourer.ended.is_set()
        assert door.errors() == []


async def test_2000_random_frames_harm_nobody(door: DoorRig) -> None:
    chance = random.Random(20261120)

    def random_frame() -> bytes:
        payload = chance.randbytes(chance.choice([0, 1, 5, 125, 126, 300, 70_000]))
        data = bytearray(frame(chance.choice([0, 1, 1, 2, 8, 9, 10, 3, 15]), payload, fin=chance.random() < 0.8))
        if chance.random() < 0.3:
            data[chance.randrange(min(len(data), 14))] ^= 1 << chance.randrange(8)
        return bytes(data)

    async def attack() -> None:
        for _ in range(50):
            async with door.raw_socket() as client, trio.open_nursery() as nursery:
                nursery.start_soon(read_frames, client)
                try:
                    for _ in range(10):
                        await client.send_all(random_frame())
                    await client.send_eof()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass

    async with door.socket() as canary:
        with trio.fail_after(60):
            async with trio.open_nursery() as attackers:
                for _ in range(4):
                    attackers.start_soon(attack)
                while attackers.child_tasks:
                    with trio.fail_after(SOON_S):
                        await canary.send_message("still there?")
                        assert await canary.get_message() == "still there?"
                    await trio.sleep(0.01)
