"""Which addresses of the network a tool may speak to: public ones, and no other.

Loopback, private and link-local networks, multicast, and where clouds keep
their metadata are refused, in either version and also where an IPv6 address
only wraps such an IPv4 one. It looks at numbers: names must be resolved first,
and whoever connects must connect to the very address that was checked.
"""

import ipaddress
import re
from typing import Final

__all__ = ["is_odd_number", "is_public"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Public by their registration, and still nobody's business: the metadata service of a cloud, relays, benchmarks.
_REFUSED: Final = tuple(
    ipaddress.ip_network(network)
    for network in ("168.63.129.16/32", "192.88.99.0/24", "fec0::/10", "64:ff9b:1::/48", "::/96", "5f00::/16")
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_DOTTED: Final = re.compile(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}")
_NUMERIC: Final = re.compile(r"([0-9]+|0[xX][0-9a-fA-F]*)")


def is_public(address: str, *, loopback: bool = False) -> bool:
    """Whether an address may be spoken to.

    Args:
        address: An IPv4 or IPv6 address in its usual form; anything else is refused.
        loopback: Take this machine itself for public.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return _is_public(found, loopback=loopback)


def is_odd_number(host: str) -> bool:
    """Whether a host is an IPv4 address in an unusual spelling, such as ``0177.1`` or ``2130706433``."""
    last = host.rstrip(".").rpartition(".")[2]
    return bool(_NUMERIC.fullmatch(last)) and not _DOTTED.fullmatch(host)


def _is_public(address: _Address, *, loopback: bool) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        inner = address.ipv4_mapped
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return _is_public(inner, loopback=loopback)
        # Tunnels: no server that means well is reached through one.
        if address.sixtofour is not None or address.teredo is not None:
            return False
    if address.is_loopback:
        return loopback
    if address.is_multicast or address.is_reserved or address.is_unspecified or address.is_link_local:
        return False
    return address.is_global and not any(
        address in network for network in _REFUSED if network.version == address.version
    )
