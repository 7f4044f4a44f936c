"""`atrio` on a terminal: a real process on a real pty, and a small model of what the terminal shows.

The model knows what this project's commands send and refuses everything else, so
that no control code gets past the tests unseen. Waits are for text on the
screen, never for time.
"""

import codecs
import fcntl
import os
import re
import struct
import termios
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio
from rich.cells import cell_len

from atrio_process import COMMAND, LIMIT_S, Atrio

__all__ = ["Seat", "Shown", "all_shown", "on_terminal"]

_PIECE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|(\r|\n)|([^\x1b\r\n]+)")


class Shown:
    """What is on the screen, and what has scrolled away."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.height = columns, lines
        self.past: list[str] = []
        self.lines: list[list[str]] = [[]]
        self.at, self.column = 0, 0
        self.codes: set[str] = set()
        self._rest = ""

    def feed(self, text: str) -> None:
        """Take what the terminal is sent."""
        text = self._rest + text
        start = 0
        for piece in _PIECE.finditer(text):
            assert piece.start() == start, f"a code that nobody should send: {text[start : piece.start() + 9]!r}"
            start = piece.end()
            code, line_end, letters = piece[2], piece[3], piece[4]
            if code:
                self._code(code, piece[1])
            elif line_end == "\r":
                self.column = 0
            elif line_end:
                self._down()
            else:
                for letter in letters:
                    self._put(letter)
        self._rest = text[start:]
        assert len(self._rest) < 12, f"a code that nobody should send: {self._rest!r}"

    @property
    def text(self) -> str:
        """All lines, those that scrolled away first."""
        return "\n".join([*self.past, *("".join(line).rstrip() for line in self.lines)])

    def _code(self, code: str, number: str) -> None:
        count = int(number) if number.isdecimal() else 1
        match code:
            case "A":
                self.at = max(self.at - count, 0)
            case "C":
                self.column = min(self.column + count, self.columns - 1)
            case "J":
                assert number == "", "only what is below the cursor is ever wiped"
                self.lines[self.at] = self.lines[self.at][: self.column]
                del self.lines[self.at + 1 :]
            case "m":
                self.codes.add(number)
            case "h" | "l":
                assert number == "?2004"
            case _:
                raise AssertionError(f"a code that nobody should send: {number}{code}")

    def _down(self) -> None:
        self.at += 1
        if self.at == len(self.lines):
            self.lines.append([])
        if len(self.lines) > self.height:
            self.past.append("".join(self.lines.pop(0)).rstrip())
            self.at -= 1

    def _put(self, letter: str) -> None:
        assert letter.isprintable() or letter == "\N{REPLACEMENT CHARACTER}", f"no text: {letter!r}"
        wide = cell_len(letter)
        if self.column + wide > self.columns:
            self.column = 0
            self._down()
        line = self.lines[self.at]
        line += [" "] * (self.column - len(line))
        line[self.column : self.column + wide] = [letter] + [""] * (wide - 1)
        self.column += wide


class Seat:
    """Somebody in front of a terminal."""

    def __init__(self, process: trio.Process, fd: int, shown: Shown, usual_mode: int) -> None:
        self.process = process
        self.shown = shown
        self.usual_mode = usual_mode
        """The `mode` before the command had the terminal."""
        self._fd = fd
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end within a character

    async def see(self, wanted: str | Callable[[str], bool]) -> str:
        """Wait until this is on the screen (or was), and give all that is."""
        while not (wanted in self.shown.text if isinstance(wanted, str) else wanted(self.shown.text)):
            assert await self._read(), f"the command ended; on the screen: {self.shown.text}"
        return self.shown.text

    def type(self, keys: str) -> None:
        """Type."""
        os.write(self._fd, keys.encode())

    def mode(self) -> int:
        """The flags of the terminal that say whether lines are edited and echoed."""
        return _mode_of(self._fd)

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size. What it shows is not reflowed here."""
        self.shown.columns, self.shown.height = columns, lines
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    async def end(self) -> int:
        """Wait for the command's end; gives its exit code."""
        while await self._read():
            pass
        return await self.process.wait()

    async def _read(self) -> bool:
        await trio.lowlevel.wait_readable(self._fd)
        try:
            data = os.read(self._fd, 65_536)
        except OSError:  # nobody has the other end any more
            return False
        self.shown.feed(self._decoder.decode(data))
        return bool(data)


def _mode_of(fd: int) -> int:
    return int(termios.tcgetattr(fd)[3])


def all_shown(fd: int) -> str:
    """All that has been written to a terminal that nobody has open any more; the system hands it over in pieces."""
    shown = b""
    try:
        while data := os.read(fd, 65_536):
            shown += data
    except OSError:  # that was all
        pass
    return shown.decode()


@asynccontextmanager
async def on_terminal(
    atrio: Atrio, *words: str, columns: int = 80, lines: int = 24, within_s: float = LIMIT_S, **environ: str
) -> AsyncGenerator[Seat]:
    """Run a command on a terminal of its own; whatever is left of it at the end is killed."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    usual_mode = _mode_of(theirs)
    # The terminal becomes the one of a session of its own, as it is for a shell's job in the foreground.
    script = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    process = await trio.lowlevel.open_process(
        [COMMAND[0], "-S", "-c", script, *COMMAND, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=atrio.directory,
        env=atrio.environ | {"TERM": "xterm"} | environ,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        with trio.fail_after(within_s):
            await trio.lowlevel.checkpoint()
            yield Seat(process, ours, Shown(columns, lines), usual_mode)
    finally:
        process.kill()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await process.wait()
        os.close(ours)
