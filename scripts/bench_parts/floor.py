"""The floor: what Trio on this machine gives a server that does nothing.

A line server on loopback. ``echo`` is answered with itself; ``commit`` is
answered after one row is committed to SQLite in a worker thread; ``join``
makes the connection a reader; ``tell N`` sends N lines of 200 bytes to every
reader, each by itself, then answers; ``pour N`` sends the same lines in slices
of 64 KiB. No framing, no JSON, no state: nothing that Atrio could do without.
"""

import json
import sqlite3
import sys
import tempfile
from pathlib import Path

import trio

__all__: list[str] = []

_LINE = b"x" * 199 + b"\n"
_SLICE = _LINE * (65536 // len(_LINE))


class Floor:
    """The line server."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._readers: list[trio.SocketStream] = []
        self._threads = trio.CapacityLimiter(1)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer the lines of one connection."""
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        rest = b""
        async for data in stream:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                await self._answer(stream, line)

    async def _answer(self, stream: trio.SocketStream, line: bytes) -> None:
        word, *numbers = line.split()
        if word == b"join":
            self._readers.append(stream)
        elif word == b"commit":
            await trio.to_thread.run_sync(self._commit, line, limiter=self._threads)
        elif word == b"tell":
            for _ in range(int(numbers[0])):
                for reader in self._readers:
                    await reader.send_all(_LINE)
        elif word == b"pour":
            data = _LINE * int(numbers[0])
            async with trio.open_nursery() as nursery:
                for reader in self._readers:
                    nursery.start_soon(self._pour, reader, data)
        await stream.send_all(line + b"\n")

    async def _pour(self, reader: trio.SocketStream, data: bytes) -> None:
        for at in range(0, len(data), len(_SLICE)):
            await reader.send_all(data[at : at + len(_SLICE)])

    def _commit(self, line: bytes) -> None:
        self._database.execute("INSERT INTO lines VALUES (?)", (line,))


async def _main() -> None:
    with tempfile.TemporaryDirectory(prefix="atrio-floor-") as name:
        database = sqlite3.connect(Path(name) / "floor.db", isolation_level=None, check_same_thread=False)
        database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL")
        database.execute("CREATE TABLE lines (line BLOB) STRICT")
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, Floor(database).serve, listeners)
            print(json.dumps({"port": listeners[0].socket.getsockname()[1]}), flush=True)
            # Whoever started us closes our standard input when we may go.
            await trio.lowlevel.wait_readable(sys.stdin)
            nursery.cancel_scope.cancel()
        database.close()


if __name__ == "__main__":
    trio.run(_main)
