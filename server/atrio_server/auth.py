"""Who may come in: names of hosts, origins of pages, tokens.

`Access` answers three questions about a request that somebody else has read
and screened, always in this order: is it meant for us (Host), was it not sent
by a foreign page (Origin), and who sends it (token). A page in a browser can
forge none of the first two, which is what keeps DNS rebinding and cross-site
WebSockets out even where a token leaked into a browser.

Nothing here does I/O. The invariant: a host is known by the exact text of its
``Host`` header, so two spellings of one address are two hosts.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

from atrio_server.identity import Identity, Keyring

__all__ = ["Access", "Identity", "host_literal"]

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")


class Access:
    """The rules of one server.

    Args:
        keyring: The tokens that open it.
        port: The port that clients name in ``Host``.
        bound: IP addresses that the server is bound to, as literals.
        secure: Whether the server speaks TLS, which decides the port that may be left out.
        allow_hosts: Further names, without a port.
        allow_origins: Further origins, exactly as a browser sends them.
    """

    def __init__(
        self,
        *,
        keyring: Keyring,
        port: int,
        bound: Iterable[str] = (),
        secure: bool = False,
        allow_hosts: Iterable[str] = (),
        allow_origins: Iterable[str] = (),
    ) -> None:
        self.keyring = keyring
        self._port = port
        self._default_port = port == (443 if secure else 80)
        names = {*LOOPBACK_NAMES, *(host_literal(address) for address in bound)}
        names |= {name.lower().rstrip(".") for name in allow_hosts}
        self._hosts = frozenset(spelling for name in names for spelling in self._spellings(name))
        self._allow_origins = frozenset(allow_origins)

    def check_host(self, host: str, *, local_address: str | None = None) -> bool:
        """Whether a ``Host`` header names this server.

        ``local_address`` is where the connection arrived: behind a wildcard bind
        the server is bound to that address as well.
        """
        host = host.lower()
        return host in self._hosts or (
            local_address is not None and host in self._spellings(host_literal(local_address))
        )

    def check_origin(self, origin: str, *, local_address: str | None = None) -> bool:
        """Whether an ``Origin`` header is one of ours. ``null`` never is."""
        if origin in self._allow_origins:
            return True
        scheme, separator, host = origin.partition("://")
        # A browser writes an origin in lower case; whatever does not is no browser, and foreign.
        return (
            bool(separator)
            and scheme in {"http", "https"}
            and host == host.lower()
            and self.check_host(host, local_address=local_address)
        )

    def check_token(self, token: bytes) -> Identity | None:
        """Whom this token vouches for, in a time that does not tell how much of it was right."""
        return self.keyring.identify(token)

    def _spellings(self, name: str) -> tuple[str, ...]:
        with_port = f"{name}:{self._port}"
        return (with_port, name) if self._default_port else (with_port,)


def host_literal(address: str) -> str:
    """An IP address as it stands in a URL: in brackets when it is one of version 6."""
    bare = address.partition("%")[0]
    parsed = ip_address(bare)
    if parsed.version == 4:
        return str(parsed)
    return str(parsed.ipv4_mapped or f"[{parsed}]")
