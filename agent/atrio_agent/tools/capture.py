"""What a command says, kept within bounds however much it is.

Bytes go in as they come, cut anywhere. Kept are the beginning and the end as
text; from the moment that this is not all, the whole goes into a file that the
agent can read. Who watches gets pieces a few times a second, never all of a
flood, and is told what was left out.

It does not read from the process and starts nothing. Invariant: no code point is
ever cut, and a disk that is full costs the file, never the command.
"""

import codecs
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from atrio_agent.tools.output import MAX_OUTPUT_CHARS

__all__ = ["MAX_FILE_BYTES", "Capture"]

MAX_FILE_BYTES: Final = 64 * 1024 * 1024
"""What is kept in the file. Of what comes after, the end is kept in memory."""

_LIVE_EVERY_S: Final = 0.05
_LIVE_AT_ONCE_CHARS: Final = 4 * 1024
_LIVE_BURST_CHARS: Final = 32 * 1024
"""What those who watch get at most within `_LIVE_EVERY_S`."""

_NOTE_CHARS: Final = 300
_ROOM_CHARS: Final = MAX_OUTPUT_CHARS - _NOTE_CHARS
"""What is shown of the output; the rest is room for what is said about it."""

_HEAD_CHARS: Final = _ROOM_CHARS // 2


class Capture:
    """The output of one command.

    Args:
        file: Where all of it goes once it is too long; made then, readable by its owner only.
        live: Takes text while the command runs, and never blocks.
        threads: For writing the file.
    """

    def __init__(self, file: Path, live: Callable[[str], None], threads: trio.CapacityLimiter) -> None:
        self._file = file
        self._threads = threads
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._early: bytearray | None = bytearray()
        self._fd: int | None = None
        self._written_bytes = 0
        self._torn = False
        self._head = ""
        self._tail = ""
        self._total = 0
        self._looked = 0
        self._live = _Live(live)

    @property
    def is_cut(self) -> bool:
        """Whether `text` leaves something out."""
        return self._total > _ROOM_CHARS

    @property
    def live_due_at(self) -> float:
        """When `flush_live` is to be called if nothing comes before, in Trio's time."""
        return self._live.due_at

    def flush_live(self) -> None:
        """Pass on what has gathered for those who watch."""
        self._live.flush()

    async def take(self, data: bytes) -> None:
        """Take what the command said. Cancelled, it may be missing in the file, and nowhere else."""
        self._add(self._decoder.decode(data))
        if self._early is not None:
            self._early += data
            if len(self._early) <= _ROOM_CHARS:
                return
            # More bytes than fit need not be more characters than fit; a file too many does no harm.
            data, self._early = bytes(self._early), None
            self._fd = await trio.to_thread.run_sync(_make_file, self._file, limiter=self._threads)
        data = data[: MAX_FILE_BYTES - self._written_bytes]
        if self._fd is not None and data:
            # A disk that hangs must not hold a closing: the thread is left behind then, and the file with it.
            fd, self._fd = self._fd, None
            if await trio.to_thread.run_sync(_write, fd, data, limiter=self._threads, abandon_on_cancel=True):
                self._fd = fd
                self._written_bytes += len(data)
            else:
                self._torn = True

    def finish(self) -> None:
        """The command says no more: pass on the rest and close the file."""
        self._add(self._decoder.decode(b"", final=True))
        self._live.flush()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def remove_file(self) -> None:
        """Remove the file, if there is one. Blocks shortly."""
        if self._early is None:
            self._file.unlink(missing_ok=True)

    def text(self) -> str:
        """All of it, or head and tail with a line between them on what is missing and where it is."""
        if not self.is_cut:
            return self._tail
        tail = self._tail[-(_ROOM_CHARS - _HEAD_CHARS) :]
        left_out = self._total - _HEAD_CHARS - len(tail)
        return f"{self._head}\n[… {left_out:,} characters left out{self._where()} …]\n{tail}"

    def unseen(self) -> str:
        """What was said since this was last asked, or the end of it."""
        new = self._total - self._looked
        self._looked = self._total
        text = self._tail[-min(new, _ROOM_CHARS) :] if new else ""
        left_out = new - len(text)
        return f"[… {left_out:,} characters left out{self._where()} …]\n{text}" if left_out else text

    def _add(self, text: str) -> None:
        self._total += len(text)
        if len(self._head) < _HEAD_CHARS:
            self._head += text[: _HEAD_CHARS - len(self._head)]
        self._tail += text
        if len(self._tail) > 2 * _ROOM_CHARS:
            self._tail = self._tail[-_ROOM_CHARS:]
        self._live.add(text)

    def _where(self) -> str:
        if not self._written_bytes:
            return ""
        if self._written_bytes >= MAX_FILE_BYTES:
            return f"; the first {MAX_FILE_BYTES // 1024**2} MiB are in {self._file}"
        if self._torn:
            return f"; the first {self._written_bytes:,} bytes are in {self._file}, which could not be written further"
        return f"; all is in {self._file}"


class _Live:
    """Output for those who watch, in windows of time: each passes on some and counts the rest."""

    def __init__(self, give: Callable[[str], None]) -> None:
        self._give = give
        self._window_at = float("-inf")
        self._given_chars = 0
        self._waiting = ""
        self._dropped_chars = 0

    @property
    def due_at(self) -> float:
        return self._window_at + _LIVE_EVERY_S if self._waiting or self._dropped_chars else float("inf")

    def add(self, text: str) -> None:
        if not text:
            return
        now = trio.current_time()
        if now >= self._window_at + _LIVE_EVERY_S:
            self.flush()
            self._window_at, self._given_chars = now, 0
        room = max(0, _LIVE_BURST_CHARS - self._given_chars - len(self._waiting))
        self._waiting += text[:room]
        self._dropped_chars += max(0, len(text) - room)
        if self._given_chars == 0 or len(self._waiting) >= _LIVE_AT_ONCE_CHARS:
            self._pass_on(self._waiting)

    def flush(self) -> None:
        text = self._waiting
        if self._dropped_chars:
            text += f"\n[… {self._dropped_chars:,} characters left out …]\n"
            self._dropped_chars = 0
        self._pass_on(text)
        self._window_at = trio.current_time()
        self._given_chars = max(1, len(text))

    def _pass_on(self, text: str) -> None:
        self._waiting = ""
        if text:
            self._given_chars += len(text)
            self._give(text)


def _make_file(file: Path) -> int | None:
    try:
        return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None


def _write(fd: int, data: bytes) -> bool:
    """Write all of it. A failure closes the file, for whoever asked may be gone by then."""
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError:
        os.close(fd)
        return False
    return True
