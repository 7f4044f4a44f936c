"""The one place that touches OpenAI's SDK.

The SDK builds the request, signs it, sends it and turns statuses into its
exceptions; it neither retries (the run's loop does) nor reads the stream. Its
exceptions end here, as errors of the contract.

Importing this module imports the SDK (about 0.7 s) and making a client loads
certificates, so both happen in a thread (`atrio_agent.models.openai`).
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from importlib import import_module
from typing import Any, Final
from urllib.request import getproxies

import httpx2
import openai

from atrio_agent.models.openai_errors import reported_error, retry_after_ms, spoken
from atrio_agent.models.transport import FastTransport, StreamedBody
from atrio_protocol.errors import ProviderError, ProviderUnreachable, RunError

__all__ = ["Blocks", "OpenAIClient"]

_CONNECT_S: Final = 10
_SILENCE_S: Final = 120
_MAX_CONNECTIONS: Final = 512
"""More streams than this wait for a connection: a process has about 1,000 files to open."""
_MAX_IDLE_CONNECTIONS: Final = 128
_IDLE_S: Final = 30
_IMPORTED_LATE: Final = ("anyio._backends._trio", "encodings.idna")
"""What the SDK and its libraries would import within the first request, while the event loop waits."""


class OpenAIClient:
    """A client for one address and key, shared by all runs. Whoever makes it closes it.

    Made in a thread: with the first look at ``chat`` the SDK imports what is
    behind it, and the rest of what a first request imports is imported here too.
    """

    def __init__(self, *, base_url: str, key: str, server: str) -> None:
        self._server = server
        self._key = key
        # The SDK refuses to work without a key; a local server does not look at it.
        self._sdk = openai.AsyncOpenAI(
            api_key=key or "no-key",
            base_url=base_url,
            max_retries=0,
            timeout=httpx2.Timeout(_SILENCE_S, connect=_CONNECT_S, pool=None),
            # A compressed stream arrives in lumps.
            default_headers={"Accept-Encoding": "identity"},
            http_client=_http_client(),
        )
        self._completions = self._sdk.chat.completions.with_streaming_response
        for name in _IMPORTED_LATE:
            with suppress(ImportError):
                import_module(name)
        self._effortless: set[str] = set()
        """Models that take tools here only if they are told not to reason."""

    async def aclose(self) -> None:
        """Close the connections. Does not wait for any server."""
        await self._sdk.close()

    @asynccontextmanager
    async def ask(self, model: str, body: dict[str, Any]) -> AsyncGenerator["Blocks"]:
        """Send one request and yield the streamed answer.

        Leaving the context closes the connection unless the answer was read to its end.

        Raises:
            RunError: The server cannot be reached or refuses.
        """
        async with AsyncExitStack() as stack:
            try:
                response = await self._send(stack, model, body)
            except openai.APIStatusError as exc:
                raise self._refused(exc) from None
            except (openai.APIConnectionError, httpx2.TransportError) as exc:
                raise ProviderUnreachable(f"{self._server} cannot be reached: {self._reason(exc)}") from None
            except openai.OpenAIError as exc:
                raise ProviderError(f"{self._server}: {self._reason(exc)}") from None
            kind = response.headers.get("content-type", "").split(";")[0]
            if kind in {"text/html", "application/json"}:
                raise ProviderError(
                    f"{self._server} answered with {kind} and not with a stream"
                    " (is OPENAI_BASE_URL right? it usually ends in /v1)"
                )
            content = await stack.enter_async_context(aclosing(StreamedBody(response, idle_s=_SILENCE_S)))
            yield Blocks(content, self._server)

    async def _send(self, stack: AsyncExitStack, model: str, body: dict[str, Any]) -> httpx2.Response:
        if model in self._effortless and "tools" in body:
            body = body | {"reasoning_effort": "none"}
        # The large part of the body goes past the SDK's checks, which walk through every value of it.
        sending = self._completions.create(
            model=model, messages=[], stream=True, stream_options={"include_usage": True}, extra_body=body
        )
        try:
            response = await stack.enter_async_context(sending)
        except openai.BadRequestError as exc:
            # OpenAI's newer models refuse tools on this endpoint unless reasoning is off, and say so like this.
            if exc.param != "reasoning_effort" or "tools" not in body or model in self._effortless:
                raise
            self._effortless.add(model)
            return await self._send(stack, model, body)
        return response.http_response

    def _refused(self, exc: openai.APIStatusError) -> RunError:
        return reported_error(
            exc.body or exc.response.text,
            server=self._server,
            status=exc.status_code,
            retry_after_ms=retry_after_ms(exc.response.headers),
            secret=self._key,
        )

    def _reason(self, exc: Exception) -> str:
        # The SDK says "Connection error."; what it wraps says which.
        cause = exc.__cause__ if isinstance(exc, openai.APIConnectionError) and exc.__cause__ else exc
        return spoken(str(cause) or type(cause).__name__, secret=self._key)


class Blocks:
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


def _http_client() -> httpx2.AsyncClient:
    if getproxies().keys() - {"no"}:
        # Through a proxy the ordinary way, which is slower and knows about proxies.
        limits = httpx2.Limits(
            max_connections=_MAX_CONNECTIONS,
            max_keepalive_connections=_MAX_IDLE_CONNECTIONS,
            keepalive_expiry=_IDLE_S,
        )
        return httpx2.AsyncClient(limits=limits, follow_redirects=True)
    transport = FastTransport(
        max_connections=_MAX_CONNECTIONS, max_keepalive=_MAX_IDLE_CONNECTIONS, keepalive_s=_IDLE_S
    )
    return httpx2.AsyncClient(transport=transport, follow_redirects=True)
