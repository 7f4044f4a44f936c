"""The process of an MCP server that is talked to through its standard input and output.

It runs in a session of its own, with an environment from an allow-list and what
is configured. When `open_process` is left, it and everything that it started are
ended: TERM, a second, KILL, waited for. What is sent to it waits in a bounded
queue, so that a server that does not read holds up nobody.

A line here is bytes. What it means, and what to do about one that is too long,
is for others.
"""

import secrets
import subprocess
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, cast

import trio

from atrio_agent.lifetime import CLOSE_S
from atrio_agent.mcp.server import McpServer
from atrio_agent.tools.leftovers import owned
from atrio_agent.tools.orphans import Kin
from atrio_agent.tools.process import child_environment

__all__ = ["MAX_LINE_BYTES", "LongLine", "ServerProcess", "open_process"]

MAX_LINE_BYTES: Final = 4 * 1024 * 1024
"""The longest line that is kept."""

_GIVE_UP_BYTES: Final = 512 * 1024 * 1024
"""A line that has not ended by now never will."""

_MAX_QUEUED_BYTES: Final = 8 * 1024 * 1024
_READ_BYTES: Final = 64 * 1024
_EDGE_BYTES: Final = 1024
_LAST_WORDS_BYTES: Final = 4096
_DRAIN_S: Final = 0.5
"""How long the output of a server that has ended may still come: what it started may hold the pipe open."""

_SETTLE_S: Final = 0.2
_LEAST_S: Final = 0.1
"""What it gets even if the time is over: the server has been killed by then and only needs to be reaped."""


class LongLine(NamedTuple):
    """A line over the limit: how it begins and ends, and how long it was."""

    head: bytes
    tail: bytes
    size: int


class ServerProcess:
    """A server that runs. Made by `open_process`, not by hand."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._news = trio.Event()
        self._buffer = bytearray()
        self._searched = 0
        self._stderr = bytearray()
        self._fault: str | None = None

    @property
    def said(self) -> str:
        """The end of what it wrote to stderr."""
        return self._stderr[-_LAST_WORDS_BYTES:].decode("utf-8", "replace").strip()

    @property
    def why(self) -> str:
        """Why nothing comes from it any more, as far as it is known."""
        if self._fault is not None:
            return self._fault
        code = self._process.returncode
        if code is None:
            return "it closed its output"
        return f"it was ended by signal {-code}" if code < 0 else f"it ended with exit status {code}"

    def send_soon(self, line: bytes) -> None:
        """Queue a line for it. One that has ended gets nothing, and one that reads nothing is given up."""
        if self._fault is not None:
            return
        if self._queued_bytes + len(line) > _MAX_QUEUED_BYTES:
            self.give_up("it does not read what it is sent")
            return
        self._queue.append(line)
        self._queued_bytes += len(line)
        self._news.set()

    def give_up(self, why: str) -> None:
        """Read nothing more from it. Does not wait; whoever opened it ends it."""
        self._fault = self._fault or why
        self._close_output()

    async def settle(self) -> None:
        """Wait a moment for the process to end, so that `why` can tell how it did."""
        with trio.move_on_after(_SETTLE_S):
            await self._process.wait()

    async def receive(self) -> bytes | LongLine | None:
        """The next line, without its end; None when there will be none."""
        await trio.lowlevel.checkpoint()
        while True:
            end = self._buffer.find(b"\n", self._searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                self._searched = 0
                return line
            self._searched = len(self._buffer)
            if self._searched > MAX_LINE_BYTES:
                return await self._pass_over()
            data = await self._read()
            if not data:
                return None
            self._buffer += data

    async def _pass_over(self) -> LongLine | None:
        """Read to the end of a line without keeping it."""
        head, tail, size = bytes(self._buffer[:_EDGE_BYTES]), bytes(self._buffer[-_EDGE_BYTES:]), len(self._buffer)
        self._buffer.clear()
        self._searched = 0
        while size <= _GIVE_UP_BYTES:
            data = await self._read()
            if not data:
                return None
            piece, end, rest = data.partition(b"\n")
            tail = (tail + piece)[-_EDGE_BYTES:]
            size += len(piece)
            if end:
                self._buffer += rest
                return LongLine(head, tail, size)
        self.give_up("it wrote a line without an end")
        return None

    async def _read(self) -> bytes:
        assert self._process.stdout is not None
        try:
            return bytes(await self._process.stdout.receive_some(_READ_BYTES))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            return b""

    async def write(self) -> None:
        """Write what is queued, until cancelled or nobody reads. Raises nothing but a cancellation."""
        assert self._process.stdin is not None
        try:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                while self._queue:
                    line = self._queue.popleft()
                    await self._process.stdin.send_all(line)
                    self._queued_bytes -= len(line)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            if self._process.returncode is None:
                self.give_up("it closed its input")

    async def listen(self) -> None:
        """Keep the end of what it writes to stderr, until cancelled or it is closed."""
        assert self._process.stderr is not None
        with suppress(trio.ClosedResourceError, trio.BrokenResourceError):
            while data := await self._process.stderr.receive_some(_READ_BYTES):
                self._stderr += data
                del self._stderr[:-_LAST_WORDS_BYTES]

    async def watch(self) -> None:
        """Close the output soon after the process has ended, whoever else holds it open."""
        await self._process.wait()
        await trio.sleep(_DRAIN_S)
        self._close_output()

    def _close_output(self) -> None:
        if self._process.stdout is not None:
            # What waits in `receive` wakes with an error, which it takes for the end.
            cast("trio.lowlevel.FdStream", self._process.stdout).close()


@asynccontextmanager
async def open_process(
    server: McpServer, root: Path, *, life: str = "", ends_by: Callable[[], float | None] = lambda: None
) -> AsyncGenerator[ServerProcess]:
    """Start a server, and end it and everything it started on the way out.

    Args:
        server: What to start; it has a command.
        root: The workspace's directory.
        life: Whose it is, for `leftovers` to find; "" for nobody's.
        ends_by: Asked when the end begins: until when ending may take, in Trio's
            time. Five seconds from then, if it says None.

    Raises:
        OSError: It could not be started. There is no process.
    """
    assert server.command is not None
    environment = child_environment("") | dict(server.env) | owned(life)
    name, value = "ATRIO_MCP", secrets.token_hex(16)
    process = await trio.lowlevel.open_process(
        [server.command, *server.args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=root / (server.cwd or "."),
        env=environment | {name: value},
        start_new_session=True,
    )
    # A thread of its own: a disk that hangs must not keep processes from being ended.
    kin = Kin(process.pid, f"{name}={value}", trio.CapacityLimiter(1))
    running = ServerProcess(process)
    async with trio.open_nursery() as nursery:
        try:
            for task in (running.write, running.listen, running.watch):
                nursery.start_soon(task)
            yield running
        finally:
            by = ends_by() or trio.current_time() + CLOSE_S
            with trio.CancelScope(deadline=max(by, trio.current_time()) + _LEAST_S, shield=True):
                await kin.end(by)
            with trio.move_on_after(_LEAST_S, shield=True):
                await process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with trio.move_on_after(_LEAST_S, shield=True):
                        await stream.aclose()
            nursery.cancel_scope.cancel()
