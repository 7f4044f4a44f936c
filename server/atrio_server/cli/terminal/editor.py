"""A line editor: keys in, a text and where the cursor is in it out.

It does no I/O, so it can be tried with strings. Several lines are one text:
Alt-Enter, a backslash before Enter, or a paste put line ends into it. Keys that
it does not know do nothing, and never end up in the text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from rich.cells import cell_len

from atrio_server.cli.terminal.clean import visible
from atrio_server.cli.terminal.rows import Row, row

__all__ = ["Editor", "Entered", "Left"]

LONGEST_PASTE: Final = 1_000_000
SHOWN_CHARS: Final = 4_000
"""How much before and behind the cursor is looked at for showing it: a paste may be long."""
MAX_ROWS: Final = 10
"""How many rows the text may take on the screen; the rest is there and scrolls."""

_KEY: Final = re.compile(r"\x1b\[200~|\x1b\[[0-9;]*[@-~]|\x1bO.|\x1b[^\[O]|[^\x1b]", re.DOTALL)
_UNFINISHED: Final = re.compile(r"\x1b(?:\[[0-9;]*|O)?\Z")
PASTE_END: Final = "\x1b[201~"

_NAMES: Final = {
    "\x1b[D": "left",
    "\x1bOD": "left",
    "\x02": "left",
    "\x1b[C": "right",
    "\x1bOC": "right",
    "\x06": "right",
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x10": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x0e": "down",
    "\x1b[H": "home",
    "\x1bOH": "home",
    "\x1b[1~": "home",
    "\x01": "home",
    "\x1b[F": "end",
    "\x1bOF": "end",
    "\x1b[4~": "end",
    "\x05": "end",
    "\x1b[1;5D": "word left",
    "\x1bb": "word left",
    "\x1b[1;5C": "word right",
    "\x1bf": "word right",
    "\x7f": "rub out",
    "\x08": "rub out",
    "\x1b[3~": "delete",
    "\x17": "rub out word",
    "\x1b\x7f": "rub out word",
    "\x15": "rub out line",
    "\x0b": "cut rest",
    "\x0c": "redraw",
    "\n": "enter",
    "\r": "enter",
    "\x1b\n": "line end",
    "\x1b\r": "line end",
    "\x04": "ctrl-d",
    "\t": "tab",
}


@dataclass(frozen=True, slots=True)
class Entered:
    """A text that was ended with Enter."""

    text: str


@dataclass(frozen=True, slots=True)
class Left:
    """Ctrl-D on an empty line."""


class Editor:
    """One text that is being typed, and those before it."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.wants_redraw = False
        """Ctrl-L was typed."""
        self._pending = ""
        self._pasting: list[str] | None = None
        self._history: list[str] = []
        self._place = 0
        self._draft = ""

    def feed(self, typed: str) -> Iterator[Entered | Left]:
        """Take what was typed; gives each text that was ended with Enter, in order."""
        typed, self._pending = self._pending + typed, ""
        while typed:
            if self._pasting is not None:
                typed = self._paste(typed)
                continue
            if _UNFINISHED.match(typed):
                self._pending = typed
                return
            key = _KEY.match(typed)
            if key is None:  # half a code that will never be whole
                typed = typed[1:]
                continue
            typed = typed[key.end() :]
            if key[0] == "\x1b[200~":
                self._pasting = []
                continue
            done = self._key(key[0])
            if done is not None:
                yield done

    def clear(self) -> None:
        """Drop the text."""
        self.text, self.at, self._place = "", 0, len(self._history)

    def rows(self, columns: int, label: str = "> ") -> tuple[list[Row], tuple[int, int]]:
        """The text behind its label, broken to the width, and where the cursor is in that (row, column)."""
        room = max(columns - len(label) - 1, 1)
        lines: list[str] = [""]
        width = 0
        cursor = (0, 0)
        start = max(self.at - SHOWN_CHARS, 0)
        for index, letter in enumerate(self.text[start : self.at + SHOWN_CHARS] + " ", start):
            shown = letter if letter == "\n" else visible(letter.replace("\t", " "))
            cells = cell_len(shown)
            if letter != "\n" and width + cells > room:
                lines.append("")
                width = 0
            if index == self.at:
                cursor = (len(lines) - 1, width)
            if letter == "\n":
                lines.append("")
                width = 0
            else:
                lines[-1] += shown
                width += cells
        first = min(max(cursor[0] - MAX_ROWS + 1, 0), max(len(lines) - MAX_ROWS, 0))
        rows = [
            row((label if number == 0 else " " * len(label), "accent"), line.rstrip(" ") or " ")
            for number, line in enumerate(lines)
        ][first : first + MAX_ROWS]
        return rows, (cursor[0] - first, cursor[1] + len(label))

    def _paste(self, typed: str) -> str:
        assert self._pasting is not None
        pasted = "".join(self._pasting) + typed
        text, end, rest = pasted.partition(PASTE_END)
        if not end:
            self._pasting = [pasted]
            return ""
        self._pasting = None
        self._insert(text[:LONGEST_PASTE].replace("\r\n", "\n").replace("\r", "\n"))
        return rest

    def _key(self, key: str) -> Entered | Left | None:
        name = _NAMES.get(key)
        match name:
            case None:
                if len(key) == 1 and (key.isprintable() or key == "\u200d"):
                    self._insert(key)
            case "tab":
                self._insert("  ")
            case "enter":
                if self.text[: self.at].endswith("\\"):
                    self._cut(self.at - 1, self.at)
                    self._insert("\n")
                else:
                    return self._enter()
            case "line end":
                self._insert("\n")
            case "ctrl-d":
                if not self.text:
                    return Left()
                self._cut(self.at, self.at + 1)
            case "redraw":
                self.wants_redraw = True
            case "up" | "down":
                self._vertical(-1 if name == "up" else 1)
            case _:
                self._move_or_cut(name)
        return None

    def _move_or_cut(self, name: str) -> None:
        line = self.text.rfind("\n", 0, self.at) + 1
        line_end = self.text.find("\n", self.at)
        line_end = len(self.text) if line_end < 0 else line_end
        match name:
            case "left":
                self.at = max(self.at - 1, 0)
            case "right":
                self.at = min(self.at + 1, len(self.text))
            case "home":
                self.at = line
            case "end":
                self.at = line_end
            case "word left":
                self.at = self._word(-1)
            case "word right":
                self.at = self._word(1)
            case "rub out":
                self._cut(self.at - 1, self.at)
            case "delete":
                self._cut(self.at, self.at + 1)
            case "rub out word":
                self._cut(self._word(-1), self.at)
            case "rub out line":
                self._cut(line, self.at)
            case _:
                self._cut(self.at, line_end)

    def _word(self, way: Literal[-1, 1]) -> int:
        at = self.at
        for wanted in (False, True):  # first what is between words, then the word
            while 0 <= (place := at if way == 1 else at - 1) < len(self.text) and self.text[place].isalnum() is wanted:
                at += way
        return at

    def _insert(self, text: str) -> None:
        self.text = self.text[: self.at] + text + self.text[self.at :]
        self.at += len(text)

    def _cut(self, start: int, end: int) -> None:
        start, end = max(start, 0), min(end, len(self.text))
        if start < end:
            self.text = self.text[:start] + self.text[end:]
            self.at = start

    def _vertical(self, by: int) -> None:
        line = self.text.rfind("\n", 0, self.at) + 1
        if by < 0 and line > 0:
            before = self.text.rfind("\n", 0, line - 1) + 1
            self.at = min(before + self.at - line, line - 1)
            return
        line_end = self.text.find("\n", self.at)
        if by > 0 and line_end >= 0:
            after_end = self.text.find("\n", line_end + 1)
            self.at = min(line_end + 1 + self.at - line, len(self.text) if after_end < 0 else after_end)
            return
        place = self._place + by
        if not 0 <= place <= len(self._history):
            return
        if self._place == len(self._history):
            self._draft = self.text
        self._place = place
        self.text = self._draft if place == len(self._history) else self._history[place]
        self.at = len(self.text)

    def _enter(self) -> Entered:
        text = self.text
        if text.strip() and (not self._history or self._history[-1] != text):
            self._history.append(text)
        self.clear()
        self._draft = ""
        return Entered(text)
