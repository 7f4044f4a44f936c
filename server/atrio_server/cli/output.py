"""Results to stdout, everything else to stderr.

What comes from a model or a tool may hold control characters. On a terminal
those could move the cursor, rewrite what is there or worse, so there they are
made visible; into a file or a pipe the text goes as it is. Colours and tables
are for terminals only.

Text that a reader of our output does not take (`| head`) ends the command
quietly, in `atrio_server.cli.app`.
"""

import os
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final, TextIO, TypeVar

import msgspec

from atrio_server.cli.terminal.clean import visible

__all__ = [
    "is_terminal",
    "moment",
    "notices_to",
    "print_json",
    "print_list",
    "print_result",
    "print_rows",
    "print_text",
    "say",
]

T = TypeVar("T")

LAST_COLUMN: Final = 20
"""What a table's last column has at least; a terminal that is narrower breaks the lines itself."""

_DIM: Final = "\x1b[2m{}\x1b[0m"

_taker: list[Callable[[str], None] | None] = [None]
"""Who gets what is said; nobody in particular is stderr."""


def is_terminal(stream: TextIO) -> bool:
    """Whether a person may be reading this."""
    return stream.isatty()


def print_text(text: str) -> None:
    """A piece of a result, at once and without a line end."""
    sys.stdout.write(visible(text) if is_terminal(sys.stdout) else text)
    sys.stdout.flush()


def print_result(text: str) -> None:
    """A whole result, with a line end unless it has one."""
    print_text(text if text.endswith("\n") else text + "\n")


def print_json(thing: object, **more: str) -> None:
    """A JSON object on one line, with further members after its own."""
    line = msgspec.json.encode(thing)
    for name, value in more.items():
        line = b"%b,%b:%b}" % (line[:-1], msgspec.json.encode(name), msgspec.json.encode(value))
    sys.stdout.flush()
    sys.stdout.buffer.write(line + b"\n")  # UTF-8, whatever the terminal's encoding is
    sys.stdout.buffer.flush()


def print_list(things: Iterable[T], heads: Sequence[str], row: Callable[[T], Sequence[str]], *, as_json: bool) -> None:
    """Things as they are, one JSON object a line, or each as a row of a table."""
    if as_json:
        for thing in things:
            print_json(thing)
    else:
        print_rows(heads, map(row, things))


def print_rows(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table for people; one line a row with tabs between for programs."""
    if not is_terminal(sys.stdout):
        for row in rows:
            sys.stdout.write("\t".join(" ".join(cell.split()) for cell in row) + "\n")
        sys.stdout.flush()
        return
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[visible(" ".join(cell.split())) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    fixed = 0
    for index, head in enumerate(heads[:-1]):  # what one copies, such as an id, is never cut: only the last gives way
        width = max([cell_len(head), *(cell_len(row[index]) for row in cells)])
        table.add_column(head, no_wrap=True, min_width=width)
        fixed += width + 1
    table.add_column(heads[-1])
    for row in cells:
        table.add_row(*map(Text, row))
    console = Console(emoji=False, highlight=False)
    console.width = max(console.width, fixed + LAST_COLUMN)
    console.print(table)


def moment(time: str) -> str:
    """A time of the wire: short and local for people, as it is for programs."""
    if not is_terminal(sys.stdout):
        return time
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M")


@contextmanager
def notices_to(take: Callable[[str], None]) -> Generator[None]:
    """Give what is said to somebody who knows what else is on the terminal, until the block is left."""
    before = _taker[0]
    _taker[0] = take
    try:
        yield
    finally:
        _taker[0] = before


def say(sentence: str) -> None:
    """Progress, a notice or an error: a line on stderr."""
    take = _taker[0]
    if take is not None:
        take(sentence)
        return
    stderr = sys.stderr
    if not is_terminal(stderr):
        stderr.write(sentence + "\n")
    elif os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        stderr.write(visible(sentence) + "\n")
    else:
        stderr.write(_DIM.format(visible(sentence)) + "\n")
    stderr.flush()
