"""Keep a connection to a server, dialling again whenever it breaks.

This is the one task of a client that waits for the network. It tells its owner
when there is a connection, hands it every frame, and tells it when there will be
none any more. The first try decides at once whether there is a server at all;
only what was there before is waited for.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import msgspec
import trio

from atrio_protocol.errors import InvalidRequest, ParseFailed, WireError, error_from_object
from atrio_protocol.jsonrpc import Response, parse_message
from atrio_protocol.methods import InitializeResult
from atrio_server.client.backoff import LONGEST_S, delays_s
from atrio_server.client.errors import ServerGone
from atrio_server.client.link import Dial, Link, Unreachable, open_link

__all__ = ["Address", "Owner", "Route", "keep_connected"]

CONNECT_S: Final = 10.0
"""How long one try to connect and initialize may take."""


class Address(NamedTuple):
    """Where a server is, and what opens it."""

    url: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How to get to the server. ``locate`` is asked before each try: a server that restarts may move.

    It answers at once and raises nothing; where it finds none, the last address will do.
    """

    locate: Callable[[], Address]
    dial: Dial
    hello: str
    give_up_s: float


class Owner(Protocol):
    """Who the connection is kept for. None of these may wait."""

    def connection_made(self, link: Link, server: InitializeResult) -> None:
        """There is a connection, and the server has said who it is."""
        ...

    @property
    def closing(self) -> bool:
        """The owner is leaving, and wants no further connection."""
        ...

    def connection_lost(self, *, soon: bool) -> None:
        """The connection that was made is no more. ``soon``: it has not lasted."""
        ...

    def frame_came(self, text: str) -> None:
        """A frame has come. Raising `ParseFailed`, `InvalidRequest` or a `DecodeError` ends it all."""
        ...

    def gone(self, error: Exception) -> None:
        """There will be no further connection."""
        ...


async def keep_connected(owner: Owner, route: Route) -> None:
    """Connect, carry frames, connect again, until that is hopeless: then the owner learns why."""
    await trio.lowlevel.checkpoint()
    delays = delays_s(random.Random())  # noqa: S311 - spreads load, guards nothing
    give_up_at = trio.current_time() + CONNECT_S
    first = True
    while True:
        carried = _Carried(owner, is_first=first)
        address = route.locate()
        error: Exception = Unreachable("it did not answer in time")
        try:
            with trio.CancelScope(deadline=min(give_up_at, trio.current_time() + CONNECT_S)) as connecting:
                async with open_link(address.url, address.token, route.dial) as link:
                    server = _read_hello(await link.exchange(route.hello))
                    connecting.deadline = math.inf
                    first = False
                    error = Unreachable(await carried.run(link, server))
        except (ParseFailed, InvalidRequest, msgspec.DecodeError) as exc:
            error = ServerGone(f"what answers at {address.url} does not speak the protocol: {exc}")
        except (WireError, Unreachable) as exc:
            error = exc
        if owner.closing:
            return
        now = trio.current_time()
        if carried.lasted or carried.was_of_use:
            give_up_at = now + route.give_up_s
        if carried.lasted:  # else it comes and goes: keep growing
            delays = delays_s(random.Random())  # noqa: S311 - as above
        delay_s = next(delays)
        if isinstance(error, Unreachable) and first:
            error = ServerGone(f"cannot reach {address.url}: {error}")
        if isinstance(error, Unreachable) and now + delay_s >= give_up_at:
            error = ServerGone(f"lost the server at {address.url} for {route.give_up_s:.0f} s: {error}")
        if not isinstance(error, Unreachable):
            owner.gone(error)
            return
        await trio.sleep(delay_s)


class _Carried:
    """One connection that was made, and whether anything came of it."""

    def __init__(self, owner: Owner, *, is_first: bool) -> None:
        self.lasted = False
        """Until it was lost, it was there for longer than any delay."""
        self.was_of_use = False
        """A frame has come. A server that hangs up each time before one does is as good as none."""
        self._owner = owner
        self._is_first = is_first

    async def run(self, link: Link, server: InitializeResult) -> str:
        """Carry frames until it ends, and say why it did."""
        began_at = trio.current_time()
        self.was_of_use = self._is_first
        self._owner.connection_made(link, server)
        try:
            return await link.run(self._take)
        finally:
            self.lasted = trio.current_time() - began_at > LONGEST_S
            self._owner.connection_lost(soon=not self.lasted)

    def _take(self, frame: str) -> None:
        self._owner.frame_came(frame)
        self.was_of_use = True


def _read_hello(answer: str) -> InitializeResult:
    message = parse_message(answer)
    if not isinstance(message, Response):
        raise InvalidRequest("its first message is not the answer to initialize")
    if message.error is not None:
        error = error_from_object(message.error)
        raise Unreachable(str(error)) if error.retryable else error
    return msgspec.json.decode(message.result or b"", type=InitializeResult)
