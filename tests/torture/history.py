"""What happened, as it was seen from outside: a list of plain entries, in the order in which they happened.

Whoever does something to a server, or hears from it, notes it here; the checker
reads the list when all is over and knows nothing else. An entry is a JSON
object: ``what`` it is, ``at`` when (seconds of the wall clock, which the server
on the same machine shares), and the rest by its kind:

    start     server, pid                   server number 0, 1, … of the same state directory is ready
    signal    server, name                  about to be sent: SIGKILL or SIGTERM
    ended     server, code                  its process is gone; below 0, the signal that ended it
    open      conn, server, client, reads   a connection, and whether its client always reads
    send      conn, id, method, params      a request is about to be written; without an id, a notification
    reply     conn, id, result or error     its answer has come
    events    conn, of, thing, epoch, events    a frame of events, of a session or a workspace
    detached  conn, of, thing, reason
    closed    conn, code                    the connection is over, on whichever side
    stall     s                             the machine, or its disk, stood still for so long until now

A request over HTTP is a connection of its own with one request. Nothing here
judges; nothing is left out or made up.
"""

import json
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

__all__ = ["History"]

Entry = dict[str, Any]

PROBE_S = 0.01
"""How often the machine is asked whether it stands still."""

STALL_S = 0.02
"""Later than this is a stall."""

DISK_PROBE_S = 0.05
SLOW_DISK_S = 0.05
"""The same for the disk, and for a byte that is written through to it."""


class History:
    """The entries, oldest first. ``seed`` is told with whatever goes wrong."""

    def __init__(self, seed: object = "") -> None:
        self.seed = seed
        self.entries: list[Entry] = []
        self._conns = 0

    def note(self, what: str, **more: Any) -> None:
        """Write an entry."""
        self.entries.append({"what": what, "at": time.time(), **more})

    def conn(self, name: str) -> str:
        """A name for a new connection."""
        self._conns += 1
        return f"{name}-{self._conns}"

    async def watch_stalls(self, directory: Path) -> None:
        """Note when the machine stands still, or the disk that this directory is on. Runs as a task until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_disk, directory / "disk-probe")
            while True:
                before = time.monotonic()
                await trio.sleep(PROBE_S)
                late_s = time.monotonic() - before - PROBE_S
                if late_s > STALL_S:
                    self.note("stall", s=round(late_s, 3))

    async def _watch_disk(self, path: Path) -> None:
        limiter = trio.CapacityLimiter(1)
        while True:
            place, before = len(self.entries), time.monotonic()
            await trio.to_thread.run_sync(_write_through, path, limiter=limiter)
            noted_s = sum(entry["s"] for entry in self.entries[place:] if entry["what"] == "stall")
            late_s = time.monotonic() - before - noted_s
            if late_s > SLOW_DISK_S:
                self.note("stall", s=round(late_s, 3))
            await trio.sleep(DISK_PROBE_S)

    def save(self, path: Path) -> None:
        """Write it into a file, an entry a line."""
        path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.entries))

    @classmethod
    def load(cls, path: Path) -> "History":
        """Read what was saved, to look at it again."""
        history = cls(path)
        history.entries = [json.loads(line) for line in path.read_text().splitlines()]
        return history

    @contextmanager
    def kept(self, path: Path) -> Generator[None]:
        """If the block fails, keep the history in a file and say in which."""
        try:
            yield
        except BaseException as exc:
            self.save(path)
            exc.add_note(f"seed {self.seed}; the history of {len(self.entries)} entries is in {path}")
            raise


def _write_through(path: Path) -> None:
    """Make a file a byte longer, on the disk itself: what a commit waits for."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, b"x")
        os.fdatasync(file)
    finally:
        os.close(file)
