"""A change to a file, as rows.

The server made the diff; here it is only coloured and bounded. What is left out
is counted, so that nobody takes a part for the whole.
"""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final

from atrio_protocol.parts import Diff
from atrio_server.cli.terminal.rows import Row, Span, Style, row

__all__ = ["counts", "diff_rows", "short_path"]

_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@")

_STYLES: Final[dict[str, Style]] = {"+": "good", "-": "bad", "\\": "dim"}


def diff_rows(diff: Diff, *, directory: str = "", max_lines: int = 40) -> list[Row]:
    """The path with what came and went, and the changed lines with their numbers, at most ``max_lines`` of them."""
    added, removed = counts(diff)
    head: list[Span] = [("  ", ""), (short_path(diff.path, directory), "strong"), (f" +{added}", "good")]
    head.append((f" -{removed}", "bad") if diff.old_text is not None else ("  new file", "dim"))
    rows = [row(*head)]
    lines = list(_numbered(_body(diff)))
    for number, sign, text in lines[:max_lines]:
        style = _STYLES.get(sign, "")
        if sign == "@":
            rows.append(row("  ", ("   ⋮", "dim")))
        else:
            rows.append(row("  ", (f"{number:>4} ", "dim"), (f"{sign} {text}".rstrip(), style)))
    if len(lines) > max_lines:
        rows.append(row("  ", (f"     … {len(lines) - max_lines} more lines", "dim")))
    return rows


def counts(diff: Diff) -> tuple[int, int]:
    """How many lines came and went."""
    lines = _body(diff)
    return sum(line.startswith("+") for line in lines), sum(line.startswith("-") for line in lines)


def short_path(path: str, directory: str) -> str:
    """The path as seen from a directory, if it is in there."""
    at = PurePosixPath(path)
    if directory and at.is_relative_to(directory):
        return str(at.relative_to(directory))
    return path


def _body(diff: Diff) -> list[str]:
    """The lines from the first hunk on."""
    lines = diff.unified.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    first = next((index for index, line in enumerate(lines) if line.startswith("@@")), len(lines))
    return lines[first:]


def _numbered(lines: Iterable[str]) -> Iterable[tuple[str, str, str]]:
    """Each line with its number (the old one where it went), its sign and its text. The first hunk needs no mark."""
    old = new = 0
    is_first = True
    for line in lines:
        if hunk := _HUNK.match(line):
            old, new = int(hunk[1]), int(hunk[2])
            if not is_first:
                yield "", "@", ""
            is_first = False
            continue
        sign, text = line[:1] or " ", line[1:]
        match sign:
            case "+":
                yield str(new), sign, text
                new += 1
            case "-":
                yield str(old), sign, text
                old += 1
            case " ":
                yield str(new), sign, text
                old, new = old + 1, new + 1
            case _:
                yield "", sign, text
