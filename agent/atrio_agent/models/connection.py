"""One provider at one address: the part of a connection that costs nothing.

The client behind it brings the provider's SDK with it, which takes longer to
import than an event loop may stand still; so it is made in a thread, when it
is first needed. No network is touched before a model is asked.
"""

import gc
from importlib import import_module
from typing import Final, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

import trio

__all__ = ["Address", "Connection", "EndpointMissing"]

_CLOSE_S: Final = 2


class EndpointMissing(Exception):
    """The server does not know this part of its API. Nothing was asked."""


class Address(NamedTuple):
    """Where a provider is and how it is asked.

    ``key_name`` and ``url_name`` are the variables that people set, for sentences.
    """

    base_url: str
    key: str = ""
    key_name: str = ""
    url_name: str = ""

    @property
    def server(self) -> str:
        """The host. Not the whole address: it may hold a password."""
        return urlsplit(self.base_url).netloc.rpartition("@")[2]


class Client(Protocol):
    """What a connection owns. Made with an `Address` as its only argument."""

    async def aclose(self) -> None:
        """Close the connections without waiting for any server."""
        ...


C = TypeVar("C", bound=Client)


class Connection(Generic[C]):
    """One address and key, shared by all models there. Whoever makes it closes it.

    Args:
        address: Where.
        client: The client's class, as ``module:Class``.
    """

    def __init__(self, address: Address, client: str) -> None:
        self.address = address
        self.server = address.server
        self._source = client
        self._client: C | None = None
        self._making = trio.CapacityLimiter(1)
        self._asking = trio.Lock()

    async def client(self) -> C:
        """The client, made now if it is the first time it is asked for; for one caller in a round of the event loop.

        With what it is asked for an SDK holds the loop for a millisecond, so fifty at once for fifty: time in which
        nobody is told that a prompt is accepted.
        """
        if self._client is None:
            # Many may come here at once: they queue for the one thread, and all but the first find it done.
            # A cancelled one leaves the thread to finish the import for the next.
            client = await trio.to_thread.run_sync(self._make, abandon_on_cancel=True, limiter=self._making)
            if self._client is None:
                self._client = client
        async with self._asking:
            await trio.lowlevel.checkpoint()
        return self._client

    def _make(self) -> C:
        if self._client is not None:
            return self._client
        module, _, name = self._source.partition(":")
        client: C = getattr(import_module(module), name)(self.address)
        # An SDK is 100,000 objects that stay. A full collection that walks through them stops the loop for 70 ms.
        gc.freeze()
        return client

    async def aclose(self) -> None:
        """Close what is open. Takes at most 2 s, also when it is cancelled."""
        if self._client is not None:
            with trio.move_on_after(_CLOSE_S, shield=True):
                await self._client.aclose()
