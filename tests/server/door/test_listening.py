"""Where the server may listen, in every spelling that a resolver understands."""

import resource
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from atrio_server import listen
from atrio_server.listen import (
    AddressUnusable,
    BindRefused,
    TlsFiles,
    TlsUnusable,
    allow_open_files,
    is_loopback,
    network_of,
    open_listeners,
)

WILDCARDS = [
    "",
    "0.0.0.0",
    "0",
    "0x0",
    "0x00000000",
    "00.00.00.00",
    "0.0",
    "000",
    "::",
    "[::]",
    "0:0:0:0:0:0:0:0",
    "::0.0.0.0",
    "::ffff:0.0.0.0",
    "[::ffff:0.0.0.0]",
    "::ffff:0:0",
]


@pytest.mark.parametrize(
    "host", [*WILDCARDS, "192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "0xc0000201", "3221225985"]
)
async def test_an_address_that_others_can_reach_is_refused_in_every_spelling(host: str) -> None:
    with pytest.raises(BindRefused, match="--insecure-bind"):
        await open_listeners(host, 0)


async def test_a_name_is_refused_by_what_it_resolves_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_args: object, **_more: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        await trio.lowlevel.checkpoint()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "192.0.2.9")]

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)
    with pytest.raises(BindRefused, match=r"looks-harmless .*192\.0\.2\.9"):
        await open_listeners("looks-harmless", 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "127.1", "0x7f000001", "2130706433", "localhost"])
async def test_loopback_is_served_without_further_ado(host: str) -> None:
    listening = await open_listeners(host, 0)
    assert all(is_loopback(address) for address in listening.addresses)
    assert not listening.secure
    await listening.aclose()


async def test_the_operator_may_mean_it() -> None:
    listening = await open_listeners("0.0.0.0", 0, insecure=True)
    assert listening.addresses == ("0.0.0.0",)
    await listening.aclose()


async def test_all_addresses_of_a_name_get_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(_host: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        return ["127.0.0.1", "127.0.0.2", "127.0.0.3"]

    monkeypatch.setattr(listen, "_resolve", resolve)
    listening = await open_listeners("three", 0)
    assert listening.addresses == ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    ports = {
        listener.socket.getsockname()[1]
        for listener in listening.listeners
        if isinstance(listener, trio.SocketListener)
    }
    assert ports == {listening.port}
    await listening.aclose()


async def test_a_taken_port_is_an_error_that_says_the_way_out() -> None:
    listening = await open_listeners("127.0.0.1", 0)
    with pytest.raises(AddressUnusable, match="choose another --port"):
        await open_listeners("127.0.0.1", listening.port)
    await listening.aclose()


@pytest.mark.parametrize(
    ("host", "port"), [("no such host", 0), ("a" * 300, 0), ("127.0.0.1", 65536), ("127.0.0.1", -1)]
)
async def test_what_is_no_address_is_an_error_with_a_sentence(host: str, port: int) -> None:
    with pytest.raises(AddressUnusable):
        await open_listeners(host, port)


async def test_files_that_are_no_certificate_are_an_error_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing")
    with pytest.raises(TlsUnusable):
        await open_listeners("0.0.0.0", 0, tls=TlsFiles(tmp_path / "cert.pem", tmp_path / "cert.pem"))
    with pytest.raises(TlsUnusable):
        await open_listeners("0.0.0.0", 0, tls=TlsFiles(tmp_path / "missing", tmp_path / "missing"))


async def test_an_encrypted_wildcard_is_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def context(_files: TlsFiles) -> ssl.SSLContext:
        return ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    monkeypatch.setattr(listen, "_tls_context", context)
    listening = await open_listeners("0.0.0.0", 0, tls=TlsFiles(tmp_path, tmp_path))
    assert listening.secure
    await listening.aclose()


def test_all_addresses_that_one_machine_may_choose_from_are_one() -> None:
    assert network_of("192.0.2.7") == network_of("::ffff:192.0.2.7") != network_of("192.0.2.8")
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1%eth0") != network_of("2001:db8:0:1::1")


@pytest.fixture
def file_limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_of_open_files_is_raised_as_far_as_the_system_lets_us(file_limits: tuple[int, int]) -> None:
    _, hard = file_limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert allow_open_files(300) == 300
    assert allow_open_files(200) == 300
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    assert allow_open_files(hard + 1) in {256, hard}
