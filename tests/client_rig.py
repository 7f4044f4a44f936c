"""A client and a fake server, for the tests of the client: all in virtual time.

The server is `fake_server`, over memory streams: it can be told after which
frame to cut, whom to refuse and what to forget.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import trio

from atrio_protocol import methods as m
from atrio_protocol.content import TextBlock
from atrio_protocol.events import Event, MessageDelta, RunCompleted
from atrio_protocol.struct import given
from atrio_server.client import (
    Client,
    Detached,
    Resync,
    SessionStream,
    open_client,
)
from fake_server import FakeServer

__all__ = ["URL", "Brittle", "connected", "prompt", "read_until_end", "send_prompt", "text_of"]

URL = "ws://127.0.0.1:4317/v1/ws"


@asynccontextmanager
async def connected(server: FakeServer, **more: Any) -> AsyncGenerator[Client]:
    """A client of a fake server; the whole of it takes at most ten virtual minutes."""
    with trio.fail_after(600):
        async with (
            server.serving(),
            open_client(URL, "a-token", client_name="test", dial=server.dial, **more) as client,
        ):
            yield client


def prompt(run_id: str | None = "r1", text: str = "ping") -> m.PromptParams:
    return m.PromptParams(session_id="s1", prompt=(TextBlock(text=text),), run_id=run_id)


async def send_prompt(client: Client) -> None:
    await client.call("session/prompt", prompt())


async def read_until_end(events: SessionStream, run_id: str = "r1") -> list[Event | Resync[m.SessionSnapshot]]:
    """Everything up to the run's end, checked for gaps and repeats as it comes."""
    seen: list[Event | Resync[m.SessionSnapshot]] = []
    position = events.position
    async for item in events:
        assert not isinstance(item, Detached)
        if isinstance(item, Event):
            assert position is not None
            assert given(item.first_seq, item.seq) == position.seq + 1
        position = events.position
        assert position is not None
        seen.append(item)
        if isinstance(item, RunCompleted) and item.run.run_id == run_id:
            return seen
        if isinstance(item, Resync) and any(r.run_id == run_id and r.state == "completed" for r in item.snapshot.runs):
            return seen
    raise AssertionError("the stream ended before the run")


def text_of(seen: list[Event | Resync[m.SessionSnapshot]]) -> str:
    return "".join(item.text for item in seen if isinstance(item, MessageDelta))


class Brittle(trio.abc.Stream):
    """Breaks after so many bytes, counted both ways."""

    def __init__(self, stream: trio.abc.Stream, bytes_left: int) -> None:
        self._stream = stream
        self._bytes_left = bytes_left

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(bytes(data)[: max(self._bytes_left, 0)])
        await self._wear(len(data))

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._bytes_left < 0:
            raise trio.BrokenResourceError
        data = await self._stream.receive_some(max_bytes)
        before = bytes(data)[: max(self._bytes_left, 0)]
        try:
            await self._wear(len(data))
        except trio.BrokenResourceError:
            if not before:
                raise
        return before

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def _wear(self, used: int) -> None:
        self._bytes_left -= used
        if self._bytes_left < 0:
            await trio.aclose_forcefully(self._stream)
            raise trio.BrokenResourceError
