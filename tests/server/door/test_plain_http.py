"""Plain requests: one a connection, answered and closed, whatever the peer does meanwhile."""

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from atrio_protocol.limits import MAX_FRAME_BYTES
from atrio_protocol.methods import SCOPES
from atrio_server import engine
from atrio_server.door import DoorLimits
from atrio_server.identity import Identity, digest_of
from door_rig import SOON_S, TOKEN, WAIT_S, DoorRig, open_door, read_answer, until

CLIENT_ID = "3f2b8c1e-6a57-4b0e-9d53-0123456789ab"


async def test_health_says_whether_new_work_is_taken(door: DoorRig) -> None:
    answer = await door.ask(door.head("/v1/health"))
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')
    door.backend.closing = True
    answer = await door.ask(door.head("/v1/health"))
    assert (answer.status, answer.body) == (503, b'{"status":"closing"}')


async def test_version_says_what_the_wire_is(door: DoorRig) -> None:
    answer = await door.ask(door.head("/v1/version"))
    assert answer.json == {"name": "atrio", "version": answer.json["version"], "protocolVersion": 1}


async def test_the_schema_is_served_whole(door: DoorRig) -> None:
    for _ in range(2):
        answer = await door.ask(door.head("/v1/schema.json"))
        assert answer.status == 200
        assert int(answer.header("content-length") or 0) == len(answer.body)
        assert "$defs" in answer.json


async def test_a_message_is_answered(door: DoorRig) -> None:
    answer = await door.rpc('{"text":"ä€"}'.encode())
    assert (answer.status, answer.body) == (200, '{"text":"ä€"}'.encode())
    assert answer.header("content-type") == "application/json"
    assert answer.header("connection") == "close"
    assert answer.header("cache-control") == "no-store"
    assert not answer.reset
    ((identity, client_id),) = door.backend.asked
    assert identity.token_name == "file"
    assert client_id is None


async def test_a_notification_is_answered_by_nothing(door: DoorRig) -> None:
    answer = await door.rpc(b'"notify"')
    assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize(
    "line", ["Content-Type: text/plain", "Content-Type: application/x-www-form-urlencoded", "X: 1"]
)
async def test_only_json_is_taken(door: DoorRig, line: str) -> None:
    request = door.head("/v1/rpc", line, "Content-Length: 2", method="POST", token=TOKEN) + b"{}"
    assert (await door.ask(request)).status == 415
    assert door.backend.asked == []


async def test_json_with_a_charset_is_json(door: DoorRig) -> None:
    line = "Content-Type: application/json; charset=utf-8"
    request = door.head("/v1/rpc", line, "Content-Length: 2", method="POST", token=TOKEN) + b"{}"
    assert (await door.ask(request)).status == 200


async def test_an_author_is_handed_on(door: DoorRig) -> None:
    await door.rpc(b"{}", f"Atrio-Client-Id: {CLIENT_ID.upper()}")
    assert door.backend.asked[0][1] == CLIENT_ID


@pytest.mark.parametrize("client_id", ["", "me", CLIENT_ID[:-1], "{" + CLIENT_ID + "}", CLIENT_ID.replace("-", "")])
async def test_a_malformed_author_is_an_error_of_the_request(door: DoorRig, client_id: str) -> None:
    line = f"Atrio-Client-Id: {client_id}"
    answer = await door.rpc(b'{"jsonrpc":"2.0","id":"x1","method":"ping"}', line)
    assert answer.status == 200
    assert b'"id":"x1"' in answer.body
    assert b'"kind":"invalid_client_id"' in answer.body
    assert (await door.rpc(b'{"jsonrpc":"2.0","method":"ping"}', line)).status == 204
    assert door.backend.asked == []
    assert (await door.rpc(b"[", line)).body == b"["  # what is malformed itself is for the backend to say
    assert (await door.rpc(b"{}", f"Atrio-Client-Id: {CLIENT_ID}", line)).status == 200
    assert [asked for _, asked in door.backend.asked] == [None, None]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/v1/rpc", 405), ("DELETE", "/v1/health", 405), ("POST", "/%2e%2e/x", 404)],
)
async def test_what_is_not_served_is_said_in_json(door: DoorRig, method: str, path: str, status: int) -> None:
    answer = await door.ask(door.head(path, method=method, token=TOKEN))
    assert answer.status == status
    assert answer.json["error"] in {"not_found", "method_not_allowed"}


async def test_an_answer_to_head_has_no_body(door: DoorRig) -> None:
    assert (await door.ask(door.head("/v1/health", method="HEAD"))).body == b""
    assert (await door.ask(door.head("/v1/rpc", method="HEAD"))).body == b""


async def test_a_bug_behind_a_route_is_answered_with_an_id_that_the_log_has() -> None:
    async with open_door() as door:
        answer = await door.rpc(b'"bug"')
        assert answer.status == 500
        (entry,) = door.errors()
        assert entry["error_id"] in answer.json["message"]
        assert (await door.rpc(b"{}")).status == 200


# Bugs of hypercorn and quart-trio


async def test_the_connection_closes_after_the_answer(door: DoorRig) -> None:
    for request in (door.head("/v1/health"), door.head("/v1/health", "Connection: keep-alive")):
        async with await door.connect() as stream:
            with trio.fail_after(SOON_S):
                await stream.send_all(request)
                assert (await read_answer(stream)).status == 200


async def test_a_second_request_on_a_connection_is_never_served(door: DoorRig) -> None:
    request = door.head("/v1/rpc", "Content-Type: application/json", "Content-Length: 2", method="POST", token=TOKEN)
    foreign = b"GET /v1/health HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    for second in (request + b"{}", foreign, door.handshake(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\xff" * 10_000):
        door.backend.asked.clear()
        answer = await door.ask(request + b"{}" + second)
        assert (answer.status, answer.body) == (200, b"{}")
        assert len(door.backend.asked) == 1


async def test_a_body_that_nobody_reads_holds_nothing_up(door: DoorRig) -> None:
    body = b"x" * (MAX_FRAME_BYTES - 1)
    request = door.head("/v1/health", f"Content-Length: {len(body)}", method="GET", token=TOKEN)
    with trio.fail_after(SOON_S):
        assert (await door.ask(request + body)).status == 200
        await door.settle()


async def test_a_peer_that_has_closed_its_direction_still_gets_its_answer(door: DoorRig) -> None:
    assert (await door.ask(door.head("/v1/health"), finish=True)).status == 200


async def test_a_request_whose_peer_is_gone_is_given_up(door: DoorRig) -> None:
    lines = ("Content-Type: application/json", "Content-Length: 6")
    request = door.head("/v1/rpc", *lines, method="POST", token=TOKEN) + b'"wait"'
    async with await door.connect() as stream:
        await stream.send_all(request)
        await until(lambda: bool(door.backend.asked))
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await door.settle()
    assert door.backend.cancelled == 1


async def test_an_application_that_never_stops_sending_stops_when_its_peer_is_gone() -> None:
    sending = trio.Event()

    async def pour(_scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            sending.set()

    async with open_door(app=pour) as door, door.socket() as canary:
        stream = await door.connect()
        await stream.send_all(door.head("/v1/health"))
        await sending.wait()
        stream.socket.close()
        await door.settle(connections=1)
        await canary.send_message("who")
        with trio.fail_after(WAIT_S):
            assert await canary.get_message() == "file"


async def test_an_application_that_fails_is_answered_for_with_an_id_that_the_log_has() -> None:
    async def fail(_scope: Scope, _receive: ASGIReceiveCallable, _send: ASGISendCallable) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("a bug")

    async with open_door(app=fail) as door:
        answer = await door.ask(door.head("/v1/health"))
        assert answer.status == 500
        (entry,) = door.errors()
        assert entry["event"] == "door.app_failed"
        assert entry["error_id"] in answer.json["message"]


# Bodies


def chunks(door: DoorRig, parts: list[bytes]) -> bytes:
    lines = ("Content-Type: application/json", "Transfer-Encoding: chunked")
    head = door.head("/v1/rpc", *lines, method="POST", token=TOKEN)
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


async def test_a_chunked_body_is_read_whole(door: DoorRig) -> None:
    parts = [b'"', b"a" * 5000, b"b", b'"']
    answer = await door.ask(chunks(door, parts))
    assert (answer.status, answer.body) == (200, b"".join(parts))


async def test_a_body_of_the_largest_size_is_taken_and_one_byte_more_is_not(door: DoorRig) -> None:
    body = b'"' + b"x" * (MAX_FRAME_BYTES - 2) + b'"'
    assert (await door.rpc(body)).body == body
    refused = await door.rpc(body + b" ")
    assert (refused.status, refused.reset) == (413, False)
    assert (await door.ask(chunks(door, [body[:3_000_000], body[3_000_000:]]))).status == 200
    assert (await door.ask(chunks(door, [body, b" "]))).status == 413
    assert len(door.backend.asked) == 2


async def test_a_body_that_announces_too_much_is_refused_before_it_comes(door: DoorRig) -> None:
    lines = ("Content-Type: application/json", f"Content-Length: {MAX_FRAME_BYTES + 1}", "Expect: 100-continue")
    answer = await door.ask(door.head("/v1/rpc", *lines, method="POST", token=TOKEN))
    assert answer.status == 413


async def test_a_body_is_asked_for_where_the_peer_waits_to_be_asked(door: DoorRig) -> None:
    lines = ("Content-Type: application/json", "Content-Length: 2", "Expect: 100-continue")
    async with await door.connect() as stream:
        with trio.fail_after(WAIT_S):
            await stream.send_all(door.head("/v1/rpc", *lines, method="POST", token=TOKEN))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
            await stream.send_all(b"{}")
            assert (await read_answer(stream)).body == b"{}"


async def test_nobody_without_a_token_is_asked_for_a_body(door: DoorRig) -> None:
    lines = ("Content-Type: application/json", "Content-Length: 2", "Expect: 100-continue")
    assert (await door.ask(door.head("/v1/rpc", *lines, method="POST"))).status == 401
    assert (await door.ask(door.head("/v1/health", "Content-Length: 2") + b"{}")).status == 413
    assert (
        await door.ask(door.head("/v1/health", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n")
    ).status == 413


async def test_a_body_that_never_ends_is_given_up() -> None:
    async with open_door(limits=DoorLimits(body_s=0.3)) as door:
        lines = ("Content-Type: application/json", "Content-Length: 1000")
        answer = await door.ask(door.head("/v1/rpc", *lines, method="POST", token=TOKEN) + b"{")
        assert (answer.status, answer.json["error"]) == (408, "body_too_slow")
        await door.settle()


@pytest.mark.parametrize("cut", [1, 400])
async def test_a_peer_that_leaves_in_the_middle_of_its_body_leaves_nothing(door: DoorRig, cut: int) -> None:
    lines = ("Content-Type: application/json", "Content-Length: 1000")
    request = door.head("/v1/rpc", *lines, method="POST", token=TOKEN) + b"x" * cut
    assert (await door.ask(request, finish=True)).status == 0
    assert door.backend.asked == []


# The end


async def stuck_reader(door: DoorRig) -> trio.SocketStream:
    """A client that asks for 64 MiB and reads none of it."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await sock.connect(("127.0.0.1", door.port))
    stream = trio.SocketStream(sock)
    lines = ("Content-Type: application/json", "Content-Length: 6")
    await stream.send_all(door.head("/v1/rpc", *lines, method="POST", token=TOKEN) + b'"huge"')
    await until(lambda: bool(door.backend.asked))
    return stream


async def slow_sender(door: DoorRig) -> trio.SocketStream:
    stream = await door.connect()
    await stream.send_all(door.head("/v1/rpc", "Content-Length: 1000", method="POST", token=TOKEN))
    return stream


async def slow_head(door: DoorRig) -> trio.SocketStream:
    stream = await door.connect()
    await stream.send_all(door.head()[:-1])
    return stream


async def waiting(door: DoorRig) -> trio.SocketStream:
    stream = await door.connect()
    lines = ("Content-Type: application/json", "Content-Length: 6")
    await stream.send_all(door.head("/v1/rpc", *lines, method="POST", token=TOKEN) + b'"wait"')
    return stream


async def idle_socket(door: DoorRig) -> trio.SocketStream:
    stream = await door.connect()
    await stream.send_all(door.handshake())
    return stream


@pytest.mark.parametrize("client", [stuck_reader, slow_sender, slow_head, waiting, idle_socket])
async def test_no_client_holds_up_the_end(client: Callable[[DoorRig], Awaitable[trio.SocketStream]]) -> None:
    async with open_door() as door:
        streams = [await client(door) for _ in range(3)]
        await until(lambda: door.connections() == 3)
        await trio.sleep(0.1)  # so that, as a rule, each has got to where it is stuck
        # Leaving `open_door` cancels the door and measures how long it takes.
    for stream in streams:
        stream.socket.close()


async def test_a_request_in_work_gets_a_second_to_be_answered_when_the_server_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "GRACE_S", WAIT_S)  # a second of which a machine that stands still takes nothing
    with trio.fail_after(WAIT_S):
        async with open_door() as door:
            door.backend.wait_s = 0.5
            stream = await waiting(door)
            await until(lambda: bool(door.backend.asked))
        assert (await read_answer(stream)).body == b'"wait"'
        await stream.aclose()


async def test_a_reader_that_takes_no_bytes_of_its_answer_is_given_up() -> None:
    async with open_door(limits=DoorLimits(write_s=0.5)) as door:
        stream = await stuck_reader(door)
        await door.settle()
        assert [entry["event"] for entry in door.log].count("door.peer_stalled") == 1
        stream.socket.close()


async def test_figures_of_the_whole_server_are_not_for_a_token_of_one_workspace_or_without_observe(
    door: DoorRig, tmp_path: Path
) -> None:
    tokens = {
        "observer": Identity(frozenset({"observe"}), "o", token_id="1", digest=digest_of(b"observer")),
        "prompter": Identity(frozenset({"prompt"}), "p", token_id="2", digest=digest_of(b"prompter")),
        "guest": Identity(frozenset(SCOPES), "g", workspace=tmp_path, token_id="3", digest=digest_of(b"guest")),
    }
    door.access.keyring.replace_others(tokens.values())
    found = {name: await door.ask(door.head("/metrics", token=name)) for name in (*tokens, TOKEN)}
    assert [answer.status for answer in found.values()] == [200, 403, 403, 200]
    assert found["guest"].json["error"] == found["prompter"].json["error"] == "forbidden"
