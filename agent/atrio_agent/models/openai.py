"""OpenAI's chat completions, and every server that speaks them (``OPENAI_BASE_URL``).

A model here is a name and a connection; the connection is shared by all of
them. Nothing is retried here, and a stream that fails says whether it may be.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Final

from atrio_agent.models.answer import read_answer
from atrio_agent.models.base import ModelEvent, ModelRequest
from atrio_agent.models.connection import Address, Connection
from atrio_agent.models.openai_messages import request_body
from atrio_agent.models.openai_stream import ChunkReader

if TYPE_CHECKING:
    from atrio_agent.models.openai_client import OpenAIClient  # noqa: F401 - named in a string, as it may not be imported here

__all__ = ["OPENAI_URL", "OpenAIConnection", "OpenAIModel"]

OPENAI_URL: Final = "https://api.openai.com/v1"


class OpenAIConnection(Connection["OpenAIClient"]):
    """A server that speaks OpenAI's API. Whoever makes it closes it."""

    def __init__(self, address: Address) -> None:
        super().__init__(address, "atrio_agent.models.openai_client:OpenAIClient")


class OpenAIModel:
    """One model of a server. ``name`` is the server's own name for it."""

    def __init__(
        self, name: str, connection: OpenAIConnection, *, context_size: int | None = None, provider: str = "openai"
    ) -> None:
        self.model_id = f"{provider}/{name}"
        self.provider = provider
        self.context_size = context_size
        self._name = name
        self._connection = connection

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        return self._stream(request)

    @asynccontextmanager
    async def _stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelEvent]]:
        client = await self._connection.client()
        server = self._connection.server
        async with (
            client.ask(self._name, request_body(request)) as blocks,
            aclosing(read_answer(blocks, ChunkReader(server), server)) as events,
        ):
            yield events
