"""Text from models, tools and files, made harmless for a terminal.

Control characters could move the cursor, rewrite what is there, set the clipboard
or turn a name round, so none but a line end and a tab ever reaches one. Which
text goes to a terminal at all is decided by who prints it.
"""

import re
from typing import Final

__all__ = ["flat", "stripped", "visible"]

_CONTROLS: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
)
_SEQUENCES: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and cursor moves
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles, clipboards, what a terminal is to keep
    r"|\x1b[ -/]*[0-~]"
)


def visible(text: str) -> str:
    """The text with each control character replaced by one that shows that there was one."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def stripped(text: str) -> str:
    """The output of a program, as it stands in the end: without colours, a line that it rewrote as it was last."""
    lines = _SEQUENCES.sub("", text.replace("\r\n", "\n")).split("\n")
    return visible("\n".join(line.rstrip("\r").rpartition("\r")[2].expandtabs(4) for line in lines))


def flat(text: str, *, max_chars: int = 300) -> str:
    """The text on one line, cut if it is long."""
    line = " ".join(text[: 4 * max_chars].split())
    return line if len(line) <= max_chars and len(text) <= 4 * max_chars else line[: max_chars - 1] + "…"
