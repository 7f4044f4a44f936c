"""The one place that touches OpenAI's SDK.

Its exceptions end here, as errors of the contract. Importing this module
imports the SDK (about 0.7 s) and making a client loads certificates, so both
happen in a thread (`atrio_agent.models.connection`).
"""

from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Final

import httpx2
import openai

from atrio_agent.models.connection import Address, EndpointMissing
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

__all__ = ["OpenAIClient"]

_HINT: Final = "it usually ends in /v1"


class OpenAIClient:
    """A client for one address and key, shared by all runs. Whoever makes it closes it.

    Made in a thread: with the first look at ``chat`` the SDK imports what is
    behind it, and the rest of what a first request imports is imported here too.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        # The SDK refuses to work without a key; a local server does not look at it.
        self._sdk = openai.AsyncOpenAI(
            api_key=address.key or "no-key",
            base_url=address.base_url,
            max_retries=0,
            timeout=TIMEOUT,
            default_headers=HEADERS,
            http_client=http_client(),
        )
        self._completions = self._sdk.chat.completions.with_streaming_response
        self._responses = self._sdk.responses.with_streaming_response
        import_late_parts()
        self._effortless: set[str] = set()
        """Models that take tools here only if they are told not to reason."""
        self._summaries = True
        """Whether this key may see summaries of what models reason."""

    async def aclose(self) -> None:
        """Close the connections. Does not wait for any server."""
        await self._sdk.close()

    @asynccontextmanager
    async def ask(self, model: str, body: dict[str, Any]) -> AsyncGenerator[StreamBlocks]:
        """Ask for a chat completion and yield the streamed answer.

        Leaving the context closes the connection unless the answer was read to its end.

        Raises:
            RunError: The server cannot be reached or refuses.
        """
        async with AsyncExitStack() as stack:
            with self._translated():
                response = await self._send(stack, model, body)
            yield await open_body(stack, response, self._address, hint=_HINT)

    @asynccontextmanager
    async def ask_response(self, body: dict[str, Any]) -> AsyncGenerator[StreamBlocks]:
        """Ask for a response and yield the streamed answer; else as `ask`.

        Raises:
            EndpointMissing: The server knows no responses.
            RunError: The server cannot be reached or refuses.
        """
        async with AsyncExitStack() as stack:
            with self._translated():
                response = await self._send_response(stack, body)
            yield await open_body(stack, response, self._address, hint=_HINT)

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except openai.APIStatusError as exc:
            raise refused(exc.response, exc.body, self._address) from None
        except (openai.APIConnectionError, httpx2.TransportError) as exc:
            raise unreachable(exc, self._address) from None
        except openai.OpenAIError as exc:
            raise ProviderError(f"{self._address.server}: {spoken(str(exc), secret=self._address.key)}") from None

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

    async def _send_response(self, stack: AsyncExitStack, body: dict[str, Any]) -> httpx2.Response:
        if not self._summaries and "summary" in body.get("reasoning", {}):
            body = {key: value for key, value in body.items() if key != "reasoning"}
        try:
            sending = self._responses.create(stream=True, extra_body=body)
            return (await stack.enter_async_context(sending)).http_response
        except openai.BadRequestError as exc:
            # Summaries of what a model reasons are for verified organizations.
            if exc.param != "reasoning.summary" or not self._summaries:
                raise
            self._summaries = False
            return await self._send_response(stack, body)
        except openai.APIStatusError as exc:
            if exc.status_code not in {404, 405} or exc.code == "model_not_found":
                raise
            raise EndpointMissing(self._address.server) from None
