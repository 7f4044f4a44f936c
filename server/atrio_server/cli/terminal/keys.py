"""The keyboard: single keys without echo, read without blocking anybody.

The terminal's mode is changed while a `Keyboard` is open and put back on every
way out. Ctrl-C stays a signal. Reading never makes the terminal non-blocking:
that flag is shared with stdout, and with whoever has the terminal afterwards.
"""

import codecs
import os
import sys
import termios
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import trio

__all__ = ["Keyboard", "open_keyboard", "read_input"]

CHUNK_BYTES: Final = 4_096


class Keyboard:
    """Made by `open_keyboard`."""

    def __init__(self, fd: int, *, pastes: bool) -> None:
        self._fd = fd
        self._pastes = pastes
        self._before = termios.tcgetattr(fd)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.resume()

    def resume(self) -> None:
        """Take the terminal's mode (again, after a stop)."""
        mode = termios.tcgetattr(self._fd)
        mode[3] &= ~(termios.ICANON | termios.ECHO)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._fd, termios.TCSADRAIN, mode)
        if self._pastes:
            self._write("\x1b[?2004h")

    def close(self) -> None:
        """Put the mode back."""
        if self._pastes:
            self._write("\x1b[?2004l")
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def drop_typed(self) -> None:
        """Forget what was typed so far: it was not meant as an answer to what is asked now."""
        termios.tcflush(self._fd, termios.TCIFLUSH)
        self._decoder.reset()

    async def read(self) -> str:
        """What is typed next; empty when the terminal is gone."""
        return await read_input(self._fd, self._decoder)

    @staticmethod
    def _write(codes: str) -> None:
        sys.stdout.write(codes)
        sys.stdout.flush()


@contextmanager
def open_keyboard(*, pastes: bool = False) -> Generator[Keyboard]:
    """Read keys from the terminal until the block is left. ``pastes``: it shall mark what is pasted."""
    keyboard = Keyboard(sys.stdin.fileno(), pastes=pastes)
    try:
        yield keyboard
    finally:
        keyboard.close()


async def read_input(fd: int, decoder: codecs.IncrementalDecoder) -> str:
    """Read the next text of a terminal, a pipe or a file; empty at its end."""
    while True:
        try:
            await trio.lowlevel.wait_readable(fd)
        except OSError:  # a file: it never makes anybody wait, and cannot be waited for
            await trio.lowlevel.checkpoint()
        try:
            data = os.read(fd, CHUNK_BYTES)
        except OSError:  # the terminal was hung up
            return ""
        text = decoder.decode(data, final=not data)
        if text or not data:
            return text
