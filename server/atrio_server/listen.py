"""Where the server listens: resolve, decide, bind.

Anybody who reaches the port can try tokens, and what goes over it in the clear
can be read on the way. So an address that is not loopback is refused unless the
connection is encrypted or the operator said that he means it. The decision is
made about the addresses that a name resolves to, and exactly those are bound:
a wildcard has too many spellings to compare names.

Nothing here accepts a connection. The invariant: all listeners of one server
have the same port.
"""

import errno
import resource
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Final

import trio

__all__ = [
    "AddressUnusable",
    "BindRefused",
    "ListenError",
    "Listening",
    "TlsFiles",
    "TlsUnusable",
    "allow_open_files",
    "is_loopback",
    "network_of",
    "open_listeners",
]

PORT_TRIES: Final = 20
"""How often a free port of one address may turn out to be taken at another one."""


class ListenError(Exception):
    """There is nothing to listen on. The sentence says why and what to do; nothing is left open.

    ListenError
    ├─ BindRefused      not loopback, and neither TLS nor --insecure-bind
    ├─ AddressUnusable  unknown, taken, or not ours
    └─ TlsUnusable      certificate or key
    """


class BindRefused(ListenError):
    pass


class AddressUnusable(ListenError):
    pass


class TlsUnusable(ListenError):
    pass


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """A certificate chain and its key, as PEM files."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Listening:
    """Open listeners, and what they are bound to. ``addresses`` are IP literals without brackets."""

    listeners: Sequence[trio.SocketListener | trio.SSLListener[trio.SocketStream]]
    addresses: tuple[str, ...]
    port: int
    secure: bool

    async def aclose(self) -> None:
        """Stop listening. Only needed where the listeners were never served."""
        for listener in self.listeners:
            await listener.aclose()


async def open_listeners(host: str, port: int, *, insecure: bool = False, tls: TlsFiles | None = None) -> Listening:
    """Listen on every address of ``host``; with port 0 on one that is free at all of them.

    Args:
        host: A name or an address in any spelling; "" is every address there is.
        port: A TCP port, or 0.
        insecure: Whether an address that is not loopback is meant, without TLS.
        tls: Encrypt, with these files.

    Raises:
        BindRefused: An address is not loopback. Nothing was opened.
        AddressUnusable: No address, or one that cannot be bound. Nothing stays open.
        TlsUnusable: The files cannot be used. Nothing was opened.
    """
    if not 0 <= port <= 65535:  # some resolvers take such a port modulo 65536
        raise AddressUnusable(f"there is no port {port}; choose a --port from 0 to 65535")
    context = _tls_context(tls) if tls else None
    addresses = await _resolve(host)
    foreign = [address for address in addresses if not is_loopback(address)]
    if foreign and not (insecure or tls):
        raise BindRefused(
            f"{host or 'every address'} can be reached from other machines ({foreign[0]}): give --tls-cert and "
            "--tls-key, or say --insecure-bind if something in front of it encrypts"
        )
    listeners = await _bind(host, addresses, port)
    bound = tuple(str(listener.socket.getsockname()[0]) for listener in listeners)
    port = int(listeners[0].socket.getsockname()[1])
    if context is None:
        return Listening(listeners, bound, port, secure=False)
    wrapped = [trio.SSLListener(listener, context, https_compatible=True) for listener in listeners]
    return Listening(wrapped, bound, port, secure=True)


def is_loopback(address: str) -> bool:
    """Whether an IP address cannot be reached from another machine."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_loopback


def network_of(address: str) -> str:
    """Whose an IP address is: a machine with version 6 has a whole network to choose from."""
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv4Address):
        return str(parsed)
    return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))


def allow_open_files(wanted: int) -> int:
    """Raise this process's limit of open files to ``wanted`` where the system lets us; return what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def _resolve(host: str) -> list[str]:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = await trio.socket.getaddrinfo(bare or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        raise AddressUnusable(f"there is no address {host!r} to listen on ({exc})") from exc
    # In the resolver's order, each once: a name in two lines of /etc/hosts is found twice.
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


async def _bind(host: str, addresses: list[str], port: int) -> list[trio.SocketListener]:
    for attempt in range(PORT_TRIES):
        listeners: list[trio.SocketListener] = []
        chosen = port
        try:
            for address in addresses:
                try:
                    opened = await trio.open_tcp_listeners(chosen, host=address)
                except OSError as exc:
                    # A machine without IPv6 still resolves localhost to ::1.
                    if exc.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT} and len(addresses) > 1:
                        continue
                    raise
                listeners += opened
                chosen = int(opened[0].socket.getsockname()[1])
        except OSError as exc:
            for listener in listeners:
                listener.socket.close()
            taken_elsewhere = exc.errno == errno.EADDRINUSE and port == 0 and listeners
            if taken_elsewhere and attempt + 1 < PORT_TRIES:
                continue
            raise AddressUnusable(f"cannot listen on {host or 'every address'} port {port}: {_reason(exc)}") from exc
        if listeners:
            return listeners
        break
    raise AddressUnusable(f"cannot listen on {host!r}: none of its addresses exists on this machine")


def _reason(exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE:
        return "it is taken; choose another --port"
    return str(exc)


def _tls_context(files: TlsFiles) -> ssl.SSLContext:
    def no_password() -> str:
        raise TlsUnusable(f"{files.key} is protected by a password; give a key without one")

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.cert, files.key, password=no_password)
    except (OSError, ssl.SSLError) as exc:
        raise TlsUnusable(f"cannot use {files.cert} with {files.key}: {exc}") from exc
    return context
