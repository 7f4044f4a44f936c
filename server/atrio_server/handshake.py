"""What a WebSocket handshake must look like, and what is made of it.

A handshake is checked in two steps, because its shape is a matter of the
request itself (400, whoever sends it) while "not this version" is an answer to
somebody who was let in (426). No extension is ever negotiated: compression
costs memory per connection, and its parameters have killed a server before.

Pure functions of a `Head`. The invariant: what passes `asks_upgrade` can be
written anew from the key alone.
"""

import base64
import binascii
from typing import Final

from atrio_server.head import Head
from atrio_server.refusal import Refused

__all__ = [
    "SUBPROTOCOL",
    "TOKEN_SUBPROTOCOL",
    "asks_upgrade",
    "check_version",
    "offered_tokens",
    "select_subprotocol",
    "upgrade_required",
]

SUBPROTOCOL: Final = "atrio.v1"
TOKEN_SUBPROTOCOL: Final = "atrio.token."  # noqa: S105  what precedes a token
"""A browser cannot set headers on a WebSocket; it offers its token as a subprotocol instead."""

VERSION: Final = "13"
KEY_BYTES: Final = 16


def asks_upgrade(head: Head, *, may: bool, rest: bytes) -> bool:
    """Whether this request asks to become a WebSocket.

    Args:
        head: The request.
        may: Whether this path is one that can.
        rest: What came together with the head.

    Raises:
        Refused: It asks for something that no client of ours asks for.
    """
    upgrade = head.values(b"upgrade")
    if not upgrade:
        return False
    if not may:
        raise _bad("nothing can be upgraded at this path")
    if len(upgrade) != 1 or upgrade[0].lower() != b"websocket":
        raise _bad("only an upgrade to websocket is known here")
    if "upgrade" not in {token.lower() for token in head.listed(b"connection")}:
        raise _bad("an Upgrade header needs a Connection header that names it")
    if head.method != "GET" or head.version != "1.1":
        raise _bad("a WebSocket handshake is a GET in HTTP/1.1")
    if head.has_body or rest:
        raise _bad("nothing may follow a WebSocket handshake before it is answered")
    if not _is_key(head.values(b"sec-websocket-key")):
        raise _bad("a WebSocket handshake has one Sec-WebSocket-Key of 16 bytes")
    return True


def check_version(head: Head) -> None:
    """Refuse a version of the WebSocket protocol that is not the one there is."""
    if head.values(b"sec-websocket-version") != [VERSION.encode("ascii")]:
        raise Refused(
            426,
            "upgrade_required",
            f"this server speaks version {VERSION} of the WebSocket protocol",
            headers=(("upgrade", "websocket"), ("sec-websocket-version", VERSION)),
        )


def upgrade_required() -> Refused:
    """The answer to a plain request where a WebSocket handshake was due."""
    return Refused(
        426,
        "upgrade_required",
        "this path speaks WebSocket; POST /v1/rpc takes single requests",
        headers=(("upgrade", "websocket"),),
    )


def offered_tokens(head: Head) -> list[bytes]:
    """Every token that is offered as a subprotocol."""
    offers = head.listed(b"sec-websocket-protocol")
    return [
        offer.removeprefix(TOKEN_SUBPROTOCOL).encode("ascii") for offer in offers if offer.startswith(TOKEN_SUBPROTOCOL)
    ]


def select_subprotocol(head: Head) -> str | None:
    """The subprotocol to answer with: ours where it is offered, else none. Never one that holds a token."""
    return SUBPROTOCOL if SUBPROTOCOL in head.listed(b"sec-websocket-protocol") else None


def _is_key(keys: list[bytes]) -> bool:
    try:
        return len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == KEY_BYTES
    except binascii.Error:
        return False


def _bad(message: str) -> Refused:
    return Refused(400, "bad_request", message)
