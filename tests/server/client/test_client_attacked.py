"""The client against servers that talk nonsense, connections that break anywhere, and callers who leave at any step.

Virtual time and memory streams throughout, so thousands of tries are seconds.
"""

import base64
import hashlib
import json
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from atrio_protocol import methods as m
from atrio_protocol.content import TextBlock
from atrio_protocol.errors import WireError
from atrio_protocol.events import Event, RunCompleted
from atrio_protocol.struct import given
from atrio_server.client import Client, ClientError, Detached, Resync, open_client
from client_rig import Brittle
from fake_server import FakeServer, hello_json
from scale import Scale

URL: Final = "ws://127.0.0.1:4317/v1/ws"
WEB_SOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
NONSENSE: Final = (
    b"\r\n",
    b"\0",
    b"\xff",
    b"Sec-WebSocket-Extensions: permessage-deflate; a=1\r\n",
    b"HTTP/1.1 ",
    b":",
)
STATUS: Final = (100, 199, 200, 204, 301, 400, 401, 403, 404, 426, 431, 500, 503, 999)


def run_virtually(seed: str, attack: Callable[[random.Random], Any]) -> None:
    """One try in a Trio run of its own; what fails names its seed."""
    try:
        trio.run(attack, random.Random(seed), clock=MockClock(autojump_threshold=0))
    except BaseException as exc:
        exc.add_note(f"seed {seed!r}")
        raise


# A server that talks nonsense.


def frame(payload: bytes, opcode: int = 1) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes([0x80 | opcode, size]) + payload
    if size < 65_536:
        return bytes([0x80 | opcode, 126]) + size.to_bytes(2, "big") + payload
    return bytes([0x80 | opcode, 127]) + size.to_bytes(8, "big") + payload


def mutated(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0:
                changed[at % len(changed)] = rng.randrange(256)
            case 1:
                changed[at:at] = rng.randbytes(rng.randint(1, 8))
            case 2 if len(changed) > 16:
                del changed[at : at + rng.randint(1, 8)]
            case _:
                changed[at:at] = rng.choice(NONSENSE)
    return bytes(changed)


def odd_message(rng: random.Random) -> bytes:
    stream = {"epoch": "e", "seq": 0, "recovered": rng.random() < 0.5, "head": 0}
    errors = [{}, {"code": 1, "message": "x"}, {"code": 1, "message": "x", "data": None}]
    errors += [
        {"code": 1, "message": "x", "data": {"kind": kind, "retryable": retryable, "retryAfterMs": after}}
        for kind in ("forbidden", "no_such_kind", 5, None)
        for retryable in (1, True)
        for after in ("x", -5)
    ]
    events = [{}, {"type": "x", "seq": 1}, {"type": "notice", "seq": 1}, 1, None, {"type": "notice", "seq": 2**70}]
    asked = rng.choice(["1", "2", 1, None])
    message = rng.choice(
        [
            {"id": asked, "result": rng.choice([None, 1, "x", {}, [], {"stream": {}}, {"stream": stream}])},
            {"id": asked, "error": rng.choice(errors)},
            {"id": 7, "method": "is/this", "params": {}},
            {
                "method": rng.choice(["session/events", "session/detached", "workspace/events", "x/y"]),
                "params": rng.choice(
                    [
                        {},
                        {"sessionId": "s1", "epoch": "e", "events": [rng.choice(events)]},
                        {"sessionId": "s1", "reason": rng.choice(["lagged", 5])},
                    ]
                ),
            },
        ]
    )
    return frame(json.dumps({"jsonrpc": "2.0", **message}).encode(), rng.choice([1, 1, 1, 2]))


def nonsense(rng: random.Random, kind: str, accept: bytes) -> bytes:
    """What the server answers to the handshake, and after it."""
    head = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
    )
    hello = json.dumps({"jsonrpc": "2.0", "id": "initialize", "result": hello_json({"clientId": "c"}, "1")}).encode()
    match kind:
        case "raw bytes":
            return rng.randbytes(rng.randint(1, 300))
        case "a changed handshake":
            return mutated(rng, head)
        case "another status":
            return b"HTTP/1.1 %d X\r\nContent-Length: 3\r\n\r\nabc" % rng.choice(STATUS)
        case "a changed hello":
            return head + rng.choice([mutated(rng, frame(hello)), frame(mutated(rng, hello))])
        case "raw bytes later":
            return head + frame(hello) + rng.randbytes(rng.randint(1, 300))
        case "deep nesting":
            opening = b'{"jsonrpc":"2.0","method":"session/events","params":'
            return head + frame(hello) + frame(opening + b"[" * rng.choice([10, 70, 100_000]))
        case _:
            return head + frame(hello) + b"".join(odd_message(rng) for _ in range(5))


KINDS: Final = (
    "raw bytes",
    "a changed handshake",
    "another status",
    "a changed hello",
    "raw bytes later",
    "deep nesting",
    "odd messages",
)


async def talk_nonsense(stream: trio.abc.Stream, rng: random.Random, kind: str) -> None:
    try:
        asked = b""
        while b"\r\n\r\n" not in asked:
            data = await stream.receive_some()
            if not data:
                return
            asked += bytes(data)
        key = asked.lower().partition(b"sec-websocket-key:")[0]
        key = asked[len(key) :].partition(b":")[2].partition(b"\r\n")[0].strip()
        accept = base64.b64encode(hashlib.sha1(key + WEB_SOCKET_GUID).digest())
        await stream.send_all(nonsense(rng, kind, accept))
        await trio.sleep(1)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def attack_with_nonsense(rng: random.Random, kind: str) -> None:
    """Every call and every stream ends with an error of the client's own, or an answer: in time, and nothing else."""
    with trio.fail_after(400):
        async with trio.open_nursery() as nursery:

            async def dial(_: str) -> trio.abc.Stream:
                await trio.lowlevel.checkpoint()
                theirs, ours = memory_stream_pair()
                nursery.start_soon(talk_nonsense, theirs, rng, kind)
                return ours

            with suppress(ClientError, WireError):
                async with open_client(URL, "t", client_name="test", dial=dial, give_up_s=5) as client:
                    await _use(client)
            nursery.cancel_scope.cancel()


async def _use(client: Client) -> None:
    async def read() -> None:
        with client.session("s1") as events:
            with suppress(ClientError, WireError):
                async for _ in events:
                    pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        with suppress(ClientError, WireError):
            await client.call("server/info", m.NoParams())
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_talks_nonsense_is_a_typed_error(scale: Scale, kind: str) -> None:
    count = scale.count(30, 1_500)
    with scale.trying(f"the client and a server that sends {kind}", count):
        for number in range(count):
            run_virtually(f"{scale.seed}:{kind}:{number}", lambda rng: attack_with_nonsense(rng, kind))


# Connections that break at any byte.


async def attack_with_cuts(rng: random.Random) -> None:
    """Prompts without a run id, over connections that break: each runs once, and the stream has no gap."""
    server = FakeServer()
    # The first one has to come to stand: a server that was never there is told at once.
    limits = [*(rng.randint(1, 6_000) for _ in range(rng.randint(1, 8))), rng.randint(2_000, 6_000)]

    async def dial(url: str) -> trio.abc.Stream:
        stream = await server.dial(url)
        return Brittle(stream, limits.pop()) if limits else stream

    ran: list[str] = []
    completed: list[str] = []

    async def prompt(client: Client, number: int) -> None:
        text = TextBlock(text=f"prompt {number}")
        answer = await client.call("session/prompt", m.PromptParams(session_id="s1", prompt=(text,)))
        ran.append(answer.run.run_id)

    async def read(client: Client, whole: trio.Event) -> None:
        position: m.Position | None = None
        with client.session("s1", watch=()) as events:
            async for item in events:
                assert not isinstance(item, Detached)
                if isinstance(item, Event) and position is not None:
                    assert given(item.first_seq, item.seq) == position.seq + 1
                position = events.position
                if isinstance(item, RunCompleted):
                    completed.append(item.run.run_id)
                if position is not None and position.seq == server.sessions["s1"].head and len(ran) == 5:
                    whole.set()

    with trio.fail_after(600):
        async with server.serving(), open_client(URL, "a-token", client_name="test", dial=dial) as client:
            whole = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, client, whole)
                async with trio.open_nursery() as prompts:
                    for number in range(5):
                        prompts.start_soon(prompt, client, number)
                server.publish("s1", "notice", severity="info", title="that was all")
                await whole.wait()
                nursery.cancel_scope.cancel()
    runs = server.sessions["s1"].runs
    assert sorted(ran) == sorted(runs)
    assert len(completed) == len(set(completed)), "a run ended twice for its reader"


def test_connections_that_break_at_any_byte_lose_nothing_and_run_nothing_twice(scale: Scale) -> None:
    count = scale.count(60, 3_000)
    with scale.trying("the client and connections cut at random bytes", count):
        for number in range(count):
            run_virtually(f"{scale.seed}:cuts:{number}", attack_with_cuts)


class HalfOpen(trio.abc.Stream):
    """After so many bytes the other side is gone, and nobody says so: nothing is taken any more, and nothing comes."""

    def __init__(self, stream: trio.abc.Stream, bytes_left: int) -> None:
        self._stream = stream
        self._bytes_left = bytes_left
        self._closed = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._bytes_left -= len(data)
        await self._gone_silent()
        await self._stream.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self._bytes_left -= len(data)
        await self._gone_silent()
        return data

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self._closed.set()
        await self._stream.aclose()

    async def _gone_silent(self) -> None:
        if self._bytes_left < 0:
            await self._closed.wait()
            raise trio.ClosedResourceError


async def attack_with_silence(rng: random.Random) -> None:
    """A prompt over a connection whose other side vanishes: it is answered on the next one, in time."""
    server = FakeServer()
    silent_after = [rng.randint(1_500, 3_000)]

    async def dial(url: str) -> trio.abc.Stream:
        stream = await server.dial(url)
        return HalfOpen(stream, silent_after.pop()) if silent_after else stream

    with trio.fail_after(600):
        async with server.serving(), open_client(URL, "a-token", client_name="test", dial=dial) as client:
            for number in range(8):
                text = TextBlock(text=f"prompt {number} " + "x" * 200)
                answer = await client.call("session/prompt", m.PromptParams(session_id="s1", prompt=(text,)))
                assert answer.run.run_id in server.sessions["s1"].runs
    assert len(server.sessions["s1"].runs) == 8
    assert server.connections == 2
    assert trio.current_time() <= 45


def test_a_connection_whose_other_side_vanishes_is_left_in_time(scale: Scale) -> None:
    count = scale.count(40, 2_000)
    with scale.trying("the client and connections that fall silent at random bytes", count):
        for number in range(count):
            run_virtually(f"{scale.seed}:silence:{number}", attack_with_silence)


# Callers who leave at any step.


class LeaveAtStep(trio.abc.Instrument):
    """Cancels a scope when the program has made so many steps."""

    def __init__(self, step: int) -> None:
        self.scope = trio.CancelScope()
        self._steps_left = step

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        del task
        self._steps_left -= 1
        if self._steps_left == 0:
            self.scope.cancel()


async def leave_at(step: int, *, client_too: bool) -> bool:
    """Use a client and leave in the middle; whether it was in the middle. The client is of use afterwards."""
    server = FakeServer()
    if step % 2:
        server.cut_after = lambda connection: 3 if connection == 0 else None
    leave = LeaveAtStep(step)

    async def use(client: Client) -> None:
        with client.session("s1") as events:
            text = TextBlock(text="ping")
            await client.call("session/prompt", m.PromptParams(session_id="s1", prompt=(text,), run_id="r1"))
            async for item in events:
                if isinstance(item, RunCompleted):
                    return
                if isinstance(item, Resync) and server.sessions["s1"].messages:
                    return

    with trio.fail_after(600):
        async with server.serving():
            trio.lowlevel.add_instrument(leave)
            if client_too:
                with leave.scope:
                    async with open_client(URL, "a-token", client_name="test", dial=server.dial) as client:
                        await use(client)
            else:
                async with open_client(URL, "a-token", client_name="test", dial=server.dial) as client:
                    with leave.scope:
                        await use(client)
                    assert await client.call("ping", m.NoParams()) == m.Empty()
    assert len(server.sessions["s1"].runs) <= 1
    return leave.scope.cancelled_caught


@pytest.mark.parametrize("client_too", [False, True], ids=["the call", "the client"])
def test_leaving_at_any_step_is_clean(client_too: bool) -> None:
    steps = 0
    caught = 0
    while steps < 400:
        steps += 1
        caught += trio.run(
            lambda step=steps: leave_at(step, client_too=client_too), clock=MockClock(autojump_threshold=0)
        )
        if steps > 40 and steps - caught > 60:
            break  # well past the end of it
    assert caught > 20
