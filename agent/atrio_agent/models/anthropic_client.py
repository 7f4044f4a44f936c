"""The one place that touches Anthropic's SDK.

Its exceptions end here, as errors of the contract. Importing this module
imports the SDK (1.7 s) and making a client loads certificates, so both happen
in a thread (`atrio_agent.models.connection`).
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import anthropic
import httpx2

from atrio_agent.models.connection import Address
from atrio_agent.models.provider_errors import spoken
from atrio_agent.models.sdk import (
    HEADERS,
    TIMEOUT,
    StreamBlocks,
    http_client,
    import_late_parts,
    open_body,
    refused,
    unreachable,
)
from atrio_protocol.errors import ProviderError

__all__ = ["AnthropicClient"]

_HINT: Final = "it usually does not end in /v1"


class AnthropicClient:
    """A client for one address and key, shared by all runs. Whoever makes it closes it."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._sdk = anthropic.AsyncAnthropic(
            # Given in any case: without one the SDK would look for others in the environment and in files.
            api_key=address.key or "no-key",
            base_url=address.base_url,
            max_retries=0,
            timeout=TIMEOUT,
            default_headers=HEADERS,
            http_client=http_client(),
        )
        self._messages = self._sdk.messages.with_streaming_response
        import_late_parts()

    async def aclose(self) -> None:
        """Close the connections. Does not wait for any server."""
        await self._sdk.close()

    @asynccontextmanager
    async def ask(self, body: dict[str, Any]) -> AsyncGenerator[StreamBlocks]:
        """Send one request and yield the streamed answer.

        Leaving the context closes the connection unless the answer was read to its end.

        Raises:
            RunError: The server cannot be reached or refuses.
        """
        # The large part of the body goes past the SDK's checks, which walk through every value of it.
        sending = self._messages.create(
            model=body["model"], max_tokens=body["max_tokens"], messages=[], stream=True, extra_body=body
        )
        async with AsyncExitStack() as stack:
            try:
                response = (await stack.enter_async_context(sending)).http_response
            except anthropic.APIStatusError as exc:
                raise refused(exc.response, exc.body, self._address) from None
            except (anthropic.APIConnectionError, httpx2.TransportError) as exc:
                raise unreachable(exc, self._address) from None
            except anthropic.AnthropicError as exc:
                raise ProviderError(f"{self._address.server}: {spoken(str(exc), secret=self._address.key)}") from None
            yield await open_body(stack, response, self._address, hint=_HINT)
