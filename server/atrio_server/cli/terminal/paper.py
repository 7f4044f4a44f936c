"""Where rows and streamed text go: text to stdout, all else to stderr, line after line.

This is what files, pipes and terminals without a keyboard get. A terminal that
one can talk to gets a `Screen` instead, which has a place at the bottom that is
redrawn; `open_paper` chooses. Whatever is a terminal gets harmless text only.
"""

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from atrio_server.cli import output
from atrio_server.cli.terminal.rows import Row, coloured, harmless, plain, row

__all__ = ["Paper", "can_ask", "has_colours", "is_interactive", "open_paper"]


class Paper:
    """Prints, and takes nothing back."""

    redraws = False
    """Whether there is a place at the bottom for what is true just now."""

    @property
    def columns(self) -> int:
        """How wide what is redrawn may be."""
        return 80

    def __init__(self) -> None:
        self._colours = sys.stderr.isatty() and has_colours()
        self._is_terminal = sys.stderr.isatty()
        self._line_open = False

    def text(self, piece: str) -> None:
        """A piece of a result, at once."""
        if piece:
            output.print_text(piece)
            self._line_open = not piece.endswith("\n")

    def end_line(self) -> None:
        """Leave the line that text was printed on, if there is one."""
        if self._line_open:
            output.print_text("\n")
            self._line_open = False

    def rows(self, rows: Sequence[Row]) -> None:
        """Lines that stay."""
        self.end_line()
        self._write(rows)

    def aside(self, rows: Sequence[Row]) -> None:
        """Lines that stay, and do not belong to what is being said: a text that grows goes on after them."""
        if sys.stdout.isatty():
            self.end_line()
        self._write(rows)

    def say(self, sentence: str) -> None:
        """Progress or a notice."""
        self.aside([row((sentence, "dim"))])

    def live(self, rows: Sequence[Row]) -> None:
        """What goes on just now; shown only where it can be redrawn."""

    def prompt(self, rows: Sequence[Row], cursor: tuple[int, int] | None = None) -> None:  # noqa: ARG002 - a Screen's
        """What is asked just now; empty when nothing is. Here it is a line as any other."""
        if rows:
            self.rows(rows)

    def redraw(self) -> None:
        """The terminal has another size, or somebody else wrote on it."""

    def close(self) -> None:
        """Leave everything as a shell expects it."""
        self.end_line()

    def _write(self, rows: Sequence[Row]) -> None:
        sys.stderr.write("".join(self._shown(spans) + "\n" for spans in rows))
        sys.stderr.flush()

    def _shown(self, spans: Row) -> str:
        if not self._is_terminal:
            return plain(spans)
        clean = harmless(spans)
        return coloured(clean) if self._colours else plain(clean)


def has_colours() -> bool:
    """Whether a terminal is to get colours."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def can_ask() -> bool:
    """Whether a person is at the terminal, can be asked and can answer: none of a job in the background."""
    try:
        return sys.stdin.isatty() and sys.stderr.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (AttributeError, ValueError, OSError):  # a stream that is closed or missing
        return False


def is_interactive() -> bool:
    """Whether `can_ask`, and all output is on a terminal that can redraw."""
    return can_ask() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def open_paper(*, screen: bool) -> Generator[Paper]:
    """Paper for a command, and notices on it, until the block is left. ``screen``: a terminal is to be redrawn."""
    if screen:
        from atrio_server.cli.terminal.screen import Screen

        paper: Paper = Screen()
    else:
        paper = Paper()
    with output.notices_to(paper.say):
        try:
            yield paper
        finally:
            paper.close()
