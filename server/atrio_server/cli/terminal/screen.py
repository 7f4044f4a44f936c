"""A terminal whose last rows are redrawn while the lines above them stay.

At the bottom are, from top to bottom: the line of text that is still growing,
what goes on just now, and what is asked or typed. Everything above was written
once, with its own line ends, so that it can be scrolled back and copied.

The invariant: the cursor is always in the bottom part, and how many rows of it
are above the cursor is known; so that part can be wiped and written anew at any
time, whatever was typed and however wide the terminal has become.
"""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

from rich.cells import cell_len

from atrio_server.cli.terminal.clean import visible
from atrio_server.cli.terminal.paper import Paper, has_colours
from atrio_server.cli.terminal.rows import Row, Span, coloured, harmless, plain, row

__all__ = ["Screen", "cut_row", "folded_row", "wrapped"]

TAB: Final = 4
ROWS_LEFT: Final = 2
"""Rows of a terminal that the bottom part never takes."""

_LEAD: Final = re.compile(r" *(?:\d+ )?(?:[^\w\s] )?")
"""What stands before a row's text: room, the number of a line, a mark."""


class Screen(Paper):
    """Prints above, redraws below."""

    redraws = True

    def __init__(self) -> None:
        super().__init__()
        self._colours = has_colours()
        self._growing = ""
        self._live: list[Row] = []
        self._prompt: list[Row] = []
        self._cursor: tuple[int, int] | None = None
        self._drawn: list[int] = []
        """The widths of the rows of the bottom part, in cells."""
        self._cursor_at = 0
        """Which of them the cursor is in."""
        self._last: str | None = None
        """The kind of what was written last; empty for a blank line, None for nothing."""

    def text(self, piece: str) -> None:
        """A piece of a result: whole lines go above, the rest grows below."""
        if not piece:
            return
        *lines, self._growing = (self._growing + visible(piece).expandtabs(TAB)).split("\n")
        if lines:
            self._write_above(lines, "text")
        else:
            self._redraw()

    def end_line(self) -> None:
        """Leave the line that text was printed on, if there is one."""
        if self._growing:
            line, self._growing = self._growing, ""
            self._write_above([line], "text")

    def rows(self, rows: Sequence[Row]) -> None:
        """Lines that stay."""
        self.end_line()
        self.aside(rows)

    def aside(self, rows: Sequence[Row]) -> None:
        """Lines that stay; a line that grows goes on growing below them."""
        if rows:
            lines = [self._shown(line) for spans in rows for line in folded_row(spans, self.columns)]
            self._write_above(lines, "rows")

    def live(self, rows: Sequence[Row]) -> None:
        """What goes on just now."""
        if list(rows) != self._live:
            self._live = list(rows)
            self._redraw()

    def prompt(self, rows: Sequence[Row], cursor: tuple[int, int] | None = None) -> None:
        """What is asked or typed just now, and where in it the cursor is (row, column)."""
        if (list(rows), cursor) != (self._prompt, self._cursor):
            self._prompt, self._cursor = list(rows), cursor
            self._redraw()

    def redraw(self) -> None:
        """The terminal has another size, or somebody else wrote on it."""
        self._redraw()

    def close(self) -> None:
        """Wipe the bottom part; what is above stays."""
        self._live, self._prompt, self._cursor = [], [], None
        self.end_line()
        self._redraw()

    @property
    def columns(self) -> int:
        """How wide the terminal is."""
        return max(_size()[0], 10)

    def _write_above(self, lines: Sequence[str], kind: str) -> None:
        # Text and what was done stand apart, by one blank line.
        gap = "\n" if self._last not in (None, "", kind) and lines[0].strip() else ""
        self._last = kind if lines[-1].strip() else ""
        wiped = self._wiped()  # what was drawn, so before it is drawn anew
        below, up = self._below()
        self._put(wiped + gap + "".join(f"{line}\n" for line in lines) + below + up)

    def _redraw(self) -> None:
        if not self._drawn and not (self._growing or self._live or self._prompt):
            return
        wiped = self._wiped()
        below, up = self._below()
        self._put(wiped + below + up)

    def _wiped(self) -> str:
        """Codes that take the cursor to where the bottom part began, and clear all from there."""
        columns = self.columns
        # A terminal that became narrower has broken the rows that are too wide for it now.
        above = sum(max(1, -(-width // columns)) for width in self._drawn[: self._cursor_at])
        return "\r" + (f"\x1b[{above}A" if above else "") + "\x1b[J"

    def _below(self) -> tuple[str, str]:
        """The bottom part, and the codes that take the cursor to its place in it. Remembers what it drew."""
        columns, lines = self.columns, _size()[1]
        most = max(lines - ROWS_LEFT, 3)
        prompt = [cut_row(spans, columns - 1) for spans in self._prompt][-most:]
        live = [cut_row(spans, columns - 1) for spans in self._live][-max(most - len(prompt), 0) :]
        room = max(most - len(prompt) - len(live), 1)
        growing = [row(line) for line in wrapped(self._growing, columns)][-room:] if self._growing else []
        drawn = [*growing, *live, *prompt]
        self._drawn = [cell_len(plain(spans)) for spans in drawn]
        if not drawn:
            self._cursor_at = 0
            return "", ""
        self._cursor_at = len(drawn) - 1
        text = "\n".join(self._shown(spans) for spans in drawn)
        if self._cursor is None or not prompt:
            return text, ""
        at = len(drawn) - len(prompt) + min(self._cursor[0], len(prompt) - 1)
        up = len(drawn) - 1 - at
        self._cursor_at = at
        column = min(self._cursor[1], columns - 1)
        return text, "\r" + (f"\x1b[{up}A" if up else "") + (f"\x1b[{column}C" if column else "")

    def _shown(self, spans: Row) -> str:
        clean = harmless(spans)
        return coloured(clean) if self._colours else plain(clean)

    def _put(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def wrapped(text: str, columns: int) -> list[str]:
    """The text in lines of at most so many cells, broken where a terminal would."""
    lines: list[str] = []
    line: list[str] = []
    width = 0
    for letter in text:
        cells = cell_len(letter)
        if width + cells > columns:
            lines.append("".join(line))
            line, width = [], 0
        line.append(letter)
        width += cells
    return [*lines, "".join(line)]


def folded_row(spans: Row, columns: int) -> list[Row]:
    """The row in lines of at most so many cells, broken between words if may be; what follows stands under its text."""
    clean = harmless(spans)
    text = plain(clean)
    if cell_len(text) <= columns:
        return [clean]
    lead = _LEAD.match(text)
    indent = min(len(lead[0]) if lead else 0, columns // 3)
    letters: list[Span] = [(letter, style) for piece, style in clean for letter in piece]
    lines: list[Row] = []
    while letters:
        room = columns - (indent if lines else 0)
        fits = len(wrapped("".join(letter for letter, _ in letters), room)[0])
        at = fits
        if fits < len(letters):
            # A word that is long itself, such as a path, is broken where a terminal would.
            space = next((index for index in range(fits, room // 2, -1) if letters[index][0] == " "), None)
            at = fits if space is None else space
        line, letters = letters[:at], letters[at:]
        while letters and letters[0][0] == " ":
            del letters[0]
        same = (("".join(letter for letter, _ in some), style) for style, some in groupby(line, itemgetter(1)))
        lines.append((*(((" " * indent, ""),) if lines and indent else ()), *same))
    return lines


def cut_row(spans: Row, columns: int) -> Row:
    """The row in at most so many cells; a mark shows that it was cut."""
    clean = harmless(spans)
    if cell_len(plain(clean)) <= columns:
        return clean
    kept: list[Span] = []
    left = columns - 1
    for text, style in clean:
        piece = wrapped(text, left)[0] if left > 0 else ""
        kept.append((piece, style))
        left -= cell_len(piece)
        if piece != text:
            break
    return (*kept, ("…", "dim"))


def _size() -> tuple[int, int]:
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return shutil.get_terminal_size()
    return (size.columns or 80, size.lines or 24)
