"""Rows: lines that know what their pieces mean, not yet how they look.

What is shown is made here and in the modules that are about one thing each
(tools, diffs, questions); a `Paper` prints rows with or without colours. The
colours are the terminal's own sixteen, so that they can be read on a light and a
dark ground, and nothing is said by colour alone.
"""

from collections.abc import Iterable
from typing import Final, Literal

from atrio_protocol.things import Todo
from atrio_server.cli.terminal.clean import flat, visible

__all__ = ["Row", "Span", "Style", "coloured", "harmless", "indented", "plain", "row", "todo_rows"]

Style = Literal["", "dim", "good", "bad", "warn", "strong", "accent"]
Span = tuple[str, Style]
Row = tuple[Span, ...]

_CODES: Final[dict[Style, str]] = {
    "dim": "2",
    "good": "32",
    "bad": "31",
    "warn": "33",
    "strong": "1",
    "accent": "36",
}


def row(*spans: str | Span) -> Row:
    """A row of pieces; one without a style is plain."""
    return tuple((span, "") if isinstance(span, str) else span for span in spans if span and span[0])


def indented(text: str, style: Style = "", *, by: str = "  ") -> list[Row]:
    """One row a line."""
    return [row(by, (line, style)) for line in text.split("\n")]


def harmless(spans: Row) -> Row:
    """The row as a terminal may have it: on one line, without control characters."""
    return tuple((visible(text.replace("\n", " ").expandtabs(4)), style) for text, style in spans)


def plain(spans: Row) -> str:
    """The row's text."""
    return "".join(text for text, _ in spans)


def coloured(spans: Row) -> str:
    """The row with the terminal's codes. Its text must be harmless already."""
    return "".join(f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style else text for text, style in spans)


def todo_rows(todos: Iterable[Todo]) -> list[Row]:
    """A list of things to do, with how far it has come."""
    listed = list(todos)
    if not listed:
        return []
    done = sum(todo.status == "completed" for todo in listed)
    rows = [row((f"to do, {done} of {len(listed)} done", "strong"))]
    for todo in listed:
        match todo.status:
            case "completed":
                rows.append(row("  ", ("✓ ", "good"), (flat(todo.content), "dim")))
            case "in_progress":
                rows.append(row("  ", ("▸ ", "accent"), flat(todo.content)))
            case _:
                rows.append(row("  ", ("· ", "dim"), flat(todo.content)))
    return rows
