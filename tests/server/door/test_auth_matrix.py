"""Who gets in: every combination of token, Host and Origin, over HTTP and WebSocket alike."""

import pytest
import trio

from door_rig import TOKEN, WAIT_S, Answer, DoorRig, close_code, open_door, parse_answer

FOREIGN_ORIGINS = [
    "http://example.com",
    "https://example.com",
    "null",
    "http://127.0.0.1",
    "http://127.0.0.1:1",
    "http://localhost.example.com:PORT",
    "http://example.com:PORT",
    "http://127.0.0.1:PORT.example.com",
    "http://127.0.0.1:PORT@example.com",
    "file://",
    "http://LOCALHOST:PORT",
    "http://127.0.0.1:PORT/",
    "ws://127.0.0.1:PORT",
]
FOREIGN_HOSTS = [
    "example.com",
    "example.com:PORT",
    "127.0.0.1",
    "127.0.0.1:1",
    "localhost.example.com:PORT",
    "127.0.0.2:PORT",
    "0.0.0.0:PORT",
    "[::]:PORT",
    "localhost.:PORT",
    "",
]
WRONG_TOKENS = {
    "none": None,
    "empty": "Authorization:",
    "no scheme": f"Authorization: {TOKEN}",
    "another scheme": f"Authorization: Basic {TOKEN}",
    "no token": "Authorization: Bearer",
    "wrong": f"Authorization: Bearer {'W' * 43}",
    "cut": f"Authorization: Bearer {TOKEN[:-1]}",
    "longer": f"Authorization: Bearer {TOKEN}T",
    "re-cased": f"Authorization: Bearer {TOKEN.lower()}",
    "two spaces": f"Authorization: Bearer  {TOKEN}",
    "quoted": f'Authorization: Bearer "{TOKEN}"',
    "twice in one header": f"Authorization: Bearer {TOKEN}, Bearer {TOKEN}",
    "in another header": f"X-Token: {TOKEN}",
    "in a cookie": f"Cookie: token={TOKEN}",
}
WRONG_OFFERS = {
    "wrong": f"atrio.v1, atrio.token.{'W' * 43}",
    "empty": "atrio.v1, atrio.token.",
    "alone and wrong": "atrio.token.x",
    "one right and one wrong": f"atrio.v1, atrio.token.{TOKEN}, atrio.token.{'W' * 43}",
    "another prefix": f"atrio.v1, Atrio.Token.{TOKEN}",
    "none": "atrio.v1",
}


def unauthorized(answer: Answer) -> bool:
    return (
        answer.status == 401
        and answer.header("www-authenticate") == "Bearer"
        and answer.json["error"] == "auth_required"
    )


async def handshake_status(door: DoorRig, *lines: str, token: str | None = None, path: str = "/v1/ws") -> Answer:
    """What a handshake is answered with; 101 leaves the connection open, so it is not read to its end."""
    async with await door.connect() as stream:
        with trio.fail_after(WAIT_S):
            await stream.send_all(door.handshake(*lines, token=token, path=path))
            return parse_answer(bytes(await stream.receive_some()))


@pytest.mark.parametrize("name", WRONG_TOKENS)
async def test_without_the_right_token_nothing_is_served(door: DoorRig, name: str) -> None:
    lines = [line] if (line := WRONG_TOKENS[name]) else []
    for path, method in [("/v1/rpc", "POST"), ("/v1/rpc", "GET"), ("/v1/ws", "GET"), ("/metrics", "GET"), ("/", "GET")]:
        assert unauthorized(await door.ask(door.head(path, *lines, method=method)))
    assert unauthorized(await door.ask(door.handshake(*lines, token=None)))
    assert door.backend.asked == []


@pytest.mark.parametrize("name", WRONG_OFFERS)
async def test_a_wrong_token_among_the_subprotocols_is_wrong(door: DoorRig, name: str) -> None:
    assert unauthorized(await door.ask(door.handshake(f"Sec-WebSocket-Protocol: {WRONG_OFFERS[name]}", token=None)))


async def test_a_non_ascii_token_is_malformed(door: DoorRig) -> None:
    assert (await door.ask(door.head("/v1/rpc", f"Authorization: Bearer {TOKEN[:-1]}\xe4"))).status == 400


async def test_two_authorization_headers_are_malformed_even_if_both_are_right(door: DoorRig) -> None:
    answer = await door.ask(door.head("/v1/rpc", f"Authorization: Bearer {TOKEN}", token=TOKEN))
    assert answer.status == 400


async def test_a_token_in_the_url_is_no_token(door: DoorRig) -> None:
    for path in (f"/v1/rpc?token={TOKEN}", f"/v1/rpc?access_token={TOKEN}", f"/v1/rpc#{TOKEN}", f"/v1/{TOKEN}/rpc"):
        assert unauthorized(await door.ask(door.head(path, method="POST")))
    assert unauthorized(await door.ask(door.handshake(path=f"/v1/ws?token={TOKEN}", token=None)))


async def test_a_token_among_the_subprotocols_is_for_websockets_only(door: DoorRig) -> None:
    line = f"Sec-WebSocket-Protocol: atrio.v1, atrio.token.{TOKEN}"
    assert unauthorized(await door.ask(door.head("/v1/rpc", line, method="POST")))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_right_token_opens(door: DoorRig, scheme: str) -> None:
    line = f"Authorization: {scheme} {TOKEN}"
    answer = await door.ask(
        door.head("/v1/rpc", line, "Content-Type: application/json", "Content-Length: 2", method="POST") + b"{}"
    )
    assert answer.status == 200
    assert (await handshake_status(door, line)).status == 101


async def test_the_server_selects_its_subprotocol_and_never_repeats_the_token(door: DoorRig) -> None:
    offers = {
        f"atrio.v1, atrio.token.{TOKEN}": "atrio.v1",
        f"atrio.token.{TOKEN},atrio.v1": "atrio.v1",
        f"chat, atrio.token.{TOKEN} ,\tatrio.v1, ,": "atrio.v1",
        f"atrio.token.{TOKEN}": None,
    }
    for offer, selected in offers.items():
        answer = await handshake_status(door, f"Sec-WebSocket-Protocol: {offer}")
        assert answer.status == 101, offer
        assert answer.header("sec-websocket-protocol") == selected
        assert TOKEN not in repr(answer)


async def test_a_subprotocol_is_selected_with_a_token_in_the_header_too(door: DoorRig) -> None:
    for offer, selected in {"atrio.v1": "atrio.v1", "chat, superchat": None, "atrio.v2": None}.items():
        answer = await handshake_status(door, f"Sec-WebSocket-Protocol: {offer}", token=TOKEN)
        assert answer.status == 101
        assert answer.header("sec-websocket-protocol") == selected
    split = "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: atrio.v1"
    assert (await handshake_status(door, split, token=TOKEN)).header("sec-websocket-protocol") == "atrio.v1"


PATHS = ["/v1/health", "/v1/version", "/v1/schema.json", "/v1/rpc", "/v1/ws", "/", "/nothing"]


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
async def test_a_foreign_origin_is_refused_on_every_path_also_with_a_good_token(door: DoorRig, origin: str) -> None:
    line = "Origin: " + origin.replace("PORT", str(door.port))
    for path in PATHS:
        for method in ("GET", "POST", "OPTIONS"):
            for token in (TOKEN, None):
                answer = await door.ask(door.head(path, line, method=method, token=token))
                assert (answer.status, answer.json["error"]) == (403, "foreign_origin"), (path, method)
                assert not [name for name, _ in answer.headers if name.startswith("access-control")]
    for path in (*PATHS, "/acp"):
        answer = await door.ask(door.handshake(line, path=path))
        assert (answer.status, answer.json["error"]) == (403, "foreign_origin"), path


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
async def test_a_foreign_host_is_refused_on_every_path_also_with_a_good_token(door: DoorRig, host: str) -> None:
    head = f"Host: {host.replace('PORT', str(door.port))}"

    def with_host(request: bytes) -> bytes:
        return request.replace(f"Host: 127.0.0.1:{door.port}".encode(), head.encode())

    for path in PATHS:
        answer = await door.ask(with_host(door.head(path, token=TOKEN)))
        assert (answer.status, answer.json["error"]) == (403, "foreign_host"), path
    for path in (*PATHS, "/acp"):
        answer = await door.ask(with_host(door.handshake(path=path)))
        assert (answer.status, answer.json["error"]) == (403, "foreign_host"), path


async def test_a_page_that_rebinds_its_name_to_us_is_refused(door: DoorRig) -> None:
    request = (
        f"GET /v1/health HTTP/1.1\r\nHost: evil.example:{door.port}\r\nOrigin: http://evil.example:{door.port}\r\n\r\n"
    )
    assert (await door.ask(request.encode())).status == 403


async def test_our_own_page_is_let_in(door: DoorRig) -> None:
    for origin in (f"http://127.0.0.1:{door.port}", f"http://localhost:{door.port}", f"https://[::1]:{door.port}"):
        assert (await door.ask(door.head("/v1/health", f"Origin: {origin}"))).status == 200
        assert (await handshake_status(door, f"Origin: {origin}", token=TOKEN)).status == 101


async def test_an_allowed_origin_and_an_allowed_host_are_let_in() -> None:
    async with open_door(allow_hosts=("atrio.test",), allow_origins=("https://app.example.com",)) as door:
        request = f"GET /v1/health HTTP/1.1\r\nHost: atrio.test:{door.port}\r\nOrigin: https://app.example.com\r\n\r\n"
        answer = await door.ask(request.encode())
        assert answer.status == 200
        assert not [name for name, _ in answer.headers if name.startswith("access-control")]


async def test_a_preflight_gets_no_leave(door: DoorRig) -> None:
    lines = (f"Origin: http://127.0.0.1:{door.port}", "Access-Control-Request-Method: POST")
    for token, status in ((None, 401), (TOKEN, 405)):
        answer = await door.ask(door.head("/v1/rpc", *lines, method="OPTIONS", token=token))
        assert answer.status == status
        assert not [name for name, _ in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/v1/health", "/v1/version", "/v1/schema.json"])
async def test_what_needs_no_token_needs_none_and_minds_none(door: DoorRig, path: str) -> None:
    for token in (None, TOKEN, "wrong"):
        assert (await door.ask(door.head(path, token=token))).status == 200
        assert (await door.ask(door.head(path, token=token, method="HEAD"))).status == 200
    assert (await door.ask(door.head(path, method="POST"))).status == 401
    assert (await door.ask(door.head(path, method="POST", token=TOKEN))).status == 405


@pytest.mark.parametrize(
    "path",
    ["/v1/health/", "//v1/health", "/v1//health", "/v1/%68ealth", "/./v1/health", "/v1/../v1/health", "/V1/HEALTH"],
)
async def test_another_spelling_of_a_path_without_a_token_is_another_path(door: DoorRig, path: str) -> None:
    assert unauthorized(await door.ask(door.head(path)))
    assert (await door.ask(door.head(path, token=TOKEN))).status in {200, 404}


async def test_a_token_that_was_replaced_opens_nothing_any_more(door: DoorRig) -> None:
    async with door.socket() as before:
        door.access.keyring.replace_file_token("N" * 43)
        assert unauthorized(await door.ask(door.handshake()))
        assert (await handshake_status(door, token="N" * 43)).status == 101
        await before.send_message("who")
        with trio.fail_after(WAIT_S):
            assert await before.get_message() == "file"


async def test_a_refusal_repeats_nothing_that_was_sent(door: DoorRig) -> None:
    answer = await door.ask(door.head("/canary-path", "X-Name: canary-header", "Origin: http://canary-origin"))
    assert "canary" not in repr(answer)


async def test_a_socket_learns_who_is_behind_it(door: DoorRig) -> None:
    async with door.socket() as web_socket:
        await web_socket.send_message("who")
        with trio.fail_after(WAIT_S):
            assert await web_socket.get_message() == "file"
        await web_socket.aclose()
        assert await close_code(web_socket) == 1000
