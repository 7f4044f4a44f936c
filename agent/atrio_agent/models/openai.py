"""OpenAI's models, and every server that speaks OpenAI's API (``OPENAI_BASE_URL``).

OpenAI's own models that reason are asked for responses, because only there they
reason and use tools at once; all others, and all other servers, are asked for
chat completions, as is a server that turns out to know no responses.

A model here is a name and a connection; the connection is shared by all of
them. Nothing is retried here, and a stream that fails says whether it may be.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from atrio_agent.models import openai_messages, responses_messages
from atrio_agent.models.answer import AnswerReader, Blocks, read_answer
from atrio_agent.models.base import ModelEvent, ModelRequest
from atrio_agent.models.catalog import takes_images_by_name, wants_responses
from atrio_agent.models.connection import Address, Connection, EndpointMissing
from atrio_agent.models.openai_stream import ChunkReader
from atrio_agent.models.recall import Recall
from atrio_agent.models.responses_stream import ResponseReader
from atrio_protocol.errors import ProviderError

if TYPE_CHECKING:
    from atrio_agent.models.openai_client import OpenAIClient

__all__ = ["OPENAI_URL", "OpenAIConnection", "OpenAIModel"]

OPENAI_URL: Final = "https://api.openai.com/v1"


class OpenAIConnection(Connection["OpenAIClient"]):
    """A server that speaks OpenAI's API. Whoever makes it closes it."""

    def __init__(self, address: Address, *, responses: bool | None = None) -> None:
        super().__init__(address, "atrio_agent.models.openai_client:OpenAIClient")
        self.responses = address.base_url.rstrip("/") == OPENAI_URL if responses is None else responses
        """Whether it is asked for responses where a model wants that."""
        self.recall = Recall()


class OpenAIModel:
    """One model of a server. ``name`` is the server's own name for it."""

    def __init__(
        self,
        name: str,
        connection: OpenAIConnection,
        *,
        context_size: int | None = None,
        provider: str = "openai",
        takes_images: bool | None = None,
    ) -> None:
        """``takes_images``: whether the server says so; None for what its name tells."""
        self.model_id = f"{provider}/{name}"
        self.provider = provider
        self.context_size = context_size
        self.takes_images = takes_images_by_name(name) if takes_images is None else takes_images
        self._name = name
        self._connection = connection

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        return self._stream(request)

    @asynccontextmanager
    async def _stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelEvent]]:
        client = await self._connection.client()
        async with AsyncExitStack() as stack:
            blocks, reader = await self._ask(stack, client, request)
            yield await stack.enter_async_context(aclosing(read_answer(blocks, reader, self._connection.server)))

    async def _ask(
        self, stack: AsyncExitStack, client: "OpenAIClient", request: ModelRequest
    ) -> tuple[Blocks, AnswerReader]:
        connection = self._connection
        if connection.responses and wants_responses(self._name):
            try:
                return await self._ask_response(stack, client, request)
            except EndpointMissing:
                connection.responses = False
        blocks = await stack.enter_async_context(client.ask(self._name, openai_messages.request_body(request)))
        return blocks, ChunkReader(connection.server)

    async def _ask_response(
        self, stack: AsyncExitStack, client: "OpenAIClient", request: ModelRequest
    ) -> tuple[Blocks, AnswerReader]:
        recall = self._connection.recall
        asked = responses_messages.request_body(request, self._name, recall)
        try:
            blocks = await stack.enter_async_context(client.ask_response(asked.body))
        except ProviderError as exc:
            if exc.retryable or not asked.recalls:
                raise
            # It may be what was recalled that is refused, and would be for ever.
            recall.clear()
            asked = responses_messages.request_body(request, self._name, recall)
            blocks = await stack.enter_async_context(client.ask_response(asked.body))
        return blocks, ResponseReader(self._connection.server, keep=partial(recall.keep, asked.key))
