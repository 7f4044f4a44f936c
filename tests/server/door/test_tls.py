"""The same door behind TLS."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio_websocket import open_websocket_url

from atrio_server.door import DoorLimits
from atrio_server.listen import TlsFiles
from door_rig import TOKEN, WAIT_S, DoorRig, open_door, read_answer

PEM = Path(__file__).parent / "localhost.pem"
FILES = TlsFiles(PEM, PEM)


def client_context(*protocols: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(PEM))
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


@asynccontextmanager
async def dial(door: DoorRig, *protocols: str) -> AsyncGenerator[trio.SSLStream[trio.SocketStream]]:
    stream = trio.SSLStream(
        await door.connect(), client_context(*protocols), server_hostname="localhost", https_compatible=True
    )
    with trio.fail_after(WAIT_S):
        yield stream
        await stream.aclose()


async def test_a_request_and_a_websocket_are_served() -> None:
    async with open_door(tls=FILES) as door:
        async with dial(door) as stream:
            await stream.send_all(door.head("/v1/health"))
            assert (await read_answer(stream)).json == {"status": "ok"}
        with trio.fail_after(WAIT_S):
            async with open_websocket_url(
                f"wss://localhost:{door.port}/v1/ws",
                ssl_context=client_context(),
                extra_headers=[(b"Authorization", f"Bearer {TOKEN}".encode())],
                max_message_size=2_000_000,
            ) as web_socket:
                await web_socket.send_message("x" * 1_000_000)
                assert await web_socket.get_message() == "x" * 1_000_000
        await door.settle()
        assert door.errors() == []


async def test_http_2_is_never_agreed_on() -> None:
    async with open_door(tls=FILES) as door, dial(door, "h2", "http/1.1") as stream:
        await stream.do_handshake()
        assert stream.selected_alpn_protocol() == "http/1.1"
        await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await read_answer(stream)).status == 400


async def test_a_hostile_handshake_is_answered() -> None:
    async with open_door(tls=FILES) as door, dial(door) as stream:
        await stream.send_all(door.handshake() + b"x")
        assert (await read_answer(stream)).status == 400


@pytest.mark.parametrize(
    "data", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01" + b"\xff" * 5000]
)
async def test_who_speaks_no_tls_is_gone_in_time_and_nobody_notices(data: bytes) -> None:
    async with open_door(tls=FILES, limits=DoorLimits(head_s=3)) as door, await door.connect() as stream:
        if data:
            await stream.send_all(data)
        await door.settle()
        assert door.errors() == []
        async with dial(door) as honest:
            await honest.send_all(door.head("/v1/health"))
            assert (await read_answer(honest)).status == 200


async def test_a_reader_that_takes_no_bytes_is_given_up() -> None:
    async with open_door(tls=FILES, limits=DoorLimits(write_s=1)) as door, dial(door) as stream:
        lines = ("Content-Type: application/json", "Content-Length: 6")
        await stream.send_all(door.head("/v1/rpc", *lines, method="POST", token=TOKEN) + b'"huge"')
        await door.settle()
        assert [entry["event"] for entry in door.log].count("door.peer_stalled") == 1
