"""What the clients of the providers' SDKs share: HTTP, limits and the body of an answer.

The SDKs build requests, sign and send them and turn statuses into exceptions;
they neither retry (the run's loop does) nor read streams. Importing this module
imports httpx2, so only a thread does it (`atrio_agent.models.connection`).
"""

from contextlib import AsyncExitStack, aclosing, suppress
from importlib import import_module
from typing import Any, Final, cast
from urllib.request import getproxies

import httpx2

from atrio_agent.models.connection import Address
from atrio_agent.models.provider_errors import reported_error, retry_after_ms, spoken
from atrio_agent.models.transport import FastTransport, StreamedBody
from atrio_protocol.errors import ProviderError, ProviderUnreachable, RunError

__all__ = [
    "HEADERS",
    "TIMEOUT",
    "StreamBlocks",
    "http_client",
    "import_late_parts",
    "open_body",
    "refused",
    "unreachable",
]

_CONNECT_S: Final = 10
_SILENCE_S: Final = 120
_MAX_CONNECTIONS: Final = 512
"""More streams than this wait for a connection: a process has about 1,000 files to open."""
_MAX_IDLE_CONNECTIONS: Final = 128
_IDLE_S: Final = 30
_IMPORTED_LATE: Final = ("anyio._backends._trio", "encodings.idna")
"""What the SDKs and their libraries would import within the first request, while the event loop waits."""

_NOT_REDIRECT: Final = 400

TIMEOUT: Final = httpx2.Timeout(_SILENCE_S, connect=_CONNECT_S, pool=None)
HEADERS: Final = {"Accept-Encoding": "identity"}
"""A compressed stream arrives in lumps."""


def import_late_parts() -> None:
    """Import what the first request would."""
    for name in _IMPORTED_LATE:
        with suppress(ImportError):
            import_module(name)


def http_client() -> httpx2.AsyncClient:
    """What an SDK sends through.

    No redirect is followed: on the way to another host only some of the headers that hold keys would be dropped.
    """
    if getproxies().keys() - {"no"}:
        # Through a proxy the ordinary way, which is slower and knows about proxies.
        limits = httpx2.Limits(
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=_MAX_IDLE_CONNECTIONS,
            keepalive_expiry=_IDLE_S,
        )
        return httpx2.AsyncClient(limits=limits, follow_redirects=False)
    transport = FastTransport(
        max_connections=_MAX_CONNECTIONS, max_keepalive=_MAX_IDLE_CONNECTIONS, keepalive_s=_IDLE_S
    )
    return httpx2.AsyncClient(transport=transport, follow_redirects=False)


def refused(response: httpx2.Response, body: object, address: Address) -> RunError:
    """The error for an answer with a status of 300 or more. ``body`` is what the SDK made of it."""
    if response.status_code < _NOT_REDIRECT:
        named = address.url_name or "the address"
        to = spoken(response.headers.get("location", "nowhere"), secret=address.key)
        return ProviderError(
            f"{address.server} answered {response.status_code}, a redirect to {to}, which is not followed: "
            f"the key is for {address.server}. Set {named} to where the server is"
        )
    if isinstance(body, dict):
        fields = cast("dict[str, Any]", body)
        body = fields.get("error", fields)
    return reported_error(
        body or response.text,
        server=address.server,
        status=response.status_code,
        retry_after_ms=retry_after_ms(response.headers),
        secret=address.key,
        key_name=address.key_name,
    )


def unreachable(exc: Exception, address: Address) -> ProviderUnreachable:
    """The error for a request that found nobody."""
    # The SDKs say "Connection error."; what they wrap says which.
    cause = exc if isinstance(exc, httpx2.TransportError) else exc.__cause__ or exc
    why = spoken(str(cause) or type(cause).__name__, secret=address.key)
    return ProviderUnreachable(f"{address.server} cannot be reached: {why}")


async def open_body(stack: AsyncExitStack, response: httpx2.Response, address: Address, *, hint: str) -> "StreamBlocks":
    """The blocks of a streamed answer; the stack closes them.

    Raises:
        ProviderError: It is no stream. ``hint`` says how the address usually ends.
    """
    kind = response.headers.get("content-type", "").split(";")[0]
    if kind in {"text/html", "application/json"}:
        named = f" (is {address.url_name} right? {hint})" if address.url_name else ""
        raise ProviderError(f"{address.server} answered with {kind} and not with a stream{named}")
    content = await stack.enter_async_context(aclosing(StreamedBody(response, idle_s=_SILENCE_S)))
    return StreamBlocks(content, address.server)


class StreamBlocks:
    """The blocks of one answer."""

    def __init__(self, body: StreamedBody, server: str) -> None:
        self._body = body
        self._server = server

    async def next(self) -> bytes | None:
        """The next block, None at the end.

        Raises:
            ProviderUnreachable: The connection is lost, and the rest of the answer with it.
        """
        try:
            return await self._body.next()
        except httpx2.TransportError as exc:
            raise ProviderUnreachable(f"the connection to {self._server} was lost: {exc}") from None
