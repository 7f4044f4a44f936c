"""OpenAI's chat completions, and every server that speaks them (``OPENAI_BASE_URL``).

A model here is a name and a connection; the connection is shared by all of
them. The SDK is imported when it is first needed, in a thread, because that
takes longer than an event loop may stand still.

Nothing is retried here, and a stream that fails says whether it may be.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import trio

from atrio_agent.models.base import ModelEvent, ModelRequest
from atrio_agent.models.openai_messages import request_body
from atrio_agent.models.openai_stream import ChunkReader
from atrio_agent.models.sse import LineTooLong, SseReader
from atrio_protocol.errors import ProviderError, ProviderUnreachable, RunError

if TYPE_CHECKING:
    from atrio_agent.models.openai_client import Blocks, OpenAIClient

__all__ = ["OPENAI_URL", "OpenAIConnection", "OpenAIModel", "open_openai"]

OPENAI_URL: Final = "https://api.openai.com/v1"

_EVENTS_A_CHECKPOINT: Final = 16
_CLOSE_S: Final = 2
_LAST_CHUNK_S: Final = 0.5


class OpenAIConnection:
    """One address and key. Made by `open_openai`; the client comes with the first request."""

    def __init__(self, base_url: str, key: str) -> None:
        self.base_url = base_url
        # Not the whole address: it may hold a password.
        self.server = urlsplit(base_url).netloc.rpartition("@")[2]
        self._key = key
        self._client: OpenAIClient | None = None
        self._making = trio.CapacityLimiter(1)

    async def client(self) -> "OpenAIClient":
        """The client, made now if it is the first time it is asked for."""
        if self._client is None:
            # Many may come here at once: they queue for the one thread, and all but the first find it done.
            # A cancelled one leaves the thread to finish the import for the next.
            client = await trio.to_thread.run_sync(self._make, abandon_on_cancel=True, limiter=self._making)
            if self._client is None:
                self._client = client
        return self._client

    def _make(self) -> "OpenAIClient":
        if self._client is not None:
            return self._client
        module = import_module("atrio_agent.models.openai_client")
        client: OpenAIClient = module.OpenAIClient(base_url=self.base_url, key=self._key, server=self.server)
        return client

    async def aclose(self) -> None:
        """Close what is open. Takes at most 2 s, also when it is cancelled."""
        if self._client is not None:
            with trio.move_on_after(_CLOSE_S, shield=True):
                await self._client.aclose()


@asynccontextmanager
async def open_openai(base_url: str, key: str) -> AsyncGenerator[OpenAIConnection]:
    """Own a connection; no network is touched until a model is asked."""
    connection = OpenAIConnection(base_url, key)
    try:
        yield connection
    finally:
        await connection.aclose()


class OpenAIModel:
    """One model of a server. ``name`` is the server's own name for it."""

    provider = "openai"

    def __init__(self, name: str, connection: OpenAIConnection, *, context_size: int | None) -> None:
        self.model_id = f"openai/{name}"
        self.context_size = context_size
        self._name = name
        self._connection = connection

    def stream(self, request: ModelRequest) -> AbstractAsyncContextManager[AsyncIterator[ModelEvent]]:
        return self._stream(request)

    @asynccontextmanager
    async def _stream(self, request: ModelRequest) -> AsyncGenerator[AsyncIterator[ModelEvent]]:
        client = await self._connection.client()
        async with (
            client.ask(self._name, request_body(request)) as blocks,
            aclosing(_events(blocks, self._connection.server)) as events,
        ):
            yield events


async def _events(blocks: "Blocks", server: str) -> AsyncGenerator[ModelEvent]:
    sse, reader = SseReader(), ChunkReader(server)
    count = 0
    failure: RunError | None = None
    while failure is None and not reader.done:
        out: list[ModelEvent] = []
        try:
            block = await blocks.next()
            payloads = sse.end() if block is None else sse.feed(block)
            for payload in payloads:
                reader.read(payload, out)
            if block is None:
                break
        except LineTooLong as exc:
            failure = ProviderError(f"{server} sent {exc}")
        except RunError as exc:
            failure = exc
        # Also what came before a failure: it is what people saw, and is kept if the run ends here.
        for event in out:
            yield event
            count += 1
            if not count % _EVENTS_A_CHECKPOINT:
                await trio.lowlevel.checkpoint()
    if failure is not None and not (isinstance(failure, ProviderUnreachable) and reader.finished):
        raise failure
    for event in reader.end():
        yield event
    if reader.done:
        # The body's own end frees the connection for the next request. A server that says that it
        # is done and then does not end, or breaks off, has given all that was asked for.
        with trio.move_on_after(_LAST_CHUNK_S), suppress(ProviderUnreachable):
            while await blocks.next() is not None:
                pass
