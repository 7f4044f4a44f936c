"""Which names, pages and tokens are ours."""

import pytest

from atrio_server.auth import Access
from atrio_server.identity import Keyring
from door_rig import TOKEN

PORT = 4317


def access(**more: object) -> Access:
    return Access(**{"keyring": Keyring(TOKEN), "port": PORT, "bound": ["127.0.0.1"]} | more)  # type: ignore[arg-type]  # a test's


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LocalHost"])
def test_loopback_names_are_ours(host: str) -> None:
    assert access().check_host(f"{host}:{PORT}")
    assert access().check_origin(f"http://{host.lower()}:{PORT}")
    assert access().check_origin(f"https://{host.lower()}:{PORT}")


FOREIGN_HOSTS = [
    "",
    ":4317",
    "localhost",
    "localhost:",
    "localhost:80",
    "localhost:43170",
    "localhost:04317",
    "localhost.:4317",
    "localhost.example.com:4317",
    "example.com:4317",
    "example.com",
    "127.0.0.1.example.com:4317",
    "127.0.0.2:4317",
    "127.1:4317",
    "2130706433:4317",
    "0x7f000001:4317",
    "0177.0.0.1:4317",
    "0.0.0.0:4317",
    "::1:4317",
    "[::]:4317",
    "[::ffff:127.0.0.1]:4317",
    "[0:0:0:0:0:0:0:1]:4317",
    "[::1%lo]:4317",
    "user@localhost:4317",
    "localhost:4317@example.com",
    "localhost:4317,localhost:4317",
    "localhost:4317 ",
    "xn--localhost:4317",
    "localhost:4317/",
    "localhost:4317#",
]


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_every_other_host_is_foreign(host: str) -> None:
    assert not access().check_host(host)
    assert not access().check_origin(f"http://{host}")


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "NULL",
        "http://",
        "http:localhost:4317",
        "//localhost:4317",
        "localhost:4317",
        "ws://localhost:4317",
        "wss://localhost:4317",
        "file://",
        "file://localhost:4317",
        "chrome-extension://localhost:4317",
        "http://LOCALHOST:4317",
        "HTTP://localhost:4317",
        "http://localhost:4317/",
        "http://localhost:4317?",
        "http://localhost:4317 http://localhost:4317",
        "http://example.com http://localhost:4317",
        "http://http://localhost:4317",
        "http:// localhost:4317",
    ],
)
def test_an_origin_counts_only_as_a_browser_writes_it(origin: str) -> None:
    assert not access().check_origin(origin)


def test_an_address_that_the_server_is_bound_to_is_ours() -> None:
    rules = access(bound=["192.0.2.7", "2001:db8::7", "fe80::1%eth0"])
    for host in ("192.0.2.7:4317", "[2001:db8::7]:4317", "[fe80::1]:4317"):
        assert rules.check_host(host)
        assert rules.check_origin(f"http://{host}")
    assert not rules.check_host("192.0.2.8:4317")


def test_behind_a_wildcard_the_address_that_a_connection_arrived_at_is_ours_and_no_other() -> None:
    rules = access(bound=["0.0.0.0"])
    assert rules.check_host("192.0.2.7:4317", local_address="192.0.2.7")
    assert rules.check_origin("http://192.0.2.7:4317", local_address="192.0.2.7")
    assert rules.check_host("192.0.2.7:4317", local_address="::ffff:192.0.2.7")
    assert not rules.check_host("192.0.2.8:4317", local_address="192.0.2.7")
    assert not rules.check_host("evil.example:4317", local_address="192.0.2.7")


def test_an_allowed_name_is_ours_at_our_port() -> None:
    rules = access(allow_hosts=["Atrio.Example.com."])
    assert rules.check_host("atrio.example.com:4317")
    assert rules.check_origin("https://atrio.example.com:4317")
    assert not rules.check_host("atrio.example.com")
    assert not rules.check_host("sub.atrio.example.com:4317")


def test_an_allowed_origin_is_allowed_exactly() -> None:
    rules = access(allow_origins=["https://app.example.com", "vscode-webview://x"])
    assert rules.check_origin("https://app.example.com")
    assert rules.check_origin("vscode-webview://x")
    for origin in ("http://app.example.com", "https://app.example.com:444", "https://APP.example.com"):
        assert not rules.check_origin(origin)
    assert not rules.check_host("app.example.com:4317")


@pytest.mark.parametrize(("port", "secure"), [(80, False), (443, True)])
def test_the_default_port_may_be_left_out_where_it_is_ours(port: int, secure: bool) -> None:
    rules = access(port=port, secure=secure)
    assert rules.check_host("localhost")
    assert rules.check_host(f"localhost:{port}")
    other = access(port=port, secure=not secure)
    assert not other.check_host("localhost")


@pytest.mark.parametrize(
    "token",
    [b"", b"T", TOKEN[:-1].encode(), f"{TOKEN}T".encode(), TOKEN.lower().encode(), f" {TOKEN}".encode(), b"\xff" * 43],
)
def test_a_wrong_token_is_nobodys(token: bytes) -> None:
    assert access().check_token(token) is None


def test_the_token_of_the_file_has_every_scope() -> None:
    identity = access().check_token(TOKEN.encode())
    assert identity is not None
    assert identity.scopes == {"observe", "prompt", "approve", "admin"}


def test_a_replaced_token_is_nobodys_any_more() -> None:
    rules = access()
    rules.keyring.replace_file_token("N" * 43)
    assert rules.check_token(TOKEN.encode()) is None
    assert rules.check_token(b"N" * 43) is not None
