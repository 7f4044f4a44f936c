"""One page from the web, by HTTP, from an address that was checked.

Names are resolved here and nowhere else, every address that they stand for is
checked, and the connection goes to one of those: what a name server says a
moment later does not matter. No proxy, no cookie, no credential and nothing of
the environment is used, and a body is read no further than it may be.

Importing this module imports httpx2 (about 0.2 s), so only a thread does it.
"""

import re
import ssl
import zlib
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache
from typing import Final, cast

import httpcore2
import httpx2
import trio

from atrio_agent.tools.addresses import is_odd_number, is_public
from atrio_agent.tools.base import ToolFailed
from atrio_agent.tools.output import shown
from atrio_protocol.version import VERSION

__all__ = ["Fetched", "checked_url", "fetch_page", "trusted"]

MAX_REDIRECTS: Final = 5
_CONNECT_S: Final = 10.0
_MAX_ADDRESSES: Final = 4
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_UNPACKED: Final = {"gzip": 31, "x-gzip": 31, "deflate": 47}
_MAX_SHOWN_CHARS: Final = 300
_MAX_PORT: Final = 65_535
_HOST: Final = re.compile(r"[\w.:-]+")
_HEADERS: Final[dict[str | bytes, str | bytes]] = {
    "User-Agent": f"atrio/{VERSION}",
    "Accept": "text/html, text/*;q=0.9, application/json;q=0.9, */*;q=0.1",
    "Accept-Encoding": "identity",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a server answered. ``is_cut``: there was more than was read."""

    url: str
    content_type: str
    body: bytes
    is_cut: bool


@cache
def trusted() -> ssl.SSLContext:
    """What this machine trusts, the same for all. Blocks while certificates are loaded, the first time."""
    return httpx2.create_ssl_context(trust_env=False)


def checked_url(url: str, *, loopback: bool) -> httpx2.URL:
    """An address that may be asked for, as far as its text says.

    Raises:
        ToolFailed: It is none, not http(s), carries a password, or names a host that is refused.
    """
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as exc:
        raise ToolFailed(f"'{shown(url, max_chars=_MAX_SHOWN_CHARS)}' is not an address: {exc}.") from None
    if parsed.scheme not in {"http", "https"} or not _HOST.fullmatch(parsed.host) or (parsed.port or 0) > _MAX_PORT:
        raise ToolFailed("Only addresses that begin with http:// or https:// and name a host can be fetched.")
    if parsed.userinfo:
        raise ToolFailed("An address with a user name or password in it is not fetched.")
    host = parsed.host.rstrip(".")
    if is_odd_number(host):
        raise ToolFailed(f"'{shown(host, max_chars=_MAX_SHOWN_CHARS)}' is an unusual spelling of an address; refused.")
    if _is_number(host) and not is_public(host, loopback=loopback):
        raise _refused(host)
    return parsed


async def fetch_page(url: str, *, max_bytes: int, loopback: bool, ssl_context: ssl.SSLContext) -> Fetched:
    """Ask for a page, following redirects on the same host.

    Args:
        url: Where to begin.
        max_bytes: Most that is read of the body, unpacked.
        loopback: Let this machine itself be asked, for tests.
        ssl_context: For https.

    Raises:
        ToolFailed: It is refused, cannot be reached, or the answer is none to use.
    """
    where = checked_url(url, loopback=loopback)
    host = where.host
    async with httpcore2.AsyncConnectionPool(
        ssl_context=ssl_context, network_backend=_Checked(loopback=loopback), max_keepalive_connections=0
    ) as pool:
        for _ in range(MAX_REDIRECTS + 1):
            answer = await _ask(pool, where, max_bytes)
            if isinstance(answer, Fetched):
                return answer
            where = checked_url(answer, loopback=loopback)
            if where.host != host:
                raise ToolFailed(
                    f"{host} sends on to another host, which was not asked for. To go there, fetch"
                    f" {shown(str(where), max_chars=2_000)}"
                )
    raise ToolFailed(f"{host} redirects more than {MAX_REDIRECTS} times.")


async def _ask(pool: httpcore2.AsyncConnectionPool, where: httpx2.URL, max_bytes: int) -> Fetched | str:
    """One request: what was answered, or where it sends on to."""
    target = httpcore2.URL(scheme=where.raw_scheme, host=where.raw_host, port=where.port, target=where.raw_path)
    headers = {**_HEADERS, "Host": where.netloc.decode("ascii")}
    try:
        async with pool.stream("GET", target, headers=headers) as response:
            known = {name.lower(): value for name, value in reversed(response.headers)}
            if response.status in _REDIRECTS and b"location" in known:
                return str(where.join(known[b"location"].decode("latin-1")))
            if response.status >= 300:
                raise ToolFailed(f"{where.host} answered with status {response.status}.")
            coding = known.get(b"content-encoding", b"").decode("latin-1").strip().lower()
            body, is_cut = await _read(response, coding, max_bytes)
            return Fetched(
                url=str(where),
                content_type=known.get(b"content-type", b"").decode("latin-1"),
                body=body,
                is_cut=is_cut,
            )
    except (httpcore2.NetworkError, httpcore2.TimeoutException) as exc:
        raise ToolFailed(f"{where.host} cannot be reached: {str(exc) or type(exc).__name__}.") from None
    except (httpcore2.ProtocolError, httpx2.InvalidURL, ValueError, zlib.error) as exc:
        raise ToolFailed(f"{where.host} gave an answer that cannot be understood: {exc}.") from None


async def _read(response: httpcore2.Response, coding: str, max_bytes: int) -> tuple[bytes, bool]:
    if coding not in {"", "identity", *_UNPACKED}:
        raise ToolFailed(f"The answer is packed as '{shown(coding, max_chars=40)}', which is not understood.")
    unpack = zlib.decompressobj(_UNPACKED[coding]) if coding in _UNPACKED else None
    body = bytearray()
    async with aclosing(response.aiter_stream()) as pieces:
        async for piece in pieces:
            # No more than there is room for: a small piece may unpack to a very large one.
            body += piece if unpack is None else unpack.decompress(piece, max_bytes + 1 - len(body))
            if len(body) > max_bytes:
                return bytes(body[:max_bytes]), True
    return bytes(body), False


class _Checked(httpcore2.AsyncNetworkBackend):
    """Connects to checked addresses only."""

    def __init__(self, *, loopback: bool) -> None:
        self._loopback = loopback
        # Where trio were missing it would be a class that only says so, and the type checker thinks of both.
        self._plain = cast("httpcore2.AsyncNetworkBackend", httpcore2.TrioBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failure: Exception | None = None
        for address in (await self._addresses(host, port))[:_MAX_ADDRESSES]:
            try:
                return await self._plain.connect_tcp(
                    address, port, timeout or _CONNECT_S, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as exc:
                failure = exc
        raise failure or httpcore2.ConnectError("its name stands for no address")

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            raise httpcore2.ConnectError(f"its name is not known ({exc})") from exc
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        # One that is refused spoils them all: whoever mixes them means no good.
        if not all(is_public(address, loopback=self._loopback) for address in addresses):
            raise _refused(host)
        return addresses


def _is_number(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _refused(host: str) -> ToolFailed:
    return ToolFailed(f"'{shown(host, max_chars=_MAX_SHOWN_CHARS)}' is a private or local address; refused.")
