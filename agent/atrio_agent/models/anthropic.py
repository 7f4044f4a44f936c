"""Anthropic's messages, and every server that speaks them (``ANTHROPIC_BASE_URL``).

Claude 4.6 and later decide themselves how much they think, and are told to show
it; older ones run without thinking. What a model thought is signed, and goes
back with the results of its tools as it came (`atrio_agent.models.recall`).
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from atrio_agent.models.answer import read_answer
from atrio_agent.models.anthropic_messages import request_body
from atrio_agent.models.anthropic_stream import MessageReader
from atrio_agent.models.base import ModelEvent, ModelRequest
from atrio_agent.models.catalog import takes_images_by_name
from atrio_agent.models.connection import Address, Connection
from atrio_agent.models.recall import Recall
from atrio_protocol.errors import ProviderError

if TYPE_CHECKING:
    from atrio_agent.models.anthropic_client import AnthropicClient  # noqa: F401 - named in a string, as it may not be imported here

__all__ = ["ANTHROPIC_URL", "AnthropicConnection", "AnthropicModel"]

ANTHROPIC_URL: Final = "https://api.anthropic.com"


class AnthropicConnection(Connection["AnthropicClient"]):
    """A server that speaks Anthropic's API. Whoever makes it closes it."""

    def __init__(self, address: Address) -> None:
        super().__init__(address, "atrio_agent.models.anthropic_client:AnthropicClient")
        self.recall = Recall()


class AnthropicModel:
    """One model of a server. ``name`` is the server's own name for it."""

    provider = "anthropic"

    def __init__(self, name: str, connection: AnthropicConnection, *, context_size: int | None = None) -> None:
        self.model_id = f"anthropic/{name}"
        self.context_size = context_size
        self.takes_images = takes_images_by_name(name)
        self._name = name
        self._connection = connection

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        return self._stream(request)

    @asynccontextmanager
    async def _stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelEvent]]:
        client = await self._connection.client()
        server, recall = self._connection.server, self._connection.recall
        async with AsyncExitStack() as stack:
            asked = request_body(request, self._name, recall)
            try:
                blocks = await stack.enter_async_context(client.ask(asked.body))
            except ProviderError as exc:
                if exc.retryable or not asked.recalls:
                    raise
                # It may be what was recalled that is refused, and would be for ever.
                recall.clear()
                asked = request_body(request, self._name, recall)
                blocks = await stack.enter_async_context(client.ask(asked.body))
            reader = MessageReader(server, keep=partial(recall.keep, asked.key))
            yield await stack.enter_async_context(aclosing(read_answer(blocks, reader, server)))
