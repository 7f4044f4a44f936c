"""Text for the model: bounded, one line where one line is meant, always valid.

Cuts are made between code points and say how much is missing; nothing is
shortened silently. Names of files come from the file system as they are, with
bytes that are no UTF-8 and characters that would start a new line; `shown`
makes them fit for one. Contents of files are not touched by it.
"""

import re
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["MAX_OUTPUT_CHARS", "MAX_TITLE_CHARS", "Bounded", "bounded", "counted", "cut_line", "shown", "shown_path"]

MAX_OUTPUT_CHARS: Final = 30_000
"""Code points of one tool result, unless the tool says otherwise."""

MAX_TITLE_CHARS: Final = 120

_MARKER_CHARS: Final = 60
_UNSHOWABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Bounded(NamedTuple):
    """A text within its limit, and how many code points were left out to get there."""

    text: str
    left_out: int


def bounded(text: str, *, max_chars: int = MAX_OUTPUT_CHARS) -> Bounded:
    """Keep head and tail of a text; a line between them says how much is missing.

    Args:
        text: The whole text.
        max_chars: Limit on the result in code points, the marker line included. At least 100.
    """
    if len(text) <= max_chars:
        return Bounded(text, 0)
    kept = max_chars - _MARKER_CHARS
    tail = kept // 2
    head = kept - tail
    left_out = len(text) - kept
    return Bounded(f"{text[:head]}\n[… {left_out:,} characters left out …]\n{text[-tail:]}", left_out)


def cut_line(line: str, *, max_chars: int, size_bytes: int) -> str:
    """Keep the beginning of a line; at its end is said that there was more.

    Args:
        line: The line, or at least more of it than ``max_chars``.
        max_chars: How much of it is kept, in code points.
        size_bytes: The size of the whole line.
    """
    return line if len(line) <= max_chars else f"{line[:max_chars]} [… cut: the line has {size_bytes:,} bytes]"


def shown(name: str, *, max_chars: int | None = None) -> str:
    """A name or pattern as a piece of one line, with what has no place there escaped.

    Args:
        name: As the file system or the model gave it.
        max_chars: Where to cut, for titles; never, if None.
    """
    text = _UNSHOWABLE.sub(_escape, name)
    return text if max_chars is None or len(text) <= max_chars else text[: max_chars - 1] + "…"


def shown_path(path: Path, root: Path) -> str:
    """A path as the model may give it back: relative where it is in the workspace."""
    return shown(str(path.relative_to(root) if path.is_relative_to(root) else path))


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """``1 line``, ``2,000 lines``."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return repr(match[0])[1:-1]
    return f"\\u{code:04x}"
