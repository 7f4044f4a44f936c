"""Who gets in: every credential, origin and host that is not right, on every path, over HTTP and WebSocket alike.

The whole server is asked, one connection each, and each row of a table says what
it answers. Nobody but the one who is right is ever served, told the token, or given
leave to cross an origin.
"""

import base64
from typing import Any

import pytest
import trio

from atrio_server.config import ConfigError
from atrio_server.config.user import server_config
from atrio_server.listen import BindRefused, ListenError
from atrio_server.service import open_service
from attack.rig import in_turns
from door_rig import KEY, Answer, DoorClient, parse_answer, read_answer, until
from wire.conftest import Harness
from wire.process import spawn
from wire.steps import PLAIN

PUBLIC = ("/v1/health", "/v1/version", "/v1/schema.json")
BODY = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
WAIT_S = 30.0

Lines = list[str]


class Door:
    """What is asked of the server: one path by one method, with the lines of a request that it takes to be served."""

    def __init__(self, method: str, path: str, *lines: str, body: bytes = b"", served: int = 200) -> None:
        self.method = method
        self.path = path
        self.lines = lines
        self.body = body
        self.served = served
        self.is_public = path in PUBLIC

    def __repr__(self) -> str:
        return f"{self.method} {self.path}"

    def request(self, host: Lines, *lines: str, path: str | None = None) -> bytes:
        """The request, with whatever else stands in it."""
        first = f"{self.method} {path or self.path} HTTP/1.1"
        return "\r\n".join([first, *host, *self.lines, *lines, "", ""]).encode("latin-1") + self.body


DOORS = (
    Door("GET", "/v1/health"),
    Door("GET", "/v1/version"),
    Door("GET", "/v1/schema.json"),
    Door("POST", "/v1/rpc", "Content-Type: application/json", f"Content-Length: {len(BODY)}", body=BODY),
    Door("GET", "/metrics"),
    Door("GET", "/", served=404),
    Door("GET", "/acp", served=404),
    Door("GET", "/v1/nothing", served=404),
    Door(
        "GET",
        "/v1/ws",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        served=101,
    ),
)
SOCKET = DOORS[-1]


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def wrong_credentials(token: str) -> dict[str, Lines]:
    """What vouches for nobody: 401, but where no token is needed."""
    offer = "Sec-WebSocket-Protocol: atrio.v1, atrio.token."
    as_browser = base64.b64encode(f"atrio:{token}".encode()).decode()
    return {
        "none": [],
        "wrong": [bearer("W" * 43)],
        "cut": [bearer(token[:-1])],
        "cut at the front": [bearer(token[1:])],
        "longer": [bearer(token + "A")],
        "twice as long": [bearer(token + token)],
        "re-cased": [bearer(token.swapcase())],
        "empty": ["Authorization: "],
        "Bearer alone": ["Authorization: Bearer"],
        "no scheme": [f"Authorization: {token}"],
        "Basic": [f"Authorization: Basic {token}"],
        "Basic, as a browser sends it": [f"Authorization: Basic {as_browser}"],
        "Digest": [f'Authorization: Digest response="{token}"'],
        "two in one header": [f"Authorization: Bearer {token}, Bearer {token}"],
        "quoted": [f'Authorization: Bearer "{token}"'],
        "padded": [f"Authorization: Bearer {token}="],
        "two spaces": [f"Authorization: Bearer  {token}"],
        "in another header": [f"X-Api-Key: {token}", f"Token: {token}", f"Proxy-Authorization: Bearer {token}"],
        "in a cookie": [f"Cookie: token={token}; authorization=Bearer {token}"],
        "a wrong offer": [f"{offer}{'W' * 43}"],
        "an empty offer": [offer],
        "a right header and a wrong offer": [bearer(token), f"{offer}{'W' * 43}"],
        "a wrong header and a right offer": [bearer("W" * 43), f"{offer}{token}"],
        "a right offer and a wrong one": [f"{offer}{token}, atrio.token.{'W' * 43}"],
    }


ONLY_ON_A_SOCKET = {"a right header and a wrong offer"}
"""An offer is no credential where there is no WebSocket: then the header alone counts, and is right."""


def malformed_credentials(token: str) -> dict[str, Lines]:
    """What is refused before anybody looks who it is: 400 on every path."""
    return {
        "two headers, both right": [bearer(token), bearer(token)],
        "two headers, one right": [bearer("W" * 43), bearer(token)],
        "not ASCII": [bearer(token[:-1] + "\xe4")],
        "not ASCII in an offer": [f"Sec-WebSocket-Protocol: atrio.token.{token}\xff"],
        "a NUL behind it": [bearer(token + "\0")],
        "folded": [f"Authorization: Bearer\r\n {token}"],
    }


def foreign_origins(port: int) -> Lines:
    return [
        "null",
        "https://evil.example",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        f"http://127.0.0.1:{port}.evil.example",
        f"http://127.0.0.1.evil.example:{port}",
        f"http://evil-127.0.0.1:{port}",
        f"http://localhost.evil.example:{port}",
        f"http://evillocalhost:{port}",
        f"http://127.0.0.1:{port}@evil.example",
        f"http://evil.example@127.0.0.1:{port}",
        f"http://127.0.0.1:{port}/",
        f"http://127.0.0.1:{port}#",
        f"HTTP://127.0.0.1:{port}",
        f"http://LOCALHOST:{port}",
        f"http://localhost.:{port}",
        f"http://127.0.0.1.:{port}",
        f"ftp://127.0.0.1:{port}",
        f"ws://127.0.0.1:{port}",
        f"127.0.0.1:{port}",
        f"http://127.0.0.1:{port}, http://127.0.0.1:{port}",
        f"http://127.0.0.1:{port} http://evil.example",
        "file://",
        "chrome-extension://abcdefghijklmnop",
        f"http://[::ffff:127.0.0.1]:{port}",
        f"http://2130706433:{port}",
        "",
    ]


def foreign_hosts(port: int) -> Lines:
    return [
        "evil.example",
        f"evil.example:{port}",
        f"127.0.0.1.nip.io:{port}",
        f"localhost.evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        f"127.0.0.1:{port}0",
        f"127.0.0.1:0{port}",
        f"127.0.0.1:{port}:80",
        f"127.0.0.1:{port}@evil.example",
        f"evil.example@127.0.0.1:{port}",
        f"2130706433:{port}",
        f"0x7f000001:{port}",
        f"0x7f.1:{port}",
        f"0177.0.0.1:{port}",
        f"127.1:{port}",
        f"127.0.0.2:{port}",
        f"0.0.0.0:{port}",
        f"0:{port}",
        f"[::]:{port}",
        f"[::ffff:127.0.0.1]:{port}",
        f"[::ffff:7f00:1]:{port}",
        f"[0:0:0:0:0:0:0:1]:{port}",
        f"[::1%25lo]:{port}",
        f"::1:{port}",
        f"localhost.:{port}",
        f"127.0.0.1.:{port}",
        f"127.0.0.1:{port}, evil.example",
        "",
    ]


class Matrix:
    """Asks, many at a time, and collects what was answered otherwise than it should be."""

    def __init__(self, port: int, token: str) -> None:
        self.client = DoorClient(port=port, token=token)
        self.host = [f"Host: 127.0.0.1:{port}"]
        self.wrong: list[str] = []
        self.asked = 0
        self._rows: list[tuple[str, bytes, int]] = []

    def expect(self, status: int, what: str, request: bytes) -> None:
        """Put a row into the table."""
        self._rows.append((what, request, status))

    async def ask_all(self) -> None:
        """Ask all that is in the table."""
        rows, self._rows = self._rows, []

        async def ask(number: int) -> None:
            what, request, wanted = rows[number]
            answer = await self._answer(request)
            said = repr(answer)
            if answer.status != wanted or "access-control-" in said.lower() or self.client.token in said:
                self.wrong.append(f"{what}: {said[:300]} instead of {wanted}")

        await in_turns(8, ask, range(len(rows)))
        self.asked += len(rows)

    async def _answer(self, request: bytes) -> Answer:
        async with await self.client.connect() as stream:
            with trio.fail_after(WAIT_S):
                await stream.send_all(request)
                first = bytes(await stream.receive_some(65536))
                if first.startswith(b"HTTP/1.1 101"):
                    return parse_answer(first)
                rest = await read_answer(stream)
                return parse_answer(first + rest.body)


@pytest.mark.scenario("E4")
async def test_nobody_gets_in_who_is_not_right_in_everything(bench: Harness) -> None:
    async with bench.serve(limit_s=300, model=bench.script(PLAIN)) as running:
        token, port = running.token, int(running.http.rpartition(":")[2])
        matrix = Matrix(port, token)
        host = matrix.host
        for door in DOORS:
            matrix.expect(door.served, f"{door!r} with the token", door.request(host, bearer(token)))
            free = door.served if door.is_public else 401
            for name, lines in wrong_credentials(token).items():
                is_right = name in ONLY_ON_A_SOCKET and door is not SOCKET
                status = door.served if is_right else free
                matrix.expect(status, f"{door!r} with a token that is {name}", door.request(host, *lines))
            for name, lines in malformed_credentials(token).items():
                matrix.expect(400, f"{door!r} with a token that is {name}", door.request(host, *lines))
            for path in (
                f"{door.path}?token={token}",
                f"{door.path}?access_token={token}&authorization=Bearer%20{token}",
            ):
                matrix.expect(free, f"{door!r} with the token in its query", door.request(host, path=path))
            if door is not SOCKET:  # what can be upgraded nowhere else is malformed
                for path in (f"/{token}{door.path}", f"{door.path}/{token}", f"{door.path};token={token}"):
                    matrix.expect(401, f"{door!r} with the token in its path", door.request(host, path=path))
            for origin in foreign_origins(port):
                for lines in ([], [bearer(token)]):
                    matrix.expect(403, f"{door!r} from {origin!r}", door.request(host, f"Origin: {origin}", *lines))
            for foreign in foreign_hosts(port):
                for lines in ([], [bearer(token)]):
                    matrix.expect(403, f"{door!r} at {foreign!r}", door.request([f"Host: {foreign}"], *lines))
            rebinding = [f"Host: evil.example:{port}"]
            own = [f"Origin: http://evil.example:{port}", bearer(token)]
            matrix.expect(403, f"{door!r} by a name that leads here", door.request(rebinding, *own))
            matrix.expect(400, f"{door!r} without Host", door.request([], bearer(token)))
            matrix.expect(400, f"{door!r} with two Hosts", door.request([*host, *host], bearer(token)))
            matrix.expect(
                400, f"{door!r} with a foreign Host behind", door.request([*host, "Host: evil.example"], bearer(token))
            )
            matrix.expect(
                400, f"{door!r} with two Origins", door.request(host, "Origin: null", "Origin: null", bearer(token))
            )
        await matrix.ask_all()
        assert matrix.wrong[:5] == []
        await until(lambda: not running.server.connections)  # those that left are seen to be gone
    assert matrix.asked > 1000


@pytest.mark.scenario("E4")
async def test_a_page_may_not_ask_across_origins_nor_by_a_form(bench: Harness) -> None:
    async with bench.serve(limit_s=120, model=bench.script(PLAIN)) as running:
        token, port = running.token, int(running.http.rpartition(":")[2])
        matrix = Matrix(port, token)
        preflight = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization"]
        for door in DOORS:
            options = Door("OPTIONS", door.path)
            for origin, without, status in (
                (f"http://127.0.0.1:{port}", 401, 404 if door.served == 404 else 405),
                ("https://evil.example", 403, 403),
                ("null", 403, 403),
            ):
                lines = [f"Origin: {origin}", *preflight]
                matrix.expect(without, f"{options!r} from {origin}", options.request(matrix.host, *lines))
                if door is not SOCKET:
                    request = options.request(matrix.host, *lines, bearer(token))
                    matrix.expect(status, f"{options!r} from {origin} with a token", request)
        for kind in (
            "application/x-www-form-urlencoded",
            "text/plain",
            "text/plain; charset=application/json",
            "multipart/form-data; boundary=x",
            "application/jsonx",
            "application/json-rpc",
            "text/json",
            "",
        ):
            form = Door("POST", "/v1/rpc", f"Content-Type: {kind}", f"Content-Length: {len(BODY)}", body=BODY)
            matrix.expect(415, f"a POST of {kind!r}", form.request(matrix.host, bearer(token)))
            matrix.expect(401, f"a POST of {kind!r} without a token", form.request(matrix.host))
        untold = Door("POST", "/v1/rpc", f"Content-Length: {len(BODY)}", body=BODY)
        matrix.expect(415, "a POST of nothing known", untold.request(matrix.host, bearer(token)))
        told = Door("POST", "/v1/rpc", "Content-Type: application/json; charset=utf-8", "Content-Length: 40", body=BODY)
        matrix.expect(200, "a POST of JSON", told.request(matrix.host, bearer(token)))
        await matrix.ask_all()
        assert matrix.wrong[:5] == []


WILDCARDS = (
    *("0.0.0.0", "0", "0x0", "0.0", "00.0.0.0", "192.0.2.1"),
    *("::", "[::]", "0::0", "::ffff:0.0.0.0", "[::ffff:0:0]"),
)


@pytest.mark.scenario("E4")
@pytest.mark.parametrize("host", [*WILDCARDS, "*", "", "0.0.0.0 ", "0.0.0.0:80"])
@pytest.mark.parametrize("place", ["flag", "variable"])
async def test_an_address_that_others_can_reach_needs_tls_or_a_clear_word(
    bench: Harness, host: str, place: str
) -> None:
    flags: dict[str, Any] = {"port": "0", "state_dir": str(bench.state_dir)}
    environ = {"ATRIO_HOST": host} if place == "variable" else {}
    flags |= {"host": host} if place == "flag" else {}
    refused: Exception | None = None
    try:
        config = server_config(flags, environ)
        async with open_service(config.settings, environ={}) as running:
            assert running.http.startswith("http://127.0.0.1:")
    except* (ListenError, ConfigError) as group:
        (refused,) = group.exceptions
    # An empty variable is none, and the default holds.
    assert (refused is None) == ((place, host) == ("variable", ""))
    if host in WILDCARDS:
        assert isinstance(refused, BindRefused)
        assert "--insecure-bind" in str(refused)


async def test_a_server_that_may_not_listen_says_so_and_ends(bench: Harness) -> None:
    log = bench.root / "log"
    with pytest.raises(AssertionError, match="ended with 2 before"):
        async with spawn(bench.state_dir, "--host", "0.0.0.0", log=log):
            pass
    assert "--insecure-bind" in log.read_text()
    assert "Traceback" not in log.read_text()
