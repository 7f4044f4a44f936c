"""A streamed answer on its way: blocks of bytes in, model events out.

The same for every provider; what a payload means is its reader's business. It
gives other tasks their turn within a fast answer, and hands out what came
before a failure before it raises it.
"""

from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final, Protocol

import trio

from atrio_agent.models.base import ModelEvent
from atrio_agent.models.sse import LineTooLong, SseReader
from atrio_protocol.errors import ProviderError, ProviderUnreachable, RunError

__all__ = ["AnswerReader", "Blocks", "read_answer"]

_EVENTS_A_CHECKPOINT: Final = 16
_LAST_CHUNK_S: Final = 0.5
_MAX_LINE_BYTES: Final = 8 * 1024 * 1024
"""Of one event. The last one of a response repeats the whole answer, with what was reasoned encrypted."""


class Blocks(Protocol):
    """The blocks of one answer as they arrive."""

    async def next(self) -> bytes | None:
        """The next block, None at the end. Raises `ProviderUnreachable` when the rest is lost."""
        ...


class AnswerReader(Protocol):
    """What knows a provider's payloads. One per answer; it does no I/O."""

    done: bool
    """Whether the server said that nothing more comes."""

    @property
    def finished(self) -> bool:
        """Whether the model has said why it stops, so that losing the rest costs nothing."""
        ...

    def read(self, payload: bytes, out: list[ModelEvent]) -> None:
        """Append the events of one payload to ``out``. Raises `RunError`; ``out`` may have grown."""
        ...

    def end(self) -> list[ModelEvent]:
        """The last events, once nothing more comes. Raises `RunError` if the answer is not whole."""
        ...


async def read_answer(blocks: Blocks, reader: AnswerReader, server: str) -> AsyncGenerator[ModelEvent]:
    """Turn an answer into events, to its end.

    Raises:
        RunError: What was yielded before is all there was.
    """
    sse = SseReader(max_line_bytes=_MAX_LINE_BYTES)
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
