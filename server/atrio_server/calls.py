"""What a request is between the socket (or HTTP) that read it and the handler that serves it.

A handler is an async function of a `Caller` and its parameters. What it awaits
itself holds up the next request of the same connection, so it awaits only the
finding of its target (a workspace that must be opened, a session that must be
loaded). Then it does its synchronous step, and either returns the result or a
`Later` for whatever still has to wait. The death of a connection cancels its
`Later`s and undoes nothing: what must outlive a request is done by its owner.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from atrio_agent.streams import Cursor
from atrio_protocol.jsonrpc import Notification, Request
from atrio_protocol.methods import Scope
from atrio_protocol.struct import WireStruct
from atrio_protocol.who import Author
from atrio_server.identity import OWNER, Identity

__all__ = ["AttachReply", "Begin", "Caller", "Key", "Later", "Notify", "Reply"]


class Key(NamedTuple):
    """Which stream of a connection an attachment belongs to."""

    of: Literal["workspace", "session"]
    thing_id: str


@dataclass(slots=True, kw_only=True, eq=False)
class Caller:
    """Who asks: one connection, or one HTTP request.

    ``identity`` is what the token vouches for, and ``scopes`` are its scopes: nothing
    that a client says adds to them. ``author`` is None before `initialize`.
    ``is_socket`` says whether there can be claims and attachments; an HTTP caller
    has none.
    """

    connection_id: str
    scopes: frozenset[Scope]
    is_socket: bool
    identity: Identity = OWNER
    author: Author | None = None
    on_close: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    """Called once, in order, when the connection is gone."""
    check_waiting: Callable[[], None] = field(default=lambda: None)
    """Raises `Overloaded` when the connection has as many requests that wait by design as it may.
    For a handler that changes something before it waits; for the others the socket sees to it."""
    check_attaching: Callable[[Key], None] = field(default=lambda _key: None)
    """Raises `Overloaded` when the connection reads as many streams as it may."""


class AttachReply(NamedTuple):
    """A result with which an attachment begins: the cursor is live once the writer has taken it."""

    result: WireStruct
    key: Key
    cursor: Cursor


Reply = WireStruct | AttachReply


class Later(NamedTuple):
    """The rest of a request, run beside the connection's other requests.

    ``by_design``: it may wait for as long as it likes and is not counted among
    the requests in work. ``after``: it starts only when earlier requests of the
    connection that touch the same attachment are answered. ``detaches``: that
    attachment ends when the reply is taken. ``behind``: what these streams hold
    when the reply is taken goes out before it, to the end if they were closed.
    """

    run: Callable[[], Awaitable[Reply]]
    by_design: bool = False
    after: tuple[Key, ...] = ()
    detaches: tuple[Key, ...] = ()
    behind: tuple[Key, ...] = ()


Begin = Callable[[Caller, Request], Awaitable[Reply | Later]]
"""Starts one request. Raises `WireError` and nothing else; what it awaits, later requests of the connection share."""

Notify = Callable[[Caller, Notification], Awaitable[None]]
"""Starts what a notification asks for. Raises nothing; one that is not known is ignored."""
